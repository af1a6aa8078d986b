"""A file for each speaker of a dialogue: whose samples, how long, which models and which names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from complaints import user_error
from fakes import fake_models
from generation import (
    DIALOGUE,
    RELEASE,
    TEXT1,
    TEXT2,
    WAV1,
    WAV2,
    command,
    made,
    one_line,
    prompt_flags,
    read_wav,
    run_main,
    write_list,
)

import zipvoice_jax
from zipvoice_jax.checkpoint import hub
from zipvoice_jax.infer.synthesizer import Synthesizer
from zipvoice_jax.infer.tracks import track_paths, tracks_of
from zipvoice_jax.infer.turns import Turn

TWO: dict[str, Any] = dict(prompt_wav=[WAV1, WAV2], prompt_text=[TEXT1, TEXT2])
RATE = 24_000


@pytest.fixture(scope="module")
def dialog() -> Iterator[Synthesizer]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake_models(monkeypatch)
        yield zipvoice_jax.load(RELEASE / "zipvoice_dialog")


def test_one_channel_is_shared_out_by_turns() -> None:
    turns = (Turn("S1", 0.0, 1.0), Turn("S2", 1.0, 2.0), Turn("S2", 2.5, 3.0), Turn("S1", 3.0, 3.9))
    wave = np.random.default_rng(0).normal(0.0, 0.1, (1, 4 * RATE)).astype(np.float32)
    first, second = tracks_of(wave, turns, RATE)
    assert first.shape == second.shape == wave.shape
    np.testing.assert_allclose(first + second, wave, atol=1e-6)

    def alone(one: np.ndarray, other: np.ndarray, begin: float, end: float) -> None:
        span = slice(round(RATE * begin), round(RATE * end))
        np.testing.assert_array_equal(one[:, span], wave[:, span])
        assert not other[:, span].any()

    alone(first, second, 0.0, 0.989)
    alone(second, first, 1.011, 2.989)
    alone(first, second, 3.011, 4.0)
    near = first[0, round(0.989 * RATE) : round(1.011 * RATE)] / wave[0, 23_736:24_264]
    assert (np.diff(near) <= 1e-6).all() and 0.4 < near[len(near) // 2] < 0.6, "no fade"


def test_two_channels_are_the_tracks() -> None:
    wave = np.random.default_rng(0).normal(0.0, 0.1, (2, 100)).astype(np.float32)
    for track, channel in zip(tracks_of(wave, (), RATE), wave, strict=True):
        np.testing.assert_array_equal(track, channel[None])
    with user_error("dialogue"):
        tracks_of(wave[:1], (Turn("", 0.0, 1.0),), RATE)


def test_tracks_of_a_dialogue_with_a_pause(dialog: Synthesizer) -> None:
    speech = dialog.generate("[S1] Good morning. [pause 1s] [S2] Hello, you two.", **TWO)
    first, second = speech.tracks()
    spoken = [np.flatnonzero(track[0]) for track in (first, second)]
    assert spoken[0][0] == 0 and spoken[1][-1] == speech.wave.shape[1] - 1
    assert spoken[1][0] - spoken[0][-1] == RATE + 1
    np.testing.assert_array_equal(first + second, speech.wave)


def test_names_of_tracks() -> None:
    assert track_paths(Path("a/b.c.flac")) == (Path("a/b.c.s1.flac"), Path("a/b.c.s2.flac"))


@pytest.mark.parametrize("kind", ["zipvoice_dialog", "zipvoice_dialog_stereo"])
def test_the_command_writes_tracks(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_models(monkeypatch)
    run = command(RELEASE / kind, *prompt_flags(kind), "--text", DIALOGUE, "--tracks")
    made(*run, "--res-wav-path", tmp_path / "x.wav")
    wave = read_wav(tmp_path / "x.wav")
    tracks = [read_wav(tmp_path / f"x.s{number}.wav") for number in (1, 2)]
    assert all(track.shape == (1, wave.shape[1]) for track in tracks)
    whole = np.concatenate(tracks) if len(wave) == 2 else tracks[0] + tracks[1]
    np.testing.assert_allclose(whole, wave, atol=1)


def test_lists_write_tracks_and_make_up_for_lost_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_models(monkeypatch)
    rows = [(name, TEXT1, TEXT2, WAV1, WAV2, DIALOGUE) for name in ("a", "b")]
    listed = write_list(tmp_path / "l.tsv", rows)
    run = command(RELEASE / "zipvoice_dialog", "--test-list", listed, "--res-dir", tmp_path)
    made(*run)
    assert not list(tmp_path.glob("*.s1.wav"))
    made(*run, "--tracks")
    for name in ("a", "b"):
        frames = {soundfile.info(path).frames for path in tmp_path.glob(f"{name}.*wav")}
        assert len(list(tmp_path.glob(f"{name}.*wav"))) == 3 and len(frames) == 1
    (tmp_path / "a.s2.wav").unlink()
    assert "1 items were finished before" in made(*run, "--tracks")
    assert (tmp_path / "a.s2.wav").is_file()
    # What is beside an older wave goes with it; pictures are made up for, too.
    made(*run, "--tracks", "--plot", "--subtitles", "vtt")
    made(*run, "--seed", "2")
    assert {path.name for path in tmp_path.glob("*.*")} == {
        "a.wav", "b.wav", "l.tsv", "report.jsonl",
    }  # fmt: skip
    assert "finished" not in made(*run, "--seed", "2", "--plot")
    assert "2 items were finished before" in made(*run, "--seed", "2", "--plot")
    write_list(listed, [*rows, ("a.s1", *rows[0][1:])])
    status, _, err = run_main(*run, "--tracks")
    one_line(status, err, "'a.s1'")


@pytest.mark.parametrize("kind", ["zipvoice", "zipvoice_distill"])
def test_models_of_one_speaker_are_refused_before_they_are_loaded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(hub, "load_model", load)
    more = [*prompt_flags(kind), "--text", "Yes.", "--tracks"]
    status, _, err = run_main(*command(RELEASE / kind, *more))
    one_line(status, err, "--tracks")
    status, _, err = run_main("generate", "--model-name", kind, *more)
    one_line(status, err, "--tracks")
    assert hub.may_be_dialog("demo", None) and hub.may_be_dialog(None, hub.BUNDLED_DIR)


def test_tracks_are_checked_before_the_work(tmp_path: Path) -> None:
    kind = "zipvoice_dialog"
    run = command(tmp_path / "none", *prompt_flags(kind), "--text", DIALOGUE, "--tracks")
    (tmp_path / "x.s2.wav").mkdir()
    status, _, err = run_main(*run, "--res-wav-path", tmp_path / "x.wav")
    one_line(status, err, "x.s2.wav is a directory")
    status, _, err = run_main(*run, "--remove-long-sil")
    one_line(status, err, "--remove-long-sil")

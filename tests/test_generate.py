"""`zipvoice-jax generate` as a process: real recordings in, WAVs and reports out."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import RunCli, devices
from generation import (
    DIALOGUE,
    RELEASE,
    TEXT1,
    TEXT2,
    TEXT_MERGED,
    WAV1,
    WAV2,
    WAV_STEREO,
    command,
    distance,
    is_dialog,
    made,
    prompt_flags,
    read_report,
    read_wav,
    run_main,
    text_for,
    write_list,
)

from zipvoice_jax.config import MODEL_KINDS

DIALOG = RELEASE / "zipvoice_dialog"
FIELDS = {
    "id": str,
    "wav": str,
    "wav_seconds": float,
    "seconds_model": float,
    "seconds_vocoder": float,
    "rtf": float,
    "rtf_no_vocoder": float,
    "vocoder": str,
    "buckets": list,
    "seed": int,
    "num_step": int,
    "schedule": str,
    "guidance_scale": float,
    "speaker_guidance": float,
    "voice_contrast": float,
    "voice_matching": float,
    "turns": list,
    "notes": list,
    "key": str,
}
SPLIT = (TEXT1, TEXT2, WAV1, WAV2)
MERGED = (TEXT_MERGED, WAV_STEREO)
AS_PROCESS = "zipvoice_dialog_stereo"  # the kind that is run so; the others in this process


def run_process(run_cli: RunCli, *args: str | Path) -> tuple[int, str, str]:
    """Runs the command line as a process: exit status, stdout, stderr."""
    done = run_cli(*args)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_each_model_speaks_with_real_voices(kind: str, run_cli: RunCli, tmp_path: Path) -> None:
    wav = tmp_path / "new" / "said.wav"
    args = (
        *command(RELEASE / kind, *prompt_flags(kind), "--text", text_for(kind)),
        *("--res-wav-path", wav, "--plot", "--subtitles", "srt", "--model-name", kind),
    )
    status, out, err = run_process(run_cli, *args) if kind == AS_PROCESS else run_main(*args)
    assert status == 0, err
    wave = read_wav(wav)
    assert wave.shape[0] == (2 if kind.endswith("stereo") else 1)
    assert 0.3 * 24_000 < wave.shape[1] < 6 * 24_000
    assert wav.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in wav.parent.iterdir()) == ["said.png", "said.srt", "said.wav"]
    cues = wav.with_suffix(".srt").read_text().split("\n\n")
    assert ["Hello." in cue for cue in cues] == [False, True][: len(cues)]
    assert "Good morning." in cues[0] and len(cues) == (2 if is_dialog(kind) else 1)
    assert f"{wave.shape[1] / 24_000:.2f} s of speech" in out and "RTF" in out
    assert "compiled 1 programs" in err
    assert "Traceback" not in err


def test_a_list_in_all_formats_with_bad_lines(tmp_path: Path) -> None:
    rows = [
        ("merged", *MERGED, DIALOGUE),
        ("split/two", *SPLIT, DIALOGUE),
        ("three", "fields", "only"),
        ("untagged", *SPLIT, "Hello."),
        ("no_wav", TEXT_MERGED, tmp_path / "none.wav", DIALOGUE),
        ("merged", *MERGED, DIALOGUE),
    ]
    listed = write_list(tmp_path / "list.tsv", rows)
    res = tmp_path / "res"
    status, out, err = run_main(*command(DIALOG, "--test-list", listed, "--res-dir", res, "--plot"))
    assert status == 1, err
    assert "Traceback" not in err
    assert "2 done, 0 skipped, 4 failed" in out and "RTF" in out
    report = read_report(res)
    assert list(report) == ["merged", "split/two", "line 3", "untagged", "no_wav", "line 6"]
    for name, said in [
        ("line 3", "tab-separated"),
        ("untagged", "does not start with"),
        ("no_wav", "none.wav does not exist"),
        ("line 6", "used before"),
    ]:
        assert set(report[name]) == {"id", "error"}
        assert said in report[name]["error"] and "\n" not in report[name]["error"]
        assert said in err
    for name in ("merged", "split/two"):
        record = report[name]
        assert {key: type(value) for key, value in record.items()} == FIELDS
        wave = read_wav(res / f"{name}.wav")
        assert record["wav_seconds"] == pytest.approx(wave.shape[1] / 24_000, abs=1e-3)
        assert (res / f"{name}.png").is_file()
        assert record["seed"] == 666 and record["num_step"] == 2
        assert record["rtf"] >= record["rtf_no_vocoder"] > 0
        assert record["buckets"][0].keys() == {"batch", "frames", "tokens"}
        assert [turn["speaker"] for turn in record["turns"]] == ["S1", "S2"]
    # Both voices are there in either form of the prompt, so the results are alike in length.
    assert abs(report["merged"]["wav_seconds"] - report["split/two"]["wav_seconds"]) < 1.0


def test_stereo_prompts_in_each_form(tmp_path: Path) -> None:
    model = RELEASE / "zipvoice_dialog_stereo"
    rows = [
        dict(id="one_stereo", text=DIALOGUE, prompt_text=TEXT_MERGED, prompt_wav=str(WAV_STEREO)),
        dict(
            id="two_mono",
            text=DIALOGUE,
            prompt_text=[TEXT1, TEXT2],
            prompt_wav=[str(WAV1), str(WAV2)],
        ),
        dict(id="one_mono", text=DIALOGUE, prompt_text=TEXT_MERGED, prompt_wav=str(WAV1)),
    ]
    listed = write_list(tmp_path / "list.jsonl", rows)
    status, out, err = run_main(*command(model, "--test-list", listed, "--res-dir", tmp_path))
    assert status == 1 and "2 done, 0 skipped, 1 failed" in out, err
    report = read_report(tmp_path)
    assert "stereo" in report["one_mono"]["error"]
    for name in ("one_stereo", "two_mono"):
        wave = read_wav(tmp_path / f"{name}.wav")
        assert wave.shape[0] == 2
        assert (wave[0] != wave[1]).any()


def test_jsonl_with_paths_beside_the_list_and_a_speed(tmp_path: Path) -> None:
    shutil.copy(WAV1, tmp_path / "voice.flac")
    row = dict(text="A rather long sentence to say.", prompt_text=TEXT1, prompt_wav="voice.flac")
    rows = [{"id": "plain", **row}, {"id": "fast.wav", "speed": 2, **row}]
    listed = write_list(tmp_path / "list.jsonl", rows)
    made(*command(RELEASE / "zipvoice", "--test-list", listed, "--res-dir", tmp_path / "res"))
    report = read_report(tmp_path / "res")
    assert sorted(p.name for p in (tmp_path / "res").iterdir()) == [
        "fast.wav",
        "plain.wav",
        "report.jsonl",
    ]
    ratio = report["plain"]["wav_seconds"] / report["fast.wav"]["wav_seconds"]
    assert 1.5 < ratio < 2.5, ratio


def test_two_prompts_need_a_dialogue_model(tmp_path: Path) -> None:
    flags = ["--prompt-wav", WAV1, WAV2, "--prompt-text", TEXT1, TEXT2, "--text", "Hello."]
    status, _, err = run_main(*command(RELEASE / "zipvoice", *flags))
    assert status == 1 and "takes one speaker" in err


def test_official_options_without_effect_are_accepted_and_reported() -> None:
    idle = ["--num-thread", "4", "--silence-wav", "s.wav", "--trt-engine-path", "x.plan"]
    status, _, err = run_main(
        *command("nowhere", *prompt_flags("zipvoice"), "--text", "Yes.", *idle)
    )
    assert status == 1 and "nowhere" in err.splitlines()[-1]
    for name in idle[::2]:
        assert f"note: {name} has no effect: " in err
    config = Path(__file__).resolve().parent.parent / "configs" / "tiny.py"
    status, _, err = run_main("train", "--config", config, "--model-config", "model.json")
    assert status == 1 and "give --to" in err and "note: --model-config has no effect" in err


# --- restarts --------------------------------------------------------------------------------


def test_a_rerun_does_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    late, res = tmp_path / "late.flac", tmp_path / "res"
    rows = [("a", TEXT1, WAV1, "Yes."), ("b", TEXT1, late, "No."), ("c", TEXT1)]
    listed = write_list(tmp_path / "list.tsv", rows)
    run = command(RELEASE / "zipvoice", "--test-list", listed, "--res-dir", res)

    def counts(*more: str) -> tuple[int, str]:
        status, out, _ = run_main(*run, *more)
        return status, out.split(": ")[1].split(";")[0]

    assert counts() == (1, "1 done, 0 skipped, 2 failed")
    before = (res / "a.wav").stat().st_mtime_ns
    assert counts() == (1, "0 done, 1 skipped, 2 failed")
    # What failed is made as soon as it can be, and its error leaves the report.
    shutil.copy(WAV2, late)
    write_list(tmp_path / "list.tsv", [*rows[:2], ("c", TEXT1, WAV1, "Maybe.")])
    assert counts() == (0, "2 done, 1 skipped, 0 failed")
    assert list(read_report(res)) == ["a", "b", "c"]
    assert (res / "a.wav").stat().st_mtime_ns == before
    assert counts() == (0, "0 done, 3 skipped, 0 failed")
    # Whatever changes a result makes it anew: a lost wave, the text, the seed.
    first = read_wav(res / "a.wav")
    (res / "a.wav").unlink()
    assert counts() == (0, "1 done, 2 skipped, 0 failed")
    # Batched with b now, which could not be read at first: the last bits of its features differ.
    again = read_wav(res / "a.wav")
    assert distance(again.astype(np.float64), first.astype(np.float64)) < 0.02
    write_list(listed, [("a", TEXT1, WAV1, "Yes!"), rows[1]])
    assert counts() == (0, "1 done, 1 skipped, 0 failed")
    assert counts("--seed", "7") == (0, "2 done, 0 skipped, 0 failed")
    assert read_report(res)["a"]["seed"] == 7
    assert (read_wav(res / "a.wav")[:, :9000] != first[:, :9000]).any()
    assert counts("--seed", "7", "--overwrite") == (0, "2 done, 0 skipped, 0 failed")
    # The wave of an earlier list keeps its line.
    assert list(read_report(res)) == ["a", "b", "c"]


def test_a_report_cut_short_is_mended(tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.tsv", [("a", TEXT1, WAV1, "Yes.")])
    run = command(RELEASE / "zipvoice", "--test-list", listed, "--res-dir", tmp_path / "res")
    made(*run)
    report = tmp_path / "res" / "report.jsonl"
    whole = report.read_text()
    report.write_text(whole + '{"id": "a", "wav')
    made(*run)
    assert report.read_text() == whole
    report.write_bytes(b"\xff\x00binary\n[1]\n{}\n")
    made(*run)
    assert list(read_report(tmp_path / "res")) == ["a"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_waves(tmp_path: Path) -> None:
    texts = [f"This is sentence number {i}, which is a little longer." for i in range(8)]
    rows = [(f"item{i}", TEXT1, WAV1, text) for i, text in enumerate(texts)]
    listed = write_list(tmp_path / "list.tsv", rows)
    model = RELEASE / "zipvoice"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    made(*command(model, "--test-list", listed, "--res-dir", whole))
    run = command(model, "--test-list", listed, "--res-dir", cut)
    with subprocess.Popen(
        [sys.executable, "-m", "zipvoice_jax.cli.main", *run],
        env={**os.environ, "PYTHONPATH": str(RELEASE.parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not list(cut.glob("item*.wav")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    finished = len(list(cut.glob("item*.wav")))
    assert 0 < finished < len(rows)
    _, out, _ = run_main(*run)
    assert f"{len(rows) - finished}" in out and "0 failed" in out
    assert list(read_report(cut)) == [row[0] for row in rows]
    for row in rows:
        a, b = (read_wav(folder / f"{row[0]}.wav") for folder in (whole, cut))
        np.testing.assert_array_equal(a, b)


# --- devices and the compilation cache -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zipvoice", "zipvoice_dialog_stereo"])
def test_one_and_eight_devices_give_the_same_waves(
    kind: str, run_cli: RunCli, tmp_path: Path
) -> None:
    prompts = SPLIT if is_dialog(kind) else (TEXT1, WAV1)
    texts = [text_for(kind), text_for(kind).replace("Good morning", "I am glad that you came")]
    rows = [(f"item{i}", *prompts, text) for i, text in enumerate(texts)]
    listed = write_list(tmp_path / "list.tsv", rows)
    run = command(RELEASE / kind, "--test-list", listed, "--res-dir")
    assert "on 1 cpu device(s)" in made(*run, tmp_path / "1")
    done = run_cli(*run, tmp_path / "8", env=devices(8))
    assert done.returncode == 0, done.stderr
    assert "on 8 cpu device(s)" in done.stderr
    for name, *_ in rows:
        one, eight = (read_wav(tmp_path / count / f"{name}.wav") for count in ("1", "8"))
        np.testing.assert_allclose(eight, one, rtol=0, atol=1)
    buckets = [b for r in read_report(tmp_path / "8").values() for b in r["buckets"]]
    assert all(bucket["batch"] == 8 for bucket in buckets)


@pytest.mark.slow
def test_compiled_programs_are_kept_on_disk(run_cli: RunCli, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run = command(RELEASE / "zipvoice", *prompt_flags("zipvoice"), "--text", "Yes.")
    chosen = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    # Where nothing is chosen, the user's cache folder.
    default = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "home")}
    for env, folder in ((chosen, cache), (default, tmp_path / "home" / "zipvoice_jax" / "xla")):
        done = run_cli(*run, "--res-wav-path", tmp_path / "a.wav", env=env)
        assert done.returncode == 0, done.stderr
        assert any("program" in file.name for file in folder.iterdir()), done.stderr
        assert sum(file.stat().st_size for file in folder.iterdir()) > 10_000

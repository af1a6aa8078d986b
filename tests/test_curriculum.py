"""From recordings to a stereo dialogue: prepare, train through three stages, generate.

With `ZIPVOICE_JAX_WHOLE=1` in the steps of configs/tiny.py, which takes some ten minutes; else in
fewer, after which only what was trained longest has learned something.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import ROOT, RunCli
from generation import made, run_main

TOKENS = ROOT / "tests" / "golden" / "tokens_dialog.txt"
DATA = ROOT / "tests" / "data"
CORPORA = (("single", "emilia"), ("dialogue", "dialog"), ("stereo", "dialog"))
WHOLE = os.environ.get("ZIPVOICE_JAX_WHOLE") == "1"
STEPS = {"single": 75, "dialog": 30, "stereo": 24}
if WHOLE:
    STEPS = {"single": 400, "dialog": 150, "stereo": 100}


def entries(log: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.slow
def test_three_stages_on_real_speech(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import runpy

    monkeypatch.setattr("sys.argv", ["make_corpus.py", "--to", str(tmp_path / "corpus")])
    runpy.run_path(str(ROOT / "data" / "demo" / "make_corpus.py"), run_name="__main__")
    for name, tokenizer in CORPORA:
        prepare = (
            "prepare", "--format", "tsv", "--from", tmp_path / "corpus" / f"{name}.tsv",
            "--to", tmp_path / "data" / name, "--tokenizer", tokenizer, "--tokens", TOKENS,
            "--language", "en", "--dev-share", "0.25",
        )  # fmt: skip
        if name == "single":  # as a person runs it; the others in this process
            done = run_cli(*prepare)
            assert done.returncode == 0, done.stderr
        else:
            made(*prepare)
    settings = [f"data={tmp_path / 'data'}"]
    if not WHOLE:
        settings += ["save_every=1000", "batch_seconds=16"]
        settings += [f"{name}={count}" for name, count in STEPS.items()]
    sets = [part for setting in settings for part in ("--set", setting)]
    run = tmp_path / "run"
    train = ("train", "--config", ROOT / "configs" / "tiny.py", "--to", run, *sets)
    # Here much of the time goes into steps, not into compiling.
    some = {"XLA_FLAGS": "--xla_backend_optimization_level=1"}
    done = run_cli(*train, timeout=900, env=some)
    assert done.returncode == 0, done.stderr
    assert f"{run / 'stereo'}: the trained model, after {sum(STEPS.values())} steps" in done.stdout
    # One bucket in each of three stages, that of the last in one and two channels.
    assert done.stderr.count("compiled gradients") == 4
    assert done.stderr.count("compiled update") == 3

    assert len(entries(run / "log.jsonl", "train")) == sum(STEPS.values())
    valid = {entry["step"]: entry for entry in entries(run / "log.jsonl", "valid")}
    begin = 0
    for name, count in STEPS.items():
        losses = [valid[step]["flow"] for step in sorted(valid) if begin < step <= begin + count]
        begin += count
        assert len(losses) >= 2 and losses[-1] < losses[0], name
        # What was trained long enough has learned to use what it is told.
        if WHOLE or name == "dialog":
            assert valid[begin]["flow"] < valid[begin]["flow_unconditional"], name
    assert (run / "losses.png").read_bytes().startswith(b"\x89PNG")
    pictures = sorted((run / "samples").glob("*.png"))
    assert len(pictures) == len(valid) and (run / "tensorboard").is_dir()
    assert {int(p.name.split("-")[0]) for p in pictures} == set(valid)

    # The same command has nothing more to do.
    assert "compiled" not in made(*train)

    text = "[S1] Hello, how are you? [S2] I am fine, thank you."
    prompts = ("--prompt-wav", DATA / "prompt_s1.flac", DATA / "prompt_s2.flac")
    listed = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    said = {entry["file"]: entry["text"] for entry in listed}
    transcripts = ("--prompt-text", said["prompt_s1.flac"], said["prompt_s2.flac"])
    for stage, channels in (("dialog", 1), ("stereo", 2)):
        wav = tmp_path / f"{stage}.wav"
        made(
            "generate", "--model-dir", run / stage, *prompts, *transcripts, "--text", text,
            "--res-wav-path", wav, "--num-step", "4", "--vocoder-path", "griffin-lim",
        )  # fmt: skip
        wave, rate = soundfile.read(wav, always_2d=True)
        assert rate == 24_000 and wave.shape[1] == channels and len(wave) > rate
        assert np.abs(wave).max() > 0.01

    picked = tmp_path / "picked"
    made(*train, "--export", picked, "--step", sum(STEPS.values()))
    assert (picked / "zipvoice_jax.json").is_file()
    status, _, err = run_main(*train, "--export", tmp_path / "none", "--step", "7")
    assert status == 1 and "no checkpoint of step 7" in err

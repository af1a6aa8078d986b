"""`zipvoice-jax bench compare`: what another Python timed, and what it cannot."""

from pathlib import Path

import pytest
from conftest import ROOT
from generation import one_line, run_main

from zipvoice_jax.bench.compare import base_model, notes, ours, peer, torch_device, with_times
from zipvoice_jax.checkpoint.hub import load_model
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import TokenTable

TOKENS = ROOT / "tests" / "golden" / "tokens_dialog.txt"


def python_that(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_rows_say_how_many_times_as_long(tmp_path: Path) -> None:
    said = '{"parameters": 1610000000, "rtf": 2.5, "seconds_per_step": 0.03}'
    python = python_that(
        tmp_path, f"echo a warning; echo \"$@\" > '{tmp_path}/args'; echo '{said}'"
    )
    row = peer("dia", python, device="cuda", dtype="bfloat16", steps=9, repeats=2, layers=2)
    assert row["system"] == "dia, 2 layers" and row["parameters"] == 1610.0
    args = (tmp_path / "args").read_text()
    assert (
        "autoregressive.py --model dia --device cuda --dtype bfloat16 --steps 9 --repeats 2" in args
    )
    rows = with_times([{"rtf": 0.5}, row])
    assert [one["times"] for one in rows] == [1.0, 5.0]


def test_a_python_without_torch_is_one_line(tmp_path: Path) -> None:
    python = python_that(tmp_path, "echo \"No module named 'torch'\" >&2; exit 1")
    with pytest.raises(UserError, match="No module named 'torch'"):
        peer("dia", python, device="cpu", dtype="float32", steps=9, repeats=1, layers=None)
    none = tmp_path / "none"
    with pytest.raises(UserError, match="cannot be run"):
        peer("dia", none, device="cpu", dtype="float32", steps=9, repeats=1, layers=None)
    status, _, err = run_main("bench", "compare", "--tokens", TOKENS, "--steps", "1")
    one_line(status, err, "--steps is 1; give 8 or more")


def test_both_run_on_one_kind_of_device() -> None:
    assert torch_device(None) == "cpu"
    status, _, err = run_main("bench", "compare", "--tokens", TOKENS, "--torch-device", "cuda:0")
    one_line(status, err, "--torch-device is cuda:0 but JAX runs on cpu")
    assert not any("layers were left out" in note for note in notes(None))
    assert "layers were left out" in notes(1)[-1]


def test_ours_are_timed() -> None:
    small = load_model(model_dir=ROOT / "tests" / "golden" / "release" / "zipvoice").config
    row = next(ours(TokenTable.load(TOKENS), small, seconds=1.0, repeats=1, layers=None))
    assert row["system"] == "zipvoice_dialog, 8 steps"
    assert row["rtf"] > 0.0 and 0.1 < row["parameters"] < 0.2
    assert base_model("bfloat16", 1).fm_decoder_num_layers == (1,) * 5

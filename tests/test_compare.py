"""`zipvoice-jax bench compare`: what another Python timed, and what it cannot."""

from pathlib import Path

import pytest
from conftest import ROOT
from generation import one_line, run_main

from zipvoice_jax.bench.compare import peer, with_times
from zipvoice_jax.core.errors import UserError

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
    row = peer("dia", python, device="cuda", dtype="bfloat16", steps=9, layers=2)
    assert row["system"] == "dia, 2 layers" and row["parameters"] == 1610.0
    args = (tmp_path / "args").read_text()
    assert "autoregressive.py --model dia --device cuda --dtype bfloat16 --steps 9" in args
    rows = with_times([{"rtf": 0.5}, row])
    assert [one["times"] for one in rows] == [1.0, 5.0]


def test_a_python_without_torch_is_one_line(tmp_path: Path) -> None:
    python = python_that(tmp_path, "echo \"No module named 'torch'\" >&2; exit 1")
    with pytest.raises(UserError, match="No module named 'torch'"):
        peer("dia", python, device="cpu", dtype="float32", steps=9, layers=None)
    with pytest.raises(UserError, match="cannot be run"):
        peer("dia", tmp_path / "none", device="cpu", dtype="float32", steps=9, layers=None)
    status, _, err = run_main("bench", "compare", "--tokens", TOKENS, "--steps", "1")
    one_line(status, err, "--steps is 1; give 8 or more")

"""The golden numbers, group by group, through tools/parity.py, and what that command promises."""

import functools
import shutil
from pathlib import Path

import numpy as np
import parity
import pytest
from parity_core import Case


@functools.cache
def cases_of(group: str, golden: Path) -> tuple[Case, ...]:
    """A group's cases, computed once for all tests."""
    return tuple(parity.GROUPS[group](golden))


# These compile whole models with their gradients, or a training step.
SLOW = (
    *("models/zipvoice_dialog", "models/zipvoice_dialog_stereo", "models/zipvoice_distill"),
    "training",
)


@pytest.mark.parametrize(
    "group",
    [pytest.param(g, marks=[pytest.mark.slow] if g in SLOW else []) for g in parity.GROUPS],
)
def test_golden(group: str, golden: Path) -> None:
    cases = cases_of(group, golden)
    failed = [(case.name, case.error) for case in cases if not case.ok]
    assert cases
    assert not failed


def test_a_missing_file_and_a_wrong_number_fail(
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(golden, tmp_path / "golden")
    (tmp_path / "golden" / "eden.npz").unlink()
    d = dict(np.load(golden / "waveform_ops.npz"))
    d["fade_out"] = d["fade_out"] * np.float32(1.0001)
    np.savez(tmp_path / "golden" / "waveform_ops.npz", **d)
    monkeypatch.setattr("sys.argv", ["parity.py", str(tmp_path / "golden"), "--only", "audio"])
    status = parity.main()
    out, err = capsys.readouterr()
    assert status == 1, out + err
    failed = [line for line in out.splitlines() if line.endswith("FAIL")]
    assert len(failed) == 2
    assert "eden.npz is missing" in failed[0]
    assert "cross_fade_concat" in failed[1]
    assert "2 fall short" in out

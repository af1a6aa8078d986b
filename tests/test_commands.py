"""Where the commands of an ablation run, and how its losses are compared."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from complaints import user_error

from zipvoice_jax.ablation import commands
from zipvoice_jax.ablation.commands import Slot, find_slots, share_out
from zipvoice_jax.ablation.report import paired


def test_each_job_has_an_accelerator_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(jobs: int, platform: str, count: int, cores: int = 4, **env: str) -> list[Slot]:
        return share_out(jobs, platform, count, env, range(cores))

    gpus = [one.env["CUDA_VISIBLE_DEVICES"] for one in shared(2, "gpu", 4)]
    assert gpus == ["0", "1"]
    seen = shared(2, "gpu", 2, CUDA_VISIBLE_DEVICES="5, GPU-8")
    assert [one.env["CUDA_VISIBLE_DEVICES"] for one in seen] == ["5", "GPU-8"]
    chips = shared(4, "tpu", 4)
    assert [one.env["TPU_VISIBLE_CHIPS"] for one in chips] == ["0", "1", "2", "3"]
    assert chips[0].env["TPU_PROCESS_BOUNDS"] == chips[0].env["TPU_CHIPS_PER_PROCESS_BOUNDS"] == (
        "1,1,1"
    )  # fmt: skip
    with user_error("--jobs 3 is more than the 2 accelerators (gpu)", "--jobs 2 or less"):
        shared(3, "gpu", 2)
    with user_error("take with --per-gpu 2", "--jobs 2 or less, or a larger --per-gpu"):
        share_out(3, "gpu", 1, {}, range(4), per_gpu=2)
    both = share_out(4, "gpu", 2, {}, range(4), per_gpu=2)
    assert [one.env["CUDA_VISIBLE_DEVICES"] for one in both] == ["0", "1", "0", "1"]
    assert {one.env["XLA_PYTHON_CLIENT_PREALLOCATE"] for one in both} == {"false"}
    with user_error("--jobs 3 is more than the 2 accelerators (tpu)"):
        share_out(3, "tpu", 2, {}, range(4), per_gpu=2)
    cores = shared(2, "cpu", 1, 5)
    assert [one.cpus for one in cores] == [{0, 2, 4}, {1, 3}]
    assert [one.env["OMP_NUM_THREADS"] for one in cores] == ["3", "2"]
    assert shared(8, "cpu", 1) == [Slot()] * 8

    def fake_run(status: int, out: str, err: str) -> None:
        done = subprocess.CompletedProcess([], status, out, err)
        monkeypatch.setattr(commands.subprocess, "run", lambda *_, **__: done)

    fake_run(0, "a warning\ntpu 4\n", "")
    assert len(find_slots(4)) == 4
    with user_error("--jobs 5 is more than the 4"):
        find_slots(5)
    fake_run(1, "", "Traceback\nRuntimeError: no backend\n")
    with user_error("RuntimeError: no backend"):
        find_slots(2)
    assert find_slots(1) == [Slot()]  # asks nobody


def test_processes_get_their_variables_and_cores(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    seen = Path("/proc/self/status")
    code = (
        f"import os, time; time.sleep(0.3); print(os.environ['PLACE'], open({str(seen)!r}).read())"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    slot = Slot({"PLACE": "here", "PYTHONPATH": str(tmp_path)}, frozenset({core}))
    with (tmp_path / "log").open("w") as said:
        assert commands._process(("--version",), slot, said) == 0
    log = (tmp_path / "log").read_text()
    assert log.startswith("here") and re.search(rf"Cpus_allowed_list:\s+{core}\n", log)


def test_differences_of_losses_are_paired_by_seed() -> None:
    found = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found is not None and found.mean == 2.0
    # By hand: Student's t for 2 degrees of freedom is 4.3027, times 1 / sqrt(3).
    assert found.low == pytest.approx(2.0 - 2.48414, abs=1e-4)
    assert found.high == pytest.approx(2.0 + 2.48414, abs=1e-4)
    two = paired([2.0, 4.0], [1.0, 2.0])
    assert two is not None and (two.mean, two.low, two.high) == (1.5, None, None)
    assert two.formatted() == "+1.5000"
    assert paired([2.0, None], [1.0, 2.0]) is None

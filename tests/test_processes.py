"""Several processes as one run: what they learn, what is left when they are killed, who hangs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, RunCli, devices, free_port
from training import entries, make_data, write_config

from zipvoice_jax.checkpoint.mapping import flatten
from zipvoice_jax.checkpoint.native import read_native


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    make_data(folder)
    write_config(folder)
    return folder


def command(place: Path, run: str, *rest: str) -> list[str]:
    given = [f"data={place}", "steps=6", "batch_multiple=4", "stages=1"]
    sets = [part for setting in given for part in ("--set", setting)]
    return ["train", "--config", str(place / "small.py"), "--to", str(place / run), *sets, *rest]


def begin(place: Path, run: str, count: int, *rest: str) -> list[subprocess.Popen[str]]:
    """Starts the processes of a run, of four devices together."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **devices(4 // count)}
    base = [sys.executable, "-m", "zipvoice_jax.cli.main", *command(place, run, *rest)]
    base += ["--coordinator", f"localhost:{free_port()}", "--num-processes", str(count)]
    return [
        subprocess.Popen(
            [*base, "--process-id", str(index)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Their statuses and what they wrote to stderr."""
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def weights(folder: Path) -> dict[tuple[str, ...], np.ndarray]:
    return flatten(read_native(folder).params)


def distance(a: Path, b: Path) -> float:
    """The largest distance of a tensor to its counterpart, by the length of the latter."""
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    return max(
        float(np.linalg.norm(ours[k] - theirs[k]) / (np.linalg.norm(theirs[k]) + 1e-2))
        for k in ours
    )


@pytest.fixture(scope="module")
def whole(place: Path, run_cli: RunCli) -> Path:
    """The run of one process with four devices."""
    done = run_cli(*command(place, "whole"), env=devices(4), timeout=600)
    assert done.returncode == 0 and "4 device(s)" in done.stderr, done.stderr
    return place / "whole"


@pytest.mark.slow
def test_a_split_state_learns_the_same(place: Path, whole: Path, run_cli: RunCli) -> None:
    done = run_cli(*command(place, "split", "--fsdp", "2"), env=devices(4), timeout=600)
    assert done.returncode == 0, done.stderr
    assert distance(place / "split" / "one", whole / "one") < 1e-5


@pytest.mark.slow
def test_processes_that_are_killed_and_change_in_number_learn_the_same(
    place: Path, whole: Path
) -> None:
    log = place / "broken" / "log.jsonl"
    processes = begin(place, "broken", 4, "--peer-timeout", "120")
    while not (log.is_file() and '"step": 4' in log.read_text()):
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.05)
    processes[3].send_signal(signal.SIGKILL)
    ends = finish(processes)
    for status, said in ends[:3]:
        assert status == 75, said
        assert "start every process again" in said and "Traceback" not in said, said
    shutil.copytree(place / "broken", place / "again")
    for run in ("broken", "again"):
        ends = finish(begin(place, run, 2))
        assert [status for status, _ in ends] == [0, 0], ends
        assert "goes on from step" in ends[0][1]
    assert distance(place / "broken" / "one", whole / "one") < 1e-5
    assert distance(place / "broken" / "one", place / "again" / "one") == 0.0
    ours, theirs = entries(place / "broken"), entries(whole)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs]


def test_a_process_that_is_missing_is_named(place: Path) -> None:
    processes = begin(place, "missing", 2, "--peer-timeout", "6")
    processes[1].kill()
    status, said = finish(processes)[0]
    assert status == 75 and "start every process again" in said

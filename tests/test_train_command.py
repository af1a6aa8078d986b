"""`zipvoice-jax train` as a person runs it: killed, stopped, resumed, on several devices."""

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import RunCli
from generation import one_line, run_main
from processes import finish, start
from training import command, entries, make_place, weights

KILLS = 10


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("train"))


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def writes(process: subprocess.Popen[str], log: Path, known: int) -> bool:
    """Waits until a run writes to its log; False if it ends before."""
    while process.poll() is None and size(log) == known:
        time.sleep(0.01)
    return process.poll() is None


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(
    workdir: Path, run_cli: RunCli
) -> None:
    # Growth of tokens and channels, one and two channels, and validation; dropout and hooks in
    # the first stage, which has one program to compile and not two.
    settings = ("stages=one,three", "valid=true", "stages.three.hooks=no")
    whole = run_cli(*command(workdir, "whole", *settings), timeout=600)
    assert whole.returncode == 0, whole.stderr
    run, rng = workdir / "broken", random.Random(5)
    log, kept = run / "log.jsonl", run / "checkpoints"
    kills = in_saves = stops = 0
    while True:
        known, process = size(log), start(command(workdir, "broken", *settings))
        stopping = kills == KILLS // 2
        if kills < KILLS and writes(process, log, known):
            # Some moment after it began to write: in a step, an export, a new stage, and now and
            # then while a checkpoint is being written.
            if kills % 3 == 2:
                while process.poll() is None and not list(kept.glob("*tmp*")):
                    time.sleep(0.001)
                in_saves += bool(list(kept.glob("*tmp*")))
            else:
                time.sleep(rng.uniform(0.0, 0.6))
            process.send_signal(signal.SIGTERM if stopping else signal.SIGKILL)
        ((status, out, err),) = finish(process)
        if status == 0:
            assert str(run / "three") in out
            break
        if stopping:
            # Asked to stop: it saves, says so, and a launcher may start it again.
            assert status == 75 and "the same command goes on" in err
            last = max(entry["step"] for entry in entries(run))
            assert max(int(path.name) for path in kept.iterdir()) == last
            stops += 1
        else:
            assert status == -signal.SIGKILL, err
        kills += 1
        assert kills < 4 * KILLS, err
    assert kills == KILLS and in_saves >= 1 and stops == 1
    for stage in ("one", "three"):
        assert same(workdir / "whole" / stage, run / stage)
    assert entries(workdir / "whole") == entries(run)


def test_what_cannot_be_used_is_one_line(workdir: Path, run_cli: RunCli) -> None:
    args = ("train", "--config", workdir / "small.py", "--to", workdir / "bad", "--set")
    done = run_cli(*args, "data=/nowhere")
    assert done.returncode == 1 and "/nowhere/mono" in done.stderr
    assert "Traceback" not in done.stderr
    expected = "takes data=..., steps=..., batch_multiple=..., stages=..., valid=..."
    status, _, err = run_main(*args, "speed=3")
    assert status == 1 and expected in err and "Traceback" not in err


def test_a_step_without_an_export_trains_nothing(workdir: Path) -> None:
    for option in ("--step", "--average-since"):
        status, _, err = run_main(*command(workdir, "forgotten"), option, "3")
        one_line(status, err, "give --export DIR")
    assert not (workdir / "forgotten").exists()

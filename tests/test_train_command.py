"""`zipvoice-jax train` as a person runs it: killed, stopped, resumed, on several devices."""

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import RunCli
from processes import finish, start
from training import command, entries, make_place, weights

KILLS = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("train"))


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(
    place: Path, run_cli: RunCli
) -> None:
    whole = run_cli(*command(place, "whole"))
    assert whole.returncode == 0, whole.stderr
    log, rng = place / "broken" / "log.jsonl", random.Random(5)
    kills = stops = 0
    while True:
        process, known = start(command(place, "broken")), size(log)
        if kills < KILLS:
            # Some moment after it began to write: in a step, a save, an export, a new stage.
            while process.poll() is None and size(log) == known:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.6))
        stopping = kills == KILLS // 2
        if kills < KILLS and process.poll() is None:
            process.send_signal(signal.SIGTERM if stopping else signal.SIGKILL)
        ((status, out, err),) = finish(process)
        if status == 0:
            assert str(place / "broken" / "two") in out
            break
        kills += 1
        if status == 75:
            stops += 1
            assert "the same command goes on" in err
        else:
            assert status in (-signal.SIGKILL, -signal.SIGTERM), err
        assert kills < 4 * KILLS, err
    assert kills == KILLS and stops <= 1
    for stage in ("one", "two"):
        assert same(place / "whole" / stage, place / "broken" / stage)
    assert entries(place / "whole") == entries(place / "broken")


def test_another_config_is_shown_and_refused(place: Path, run_cli: RunCli) -> None:
    assert run_cli(*command(place, "whole")).returncode == 0
    for setting, told in (
        ("steps=9", "stages.0.steps: 8 -> 9; stages.1.steps: 8 -> 9"),
        ("batch_multiple=2", "batch_multiple: 1 -> 2"),
    ):
        done = run_cli(*command(place, "whole", setting))
        assert done.returncode == 1 and told in done.stderr
        assert done.stderr.count("\n") == 1 and "--allow-config-change" in done.stderr


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["data=/nowhere"], "/nowhere/mono"),
        (["speed=3"], "takes data=..., steps=..., batch_multiple=..., stages=..."),
    ],
)
def test_what_cannot_be_used_is_one_line(
    place: Path, run_cli: RunCli, settings: list[str], told: str
) -> None:
    sets = [part for setting in settings for part in ("--set", setting)]
    done = run_cli("train", "--config", place / "small.py", "--to", place / "bad", *sets)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr

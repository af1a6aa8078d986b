"""Several processes as one run: what they learn, what is left when they are killed, who hangs."""

import re
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from conftest import RunCli, devices
from generation import run_main
from processes import finish, start_several
from training import command, entries, make_place, weights

from zipvoice_jax.core import processes as processes_module
from zipvoice_jax.core.compiling import Programs
from zipvoice_jax.core.processes import join_processes

STEPS = 10
SETTINGS = (f"steps={STEPS}", "batch_multiple=8", "stages=one")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("processes"))


def begin(workdir: Path, run: str, count: int, *rest: str) -> list[subprocess.Popen[str]]:
    """Starts the processes of a run, of eight devices together."""
    return start_several([*command(workdir, run, *SETTINGS), *rest], count, devices(8 // count))


def losses(run: Path) -> list[float]:
    """Of the steps, each once and in order."""
    found = [entry for entry in entries(run) if entry["kind"] == "train"]
    assert [entry["step"] for entry in found] == list(range(1, STEPS + 1))
    return [entry["loss"] for entry in found]


def distance(a: Path, b: Path) -> float:
    """The largest distance of a tensor to its counterpart, by the length of the latter."""
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    return max(
        float(np.linalg.norm(ours[k] - theirs[k]) / (np.linalg.norm(theirs[k]) + 1e-2))
        for k in ours
    )


@pytest.fixture(scope="module")
def one(workdir: Path) -> Path:
    """The run of one process, this one, with one device."""
    status, _, err = run_main(*command(workdir, "one", *SETTINGS))
    assert status == 0 and "1 device(s)" in err, err
    return workdir / "one"


@pytest.mark.slow
def test_eight_devices_with_a_split_state_learn_the_same(
    workdir: Path, one: Path, run_cli: RunCli
) -> None:
    split = [*command(workdir, "split", *SETTINGS), "--fsdp", "4"]
    done = run_cli(*split, env=devices(8), timeout=600)
    assert done.returncode == 0 and "8 device(s)" in done.stderr, done.stderr
    assert distance(workdir / "split" / "one", one / "one") < 1e-5
    assert losses(workdir / "split") == pytest.approx(losses(one), rel=1e-5)


@pytest.mark.slow
def test_processes_that_are_killed_and_change_in_number_learn_the_same(
    workdir: Path, one: Path
) -> None:
    run = workdir / "broken"
    log = run / "log.jsonl"
    processes = begin(workdir, "broken", 4, "--peer-timeout", "300")
    while not (log.is_file() and '"step": 4' in log.read_text()):
        assert all(process.poll() is None for process in processes), finish(*processes)
        time.sleep(0.05)
    processes[3].send_signal(signal.SIGKILL)
    ends = finish(*processes)
    for status, _, said in ends[:3]:
        assert status == 75, said
        assert "start every process again" in said and "Traceback" not in said, said
    ends = finish(*begin(workdir, "broken", 2))
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert "goes on from step" in ends[0][2]
    assert distance(run / "one", one / "one") < 1e-5
    assert losses(run) == pytest.approx(losses(one), rel=1e-5)


@pytest.mark.slow
def test_one_process_that_is_asked_to_stop_stops_all_at_the_same_step(workdir: Path) -> None:
    log = workdir / "asked" / "log.jsonl"
    settings = ("steps=100000", "batch_multiple=2", "stages=one", "stages.one.hooks=no")
    processes = start_several(
        [*command(workdir, "asked", *settings), "--peer-timeout", "300"], 2, devices(1)
    )
    while not (log.is_file() and '"step": 4' in log.read_text()):
        assert all(process.poll() is None for process in processes), finish(*processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    ends = finish(*processes)
    assert [status for status, _, _ in ends] == [75, 75], ends
    steps = {re.search(r"stopped at step (\d+)", said)[1] for _, _, said in ends}
    assert len(steps) == 1
    kept = [int(one.name) for one in log.parent.glob("checkpoints/*") if one.name.isdigit()]
    assert steps == {str(max(kept))}


def test_processes_meet_between_compiling_a_program_and_running_it() -> None:
    events: list[str] = []
    programs = Programs("cpu", events.append)
    function = Mock()
    function.lower().compile.return_value = lambda x: events.append(f"run on {x}")
    for key, x in (("a", 1), ("a", 2), ("b", 3)):
        programs.run(key, key, lambda: function, x)
    assert events == ["compiled 1", "run on 1", "run on 2", "compiled 2", "run on 3"]


def test_process_0_stays_until_the_others_know_that_they_have_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []

    def get(key: str, _: int) -> str:
        looked.append(key)
        if looked.count(key) == 1:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: not yet")
        return "true"

    client = Mock(blocking_key_value_get=get)
    state = SimpleNamespace(client=client, process_id=0, num_processes=3)
    monkeypatch.setattr(processes_module, "global_state", state)
    monkeypatch.setattr(jax.distributed, "initialize", Mock())
    join_processes("localhost:1", 3, 0, timeout=9.0)
    assert looked == [f"zipvoice_jax/joined/{index}" for index in (1, 1, 2, 2)]
    client.key_value_set.assert_not_called()
    state.process_id = 2
    join_processes("localhost:1", 3, 2, timeout=9.0)
    client.key_value_set.assert_called_once_with("zipvoice_jax/joined/2", "true")
    assert len(looked) == 4


def test_a_process_that_is_missing_is_named(workdir: Path) -> None:
    processes = begin(workdir, "missing", 2, "--peer-timeout", "6")
    processes[1].kill()
    status, _, said = finish(*processes)[0]
    assert status == 75 and "start every process again" in said

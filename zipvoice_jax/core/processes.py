"""Several processes as one: joining, exchanging values, and work that one does for all."""

import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax._src.distributed import global_state  # the only way to the coordinator's key-value store
from jax.experimental import multihost_utils

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import alone
from zipvoice_jax.core.supervise import beat

_LOOK_UP_MS = 5_000


def join_processes(
    coordinator: str, num_processes: int | None, process_id: int | None, *, timeout: float
) -> None:
    """Joins the processes of a run; returns once all are there.

    Args:
        coordinator: HOST:PORT of process 0, or "auto" to ask the cluster (TPU VM, GKE, Slurm,
            Open MPI).
        num_processes: number of processes in the run; None to ask the cluster.
        process_id: number of this process, from 0; None to ask the cluster.
        timeout: seconds to wait for the others, and after which one without progress is given
            up. One that is gone is missed after a ninth of that, 10 to 100 s.

    Raises:
        UserError: the coordinator cannot be used, or no cluster is found.
    """
    # Orbax logs errors of its threads with a traceback and raises them again where the threads
    # are waited for; they are reported there, in one line.
    logging.getLogger("absl").addFilter(_without_traceback)
    address = None if coordinator == "auto" else coordinator
    seconds = max(int(timeout), 1)
    try:
        jax.distributed.initialize(
            address,
            num_processes,
            process_id,
            initialization_timeout=seconds,
            # Sent by a thread of the runtime, whatever a process computes or compiles.
            heartbeat_timeout_seconds=min(seconds, max(10, min(seconds // 9, 100))),
            shutdown_timeout_seconds=seconds,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"the processes cannot be joined by --coordinator {coordinator} ({error}); give "
            "--coordinator HOST:PORT, --num-processes and --process-id."
        ) from None
    _see_all_join()


def _see_all_join() -> None:
    """Keeps process 0 until all others know that they have joined.

    It is what they join by: were it to fail and leave at once, the others would look for it until
    their timeout.
    """
    client, own = global_state.client, global_state.process_id
    assert client is not None
    if own != 0:
        client.key_value_set(f"zipvoice_jax/joined/{own}", "true")
        return
    for index in range(1, global_state.num_processes or 1):
        while _look_up(client, f"zipvoice_jax/joined/{index}") is None:
            beat()


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def hush_tracker() -> None:
    """Keeps Python's tracker of shared memory from warning of what it frees after an error.

    The tracker is a process of its own that Python starts when it is first needed; call this
    before.
    """
    rule, known = "ignore:resource_tracker:UserWarning", os.environ.get("PYTHONWARNINGS", "")
    if rule not in known:
        os.environ["PYTHONWARNINGS"] = f"{known},{rule}" if known else rule


def is_lead() -> bool:
    """Whether this process writes what a run writes only once."""
    return jax.process_index() == 0


def on_lead(name: str, work: Callable[[], Any]) -> Any:
    """Runs `work` on process 0 alone; every process waits and gets its JSON value.

    The value travels through the coordinator and not through the devices, so `work` may take
    long and use the devices itself.

    Args:
        name: name of the work, unique to each call within a run.
        work: takes no arguments and returns a JSON value.

    Raises:
        UserError: `work` raised it; then every process does.
    """
    if jax.process_count() == 1:
        return work()
    client, key = global_state.client, f"zipvoice_jax/{name}"
    assert client is not None  # there are several processes only after `join_processes`
    if is_lead():
        try:
            outcome = {"value": work()}
        except UserError as error:
            outcome = {"error": str(error)}
        client.key_value_set(key, json.dumps(outcome))
    else:
        while (outcome := _look_up(client, key)) is None:
            beat()
    if "error" in outcome:
        raise UserError(outcome["error"])
    return outcome["value"]


@contextlib.contextmanager
def alone_on_lead(lock: Path, message: str) -> Iterator[None]:
    """`core.files.alone` for processes that act as one, of which process 0 holds the lock."""
    with contextlib.ExitStack() as stack:
        on_lead(f"lock {lock}", lambda: stack.enter_context(alone(lock, message)))
        yield


@contextlib.contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM does not end the process; yields a function that says whether one came.

    With several processes JAX's coordination service notes it instead; see `stop_agreed`.
    """
    if jax.process_count() > 1:
        yield lambda: False
        return
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_agreed(step: int, asked: Callable[[], bool]) -> bool:
    """Whether to stop at this step; all processes of a run agree on the same step.

    Args:
        step: the step that is about to begin; each process asks about every step, in order.
        asked: whether a single process has been asked to stop. With several, SIGTERM to any one
            of them counts instead, which JAX's coordination service passes on.
    """
    if jax.process_count() == 1:
        return asked()
    return multihost_utils.reached_preemption_sync_point(step)


def meet(name: str) -> None:
    """Waits until every process is here.

    Programs that differ in the time that they take to compile call for it: a device waits only so
    long for the others (Gloo, of CPUs, for 30 s).

    Args:
        name: name of the meeting, unique to each call within a run.
    """
    exchange(f"meeting {name}", None)


def exchange(name: str, value: Any) -> list[Any]:
    """Gives every process the JSON values of all, by process number; waits for all of them.

    Args:
        name: name of the exchange, unique to each call within a run.
        value: this process's JSON value.
    """
    count = jax.process_count()
    if count == 1:
        return [value]
    client = global_state.client
    assert client is not None  # there are several processes only after `join_processes`
    client.key_value_set(f"zipvoice_jax/{name}/{jax.process_index()}", json.dumps([value]))
    values = []
    for index in range(count):
        while (entry := _look_up(client, f"zipvoice_jax/{name}/{index}")) is None:
            beat()
        values += entry
    return values


def _look_up(client: Any, key: str) -> Any:
    """The value of a key; None if none was set in time. If process 0 is gone, this one ends."""
    try:
        return json.loads(client.blocking_key_value_get(key, _LOOK_UP_MS))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            return None
        raise

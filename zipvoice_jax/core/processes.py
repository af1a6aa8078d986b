"""Several processes as one: how they find each other, and what one of them does for all."""

import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src.distributed import global_state  # the only way to the coordinator's key-value store
from jax.experimental import multihost_utils

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.supervise import beat

_LOOK_UP_MS = 5_000


def join(
    coordinator: str, num_processes: int | None, process_id: int | None, *, timeout: float
) -> None:
    """Joins the processes of a run; returns when all are there.

    Args:
        coordinator: HOST:PORT of process 0, or "auto" to ask the cluster (TPU VM, GKE, Slurm,
            Open MPI).
        num_processes: all of them; None to ask the cluster.
        process_id: number of this one; None to ask the cluster.
        timeout: seconds to wait for the others, and after which a silent one is given up.

    Raises:
        UserError: the coordinator cannot be used, or no cluster is found.
    """
    # Orbax logs what its threads run into with a traceback, and raises it again where it is waited
    # for; said there, in one line.
    logging.getLogger("absl").addFilter(_without_traceback)
    address = None if coordinator == "auto" else coordinator
    seconds = max(int(timeout), 1)
    try:
        jax.distributed.initialize(
            address,
            num_processes,
            process_id,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=min(seconds, 100),
            shutdown_timeout_seconds=seconds,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"the processes cannot be joined by --coordinator {coordinator} ({error}); give "
            "--coordinator HOST:PORT, --num-processes and --process-id."
        ) from None


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def hush_tracker() -> None:
    """Keeps Python's tracker of shared memory from warning of what it frees after an error.

    It is a process of its own, which Python starts when it is first needed; call this before.
    """
    rule, known = "ignore:resource_tracker:UserWarning", os.environ.get("PYTHONWARNINGS", "")
    if rule not in known:
        os.environ["PYTHONWARNINGS"] = f"{known},{rule}" if known else rule


def is_lead() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def on_lead(name: str, work: Callable[[], Any]) -> Any:
    """Runs `work` on process 0 alone; every process waits, and gets its JSON value.

    The value travels through the coordinator and not through the devices, so `work` may take
    its time and use devices itself.

    Args:
        name: of the work; another one for each call of a run.
        work: takes nothing and returns a JSON value.

    Raises:
        UserError: `work` raised it; then every process does.
    """
    if jax.process_count() == 1:
        return work()
    client, key = global_state.client, f"zipvoice_jax/{name}"
    assert client is not None  # there are several processes only after `join`
    if is_lead():
        try:
            told = {"value": work()}
        except UserError as error:
            told = {"error": str(error)}
        client.key_value_set(key, json.dumps(told))
    else:
        while (told := _look_up(client, key)) is None:
            beat()
    if "error" in told:
        raise UserError(told["error"])
    return told["value"]


@contextlib.contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM ends nothing; yields what says whether there was one.

    Among several processes JAX's coordination service notes it instead; see `stop_agreed`.
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
    """Whether to stop after this step; in every process of a run at the same one.

    Args:
        step: that is about to begin; each process asks about every one, in order.
        asked: whether a process that is alone is to stop. Where there are several, SIGTERM to any
            one of them counts instead, which JAX's coordination service passes on.
    """
    if jax.process_count() == 1:
        return asked()
    return multihost_utils.reached_preemption_sync_point(step)


def exchange(name: str, value: Any) -> list[Any]:
    """Gives every process the JSON value of each, by number; waits until all are there.

    Args:
        name: of the exchange; another one for each call of a run.
        value: this process's.
    """
    count = jax.process_count()
    if count == 1:
        return [value]
    client = global_state.client
    assert client is not None  # there are several processes only after `join`
    client.key_value_set(f"zipvoice_jax/{name}/{jax.process_index()}", json.dumps([value]))
    values = []
    for index in range(count):
        while (told := _look_up(client, f"zipvoice_jax/{name}/{index}")) is None:
            beat()
        values += told
    return values


def _look_up(client: Any, key: str) -> Any:
    """What process 0 has set; None after a while. A process 0 that is gone ends this one."""
    try:
        return json.loads(client.blocking_key_value_get(key, _LOOK_UP_MS))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            return None
        raise

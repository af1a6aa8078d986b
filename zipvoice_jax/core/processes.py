"""Several processes as one: how they find each other, and what one of them does for all."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from zipvoice_jax.core.errors import UserError


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


def is_lead() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def on_lead(work: Callable[[], Any]) -> Any:
    """Runs `work` on process 0 alone; every process waits, and gets its JSON value.

    Raises:
        UserError: `work` raised it; then every process does.
    """
    if jax.process_count() == 1:
        return work()
    from jax.experimental import multihost_utils

    told = b""
    if is_lead():
        try:
            told = json.dumps({"value": work()}).encode()
        except UserError as error:
            told = json.dumps({"error": str(error)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(told))))
    buffer = np.frombuffer(told, np.uint8) if is_lead() else np.zeros(size, np.uint8)
    answer = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes())
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]

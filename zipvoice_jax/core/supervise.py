"""Keeps a process of a distributed run from hanging or dying without a message.

A lost peer shows in two ways: JAX ends the process from C++ code, with a stack trace and before
Python can react, or a collective operation waits for ever. So the work is done by a child, and
its parent, which imports no JAX, watches the child's signs of life and reports how it ended.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType

STOPPED = 75  # exit status (EX_TEMPFAIL) on which launchers start the command again
_PIPE = "ZIPVOICE_JAX_ALIVE_FD"


def is_in_cluster(env: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment says that this is one of several processes.

    True within a Slurm step or an Open MPI job of several tasks, and on GKE's TPU slices of
    several hosts. On a TPU VM the environment does not show it; `launch/` passes it explicitly.
    """
    slurm = "SLURM_STEP_ID" in env and env.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    mpi = env.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
    return slurm or mpi or "," in env.get("TPU_WORKER_HOSTNAMES", "")


def is_supervised() -> bool:
    """Whether this process is the child of a supervising one."""
    return _PIPE in os.environ


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Has the system send this child a signal when its parent ends, so that none is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def beat() -> None:
    """Tells the parent, if there is one, that work goes on."""
    if is_supervised():
        os.write(int(os.environ[_PIPE]), b".")


def supervise(who: str, timeout: float) -> int:
    """Runs this process's own command as a child and returns the status to exit with.

    Args:
        who: name of the process in messages, such as "process 1 of 4".
        timeout: seconds allowed between two signs of life.

    Returns:
        The child's status; `STOPPED` if it lost its peers or made no progress.
    """
    reading, writing = os.pipe()
    command = [sys.executable, *sys.orig_argv[1:]]
    with subprocess.Popen(
        command, pass_fds=[writing], env={**os.environ, _PIPE: str(writing)}
    ) as child:
        os.close(writing)

        def forward(number: int, _: FrameType | None) -> None:
            child.send_signal(number)

        # An interrupt from the keyboard reaches the child by itself.
        before = {signal.SIGTERM: signal.signal(signal.SIGTERM, forward)}
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            lost = not _alive_until_end(reading, timeout)
            if lost:
                child.kill()
            status = child.wait()
        finally:
            os.close(reading)
            for number, handler in before.items():
                signal.signal(number, handler)
    if lost:
        return _gone(f"{who} has made no progress in {timeout:g} s, as a peer may be missing")
    if status < 0 and -status in (signal.SIGABRT, signal.SIGSEGV):
        return _gone(f"{who} has lost its peers")
    return 128 - status if status < 0 else status


def _gone(what: str) -> int:
    print(
        f"zipvoice-jax: error: {what}; start every process again, and the run goes on from its "
        "last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    return STOPPED


def _alive_until_end(pipe: int, timeout: float) -> bool:
    """Whether a pipe was closed before it had been silent for `timeout` seconds."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        limit = time.monotonic() + timeout
        while True:
            if not selector.select(max(limit - time.monotonic(), 0.0)):
                return False
            if not os.read(pipe, 4096):
                return True
            limit = time.monotonic() + timeout

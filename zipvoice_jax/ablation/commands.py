"""The commands of a study: each runs once, several at a time.

A command is done if it has succeeded with the same words and inputs, and its outputs exist.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_text

# Prints the platform and the number of accelerators; some TPU chips are two devices.
_COUNT = (
    "import jax; found = jax.local_devices(); kind = found[0].platform; "
    "print(kind, len({tuple(d.coords) if kind == 'tpu' else d.id for d in found}))"
)
# A command ends with the study, however that is ended; a training saves before.
_COMMAND = (
    "import signal, sys; from zipvoice_jax.core.supervise import end_with_parent; "
    "end_with_parent(signal.SIGTERM); from zipvoice_jax.cli.main import main; sys.exit(main())"
)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        words: the words after `zipvoice-jax`.
        inputs: identities of its inputs.
        makes: files and folders that it writes.
        partial: works on what is there so far: may end with 1, if it makes what it makes anew, and
            is never done for good.
    """

    words: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    makes: tuple[Path, ...] = ()
    partial: bool = False

    @property
    def line(self) -> str:
        """The command quoted for a shell."""
        return shlex.join(("zipvoice-jax", *self.words))


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a command runs.

    Attributes:
        env: environment variables added to this process's own.
        cpus: cores that it may use; empty: all.
    """

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cpus: frozenset[int] = frozenset()


def identity(*parts: Any) -> str:
    """A short hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def find_slots(jobs: int, per_gpu: int = 1) -> list[Slot]:
    """Places for a number of commands that run at a time; `per_gpu` of them may share a GPU.

    Raises:
        UserError: there are fewer accelerators than jobs need, or JAX finds no device.
    """
    if jobs == 1:
        return [Slot()]
    # Asked in another process, since a process that has seen an accelerator keeps others off it.
    done = subprocess.run(
        [sys.executable, "-c", _COUNT],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = "".join(done.stderr.strip().splitlines()[-1:])
        raise UserError(f"JAX finds no device to run --jobs on ({reason}).")
    platform, count = done.stdout.split()[-2:]
    cores = sorted(os.sched_getaffinity(0))
    return share_out(jobs, platform, int(count), os.environ, cores, per_gpu)


def share_out(
    jobs: int,
    platform: str,
    count: int,
    env: Mapping[str, str],
    cores: Sequence[int],
    per_gpu: int = 1,
) -> list[Slot]:
    """One accelerator per job, a share of a GPU, or on CPUs a share of the cores.

    The variables are those of CUDA and of libtpu (as in jax/_src/test_multiprocess.py) that give a
    process one chip. Processes that share a GPU must not take its memory beforehand.

    Args:
        jobs: number of commands at a time, 2 or more.
        platform: JAX's platform.
        count: number of accelerators of this machine.
        env: environment, which may already limit the visible GPUs.
        cores: cores that this process may use.
        per_gpu: number of jobs at a time on each GPU; other platforms ignore it.

    Raises:
        UserError: there are fewer accelerators than jobs need.
    """
    if platform == "cpu":
        if jobs > len(cores):
            return [Slot()] * jobs
        parts = [frozenset(cores[i::jobs]) for i in range(jobs)]
        return [Slot({"OMP_NUM_THREADS": str(len(part))}, part) for part in parts]
    most = count if platform == "tpu" else count * per_gpu
    if jobs > most:
        raise UserError(
            f"--jobs {jobs} is more than the {count} accelerators ({platform}) of this machine"
            + (f" take with --per-gpu {per_gpu}" if most > count else "")
            + f"; give --jobs {most} or less"
            + (", or a larger --per-gpu." if platform != "tpu" else ".")
        )
    if platform == "tpu":
        alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Slot({**alone, "TPU_VISIBLE_CHIPS": str(i)}) for i in range(jobs)]
    seen = [name for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = seen or [str(i) for i in range(count)]
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if per_gpu > 1 else {}
    return [Slot({"CUDA_VISIBLE_DEVICES": names[i % count].strip(), **shared}) for i in range(jobs)]


def run_all(
    commands: Sequence[Command], logs: Path, slots: Sequence[Slot], bar: "tqdm[Any]"
) -> None:
    """Runs commands that are not done, one at a time in each slot; after a failure none is begun.

    Args:
        commands: commands that do not depend on each other.
        logs: folder of their output.
        slots: from `find_slots`.
        bar: progress bar that counts them.

    Raises:
        UserError: a command failed, or a log cannot be written.
    """
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)

    ended = threading.Event()

    def work(command: Command) -> None:
        if ended.is_set():
            return
        slot = free.get()
        try:
            _run(command, logs, slot)
        except BaseException:
            ended.set()
            raise
        finally:
            free.put(slot)
        bar.update()

    with concurrent.futures.ThreadPoolExecutor(len(slots)) as pool:
        try:
            for future in [pool.submit(work, command) for command in commands]:
                future.result()
        finally:
            ended.set()  # also if this process is interrupted


def _run(command: Command, logs: Path, slot: Slot) -> None:
    """Runs a command unless it is done; its output goes to a log."""
    log = logs / f"{command.words[0]}-{identity(command.words)}.log"
    done, inputs = log.with_suffix(".done"), json.dumps(command.inputs)
    try:
        known = done.is_file() and done.read_text(encoding="utf-8") == inputs
        if known and not command.partial and all(path.exists() for path in command.makes):
            return
        log.parent.mkdir(parents=True, exist_ok=True)
        for old in (done, *(command.makes if command.partial else ())):
            old.unlink(missing_ok=True)
        with log.open("w", encoding="utf-8") as output:
            status = _process(command.words, slot, output)
        last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1:]
    except OSError as error:
        raise UserError(f"{log} cannot be written ({error.strerror}).") from None
    missing = [path for path in command.makes if not path.exists()]
    if command.partial and status in (0, 1) and not missing:
        return
    if status or missing:
        outcome = f"ended with {status}" if status else f"did not make {missing[0]}"
        raise UserError(
            f"`{command.line}` {outcome} ({''.join(last)}); see {log}. The same command goes on."
        )
    write_text(done, inputs)


def _process(words: Sequence[str], slot: Slot, output: Any) -> int:
    """Runs a command as a process; returns its exit status."""
    with subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *words],
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        env={**os.environ, **slot.env},
    ) as child:  # fmt: skip
        if slot.cpus:
            os.sched_setaffinity(child.pid, slot.cpus)  # threads that start later inherit it
        return child.wait()

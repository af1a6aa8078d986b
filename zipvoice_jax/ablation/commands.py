"""Commands of `zipvoice-jax` that a study is made of: each run once, several at a time.

A command is done when it has ended well, of the same words and inputs, and what it made is there.
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

# Prints the platform, and how many accelerators there are; some TPU chips are two devices.
_COUNT = (
    "import jax; found = jax.local_devices(); kind = found[0].platform; "
    "print(kind, len({tuple(d.coords) if kind == 'tpu' else d.id for d in found}))"
)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        words: what comes after `zipvoice-jax`.
        inputs: identities of what it reads.
        makes: files and folders that it leaves.
    """

    words: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    makes: tuple[Path, ...] = ()

    @property
    def line(self) -> str:
        """As a shell takes it."""
        return shlex.join(("zipvoice-jax", *self.words))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a command runs.

    Attributes:
        env: variables on top of this process's own.
        cpus: cores that it may use; none for all.
    """

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cpus: frozenset[int] = frozenset()


def identity(*parts: Any) -> str:
    """A short hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def find_places(jobs: int) -> list[Place]:
    """Where so many commands can run at a time.

    Raises:
        UserError: there are fewer accelerators than jobs, or JAX finds no device.
    """
    if jobs == 1:
        return [Place()]
    # Another process asks: one that has seen an accelerator keeps others off it.
    done = subprocess.run(
        [sys.executable, "-c", _COUNT],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = "".join(done.stderr.strip().splitlines()[-1:])
        raise UserError(f"JAX finds no device to run --jobs on ({reason}).")
    platform, count = done.stdout.split()[-2:]
    return share_out(jobs, platform, int(count), os.environ, sorted(os.sched_getaffinity(0)))


def share_out(
    jobs: int, platform: str, count: int, env: Mapping[str, str], cores: Sequence[int]
) -> list[Place]:
    """An accelerator for each job, or on the CPU its share of the cores.

    The variables are those of CUDA and of libtpu (as in jax/_src/test_multiprocess.py), where a
    process of its own has one chip.

    Args:
        jobs: commands at a time, 2 or more.
        platform: of JAX.
        count: accelerators of this machine.
        env: may already limit which GPUs are seen.
        cores: that this process may use.

    Raises:
        UserError: there are fewer accelerators than jobs.
    """
    if platform == "cpu":
        if jobs > len(cores):
            return [Place()] * jobs
        parts = [frozenset(cores[i::jobs]) for i in range(jobs)]
        return [Place({"OMP_NUM_THREADS": str(len(part))}, part) for part in parts]
    if jobs > count:
        raise UserError(
            f"--jobs {jobs} is more than the {count} accelerators ({platform}) of this machine; "
            f"give --jobs {count} or less."
        )
    if platform == "tpu":
        alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Place({**alone, "TPU_VISIBLE_CHIPS": str(i)}) for i in range(jobs)]
    seen = [name for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = seen or [str(i) for i in range(count)]
    return [Place({"CUDA_VISIBLE_DEVICES": names[i].strip()}) for i in range(jobs)]


def run_all(
    commands: Sequence[Command], logs: Path, places: Sequence[Place], bar: "tqdm[Any]"
) -> None:
    """Runs what is not done, one at a time in each place; the first failure ends all.

    Args:
        commands: that do not need one another.
        logs: folder of what they say.
        places: from `find_places`.
        bar: counts them.

    Raises:
        UserError: a command failed, or a log cannot be written.
    """
    free: queue.SimpleQueue[Place] = queue.SimpleQueue()
    for place in places:
        free.put(place)

    ended = threading.Event()

    def work(command: Command) -> None:
        if ended.is_set():
            return
        place = free.get()
        try:
            _run(command, logs, place)
        except BaseException:
            ended.set()
            raise
        finally:
            free.put(place)
        bar.update()

    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        try:
            for future in [pool.submit(work, command) for command in commands]:
                future.result()
        finally:
            ended.set()  # also where this process is interrupted


def _run(command: Command, logs: Path, place: Place) -> None:
    """Runs a command unless it is done; its words go to a log."""
    log = logs / f"{command.words[0]}-{identity(command.words)}.log"
    done, inputs = log.with_suffix(".done"), json.dumps(command.inputs)
    try:
        known = done.is_file() and done.read_text(encoding="utf-8") == inputs
        if known and all(path.exists() for path in command.makes):
            return
        log.parent.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        with log.open("w", encoding="utf-8") as said:
            status = _process(command.words, place, said)
        last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1:]
    except OSError as error:
        raise UserError(f"{log} cannot be written ({error.strerror}).") from None
    missing = [path for path in command.makes if not path.exists()]
    if status or missing:
        told = f"ended with {status}" if status else f"did not make {missing[0]}"
        raise UserError(
            f"`{command.line}` {told} ({''.join(last)}); see {log}. The same command goes on."
        )
    write_text(done, inputs)


def _process(words: Sequence[str], place: Place, said: Any) -> int:
    """Runs a command as a process; its exit status."""
    with subprocess.Popen(
        [sys.executable, "-m", "zipvoice_jax.cli.main", *words],
        stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
        env={**os.environ, **place.env},
    ) as child:  # fmt: skip
        if place.cpus:
            os.sched_setaffinity(child.pid, place.cpus)  # its threads, which come later, inherit it
        return child.wait()

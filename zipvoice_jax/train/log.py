"""What a run reports: a progress bar with its speed, JSONL, TensorBoard, and W&B if it is there."""

import contextlib
import importlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import append_record, write_text
from zipvoice_jax.core.peak import matmul_flops_per_second
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.models.flops import training_flops

LOG = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a line cut short by a kill is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


class Speedometer:
    """Frames, operations and padding per second, over the steps since it was last reset.

    Args:
        config: sizes and options of the model.
        head_alone: whether only the duration head is trained.
    """

    def __init__(self, config: ModelConfig, *, head_alone: bool = False) -> None:
        self.config, self.head_alone = config, head_alone
        # What the devices can do, measured, to hold the work done against it.
        self.peak = jax.device_count() * matmul_flops_per_second(config.dtype)
        self.reset(0)

    def reset(self, step: int) -> None:
        """Forgets the time so far, which was spent on something else than steps.

        Args:
            step: the last one that was begun; none up to it is timed.
        """
        self.begun, self.since = step, time.perf_counter()
        self.frames = self.flops = self.sizes = 0.0

    def read(self, step: int, bucket: Bucket, frames: float, padding: float) -> dict[str, float]:
        """The speed up to a step that has ended; empty for one that was not timed.

        Args:
            step: its number.
            bucket: shape of its batch.
            frames: frames of its items.
            padding: share of its batch.
        """
        if step <= self.begun:
            # Its time includes a compilation; that of the next one begins here.
            self.since = time.perf_counter()
            return {}
        self.frames += frames
        self.sizes += bucket.batch * bucket.frames
        # Padding is no work that anyone wanted.
        each = training_flops(
            self.config, bucket.frames, bucket.tokens, channels=bucket.channels,
            head_alone=self.head_alone,
        )  # fmt: skip
        self.flops += (1.0 - padding) * bucket.batch * each
        seconds = max(time.perf_counter() - self.since, 1e-9)
        return {
            "frames_per_second": self.frames / seconds,
            "teraflops": self.flops / seconds / 1e12,
            "utilisation": self.flops / seconds / self.peak,
        }


class RunLog:
    """The log of a run.

    Args:
        folder: the run's folder.
        start: step from which the run goes on; later entries of an earlier attempt go.
        total: steps of the run.
        config: the run's config, for W&B.
        silent: tells and writes nothing, in a process beside the one that does.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        total: int,
        config: dict[str, Any],
        silent: bool = False,
    ) -> None:
        self.path, self.silent, self._lossy = folder / LOG, silent, False
        self.bar = progress_bar(
            total=total, initial=start, unit="step", file=sys.stderr, mininterval=0.5,
            dynamic_ncols=True, disable=silent,
        )  # fmt: skip
        if silent:
            return
        kept = [entry for entry in read_log(self.path) if entry.get("step", 0) <= start]
        try:
            write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))
            self._board = _open_board(folder / "tensorboard", start=start, say=self.say)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}).") from None
        self._wandb = _start_wandb(folder, config)

    def say(self, line: str) -> None:
        """A line for the user, above the bar."""
        if self.silent:
            return
        self.bar.clear()
        print(line, file=sys.stderr, flush=True)
        self.bar.refresh()

    @contextlib.contextmanager
    def may_fail(self, step: int, what: str) -> Iterator[None]:
        """Within it a failure ends nothing, such as that of a full disk, and costs one line."""
        try:
            yield
        except Exception as error:
            self.lost(step, what, error)

    def lost(self, step: int, what: str, error: Exception) -> None:
        """Tells what a step lacks, and why."""
        self.say(f"step {step}: no {what}: {in_words(error)}")

    def fault(self, step: int, record: str) -> None:
        """A record that cannot be used; other processes than the first tell it by their number."""
        line = f"a record cannot be used: {record}"
        if self.silent:
            print(f"process {jax.process_index()}: {line}", file=sys.stderr, flush=True)
        self.say(line)
        self.write("corrupt", step, {"record": record})

    def step(
        self, stage: str, step: int, bucket: Bucket, values: dict[str, float],
        speed: Speedometer, *, write: bool,
    ) -> None:  # fmt: skip
        """A step that has ended, with its metrics: on the bar and, if to `write`, as an entry."""
        found = speed.read(step, bucket, values["frames"], values["padding"])
        shown = f"{stage} loss {values['loss']:.4f}"
        if found:
            shown += (
                f", {found['frames_per_second']:.0f} frames/s, MFU {found['utilisation']:.1%}, "
                f"padding {1.0 - speed.frames / speed.sizes:.1%}"
            )
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix_str(shown)
        if write:
            self.write("train", step, {"stage": stage, "bucket": str(bucket), **values, **found})

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One entry: to JSONL as it is, to TensorBoard and W&B its numbers.

        What cannot be written is reported once: with a full disk, what matters is that the steps go
        on until the next checkpoint.
        """
        if self.silent:
            return
        try:
            append_record(self.path, {"kind": kind, "step": step, **values})
        except UserError as error:
            if not self._lossy:
                self.say(f"step {step}: {error} Entries are lost; the run goes on")
            self._lossy = True
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        for name, value in numbers.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{k}": v for k, v in numbers.items()}, step=step)

    def sample(
        self, name: str, step: int, wave: Float[np.ndarray, " samples"], rate: int, picture: Any
    ) -> None:
        """Audio and a picture (a matplotlib figure) to TensorBoard and W&B."""
        self._board.add_audio(name, wave[:, None], step, sample_rate=rate)
        self._board.add_figure(name, picture, step)
        if self._wandb is not None:
            wandb = importlib.import_module("wandb")
            shown = {
                f"{name}/audio": wandb.Audio(wave, sample_rate=rate),
                f"{name}/mel": wandb.Image(picture),
            }
            self._wandb.log(shown, step=step)

    def close(self) -> None:
        """Ends the bar and the writers."""
        self.bar.close()
        if self.silent:
            return
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def in_words(error: Exception) -> str:
    """An error as part of one line; unexpected ones with their type."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())[:300]}"


def _start_wandb(folder: Path, config: dict[str, Any]) -> Any:
    """A W&B run where it is installed and $WANDB_PROJECT names a project; else None."""
    if not os.environ.get("WANDB_PROJECT"):
        return None
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        return None
    # The id stays with the folder, so that a run that goes on is one run there too.
    path = folder / "wandb_id"
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12])
    name = path.read_text(encoding="utf-8")
    return wandb.init(dir=str(folder), config=config, id=name, name=folder.name, resume="allow")


# --- TensorBoard's files, which may be lost without a training being lost ------------------


class _Forgiving:
    """Stands before what writes TensorBoard's records; what it cannot write is left out.

    The thread that writes would otherwise end at the first full disk, with a traceback, and the
    training would wait for it as soon as its queue is full.
    """

    def __init__(self, writer: Any, say: Callable[[str], None]) -> None:
        self._writer, self._say, self._said = writer, say, False

    def _try(self, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return work(*args)
        except (OSError, ValueError) as error:  # ValueError: of a file that is closed
            if not self._said:
                self._said = True
                self._say(f"TensorBoard's files cannot be written ({error}); the run goes on")
            return None

    def write_event(self, event: Any) -> Any:
        return self._try(self._writer.write_event, event)

    def flush(self) -> Any:
        return self._try(self._writer.flush)

    def close(self) -> Any:
        return self._try(self._writer.close)


def _open_board(folder: Path, *, start: int, say: Callable[[str], None]) -> Any:
    """A tensorboardX `SummaryWriter` that goes on where the disk is full.

    Args:
        folder: where its files go.
        start: step from which the run goes on; later entries of an earlier attempt go.
        say: takes a line for the user, once, if something cannot be written.

    Raises:
        OSError: the folder cannot be made.
    """
    from tensorboardX import SummaryWriter

    board = SummaryWriter(str(folder), purge_step=start + 1)
    writer: Any = board.file_writer
    events = writer.event_writer
    forgiving = _Forgiving(events._ev_writer, say)
    events._ev_writer = events._worker._record_writer = forgiving
    return board

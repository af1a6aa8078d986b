"""Where a run writes what happens: a progress bar, JSONL, TensorBoard, and W&B if it is there."""

import importlib
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import append_record, write_text
from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.train.board import open_board

LOG = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a line cut short by a kill is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def draw_losses(log: Path, picture: Path) -> None:
    """Draws training and validation losses of a log over its steps, stage by stage.

    Args:
        log: written by `RunLog`.
        picture: PNG to write.

    Raises:
        UserError: the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    found = read_log(log)
    train = [entry for entry in found if entry["kind"] == "train"]
    valid = [entry for entry in found if entry["kind"] == "valid"]
    figure, axis = plt.subplots(figsize=(9, 4))
    # Losses of one and of two channels are of different size.
    for stage, channels in dict.fromkeys((e["stage"], e["bucket"][-1]) for e in train):
        part = [e for e in train if (e["stage"], e["bucket"][-1]) == (stage, channels)]
        name = f"{stage}, {channels} channel{'s' if channels == '2' else ''}"
        axis.plot([e["step"] for e in part], [e["loss"] for e in part], lw=0.7, label=name)
    stages = dict.fromkeys(e.get("stage") for e in valid)
    for name, style in (("flow", "k.-"), ("flow_unconditional", "k.:"), ("distill", "k.-")):
        for stage in stages:
            shown = [e for e in valid if name in e and e.get("stage") == stage]
            steps, losses = [e["step"] for e in shown], [e[name] for e in shown]
            axis.plot(steps, losses, style)
        if any(name in e for e in valid):
            axis.plot([], [], style, label=f"valid {name}")
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    try:
        figure.tight_layout()
        save_picture(figure, picture, dpi=90)
    finally:
        plt.close(figure)


class RunLog:
    """The log of a run.

    Args:
        folder: of the run.
        start: step from which the run goes on; later entries of an earlier attempt go.
        total: steps of the run.
        config: of the run, for W&B.
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
            self._board = open_board(folder / "tensorboard", start=start, tell=self.say)
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

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One entry: to JSONL as it is, to TensorBoard and W&B its numbers.

        What cannot be written is told once: with a full disk, what matters is that the steps go
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

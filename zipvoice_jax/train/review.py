"""What follows a checkpoint: validation, samples, pictures and listening; never before it is saved.

Only the validation itself can end a run, where its data cannot be read. What is written for people
to see and hear may fail, on a full disk for instance: that is told in one line and the run goes on.
A run that stops or is killed between a checkpoint and its review makes up for it when it goes on.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax

from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.processes import is_lead, on_lead
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.loader import Loader, Validation, validation_batches
from zipvoice_jax.train import validate
from zipvoice_jax.train.checkpoints import Checkpoints
from zipvoice_jax.train.config import Stage
from zipvoice_jax.train.log import RunLog, draw_losses, read_log
from zipvoice_jax.train.programs import Programs
from zipvoice_jax.train.stages import StageModel
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import StepRecipe
from zipvoice_jax.vocoder.base import Vocoder
from zipvoice_jax.vocoder.find import find as find_vocoder


def is_reviewed(log: RunLog, stage: Stage, step: int, *, listens: bool) -> bool:
    """Whether the log holds all that was to be found out about a checkpoint.

    Args:
        log: of the run.
        stage: to which the checkpoint belongs.
        step: of the checkpoint; asked once in a run.
        listens: whether its words are to be heard.
    """
    wanted = {"valid"} if stage.valid is not None else set()
    wanted |= {"heard"} if listens else set()

    def look() -> bool:
        found = {entry["kind"] for entry in read_log(log.path) if entry.get("step") == step}
        return wanted <= found

    return not wanted or on_lead(f"reviewed {step}", look)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Review:
    """Of the checkpoints of one stage.

    Attributes:
        programs: of the run.
        recipe: of the stage.
        stage: its config.
        model: of the stage.
        end: the stage's last step.
        folder: of the run.
        log: of the run.
        checkpoints: of the run; they learn their validation losses.
        listen: called with each averaged model.
        valid: what validation losses are computed on.
        shown: the batch whose items are sampled.
        vocoder: of the samples.
    """

    programs: Programs
    recipe: StepRecipe
    stage: Stage
    model: StageModel
    end: int
    folder: Path
    log: RunLog
    checkpoints: Checkpoints
    listen: validate.Listen | None
    valid: Validation | None = None
    shown: Batch | None = None
    vocoder: Vocoder | None = None

    def opened(self, loader: Loader) -> "Review":
        """The same with its validation data opened, in the shapes of the training's batches.

        Raises:
            UserError: the data or the vocoder cannot be used.
        """
        run = self.recipe.run
        if self.stage.valid is None:
            return self
        make = functools.partial(
            validation_batches, self.stage.valid, self.model.table, run.features,
            buckets=loader.buckets, alignments=self.recipe.aligned,
        )  # fmt: skip
        valid = make(host_index=jax.process_index(), host_count=jax.process_count())
        if not run.samples:
            return dataclasses.replace(self, valid=valid)
        vocoder, told = find_vocoder(run.vocoder_path, run.features)
        self.log.say(f"samples by {vocoder.name}{told and f' ({told})'}")
        shown = validate.first_batch(make())  # whole, on every process
        return dataclasses.replace(self, valid=valid, shown=shown, vocoder=vocoder)

    @property
    def is_long(self) -> bool:
        """Whether it computes anything."""
        return self.valid is not None or self.listen is not None

    def __call__(self, state: TrainState) -> None:
        """Finds out about a checkpoint that is on disk.

        Args:
            state: that was saved.

        Raises:
            UserError: the validation data cannot be read.
        """
        step = int(state.step)
        if self.valid is not None:
            losses = validate.validation_losses(
                self.programs, self.recipe, self.valid, state, self.end
            )
            judge = functools.partial(
                self.checkpoints.judge, step, self.recipe.run.stages.index(self.stage)
            )
            self._try("loss beside the checkpoint", step, lambda: judge(losses["loss"]))
            self.log.write("valid", step, {"stage": self.stage.name, **losses})
            told = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
            self.log.say(f"step {step}: validation {told}")
            if self.shown is not None and self.vocoder is not None:
                validate.sample_items(
                    self.programs, self.recipe, self.shown, state, self.vocoder,
                    folder=self.folder / "samples", step=step, log=self.log,
                )  # fmt: skip
        if is_lead():
            picture = self.folder / "losses.png"
            self._try(picture.name, step, lambda: draw_losses(self.log.path, picture))
        if self.listen is not None:
            average = self.programs.fetch(state.average)
            features = self.recipe.run.features
            loaded = Loaded(self.model.config, features, self.model.table, average)
            validate.log_words(self.listen, loaded, self.log, step, self.stage.name)

    def _try(self, what: str, step: int, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # of a library of pictures or the disk, in any way
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self.log.say(f"step {step}: no {what}: {kind}{' '.join(str(error).split())[:300]}")

"""What follows a checkpoint: validation losses, sampled items, pictures and words heard.

None of it begins before the checkpoint is on disk. Only the validation itself can end a run, where
its data cannot be read; what is written for people to see and hear may fail, on a full disk for
instance, and costs one line. A run that is stopped between a checkpoint and its review makes up
for it when it goes on.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.core.processes import is_lead, on_lead
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.loader import Loader, Validation, validation_batches
from zipvoice_jax.train.log import in_words, read_log
from zipvoice_jax.train.pictures import draw_losses
from zipvoice_jax.train.samples import Samples, open_samples
from zipvoice_jax.train.schedules import schedules_of, values_at
from zipvoice_jax.train.session import Session
from zipvoice_jax.train.stages import StagePlan
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import call_valid_step

# What hears words in the speech of a model; see `zipvoice-jax train --listen`.
Listen = Callable[[Loaded], Mapping[str, float]]


def is_owed(plan: StagePlan, session: Session, listen: Listen | None, step: int) -> bool:
    """True for a checkpoint after which the run ended too soon for its review; asked once a run."""
    wanted = {"valid"} if plan.stage.valid is not None else set()
    wanted |= {"heard"} if listen is not None else set()
    if step <= plan.begin or not plan.saves(step) or not wanted:
        return False

    def look() -> bool:
        entries = read_log(session.log.path)
        return wanted <= {entry["kind"] for entry in entries if entry.get("step") == step}

    return not on_lead(f"reviewed {step}", look)


def open_review(
    plan: StagePlan, session: Session, listen: Listen | None, loader: Loader
) -> "Review":
    """The review of a stage's checkpoints, validated in the shapes of the training's batches.

    Raises:
        UserError: the validation data or the vocoder cannot be used.
    """
    run, data = plan.run, plan.stage.valid
    if data is None:
        return Review(plan, session, listen)

    def opened(**hosts: int) -> Validation:
        return validation_batches(
            data, plan.table, run.features,
            buckets=loader.buckets, alignments=plan.recipe.aligned, **hosts,
        )  # fmt: skip

    valid = opened(host_index=jax.process_index(), host_count=jax.process_count())
    session.log.say(f"validation: {valid.report()}")
    # Whole, on every process.
    samples = open_samples(plan, session, opened()) if run.samples else None
    return Review(plan, session, listen, valid, samples)


@dataclasses.dataclass(frozen=True)
class Review:
    """Of the checkpoints of one stage.

    Attributes:
        plan: the stage.
        session: the run; its checkpoints learn their validation losses.
        listen: called with each averaged model.
        valid: what validation losses are computed on.
        samples: draws and speaks some of its items.
    """

    plan: StagePlan
    session: Session
    listen: Listen | None = None
    valid: Validation | None = None
    samples: Samples | None = None

    @property
    def computes(self) -> bool:
        """Whether it takes any time to speak of."""
        return self.valid is not None or self.listen is not None

    def __call__(self, state: TrainState) -> None:
        """Reviews a checkpoint that is on disk.

        Raises:
            UserError: the validation data cannot be read.
        """
        step, plan, log = int(state.step), self.plan, self.session.log
        if self.valid is not None:
            losses = self.losses(state)
            with log.may_fail(step, "loss beside the checkpoint"):
                self.session.checkpoints.judge(step, plan.index, losses["loss"])
            log.write("valid", step, {"stage": plan.name, **losses})
            shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
            log.say(f"step {step}: validation {shown}")
            if self.samples is not None:
                self.samples(state)
        self._draw(step)
        if self.listen is not None:
            average = self.session.layout.fetch(state.average)
            if is_lead():
                loaded = Loaded(plan.config, plan.run.features, plan.table, average)
                self._hear(step, self.listen, loaded)
                self._draw(step)

    def losses(self, state: TrainState) -> dict[str, float]:
        """Mean losses over the validation set, by frames; nothing in them depends on the step.

        Args:
            state: whose parameters are judged, by the scheduled numbers of the stage's last step.
        """
        assert self.valid is not None
        run, recipe, session = self.plan.run, self.plan.recipe, self.session
        values = values_at(schedules_of(run), jnp.asarray(self.plan.end - 1, jnp.int32))
        root = named_key(jax.random.key(run.seed), "valid")
        sums: dict[str, float] = {}
        with iter(self.valid) as batches:
            for batch in batches:
                key = named_key(root, batch.step)
                found = call_valid_step(
                    session.programs, recipe, session.layout, state, batch, key, values
                )
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        count = max(sums.pop("count", 0.0), 1.0)
        return {name: value / count for name, value in sums.items()}

    def _draw(self, step: int) -> None:
        """Draws the run's losses so far."""
        if is_lead():
            picture = self.session.folder / "losses.png"
            with self.session.log.may_fail(step, picture.name):
                draw_losses(self.session.log.path, picture)

    def _hear(self, step: int, listen: Listen, loaded: Loaded) -> None:
        """Logs the words heard of a model, such as their error rate; a failure ends nothing."""
        log = self.session.log
        try:
            found = listen(loaded)
        except Exception as error:  # of a recogniser, which may fail in any way
            log.say(f"step {step}: nothing can be heard: {in_words(error)}")
            return
        log.write("heard", step, {"stage": self.plan.name, **found})
        shown = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
        shown = shown or "nothing, no item is for this kind of model"
        log.say(f"step {step}: heard {shown}")

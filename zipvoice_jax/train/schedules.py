"""Every number that may change with the step: how a config writes it, and as optax schedules.

A stage writes a number as a `Rate`: a plain number, a `PiecewiseLinear` over its own steps, or the
official `Eden`. `schedules_of` joins the stages' numbers into one schedule of the run's step for
each. Officially: zipvoice/utils/lr_scheduler.py and `get_adjusted_batch_count` in
zipvoice/utils/common.py. All values are float32 scalars, traced or not.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from zipvoice_jax.core.errors import require
from zipvoice_jax.core.numbers import check_number
from zipvoice_jax.core.schedule import PiecewiseLinear

if TYPE_CHECKING:
    from zipvoice_jax.train.config import Stage, TrainConfig

Scalar = Float[Array, ""]
Schedules = dict[str, optax.Schedule]

# No optimiser here learns with more: ScaledAdam, whose rates are the greatest, begins at 0.05.
MAX_LEARNING_RATE = 10.0
_BATCH_COUNT_PERIOD = 10  # batches between calls of set_batch_count


# --- as a config writes them -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eden:
    """The official learning rate of training from scratch (zipvoice/utils/lr_scheduler.py).

    Time is measured in steps and in either hours of audio or epochs.
    """

    base_lr: float
    lr_batches: float = 7500.0
    lr_hours: float | None = None
    lr_epochs: float | None = None
    steps_per_epoch: float | None = None
    warmup_batches: float = 500.0
    warmup_start: float = 0.5

    def __post_init__(self) -> None:
        check_number("base_lr of Eden", self.base_lr, 0.0, MAX_LEARNING_RATE, above=True)
        for name in ("lr_batches", "lr_hours", "lr_epochs", "steps_per_epoch"):
            value = getattr(self, name)
            if value is not None or name == "lr_batches":
                check_number(f"{name} of Eden", value, 0.0, 1e12, above=True)
        check_number("warmup_batches of Eden", self.warmup_batches, 0.0, 1e12)
        check_number("warmup_start of Eden", self.warmup_start, 0.0, 1.0)
        require(
            (self.lr_hours is None) != (self.lr_epochs is None),
            "Eden takes either lr_hours or lr_epochs; give one of them.",
        )
        require(
            self.lr_epochs is None or (self.steps_per_epoch or 0) > 0,
            "Eden with lr_epochs needs steps_per_epoch; give the steps of one epoch.",
        )

    def schedule(self, batch_seconds: float) -> optax.Schedule:
        """As an optax schedule of the number of updates begun (the first is 1)."""
        lr_epochs, steps = self.lr_hours or self.lr_epochs, self.steps_per_epoch
        assert lr_epochs is not None

        def epoch(batch: Scalar) -> Scalar:
            if self.lr_hours is not None:
                return batch * (batch_seconds / 3600.0)
            assert steps is not None
            return (batch - 1) // steps

        return eden(
            self.base_lr, self.lr_batches, lr_epochs, epoch=epoch,
            warmup_batches=self.warmup_batches, warmup_start=self.warmup_start,
        )  # fmt: skip


Rate = float | PiecewiseLinear | Eden


def points(rate: float | PiecewiseLinear) -> tuple[float, ...]:
    """All values in a rate."""
    return tuple(v for _, v in rate.points) if isinstance(rate, PiecewiseLinear) else (rate,)


def check_rate(name: str, value: object, low: float, high: float) -> None:
    """Refuses a rate of which a value is no number in a range.

    Raises:
        UserError: as `check_number`.
    """
    for one in value.points if isinstance(value, PiecewiseLinear) else ((0.0, value),):
        check_number(name, one[1], low, high)


def scheduled(default: Any, low: float, high: float) -> Any:
    """A field of a stage that is a number from `low` to `high`, or one that changes with the step.

    Every such field has a schedule of its name, whose value a training step can read.
    """
    return dataclasses.field(default=default, metadata={"range": (low, high)})


def scheduled_fields(stage: type) -> dict[str, tuple[float, float]]:
    """The fields of a stage made by `scheduled`, with their ranges."""
    return {
        field.name: field.metadata["range"]
        for field in dataclasses.fields(stage)
        if "range" in field.metadata
    }


# --- the official formulas -----------------------------------------------------------------


def eden(
    base_lr: float,
    lr_batches: float,
    lr_epochs: float,
    *,
    epoch: Callable[[Scalar], Scalar],
    warmup_batches: float = 500.0,
    warmup_start: float = 0.5,
) -> optax.Schedule:
    """The official schedule of training from scratch (Eden).

    base_lr * (1 + (batch / lr_batches)^2)^-1/4 * (1 + (epoch / lr_epochs)^2)^-1/4 * warm-up.
    Its count is the official batch, which is 1 at the first update: see scaled_adam.py for
    the count that an optimiser gives.

    Args:
        base_lr: at its highest.
        lr_batches: batches after which the rate falls notably.
        lr_epochs: epochs, or whatever else `epoch` counts, after which it falls notably.
        epoch: maps a batch count to its epoch, both float32: officially whole passes over the data,
            from 0, or, with --lr-hours, batch * batch_seconds / 3600.
        warmup_batches: over which the rate rises to its value.
        warmup_start: share of its value at batch 0.
    """

    def decay(share: Scalar) -> Scalar:
        return (1.0 + share**2) ** -0.25

    def rate(count: ArrayLike) -> Scalar:
        batch = jnp.asarray(count, jnp.float32)
        share = jnp.clip(batch / warmup_batches, 0.0, 1.0) if warmup_batches else 1.0
        warmup = warmup_start + (1.0 - warmup_start) * share
        return warmup * (base_lr * decay(batch / lr_batches) * decay(epoch(batch) / lr_epochs))

    return rate


def adjusted_batch_count(
    step: Int[Array, ""] | int,
    batch_seconds: float,
    ref_seconds: float = 50.0,
    offset: float = 0.0,
) -> Scalar:
    """Batches so far if each had had `ref_seconds` of audio: what drives dropout and hooks.

    Officially it is refreshed at every tenth batch only, before that batch is counted.

    Args:
        step: updates made so far.
        batch_seconds: seconds of audio in a batch over all devices.
        ref_seconds: duration of the reference batch (--ref-duration).
        offset: officially 100,000 wherever training starts from a trained model.
    """
    refreshed = jnp.asarray(step) // _BATCH_COUNT_PERIOD * _BATCH_COUNT_PERIOD
    return refreshed.astype(jnp.float32) * (batch_seconds / ref_seconds) + offset


# --- stages as schedules of the run's step -------------------------------------------------


def _schedule(rate: Rate, batch_seconds: float) -> optax.Schedule:
    """A rate as a schedule over a stage's own steps, from 0."""
    if isinstance(rate, Eden):
        # Officially the schedule is stepped before the optimiser, so the first update is 1.
        inner = rate.schedule(batch_seconds)
        return lambda step: inner(step + 1)
    if isinstance(rate, PiecewiseLinear):
        return lambda step: rate(jnp.asarray(step, jnp.float32))
    return optax.constant_schedule(rate)


def _stage_schedules(run: "TrainConfig", stage: "Stage") -> Schedules:
    """The numbers of one stage over its own steps."""
    seconds = stage.data.batch_seconds
    written = {name: getattr(stage, name) for name in scheduled_fields(type(stage))}
    written |= {
        "learning_rate": stage.learning_rate,
        "alignment": run.alignment_of(stage),
        "mask_suffix": float(stage.mask == "suffix"),
        "alignment_by_item": float(stage.alignment_rule == "items"),
    }
    schedules = {name: _schedule(value, seconds) for name, value in written.items()}
    schedules["batch_count"] = lambda step: adjusted_batch_count(
        jnp.asarray(step), seconds, run.ref_seconds, offset=stage.batch_count_offset
    )
    return schedules


def schedules_of(run: "TrainConfig") -> Schedules:
    """Each scheduled number as a function of the run's step, joined at the stage boundaries."""
    parts = [_stage_schedules(run, stage) for stage in run.stages]
    inner = list(run.boundaries[1:-1])
    return {name: optax.join_schedules([part[name] for part in parts], inner) for name in parts[0]}


def values_at(schedules: Schedules, step: Int[Array, ""] | int) -> dict[str, Scalar]:
    """All scheduled numbers at a step, float32."""
    return {name: jnp.asarray(schedule(step), jnp.float32) for name, schedule in schedules.items()}


def stage_step(boundaries: Sequence[int], step: Int[Array, ""]) -> Int[Array, ""]:
    """Steps since the beginning of a step's stage; pure, of a traced step.

    Args:
        boundaries: the step at which each stage begins, and the last step's end.
        step: the run's step.
    """
    starts = jnp.asarray(boundaries[:-1], jnp.int32)
    return step - jnp.max(jnp.where(starts <= step, starts, 0))

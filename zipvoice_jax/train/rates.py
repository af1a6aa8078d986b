"""Learning rates and optimisers as data: what a stage may change with the step."""

import dataclasses
from typing import Literal

import optax

from zipvoice_jax.core.errors import require
from zipvoice_jax.core.numbers import check_number
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.train.schedules import eden

# No optimiser here learns with more: ScaledAdam, whose rates are the greatest, begins at 0.05.
MAX_LEARNING_RATE = 10.0


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
        if self.lr_hours is not None:
            return eden(
                self.base_lr,
                self.lr_batches,
                self.lr_hours,
                epoch=lambda step: step * (batch_seconds / 3600.0),
                warmup_batches=self.warmup_batches,
                warmup_start=self.warmup_start,
            )
        assert self.lr_epochs is not None and self.steps_per_epoch is not None
        steps = self.steps_per_epoch
        return eden(
            self.base_lr,
            self.lr_batches,
            self.lr_epochs,
            epoch=lambda step: (step - 1) // steps,
            warmup_batches=self.warmup_batches,
            warmup_start=self.warmup_start,
        )


Rate = float | PiecewiseLinear | Eden


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimiser; the learning rate belongs to the stage."""

    name: Literal["scaled_adam", "adamw"] = "scaled_adam"
    clipping_scale: float = 2.0  # ScaledAdam: times the median norm
    clip_norm: float = 1.0  # AdamW: global norm
    weight_decay: float = 0.01  # AdamW

    def __post_init__(self) -> None:
        require(
            self.name in ("scaled_adam", "adamw"),
            f"the optimizer {self.name!r} is unknown; choose scaled_adam or adamw.",
        )
        check_number("clipping_scale", self.clipping_scale, 0.0, 1e6, above=True)
        check_number("clip_norm", self.clip_norm, 0.0, 1e6, above=True)
        check_number("weight_decay", self.weight_decay, 0.0, 1e3)


def points(rate: float | PiecewiseLinear) -> tuple[float, ...]:
    """All values that a rate is given by."""
    return tuple(v for _, v in rate.points) if isinstance(rate, PiecewiseLinear) else (rate,)


def check_rate(name: str, value: object, low: float, high: float) -> None:
    """Refuses a rate of which a value is no number in a range.

    Raises:
        UserError: as `check_number`.
    """
    for one in value.points if isinstance(value, PiecewiseLinear) else ((0.0, value),):
        check_number(name, one[1], low, high)

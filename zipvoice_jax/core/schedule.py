"""Numbers that change with the training step: piecewise linear schedules."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import check_number


@dataclasses.dataclass(frozen=True)
class PiecewiseLinear:
    """A value that runs through (step, value) points and is constant outside them.

    The official `ScheduledFloat` (zipvoice/models/modules/scaling.py) as a pure function.
    Steps are batch counts adjusted to the reference batch duration.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        for step, value in self.points:
            check_number("a step of a schedule", step, -1e12, 1e12)
            check_number(f"the value of a schedule at step {step:g}", value, -1e12, 1e12)
        steps = [step for step, _ in self.points]
        if not steps or any(b <= a for a, b in itertools.pairwise(steps)):
            raise UserError(f"schedule points {self.points} must have rising steps.")

    def __call__(self, step: Float[Array, ""]) -> Float[Array, ""]:
        """The value at a step, in float32."""
        x = jnp.asarray(step, jnp.float32)
        value = jnp.full((), self.points[0][1], jnp.float32)
        # Not jnp.interp: its search is a loop, and a model has hundreds of schedules.
        for (begin, low), (end, high) in itertools.pairwise(self.points):
            share = jnp.clip((x - begin) / (end - begin), 0.0, 1.0)
            value = jnp.where(x >= begin, low + (high - low) * share, value)
        return value


Schedule = PiecewiseLinear | float


def value_at(schedule: Schedule, step: Float[Array, ""]) -> Float[Array, ""]:
    """A schedule's value at a step; a plain number is constant."""
    if isinstance(schedule, PiecewiseLinear):
        return schedule(step)
    return jnp.asarray(schedule, jnp.float32)


def values_together(schedules: Sequence[Schedule], step: Float[Array, ""]) -> Float[Array, " n"]:
    """Several schedules' values at a step, by one run through the points of all.

    Beside as many calls of `value_at` this is a small part of a program, and its last bits differ.
    """
    points = [s.points if isinstance(s, PiecewiseLinear) else ((0.0, s),) for s in schedules]
    steps = sorted({step for each in points for step, _ in each})

    def at_all(each: tuple[tuple[float, float], ...]) -> np.ndarray:
        known, values = np.array(each).T
        return np.interp(steps, known, values)

    table = np.array([at_all(each) for each in points], np.float32)
    values = jnp.asarray(table[:, 0])
    for i, (begin, end) in enumerate(itertools.pairwise(steps)):
        share = jnp.clip((step - begin) / (end - begin), 0.0, 1.0)
        rise = jnp.asarray(table[:, i + 1] - table[:, i])
        values = values + rise * share
    return values

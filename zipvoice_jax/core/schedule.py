"""Numbers that change with the training step: piecewise linear schedules."""

import dataclasses
import itertools

import jax.numpy as jnp
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

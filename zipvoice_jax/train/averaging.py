"""Averages of parameters over training: the official running mean, and exponential ones.

Officially (zipvoice/utils/checkpoint.py) the mean is kept in float64. Here it is float32 and
moves by increments: after 400 averages over 4,000 updates it is off the float64 mean by about 1e-6
at most (relative, see tests/test_optimiser.py), and a window by end / (end - start) times that.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from zipvoice_jax.checkpoint import growth
from zipvoice_jax.core.errors import UserError


def running_average(params: Any, average: Any, step: Int[Array, ""] | int, period: int) -> Any:
    """The mean of the parameters at all multiples of `period` up to a step.

    update_averaged_model: params * period / step + average * (1 - period / step), and only
    where the step is such a multiple. What it starts from is forgotten at the first one.

    Args:
        params: after the update.
        average: before it.
        step: updates made, this one included.
        period: updates between two terms of the mean.

    Returns:
        The new average, a tree like the others.
    """
    step = jnp.asarray(step)
    due = (step > 0) & (step % period == 0)
    weight = period / jnp.maximum(step, 1).astype(jnp.float32)
    return jax.lax.cond(
        due,
        lambda new, old: _towards(new, old, weight),
        lambda new, old: old,
        params,
        average,
    )


def ema(new: Any, old: Any, decay: float | Float[Array, ""]) -> Any:
    """Exponential average: old * decay + new * (1 - decay) (`ema` in train_zipvoice_distill.py)."""
    return _towards(new, old, 1.0 - decay)


def warm_decay(step: Int[Array, ""] | int, decay: float) -> Float[Array, ""]:
    """A decay that forgets the beginning: at most (1 + step) / (10 + step).

    With a decay of 0.999 alone, the parameters that a stage began with would still make up a
    quarter of its average after 1,350 steps.

    Args:
        step: updates made in the stage, this one included.
        decay: what it rises to.
    """
    count = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1.0 + count) / (10.0 + count))


def between(
    avg_start: Mapping[str, Any],
    step_start: int,
    avg_end: Mapping[str, Any],
    step_end: int,
    period: int,
) -> dict[str, Any]:
    """The mean over a window, from the running averages at its ends.

    average_checkpoints_with_averaged_model: (end * avg_end - start * avg_start) / (end - start)
    with both steps rounded down to multiples of `period`, in float64 on the host.

    Args:
        avg_start: running average at the start, whose own steps are left out.
        step_start: updates made by then; 0 for all from the beginning.
        avg_end: running average at the end.
        step_end: updates made by then.
        period: of the running average.

    Returns:
        Float32 numpy arrays.

    Raises:
        UserError: no term of the mean lies between the steps, or the trees differ.
    """
    start, end = (step // period * period for step in (step_start, step_end))
    if end <= start:
        raise UserError(
            f"no parameters were averaged between steps {step_start} and {step_end}; choose "
            f"checkpoints with a multiple of {period} between them."
        )
    return growth.average([avg_start, avg_end], [-start, end])


def _towards(new: Any, old: Any, weight: float | Float[Array, ""]) -> Any:
    return jax.tree.map(lambda n, o: o + weight * (n - o), new, old)

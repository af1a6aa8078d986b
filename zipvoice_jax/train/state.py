"""Everything that training carries from step to step: its start, and its averages.

The official running mean of parameters (zipvoice/utils/checkpoint.py) is kept in float64. Here it
is float32 and moves by increments: after 400 averages over 4,000 updates it is off the float64 mean
by about 1e-6 at most (relative, see tests/test_optimiser.py), and a window by
end / (end - start) times that.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from zipvoice_jax.checkpoint import growth
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.rng import named_key


@flax.struct.dataclass
class TrainState:
    """The state between two steps; annotated loosely, since JAX also fills it with placeholders.

    Attributes:
        step: steps begun so far in the whole run, skipped ones included; int32 ().
        params: parameters of the model, as nested dicts.
        opt_state: state of the optimiser.
        average: averaged parameters, see `TrainConfig.average`.
        teacher: parameters of a distillation's teacher; empty otherwise.
        bad_steps: steps in a row whose loss or gradient was not finite; int32 ().
        skipped: all such steps, which change no parameter; int32 ().
        key: of all random numbers of the run, a typed key (); never changes.
    """

    step: Any
    params: dict[str, Any]
    opt_state: Any
    average: dict[str, Any]
    teacher: dict[str, Any]
    bad_steps: Any
    skipped: Any
    key: Any


def new_state(
    params: dict[str, Any],
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    step: int = 0,
    teacher: dict[str, Any] | None = None,
    opt_state: Any = None,
    skipped: int = 0,
) -> TrainState:
    """The state in which a stage begins.

    Args:
        params: parameters of the model, as nested dicts.
        optimizer: makes a fresh state unless `opt_state` is given.
        seed: the run's seed.
        step: at which the stage begins.
        teacher: parameters of a distillation's teacher.
        opt_state: carried over from the stage before.
        skipped: carried over from the stage before.
    """
    # Copies: the step donates its state, and the arguments stay the caller's.
    params = jax.tree.map(jnp.array, params)
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        # Compiled, since one by one its many small arrays take longer.
        opt_state=jax.jit(optimizer.init)(params) if opt_state is None else opt_state,
        # One buffer cannot be donated twice.
        average=jax.tree.map(jnp.copy, params),
        teacher=jax.tree.map(jnp.array, teacher or {}),
        bad_steps=jnp.zeros((), jnp.int32),
        skipped=jnp.asarray(skipped, jnp.int32),
        key=named_key(jax.random.key(seed), "train"),
    )


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
        lambda new, old: optax.incremental_update(new, old, weight),
        lambda new, old: old,
        params,
        average,
    )


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
        period: steps between two updates of the running average.

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

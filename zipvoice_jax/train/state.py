"""Everything that training carries from step to step, as one pytree, and its start."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from zipvoice_jax.core.rng import named_key


@flax.struct.dataclass
class TrainState:
    """The state between two steps; annotated loosely, since JAX also fills it with placeholders.

    Attributes:
        step: steps begun so far in the whole run, skipped ones included; int32 ().
        params: of the model.
        opt_state: of the optimiser.
        average: averaged parameters, see `TrainConfig.average`.
        teacher: parameters of a distillation's teacher; empty otherwise.
        bad_steps: steps in a row whose loss or gradient was not finite; int32 ().
        skipped: all such steps; they change nothing but `step`; int32 ().
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
        params: of the model.
        optimizer: makes a fresh state unless `opt_state` is given.
        seed: of the run.
        step: at which the stage begins.
        teacher: of a distillation.
        opt_state: carried over from the stage before.
        skipped: carried over from the stage before.
    """
    # Copies: the step donates its state, and what is given here stays the caller's.
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

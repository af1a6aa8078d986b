"""The optimiser of a run: which one its config names, and AdamW as a chain of optax's."""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from zipvoice_jax.core.numbers import check_choice, check_number
from zipvoice_jax.train.scaled_adam import LearningRate, rate_at, scaled_adam

OptimizerName = Literal["scaled_adam", "adamw"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimiser; the learning rate belongs to the stage."""

    name: OptimizerName = "scaled_adam"
    clipping_scale: float = 2.0  # ScaledAdam: times the median norm
    clip_norm: float = 1.0  # AdamW: global norm
    weight_decay: float = 0.01  # AdamW

    def __post_init__(self) -> None:
        check_choice("the optimizer", self.name, get_args(OptimizerName))
        check_number("clipping_scale", self.clipping_scale, 0.0, 1e6, above=True)
        check_number("clip_norm", self.clip_norm, 0.0, 1e6, above=True)
        check_number("weight_decay", self.weight_decay, 0.0, 1e3)


def make_optimizer(
    config: OptimizerConfig, only_part: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimiser that a config names; each update takes its `learning_rate` as an argument.

    Args:
        config: the run's settings.
        only_part: the one part of the parameters that is trained and has a state; None for all.
    """
    if config.name == "adamw":
        made = adamw(weight_decay=config.weight_decay, clip_norm=config.clip_norm)
    else:
        made = scaled_adam(clipping_scale=config.clipping_scale)
    return made if only_part is None else _of_part(made, only_part)


def _of_part(
    inner: optax.GradientTransformationExtraArgs, part: str
) -> optax.GradientTransformationExtraArgs:
    """An optimiser of one part of the parameters; all else gets no update."""

    def init(params: Any) -> Any:
        return inner.init({part: params[part]})

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        own = None if params is None else {part: params[part]}
        found: Any = inner.update({part: updates[part]}, state, own, **extra)
        return {**jax.tree.map(jnp.zeros_like, updates), **found[0]}, found[1]

    return optax.GradientTransformationExtraArgs(init, update)


def adamw(
    learning_rate: LearningRate = None,
    *,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    clip_norm: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """optax.adamw behind clipping by global norm; a gradient that is not finite counts as zero.

    Args:
        learning_rate: as for `scaled_adam`.
        betas: decay of the momentum and of the squared gradients.
        eps: added to denominators.
        weight_decay: times the learning rate, what every parameter loses.
        clip_norm: global norm to which larger gradients are scaled.
    """
    chain = optax.chain(
        optax.stateless(lambda grads, _: _finite_or_zero(grads)),
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(1.0, b1=betas[0], b2=betas[1], eps=eps, weight_decay=weight_decay),
        _scale_by_rate(learning_rate),
    )

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            return chain.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(chain.init, update)


def _finite_or_zero(grads: Any) -> Any:
    finite = jnp.isfinite(optax.tree.norm(grads))
    return jax.tree.map(lambda g: jnp.where(finite, g, 0.0), grads)


def _scale_by_rate(learning_rate: LearningRate) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_schedule whose rate an update may bring with it."""

    def init(params: optax.Params) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: Any,
        params: Any = None,
        *,
        learning_rate: LearningRate = learning_rate,
        **_: Any,
    ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
        del params
        rate = rate_at(learning_rate, state.count)
        changes = jax.tree.map(lambda change: rate * change, updates)
        return changes, optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)

"""Training-only gradient hooks: the identity forward, a changed gradient backward.

Pure functions of (input, step, `apply`) and of limits, which may be schedules: `apply` is 1.0
where the hook acts in this step and 0.0 where it doesn't; a hook that doesn't act costs nothing
but the branch. Limits are read off their schedules in that branch: numbers that were made in the
forward pass would have to be kept for each layer. What a hook computes is under `jax.jit`, by
which all hooks of one shape are traced once: each stack has some dozens, and without it a
training step takes a fifth longer to trace and lower. Official:
zipvoice/models/modules/scaling.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zipvoice_jax.core.schedule import Schedule, value_at

Scalar = Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class BalancerLimits:
    """Limits of a `balancer`, in the official terms and with the official defaults."""

    min_positive: Schedule = 0.05
    max_positive: Schedule = 0.95
    min_abs: Schedule = 0.2
    max_abs: Schedule = 100.0
    grad_scale: float = 0.04

    def at(self, step: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """Least and greatest mean/stddev, least and greatest RMS at a step."""
        return (
            mean_limit(value_at(self.min_positive, step)),
            mean_limit(value_at(self.max_positive, step)),
            rms_limit(value_at(self.min_abs, step)),
            rms_limit(value_at(self.max_abs, step)),
        )


@dataclasses.dataclass(frozen=True)
class WhitenLimits:
    """The limit of a `whiten`, the number of its channel groups and its strength."""

    limit: Schedule
    groups: int
    grad_scale: float


def _frames(x: Array, mask: Bool[Array, "..."] | None) -> tuple[Array, Bool[Array, "frames 1"]]:
    """Flattens to (frames, channels) float32, and tells which frames are no padding."""
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    if mask is None:
        return flat, jnp.ones((flat.shape[0], 1), bool)
    return flat, ~mask.reshape(-1, 1)


def _centred(
    x: Float[Array, "frames channels"], real: Bool[Array, "frames 1"]
) -> tuple[Scalar, Float[Array, " channels"], Float[Array, "frames channels"]]:
    """One over the number of real frames, their mean, and the frames less it, 0 for padding."""
    share = 1.0 / jnp.maximum(real.sum(dtype=jnp.float32), 1.0)
    mean = share * jnp.where(real, x, 0.0).sum(0)
    return share, mean, jnp.where(real, x - mean[None, :], 0.0)


def mean_limit(proportion_positive: Scalar) -> Scalar:
    """Mean over standard deviation of a normal variable that is positive this often."""
    x = 2.0 * proportion_positive - 1.0
    eps = 1e-10
    return 0.8139535143 * (jnp.log(1.0 + x + eps) - jnp.log(1.0 - x + eps)) / 2.0


def rms_limit(mean_abs: Scalar) -> Scalar:
    """Root mean square of a normal variable with this mean absolute value."""
    return 1.25331413732 * mean_abs


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def balancer(
    x: Float[Array, "*frames channels"],
    mask: Bool[Array, "*frames"] | None,
    step: Scalar,
    apply: Scalar,
    limits: BalancerLimits,
) -> Float[Array, "*frames channels"]:
    """Nudges each channel's mean/stddev and RMS into limits through the gradient.

    Args:
        x: activations; statistics are per channel over the frames.
        mask: True for frames of padding, which take no part; None for no padding.
        step: adjusted batch count, at which limits are taken.
        apply: 1.0 to act, 0.0 to pass the gradient on.
        limits: what channels should keep to, and how strongly they are pushed, relative to the
            incoming gradient.
    """
    return x


def _balancer_push(
    x: Float[Array, "frames channels"],
    real: Bool[Array, "frames 1"],
    limits: tuple[Scalar, Scalar, Scalar, Scalar],
) -> Float[Array, "frames channels"]:
    """The gradient, of root mean square 1 per channel, of what the limits are exceeded by.

    The official loss of a channel is the excess of m = mean / stddev and of |log rms|. Both depend
    on the channel's mean and mean square alone, so its gradient is a + b * (x - mean).
    """
    min_mean, max_mean, min_rms, max_rms = limits
    # Centred, since channels of small variance would lose their digits otherwise.
    share, mean, centred = _centred(x, real)
    square = share * jnp.where(real, x**2, 0.0).sum(0)
    spread = share * (centred**2).sum(0)
    variance = square - mean * mean
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 1e-20))
    m = mean * inverse
    side = (m > max_mean).astype(jnp.float32) - (m < min_mean).astype(jnp.float32)
    # d m / d x = (1 - m (x - mean) / stddev) / (n stddev); it is flat where stddev is clipped.
    curve = jnp.where(variance > 1e-20, m * inverse**2, 0.0)
    # d log(rms) / d x = x / (n rms^2)
    rms2 = jnp.maximum(square, 1e-20)
    size = (rms2 > max_rms**2).astype(jnp.float32) - (rms2 < min_rms**2).astype(jnp.float32)
    size = jnp.where(square > 1e-20, size / rms2, 0.0)
    a, b = side * inverse + size * mean, size - side * curve
    unit = jax.lax.rsqrt(jnp.maximum(a * a + b * b * spread, 1e-30))
    return jnp.where(real, (a * unit)[None, :] + (b * unit)[None, :] * centred, 0.0)


@jax.jit
def _balanced(
    dy: Array,
    x: Array,
    mask: Array | None,
    limits: tuple[Scalar, Scalar, Scalar, Scalar],
    grad_scale: Scalar,
) -> Array:
    push = grad_scale * _balancer_push(*_frames(x, mask), limits).reshape(x.shape)
    wide = dy.astype(jnp.float32)
    return (wide + jnp.abs(wide) * push).astype(dy.dtype)


def when(apply: Scalar, act: Callable[[Array], Array], dy: Array) -> Array:
    """A hook's gradient in the steps in which it acts, and `dy` itself in the others.

    Args:
        apply: 1.0 to act, 0.0 not to.
        act: gives the gradient from the incoming one.
        dy: the incoming gradient.
    """
    with jax.named_scope("hook"):  # so that a forecast can tell these branches by their rarity
        return jax.lax.cond(apply > 0, act, lambda dy: dy, dy)


def _balancer_bwd(limits: BalancerLimits, residuals: tuple[Any, ...], dy: Array) -> tuple[Any, ...]:
    x, mask, step, apply = residuals

    def act(dy: Array) -> Array:
        return _balanced(dy, x, mask, limits.at(step), jnp.float32(limits.grad_scale))

    return when(apply, act, dy), None, None, None


balancer.defvjp(lambda *args: (args[0], args[:4]), _balancer_bwd)


def _whitening(
    x: Float[Array, "frames channels"], real: Bool[Array, "frames 1"], groups: int
) -> tuple[Array, Array, Scalar, Scalar]:
    """Centred frames by group, their scaled covariances C, the mean of its diagonal, the metric.

    C is scaled so that its diagonal is 1 in the mean, and 0 where frames hardly differ at all.
    """
    channels = x.shape[-1] // groups
    _, _, centred = _centred(x, real)
    diagonal = (centred**2).sum() / (groups * channels)
    size = jnp.sqrt(diagonal**2 + 1e-20)
    centred = centred.reshape(-1, groups, channels)
    covar = jnp.einsum("ngc,ngd->gcd", centred, centred, precision="highest") / size
    return centred, covar, diagonal / size, (covar**2).sum() / (groups * channels)


def whitening_metric(
    x: Float[Array, "frames channels"], real: Bool[Array, "frames 1"], groups: int
) -> Scalar:
    """1.0 if the centred covariance of each channel group is a multiple of the identity."""
    return _whitening(x, real, groups)[-1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def whiten(
    x: Float[Array, "*frames channels"],
    mask: Bool[Array, "*frames"] | None,
    step: Scalar,
    apply: Scalar,
    limits: WhitenLimits,
) -> Float[Array, "*frames channels"]:
    """Pushes the feature covariance towards a multiple of the identity where it is over a limit.

    Args:
        x: activations.
        mask: True for frames of padding, which take no part; None for no padding.
        step: adjusted batch count, at which the limit is taken.
        apply: 1.0 to act, 0.0 to pass the gradient on.
        limits: acts only where `whitening_metric` is at least the limit; the added gradient has
            `grad_scale` of the incoming one's norm.
    """
    return x


@functools.partial(jax.jit, static_argnames="groups")
def _whitened(
    dy: Array, x: Array, mask: Array | None, limit: Scalar, grad_scale: Scalar, groups: int
) -> Array:
    centred, covar, diagonal, metric = _whitening(*_frames(x, mask), groups)
    # Parallel to the gradient of the metric, |C|^2 over the square of its diagonal's mean.
    towards = covar - metric * diagonal * jnp.eye(covar.shape[-1])[None]
    push = jnp.einsum("ngc,gcd->ngd", centred, towards, precision="highest")
    wide = dy.astype(jnp.float32)
    scale = grad_scale * jnp.linalg.norm(wide.ravel())
    scale = jnp.where(metric >= limit, scale / (jnp.linalg.norm(push.ravel()) + 1e-20), 0.0)
    return (wide + scale * push.reshape(x.shape)).astype(dy.dtype)


def _whiten_bwd(limits: WhitenLimits, residuals: tuple[Any, ...], dy: Array) -> tuple[Any, ...]:
    x, mask, step, apply = residuals

    def act(dy: Array) -> Array:
        numbers = value_at(limits.limit, step), jnp.float32(limits.grad_scale)
        return _whitened(dy, x, mask, *numbers, groups=limits.groups)

    return when(apply, act, dy), None, None, None


whiten.defvjp(lambda *args: (args[0], args[:4]), _whiten_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def limit_param_value(
    x: Float[Array, "*shape"], step: Scalar, apply: Scalar, minimum: Schedule, maximum: Schedule
) -> Float[Array, "*shape"]:
    """Turns gradients round that would drive a parameter further out of its range at a step."""
    return x


def _limit_param_value_bwd(
    minimum: Schedule, maximum: Schedule, residuals: tuple[Any, ...], dy: Array
) -> tuple[Any, ...]:
    x, step, apply = residuals
    low, high = value_at(minimum, step), value_at(maximum, step)
    turned = jnp.where((dy > 0) & (x < low), -dy, dy)
    turned = jnp.where((turned < 0) & (x > high), -turned, turned)
    return jnp.where(apply > 0, turned, dy), None, None


limit_param_value.defvjp(lambda *args: (args[0], args[:3]), _limit_param_value_bwd)


def push_back(
    x: Float[Array, "*shape"], limit: Scalar | float, penalty: Scalar | float
) -> Float[Array, "*shape"]:
    """The gradient of `penalty * sum(relu(|x| - limit))` (official penalize_abs_values_gt)."""
    return jnp.where(jnp.abs(x) > limit, penalty * jnp.sign(x), 0.0)

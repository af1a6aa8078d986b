"""Training-only gradient hooks: the identity forward, a changed gradient backward.

Pure functions of (input, limits, `apply`): `apply` is 1.0 where the hook acts in this step
and 0.0 where it doesn't; a hook that doesn't act costs nothing but the branch. What a hook
computes is under `jax.jit`, by which all hooks of one shape are traced once: each stack has some
dozens, and without it a training step takes a fifth longer to trace and lower.
Official: zipvoice/models/modules/scaling.py.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Scalar = Float[Array, ""]


def _frames(x: Array, mask: Bool[Array, "..."] | None) -> tuple[Array, Array]:
    """Flattens to (frames, channels) float32 with a weight per frame (0.0 for padding)."""
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    if mask is None:
        return flat, jnp.ones((flat.shape[0], 1), jnp.float32)
    return flat, 1.0 - mask.reshape(-1, 1).astype(jnp.float32)


def mean_limit(proportion_positive: Scalar) -> Scalar:
    """Mean over standard deviation of a normal variable that is positive this often."""
    x = 2.0 * proportion_positive - 1.0
    eps = 1e-10
    return 0.8139535143 * (jnp.log(1.0 + x + eps) - jnp.log(1.0 - x + eps)) / 2.0


def rms_limit(mean_abs: Scalar) -> Scalar:
    """Root mean square of a normal variable with this mean absolute value."""
    return 1.25331413732 * mean_abs


@jax.custom_vjp
def balancer(
    x: Float[Array, "*frames channels"],
    mask: Bool[Array, "*frames"] | None,
    min_mean: Scalar,
    max_mean: Scalar,
    min_rms: Scalar,
    max_rms: Scalar,
    grad_scale: Scalar,
    apply: Scalar,
) -> Float[Array, "*frames channels"]:
    """Nudges each channel's mean/stddev and RMS into limits through the gradient.

    Args:
        x: activations; statistics are per channel over the frames.
        mask: True for frames of padding, which take no part; None for no padding.
        min_mean: least mean/stddev (see `mean_limit`).
        max_mean: greatest mean/stddev.
        min_rms: least RMS (see `rms_limit`).
        max_rms: greatest RMS.
        grad_scale: strength relative to the incoming gradient.
        apply: 1.0 to act, 0.0 to pass the gradient on.
    """
    return x


def _balancer_push(
    x: Float[Array, "frames channels"],
    weight: Float[Array, "frames 1"],
    limits: tuple[Scalar, Scalar, Scalar, Scalar],
) -> Float[Array, "frames channels"]:
    """The gradient, of root mean square 1 per channel, of what the limits are exceeded by.

    The official loss of a channel is the excess of m = mean / stddev and of |log rms|. Both depend
    on the channel's mean and mean square alone, so its gradient is a + b * (x - mean).
    """
    min_mean, max_mean, min_rms, max_rms = limits
    count = jnp.maximum(weight.sum(), 1.0)
    square = (x**2 * weight).sum(0) / count
    mean = (x * weight).sum(0) / count
    variance = jnp.maximum(square - mean * mean, 1e-20)
    stddev, rms = jnp.sqrt(variance), jnp.sqrt(jnp.maximum(square, 1e-20))
    m = mean / stddev
    side = jnp.where(m > max_mean, 1.0, 0.0) - jnp.where(m < min_mean, 1.0, 0.0)
    # d m / d x = (1 - m (x - mean) / stddev) / (n stddev); it is flat where stddev is clipped.
    curve = jnp.where(square - mean * mean > 1e-20, m / variance, 0.0)
    # d log(rms) / d x = x / (n rms^2)
    size = jnp.where(rms > max_rms, 1.0, 0.0) - jnp.where(rms < min_rms, 1.0, 0.0)
    size = jnp.where(square > 1e-20, size / jnp.maximum(square, 1e-20), 0.0)
    a, b = side / stddev + size * mean, size - side * curve
    # Centred, since channels of small variance would lose their digits otherwise.
    centred = x - mean[None, :]
    spread = (centred**2 * weight).sum(0) / count
    push_rms = jnp.sqrt(a * a + b * b * spread) / count
    unit = 1.0 / (count * jnp.maximum(push_rms, 1e-20))
    return ((a * unit)[None, :] + (b * unit)[None, :] * centred) * weight


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


def _balancer_bwd(residuals: tuple[Any, ...], dy: Array) -> tuple[Any, ...]:
    x, mask, *limits, grad_scale, apply = residuals
    dx = when(apply, lambda dy: _balanced(dy, x, mask, tuple(limits), grad_scale), dy)
    return (dx, None, *(jnp.zeros_like(v) for v in (*limits, grad_scale, apply)))


balancer.defvjp(lambda x, *rest: (x, (x, *rest)), _balancer_bwd)


def whitening_metric(
    x: Float[Array, "frames channels"], weight: Float[Array, "frames 1"], groups: int
) -> Scalar:
    """1.0 if the centred covariance of each channel group is a multiple of the identity."""
    channels = x.shape[-1] // groups
    mean = (x * weight).sum(0) / jnp.maximum(weight.sum(), 1.0)
    centred = ((x - mean[None, :]) * weight).reshape(-1, groups, channels)
    covar = jnp.einsum("ngc,ngd->gcd", centred, centred, precision="highest")
    diagonal = jnp.diagonal(covar, axis1=1, axis2=2).mean()
    square = (covar**2).sum() / (groups * channels)
    return square / (diagonal**2 + 1e-20)


@jax.custom_vjp
def whiten(
    x: Float[Array, "*frames channels"],
    mask: Bool[Array, "*frames"] | None,
    groups: Float[Array, " groups"],
    limit: Scalar,
    grad_scale: Scalar,
    apply: Scalar,
) -> Float[Array, "*frames channels"]:
    """Pushes the feature covariance towards a multiple of the identity where it is over a limit.

    Args:
        x: activations.
        mask: True for frames of padding, which take no part; None for no padding.
        groups: an array whose length is the number of channel groups.
        limit: acts only where `whitening_metric` is at least this.
        grad_scale: norm of the added gradient relative to the incoming one.
        apply: 1.0 to act, 0.0 to pass the gradient on.
    """
    return x


@jax.jit
def _whitened(
    dy: Array, x: Array, mask: Array | None, groups: Array, limit: Scalar, grad_scale: Scalar
) -> Array:
    flat, weight = _frames(x, mask)
    metric, push = jax.value_and_grad(whitening_metric)(flat, weight, groups.shape[0])
    wide = dy.astype(jnp.float32)
    scale = grad_scale * jnp.linalg.norm(wide.ravel())
    scale = jnp.where(metric >= limit, scale / (jnp.linalg.norm(push.ravel()) + 1e-20), 0.0)
    return (wide + (push * scale).reshape(x.shape)).astype(dy.dtype)


def _whiten_bwd(residuals: tuple[Any, ...], dy: Array) -> tuple[Any, ...]:
    x, mask, groups, limit, grad_scale, apply = residuals
    dx = when(apply, lambda dy: _whitened(dy, x, mask, groups, limit, grad_scale), dy)
    return (dx, None, *(jnp.zeros_like(v) for v in (groups, limit, grad_scale, apply)))


whiten.defvjp(lambda x, *rest: (x, (x, *rest)), _whiten_bwd)


@jax.custom_vjp
def limit_param_value(
    x: Float[Array, "*shape"], minimum: Scalar, maximum: Scalar, apply: Scalar
) -> Float[Array, "*shape"]:
    """Turns gradients round that would drive a parameter further out of its range."""
    return x


def _limit_param_value_bwd(residuals: tuple[Any, ...], dy: Array) -> tuple[Any, ...]:
    x, minimum, maximum, apply = residuals
    turned = jnp.where((dy > 0) & (x < minimum), -dy, dy)
    turned = jnp.where((turned < 0) & (x > maximum), -turned, turned)
    dx = jnp.where(apply > 0, turned, dy)
    return (dx, *(jnp.zeros_like(v) for v in (minimum, maximum, apply)))


limit_param_value.defvjp(lambda x, *rest: (x, (x, *rest)), _limit_param_value_bwd)


@jax.custom_vjp
def penalize_abs_values_gt(
    x: Float[Array, "*shape"], limit: Scalar, penalty: Scalar, apply: Scalar
) -> Float[Array, "*shape"]:
    """Adds `penalty * sum(relu(|x| - limit))` to the loss, through the gradient alone."""
    return x


def push_back(
    x: Float[Array, "*shape"], limit: Scalar | float, penalty: Scalar | float
) -> Float[Array, "*shape"]:
    """The gradient of `penalty * sum(relu(|x| - limit))`."""
    return jnp.where(jnp.abs(x) > limit, penalty * jnp.sign(x), 0.0)


def _penalize_abs_values_gt_bwd(residuals: tuple[Any, ...], dy: Array) -> tuple[Any, ...]:
    x, limit, penalty, apply = residuals
    push = push_back(x, limit, apply * penalty)
    return (dy + push.astype(dy.dtype), *(jnp.zeros_like(v) for v in (limit, penalty, apply)))


penalize_abs_values_gt.defvjp(lambda x, *rest: (x, (x, *rest)), _penalize_abs_values_gt_bwd)

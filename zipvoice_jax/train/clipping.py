"""Clipping of gradients by their norm, and ScaledAdam's rule for the threshold."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_EARLY_UPDATES = (10, 20, 40)  # at which a threshold is first estimated, from few norms
_EARLY_SLACK = 2.0  # factor on those thresholds, as norms change fast early on


def new_threshold(
    count: Int[Array, ""],
    model_norms: Float[Array, " clipping_update_period"],
    threshold: Float[Array, ""],
    clipping_scale: float,
) -> Float[Array, ""]:
    """The clipping threshold, renewed at a few early updates and then once in a period.

    An early one is from the last `count` entries in rising order, all the norms that there are.
    """
    period = model_norms.shape[0]
    ordered = jnp.sort(model_norms)

    def median(last: int) -> Array:
        return ordered[period - last + min(last - 1, last // 4 * 2)]

    renewals = [
        (count == early, _EARLY_SLACK * clipping_scale * median(early))
        for early in _EARLY_UPDATES
        if early < period
    ]
    renewals.append(((count > 0) & (count % period == 0), clipping_scale * median(period)))
    for is_due, renewed in renewals:
        threshold = jnp.where(is_due & jnp.isfinite(renewed), renewed, threshold)
    return threshold


def clip_factor(norm: Float[Array, ""], threshold: Float[Array, ""]) -> Float[Array, ""]:
    """What a gradient of this norm is to be multiplied by; 0 where it is not finite."""
    factor = jnp.minimum(1.0, threshold / (norm + 1e-20))
    return jnp.where(jnp.isfinite(norm), factor, 0.0)


def clipped(grads: Any, factor: Float[Array, ""]) -> Any:
    """Gradients times the factor; zeros where it is 0, whatever they were."""
    return jax.tree.map(lambda g: jnp.where(factor > 0, g * factor, 0.0), grads)

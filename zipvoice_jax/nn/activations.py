"""Swoosh activations (zipvoice/models/modules/scaling.py), computed in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # Above 30 log(1 + e^x) equals x in float32. One exp and one log, no branches: several
    # times cheaper than logaddexp where elementwise work counts.
    return jnp.where(x > 30.0, x, jnp.log(1.0 + jnp.exp(jnp.minimum(x, 30.0))))


@jax.custom_jvp
def swoosh_l(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + exp(x - 4)) - 0.08 x - 0.035."""
    wide = x.astype(jnp.float32)
    return (_softplus(wide - 4.0) - 0.08 * wide - 0.035).astype(x.dtype)


@jax.custom_jvp
def swoosh_r(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + exp(x - 1)) - 0.08 x - 0.313261687."""
    wide = x.astype(jnp.float32)
    return (_softplus(wide - 1.0) - 0.08 * wide - 0.313261687).astype(x.dtype)


def _tangent(x: Float[Array, "*shape"], dx: Float[Array, "*shape"], shift: float) -> Array:
    slope = jax.nn.sigmoid(x.astype(jnp.float32) - shift) - 0.08
    return (slope * dx.astype(jnp.float32)).astype(x.dtype)


swoosh_l.defjvp(lambda x, dx: (swoosh_l(x[0]), _tangent(x[0], dx[0], 4.0)))
swoosh_r.defjvp(lambda x, dx: (swoosh_r(x[0]), _tangent(x[0], dx[0], 1.0)))

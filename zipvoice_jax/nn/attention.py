"""Attention weights with relative positions, and the three modules of a layer that use them.

Official: RelPositionMultiheadAttentionWeights, SelfAttention and NonlinAttention in
zipvoice/models/modules/zipformer.py. Layout is (batch, frames, channels).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.nn.layers import Frames, Linear, Mask
from zipvoice_jax.nn.scores import AttentionProbs, attention_weights
from zipvoice_jax.nn.training import Balancer, StepContext, Whiten


def project_positions(
    encoding: Float[Array, "offsets pos_dim"],
    kernel: Float[Array, "*layers pos_dim projected"],
    num_heads: int,
) -> Float[Array, "*layers heads pos_head_dim offsets"]:
    """Projects positional encodings by `linear_pos`, of one layer or of stacked layers."""
    projected = jnp.matmul(encoding.astype(kernel.dtype), kernel)
    projected = jnp.swapaxes(projected, -1, -2)
    return projected.reshape(*projected.shape[:-2], num_heads, -1, projected.shape[-1])


class AttentionWeights(nn.Module):
    """Softmax of content and position scores, for several users in a layer."""

    num_heads: int
    query_head_dim: int
    pos_head_dim: int
    pos_dim: int
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Frames,
        encoding: Float[Array, "offsets pos_dim"] | None,
        positions: Float[Array, "heads pos_head_dim offsets"] | None,
        mask: Mask | None,
        ctx: StepContext | None,
    ) -> AttentionProbs:
        """Attention weights over the sources that are no padding.

        Args:
            x: the layer's input.
            encoding: positional encodings; not needed if `positions` is given.
            positions: `project_positions` of them, computed beforehand.
            mask: True for padding.
            ctx: training step, or None.
        """
        batch, frames, dim = x.shape
        heads, query_dim, pos_dim = self.num_heads, self.query_head_dim, self.pos_head_dim
        total = heads * (2 * query_dim + pos_dim)
        scale = query_dim**-0.25
        x = Linear(dim, total, dtype=self.dtype, name="in_proj", scale=scale)(x)
        q, k, p = jnp.split(x, [heads * query_dim, 2 * heads * query_dim], axis=-1)
        k = Balancer(min_positive=0.4, max_positive=0.6, min_abs=0.0, max_abs=100.0, prob=0.025)(
            k, ctx, "balance_keys", mask
        )
        k = Whiten(3.0, groups=heads, grad_scale=0.025)(k, ctx, "whiten_keys", mask)

        q, k, p = (jnp.swapaxes(y.reshape(batch, frames, heads, -1), 1, 2) for y in (q, k, p))
        kernel = _PositionKernel(heads * pos_dim, name="linear_pos")(self.pos_dim)
        if positions is None:
            assert encoding is not None
            positions = project_positions(encoding, kernel, heads)
        keep_positions, penalize = jnp.float32(1.0), None
        if ctx is not None:
            skip = ctx.chance("pos_emb_skip", PiecewiseLinear(((0.0, 0.5), (4000.0, 0.0))))
            keep_positions, penalize = 1.0 - skip, ctx.chance("penalize", 0.1)

        return attention_weights(q, k, p, positions.astype(p.dtype), mask, keep_positions, penalize)


class _PositionKernel(nn.Module):
    """Holds the kernel of `linear_pos`, which is applied to encodings, not to frames."""

    projected: int

    @nn.compact
    def __call__(self, pos_dim: int) -> Array:
        init = nn.initializers.variance_scaling(0.05**2 / 3.0, "fan_in", "uniform")
        return self.param("kernel", init, (pos_dim, self.projected))


class SelfAttention(nn.Module):
    """Values mixed by attention weights."""

    num_heads: int
    value_head_dim: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Frames, weights: AttentionProbs, mask: Mask | None, ctx: StepContext | None
    ) -> Frames:
        """The module's output, to be added to its input."""
        batch, frames, dim = x.shape
        inner = self.num_heads * self.value_head_dim
        v = Linear(dim, inner, dtype=self.dtype, name="in_proj")(x)
        v = jnp.swapaxes(v.reshape(batch, frames, self.num_heads, -1), 1, 2)
        # A product with one batch axis: with two, the CPU backend widens bfloat16 to float32.
        mixed = jnp.matmul(*(y.reshape(batch * self.num_heads, frames, -1) for y in (weights, v)))
        mixed = mixed.reshape(batch, self.num_heads, frames, -1)
        x = jnp.swapaxes(mixed, 1, 2).reshape(batch, frames, inner)
        x = Linear(inner, dim, dtype=self.dtype, name="out_proj", scale=0.05)(x)
        return Whiten(7.5, ratio=3.0)(x, ctx, "whiten", mask)


class NonlinAttention(nn.Module):
    """A gated module that mixes frames by the first head's attention weights."""

    dtype: Any

    @nn.compact
    def __call__(
        self, x: Frames, weights: AttentionProbs, mask: Mask | None, ctx: StepContext | None
    ) -> Frames:
        """The module's output, to be added to its input; `weights` has one head."""
        dim = x.shape[-1]
        hidden = 3 * dim // 4
        x = Linear(dim, 3 * hidden, dtype=self.dtype, name="in_proj")(x)
        s, x, y = jnp.split(x, 3, axis=-1)
        s = Balancer(
            min_positive=PiecewiseLinear(((0.0, 0.25), (20000.0, 0.05))),
            max_positive=PiecewiseLinear(((0.0, 0.75), (20000.0, 0.95))),
            min_abs=0.5,
            max_abs=5.0,
        )(s, ctx, "balancer", mask)
        x = Whiten(5.0)(x, ctx, "whiten1", mask) * jnp.tanh(s)
        x = jnp.einsum("bts,bsc->btc", weights[:, 0], x) * y
        x = Linear(hidden, dim, dtype=self.dtype, name="out_proj", scale=0.05)(x)
        return Whiten(5.0, ratio=3.0)(x, ctx, "whiten2", mask)


def constant_weights(weights: AttentionProbs) -> AttentionProbs:
    """The same weight for every source that has any: an average over time."""
    reached: Bool[Array, ...] = weights > 0
    count = jnp.sum(reached, axis=-1, keepdims=True, dtype=jnp.float32)
    return (reached.astype(jnp.float32) / jnp.maximum(count, 1.0)).astype(weights.dtype)

"""Attention weights by content and relative position, as a compiler for TPUs likes them.

Official: the end of RelPositionMultiheadAttentionWeights.forward in
zipvoice/models/modules/zipformer.py, which makes scores by offset for all pairs and reads them by
source through a strided view. Here the few channels of the positions are slanted instead, once
for all items: row j of `slanted` is moved by j, so that a block of targets finds what it needs
in a plain slice, and the scores by position are four products and sums beside the content's.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zipvoice_jax.nn import hooks
from zipvoice_jax.nn.hooks import Scalar

Queries = Float[Array, "batch heads frames query"]
AttentionProbs = Float[Array, "batch heads frames frames"]

# Targets that are done at once: the scores of a block stay in fast memory, and its slice begins
# at a multiple of a TPU's 128 lanes wherever the number of frames is one.
_BLOCK = 128
# Exactly zero after softmax, and no NaN where every source is padding.
_MASKED = -1e30
# Scores are kept from growing beyond this, with this strength (officially the same).
_SCORE_LIMIT, _PENALTY = 25.0, 1e-4


def slanted(
    positions: Float[Array, "heads pos offsets"], rows: int
) -> Float[Array, "heads pos rows places"]:
    """Row j holds, at index v, the position at offset v + rows - 1 - j.

    Args:
        positions: by offset (source - target + frames - 1).
        rows: a power of two.
    """
    y = positions[:, :, None]
    while (made := y.shape[2]) < rows:
        y = jnp.concatenate([y[..., made:], y[..., :-made]], axis=2)
    return y


def _blocks(frames: int) -> tuple[int, int]:
    """How many targets a block has, and how many blocks there are, the last one overlapping."""
    rows = min(_BLOCK, 1 << (frames.bit_length() - 1))
    return rows, -(-frames // rows)


def _begin(block: Array, frames: int, rows: int) -> tuple[Array, Array]:
    """A block's first target, and which of its targets are no other block's.

    Blocks are counted from the end, so that their slices begin at multiples of `rows`.
    """
    wished = frames - rows * (block + 1)
    begin = jnp.maximum(wished, 0)
    return begin, begin + jnp.arange(rows) < wished + rows


def _part(x: Array, begin: Array, rows: int, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, begin, rows, axis)


def _put(whole: Array, part: Array, begin: Array, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, part.astype(whole.dtype), begin, axis)


def _add(whole: Array, part: Array, begin: Array, axis: int) -> Array:
    return _put(whole, _part(whole, begin, part.shape[axis], axis) + part, begin, axis)


def _einsum(products: str, x: Array, y: Array) -> Array:
    """Products for each item and head.

    The CPU backend widens bfloat16 to float32 unless the two are one axis; the TPU's works better
    with two.
    """

    def merged(x: Array, y: Array) -> Array:
        z = jnp.einsum(products, *(a.reshape(-1, *a.shape[2:]) for a in (x, y)))
        return z.reshape(*x.shape[:2], *z.shape[1:])

    def apart(x: Array, y: Array) -> Array:
        return jnp.einsum(products.replace("n", "bh"), x, y)

    return jax.lax.platform_dependent(x, y, cpu=merged, default=apart)


def _scores(
    q: Float[Array, "batch heads rows query"],
    k: Queries,
    p: Float[Array, "batch heads rows pos"],
    positions: Float[Array, "heads pos rows frames"],
    keep_positions: Scalar,
) -> Float[Array, "batch heads rows frames"]:
    # In bfloat16 the product is rounded as it is stored; the sum and the softmax are float32.
    content = _einsum("ntd,nsd->nts", q, k).astype(jnp.float32)
    p, positions = p.astype(jnp.float32), positions.astype(jnp.float32)
    by_position = sum(p[..., i, None] * positions[None, :, i] for i in range(p.shape[-1]))
    return content + by_position * keep_positions


@jax.custom_vjp
def attention_weights(
    q: Queries,
    k: Queries,
    p: Float[Array, "batch heads frames pos"],
    positions: Float[Array, "heads pos offsets"],
    mask: Bool[Array, "batch frames"] | None,
    keep_positions: Scalar,
    penalize: Scalar | None,
) -> AttentionProbs:
    """Attention weights over the sources that are no padding.

    The backward pass of its own keeps the weights alone, where the derived one keeps much more.
    There, scores beyond 25 are pushed back (`hooks.push_back`).

    Args:
        q: queries.
        k: keys.
        p: queries of the positions.
        positions: projected positions, by offset.
        mask: True for padding.
        keep_positions: 0.0 leaves the positions out.
        penalize: 1.0 where the hook acts; None outside training.
    """
    batch, heads, frames, _ = q.shape
    rows, count = _blocks(frames)
    slants = slanted(positions, rows)

    def block(number: Array, weights: Array) -> Array:
        begin, _ = _begin(number, frames, rows)
        part = _part(slants, frames - rows - begin, frames, 3)
        scores = _scores(
            _part(q, begin, rows, 2), k, _part(p, begin, rows, 2), part, keep_positions
        )
        if mask is not None:
            scores = jnp.where(mask[:, None, None, :], _MASKED, scores)
        return _put(weights, jax.nn.softmax(scores, axis=-1), begin, 2)

    empty = jax.lax.empty((batch, heads, frames, frames), q.dtype)
    return jax.lax.fori_loop(0, count, block, empty)


def _forward(*args: Any) -> tuple[Array, tuple[Any, ...]]:
    weights = attention_weights(*args)
    return weights, (*args, weights)


def _backward(residuals: tuple[Any, ...], dy: Array) -> tuple[Any, ...]:
    q, k, p, positions, mask, keep_positions, penalize, weights = residuals
    batch, _, frames, _ = q.shape
    rows, count = _blocks(frames)
    slants = slanted(positions, rows)
    # Gathered for each item, and summed over items once: within the loop, devices that share
    # out the batch would have to add up block by block.
    straighten = jax.linear_transpose(
        lambda x: slanted(x, rows), jax.ShapeDtypeStruct(positions.shape, jnp.float32)
    )

    def block(number: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        dq, dk, dp, dslants = sums
        begin, own = _begin(number, frames, rows)
        offset = frames - rows - begin
        part, p_part = _part(slants, offset, frames, 3), _part(p, begin, rows, 2)
        q_part = _part(q, begin, rows, 2)
        w = _part(weights, begin, rows, 2).astype(jnp.float32)
        dw = _part(dy, begin, rows, 2).astype(jnp.float32)
        ds = w * (dw - jnp.sum(dw * w, axis=-1, keepdims=True))
        if penalize is not None:

            def pushed(ds: Array) -> Array:
                scores = _scores(q_part, k, p_part, part, keep_positions)
                if mask is not None:
                    padding = mask[:, None, :] | _part(mask, begin, rows, 1)[:, :, None]
                    scores = jnp.where(padding[:, None], 0.0, scores)
                return ds + hooks.push_back(scores, _SCORE_LIMIT, _PENALTY)

            ds = hooks.when(penalize, pushed, ds)
        ds = jnp.where(own[:, None], ds, 0.0)
        content, by_position = ds.astype(q.dtype), ds * keep_positions
        p_part, part = p_part.astype(jnp.float32), part.astype(jnp.float32)
        channels = range(p.shape[-1])
        of_p = [jnp.sum(by_position * part[None, :, i], axis=-1) for i in channels]
        of_slants = [by_position * p_part[..., i, None] for i in channels]
        return (
            _add(dq, _einsum("nts,nsd->ntd", content, k).astype(jnp.float32), begin, 2),
            dk + _einsum("nts,ntd->nsd", content, q_part).astype(jnp.float32),
            _add(dp, jnp.stack(of_p, axis=-1), begin, 2),
            _add(dslants, jnp.stack(of_slants, axis=2), offset, 4),
        )

    shapes = (q.shape, k.shape, p.shape, (batch, *slants.shape))
    zeros = tuple(jnp.zeros(shape, jnp.float32) for shape in shapes)
    dq, dk, dp, dslants = jax.lax.fori_loop(0, count, block, zeros)
    (by_item,) = jax.vmap(straighten)(dslants)
    return (
        dq.astype(q.dtype),
        dk.astype(k.dtype),
        dp.astype(p.dtype),
        by_item.sum(0).astype(positions.dtype),
        None,
        # Random choices of the step: nothing asks for their gradients.
        jnp.zeros_like(keep_positions),
        None if penalize is None else jnp.zeros_like(penalize),
    )


attention_weights.defvjp(_forward, _backward)

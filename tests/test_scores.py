"""Attention weights in blocks: the same as written out for all pairs, forwards and backwards."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zipvoice_jax.nn.scores import attention_weights, slanted

BATCH, HEADS, QUERY, POS = 2, 3, 5, 4


@jax.custom_vjp
def held(scores: jax.Array, penalize: jax.Array) -> jax.Array:
    """Scores whose gradient has that of 1e-4 * sum(relu(|scores| - 25)) added."""
    return scores


def held_bwd(residuals: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[Any, Any]:
    scores, penalize = residuals
    push = jnp.where(jnp.abs(scores) > 25.0, 1e-4 * penalize * jnp.sign(scores), 0.0)
    return dy + push, None


held.defvjp(lambda *args: (args[0], args), held_bwd)


def plain(q: Any, k: Any, p: Any, positions: Any, mask: Any, keep: Any, penalize: Any) -> Any:
    frames = q.shape[2]
    offsets = np.arange(frames)[None, :] - np.arange(frames)[:, None] + frames - 1
    by_source = jnp.moveaxis(positions[:, :, offsets], 1, -1)  # heads, targets, sources, channels
    scores = jnp.einsum("bhtd,bhsd->bhts", q, k) + keep * jnp.einsum(
        "bhtp,htsp->bhts", p, by_source
    )
    both = (mask[:, None, :] | mask[:, :, None])[:, None]
    scores = jnp.where(both, scores, held(jnp.where(both, 0.0, scores), penalize))
    return jax.nn.softmax(jnp.where(mask[:, None, None, :], -1e30, scores), axis=-1)


@jax.jit
def both(inputs: Any, rest: Any, cotangent: jax.Array) -> Any:
    """The weights in blocks and of all pairs, and what each gives back."""
    found, back = jax.vjp(lambda *args: attention_weights(*args, *rest), *inputs)
    expected, plain_back = jax.vjp(lambda *args: plain(*args, *rest), *inputs)
    return (found, back(cotangent)), (expected, plain_back(cotangent))


@pytest.mark.parametrize("frames", [1, 2, 7, 64, 100, 128, 200, 300])
@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_blocks_give_what_all_pairs_give(frames: int, keep: float) -> None:
    rng = np.random.default_rng(frames)

    def some(*shape: int, size: float = 1.0) -> jax.Array:
        return jnp.asarray(size * rng.standard_normal(shape), jnp.float32)

    q, k = (some(BATCH, HEADS, frames, QUERY, size=3.0) for _ in "qk")
    p, positions = some(BATCH, HEADS, frames, POS), some(HEADS, POS, 2 * frames - 1)
    lengths = np.array([frames, max(1, frames - 5)])
    mask = jnp.asarray(np.arange(frames)[None] >= lengths[:, None])
    rest = (mask, jnp.float32(keep), jnp.float32(1.0))
    cotangent = some(BATCH, HEADS, frames, frames)

    (found, back), (expected, plain_back) = both((q, k, p, positions), rest, cotangent)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)
    for ours, theirs in zip(back, plain_back, strict=True):
        assert np.linalg.norm(ours - theirs) <= 2e-5 * np.linalg.norm(theirs) + 1e-6


def test_slanted_rows() -> None:
    positions = jnp.arange(2 * 3 * 21.0).reshape(2, 3, 21)
    rows = slanted(positions, 8)
    for j in range(8):
        np.testing.assert_array_equal(rows[:, :, j], positions[:, :, 7 - j : 21 - j])

"""Fixed embeddings: of time, and of the distance between two frames."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def timestep_embedding(
    t: Float[Array, "*batch"], dim: int, max_period: float = 10000.0
) -> Float[Array, "*batch dim"]:
    """Sinusoids of t: cosines, then sines, then a zero if `dim` is odd.

    Official: timestep_embedding in zipvoice/models/modules/zipformer.py.
    """
    half = dim // 2
    frequency = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    frequency = frequency.reshape((1,) * t.ndim + (half,))
    angle = t.astype(jnp.float32)[..., None] * frequency
    embedding = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return jnp.pad(embedding, ((0, 0),) * t.ndim + ((0, dim % 2),))


def relative_positions(frames: int, dim: int) -> Float[Array, "offsets dim"]:
    """Encodings of the offsets -(frames - 1) ... frames - 1.

    Offsets are compressed by a logarithm and an arc tangent before the Fourier transform, so
    that near ones stay distinct and far ones blur. Official: CompactRelPositionalEncoding,
    length_factor 1.

    Args:
        frames: length of the sequence.
        dim: even size of an encoding; its last entry is 1, for a bias.
    """
    offset = jnp.arange(-(frames - 1), frames, dtype=jnp.float32)
    compression = dim**0.5
    squeezed = jnp.log(jnp.abs(offset) + compression) - math.log(compression)
    angle = jnp.arctan(jnp.sign(offset) * squeezed * (compression * 2.0 * math.pi / dim))
    phase = angle[:, None] * jnp.arange(1, dim // 2 + 1, dtype=jnp.float32)[None, :]
    encoding = jnp.stack([jnp.cos(phase), jnp.sin(phase)], axis=-1).reshape(-1, dim)
    return encoding.at[:, -1].set(1.0)

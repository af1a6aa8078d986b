"""The aligner: how each token of a text sounds, how well that fits each frame, and the loss.

After Badlani et al. 2021, "One TTS alignment to rule them all" (arXiv 2108.10447): scores are
negative squared distances, a prior favours the diagonal, the loss sums over all monotone paths.
Unlike there, frames are not mapped into a learned space, where the aligner of a small dataset
learns to assign most frames to a few tokens. They stay cepstra, whose likelihood each token has to
explain, as in a hidden Markov model with a Gaussian for each token in its context.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import betaln, gammaln
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.align.config import AlignConfig

CEPSTRA = 20
CONCENTRATION = 100.0  # of the prior; its spread is about 8 % of 60 tokens, 5 % of 600
_NEVER = -1e4  # score of a padding token; finite, so that gradients are finite


class Aligner(nn.Module):
    """How likely each frame of speech is for each token of its text.

    Attributes:
        config: the aligner's settings.
        vocab_size: number of tokens in the table.
    """

    config: AlignConfig
    vocab_size: int

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "rows frames bins"],
        frame_mask: Bool[Array, "rows frames"],
        tokens: Int[Array, "rows tokens"],
        token_mask: Bool[Array, "rows tokens"],
    ) -> Float[Array, "rows frames tokens"]:
        """Scores each token at each frame.

        Args:
            features: log-mel features, at any level.
            frame_mask: True for real frames.
            tokens: token ids.
            token_mask: True for real tokens.

        Returns:
            The log density of each frame for each token, up to a constant: half the negative
            squared distance to the mean of the token in its context.
        """
        width = self.config.width
        frames = acoustics(features, frame_mask)
        real = token_mask.astype(jnp.float32)[..., None]
        alone = nn.Embed(self.vocab_size, width, name="alone")(tokens)
        texts = nn.Embed(self.vocab_size, width, name="embedding")(tokens) * real
        texts = nn.relu(nn.Conv(width, (3,), name="context")(texts))
        texts = nn.Dense(frames.shape[2], name="out")(jnp.concatenate([texts, alone], axis=2))
        spread = self.param("log_spread", nn.initializers.zeros, (frames.shape[2],))
        scale = jnp.exp(-spread)[None, None, :]
        frames, texts = frames * scale, texts * scale
        products = jnp.einsum("rfs,rts->rft", frames, texts)
        squares = jnp.sum(frames**2, axis=2)[:, :, None] + jnp.sum(texts**2, axis=2)[:, None, :]
        return products - squares / 2.0 - jnp.sum(spread)


def acoustics(
    features: Float[Array, "rows frames bins"], frame_mask: Bool[Array, "rows frames"]
) -> Float[Array, "rows frames dimensions"]:
    """Cepstra and their slopes, each with mean 0 and variance 1 over an utterance.

    This removes most of a voice's timbre, the level and the channel. Slopes are regressions over
    two frames on either side.

    Args:
        features: log-mel features.
        frame_mask: True for real frames.

    Returns:
        2 * `CEPSTRA` dimensions; 0 at padding.
    """
    bins = features.shape[2]
    angles = math.pi * (np.arange(bins)[:, None] + 0.5) * np.arange(CEPSTRA)[None, :] / bins
    cosines = jnp.asarray(np.cos(angles) / math.sqrt(bins), jnp.float32)
    real = frame_mask.astype(jnp.float32)[..., None]
    cepstra = normalised(features @ cosines, real)
    padded = jnp.pad(cepstra, ((0, 0), (2, 2), (0, 0)))
    slopes = 2.0 * (padded[:, 4:] - padded[:, :-4]) + padded[:, 3:-1] - padded[:, 1:-3]
    return jnp.concatenate([cepstra, normalised(slopes, real)], axis=2)


def normalised(
    values: Float[Array, "rows frames dimensions"], real: Float[Array, "rows frames 1"]
) -> Float[Array, "rows frames dimensions"]:
    """Normalises each dimension to mean 0 and variance 1 over the real frames; padding is 0."""
    count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1.0)
    centred = (values - jnp.sum(values * real, axis=1, keepdims=True) / count) * real
    variance = jnp.sum(centred**2, axis=1, keepdims=True) / count
    return centred / jnp.sqrt(variance + 1e-5)


def progress(
    features: Float[Array, "rows frames bins"], frame_mask: Bool[Array, "rows frames"]
) -> Float[Array, "rows frames"]:
    """The share of an utterance's speech that is over at the middle of each frame.

    Frames are weighted by their loudness between the utterance's quietest and loudest, so that
    pauses and the silence at either end, which hold no tokens, hardly count.

    Args:
        features: log-mel features.
        frame_mask: True for real frames.

    Returns:
        Shares from 0 to 1, never decreasing.
    """
    level = jnp.mean(features, axis=2)
    low = jnp.min(jnp.where(frame_mask, level, jnp.inf), axis=1, keepdims=True)
    high = jnp.max(jnp.where(frame_mask, level, -jnp.inf), axis=1, keepdims=True)
    loudness = jnp.where(frame_mask, (level - low) / jnp.maximum(high - low, 1e-3), 0.0)
    weight = jnp.where(frame_mask, loudness**2 + 0.02, 0.0)
    total = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-3)
    return (jnp.cumsum(weight, axis=1) - weight / 2) / total


def diagonal_prior(
    along: Float[Array, "rows frames"], tokens: Int[Array, " rows"], size: int
) -> Float[Array, "rows frames tokens"]:
    """Log-probability of each token at each frame if all tokens were about equally long.

    A beta-binomial distribution over the tokens: a = c p and b = c (1 - p), where p is the
    progress of the speech and c is `CONCENTRATION`.

    Args:
        along: progress at each frame, from 0 to 1.
        tokens: number of tokens of each row.
        size: number of tokens with padding.

    Returns:
        Log-probabilities; arbitrary at padding.
    """
    count = jnp.maximum(tokens.astype(jnp.float32) - 1.0, 0.0)[:, None, None]
    position = jnp.minimum(jnp.arange(size, dtype=jnp.float32)[None, None, :], count)
    along = jnp.clip(along, 1e-3, 1.0 - 1e-3)[:, :, None]
    a, b = CONCENTRATION * along, CONCENTRATION * (1.0 - along)
    ways = gammaln(count + 1.0) - gammaln(position + 1.0) - gammaln(count - position + 1.0)
    return ways + betaln(position + a, count - position + b) - betaln(a, b)


def forward_sum_loss(
    scores: Float[Array, "rows frames tokens"],
    frames: Int[Array, " rows"],
    tokens: Int[Array, " rows"],
    *,
    blank: float,
) -> Float[Array, " rows"]:
    """Negative logarithm of the sum over all monotone paths through all tokens.

    Each token takes one or more consecutive frames; a path is weighted by the product of
    exp(score) over its frames. This is the CTC loss for the labels 1, 2, 3 ... with a blank that
    is too unlikely to matter. CTC divides each frame's exp(score) by their sum; this is undone,
    since the scores are densities already.

    Args:
        scores: log densities, of any magnitude.
        frames: number of frames of each row; at least `tokens`.
        tokens: number of tokens of each row.
        blank: logarithm of the blank's share of a frame.

    Returns:
        The loss per frame, in nats; 0 for an empty row.
    """
    rows, size, width = scores.shape
    beyond = jnp.arange(width)[None, :] >= tokens[:, None]
    late = jnp.arange(size)[None, :] >= frames[:, None]
    scores = jnp.where(beyond[:, None, :], _NEVER, scores.astype(jnp.float32))
    sums = jax.nn.logsumexp(scores, axis=2, keepdims=True)
    logits = jnp.concatenate([jnp.full((rows, size, 1), blank), scores - sums], axis=2)
    labels = jnp.broadcast_to(jnp.arange(1, width + 1)[None, :], (rows, width))
    loss = optax.ctc_loss(logits, late.astype(jnp.float32), labels, beyond.astype(jnp.float32))
    loss = loss - jnp.sum(jnp.where(late, 0.0, sums[:, :, 0]), axis=1)
    count = jnp.maximum(frames, 1).astype(jnp.float32)
    return jnp.where(tokens > 0, loss / count, 0.0)

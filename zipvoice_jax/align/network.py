"""The aligner: tokens and frames in one space, how well they match, and the loss.

After Badlani et al. 2021, "One TTS alignment to rule them all" (arXiv 2108.10447).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import betaln, gammaln
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.align.config import AlignConfig

CONCENTRATION = 100.0  # of the prior; its spread is about 8 % of 60 tokens, 5 % of 600
_NEVER = -1e4  # score of a token that is padding; finite, so that gradients are


class Aligner(nn.Module):
    """How well each token of a text matches each frame of its speech.

    The contexts are small, so that a match stays where the sound is: two frames (21 ms) and one
    token to either side.

    Attributes:
        config: sizes.
        vocab_size: tokens in the table.
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
        """Matches.

        Args:
            features: log-mel of any level; each bin is normalised over its utterance.
            frame_mask: True for real frames.
            tokens: ids.
            token_mask: True for real tokens.

        Returns:
            negative squared distances, a logit for each token at each frame.
        """
        width, size = self.config.width, self.config.size
        frames = normalised(features, frame_mask)
        for number in range(2):
            frames = nn.Conv(width, (3,), name=f"frames_{number}")(frames)
            frames = nn.relu(frames) * frame_mask[..., None]
        frames = nn.Dense(size, name="frames_out")(frames)
        init = nn.initializers.normal(1.0)
        embedding = nn.Embed(self.vocab_size, width, embedding_init=init, name="embedding")
        texts = embedding(tokens)
        texts = texts * token_mask[..., None]
        texts = nn.relu(nn.Conv(width, (3,), name="tokens_0")(texts))
        texts = nn.Dense(size, name="tokens_out")(texts)
        products = jnp.einsum("rfs,rts->rft", frames, texts)
        squares = jnp.sum(frames**2, axis=2)[:, :, None] + jnp.sum(texts**2, axis=2)[:, None, :]
        return (2.0 * products - squares) / size**0.5


def normalised(
    features: Float[Array, "rows frames bins"], frame_mask: Bool[Array, "rows frames"]
) -> Float[Array, "rows frames bins"]:
    """Features with mean 0 and variance 1 of each bin over the real frames; padding is 0."""
    real = frame_mask[..., None].astype(jnp.float32)
    count = jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1.0)
    centred = (features - jnp.sum(features * real, axis=1, keepdims=True) / count) * real
    variance = jnp.sum(centred**2, axis=1, keepdims=True) / count
    return centred / jnp.sqrt(variance + 1e-2)


def progress(
    features: Float[Array, "rows frames bins"], frame_mask: Bool[Array, "rows frames"]
) -> Float[Array, "rows frames"]:
    """What share of an utterance's speech has gone by, at the middle of each frame.

    A frame counts by its loudness between the utterance's quietest and loudest, so that pauses
    and the silence at either end, in which no tokens go by, hardly count.

    Args:
        features: log-mel.
        frame_mask: True for real frames.

    Returns:
        from 0 to 1, never going down.
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
    """Log-probability of each token at each frame if speech were even.

    A beta-binomial distribution over the tokens: a = c p and b = c (1 - p), where p is the
    progress of the speech and c is `CONCENTRATION`.

    Args:
        along: progress at each frame, from 0 to 1.
        tokens: of each row.
        size: tokens with padding.

    Returns:
        log-probabilities; anything at padding.
    """
    count = jnp.maximum(tokens.astype(jnp.float32) - 1.0, 0.0)[:, None, None]
    place = jnp.minimum(jnp.arange(size, dtype=jnp.float32)[None, None, :], count)
    along = jnp.clip(along, 1e-3, 1.0 - 1e-3)[:, :, None]
    a, b = CONCENTRATION * along, CONCENTRATION * (1.0 - along)
    ways = gammaln(count + 1.0) - gammaln(place + 1.0) - gammaln(count - place + 1.0)
    return ways + betaln(place + a, count - place + b) - betaln(a, b)


def forward_sum_loss(
    scores: Float[Array, "rows frames tokens"],
    frames: Int[Array, " rows"],
    tokens: Int[Array, " rows"],
    *,
    blank: float,
) -> Float[Array, " rows"]:
    """Negative log-probability of all ways to speak all tokens in their order.

    A frame has a softmax over the tokens and a blank; each token takes one or more frames in a
    row, and blanks may lie between tokens (the labels 1, 2, 3 ... of CTC).

    Args:
        scores: logits.
        frames: of each row; at least `tokens`.
        tokens: of each row.
        blank: logit of the blank.

    Returns:
        per frame, in nats; 0 for an empty row.
    """
    rows, size, width = scores.shape
    beyond = jnp.arange(width)[None, :] >= tokens[:, None]
    logits = jnp.where(beyond[:, None, :], _NEVER, scores)
    logits = jnp.concatenate([jnp.full((rows, size, 1), blank), logits], axis=2)
    labels = jnp.broadcast_to(jnp.arange(1, width + 1)[None, :], (rows, width))
    late = jnp.arange(size)[None, :] >= frames[:, None]
    loss = optax.ctc_loss(
        logits.astype(jnp.float32), late.astype(jnp.float32), labels, beyond.astype(jnp.float32)
    )
    return jnp.where(tokens > 0, loss / jnp.maximum(frames, 1), 0.0)


def token_log_probabilities(
    scores: Float[Array, "rows frames tokens"], tokens: Int[Array, " rows"]
) -> Float[Array, "rows frames tokens"]:
    """Log-softmax over a row's tokens at each frame."""
    beyond = jnp.arange(scores.shape[2])[None, :] >= tokens[:, None]
    return jax.nn.log_softmax(jnp.where(beyond[:, None, :], _NEVER, scores), axis=2)

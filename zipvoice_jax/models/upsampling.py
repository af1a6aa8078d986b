"""From tokens to frames: which token each frame looks up, by averages or by known boundaries.

A boundary is the frame at which a token begins. `token_starts` holds those of a padded batch;
from position `tokens_lens` on, where the padding token lies, they equal the end of the last token.
Average upsampling, the official rule, is the case of equal whole durations.
"""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_UNITS = 256  # per frame: durations are summed as integers, which padding cannot change


def token_index(
    features_lens: Int[Array, " batch"], tokens_lens: Int[Array, " batch"], num_frames: int
) -> Int[Array, "batch num_frames"]:
    """The token position that each frame looks up, by average upsampling.

    Each token takes `features_len // tokens_len` frames; the remainder at the end belongs to
    position `tokens_len`, the padding token (official: prepare_avg_tokens_durations and
    get_tokens_index in zipvoice/utils/common.py).
    """
    duration = features_lens // jnp.maximum(tokens_lens, 1)
    frame = jnp.arange(num_frames)[None, :]
    index = frame // jnp.maximum(duration, 1)[:, None]
    # More tokens than frames: every duration is 0 and all frames are the remainder.
    index = jnp.where(duration[:, None] > 0, index, tokens_lens[:, None])
    return jnp.minimum(index, tokens_lens[:, None])


def average_starts(
    features_lens: Int[Array, " batch"], tokens_lens: Int[Array, " batch"], num_tokens: int
) -> Int[Array, "batch num_tokens"]:
    """The boundaries of average upsampling: `token_index_by_starts` of them is `token_index`."""
    duration = features_lens // jnp.maximum(tokens_lens, 1)
    position = jnp.minimum(jnp.arange(num_tokens)[None, :], tokens_lens[:, None])
    return position * duration[:, None]


def token_index_by_starts(
    token_starts: Int[Array, "batch tokens"], tokens_lens: Int[Array, " batch"], num_frames: int
) -> Int[Array, "batch num_frames"]:
    """The token position that each frame looks up: the last token that has begun.

    Frames before the first token's start belong to it as well.

    Args:
        token_starts: first frame of each token, never decreasing within an item.
        tokens_lens: lengths without padding, each below the number of token positions.
        num_frames: number of frames with padding.
    """
    frames = jnp.arange(num_frames)
    begun = jax.vmap(lambda starts: jnp.searchsorted(starts[1:], frames, side="right"))
    return jnp.minimum(begun(token_starts), tokens_lens[:, None])


def durations_of(
    token_starts: Int[Array, "batch tokens"], tokens_lens: Int[Array, " batch"]
) -> Int[Array, "batch tokens"]:
    """Frames of each token; 0 for padding. Leading silence counts to the first token."""
    inner = token_starts[:, 1:]
    before = jnp.concatenate([jnp.zeros_like(inner[:, :1]), inner[:, :-1]], axis=1)
    durations = jnp.pad(inner - before, ((0, 0), (0, 1)))
    position = jnp.arange(token_starts.shape[1])[None, :]
    return jnp.where(position < tokens_lens[:, None], durations, 0)


def blended_starts(
    token_starts: Int[Array, "batch tokens"],
    features_lens: Int[Array, " batch"],
    tokens_lens: Int[Array, " batch"],
    share: Float[Array, " batch"],
) -> Int[Array, "batch tokens"]:
    """Boundaries between `token_starts` (share 1) and those of average upsampling (share 0)."""
    average = average_starts(features_lens, tokens_lens, token_starts.shape[1])
    moved = share[:, None] * (token_starts - average).astype(jnp.float32)
    return average + jnp.round(moved).astype(jnp.int32)


def shared_starts(
    durations: Float[Array, "batch tokens"],
    tokens_lens: Int[Array, " batch"],
    features_lens: Int[Array, " batch"],
    prompt_tokens_lens: Int[Array, " batch"],
    prompt_lens: Int[Array, " batch"],
    prompt_parts: Int[Array, "batch parts tokens_and_frames"] | None = None,
) -> Int[Array, "batch tokens"]:
    """Boundaries that share frames out in proportion to durations.

    The frames of each recording of the prompt go to its own tokens and the rest to the text's, so
    that a transcript stays on its recording whatever its speed. An item without prompt tokens
    is one span. If all durations are equal and divide their span, this is average upsampling.

    Args:
        durations: duration of each token, in any unit; negative ones count as 0.
        tokens_lens: number of tokens of prompt and text.
        features_lens: number of frames of prompt and speech.
        prompt_tokens_lens: number of tokens of the prompt, which come first.
        prompt_lens: number of frames of the prompt.
        prompt_parts: where each recording of the prompt but the last ends, in tokens and frames;
            0 and 0, at the front, where there are fewer.
    """
    position = jnp.arange(durations.shape[1])[None, :]
    real = position < tokens_lens[:, None]
    units = jnp.round(jnp.maximum(durations, 0.0) * _UNITS).astype(jnp.int32)
    # At least one unit each, so that no span sums to 0.
    units = jnp.where(real, jnp.maximum(units, 1), 0)
    before = jnp.cumsum(units, axis=1) - units
    zero = jnp.zeros_like(tokens_lens)
    # Where spans end, in tokens and in frames.
    ends = [(zero, zero)]
    if prompt_parts is not None:
        ends += [(part[:, 0], part[:, 1]) for part in jnp.unstack(prompt_parts, axis=1)]
    ends.append((prompt_tokens_lens, jnp.where(prompt_tokens_lens == 0, 0, prompt_lens)))
    ends.append((tokens_lens, features_lens))

    def units_until(tokens: Array) -> Array:
        return jnp.sum(jnp.where(position < tokens[:, None], units, 0), axis=1, keepdims=True)

    starts = jnp.broadcast_to(features_lens[:, None], before.shape)
    for (tokens, frames), (tokens_end, frames_end) in reversed(list(itertools.pairwise(ends))):
        done = units_until(tokens)
        total = (units_until(tokens_end) - done).astype(jnp.float32)
        share = (before - done).astype(jnp.float32) / jnp.maximum(total, 1.0)
        offset = jnp.round(share * (frames_end - frames)[:, None].astype(jnp.float32))
        own = frames[:, None] + offset.astype(jnp.int32)
        starts = jnp.where(position < tokens_end[:, None], own, starts)
    return starts

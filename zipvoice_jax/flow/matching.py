"""Matching of voices: what is sampled takes its prompt's mean and deviation in each mel bin.

A small model speaks more alike than its prompts do. Which voice is heard depends much on the
long-term spectrum of its speech and on how far each band moves about it, and a prompt of some
seconds tells both. They are set by an affine map for each speaker and bin, the adaptive instance
normalisation of Huang and Belongie (2017) over time, which speech synthesis knows as matching of
the global variance (Toda and Tokuda 2007). Not officially.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

_SPEECH_NATS = 3.0  # below a speaker's loudest bin, where frames begin to count as speech
_NATS_WIDTH = 0.7  # over which they do
_HALF_FRAMES = 10.0  # of speech at which a statistic is believed half
_MOST_SPREAD = 3.0  # greatest factor on a deviation, and its inverse the least


@flax.struct.dataclass
class VoiceStatistics:
    """Of the speech of each speaker of an item, by channel and mel bin.

    Attributes:
        mean: of the scaled log-mel; 0 where there is no speech.
        std: its standard deviation.
        frames: of speech, by their weights.
    """

    mean: Float[Array, "batch channels speakers feat"]
    std: Float[Array, "batch channels speakers feat"]
    frames: Float[Array, "batch channels speakers"]


def speech_weights(
    features: Float[Array, "batch frames channels feat"],
    member: Float[Array, "batch frames speakers"],
    feat_scale: float,
) -> Float[Array, "batch frames channels speakers"]:
    """From 0 to 1 how much a frame is speech of a speaker: loud, beside that speaker's loudest.

    Args:
        features: log-mel times `feat_scale`.
        member: 1 for the frames that are a speaker's.
        feat_scale: of the features.
    """
    loudest_bin = features.max(axis=-1)[..., None]
    members = member[:, :, None, :] > 0
    loudest = jnp.max(
        jnp.where(members, loudest_bin, -jnp.inf), axis=1, keepdims=True, initial=-1e9
    )
    nats = (loudest_bin - loudest) / feat_scale + _SPEECH_NATS
    return jnp.where(members, jax.nn.sigmoid(nats / _NATS_WIDTH), 0.0)


def voice_statistics(
    features: Float[Array, "batch frames channels feat"],
    weights: Float[Array, "batch frames channels speakers"],
) -> VoiceStatistics:
    """Weighted mean and deviation over frames, of each speaker."""

    def total(x: Array) -> Array:
        sums = "btcf,btcs->bcsf"
        return jnp.einsum(sums, x, weights, precision=lax.Precision.HIGHEST)

    frames = weights.sum(axis=1)
    count = jnp.maximum(frames, 1e-6)[..., None]
    mean = total(features) / count
    variance = total(features**2) / count - mean**2
    return VoiceStatistics(mean, jnp.sqrt(jnp.maximum(variance, 1e-8)), frames)


@flax.struct.dataclass
class PromptVoices:
    """What `match_voices` moves towards, and where.

    Attributes:
        statistics: of each speaker's prompt.
        member: 1 for the frames of each speaker that may be moved.
        share: how far to move, from 0 to 1.
        feat_scale: of the features.
    """

    statistics: VoiceStatistics
    member: Float[Array, "batch frames speakers"]
    share: Float[Array, " batch"]
    feat_scale: float = flax.struct.field(pytree_node=False)


def prompt_voices(
    prompt: Float[Array, "batch frames channels feat"],
    in_prompt: Bool[Array, "batch frames speakers"],
    generated: Bool[Array, "batch frames speakers"],
    share: Float[Array, " batch"],
    feat_scale: float,
) -> PromptVoices:
    """The voices of a prompt, and which frames are to take them.

    Args:
        prompt: log-mel times `feat_scale`.
        in_prompt: the frames of the prompt in which each speaker has the turn.
        generated: the same of the frames to be generated.
        share: how far to move them, from 0 to 1.
        feat_scale: of the features.
    """
    weights = speech_weights(prompt, in_prompt.astype(jnp.float32), feat_scale)
    statistics = voice_statistics(prompt, weights)
    return PromptVoices(statistics, generated.astype(jnp.float32), share, feat_scale)


def match_voices(
    features: Float[Array, "batch frames channels feat"], voices: PromptVoices
) -> Float[Array, "batch frames channels feat"]:
    """Moves each speaker's speech towards the mean and deviation of their prompt.

    Pauses stay as they are. Of a speaker with little speech, here or in the prompt, less is known
    and less is moved.

    Args:
        features: log-mel times `feat_scale`.
        voices: see `prompt_voices`.
    """
    weights = speech_weights(features, voices.member, voices.feat_scale)
    own, prompt = voice_statistics(features, weights), voices.statistics
    known = jnp.minimum(own.frames, prompt.frames)
    share = (voices.share[:, None, None] * known / (known + _HALF_FRAMES))[..., None]
    spread = jnp.clip(prompt.std / own.std, 1.0 / _MOST_SPREAD, _MOST_SPREAD)
    # What is added is linear in the features: share * ((spread - 1) * (x - mean) + difference).
    slope = share * (spread - 1.0)
    offset = share * (prompt.mean - own.mean) - slope * own.mean

    def by_frame(of_speakers: Array) -> Array:
        sums = "btcs,bcsf->btcf"
        return jnp.einsum(sums, weights, of_speakers, precision=lax.Precision.HIGHEST)

    return features + by_frame(slope) * features + by_frame(offset)

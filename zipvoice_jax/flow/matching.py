"""Matching of voices: what is sampled takes its prompt's mean and deviation in each mel bin.

A small model speaks more alike than its prompts do. Which voice is heard depends much on the
long-term spectrum of its speech and on how far each band moves about it, and a prompt of some
seconds tells both. They are set by an affine map for each speaker and bin, the adaptive instance
normalisation of Huang and Belongie (2017) over time, which speech synthesis knows as matching of
the global variance (Toda and Tokuda 2007). Dark sounds, such as vowels, and bright ones, such as
most consonants, have a map each, so that a text with more of either is not mistaken for a voice.
Not officially.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

_SPEECH_NATS = 3.0  # below a speaker's loudest bin, where frames begin to count as speech
_NATS_WIDTH = 0.7  # over which they do
_ABSENT_NATS = 6.0  # below an item's loudest bin, where somebody does not speak at all
_SHARPNESS = 3.0  # of the parting of dark and bright sounds, per deviation of their tilt
_HALF_FRAMES = 10.0  # of speech at which a statistic is believed half
_MOST_LOG = 0.7  # nats by which a deviation is exaggerated at most
_MOST_SPREAD = 3.0  # greatest factor on a deviation, and its inverse the least


@flax.struct.dataclass
class VoiceStatistics:
    """Of the dark and the bright sounds of each speaker of an item, by channel and mel bin.

    Attributes:
        mean: mean of the scaled log-mel; 0 where there is no speech.
        std: its standard deviation.
        frames: number of frames of speech, by their weights.
    """

    mean: Float[Array, "batch channels sounds feat"]
    std: Float[Array, "batch channels sounds feat"]
    frames: Float[Array, "batch channels sounds"]


def speech_weights(
    features: Float[Array, "batch frames channels feat"],
    member: Float[Array, "batch frames speakers"],
    feat_scale: float | Float[Array, " batch"],
) -> Float[Array, "batch frames channels speakers"]:
    """From 0 to 1 how much a frame is speech of a speaker: loud, beside that speaker's loudest.

    Who is some 50 dB below the item's loudest does not speak: a silent channel is not a voice.

    Args:
        features: log-mel times `feat_scale`.
        member: 1 for the frames that are a speaker's.
        feat_scale: scale of the features.
    """
    loudest_bin = features.max(axis=-1)[..., None]
    members = member[:, :, None, :] > 0
    loudest = jnp.max(
        jnp.where(members, loudest_bin, -jnp.inf), axis=1, keepdims=True, initial=-1e9
    )
    scale = jnp.reshape(jnp.asarray(feat_scale, jnp.float32), (-1, 1, 1, 1))
    members &= loudest > loudest.max(axis=(2, 3), keepdims=True) - _ABSENT_NATS * scale
    nats = (loudest_bin - loudest) / scale + _SPEECH_NATS
    return jnp.where(members, jax.nn.sigmoid(nats / _NATS_WIDTH), 0.0)


def sound_weights(
    features: Float[Array, "batch frames channels feat"],
    weights: Float[Array, "batch frames channels speakers"],
) -> Float[Array, "batch frames channels sounds"]:
    """Parts the weight of a frame between the dark and the bright sounds of each speaker.

    A sound is dark where low bins exceed high ones by more than they do in the mean of the
    speaker's own speech, so that both are as many in a prompt as in a text.

    Args:
        features: scaled log-mel.
        weights: see `speech_weights`.

    Returns:
        The dark sounds of each speaker, then the bright ones.
    """
    bins = features.shape[-1]
    low, high = features[..., : bins * 2 // 5], features[..., bins * 3 // 5 :]
    tilt = (low.mean(axis=-1) - high.mean(axis=-1))[..., None]
    count = jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
    mean = (tilt * weights).sum(axis=1, keepdims=True) / count
    variance = ((tilt - mean) ** 2 * weights).sum(axis=1, keepdims=True) / count
    dark = jax.nn.sigmoid(_SHARPNESS * (tilt - mean) / jnp.sqrt(jnp.maximum(variance, 1e-8)))
    return jnp.concatenate([weights * dark, weights * (1.0 - dark)], axis=-1)


def voice_statistics(
    features: Float[Array, "batch frames channels feat"],
    member: Float[Array, "batch frames speakers"],
    feat_scale: float | Float[Array, " batch"],
) -> tuple[VoiceStatistics, Float[Array, "batch frames channels sounds"]]:
    """Mean and deviation over the frames of each sound, and the weights of frames in them.

    Args:
        features: log-mel times `feat_scale`.
        member: 1 for the frames that are a speaker's.
        feat_scale: scale of the features.
    """
    weights = sound_weights(features, speech_weights(features, member, feat_scale))

    def total(x: Array) -> Array:
        sums = "btcf,btcs->bcsf"
        return jnp.einsum(sums, x, weights, precision=lax.Precision.HIGHEST)

    frames = weights.sum(axis=1)
    count = jnp.maximum(frames, 1e-6)[..., None]
    mean = total(features) / count
    variance = total(features**2) / count - mean**2
    return VoiceStatistics(mean, jnp.sqrt(jnp.maximum(variance, 1e-8)), frames), weights


@flax.struct.dataclass
class PromptVoices:
    """What `match_voices` moves towards, and where.

    Attributes:
        statistics: those of each speaker's prompt.
        member: 1 for the frames of each speaker that may be moved.
        share: how far to move, from 0 to 1.
        feat_scale: scale of the features.
    """

    statistics: VoiceStatistics
    member: Float[Array, "batch frames speakers"]
    share: Float[Array, " batch"]
    feat_scale: float | Float[Array, " batch"]


def _belief(frames: Float[Array, "..."]) -> Float[Array, "..."]:
    """From 0 to 1 how far a statistic of so many frames is believed."""
    return frames / (frames + _HALF_FRAMES)


def set_apart(
    voices: VoiceStatistics, contrast: Float[Array, " batch"], speakers: int
) -> VoiceStatistics:
    """Voices that differ more from one another than they do: an exaggeration of what is one's own.

    A model that speaks between two voices, where it should speak in either, is so led back to
    them. By `contrast` times the difference between a speaker's mean and that of the others, in
    the form of the spectrum and not in its level; deviations, by their ratio, half as much.

    Args:
        voices: statistics of prompts, believed less where a speaker says little.
        contrast: 0 leaves voices as they are.
        speakers: number of speakers; dark and bright sounds of each are apart in `voices`.
    """
    # (batch, channels, dark and bright, speakers, ...)
    mean, std, frames = (
        x.reshape(*x.shape[:2], 2, speakers, *x.shape[3:])
        for x in (voices.mean, voices.std, voices.frames)
    )
    known = _belief(frames)[..., None]
    others = jnp.maximum(known.sum(axis=3, keepdims=True) - known, 1e-6)

    def difference(x: Array) -> Array:
        total = (known * x).sum(axis=3, keepdims=True) - known * x
        return known * jnp.minimum(others, 1.0) * (x - total / others)

    far = contrast[:, None, None, None, None]
    of_mean, of_std = difference(mean), difference(jnp.log(std))
    mean = mean + far * (of_mean - of_mean.mean(axis=-1, keepdims=True))
    std = std * jnp.exp(jnp.clip(0.5 * far * of_std, -_MOST_LOG, _MOST_LOG))
    return VoiceStatistics(
        mean.reshape(voices.mean.shape), std.reshape(voices.std.shape), voices.frames
    )


def prompt_voices(
    prompt: Float[Array, "batch frames channels feat"],
    in_prompt: Bool[Array, "batch frames speakers"],
    generated: Bool[Array, "batch frames speakers"],
    share: Float[Array, " batch"],
    feat_scale: float | Float[Array, " batch"],
    contrast: Float[Array, " batch"] | None = None,
) -> PromptVoices:
    """The voices of a prompt, and which frames are to take them.

    Args:
        prompt: log-mel times `feat_scale`.
        in_prompt: the frames of the prompt in which each speaker has the turn.
        generated: the same of the frames to be generated.
        share: how far to move them, from 0 to 1.
        feat_scale: scale of the features.
        contrast: see `set_apart`; None for none.
    """
    statistics, _ = voice_statistics(prompt, in_prompt.astype(jnp.float32), feat_scale)
    if contrast is not None:
        statistics = set_apart(statistics, contrast, in_prompt.shape[-1])
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
    own, weights = voice_statistics(features, voices.member, voices.feat_scale)
    prompt = voices.statistics
    known = _belief(jnp.minimum(own.frames, prompt.frames))
    share = (voices.share[:, None, None] * known)[..., None]
    spread = jnp.clip(prompt.std / own.std, 1.0 / _MOST_SPREAD, _MOST_SPREAD)
    # What is added is linear in the features: share * ((spread - 1) * (x - mean) + difference).
    slope = share * (spread - 1.0)
    offset = share * (prompt.mean - own.mean) - slope * own.mean

    def by_frame(of_speakers: Array) -> Array:
        sums = "btcs,bcsf->btcf"
        return jnp.einsum(sums, weights, of_speakers, precision=lax.Precision.HIGHEST)

    return features + by_frame(slope) * features + by_frame(offset)

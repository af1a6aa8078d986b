"""Training losses of the family, as pure functions of noise, times and masks.

Official: the `forward` methods in zipvoice/models. Every mean runs over an item's own
frames, so that a loss does not depend on padding.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.models.masks import padding_mask
from zipvoice_jax.models.upsampling import durations_of
from zipvoice_jax.models.zipvoice import (
    ZipVoice,
    as_neighbours,
    bound,
    decoder_passes,
    speaker_frames,
    upsampled,
)
from zipvoice_jax.nn.training import StepContext


@flax.struct.dataclass
class FlowBatch:
    """A batch of speech with its text and the random quantities of one training step.

    Attributes:
        tokens: ids, with at least one padding id after each item.
        tokens_lens: lengths without padding.
        features: scaled log-mel, channels side by side.
        features_lens: frames of each item.
        noise: standard normal.
        t: flow time of each item.
        speech_condition_mask: True where speech is to be generated.
        keep_text: 1.0, or 0.0 where the text condition is dropped.
        token_starts: the frame at which each token begins; None shares frames out equally.
        only_speaker: for each dialogue the speaker whose turns alone are in sight and are to be
            generated, as `speaker_prompts="own"` samples them: 1 for [S1], 0 for [S2]; -1, or
            None for a whole batch, for all. Separate channels have one speaker each anyway.
    """

    tokens: Int[Array, "batch tokens"]
    tokens_lens: Int[Array, " batch"]
    features: Float[Array, "batch frames channels_feat"]
    features_lens: Int[Array, " batch"]
    noise: Float[Array, "batch frames channels_feat"]
    t: Float[Array, " batch"]
    speech_condition_mask: Bool[Array, "batch frames"]
    keep_text: Float[Array, " batch"]
    token_starts: Int[Array, "batch tokens"] | None = None
    only_speaker: Int[Array, " batch"] | None = None


@flax.struct.dataclass
class DistillBatch:
    """A batch of speech and the random quantities of one distillation step.

    Attributes:
        tokens: ids, with at least one padding id after each item.
        tokens_lens: lengths without padding.
        features: scaled log-mel.
        features_lens: frames of each item.
        noise: standard normal.
        speech_condition_mask: True where speech is to be generated.
        guidance_scale: one for each item; the teacher applies it, the student takes it as input.
        t: where the student's one step begins, one time for the batch.
        t_middle: where the teacher's first step ends and its second begins.
        t_end: where both end.
        token_starts: the frame at which each token begins; None shares frames out equally.
    """

    tokens: Int[Array, "batch tokens"]
    tokens_lens: Int[Array, " batch"]
    features: Float[Array, "batch frames feat"]
    features_lens: Int[Array, " batch"]
    noise: Float[Array, "batch frames feat"]
    speech_condition_mask: Bool[Array, "batch frames"]
    guidance_scale: Float[Array, " batch"]
    t: Float[Array, ""]
    t_middle: Float[Array, ""]
    t_end: Float[Array, ""]
    token_starts: Int[Array, "batch tokens"] | None = None


def counted_frames(
    config: ModelConfig, batch: FlowBatch | DistillBatch
) -> Float[Array, "batch frames"]:
    """1.0 for the frames that a loss is the mean of: to be generated, and no padding.

    Args:
        config: sizes and options of the model.
        batch: one of flow matching, where `only_speaker` alone may count in an item, or one of
            distillation.
    """
    taken = _frames_of_only_speaker(config, batch) if isinstance(batch, FlowBatch) else None
    return _counted(batch, taken)


def _counted(
    batch: FlowBatch | DistillBatch, taken: Bool[Array, "batch frames"] | None
) -> Float[Array, "batch frames"]:
    """`counted_frames` with those known that `only_speaker` leaves; None for all."""
    mask = padding_mask(batch.features_lens, batch.features.shape[1])
    counted = batch.speech_condition_mask & ~mask
    return (counted if taken is None else counted & taken).astype(jnp.float32)


def _frames_of_only_speaker(
    config: ModelConfig, batch: FlowBatch
) -> Bool[Array, "batch frames"] | None:
    """True for the frames that `only_speaker` leaves; None where it is for both everywhere."""
    channels = batch.features.shape[-1] // config.feat_dim
    if batch.only_speaker is None or not config.is_dialog:
        return None
    if decoder_passes(config, channels) > 1:  # each has no other voice in it
        return None
    lens, frames = (batch.tokens_lens, batch.features_lens), batch.features.shape[1]
    speaker = speaker_frames(config, batch.tokens, *lens, frames, batch.token_starts)
    only = batch.only_speaker[:, None]
    return (only < 0) | (speaker == only)


def exclusive_penalty(
    predicted: Float[Array, "batch frames two_feat"],
    features: Float[Array, "batch frames two_feat"],
    features_lens: Int[Array, " batch"],
) -> Float[Array, "batch frames"]:
    """How much both channels of a predicted dialogue speak at once, per frame.

    The energy of a frame is its mean log-mel; speech is above the item's median energy over
    both true channels (ZipVoiceDialogStereo.energy_based_loss).
    """

    def energies(x: Array) -> Array:
        return x.reshape(*x.shape[:2], 2, -1).mean(axis=-1)

    mask = padding_mask(features_lens, features.shape[1])
    true = jnp.where(mask[:, :, None], jnp.inf, energies(features))
    ordered = jnp.sort(true.reshape(true.shape[0], -1), axis=1)
    # Of 2n energies the median lies half-way between numbers n - 1 and n.
    middle = jnp.maximum(features_lens, 1)[:, None] + jnp.array([[-1, 0]])
    threshold = jnp.take_along_axis(ordered, middle, axis=1).mean(axis=1)
    over = energies(predicted) - threshold[:, None, None]
    both = jnp.all(over > 0, axis=-1, keepdims=True)
    # An empty row has an infinite threshold: it must not even enter the product's gradient.
    over = jnp.where(both, over, 0.0)
    return over[:, :, 0] * over[:, :, 1]


def flow_matching_loss(
    params: dict[str, Any],
    config: ModelConfig,
    batch: FlowBatch,
    *,
    weights: Mapping[str, float | Float[Array, ""]] | None = None,
    ctx: StepContext | None = None,
    unconditional: bool = False,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Conditional flow matching over the frames to be generated (paper, section 3.1).

    Args:
        params: parameters of the model, as nested dicts.
        config: sizes and options of the model.
        batch: data and random quantities of the step.
        weights: those of the parts beside the flow's error, by the part's name and "_weight":
            "exclusive_weight" of the stereo model's speaker-exclusive term, which acts on
            two-channel batches only, "duration_weight" of the error of predicted durations, for
            models of upsampling "durations". What has none is only watched.
        ctx: training step, or None for evaluation.
        unconditional: withholds text and speech, to see what they are worth.

    Returns:
        The loss, and its parts by name.

    Raises:
        ValueError: the model looks tokens up by durations and the batch has no boundaries.
    """
    model = bound(params, config)
    frames = batch.features.shape[1]
    mask = padding_mask(batch.features_lens, frames)
    channels = batch.features.shape[-1] // config.feat_dim
    embed = model.text_embed(batch.tokens, batch.tokens_lens, ctx, channels)
    text = upsampled(embed, batch.tokens_lens, batch.features_lens, frames, batch.token_starts)
    text = text * batch.keep_text[:, None, None]
    speech = jnp.where(batch.speech_condition_mask[:, :, None], 0.0, batch.features)
    taken = _frames_of_only_speaker(config, batch)
    if taken is not None:
        speech = jnp.where(taken[:, :, None], speech, 0.0)
    if unconditional:
        text, speech = jnp.zeros_like(text), jnp.zeros_like(speech)
    t = batch.t[:, None, None]
    xt = batch.features * t + batch.noise * (1.0 - t)
    velocity = model.velocity(batch.t, xt, text, speech, mask, ctx=ctx)
    weight = _counted(batch, taken)
    count = jnp.maximum(weight.sum(), 1.0)
    error = (velocity - (batch.features - batch.noise)) ** 2
    parts = {"flow": jnp.sum(error.mean(axis=-1) * weight) / count}
    if channels == 2:
        penalty = exclusive_penalty(xt + velocity * (1.0 - t), batch.features, batch.features_lens)
        parts["exclusive"] = jnp.sum(penalty * weight) / count
    if config.looks_up_durations:
        parts["duration"] = duration_error(model, embed[..., : config.feat_dim], batch)
    loss = parts["flow"]
    for name, part in parts.items():
        if weights is not None and f"{name}_weight" in weights:
            loss = loss + weights[f"{name}_weight"] * part
    return loss, parts


def duration_loss(
    params: dict[str, Any], config: ModelConfig, batch: FlowBatch
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The error of predicted durations alone, which reaches the head and nothing before it.

    The text encoder runs as it does in generation, without dropout or hooks.

    Args:
        params: parameters of the model, as nested dicts.
        config: config of the model, which has a duration head.
        batch: only its tokens and their boundaries count.

    Returns:
        The loss, and its part by name.

    Raises:
        ValueError: the batch has no boundaries.
    """
    model = bound(params, config)
    embed = jax.lax.stop_gradient(model.text_embed(batch.tokens, batch.tokens_lens))
    error = duration_error(model, embed, batch)
    return error, {"duration": error}


def duration_error(
    model: ZipVoice, text_embed: Float[Array, "batch tokens feat"], batch: FlowBatch
) -> Float[Array, ""]:
    """Mean squared error of the predicted log(1 + frames) over the tokens of a batch.

    Args:
        model: with its parameters in place.
        text_embed: what it makes of the batch's tokens.
        batch: its tokens and their boundaries.

    Raises:
        ValueError: the batch has no boundaries.
    """
    if batch.token_starts is None:
        raise ValueError("durations are learnt from alignments")
    predicted = model.log_durations(text_embed, batch.tokens_lens)
    target = jnp.log1p(durations_of(batch.token_starts, batch.tokens_lens).astype(jnp.float32))
    weight = (~padding_mask(batch.tokens_lens, target.shape[1])).astype(jnp.float32)
    return jnp.sum((predicted - target) ** 2 * weight) / jnp.maximum(weight.sum(), 1.0)


def _velocity(
    params: dict[str, Any],
    config: ModelConfig,
    batch: DistillBatch,
    ctx: StepContext | None = None,
) -> Callable[[Array, Array], Array]:
    """The velocity of teacher or student as a function of time and state."""
    model = bound(params, config)
    size, frames = batch.features.shape[:2]
    mask = padding_mask(batch.features_lens, frames)
    lens = batch.tokens_lens, batch.features_lens
    text = model.text_condition(batch.tokens, *lens, frames, ctx, batch.token_starts)
    speech = jnp.where(batch.speech_condition_mask[:, :, None], 0.0, batch.features)
    scale = batch.guidance_scale

    def distilled(t: Array, x: Array) -> Array:
        times = jnp.broadcast_to(t, (size,))
        return model.velocity(times, x, text, speech, mask, scale, ctx)

    def guided(t: Array, x: Array) -> Array:
        late = t > 0.5
        pairs = (x, x), (text, jnp.zeros_like(text)), (speech, jnp.where(late, 0.0, speech))
        state, said, shown = map(as_neighbours, pairs)
        times = jnp.broadcast_to(t, (2 * size,))
        v = model.velocity(times, state, said, shown, jnp.repeat(mask, 2, axis=0))
        v = v.reshape(size, 2, *x.shape[1:])
        weight = (scale * jnp.where(late, 1.0, 2.0))[:, None, None]
        return (1.0 + weight) * v[:, 0] - weight * v[:, 1]

    return distilled if config.is_distill else guided


def distillation_loss(
    params: dict[str, Any],
    config: ModelConfig,
    teacher_params: dict[str, Any],
    teacher_config: ModelConfig,
    batch: DistillBatch,
    *,
    ctx: StepContext | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The student's one step against two steps of the teacher (train_zipvoice_distill.py).

    Args:
        params: parameters of the student, a zipvoice_distill model.
        config: config of the student.
        teacher_params: the teacher's: a zipvoice model with guidance in the first stage, an
            average of the student in the second. No gradient reaches them.
        teacher_config: config of the teacher.
        batch: data and random quantities of the step.
        ctx: training step of the student, or None for evaluation.

    Returns:
        The loss, and its parts by name; `reference` is the student's distance from the
        velocity of the data, which is only watched.
    """
    xt = batch.features * batch.t + batch.noise * (1.0 - batch.t)
    teach = _velocity(jax.lax.stop_gradient(teacher_params), teacher_config, batch)
    first = teach(batch.t, xt) * (batch.t_middle - batch.t)
    second = teach(batch.t_middle, xt + first) * (batch.t_end - batch.t_middle)
    target = (first + second) / jnp.maximum(batch.t_end - batch.t, 1e-6)
    predicted = _velocity(params, config, batch, ctx)(batch.t, xt)
    weight = counted_frames(config, batch)
    count = jnp.maximum(weight.sum(), 1.0)

    def distance(other: Array) -> Float[Array, ""]:
        return jnp.sum(((predicted - other) ** 2).mean(axis=-1) * weight) / count

    parts = {
        "distill": distance(jax.lax.stop_gradient(target)),
        "reference": jax.lax.stop_gradient(distance(batch.features - batch.noise)),
    }
    return parts["distill"], parts

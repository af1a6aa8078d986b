"""The random quantities of a training step, from its key, and the loss they lead to.

Official: `compute_fbank_loss` in the zipvoice/bin/train_*.py scripts and `condition_time_mask`
in zipvoice/utils/common.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.core.upsampling import blended_starts
from zipvoice_jax.flow.losses import (
    DistillBatch,
    FlowBatch,
    distillation_loss,
    duration_loss,
    flow_matching_loss,
)
from zipvoice_jax.nn.training import StepContext
from zipvoice_jax.train.config import DISTILLATION, Objective

Values = Mapping[str, Array]
_LONGEST_STEP = 0.3  # of either teacher step in distillation
_GUIDANCE_RANGE = 2.0  # width of the guidance scales that a student learns


@flax.struct.dataclass
class SpeechBatch:
    """What the loader gives: unscaled features and tokens, padded to a bucket.

    Annotated loosely, since JAX also fills it with placeholders.

    Attributes:
        features: log-mel, channels side by side; float32 (batch, frames, channels * mels).
        features_lens: frames of each item; 0 for a row without one; int32 (batch,).
        tokens: ids, with at least one padding id after each item; int32 (batch, tokens).
        tokens_lens: lengths without padding; int32 (batch,).
        token_starts: the frame at which each token begins, where the stage trains on
            alignments; int32 (batch, tokens).
    """

    features: Any
    features_lens: Any
    tokens: Any
    tokens_lens: Any
    token_starts: Any = None


def condition_mask(
    key: Key[Array, ""],
    features_lens: Int[Array, " batch"],
    frames: int,
    low: Float[Array, ""] | float,
    high: Float[Array, ""] | float,
    suffix: Float[Array, ""] | float,
) -> Bool[Array, "batch frames"]:
    """True over a random share of each item, anywhere in it or, for `suffix` 1, at its end."""
    batch = features_lens.shape
    share = jax.random.uniform(named_key(key, "size"), batch)
    lens = features_lens.astype(jnp.float32)
    size = ((low + (high - low) * share) * lens).astype(jnp.int32)
    room = (features_lens - size).astype(jnp.float32)
    place = jnp.where(suffix > 0, 1.0, jax.random.uniform(named_key(key, "start"), batch))
    start = (place * room).astype(jnp.int32)
    frame = jnp.arange(frames)[None, :]
    return (frame >= start[:, None]) & (frame < (start + size)[:, None])


def _drawn_for_all(
    key: Key[Array, ""], batch: SpeechBatch, values: Values, feat_scale: float
) -> dict[str, Any]:
    """What every objective takes: the batch scaled, noise, infilling mask and boundaries."""
    frames = batch.features.shape[1]
    low, high, suffix = (values[f"mask_{name}"] for name in ("low", "high", "suffix"))
    mask_key = named_key(key, "speech_condition_mask")
    return {
        "tokens": batch.tokens,
        "tokens_lens": batch.tokens_lens,
        "features": batch.features * feat_scale,
        "features_lens": batch.features_lens,
        "noise": jax.random.normal(named_key(key, "noise"), batch.features.shape),
        "speech_condition_mask": condition_mask(
            mask_key, batch.features_lens, frames, low, high, suffix
        ),
        "token_starts": _boundaries(named_key(key, "alignment"), batch, values),
    }


def _boundaries(
    key: Key[Array, ""], batch: SpeechBatch, values: Values
) -> Int[Array, "batch tokens"] | None:
    """The boundaries to train on: between the aligned and the average ones, or either by chance.

    `alignment` is the share of the aligned ones, or with `alignment_by_item` the share of items
    that get them whole.
    """
    if batch.token_starts is None:
        return None
    share = jnp.broadcast_to(values["alignment"], batch.tokens_lens.shape)
    chosen = (jax.random.uniform(key, share.shape) < share).astype(jnp.float32)
    share = jnp.where(values["alignment_by_item"] > 0, chosen, share)
    return blended_starts(batch.token_starts, batch.features_lens, batch.tokens_lens, share)


def flow_batch(
    key: Key[Array, ""], batch: SpeechBatch, values: Values, feat_scale: float
) -> FlowBatch:
    """Noise, times, infilling mask and dropped conditions of a step."""
    size = batch.features.shape[0]
    kept = jax.random.uniform(named_key(key, "keep_text"), (size,)) >= values["condition_drop"]
    speaker = jax.random.bernoulli(named_key(key, "speaker"), shape=(size,)).astype(jnp.int32)
    alone = jax.random.uniform(named_key(key, "only_speaker"), (size,)) < values["only_speaker"]
    t, shift = jax.random.uniform(named_key(key, "t"), (size,)), values["t_shift"]
    return FlowBatch(
        **_drawn_for_all(key, batch, values, feat_scale),
        t=shift * t / (1.0 + (shift - 1.0) * t),
        keep_text=kept.astype(jnp.float32),
        only_speaker=jnp.where(alone, speaker, -1),
    )


def distill_batch(
    key: Key[Array, ""],
    batch: SpeechBatch,
    values: Values,
    feat_scale: float,
    least_guidance: float,
) -> DistillBatch:
    """Noise, times, infilling mask and guidance of a distillation step.

    Officially the guidance scale is from [0, 2) in the first stage and [1, 3) in the second.
    """
    draws = jax.random.uniform(named_key(key, "t"), (3,))
    t = draws[0]
    middle = t + draws[1] * jnp.minimum(_LONGEST_STEP, 1.0 - t)
    end = middle + draws[2] * jnp.minimum(_LONGEST_STEP, 1.0 - middle)
    scale = jax.random.uniform(named_key(key, "guidance_scale"), batch.features_lens.shape)
    return DistillBatch(
        **_drawn_for_all(key, batch, values, feat_scale),
        guidance_scale=_GUIDANCE_RANGE * scale + least_guidance,
        t=t,
        t_middle=middle,
        t_end=end,
    )


def draw_batch(
    key: Key[Array, ""],
    batch: SpeechBatch,
    values: Values,
    *,
    objective: Objective,
    feat_scale: float,
) -> FlowBatch | DistillBatch:
    """A batch with the random quantities of its step.

    Args:
        key: of the step.
        batch: from the loader.
        values: the scheduled numbers at this step.
        objective: which loss they are for.
        feat_scale: factor on the features.
    """
    if objective not in DISTILLATION:  # of the other draws, the head's training uses none
        return flow_batch(key, batch, values, feat_scale)
    least = 0.0 if objective == "distill_first" else 1.0
    return distill_batch(key, batch, values, feat_scale, least)


def objective_loss(
    params: dict[str, Any],
    teacher: dict[str, Any],
    given: FlowBatch | DistillBatch,
    values: Values,
    ctx: StepContext | None,
    *,
    config: ModelConfig,
    objective: Objective,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a drawn batch, and its parts by name.

    Args:
        params: to be trained.
        teacher: of distillation; an empty dict otherwise.
        given: from `draw_batch`.
        values: the scheduled numbers at this step.
        ctx: drives dropout and gradient hooks; None for neither.
        config: of the model.
        objective: which loss.
    """
    if isinstance(given, FlowBatch):
        if objective == "durations":
            return duration_loss(params, config, given)
        return flow_matching_loss(
            params,
            config,
            given,
            exclusive_weight=values["exclusive_weight"],
            duration_weight=values["duration_weight"],
            ctx=ctx,
        )
    teacher_config = teacher_of(config, objective)
    held = jax.lax.stop_gradient(params)
    params = only_trained(params, held, config=config, objective=objective)
    return distillation_loss(params, config, teacher, teacher_config, given, ctx=ctx)


def only_trained(
    after: dict[str, Any], before: dict[str, Any], *, config: ModelConfig, objective: Objective
) -> dict[str, Any]:
    """A tree of parameters, with what the objective does not train taken from another such tree.

    Distillation trains the decoder alone, as officially ("only update the fm_decoder" in
    train_zipvoice_distill.py), the objective "durations" the duration head alone. Flow matching
    trains all but a head that only tells the length of the speech.

    Args:
        after: what is trained comes from here.
        before: the rest.
        config: of the model.
        objective: of the stage.
    """

    def is_trained(part: str) -> bool:
        if objective in DISTILLATION:
            return part == "fm_decoder"
        if objective == "durations":
            return part == "duration_head"
        return part != "duration_head" or config.looks_up_durations

    return {name: part if is_trained(name) else before[name] for name, part in after.items()}


def teacher_of(config: ModelConfig, objective: Objective) -> ModelConfig:
    """The config of a distillation's teacher: guided ZipVoice first, then the student's own."""
    return dataclasses.replace(config, kind="zipvoice") if objective == "distill_first" else config

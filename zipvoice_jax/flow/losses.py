"""Training losses of the family, as pure functions of given noise, times and masks.

Official: the `forward` methods in zipvoice/models. Every mean runs over an item's own
frames, so that a loss does not depend on padding.
"""

from typing import Any, cast

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.masks import padding_mask
from zipvoice_jax.models.zipvoice import ZipVoice
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
    """

    tokens: Int[Array, "batch tokens"]
    tokens_lens: Int[Array, " batch"]
    features: Float[Array, "batch frames channels_feat"]
    features_lens: Int[Array, " batch"]
    noise: Float[Array, "batch frames channels_feat"]
    t: Float[Array, " batch"]
    speech_condition_mask: Bool[Array, "batch frames"]
    keep_text: Float[Array, " batch"]


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
    both = jnp.all(over > 0, axis=-1)
    return jnp.where(both, over[:, :, 0] * over[:, :, 1], 0.0)


def flow_matching_loss(
    params: dict[str, Any],
    config: ModelConfig,
    batch: FlowBatch,
    *,
    exclusive_weight: float | Float[Array, ""] = 0.0,
    ctx: StepContext | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Conditional flow matching over the frames to be generated (paper, section 3.1).

    Args:
        params: of the model.
        config: of the model.
        batch: data and random quantities of the step.
        exclusive_weight: of the stereo model's speaker-exclusive term, which acts on
            two-channel batches only.
        ctx: training step, or None for evaluation.

    Returns:
        The loss, and its parts by name.
    """
    model = ZipVoice(config)
    frames = batch.features.shape[1]
    mask = padding_mask(batch.features_lens, frames)

    def apply(method: str, *args: Any) -> Array:
        return cast(Array, model.apply({"params": params}, *args, method=method))

    lens = batch.tokens_lens, batch.features_lens
    text = apply("text_condition", batch.tokens, *lens, frames, ctx)
    text = text * batch.keep_text[:, None, None]
    speech = jnp.where(batch.speech_condition_mask[:, :, None], 0.0, batch.features)
    t = batch.t[:, None, None]
    xt = batch.features * t + batch.noise * (1.0 - t)
    velocity = apply("velocity", batch.t, xt, text, speech, mask, None, ctx)
    counted = batch.speech_condition_mask & ~mask
    weight = counted.astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)
    error = (velocity - (batch.features - batch.noise)) ** 2
    flow = jnp.sum(error.mean(axis=-1) * weight) / count
    parts = {"flow": flow}
    loss = flow
    if batch.features.shape[-1] == 2 * config.feat_dim:
        penalty = exclusive_penalty(xt + velocity * (1.0 - t), batch.features, batch.features_lens)
        parts["exclusive"] = jnp.sum(penalty * weight) / count
        loss = loss + exclusive_weight * parts["exclusive"]
    return loss, parts

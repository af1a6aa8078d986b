"""Sampling: the whole ODE as one scan over Euler steps, with what no step changes outside it.

Official: zipvoice/models/modules/solver.py and `sample` in zipvoice/models/zipvoice.py.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from zipvoice_jax.config import EPSS_TIMES, ModelConfig
from zipvoice_jax.core.masks import padding_mask
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.core.upsampling import shared_starts
from zipvoice_jax.models.zipvoice import (
    ZipVoice,
    first_speaker_frames,
    fm_decoder_config,
    upsampled,
)
from zipvoice_jax.nn.zipformer import precompute_positions


@flax.struct.dataclass
class SampleInputs:
    """A padded batch of items to generate.

    Attributes:
        tokens: ids of prompt and text, with at least one padding id after each item.
        tokens_lens: lengths without padding.
        prompt_features: scaled log-mel of the prompt; what follows it is ignored.
        prompt_lens: frames of the prompt.
        features_lens: frames of prompt and speech.
        noise: the state at t = 0.
        prompt_tokens_lens: tokens of the prompt, of models of upsampling "durations": prompt and
            text are then each spread over their own frames. None spreads all over all frames.
        first_prompt: besides, tokens and frames of the first of two recordings in the prompt, each
            of which is then spread over its own frames; 0 and 0 where there is one.
    """

    tokens: Int[Array, "batch tokens"]
    tokens_lens: Int[Array, " batch"]
    prompt_features: Float[Array, "batch frames channels_feat"]
    prompt_lens: Int[Array, " batch"]
    features_lens: Int[Array, " batch"]
    noise: Float[Array, "batch frames channels_feat"]
    prompt_tokens_lens: Int[Array, " batch"] | None = None
    first_prompt: Int[Array, "batch tokens_and_frames"] | None = None


def time_steps(
    num_step: int, t_shift: float, schedule: str = "uniform"
) -> Float[np.ndarray, " steps_and_end"]:
    """Times from 0 to 1 at which the ODE is evaluated, and its end (get_time_steps).

    Args:
        num_step: number of Euler steps.
        t_shift: below 1, moves times towards noise.
        schedule: "uniform" begins with equal steps, "epss" with those of `EPSS_TIMES`. These are
            moved as well, as F5-TTS moves them by sway sampling, so that they stay a part of the
            times of 32 uniform steps.
    """
    # torch.linspace counts from both ends and rounds once. The last bit matters: guidance
    # changes where t passes 0.5, which 6 steps with t_shift 0.5 meet exactly.
    index, step = np.arange(num_step + 1), float(np.float32(1.0) / np.float32(num_step))
    from_end = 1.0 - step * (num_step - index)
    t = np.where(index < (num_step + 1) // 2, step * index, from_end).astype(np.float32)
    if schedule == "epss":
        t = np.asarray(EPSS_TIMES[num_step], np.float32) / np.float32(32)
    shift, less = np.float32(t_shift), np.float32(t_shift - 1.0)
    return (shift * t / (np.float32(1.0) + less * t)).astype(np.float32)


def item_noise(key: Key[Array, ""], frames: int, dim: int) -> Float[Array, "frames dim"]:
    """Standard normal noise of one item, frame by frame.

    Each frame has its own key, so that an item's noise does not depend on the length to
    which it is padded.
    """
    keys = jax.vmap(lambda frame: named_key(key, frame))(jnp.arange(frames))
    return jax.vmap(lambda k: jax.random.normal(k, (dim,)))(keys)


def predicted_frames(prompt_frames: int, prompt_tokens: int, tokens: int, speed: float) -> int:
    """Frames of the speech, at the prompt's rate of frames per token.

    Official: forward_text_inference_ratio_duration, in float32 as there.
    """
    one = np.float32
    ratio = one(prompt_frames) / one(prompt_tokens) * one(tokens) / one(speed)
    return int(np.ceil(ratio))


def predicted_durations(
    params: dict[str, Any],
    config: ModelConfig,
    tokens: Int[Array, "batch tokens"],
    tokens_lens: Int[Array, " batch"],
) -> Float[Array, "batch tokens"]:
    """Frames of each token by the model's duration head, at the speed of its training data.

    Args:
        params: of a model with a duration head.
        config: of that model.
        tokens: ids, with at least one padding id after each item.
        tokens_lens: lengths without padding.

    Returns:
        0 or more, float32; 0 for padding.
    """
    model = ZipVoice(config)

    def apply(method: str, *args: Any) -> Array:
        return cast(Array, model.apply({"params": params}, *args, method=method))

    embed = apply("text_embed", tokens, tokens_lens)
    durations = jnp.maximum(jnp.expm1(apply("log_durations", embed, tokens_lens)), 0.0)
    return jnp.where(padding_mask(tokens_lens, tokens.shape[1]), 0.0, durations)


def _predicted_starts(
    apply: Callable[..., Array],
    text_embed: Float[Array, "batch tokens feat"],
    inputs: SampleInputs,
) -> Int[Array, "batch tokens"]:
    """Boundaries by predicted durations."""
    durations = jnp.expm1(apply("log_durations", text_embed, inputs.tokens_lens))
    prompt = inputs.prompt_tokens_lens
    return shared_starts(
        durations,
        inputs.tokens_lens,
        inputs.features_lens,
        jnp.zeros_like(inputs.tokens_lens) if prompt is None else prompt,
        inputs.prompt_lens,
        inputs.first_prompt,
    )


def frames_at_rate_of(
    prompt_frames: int, prompt_predicted: float, text_predicted: float, speed: float
) -> int:
    """Frames of the speech, at the prompt's rate of frames per predicted frame.

    In place of frames per token, which takes an `ah` and a pause for equally long.

    Args:
        prompt_frames: of the recording.
        prompt_predicted: frames predicted for the prompt's transcript, in all.
        text_predicted: frames predicted for the text, in all.
        speed: 2 halves the frames.
    """
    rate = prompt_frames / max(prompt_predicted, 1.0)
    return math.ceil(rate * text_predicted / speed)


def sample(
    params: dict[str, Any],
    config: ModelConfig,
    inputs: SampleInputs,
    times: Float[Array, " steps_and_end"],
    guidance_scale: Float[Array, " batch"],
    *,
    guided: bool = True,
) -> Float[Array, "batch frames channels_feat"]:
    """Solves the ODE from noise to scaled log-mel.

    Guidance as officially: two branches in one batch; the unconditional one always lacks the
    text, and for t > 0.5 the speech as well; up to t = 0.5 the scale is doubled. A distilled
    model takes the scale as an input and has one branch.

    With `speaker_prompts="own"` a dialogue has a conditional branch for each speaker, which sees
    of the prompt what that speaker says; a frame takes the velocity of its own speaker's branch,
    and the unconditional one lacks text and speech at all times, so that guidance is towards the
    voice as well.

    Args:
        params: of the model.
        config: of the model.
        inputs: the batch.
        times: see `time_steps`.
        guidance_scale: of each item.
        guided: False leaves out the unconditional branch; right where every scale is 0.

    Returns:
        Features of prompt and speech, float32; undefined in padding.
    """
    model = ZipVoice(config)
    variables = {"params": params}
    batch, frames, dim = inputs.noise.shape
    two_branches = guided and not config.is_distill
    stream = fm_decoder_config(config).out_dims.index(dim)
    mask = padding_mask(inputs.features_lens, frames)
    in_prompt = ~padding_mask(inputs.prompt_lens, frames)
    speech = jnp.where(in_prompt[:, :, None], inputs.prompt_features, 0.0)

    def apply(method: str, *args: Any, **kwargs: Any) -> Array:
        return cast(Array, model.apply(variables, *args, method=method, **kwargs))

    text_embed = apply("text_embed", inputs.tokens, inputs.tokens_lens)
    lens = inputs.tokens_lens, inputs.features_lens
    starts = _predicted_starts(apply, text_embed, inputs) if config.looks_up_durations else None
    text = upsampled(text_embed, *lens, frames, starts)
    from_text = apply("project", text, dim, stream, bias=True)

    def projected(speech: Array) -> Array:
        return apply("project", speech, dim + config.feat_dim, stream, bias=False)

    from_speech = projected(speech)
    # What each conditional branch sees of the prompt: all of it, or the turns of one speaker.
    seen, first = [from_speech], None
    if config.samples_by_speaker:
        first = first_speaker_frames(config, inputs.tokens, *lens, frames, starts)[:, :, None]
        seen = [projected(jnp.where(mine, speech, 0.0)) for mine in (first, ~first)]
    bias_only = apply("project", jnp.zeros_like(text[:, :1]), dim, stream, bias=True)
    positions = precompute_positions(params["fm_decoder"], fm_decoder_config(config), frames)

    def embed(t: Array) -> Array:
        if config.is_distill:
            return apply("embed_time", jnp.broadcast_to(t, (batch,)), guidance_scale)
        return apply("embed_time", t[None])

    time_embs = jax.lax.map(embed, times[:-1])

    count = len(seen) + two_branches

    def branches(parts: Sequence[Array]) -> Array:
        # Neighbours in the batch, so that sharding the batch keeps them on one device.
        stacked = jnp.stack(parts, axis=1)
        return stacked.reshape(len(parts) * batch, *stacked.shape[2:])

    branch_mask = branches([mask] * count)

    def step(x: Array, now: tuple[Array, Array, Array]) -> tuple[Array, None]:
        t, t_next, time_emb = now
        hidden = apply("project", x, 0, stream, bias=False)
        late = t > 0.5
        given = [hidden + from_text + part for part in seen]
        if two_branches:
            withheld = late if first is None else True
            given.append(hidden + bias_only + jnp.where(withheld, 0.0, from_speech))
        v = apply("decode", branches(given), time_emb, branch_mask, stream, positions)
        v = v.reshape(batch, count, frames, dim)
        conditional = v[:, 0] if first is None else jnp.where(first, v[:, 0], v[:, 1])
        if two_branches:
            scale = (guidance_scale * jnp.where(late, 1.0, 2.0))[:, None, None]
            conditional = (1.0 + scale) * conditional - scale * v[:, -1]
        return x + conditional * (t_next - t), None

    x, _ = jax.lax.scan(step, inputs.noise, (times[:-1], times[1:], time_embs))
    return x

"""Sampling: the whole ODE as one scan over Euler steps, with what no step changes outside it.

Official: zipvoice/models/modules/solver.py and `sample` in zipvoice/models/zipvoice.py.
"""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from zipvoice_jax.config import EPSS_TIMES, ModelConfig, SamplingConfig
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.flow.matching import PromptVoices, match_voices, prompt_voices
from zipvoice_jax.models.masks import padding_mask
from zipvoice_jax.models.upsampling import shared_starts
from zipvoice_jax.models.zipvoice import (
    ZipVoice,
    as_neighbours,
    bound,
    channels_as_items,
    decoder_passes,
    decoder_stream,
    fm_decoder_config,
    items_as_channels,
    speaker_frames,
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
        prompt_parts: besides, where each recording of the prompt but the last ends, in tokens and
            frames, so that each is spread over its own frames; 0 and 0, at the front, where there
            are fewer.
    """

    tokens: Int[Array, "batch tokens"]
    tokens_lens: Int[Array, " batch"]
    prompt_features: Float[Array, "batch frames channels_feat"]
    prompt_lens: Int[Array, " batch"]
    features_lens: Int[Array, " batch"]
    noise: Float[Array, "batch frames channels_feat"]
    prompt_tokens_lens: Int[Array, " batch"] | None = None
    prompt_parts: Int[Array, "batch parts tokens_and_frames"] | None = None


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


def steering(sampling: SamplingConfig, batch: int) -> dict[str, Float[np.ndarray, " batch"]]:
    """The arguments of `sample` by a config's name that each item has its own number of.

    What is 0 and not official is left out of them, and so of the program.
    """
    names = ["guidance_scale"]
    names += ["speaker_guidance"] if sampling.speaker_guidance else []
    names += ["voice_matching", "voice_contrast", "feat_scale"] if sampling.voice_matching else []
    values = {name: getattr(sampling, name) for name in names}
    return {name: np.full((batch,), value, np.float32) for name, value in values.items()}


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
        params: parameters of a model with a duration head.
        config: its config.
        tokens: ids, with at least one padding id after each item.
        tokens_lens: lengths without padding.

    Returns:
        0 or more, float32; 0 for padding.
    """
    model = bound(params, config)
    log_durations = model.log_durations(model.text_embed(tokens, tokens_lens), tokens_lens)
    durations = jnp.maximum(jnp.expm1(log_durations), 0.0)
    return jnp.where(padding_mask(tokens_lens, tokens.shape[1]), 0.0, durations)


def _predicted_starts(
    model: ZipVoice,
    text_embed: Float[Array, "batch tokens feat"],
    inputs: SampleInputs,
) -> Int[Array, "batch tokens"]:
    """Boundaries by predicted durations."""
    durations = jnp.expm1(model.log_durations(text_embed, inputs.tokens_lens))
    prompt = inputs.prompt_tokens_lens
    return shared_starts(
        durations,
        inputs.tokens_lens,
        inputs.features_lens,
        jnp.zeros_like(inputs.tokens_lens) if prompt is None else prompt,
        inputs.prompt_lens,
        inputs.prompt_parts,
    )


def frames_at_rate_of(
    prompt_frames: int, prompt_predicted: float, text_predicted: float, speed: float
) -> int:
    """Frames of the speech, at the prompt's rate of frames per predicted frame.

    In place of frames per token, which gives an `ah` and a pause the same length.

    Args:
        prompt_frames: frames of the recording.
        prompt_predicted: frames predicted for the prompt's transcript, in all.
        text_predicted: frames predicted for the text, in all.
        speed: 2 halves the frames.
    """
    rate = prompt_frames / max(prompt_predicted, 1.0)
    return math.ceil(rate * text_predicted / speed)


@flax.struct.dataclass
class Prepared:
    """What no step of the ODE changes.

    Attributes:
        from_text: the share of the decoder's projected inputs that comes from the text, with bias.
        bias: the same without a text.
        from_prompt: the share that comes from the prompt.
        seen: the same, of what each conditional branch sees of the prompt.
        first: True where a frame is of [S1]'s branch; None where there is one for both speakers.
        mask: True for padding, of all branches.
        positions: see `precompute_positions`.
        steps: for each step its time, the next one's, and the embedding of its time, in which a
            distilled model has the guidance scales as well.
        guidance_scale: one scale for each item.
        speaker_guidance: one scale for each item, if each speaker has a branch; None for none.
        voices: what `match_voices` moves towards; None where nothing is moved.
        guided: whether there is an unconditional branch.
        passes: above 1 each channel is an item of its own in all of these but `voices`.
        stream: which of the decoder's projections.
    """

    from_text: Float[Array, "batch frames dim"]
    bias: Float[Array, "1 1 dim"]
    from_prompt: Float[Array, "batch frames dim"]
    seen: tuple[Float[Array, "batch frames dim"], ...]
    first: Bool[Array, "batch frames 1"] | None
    mask: Bool[Array, "branches_batch frames"]
    positions: tuple[Array, ...]
    steps: tuple[
        Float[Array, " steps"], Float[Array, " steps"], Float[Array, "steps #batch time_dim"]
    ]
    guidance_scale: Float[Array, " batch"]
    speaker_guidance: Float[Array, " batch"] | None
    voices: PromptVoices | None
    guided: bool = flax.struct.field(pytree_node=False)
    passes: int = flax.struct.field(pytree_node=False)
    stream: int = flax.struct.field(pytree_node=False)


def prepare(
    params: dict[str, Any],
    config: ModelConfig,
    inputs: SampleInputs,
    times: Float[Array, " steps_and_end"],
    guidance_scale: Float[Array, " batch"],
    *,
    guided: bool = True,
    speaker_guidance: Float[Array, " batch"] | None = None,
    voice_matching: Float[Array, " batch"] | None = None,
    voice_contrast: Float[Array, " batch"] | None = None,
    feat_scale: float | Float[Array, " batch"] = 0.1,
) -> Prepared:
    """Computes all that the steps share; see `sample` for the arguments.

    The projection of the decoder's inputs is linear, so that text and prompt can be projected
    here, and the state alone in each step.
    """
    model = bound(params, config)
    _, frames, dim = inputs.noise.shape
    channels = dim // config.feat_dim
    passes = decoder_passes(config, channels)
    stream = decoder_stream(config, channels)
    projection = model.fm_decoder.input_projection(stream)
    lens = inputs.tokens_lens, inputs.features_lens
    text_embed, starts = model.text_embed(inputs.tokens, lens[0], channels=channels), None
    if config.looks_up_durations:
        starts = _predicted_starts(model, text_embed[..., : config.feat_dim], inputs)

    def by_pass(x: Array) -> Array:
        return channels_as_items(x, config.feat_dim) if passes > 1 else x

    text = by_pass(upsampled(text_embed, *lens, frames, starts))
    in_prompt = ~padding_mask(inputs.prompt_lens, frames)[:, :, None]
    prompt = jnp.where(in_prompt, inputs.prompt_features, 0.0)

    def from_speech(speech: Array) -> Array:
        speech = by_pass(speech)
        return projection.part(speech, speech.shape[-1] + config.feat_dim)

    from_prompt = from_speech(prompt)
    seen, first = (from_prompt,), None
    speaker = speaker_frames(config, inputs.tokens, *lens, frames, starts)[:, :, None]
    if config.samples_by_speaker:
        first = speaker == 1
        seen = tuple(from_speech(jnp.where(mine, prompt, 0.0)) for mine in (first, ~first))
    guided = guided and not config.is_distill
    mask = padding_mask(inputs.features_lens, frames)
    scale = guidance_scale[None] if config.is_distill else None
    time_embs = model.fm_decoder.embed_time(times[:-1, None], scale)
    voices = None
    if voice_matching is not None:
        # With two channels each is one speaker's throughout.
        several = dim == config.feat_dim
        rows = jnp.arange(config.num_speakers)[None, None]
        mine = (speaker == rows) if several else jnp.ones_like(speaker, bool)
        mine &= ~mask[:, :, None]
        by_channel = _by_channel(prompt, config)
        # Speakers with a channel each are apart already.
        contrast = voice_contrast if several and config.is_dialog else None
        voices = prompt_voices(
            by_channel, mine & in_prompt, mine & ~in_prompt, voice_matching, feat_scale, contrast
        )
    return Prepared(
        from_text=projection.part(text, dim // passes) + projection.offset(),
        bias=projection.offset(),
        from_prompt=from_prompt,
        seen=seen,
        first=first,
        mask=as_neighbours([jnp.repeat(mask, passes, axis=0)] * (len(seen) + guided)),
        positions=precompute_positions(params["fm_decoder"], fm_decoder_config(config), frames),
        steps=(times[:-1], times[1:], time_embs),
        guidance_scale=jnp.repeat(guidance_scale, passes),
        speaker_guidance=speaker_guidance,
        voices=voices,
        guided=guided,
        passes=passes,
        stream=stream,
    )


def _by_channel(
    features: Float[Array, "batch frames channels_feat"], config: ModelConfig
) -> Float[Array, "batch frames channels feat"]:
    return features.reshape(*features.shape[:2], -1, config.feat_dim)


def step(
    params: dict[str, Any],
    config: ModelConfig,
    prepared: Prepared,
    x: Float[Array, "batch frames channels_feat"],
    now: tuple[Float[Array, ""], Float[Array, ""], Float[Array, "#batch time_dim"]],
) -> Float[Array, "batch frames channels_feat"]:
    """One Euler step: the next state, by the velocity of all branches; see `sample`.

    Args:
        params: parameters of the model, as nested dicts.
        config: sizes and options of the model.
        prepared: what the steps share.
        x: the state.
        now: the step's part of `Prepared.steps`.
    """
    t, t_next, time_emb = now
    decoder = bound(params, config).fm_decoder
    state = channels_as_items(x, config.feat_dim) if prepared.passes > 1 else x
    hidden = decoder.input_projection(prepared.stream).part(state, 0)
    late = t > 0.5
    parts = [hidden + prepared.from_text + part for part in prepared.seen]
    if prepared.guided:
        withheld = late if prepared.first is None else True
        parts.append(hidden + prepared.bias + jnp.where(withheld, 0.0, prepared.from_prompt))
    v = decoder.decode(
        as_neighbours(parts), time_emb, prepared.mask, stream=prepared.stream,
        positions=prepared.positions,
    )  # fmt: skip
    v = v.reshape(-1, len(parts), *state.shape[1:])
    first = prepared.first
    own = v[:, 0] if first is None else jnp.where(first, v[:, 0], v[:, 1])
    velocity = own
    if prepared.guided:
        scale = (prepared.guidance_scale * jnp.where(late, 1.0, 2.0))[:, None, None]
        velocity = (1.0 + scale) * own - scale * v[:, -1]
    if first is not None and prepared.speaker_guidance is not None:
        # Behind the guidance, which would multiply it and spoil the voices.
        other = jnp.where(first, v[:, 1], v[:, 0])
        velocity = velocity + prepared.speaker_guidance[:, None, None] * (own - other)
    if prepared.passes > 1:
        velocity = items_as_channels(velocity, prepared.passes)
    if prepared.voices is None:
        return x + velocity * (t_next - t)
    # The speech that a straight path from here leads to is what has a mean and a deviation.
    speech = _by_channel(x + velocity * (1.0 - t), config)
    speech = match_voices(speech, prepared.voices).reshape(x.shape)
    return x + (speech - x) * ((t_next - t) / (1.0 - t))


def sample(
    params: dict[str, Any],
    config: ModelConfig,
    inputs: SampleInputs,
    times: Float[Array, " steps_and_end"],
    guidance_scale: Float[Array, " batch"],
    *,
    guided: bool = True,
    speaker_guidance: Float[Array, " batch"] | None = None,
    voice_matching: Float[Array, " batch"] | None = None,
    voice_contrast: Float[Array, " batch"] | None = None,
    feat_scale: float | Float[Array, " batch"] = 0.1,
) -> Float[Array, "batch frames channels_feat"]:
    """Solves the ODE from noise to scaled log-mel.

    Guidance as officially: two branches in one batch; the unconditional one always lacks the
    text, and for t > 0.5 the speech as well; up to t = 0.5 the scale is doubled. A distilled
    model takes the scale as an input and has one branch.

    With `speaker_prompts="own"` a dialogue in one channel has a conditional branch for each
    speaker, which sees of the prompt what that speaker says; a frame takes the velocity of its own
    speaker's branch, and the unconditional one lacks text and speech at all times, so that guidance
    is towards the voice as well. `speaker_guidance` adds this many times the difference between the
    speaker's own branch and the other's: away from the other's voice.

    `voice_matching` moves the speech that each step leads to by `match_voices`, so that the next
    step goes on from a state that fits; `voice_contrast` moves it beyond, away from the other
    speaker's (`set_apart`), where two speak in one channel.

    Args:
        params: parameters of the model, as nested dicts.
        config: sizes and options of the model.
        inputs: the batch.
        times: see `time_steps`.
        guidance_scale: one scale for each item.
        guided: False leaves out the unconditional branch; right where every scale is 0.
        speaker_guidance: one scale for each item; None leaves it out, as officially.
        voice_matching: one share for each item, 0 to 1; None leaves it out, as officially.
        voice_contrast: one factor for each item; None for none.
        feat_scale: scale of the features, for all or each; `match_voices` needs their level.

    Returns:
        Features of prompt and speech, float32; undefined in padding.
    """
    prepared = prepare(
        params, config, inputs, times, guidance_scale, guided=guided,
        speaker_guidance=speaker_guidance, voice_matching=voice_matching,
        voice_contrast=voice_contrast, feat_scale=feat_scale,
    )  # fmt: skip

    def body(x: Array, now: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return step(params, config, prepared, x, now), None

    return jax.lax.scan(body, inputs.noise, prepared.steps)[0]

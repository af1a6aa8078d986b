"""Two channels in separate passes of the decoder: what they are, in training and in sampling."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signals import distance
from small_models import SMALL, batch, make
from test_speaker_prompts import DIALOGUE, FRAMES, PROMPT, inputs_of, losses

from zipvoice_jax.checkpoint.growth import grow_to_stereo, one_channel
from zipvoice_jax.config import ModelConfig, SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.flow.losses import counted_frames
from zipvoice_jax.flow.sampling import SampleInputs, sample, steering
from zipvoice_jax.models.flops import sampling_flops, training_flops
from zipvoice_jax.models.zipvoice import (
    abstract_params,
    bound,
    channels_as_items,
    items_as_channels,
    swapped_tags,
)

STEREO = "zipvoice_dialog_stereo"


@functools.cache
def separate(**changes: Any) -> tuple[ModelConfig, Any, ModelConfig, Any]:
    """A model of separate channels, and the mono one that it has grown from."""
    mono, params = make(pad_id=0, channel_decoding="separate", **changes)
    grown, config = grow_to_stereo(params, mono)
    return config, jax.tree.map(jnp.asarray, grown), mono, params


def of_channel(inputs: Any, config: ModelConfig, channel: int) -> Any:
    """A batch of two channels as one of a single channel, whose speaker is [S1]."""
    tokens = swapped_tags(config, inputs.tokens) if channel else inputs.tokens
    names = "features", "noise", "prompt_features"
    halves = {
        name: getattr(inputs, name)[..., 10 * channel : 10 * (channel + 1)]
        for name in names
        if hasattr(inputs, name)
    }
    return dataclasses.replace(inputs, tokens=tokens, **halves)


def test_channels_and_items() -> None:
    x = jnp.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    items = channels_as_items(x, 4)
    assert np.array_equal(items[1], x[0, :, 4:]) and np.array_equal(items[2], x[1, :, :4])
    assert np.array_equal(items_as_channels(items, 2), x)
    config, _ = make()
    assert swapped_tags(config, jnp.array([[18, 5, 19, 19, 0]])).tolist() == [[19, 5, 18, 18, 0]]


@pytest.mark.parametrize("embedding", ["text_output", "text_input"])
def test_a_channel_is_learnt_as_the_mono_model_learns_it(embedding: str) -> None:
    config, grown, mono, params = separate(speaker_embedding=embedding, **SMALL)
    inputs = batch(config)
    loss, parts = losses(grown, config, inputs)
    alone = [
        float(losses(params, mono, of_channel(inputs, config, channel))[0]) for channel in (0, 1)
    ]
    assert float(parts["flow"]) == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert abs(alone[0] - alone[1]) > 1e-3
    assert "exclusive" in parts and float(loss) == float(parts["flow"])
    # One channel goes through the other projections, which start as the same.
    assert one_channel(grown, config)[1] == mono


def test_both_speakers_count_in_a_channel() -> None:
    # What the other says is to be silence.
    config, *_ = separate()
    inputs = batch(config).replace(only_speaker=jnp.array([1, 0]))  # type: ignore[attr-defined]
    assert float(counted_frames(config, inputs).sum()) == 10 + 5
    joint = dataclasses.replace(config, channel_decoding="joint")
    assert float(counted_frames(joint, inputs).sum()) < 10 + 5


def stereo_inputs() -> SampleInputs:
    inputs = inputs_of(DIALOGUE)
    other = np.random.default_rng(9).standard_normal((2, *inputs.noise.shape)).astype(np.float32)
    return dataclasses.replace(
        inputs,
        noise=jnp.concatenate([inputs.noise, other[0]], axis=-1),
        prompt_features=jnp.concatenate([inputs.prompt_features, other[1]], axis=-1),
    )


@functools.partial(jax.jit, static_argnums=1)
def generate(params: Any, config: ModelConfig, inputs: SampleInputs, scale: jax.Array) -> jax.Array:
    times, share = jnp.linspace(0.0, 1.0, 3), jnp.ones(scale.shape)
    return sample(params, config, inputs, times, scale, voice_matching=share)


@functools.partial(jax.jit, static_argnums=1)
def first_step(params: Any, config: ModelConfig, inputs: SampleInputs) -> tuple[jax.Array, ...]:
    """The state after one step, and what the model's velocity with and without conditions says."""
    times, scale = jnp.array([0.0, 0.2]), jnp.ones(1)
    model, mask = bound(params, config), jnp.zeros((1, FRAMES), bool)
    lens = inputs.tokens_lens, inputs.features_lens
    text = model.text_condition(inputs.tokens, *lens, FRAMES, channels=2)
    prompt = jnp.where(jnp.arange(FRAMES)[:, None] < PROMPT, inputs.prompt_features, 0.0)
    velocities = [
        model.velocity(times[:1], inputs.noise, condition, prompt, mask)
        for condition in (text, 0.0 * text)
    ]
    return sample(params, config, inputs, times, scale), *velocities


def test_guidance_of_two_channels() -> None:
    # Officially, up to t = 0.5: the scale is doubled, and the prompt stays in sight.
    config, grown, *_ = separate(speaker_prompts="own", **SMALL)
    inputs = stereo_inputs()
    state, conditional, unconditional = first_step(grown, config, inputs)
    expected = inputs.noise + 0.2 * (3.0 * conditional - 2.0 * unconditional)
    assert distance(state, expected) < 1e-5
    assert distance(state, inputs.noise + 0.2 * conditional) > 0.01


def test_a_batch_is_its_items() -> None:
    config, grown, *_ = separate(speaker_prompts="own", **SMALL)
    inputs = stereo_inputs()
    pair = jax.tree.map(lambda x: jnp.concatenate([x, x[:, ::-1] if x.ndim == 3 else x]), inputs)
    found = generate(grown, config, pair, jnp.array([1.5, 0.5]))
    for row, scale in ((0, 1.5), (1, 0.5)):
        one = jax.tree.map(lambda x, row=row: x[row : row + 1], pair)
        alone = generate(grown, config, one, jnp.full(1, scale))
        assert distance(found[row : row + 1], alone) < 1e-3


def test_defaults_and_cost() -> None:
    config, *_ = separate(speaker_prompts="own")
    sampling = SamplingConfig.for_model(config)
    assert (sampling.voice_matching, sampling.speaker_guidance) == (1.0, 0.0)
    assert set(steering(sampling, 1)) == {
        "guidance_scale", "voice_matching", "voice_contrast", "feat_scale"
    }  # fmt: skip
    with pytest.raises(UserError, match="speaker_guidance"):
        SamplingConfig.for_model(config, speaker_guidance=1.0)
    joint = dataclasses.replace(config, channel_decoding="joint")
    plain = dataclasses.replace(joint, speaker_prompts="joint")
    twice = sampling_flops(config, 100, 20, 4, guided=True)
    assert 1.7 < twice / sampling_flops(plain, 100, 20, 4, guided=True) < 2.0
    assert training_flops(config, 100, 20) == training_flops(joint, 100, 20)
    assert training_flops(config, 100, 20, channels=2) == 2 * training_flops(config, 100, 20)
    with pytest.raises(UserError, match="choose tag"):
        dataclasses.replace(config, speaker_turns="official")


def test_one_call_leads_from_text_to_velocity() -> None:
    config, grown, *_ = separate(**SMALL)
    assert jax.tree.structure(abstract_params(config)) == jax.tree.structure(grown)
    rng = np.random.default_rng(4)
    x, speech = jnp.asarray(rng.standard_normal((2, 2, 12, 20)), jnp.float32)
    tokens, lens = jnp.array([[18, 3, 19, 4, 0], [18, 5, 19, 0, 0]]), jnp.array([4, 3])
    frames, t = jnp.array([12, 9]), jnp.array([0.2, 0.6])

    @jax.jit
    def both(params: Any) -> tuple[jax.Array, jax.Array]:
        model = bound(params, config)
        text = model.text_condition(tokens, lens, frames, 12, channels=2)
        mask = jnp.arange(12)[None] >= frames[:, None]
        in_parts = model.velocity(t, x, text, speech, mask)
        return model(tokens, lens, frames, t, x, speech), in_parts

    whole, in_parts = both(grown)
    assert whole.shape == x.shape
    assert distance(whole, in_parts) < 1e-6

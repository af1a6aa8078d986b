"""Matching of voices and guidance away from the other speaker's: on arrays, and in sampling."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from complaints import user_error
from test_model import error, make
from test_speaker_prompts import DIALOGUE, FRAMES, OF_SECOND, PROMPT, inputs_of

from zipvoice_jax.config import ModelConfig, SamplingConfig
from zipvoice_jax.flow.matching import match_voices, prompt_voices, speech_weights
from zipvoice_jax.flow.sampling import SampleInputs, prepare, sample, steering

SCALE, BINS = 0.1, 6


def speech(frames: int, level: float, spread: float) -> np.ndarray:
    """Scaled log-mel of a voice, (1, frames, 1, BINS); every frame is loud."""
    rng = np.random.default_rng([frames, round(-level), round(10 * spread)])
    x = level + spread * rng.standard_normal((1, frames, 1, BINS))
    x[..., 0] = level + 3.0 * spread  # so that all frames are about as loud
    return (SCALE * (x + np.arange(BINS))).astype(np.float32)


def matched(x: np.ndarray, prompt: np.ndarray, share: float = 1.0) -> np.ndarray:
    """All frames of one speaker, after a prompt of the same length or another."""
    both = jnp.asarray(np.concatenate([prompt, x], axis=1))
    in_prompt = (jnp.arange(both.shape[1]) < prompt.shape[1])[None, :, None]
    voices = prompt_voices(both, in_prompt, ~in_prompt, jnp.full((1,), share), SCALE)
    found = np.asarray(match_voices(both, voices))
    assert np.array_equal(found[:, : prompt.shape[1]], prompt)
    return found[:, prompt.shape[1] :]


def moments(x: np.ndarray) -> np.ndarray:
    return np.stack([x.mean(axis=(0, 1, 2)), x.std(axis=(0, 1, 2))])[:, 1:]


def test_mean_and_deviation_become_those_of_the_prompt() -> None:
    x, prompt = speech(2000, -6.0, 0.4), speech(2000, -4.0, 0.7)
    far = np.abs(moments(x) - moments(prompt))
    whole = np.abs(moments(matched(x, prompt)) - moments(prompt))
    half = np.abs(moments(matched(x, prompt, 0.5)) - moments(prompt))
    assert (whole < 0.12 * far + 0.002).all() and far.min() > 0.01
    assert 0.4 < (half / far).mean() < 0.65
    assert np.array_equal(matched(x, prompt, 0.0), x)
    # What is like its prompt already stays nearly as it is.
    assert error(matched(x, x), x) < 1e-5


def test_pauses_stay_and_little_speech_moves_little() -> None:
    x, prompt = speech(300, -6.0, 0.4), speech(300, -4.0, 0.4)
    x[:, 100:200] -= SCALE * 9.0
    found = matched(x, prompt)
    moved = np.abs(found - x).mean(axis=(0, 2, 3)) / SCALE
    assert moved[100:200].max() < 0.02 < 0.5 < moved[:100].min()
    short = matched(x[:, :3], prompt) - x[:, :3]
    assert np.abs(short).mean() < 0.5 * np.abs(found - x)[:, :100].mean()


def test_silence_and_a_speaker_without_prompt_are_left_alone() -> None:
    silence = np.full((1, 50, 1, BINS), -16.0 * SCALE, np.float32)
    assert np.isfinite(matched(speech(50, -6.0, 0.4), silence)).all()
    x = jnp.asarray(speech(60, -6.0, 0.4))
    frames = jnp.arange(60)[None, :, None]
    member = jnp.concatenate([frames < 0, frames < 30], axis=2)
    generated = jnp.concatenate([frames >= 45, frames < 0], axis=2)  # no prompt, nothing said
    voices = prompt_voices(x, member, generated, jnp.ones(1), SCALE)
    assert np.array_equal(match_voices(x, voices), x)


def test_weights_do_not_depend_on_the_scale_of_features() -> None:
    x = speech(40, -6.0, 2.0)
    member = jnp.ones((1, 40, 1))
    one, ten = (
        np.asarray(speech_weights(jnp.asarray(k * x), member, k * SCALE)) for k in (1.0, 10.0)
    )
    assert np.allclose(one, ten, atol=1e-4) and one.min() < 0.9 < one.max()


# --- in sampling -----------------------------------------------------------------------------


def sampled(
    inputs: SampleInputs,
    kind: str = "zipvoice_dialog",
    rule: str = "own",
    steps: int = 3,
    **how: Any,
) -> np.ndarray:
    config, params = make(kind, pad_id=0, speaker_prompts=rule)
    size = inputs.tokens.shape[0]
    each = {name: jnp.full((size,), value) for name, value in how.items()}
    times, scale = jnp.linspace(0.0, 1.0, steps + 1), jnp.full((size,), 1.5)
    # The features are as if a nat were 1, so that most frames are about as loud.
    return np.asarray(sample(params, config, inputs, times, scale, feat_scale=1.0, **each))


@pytest.mark.parametrize("rule", ["own", "joint"])
def test_each_speaker_takes_their_own_part_of_the_prompt(rule: str) -> None:
    given = inputs_of(DIALOGUE)
    plain, found = (sampled(given, rule=rule, voice_matching=share) for share in (0.0, 1.0))
    assert error(sampled(given, rule=rule), plain) < 1e-4
    new, mine = slice(PROMPT, FRAMES), OF_SECOND[0, :, 0]
    prompt = np.asarray(given.prompt_features)[0]
    for frames in (mine, ~mine):
        of_prompt = prompt[:PROMPT][frames[:PROMPT]].mean(axis=0)
        before, after = (
            np.abs(x[0, new][frames[new]].mean(axis=0) - of_prompt) for x in (plain, found)
        )
        assert after.mean() < 0.9 * before.mean()
    # Statistics are a speaker's own: a louder second voice in the prompt moves the second alone.
    louder = dataclasses.replace(
        given,
        prompt_features=jnp.where(OF_SECOND, given.prompt_features + 1.0, given.prompt_features),
    )
    if rule == "own":
        moved = np.abs(
            sampled(louder, steps=1, voice_matching=1.0)
            - sampled(given, steps=1, voice_matching=1.0)
        )
        assert moved[0][~mine].max() < 1e-4 < moved[0][mine].min()


@pytest.mark.parametrize("how", [{"voice_matching": 1.0}, {"speaker_guidance": 1.0}])
def test_neither_company_nor_padding_matters(how: dict[str, float]) -> None:
    given = inputs_of(DIALOGUE)
    longer = {
        name: jnp.pad(getattr(given, name), ((0, 0), (0, 8), (0, 0)), constant_values=3.0)
        for name in ("prompt_features", "noise")
    }
    padded = dataclasses.replace(given, tokens=jnp.pad(given.tokens, ((0, 0), (0, 5))), **longer)
    both = jax.tree.map(lambda x: jnp.concatenate([x, x[:, ::-1] if x.ndim == 3 else x]), padded)
    found, alone = sampled(both, **how), sampled(given, **how)
    assert error(found[:1, :FRAMES], alone) < 1e-3 < error(alone, sampled(given))


def test_guidance_away_from_the_other_is_their_difference() -> None:
    given = inputs_of(DIALOGUE)
    none, one, two = (sampled(given, steps=1, speaker_guidance=k) for k in (0.0, 1.0, 2.0))
    assert np.array_equal(none, sampled(given, steps=1))
    assert error(two - none, 2.0 * (one - none)) < 1e-3
    # A model without such branches is not moved.
    joint = sampled(given, rule="joint", steps=1, speaker_guidance=1.0)
    assert np.array_equal(joint, sampled(given, rule="joint", steps=1))


def test_channels_of_a_stereo_model_are_matched_each_on_its_own() -> None:
    given = inputs_of(DIALOGUE)
    two = {
        name: jnp.concatenate([getattr(given, name), getattr(given, name)[:, ::-1]], axis=-1)
        for name in ("prompt_features", "noise")
    }
    given = dataclasses.replace(given, **two)
    louder = given.prompt_features.at[:, :, 10:].add(1.0)
    config, params = make("zipvoice_dialog_stereo", pad_id=0)
    state = given.noise.reshape(1, FRAMES, 2, 10)
    found = []
    for prompt in (given.prompt_features, louder):
        one = dataclasses.replace(given, prompt_features=prompt)
        times, scale = jnp.linspace(0.0, 1.0, 2), jnp.ones((1,))
        voices = prepare(params, config, one, times, scale, voice_matching=scale).voices
        assert voices is not None and voices.statistics.mean.shape == (1, 2, 2, 10)
        found.append(np.asarray(match_voices(state, voices)))
    moved = np.abs(found[1] - found[0])[0]
    assert moved[:, 0].max() == moved[:PROMPT].max() == 0.0 < moved[PROMPT:, 1].max()
    assert np.array_equal(found[0][:, :PROMPT], state[:, :PROMPT])


def test_official_sampling_has_none_of_it() -> None:
    official, own = make()[0], make(speaker_prompts="own")[0]

    def names(config: ModelConfig, **given: float) -> set[str]:
        return set(steering(SamplingConfig.for_model(config, **given), 3)) - {"guidance_scale"}

    assert names(official) == names(make("zipvoice")[0]) == set()
    assert names(official, voice_matching=0.5) == {"voice_matching", "feat_scale"}
    assert names(own) == {"speaker_guidance", "voice_matching", "feat_scale"}
    assert names(own, voice_matching=0.0) == {"speaker_guidance"}
    with user_error("speaker_guidance is 1", "speaker_prompts own"):
        SamplingConfig.for_model(official, speaker_guidance=1.0)
    with user_error("voice_matching is 1.5"):
        SamplingConfig.for_model(own, voice_matching=1.5)

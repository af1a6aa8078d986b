"""Matching of voices and guidance away from the other speaker's: on arrays, and in sampling."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from complaints import user_error
from signals import distance
from small_models import make
from test_speaker_prompts import DIALOGUE, FRAMES, OF_SECOND, PROMPT, compiled_sample, inputs_of

from zipvoice_jax.config import ModelConfig, SamplingConfig
from zipvoice_jax.flow.matching import (
    PromptVoices,
    VoiceStatistics,
    match_voices,
    prompt_voices,
    set_apart,
    speech_weights,
)
from zipvoice_jax.flow.sampling import SampleInputs, prepare, steering

SCALE, BINS = 0.1, 6
# Fewer stacks to compile; what random weights say of their prompts is heard in the speech as well.
SHALLOW: dict[str, Any] = {
    "fm_decoder_downsampling_factor": (1, 2, 1),
    "fm_decoder_num_layers": (1, 2, 1),
    "fm_decoder_cnn_module_kernel": (7, 3, 7),
}


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
    assert distance(matched(x, x), x) < 1e-5


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
    # Of two channels, whose frames are both speakers', one may be silent throughout the prompt.
    both = np.concatenate([speech(50, -6.0, 0.4), speech(50, -3.0, 0.6)], axis=2)
    prompt = np.concatenate([both[:, :, :1] + 0.1, silence], axis=2)
    everywhere = jnp.ones((1, 50, 1), bool)
    voices = prompt_voices(jnp.asarray(prompt), everywhere, everywhere, jnp.ones(1), SCALE)
    moved = np.asarray(match_voices(jnp.asarray(both), voices))
    assert np.array_equal(moved[:, :, 1], both[:, :, 1])
    assert np.abs(moved[:, :, 0] - both[:, :, 0]).max() > 0.05
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


def voices_of(*levels: float, frames: int = 4000) -> VoiceStatistics:
    """Speakers whose spectra rise more and more steeply from bin to bin, and get louder."""
    rise = jnp.asarray(levels)[:, None] * (jnp.arange(BINS, dtype=jnp.float32) + 1.0)[None, :]
    both = jnp.concatenate([rise, rise + 1.0])[None, None]  # dark, then bright sounds
    spread = jnp.broadcast_to(1.0 + jnp.tile(jnp.asarray(levels), 2)[:, None], both.shape)
    return VoiceStatistics(both, spread, jnp.full(both.shape[:3], float(frames)))


def apart(voices: VoiceStatistics, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation, (sounds, BINS)."""
    found = set_apart(voices, jnp.full((1,), contrast), voices.mean.shape[2] // 2)
    return np.asarray(found.mean[0, 0]), np.asarray(found.std[0, 0])


@pytest.mark.parametrize("levels", [(0.1, 0.3), (0.1, 0.3, 0.7)])
def test_voices_are_distinguished_by_the_form_of_their_spectrum(levels: tuple[float, ...]) -> None:
    voices, count = voices_of(*levels), len(levels)
    mean, spread = np.asarray(voices.mean[0, 0]), np.asarray(voices.std[0, 0])
    same_mean, same_spread = apart(voices, 0.0)
    assert np.array_equal(same_mean, mean) and np.array_equal(same_spread, spread)
    found, spreads = apart(voices, 0.5)
    assert np.allclose(found.mean(axis=1), mean.mean(axis=1), atol=1e-5)
    for sound in (slice(0, count), slice(count, None)):
        steps = np.diff(mean[sound], axis=1)
        others = (steps.sum(axis=0) - steps) / (count - 1)
        wanted = steps + 0.5 * (steps - others)
        assert np.allclose(np.diff(found[sound], axis=1), wanted, atol=2e-3)
        logs = np.log(spread[sound])
        beyond = 0.25 * (logs - (logs.sum(axis=0) - logs) / (count - 1))
        assert np.allclose(np.log(spreads[sound]), logs + beyond, atol=2e-3)
    # Whatever their number, what is said of one does not depend on its place.
    turned, _ = apart(voices_of(*levels[::-1]), 0.5)
    assert np.allclose(turned[:count], found[:count][::-1], atol=1e-6)


def test_whose_voice_is_unknown_moves_nobody() -> None:
    voices = voices_of(0.1, 0.3)
    silent = voices.replace(frames=voices.frames.at[:, :, 1::2].set(0.0))  # type: ignore[attr-defined]
    mean, spread = apart(silent, 1.0)
    assert np.allclose(mean, voices.mean[0, 0], atol=1e-5)
    assert np.allclose(spread, voices.std[0, 0], atol=1e-5)
    alone, _ = apart(voices_of(0.3), 1.0)
    assert np.allclose(alone, voices_of(0.3).mean[0, 0], atol=1e-5)


# --- in sampling -----------------------------------------------------------------------------


def sampled(
    inputs: SampleInputs,
    kind: str = "zipvoice_dialog",
    rule: str = "own",
    steps: int = 3,
    **how: Any,
) -> np.ndarray:
    config, params = make(kind, pad_id=0, speaker_prompts=rule, **SHALLOW)
    size = inputs.tokens.shape[0]
    each = {name: jnp.full((size,), value) for name, value in how.items()}
    times, scale = jnp.linspace(0.0, 1.0, steps + 1), jnp.full((size,), 1.5)
    # The features are as if a nat were 1, so that most frames are about as loud.
    each["feat_scale"] = jnp.ones((size,))
    return np.asarray(compiled_sample(params, config, inputs, times, scale, **each))


@functools.partial(jax.jit, static_argnames="config")
def voices_of_prompt(
    params: Any, config: ModelConfig, inputs: SampleInputs, **each: jax.Array
) -> PromptVoices | None:
    times, scale = jnp.linspace(0.0, 1.0, 2), jnp.ones(inputs.prompt_lens.shape)
    return prepare(params, config, inputs, times, scale, **each).voices


@pytest.mark.parametrize("rule", ["own", "joint"])
def test_each_speaker_takes_their_own_part_of_the_prompt(rule: str) -> None:
    inputs = inputs_of(DIALOGUE)
    plain, found = (sampled(inputs, rule=rule, voice_matching=share) for share in (0.0, 1.0))
    assert distance(sampled(inputs, rule=rule), plain) < 1e-4
    new, mine = slice(PROMPT, FRAMES), OF_SECOND[0, :, 0]
    prompt = np.asarray(inputs.prompt_features)[0]
    for frames in (mine, ~mine):
        of_prompt = prompt[:PROMPT][frames[:PROMPT]].mean(axis=0)
        before, after = (
            np.abs(x[0, new][frames[new]].mean(axis=0) - of_prompt) for x in (plain, found)
        )
        assert after.mean() < 0.9 * before.mean()
    # Statistics are a speaker's own: a louder second voice in the prompt moves the second alone.
    louder = dataclasses.replace(
        inputs,
        prompt_features=jnp.where(OF_SECOND, inputs.prompt_features + 1.0, inputs.prompt_features),
    )
    if rule == "own":
        moved = np.abs(
            sampled(louder, steps=1, voice_matching=1.0)
            - sampled(inputs, steps=1, voice_matching=1.0)
        )
        assert moved[0][~mine].max() < 1e-4 < moved[0][mine].min()


@pytest.mark.parametrize("rule", ["own", "joint"])
def test_contrast_moves_what_is_aimed_at_apart(rule: str) -> None:
    inputs, one = inputs_of(DIALOGUE), jnp.ones((1,))
    config, params = make(pad_id=0, speaker_prompts=rule, **SHALLOW)

    def distances(contrast: float) -> np.ndarray:
        how = {"voice_matching": one, "voice_contrast": contrast * one, "feat_scale": one}
        voices = voices_of_prompt(params, config, inputs, **how)
        assert voices is not None
        mean = np.asarray(voices.statistics.mean[0, 0])
        form = mean - mean.mean(axis=1, keepdims=True)
        return np.abs(form[0::2] - form[1::2]).mean(axis=1)  # of dark and of bright sounds

    none, some, more = (distances(contrast) for contrast in (0.0, 0.5, 1.0))
    assert (none < some).all() and np.allclose(more - none, 2.0 * (some - none), rtol=1e-3)
    without, least, most = (
        sampled(inputs, rule=rule, voice_matching=1.0, **how)
        for how in ({}, {"voice_contrast": 0.0}, {"voice_contrast": 1.0})
    )
    assert distance(least, without) < 1e-4 < 1e-3 < distance(most, without)


@pytest.mark.parametrize(
    "how",
    [
        {"voice_matching": 1.0},
        {"voice_matching": 1.0, "voice_contrast": 1.0},
        {"speaker_guidance": 1.0},
    ],
)
def test_neither_company_nor_padding_matters(how: dict[str, float]) -> None:
    inputs = inputs_of(DIALOGUE)
    longer = {
        name: jnp.pad(getattr(inputs, name), ((0, 0), (0, 8), (0, 0)), constant_values=3.0)
        for name in ("prompt_features", "noise")
    }
    padded = dataclasses.replace(inputs, tokens=jnp.pad(inputs.tokens, ((0, 0), (0, 5))), **longer)
    both = jax.tree.map(lambda x: jnp.concatenate([x, x[:, ::-1] if x.ndim == 3 else x]), padded)
    found, alone = sampled(both, **how), sampled(inputs, **how)
    assert distance(found[:1, :FRAMES], alone) < 1e-3 < distance(alone, sampled(inputs))


def test_guidance_away_from_the_other_is_their_difference() -> None:
    inputs = inputs_of(DIALOGUE)
    none, one, two = (sampled(inputs, steps=1, speaker_guidance=k) for k in (0.0, 1.0, 2.0))
    assert np.array_equal(none, sampled(inputs, steps=1))
    assert distance(two - none, 2.0 * (one - none)) < 1e-3
    # A model without such branches is not moved.
    joint = sampled(inputs, rule="joint", steps=1, speaker_guidance=1.0)
    assert np.array_equal(joint, sampled(inputs, rule="joint", steps=1))


def test_channels_of_a_stereo_model_are_matched_each_on_its_own() -> None:
    inputs = inputs_of(DIALOGUE)
    two = {
        name: jnp.concatenate([getattr(inputs, name), getattr(inputs, name)[:, ::-1]], axis=-1)
        for name in ("prompt_features", "noise")
    }
    inputs = dataclasses.replace(inputs, **two)
    louder = inputs.prompt_features.at[:, :, 10:].add(1.0)
    config, params = make("zipvoice_dialog_stereo", pad_id=0, **SHALLOW)
    state = inputs.noise.reshape(1, FRAMES, 2, 10)
    found = []
    for prompt in (inputs.prompt_features, louder):
        one, share = dataclasses.replace(inputs, prompt_features=prompt), jnp.ones((1,))
        each = {"voice_matching": share, "feat_scale": SCALE * share}
        voices, apart = (
            voices_of_prompt(params, config, one, **each, **how)
            for how in ({}, {"voice_contrast": share})
        )
        assert voices is not None and voices.statistics.mean.shape == (1, 2, 2, 10)
        # A channel of one's own is contrast enough.
        assert apart is not None
        assert np.array_equal(apart.statistics.mean, voices.statistics.mean)
        found.append(np.asarray(match_voices(state, voices)))
    moved = np.abs(found[1] - found[0])[0]
    assert moved[:, 0].max() == moved[:PROMPT].max() == 0.0 < moved[PROMPT:, 1].max()
    assert np.array_equal(found[0][:, :PROMPT], state[:, :PROMPT])


def test_official_sampling_has_none_of_it() -> None:
    official, own = make()[0], make(speaker_prompts="own")[0]

    def names(config: ModelConfig, **settings: float) -> set[str]:
        return set(steering(SamplingConfig.for_model(config, **settings), 3)) - {"guidance_scale"}

    assert names(official) == names(make("zipvoice")[0]) == set()
    matching = {"voice_matching", "voice_contrast", "feat_scale"}
    assert names(official, voice_matching=0.5) == matching
    assert SamplingConfig.for_model(official, voice_matching=0.5).voice_contrast == 0.0
    assert names(own) == {"speaker_guidance", *matching}
    assert names(own, voice_matching=0.0) == {"speaker_guidance"}
    with user_error("speaker_guidance is 1", "speaker_prompts own"):
        SamplingConfig.for_model(official, speaker_guidance=1.0)
    with user_error("voice_contrast is 0.3", "voice_matching"):
        SamplingConfig.for_model(own, voice_matching=0.0, voice_contrast=0.3)
    stereo = make("zipvoice_dialog_stereo", speaker_prompts="own")[0]
    assert SamplingConfig.for_model(stereo).voice_contrast == 0.0
    with user_error("voice_contrast is 0.3", "one channel"):
        SamplingConfig.for_model(stereo, voice_contrast=0.3)
    with user_error("voice_matching is 1.5"):
        SamplingConfig.for_model(own, voice_matching=1.5)

"""Dialogues from each speaker's own part of the prompt: sampling, and training for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signals import distance
from small_models import SMALL, batch, make

from zipvoice_jax.core.rng import named_key
from zipvoice_jax.flow.losses import FlowBatch, counted_frames, flow_matching_loss
from zipvoice_jax.flow.sampling import SampleInputs, sample
from zipvoice_jax.models.flops import sampling_flops
from zipvoice_jax.train.objectives import SpeechBatch, flow_batch

FIRST, SECOND, FRAMES, PROMPT = 18, 19, 24, 12  # tags; frames of all and of the prompt


def inputs_of(tokens: list[int]) -> SampleInputs:
    """Six tokens of prompt and six of text, two frames each."""
    rng = np.random.default_rng(3)
    features = rng.standard_normal((1, FRAMES, 10)).astype(np.float32)
    return SampleInputs(
        tokens=jnp.asarray([[*tokens, 0]], jnp.int32),
        tokens_lens=jnp.asarray([len(tokens)], jnp.int32),
        prompt_features=jnp.asarray(features),
        prompt_lens=jnp.asarray([PROMPT], jnp.int32),
        features_lens=jnp.asarray([FRAMES], jnp.int32),
        noise=jnp.asarray(rng.standard_normal((1, FRAMES, 10)).astype(np.float32)),
    )


DIALOGUE = [FIRST, 1, 2, SECOND, 3, 4, FIRST, 5, 6, SECOND, 7, 8]
OF_SECOND = (np.arange(FRAMES) // 2 % 6 >= 3)[None, :, None]

losses = jax.jit(flow_matching_loss, static_argnums=1)
compiled_sample = jax.jit(sample, static_argnames=("config", "guided"))


def sampled(rule: str, inputs: SampleInputs, *, steps: int = 1, guided: bool = True) -> np.ndarray:
    config, params = make(pad_id=0, speaker_prompts=rule, **SMALL)
    times, scale = jnp.linspace(0.0, 1.0, steps + 1), jnp.asarray([1.5], jnp.float32)
    return np.asarray(compiled_sample(params, config, inputs, times, scale, guided=guided))


def test_a_speaker_hears_no_other_voice() -> None:
    inputs = inputs_of(DIALOGUE)
    # The second speaker's part of the prompt is another one.
    other = jnp.where(OF_SECOND, inputs.prompt_features + 1.0, inputs.prompt_features)
    changed = dataclasses.replace(inputs, prompt_features=other)
    for rule, unmoved in (("own", True), ("joint", False)):
        before, after = sampled(rule, inputs), sampled(rule, changed)
        same = np.abs(before - after).max(axis=-1)[0] < 1e-5
        assert not same[OF_SECOND[0, :, 0]].any()
        assert same[~OF_SECOND[0, :, 0]].all() == unmoved


def test_one_speaker_alone_is_sampled_as_ever() -> None:
    alone = inputs_of([FIRST, 1, 2, 9, 3, 4, FIRST, 5, 6, 10, 7, 8])
    own, joint = (sampled(rule, alone, steps=3, guided=False) for rule in ("own", "joint"))
    assert distance(own, joint) < 1e-3
    assert distance(own, sampled("joint", alone, steps=3)) > 0.01  # which guidance is not


def test_neither_company_nor_padding_matters() -> None:
    inputs = inputs_of(DIALOGUE)
    longer = {
        name: jnp.pad(getattr(inputs, name), ((0, 0), (0, 8), (0, 0)))
        for name in ("prompt_features", "noise")
    }
    padded = dataclasses.replace(inputs, tokens=jnp.pad(inputs.tokens, ((0, 0), (0, 5))), **longer)
    both = jax.tree.map(lambda x: jnp.concatenate([x, x[:, ::-1] if x.ndim == 3 else x]), padded)
    config, params = make(pad_id=0, speaker_prompts="own", **SMALL)
    found = compiled_sample(params, config, both, jnp.linspace(0.0, 1.0, 3), jnp.full((2,), 1.5))
    alone = sampled("own", inputs, steps=2)
    assert distance(np.asarray(found)[:1, :FRAMES], alone) < 1e-3
    assert distance(np.asarray(found)[1:, :FRAMES], alone) > 0.1


def test_its_cost_is_that_of_another_branch() -> None:
    config, _ = make()
    own = dataclasses.replace(config, speaker_prompts="own")
    guided, plain = (
        [sampling_flops(one, 100, 20, 4, guided=guided) for one in (config, own)]
        for guided in (True, False)
    )
    assert 1.3 < guided[1] / guided[0] < 1.5 and 1.7 < plain[1] / plain[0] <= 2.0


# --- training -------------------------------------------------------------------------------


def of(inputs: FlowBatch, speaker: int) -> FlowBatch:
    return inputs.replace(only_speaker=jnp.full((2,), speaker))  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("kind", ["zipvoice_dialog", "zipvoice_dialog_stereo"])
def test_losses_of_one_speaker(kind: str) -> None:
    config, params = make(kind, **SMALL)
    inputs = batch(config)
    # Tokens take 3 frames each, and of the second item too; frames from 4 on are to be generated.
    first = np.zeros((2, 14), bool)
    first[:, :6] = True
    counted = np.asarray(counted_frames(config, inputs))
    assert counted.sum() == 10 + 5
    for speaker, mine in ((1, first), (0, ~first)):
        found = np.asarray(counted_frames(config, of(inputs, speaker)))
        # Frames that are left over are the last speaker's.
        assert np.array_equal(found, counted * mine)
    swapped = inputs.replace(tokens=jnp.array([[19, 3, 18, 4, 0], [19, 5, 18, 0, 0]]))  # type: ignore[attr-defined]
    found = np.asarray(counted_frames(config, of(swapped, 1)))
    assert np.array_equal(found, counted * ~first)
    both = flow_matching_loss(params, config, inputs)[0]
    assert np.array_equal(both, flow_matching_loss(params, config, of(inputs, -1))[0])


@pytest.mark.parametrize("speaker", [0, 1])
def test_what_the_other_says_is_not_in_sight(speaker: int) -> None:
    config, params = make(**SMALL)
    inputs = batch(config)
    shown = jnp.zeros((2, 14), bool).at[:, 4:].set(True).at[:, 6:8].set(False)
    inputs = inputs.replace(speech_condition_mask=shown, t=jnp.zeros(2))  # type: ignore[attr-defined]
    # Both speakers have frames in sight; at t = 0 the state shows none of them.
    of_other = slice(6, 8) if speaker == 1 else slice(0, 4)
    other = inputs.features.at[:, of_other].add(1.0)
    changed = inputs.replace(features=other)  # type: ignore[attr-defined]
    for only, moves in ((speaker, False), (-1, True)):
        before, after = (
            float(losses(params, config, of(one, only))[0]) for one in (inputs, changed)
        )
        assert (before != after) == moves


def test_speakers_are_drawn_evenly_for_their_share() -> None:
    size = 2000
    some = SpeechBatch(
        features=jnp.zeros((size, 4, 10)), features_lens=jnp.full((size,), 4, jnp.int32),
        tokens=jnp.ones((size, 3), jnp.int32), tokens_lens=jnp.full((size,), 2, jnp.int32),
    )  # fmt: skip
    names = ("mask_low", "mask_high", "mask_suffix", "condition_drop", "t_shift", "only_speaker")
    values = dict(zip(names, map(jnp.float32, (0.5, 1.0, 1.0, 0.2, 1.0, 0.0)), strict=True))
    key = named_key(jax.random.key(0), "draws")
    none = flow_batch(key, some, values, 0.1)
    assert np.array_equal(none.only_speaker, np.full(size, -1))
    drawn = flow_batch(key, some, values | {"only_speaker": jnp.float32(0.6)}, 0.1)
    shares = [float((drawn.only_speaker == speaker).mean()) for speaker in (-1, 0, 1)]
    assert shares == pytest.approx([0.4, 0.3, 0.3], abs=0.04)
    assert np.array_equal(drawn.t, none.t) and np.array_equal(drawn.keep_text, none.keep_text)

"""Noise that passes by the decoder: what is taken off, in training and in sampling alike."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import error, make
from test_speaker_prompts import DIALOGUE, inputs_of

from zipvoice_jax.checkpoint.native import read_native, save_native
from zipvoice_jax.checkpoint.official import write_official
from zipvoice_jax.config import FEATURE_STD, FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.flow.losses import FlowBatch, flow_matching_loss
from zipvoice_jax.flow.sampling import sample
from zipvoice_jax.models.zipvoice import bound, velocity_of
from zipvoice_jax.text.tokens import TokenTable

TIMES = jnp.asarray([0.0, 0.15, 0.5, 0.85, 1.0])


def share_at(t: float) -> float:
    """Noise per state, by the least squares of many draws."""
    rng = np.random.default_rng(5)
    noise, speech = rng.standard_normal(400_000), FEATURE_STD * rng.standard_normal(400_000)
    state = (1.0 - t) * noise + t * speech
    return float(noise @ state / (state @ state))


def test_what_is_taken_off_is_the_best_linear_estimate_of_the_noise() -> None:
    config, _ = make(noise_skip=True)
    ones = jnp.ones((len(TIMES), 3, 2))
    found = velocity_of(config, 0.0 * ones, TIMES, ones)
    np.testing.assert_allclose(-found[:, 0, 0], [share_at(float(t)) for t in TIMES], atol=0.01)
    plain = dataclasses.replace(config, noise_skip=False)
    assert np.array_equal(velocity_of(plain, 3.0 * ones, TIMES, ones), 3.0 * ones)


def test_a_decoder_of_speech_alone_would_be_right_where_there_is_only_noise() -> None:
    # At t = 0 the decoder is to give the speech: what is left of the loss is its distance from it.
    config, params = make("zipvoice_dialog_stereo", noise_skip=True)
    rng = np.random.default_rng(2)
    speech, noise = jnp.asarray(rng.standard_normal((2, 1, 12, 20)), jnp.float32)
    batch = FlowBatch(
        tokens=jnp.array([[18, 3, 19, 4, 0]]),
        tokens_lens=jnp.array([4]),
        features=speech,
        features_lens=jnp.array([12]),
        noise=noise,
        t=jnp.zeros(1),
        speech_condition_mask=jnp.ones((1, 12), bool),
        keep_text=jnp.zeros(1),
    )
    _, parts = flow_matching_loss(params, config, batch)
    none, mask = jnp.zeros((1, 12, 10)), jnp.zeros((1, 12), bool)
    plain = dataclasses.replace(config, noise_skip=False)
    decoded = bound(params, plain).velocity(batch.t, noise, none, jnp.zeros((1, 12, 20)), mask)
    assert float(parts["flow"]) == pytest.approx(float(((decoded - speech) ** 2).mean()), rel=1e-4)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("prompts", ["own", "joint"])
def test_sampling_takes_off_the_same(guided: bool, prompts: str) -> None:
    config, params = make(pad_id=0, speaker_prompts=prompts)
    skipping = dataclasses.replace(config, noise_skip=True)
    inputs, times = inputs_of(DIALOGUE), jnp.asarray([0.4, 0.7])
    rest = {"guided": guided, "speaker_guidance": jnp.ones(1) if prompts == "own" else None}
    ours, without = (
        sample(params, one, inputs, times, jnp.full(1, 1.5), **rest) for one in (skipping, config)
    )
    state = inputs.noise
    taken = velocity_of(skipping, jnp.zeros_like(state), times[:1], state) * 0.3
    assert error(ours, without + taken) < 1e-5
    assert error(ours, without) > 0.1


def test_such_a_model_keeps_to_the_native_format(tmp_path: Path) -> None:
    table = TokenTable(tuple("_abcdefghijklmnopq"))
    config, params = make("zipvoice", noise_skip=True, vocab_size=table.vocab_size)
    features = FeatureConfig(n_mels=config.feat_dim)
    with pytest.raises(UserError, match=r"noise_skip.*native"):
        write_official(tmp_path / "official", config, features, table, params)
    assert not (tmp_path / "official").exists()
    save_native(tmp_path / "native", config, features, table, params)
    loaded = read_native(tmp_path / "native")
    assert loaded.config.noise_skip
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)

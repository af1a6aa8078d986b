"""Log-mel features: the official ones, of batches and of any hop, and what has none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl
from complaints import message
from hypothesis import given
from hypothesis import strategies as st
from signals import FEATURES, RATE, distance, noise

from zipvoice_jax.audio.mel import log_mel, log_mel_batch, log_mel_host, mel_filterbank, num_frames
from zipvoice_jax.config import FeatureConfig

WAVES = ("a", "b", "c", "d", "e", "silence")


@pytest.mark.parametrize("name", WAVES)
def test_features_equal_official(golden, name):
    with np.load(golden / "features.npz") as file:
        wave, channels = file[f"{name}_wave"], int(file[f"{name}_channels"])
        expected = file[f"{name}_logmel"]
    host = log_mel_host(wave, FEATURES, channels=channels)
    device = jax.jit(functools.partial(log_mel, features=FEATURES, channels=channels))(wave)
    for ours in (host, device):
        assert ours.shape == expected.shape
        assert ours.dtype == np.float32
        assert distance(ours, expected) < 5e-6


def test_features_of_padded_batch_equal_each_alone():
    lengths = [513, 1100, 4000, 4500]
    waves = np.full((len(lengths), 2, 5000), 9.0, np.float32)
    for i, length in enumerate(lengths):
        waves[i, :, :length] = noise(2, length, seed=i)
    for channels in (1, 2):
        batch, frames = log_mel_batch(
            jnp.asarray(waves), jnp.asarray(lengths), FEATURES, channels=channels
        )
        for i, length in enumerate(lengths):
            alone = log_mel_host(waves[i, :, :length], FEATURES, channels=channels)
            assert int(frames[i]) == len(alone) == num_frames(length, FEATURES)
            assert distance(batch[i, : len(alone)], alone) < 5e-6
            assert not np.any(batch[i, len(alone) :])


@given(st.integers(0, 10**9), st.sampled_from([256, 300, 441]))
def test_frames_are_samples_over_hop_with_halves_up(samples, hop):
    ours = num_frames(samples, FeatureConfig(hop_length=hop))
    assert (2 * ours - 1) * hop <= 2 * samples < (2 * ours + 1) * hop
    assert ours <= 1 + samples // hop


def test_features_where_hop_does_not_divide_the_window():
    features = FeatureConfig(n_fft=1000, hop_length=240, n_mels=40)
    wave = noise(1, 5000)
    assert distance(log_mel(jnp.asarray(wave), features), log_mel_host(wave, features)) < 5e-6


def test_features_hang_on_no_number_of_threads():
    wave = noise(2, 300_000)
    some = []
    for threads in (1, 2, 3):
        with threadpoolctl.threadpool_limits(threads):
            some.append(log_mel_host(wave, FEATURES, channels=2))
    np.testing.assert_array_equal(some[1], some[0])
    np.testing.assert_array_equal(some[2], some[0])


def test_mel_filters_follow_the_htk_scale():
    filters = mel_filterbank(FEATURES)
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    centres = 700 * (10 ** (np.linspace(0, top, 102)[1:-1] / 2595) - 1)
    peaks = filters.argmax(axis=1) * RATE / FEATURES.n_fft
    assert np.abs(peaks - centres).max() <= RATE / FEATURES.n_fft
    assert filters.min() == 0
    assert filters.max() <= 1


@pytest.mark.parametrize(
    "extract", [log_mel_host, lambda w, *a, **k: log_mel(jnp.asarray(w), *a, **k)]
)
def test_features_refuse_what_cannot_be_framed(extract):
    assert "too short" in message(extract, noise(1, 512), FEATURES)
    assert extract(noise(1, 513), FEATURES).shape == (2, 100)
    assert "stereo" in message(extract, noise(1, 5000), FEATURES, channels=2)
    assert "channels" in message(extract, noise(3, 5000), FEATURES)

"""Griffin-Lim: its waves have the features they were made of, be these few or extreme."""

import numpy as np
import pytest
from complaints import message
from signals import FEATURES, RATE, distance

from zipvoice_jax.audio.griffin_lim import griffin_lim, mel_to_linear
from zipvoice_jax.audio.mel import log_mel_host, mel_filterbank

FLOOR = np.float32(np.log(1e-7))


def _speech_like(seconds: float) -> np.ndarray:
    """A gliding harmonic tone with pauses."""
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(150 + 50 * np.sin(3 * time)) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.1 * (np.sin(8 * time) > -0.5)
    return wave[None].astype(np.float32)


def test_griffin_lim_gives_the_features_back():
    mel = log_mel_host(_speech_like(1.5), FEATURES)
    wave = griffin_lim(mel, FEATURES)
    assert wave.shape == ((len(mel) - 1) * 256,)
    assert wave.dtype == np.float32
    loud = mel[:-1] > -6  # what can be heard; the floor is not reached by overlapping frames
    again = log_mel_host(wave[None], FEATURES)
    assert np.abs(again - mel[:-1])[loud].mean() < 0.2
    np.testing.assert_array_equal(griffin_lim(mel, FEATURES), wave)
    assert not np.array_equal(griffin_lim(mel, FEATURES, seed=1), wave)


def test_mel_inversion_is_close_and_non_negative():
    mel = log_mel_host(_speech_like(0.5), FEATURES)
    linear = mel_to_linear(mel, FEATURES)
    assert linear.min() >= 0
    assert distance(linear @ mel_filterbank(FEATURES).T, np.exp(mel)) < 0.02


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 9])
def test_griffin_lim_of_few_frames(frames):
    wave = griffin_lim(np.full((frames, 100), -2.0, np.float32), FEATURES)
    assert wave.shape == (max(frames - 1, 0) * 256,)
    assert np.isfinite(wave).all()


def test_griffin_lim_of_extremes():
    assert np.abs(griffin_lim(np.full((20, 100), FLOOR), FEATURES)).max() < 1e-6
    assert np.isfinite(griffin_lim(np.full((20, 100), 500, np.float32), FEATURES)).all()
    assert "NaN" in message(griffin_lim, np.full((20, 100), np.nan, np.float32), FEATURES)
    assert "(frames, 100)" in message(griffin_lim, np.zeros((20, 80), np.float32), FEATURES)

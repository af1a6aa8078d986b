"""Silence, levels, joining and the waves of prompts; against golden and by property."""

import numpy as np
import pytest
from complaints import message
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import FEATURES, RATE, distance, noise

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.audio.ops import (
    check_prompt,
    cross_fade_concat,
    mix_prompt,
    prompt_doubts,
    remove_silence,
    rms_norm,
    stereo_prompt,
    to_mono,
)


def test_wave_operations_equal_official(golden):
    with np.load(golden / "waveform_ops.npz") as file:
        ops = dict(file)
    wave, stereo = ops["wave"], ops["wave_stereo"]
    edge = remove_silence(wave, RATE, only_edge=True)
    np.testing.assert_array_equal(edge, ops["silence_edge_only"])
    np.testing.assert_array_equal(
        remove_silence(wave, RATE, trail_ms=200), ops["silence_all_trail200"]
    )
    np.testing.assert_array_equal(
        remove_silence(stereo, RATE, trail_ms=200), ops["silence_stereo_all_trail200"]
    )
    louder, rms = rms_norm(ops["rms_in"], 0.1)
    assert distance(louder, ops["rms_out"]) < 1e-6
    assert rms == pytest.approx(float(ops["rms_value"]), rel=1e-6)
    joined = cross_fade_concat([ops[f"fade_in{i}"] for i in range(4)], sampling_rate=RATE)
    assert joined.shape == ops["fade_out"].shape
    assert distance(joined, ops["fade_out"]) < 1e-6


@given(
    st.lists(
        st.tuples(st.sampled_from([3, 50, 900, 1000, 1013, 2200, 3700]), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([24_000, 22_050]),
)
@settings(max_examples=30, deadline=None)
def test_removing_silence_keeps_all_speech(parts, rate):
    wave = np.concatenate(
        [
            noise(2, ms * rate // 1000, level=0.2 * loud, seed=i)
            for i, (ms, loud) in enumerate(parts)
        ],
        axis=1,
    )
    kept = remove_silence(wave, rate)
    loud = wave[:, (np.abs(wave) > 0.01).any(axis=0)]
    left = kept[:, (np.abs(kept) > 0.01).any(axis=0)]
    # Rounding to milliseconds may cost less than 1 ms at each of the edges and splits.
    assert loud.shape[1] - left.shape[1] <= 8 * rate // 1000
    again = remove_silence(kept, rate)
    assert abs(again.shape[1] - kept.shape[1]) <= 0.02 * rate
    quiet = np.concatenate([[False], (kept == 0).all(axis=0), [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(int)))
    runs = (edges[1::2] - edges[::2]) / rate
    if loud.size and runs.size:
        assert runs.max() <= 2.02


def test_silence_is_cut_where_it_is_documented():
    speech = noise(1, RATE, level=0.2)

    def silence(seconds: float) -> np.ndarray:
        return np.zeros((1, int(seconds * RATE)), np.float32)

    wave = np.concatenate([silence(0.5), speech, silence(5), speech, silence(0.7)], axis=1)
    assert remove_silence(wave, RATE).shape[1] == pytest.approx(
        (0.1 + 1 + 2 + 1 + 0.1) * RATE, abs=480
    )
    edge = remove_silence(wave, RATE, only_edge=True)
    assert edge.shape[1] == pytest.approx((0.1 + 1 + 5 + 1 + 0.1) * RATE, abs=480)
    assert remove_silence(silence(3), RATE).shape == (1, 0)
    assert remove_silence(silence(3)[:, :0], RATE).shape == (1, 0)
    assert remove_silence(np.zeros((2, 5 * RATE), np.float32), RATE, trail_ms=200).shape[0] == 2


def test_prompt_must_have_sound_in_it():
    check_prompt(np.concatenate([np.zeros((1, 9 * RATE), np.float32), noise(1, 600)], axis=1), "p")
    assert "p.wav is silent" in message(check_prompt, noise(1, RATE, level=1e-4), "p.wav")
    assert "no samples" in message(check_prompt, np.zeros((1, 0), np.float32), "p.wav")
    bad = noise(1, RATE)
    bad[0, 5] = np.nan
    assert "NaN" in message(check_prompt, bad, "p.wav")
    assert "NaN" in message(remove_silence, bad, RATE)


def test_a_prompt_is_checked_as_the_model_hears_it():
    voice, other = noise(1, RATE), noise(1, RATE, seed=1)
    assert "p.wav cancel out" in message(mix_prompt, np.concatenate([voice, -voice]), "p.wav")
    # A lossy codec leaves a little of the difference.
    residue = np.concatenate([voice, -voice + 0.02 * other])
    assert "p.wav cancel out" in message(mix_prompt, residue, "p.wav")
    weak = np.concatenate([voice, -0.7 * voice])
    (doubt,) = prompt_doubts(weak, "p.wav", mixed=True)
    assert "p.wav nearly cancel" in doubt and not prompt_doubts(weak, "p.wav", mixed=False)
    for fine in (voice, np.concatenate([voice, other]), np.concatenate([voice, 0 * voice])):
        np.testing.assert_array_equal(mix_prompt(fine, "p.wav"), to_mono(fine))
        assert not prompt_doubts(fine, "p.wav", mixed=True)
    loud = 2.0 * voice / np.abs(voice).max()
    assert prompt_doubts(loud, "p.wav", mixed=True) == [
        "p.wav goes to 2.0 times full scale and is clipped there"
    ]


def test_level_is_raised_never_lowered():
    quiet, loud = noise(2, 5000, level=0.01), noise(2, 5000, level=0.3)
    raised, rms = rms_norm(quiet, 0.1)
    assert np.sqrt(np.mean(raised**2)) == pytest.approx(0.1, rel=1e-5)
    assert distance(raised * rms / 0.1, quiet) < 1e-6
    np.testing.assert_array_equal(rms_norm(loud, 0.1)[0], loud)
    zeros, rms = rms_norm(np.zeros((1, 10), np.float32), 0.1)
    assert rms == 0.0
    assert not zeros.any()


def test_cross_fade_of_constants_is_constant_and_short_chunks_fit():
    chunks = [np.full((2, n), 0.5, np.float32) for n in (5000, 100, 0, 3000)]
    joined = cross_fade_concat(chunks, fade_duration=0.1, sampling_rate=RATE)
    np.testing.assert_allclose(joined, 0.5, rtol=1e-6)
    assert joined.shape == (2, 5000 + 3000 - 2400)
    assert cross_fade_concat(chunks, fade_duration=0.0).shape == (2, 8100)
    assert "no waves" in message(cross_fade_concat, [])


def test_stereo_prompt_of_two_voices(golden):
    folder = golden / "release"
    waves = [read_audio(folder / f"prompt_s{i}.wav", RATE) for i in (1, 2)]
    prompt = stereo_prompt(waves)
    normed, rms = rms_norm(prompt, 0.1)
    with np.load(folder / "zipvoice_dialog_stereo" / "expected.npz") as expected:
        np.testing.assert_array_equal(prompt, expected["prompt_wave"])
        assert rms == pytest.approx(float(expected["prompt_rms"]), rel=1e-6)
        features = 0.1 * log_mel_host(normed, FEATURES, channels=2)
        assert distance(features, expected["prompt_features"][0]) < 5e-6
    stereo = noise(2, 700)
    np.testing.assert_array_equal(stereo_prompt([stereo]), stereo)
    assert stereo_prompt([stereo, stereo]).shape == (2, 1400)
    np.testing.assert_allclose(to_mono(stereo)[0], (stereo[0] + stereo[1]) / 2, rtol=1e-6)
    for wrong in ([noise(1, 9)], [noise(1, 9), stereo], [noise(1, 9)] * 3, []):
        assert "stereo" in message(stereo_prompt, wrong)

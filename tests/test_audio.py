"""Audio: features, files, silence, levels, joining, Griffin-Lim; against golden and by property."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import threadpoolctl
from complaints import message
from hypothesis import given, settings
from hypothesis import strategies as st

from zipvoice_jax.audio.griffin_lim import griffin_lim, mel_to_linear
from zipvoice_jax.audio.io import read_audio, sampling_rate_of, write_audio
from zipvoice_jax.audio.mel import log_mel, log_mel_batch, log_mel_host, mel_filterbank, num_frames
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
from zipvoice_jax.config import FeatureConfig

FEATURES = FeatureConfig()
RATE = FEATURES.sampling_rate
WAVES = ("a", "b", "c", "d", "e", "silence")
FLOOR = np.float32(np.log(1e-7))


def distance(ours, golden) -> float:
    """Relative 2-norm of the difference."""
    golden = np.asarray(golden, np.float64)
    return float(np.linalg.norm(np.asarray(ours, np.float64) - golden) / np.linalg.norm(golden))


def noise(*shape: int, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def tone(frequency: float, samples: int, rate: int, channels: int = 1) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


# --- features


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


# --- silence, level, joining


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
    (told,) = prompt_doubts(weak, "p.wav", mixed=True)
    assert "p.wav nearly cancel" in told and not prompt_doubts(weak, "p.wav", mixed=False)
    for fine in (voice, np.concatenate([voice, other]), np.concatenate([voice, 0 * voice])):
        np.testing.assert_array_equal(mix_prompt(fine, "p.wav"), to_mono(fine))
        assert not prompt_doubts(fine, "p.wav", mixed=True)
    loud = 2.0 * voice / np.abs(voice).max()
    assert prompt_doubts(loud, "p.wav", mixed=True) == [
        "p.wav goes to 2.0 times full scale and is clipped there"
    ]


def test_float_samples_in_the_scale_of_integers_are_named(tmp_path):
    path = tmp_path / "x.wav"
    for scale in (32768, 2**31):
        _write(path, noise(1, 500) * scale, subtype="FLOAT")
        assert f"{path} has floating-point samples up to" in message(read_audio, path, RATE)
    _write(path, noise(1, 500) * 10, subtype="FLOAT")
    assert read_audio(path, RATE).max() > 1


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


# --- files


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_resampling_keeps_a_tone(tmp_path, rate):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(1000.0, rate, rate).T, rate, subtype="FLOAT")
    wave = read_audio(path, RATE)
    assert wave.shape == (1, RATE)
    assert wave.dtype == np.float32
    inner = slice(1000, -1000)
    assert distance(wave[:, inner], tone(1000.0, RATE, RATE)[:, inner]) < 1e-3


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_formats_are_read(tmp_path, extension):
    path = tmp_path / f"tone.{extension}"
    soundfile.write(path, tone(440.0, RATE, RATE, channels=2).T, RATE)
    wave = read_audio(path, RATE)
    assert wave.shape[0] == 2
    assert wave.shape[1] == pytest.approx(RATE, abs=2400)
    spectrum = np.abs(np.fft.rfft(wave[0]))
    assert spectrum.argmax() * RATE / wave.shape[1] == pytest.approx(440, abs=2)


CONTAINERS = {"m4a": "aac", "mp4": "aac", "aac": "aac", "webm": "libopus", "wma": "wmav2"}


def write_container(path: Path, wave: np.ndarray, rate: int) -> None:
    """Encodes a wave (channels, samples) by PyAV, in the format of the extension."""
    av = pytest.importorskip("av")
    extension = path.suffix[1:]
    form = {"m4a": "ipod", "aac": "adts", "wma": "asf"}.get(extension, extension)
    layout = "stereo" if wave.shape[0] == 2 else "mono"
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(CONTAINERS[extension], rate=rate, layout=layout)
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize("extension", CONTAINERS)
def test_formats_of_phones_and_browsers_are_read(tmp_path, extension, monkeypatch):
    path = tmp_path / f"tone.{extension}"
    write_container(path, tone(440.0, 2 * 48_000, 48_000, channels=2), 48_000)
    wave = read_audio(path, RATE)
    assert wave.shape[0] == 2
    assert wave.shape[1] == pytest.approx(2 * RATE, abs=2400)
    spectrum = np.abs(np.fft.rfft(wave[0]))
    assert spectrum.argmax() * RATE / wave.shape[1] == pytest.approx(440, abs=2)
    assert read_audio(path, RATE, offset=0.5, duration=0.25).shape == (2, RATE // 4)
    assert sampling_rate_of(path) == 48_000
    assert "too long" in message(read_audio, path, RATE, max_duration=0.5)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + bytes(200))
    assert str(path) in message(read_audio, path, RATE)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = message(read_audio, path, RATE)
    assert str(path) in told and "not supported without PyAV" in told and "pip install" in told


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_16_bit_audio_survives_a_round_trip(tmp_path, extension):
    pcm = np.random.default_rng(0).integers(-32768, 32768, (2, 4000)).astype(np.int16)
    pcm[0, :2] = -32768, 32767
    wave = pcm.astype(np.float32) / 32768
    path = tmp_path / "made" / "here" / f"out.{extension}"
    write_audio(path, wave, RATE)
    np.testing.assert_array_equal(read_audio(path, RATE), wave)
    assert soundfile.info(path).subtype == "PCM_16"
    write_audio(path, wave * 3.0, RATE)  # over an existing file, and clipped
    np.testing.assert_array_equal(
        read_audio(path, RATE), np.clip(np.round(wave * 98304), -32768, 32767) / 32768
    )
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    write_audio(path.with_suffix(".ogg"), 0.1 * wave, RATE)
    assert read_audio(path.with_suffix(".ogg"), RATE).shape == wave.shape


def test_any_length_and_any_name(tmp_path):
    # Encoded at once, a minute and a half is more than libvorbis has room for on the stack.
    path = tmp_path / "x.ogg"
    write_audio(path, noise(1, 100 * RATE), RATE)
    assert soundfile.info(path).frames == 100 * RATE
    wave = noise(1, 2000)
    named = _write(tmp_path / "x.wav", wave, subtype="FLOAT")
    raw = tmp_path / "voice.raw"  # which soundfile takes for a format without a header
    raw.write_bytes(named)
    np.testing.assert_array_equal(read_audio(raw, RATE), wave)
    assert sampling_rate_of(raw) == RATE
    raw.write_bytes(b"no audio")
    assert f"{raw} cannot be decoded" in message(read_audio, raw, RATE)
    assert f"{raw} is not an audio file" in message(sampling_rate_of, raw)


def test_a_picture_may_last_longer_than_its_sound(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as file:
        picture = file.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        sound = file.add_stream("aac", rate=RATE)
        for _ in range(40):
            image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            file.mux(picture.encode(image))
        block = av.AudioFrame.from_ndarray(0.1 * noise(1, 2 * RATE), format="fltp", layout="mono")
        block.sample_rate = RATE
        file.mux(sound.encode(block))
        for stream in (picture, sound):
            file.mux(stream.encode())
    assert read_audio(path, RATE).shape[1] == pytest.approx(2 * RATE, abs=3000)


def test_parts_of_a_file(tmp_path):
    path = tmp_path / "a.wav"
    wave = np.round(noise(1, 3 * RATE) * 32768) / np.float32(32768)
    write_audio(path, wave, RATE)
    part = read_audio(path, RATE, offset=0.5, duration=1.25)
    np.testing.assert_array_equal(part, wave[:, 12_000 : 12_000 + 30_000])
    np.testing.assert_array_equal(read_audio(path, RATE, offset=2.0), wave[:, 48_000:])
    assert read_audio(path, RATE, duration=3.01).shape == wave.shape  # a rounded manifest entry
    for wrong in ({"offset": 3.0}, {"offset": 2.0, "duration": 1.5}, {"offset": -1.0}):
        assert str(path) in message(read_audio, path, RATE, **wrong)
    for duration in (0.0, -1.0, float("nan")):
        assert str(path) in message(read_audio, path, RATE, duration=duration)
    assert "too long" in message(read_audio, path, RATE, max_duration=2.9)
    assert read_audio(path, RATE, duration=2.0, max_duration=2.9).shape == (1, 48_000)


def _write(path: Path, wave: np.ndarray, rate: int = RATE, **kwargs) -> bytes:
    soundfile.write(path, wave.T, rate, **kwargs)
    return path.read_bytes()


def test_faulty_files_are_named(tmp_path):
    path = tmp_path / "x.wav"
    assert f"{path} does not exist" in message(read_audio, path, RATE)
    assert "does not exist" in message(read_audio, tmp_path / "no" / "x.wav", RATE)
    assert "directory" in message(read_audio, tmp_path, RATE)
    path.write_bytes(b"")
    assert "empty file" in message(read_audio, path, RATE)
    path.write_text("This is text, whatever its name says.\n" * 50)
    assert f"{path} cannot be decoded" in message(read_audio, path, RATE)
    _write(path, noise(1, 0))
    assert "no samples" in message(read_audio, path, RATE)
    _write(path, noise(3, 500))
    assert "3 channels" in message(read_audio, path, RATE)
    _write(path, noise(1, 500), rate=1000)
    assert "1000 Hz" in message(read_audio, path, RATE)
    for value in (np.nan, np.inf):
        wave = noise(1, 500)
        wave[0, 7] = value
        _write(path, wave, subtype="FLOAT")
        assert "NaN or infinite" in message(read_audio, path, RATE)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("share", [0.002, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, extension, share):
    path = tmp_path / f"x.{extension}"
    whole = _write(path, noise(1, 2 * RATE))
    path.write_bytes(whole[: int(len(whole) * share)])
    assert str(path) in message(read_audio, path, RATE)


def test_wav_from_a_pipe_has_no_sizes_and_is_read(tmp_path):
    path = tmp_path / "x.wav"
    whole = _write(path, noise(1, RATE))
    unknown = b"\xff\xff\xff\xff"
    path.write_bytes(whole[:4] + unknown + whole[8:40] + unknown + whole[44:])
    assert read_audio(path, RATE).shape == (1, RATE)


def test_writing_names_what_it_cannot_write(tmp_path):
    wave = noise(1, 500)
    assert "extension" in message(write_audio, tmp_path / "x.txt", wave, RATE)
    assert "no audio" in message(write_audio, tmp_path / "x.wav", wave[:, :0], RATE)
    bad = wave.copy()
    bad[0, 0] = np.inf
    assert "NaN or infinite" in message(write_audio, tmp_path / "x.wav", bad, RATE)
    (tmp_path / "file").write_text("x")
    assert "written" in message(write_audio, tmp_path / "file" / "x.wav", wave, RATE)
    (tmp_path / "d.wav").mkdir()
    assert "directory" in message(write_audio, tmp_path / "d.wav", wave, RATE)
    assert sorted(os.listdir(tmp_path)) == ["d.wav", "file"]


# --- Griffin-Lim


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

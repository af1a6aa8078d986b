"""Audio files: formats, sampling rates and parts that are read, faults by name, and writing."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from complaints import message
from signals import RATE, distance, noise

from zipvoice_jax.audio.io import read_audio, sampling_rate_of, write_audio


def tone(frequency: float, samples: int, rate: int, channels: int = 1) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


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
    monkeypatch.chdir(tmp_path)
    named = Path(f"12:30.{extension}")  # by a relative path, what stands before the colon is none
    named.write_bytes(whole)
    assert np.array_equal(read_audio(named, RATE), wave)
    path.write_bytes(whole[:40] + bytes(200))
    assert str(path) in message(read_audio, path, RATE)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = message(read_audio, path, RATE)
    assert str(path) in error and "not supported without PyAV" in error and "pip install" in error


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


def test_float_samples_in_the_scale_of_integers_are_named(tmp_path):
    path = tmp_path / "x.wav"
    for scale in (32768, 2**31):
        _write(path, noise(1, 500) * scale, subtype="FLOAT")
        assert f"{path} has floating-point samples up to" in message(read_audio, path, RATE)
    _write(path, noise(1, 500) * 10, subtype="FLOAT")
    assert read_audio(path, RATE).max() > 1


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


def test_flac_from_a_pipe_has_no_length_and_is_read(tmp_path):
    # The last 36 bits of STREAMINFO before its checksum: how many samples there are.
    for count in (RATE, 5, 1 << 16):
        wave = noise(2, count)
        path = tmp_path / "x.flac"
        whole = bytearray(_write(path, wave))
        known = read_audio(path, RATE)
        whole[21:26] = bytes([whole[21] & 0xF0, 0, 0, 0, 0])
        path.write_bytes(whole)
        assert np.array_equal(read_audio(path, RATE), known)
        assert np.array_equal(read_audio(path, RATE, max_duration=None), known)
        assert sampling_rate_of(path) == RATE
        half = count / RATE / 2
        part = read_audio(path, RATE, offset=half, duration=half)
        assert np.array_equal(part, known[:, round(half * RATE) :][:, : round(half * RATE)])
        assert "too long" in message(read_audio, path, RATE, max_duration=half)
        assert "is not in it" in message(read_audio, path, RATE, offset=9.0, duration=1.0)


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

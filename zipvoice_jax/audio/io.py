"""Reading audio files at the model's sampling rate, and writing them atomically.

Reads all formats of libsndfile (WAV, FLAC, OGG, MP3, AIFF ...), and with PyAV also M4A, MP4, AAC,
WebM and WMA. Every fault of a file becomes one `UserError` that names it.
"""

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from zipvoice_jax.audio.containers import Decoded, container_of, decode
from zipvoice_jax.audio.recording import Recording
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_bytes

_MIN_RATE, _MAX_RATE = 4_000, 384_000  # Hz
_MAX_PEAK = 100.0  # far above any overdriven recording, and below quiet speech in 16-bit scale
_BLOCK = 1 << 16  # frames to encode at a time: libvorbis keeps all that it gets on the stack
_SLACK = 0.1  # seconds that a lossy decoder or a rounded manifest entry may be off
# Container and subtype of written files.
_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
EXTENSIONS = tuple(_FORMATS)
_KNOWN = 1 << 60  # frames; libsndfile gives more for a file that does not tell its length
# Programs that cannot seek back write sizes from here on into a WAV header.
_STREAMED_SIZE = 0x7FFFF000


def read_audio(
    path: str | Path | Recording,
    sampling_rate: int,
    *,
    offset: float | int | None = None,
    duration: float | int | None = None,
    max_duration: float | int | None = 600.0,
) -> Float[np.ndarray, "channels samples"]:
    """Reads an audio file and resamples it (soxr, very high quality) if need be.

    Args:
        path: the file, or its content; any format of libsndfile, or of `containers`, 1 or 2
            channels.
        sampling_rate: rate of the result, Hz.
        offset: start of the wanted part in seconds; None: the beginning.
        duration: length of the wanted part in seconds; None: to the end.
        max_duration: longest part to read, in seconds; None: no limit.

    Returns:
        float32 samples, full scale at 1; round(samples * sampling_rate / file's rate) many.

    Raises:
        UserError: the file is missing, a directory, unreadable, not audio, empty, truncated,
            too long, of an unlikely rate or of more than 2 channels, holds NaN, infinity or
            samples in the scale of integers, or does not hold the wanted part.
    """
    path = Path(path) if isinstance(path, str) else path
    _check_file(path)
    try:
        name = container_of(path)
        longest = duration if duration is not None else max_duration
        limit = None if longest is None else (offset or 0.0) + longest
        wanted = (path, offset, duration, max_duration)
        if name is not None:
            file = decode(path, name, limit=limit)
            wave, count = _part(file, *wanted)
        else:
            with path.open("rb") as opened, _File(_nameless(opened), closefd=False) as file:
                whole = file.decoded(limit) if file.frames > _KNOWN else file
                wave, count = _part(whole, *wanted)
        rate = file.samplerate
    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise UserError(
            f"{path} cannot be decoded as audio ({reason}); it is corrupt or not an audio file, "
            "so convert it to WAV again."
        ) from None
    if len(wave) == 0 or len(wave) < count - _SLACK * rate:
        raise UserError(
            f"{path} is truncated: {len(wave)} of {count} samples could be read; "
            "get a complete copy."
        )
    if not np.isfinite(wave).all():
        raise UserError(f"{path} holds NaN or infinite samples; export it again.")
    peak = float(np.abs(wave).max())
    if peak > _MAX_PEAK:
        raise UserError(
            f"{path} has floating-point samples up to {peak:,.0f}, where full scale is 1; divide "
            "them by the range of the integers that they were (32768 for 16 bits)."
        )
    if rate != sampling_rate:
        import soxr

        wave = soxr.resample(wave, rate, sampling_rate, quality="VHQ")
        if len(wave) == 0:
            raise UserError(f"{path} is too short: nothing is left of it at {sampling_rate} Hz.")
    return np.ascontiguousarray(wave.T, dtype=np.float32)


def sampling_rate_of(path: Path) -> int:
    """The sampling rate of an audio file in Hz; 0 if there is no file.

    Raises:
        UserError: it is not an audio file.
    """
    if not path.is_file():
        return 0
    try:
        name = container_of(path)
        if name is not None:
            return decode(path, name, limit=0.0).samplerate
        with (
            path.open("rb") as opened,
            soundfile.SoundFile(_nameless(opened), closefd=False) as file,
        ):
            return file.samplerate
    except (OSError, soundfile.SoundFileError):
        raise UserError(f"{path} is not an audio file") from None


def _nameless(opened: Any) -> Any:
    """An open file without its name: soundfile takes ".raw" for a format, and names for UTF-8."""
    return opened if isinstance(opened, io.BytesIO) else opened.fileno()


def _check_file(path: Path | Recording) -> None:
    """Raises a UserError if the path is not a readable file with something in it."""
    if isinstance(path, Recording):
        if not path.content:
            raise UserError(f"{path} is an empty file; give an audio file.")
        return
    try:
        if path.is_dir():
            raise UserError(f"{path} is a directory; give an audio file.")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file; give an audio file.")
        with path.open("rb") as file:
            if not file.read(1):
                raise UserError(f"{path} is an empty file; give an audio file.")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist; check the path of the audio file.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}).") from None


class _File(soundfile.SoundFile):
    """A file whose header may not tell its length, as of FLAC that was encoded into a pipe."""

    def seekable(self) -> bool:
        """Whether reading may seek, which libsndfile cannot do in a file of unknown length."""
        return self.frames <= _KNOWN and super().seekable()

    def decoded(self, limit: float | None) -> Decoded:
        """The samples as far as they go, or at least `limit` seconds of them."""
        parts, found = [], 0
        most = math.inf if limit is None else limit * self.samplerate + 1
        while not found >= most:  # nor if it is no number, which is refused later
            part = self.read(_BLOCK, dtype="float32", always_2d=True)
            parts.append(part)
            found += len(part)
            if len(part) < _BLOCK:
                break
        return Decoded(np.concatenate(parts), self.samplerate, self.extra_info)

    def part(self, start: int, count: int) -> Float[np.ndarray, "samples channels"]:
        """As `Decoded.part`."""
        if start:
            self.seek(start)
        return self.read(count, dtype="float32", always_2d=True)


def _part(
    file: "_File | Decoded",
    path: Path | Recording,
    offset: float | int | None,
    duration: float | int | None,
    max_duration: float | int | None,
) -> tuple[Float[np.ndarray, "samples channels"], int]:
    """The wanted samples of an open file, and how many there should be."""
    rate, frames = file.samplerate, file.frames
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise UserError(
            f"{path} has a sampling rate of {rate} Hz; give audio from {_MIN_RATE} to "
            f"{_MAX_RATE} Hz."
        )
    if file.channels > 2:
        raise UserError(
            f"{path} has {file.channels} channels; mix it down to 1 or 2 (for one voice: 1)."
        )
    fault = _truncation(file.extra_info)
    if fault:
        raise UserError(f"{path} is truncated ({fault}); get a complete copy.")
    if frames <= 0:
        raise UserError(f"{path} holds no samples; give audio with speech in it.")
    for name, value in (("offset", offset), ("duration", duration)):
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise UserError(f"{name} {value!r} for {path} is not possible; give seconds from 0 on.")
    start = round((offset or 0.0) * rate)
    count = frames - start if duration is None else round(duration * rate)
    if start >= frames or start + count > frames + _SLACK * rate:
        raise UserError(
            f"{path} lasts {frames / rate:.3f} s, so a part from {start / rate:.3f} s to "
            f"{(start + max(count, 0)) / rate:.3f} s is not in it; correct offset and duration."
        )
    count = min(count, frames - start)
    if count <= 0:
        raise UserError(f"duration {duration!r} for {path} is empty; give more than 0 seconds.")
    if max_duration is not None and count > max_duration * rate:
        raise UserError(
            f"{path} is too long: {count / rate:.1f} s where at most {max_duration:g} s can be "
            "used; cut it."
        )
    return file.part(start, count), count


def _truncation(log: str) -> str | None:
    """What libsndfile's log says about missing data; it reads such files without error."""
    size = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if size and int(size[2]) < int(size[1]) < _STREAMED_SIZE:
        return f"its header promises {size[1]} bytes of samples, {size[2]} are there"
    if "Ogg : File ended unexpectedly" in log or "Ogg: Junk after the last page" in log:
        return "its last Ogg page is incomplete"
    return None


def write_audio(
    path: str | Path, wave: Float[np.ndarray, "channels samples"], sampling_rate: int
) -> None:
    """Writes 16-bit WAV or FLAC, or OGG Vorbis, by the path's extension.

    The file appears whole or not at all (written under another name, then renamed); missing
    parent directories are made. Samples beyond [-1, 1] are clipped, and k / 32768 is stored as
    the integer k, so that 16-bit audio is read and written back unchanged.

    Args:
        path: output file; .wav, .flac or .ogg.
        wave: samples, full scale at 1.
        sampling_rate: Hz.

    Raises:
        UserError: unknown extension, nothing to write, NaN or infinite samples, or a path that
            cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise UserError(
            f"{path} has no known audio extension; name it {', '.join(_FORMATS)} to choose one."
        )
    container, subtype = _FORMATS[path.suffix.lower()]
    wave = np.asarray(wave)
    if wave.ndim != 2 or wave.size == 0:
        raise UserError(f"there is no audio to write to {path}: the shape is {wave.shape}.")
    if not np.isfinite(wave).all():
        raise UserError(
            f"the audio for {path} holds NaN or infinite samples; check the model and vocoder."
        )
    if subtype == "PCM_16":
        data = np.clip(np.round(wave * 32768.0), -32768, 32767).astype(np.int16).T
    else:
        data = np.clip(wave, -1.0, 1.0).astype(np.float32).T

    # In memory: soundfile reports a full disk by an assertion, and not at all with `python -O`.
    encoded = io.BytesIO()
    try:
        with soundfile.SoundFile(
            encoded, "w", sampling_rate, data.shape[1], subtype, format=container
        ) as file:
            for begin in range(0, len(data), _BLOCK):
                file.write(data[begin : begin + _BLOCK])
    except (ValueError, AssertionError, soundfile.SoundFileError) as error:
        reason = (str(error).splitlines() or ["libsndfile failed"])[0]
        raise UserError(f"the audio for {path} cannot be encoded ({reason}).") from None
    write_bytes(path, encoded.getvalue())

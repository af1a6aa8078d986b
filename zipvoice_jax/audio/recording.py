"""Recordings in memory: arrays with a rate and open files, read like files on disk."""

import dataclasses
import io
import numbers
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import soundfile

from zipvoice_jax.audio.voice import MAGIC, Voice
from zipvoice_jax.core.errors import UserError

MAX_BYTES = 1 << 28  # per open file; a prompt of 60 s has a tenth of it at the highest rates
_PART = 1 << 20  # bytes to read at a time
_WAYS = "give the path of a recording, an open file, or (array, rate)"


@runtime_checkable
class Readable(Protocol):
    """A file open for reading."""

    def read(self, size: int = -1, /) -> Any:
        """The next bytes, at most `size`; none at the end."""
        ...


# What callers may pass as a recording: a path, (array, rate in Hz), a file open for reading, or a
# voice, which includes its transcript.
RecordingLike = str | PathLike[str] | tuple[Any, Any] | Readable | Voice


@dataclasses.dataclass(frozen=True)
class Recording:
    """The bytes of an audio file, with the part of the interface of a path that reading needs.

    Attributes:
        name: what messages call it.
        content: bytes of the file.
    """

    name: str
    content: bytes = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def suffix(self) -> str:
        """The extension of the file's name."""
        return Path(self.name).suffix

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The content as a file."""
        del mode
        return io.BytesIO(self.content)


def recordings(source: Any) -> tuple[Path | Recording | Voice, ...]:
    """Reads what a caller passes as one recording, or as several in a sequence.

    Args:
        source: a `RecordingLike`, or a sequence of them. Paths stay paths. Arrays are (samples,) or
            (channels, samples), floating-point with full scale 1 or int16. Open files are read
            here, from their beginning if they can seek.

    Raises:
        UserError: an array, a rate or a file is not usable as a recording.
    """
    if isinstance(source, str | PathLike | Readable | Voice) or _is_array(source):
        parts = [source]
    else:
        try:
            parts = list(source)
        except TypeError:
            raise UserError(f"the prompt is of type {type(source).__name__}; {_WAYS}.") from None
    name = "the prompt" if len(parts) == 1 else "the prompt of S{}"
    return tuple(_recording(part, name.format(number)) for number, part in enumerate(parts, 1))


def _is_array(value: Any) -> bool:
    """Whether a value is meant as samples: an array, or a pair of an array and a number."""
    if isinstance(value, tuple | list):
        return len(value) == 2 and any(_is_number(part) for part in value)
    return isinstance(value, bytes | bytearray) or hasattr(value, "__array__")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _recording(source: Any, name: str) -> Path | Recording | Voice:
    if isinstance(source, Voice):
        return source
    if isinstance(source, str | PathLike):
        return Path(source)
    if isinstance(source, Readable):
        called = getattr(source, "name", None)
        return _from_file(source, called if isinstance(called, str) and called else name)
    if not (isinstance(source, tuple | list) and len(source) == 2):
        what = (
            "an array without its rate" if hasattr(source, "__array__") else type(source).__name__
        )
        raise UserError(f"{name} is {what}; {_WAYS}.")
    wave, rate = source
    if _is_number(wave):
        raise UserError(f"{name} begins with the number {wave}; give (array, rate), in this order.")
    if not (_is_number(rate) and 1 <= rate < 1e9 and rate == int(rate)):
        raise UserError(f"{name} has the rate {rate!r}; give a whole number of Hz.")
    return _from_array(wave, int(rate), name)


def _from_array(array: Any, rate: int, name: str) -> Recording:
    """Encodes an array as a WAV file, so that it passes through all checks of files."""
    try:
        wave = np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
        raise UserError(f"{name} is no array of samples ({reason}).") from None
    if wave.dtype != np.int16 and not np.issubdtype(wave.dtype, np.floating):
        raise UserError(
            f"{name} is an array of {wave.dtype}; give floating-point samples with full scale 1, "
            "or int16."
        )
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and wave.shape[0] not in (1, 2)):
        raise UserError(
            f"{name} is an array of shape {wave.shape}; give (samples,), or (channels, samples) "
            "with 1 or 2 channels."
        )
    if wave.nbytes > MAX_BYTES:
        raise UserError(f"{name} is too long: {wave.shape[-1] / rate:.1f} s; cut it.")
    is_pcm = wave.dtype == np.int16
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused later
        samples = wave.T if is_pcm else wave.T.astype(np.float32)
    file = io.BytesIO()
    subtype = "PCM_16" if is_pcm else "FLOAT"
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return Recording(name, file.getvalue())


def _from_file(file: Any, name: str) -> Recording | Voice:
    """Reads an open file to its end."""
    parts: list[bytes] = []
    size = 0
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        while part := file.read(_PART):
            if not isinstance(part, bytes):
                raise UserError(f"{name} is open as text; open it with mode 'rb'.")
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise UserError(f"{name} is larger than {MAX_BYTES >> 20} MiB; cut it.")
    except UnicodeDecodeError:
        raise UserError(f"{name} is open as text; open it with mode 'rb'.") from None
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise UserError(f"{name} cannot be read ({reason}).") from None
    content = b"".join(parts)
    return Voice.parse(content, name) if content.startswith(MAGIC) else Recording(name, content)

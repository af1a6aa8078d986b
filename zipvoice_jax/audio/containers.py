"""Formats that libsndfile does not decode: voices, and with PyAV M4A, MP4, AAC, WebM and WMA."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.recording import Recording
from zipvoice_jax.audio.voice import MAGIC, SUFFIX, Voice
from zipvoice_jax.core.errors import UserError

_SLACK = 0.5  # seconds that a container's duration may be off


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Decoded audio, with the attribute names of `soundfile.SoundFile`.

    Attributes:
        wave: float32 samples, full scale at 1.
        samplerate: Hz.
    """

    wave: Float[np.ndarray, "samples channels"]
    samplerate: int
    extra_info: str = ""

    @property
    def frames(self) -> int:
        """Number of samples per channel."""
        return self.wave.shape[0]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.wave.shape[1]

    def part(self, start: int, count: int) -> Float[np.ndarray, "part channels"]:
        """Samples from a first one on, fewer where there are no more."""
        return self.wave[start : start + count]


def container_of(path: Path | Recording) -> str | None:
    """The format of a file that libsndfile does not decode, from its first bytes; else None.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(MAGIC) and path.suffix.lower() == SUFFIX:
        return "voice"
    if head[4:8] == b"ftyp":
        return "MP4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "WebM"
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "WMA"
    # An AAC frame differs from an MP3 frame in its layer, which is 0.
    is_adts = len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0
    if is_adts or (head.startswith(b"ID3") and path.suffix.lower() == ".aac"):
        return "AAC"
    return None


def _seconds(container: Any, stream: Any) -> float:
    """How long the sound is said to be; 0 where only that of a picture is known."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1
    return (container.duration or 0) / 1e6 if alone else 0.0


def decode(path: Path | Recording, name: str, *, limit: float | None = None) -> Decoded:
    """Decodes the first audio stream of a container.

    Args:
        path: the file, or its content.
        name: its format, from `container_of`.
        limit: seconds after which decoding may stop; None: decode all.

    Raises:
        UserError: PyAV is missing, the file holds no sound, is corrupt or truncated.
    """
    if name == "voice":
        with path.open("rb") as file:
            voice = Voice.parse(file.read(), str(path))
        return Decoded(np.ascontiguousarray(voice.wave.T), voice.sampling_rate)
    if importlib.util.find_spec("av") is None:
        raise UserError(
            f"{path} is {name} audio, which is not supported without PyAV; `pip install av`, "
            "or convert the file to WAV."
        )
    import av
    from av.error import FFmpegError

    try:
        # Absolute, as FFmpeg takes what stands before a colon for a protocol.
        source = str(path.absolute()) if isinstance(path, Path) else path.open()
        with av.open(source, "r") as container:
            if not container.streams.audio:
                raise UserError(f"{path} is {name} without sound; give a recording of speech.")
            stream = container.streams.audio[0]
            rate = stream.rate
            promised = _seconds(container, stream)
            resampler = av.AudioResampler(format="fltp", rate=rate)
            parts, samples = [], 0
            for frame in container.decode(stream):
                blocks = [block.to_ndarray() for block in resampler.resample(frame)]
                samples += sum(part.shape[1] for part in blocks)
                parts += blocks
                if limit is not None and samples > (limit + 1.0) * rate:
                    break
            else:
                parts += [block.to_ndarray() for block in resampler.resample(None)]
                # AAC without a container only has an estimate of its duration.
                if name != "AAC" and samples < (promised - _SLACK) * rate:
                    raise UserError(
                        f"{path} is truncated: {samples / rate:.1f} of {promised:.1f} s could be "
                        "decoded; get a complete copy."
                    )
    except (FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise UserError(
            f"{path} cannot be decoded as {name} audio ({reason}); it is corrupt; get a new copy."
        ) from None
    wave = np.concatenate(parts, axis=1).T if parts else np.zeros((0, 1), np.float32)
    return Decoded(np.ascontiguousarray(wave, dtype=np.float32), rate)

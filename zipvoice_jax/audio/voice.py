"""A voice: the recording and the transcript of a prompt in one small file (`x.voice.npz`).

It holds the recording at the model's rate, not its features: the prompts of two speakers are
joined before silence is cut, the level is set and features are computed, and a voice must give
the same bits as its recording there too.
"""

import dataclasses
import io
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zipvoice_jax.core.errors import UserError, require
from zipvoice_jax.core.files import write_bytes

FORMAT = "zipvoice-jax voice"
VERSION = 1
SUFFIX = ".npz"
MAGIC = b"PK\x03\x04"  # first bytes of a zip archive, and so of an .npz
_MAX_BYTES = 1 << 28  # unpacked; 60 s in two channels at 96 kHz have a tenth of it
_MAKE = "make it anew with `zipvoice-jax voice`"
_RATES = (4_000, 384_000)  # Hz


@dataclasses.dataclass(frozen=True, eq=False)
class Voice:
    """A prompt that was read and checked once.

    Attributes:
        wave: float32 samples, full scale at 1.
        sampling_rate: Hz; the rate of the model's features.
        transcript: what the recording says.
        name: what messages call it.
    """

    wave: Float[np.ndarray, "channels samples"] = dataclasses.field(repr=False)
    sampling_rate: int
    transcript: str
    name: str = "the voice"

    def __str__(self) -> str:
        return self.name

    @property
    def duration(self) -> float:
        """Seconds of the recording."""
        return self.wave.shape[1] / self.sampling_rate

    def content(self) -> bytes:
        """The file: an .npz archive of plain arrays, without pickled objects."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            format=np.array(FORMAT),
            version=np.array(VERSION),
            sampling_rate=np.array(self.sampling_rate),
            transcript=np.array(self.transcript),
            wave=np.ascontiguousarray(self.wave, np.float32),
        )
        return file.getvalue()

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the file; it appears whole or not at all.

        Raises:
            UserError: the name does not end in .npz, or the file cannot be written.
        """
        path = Path(path)
        require(
            path.suffix.lower() == SUFFIX,
            f"{path} is not the name of a voice; let it end in {SUFFIX}, such as "
            f"mary.voice{SUFFIX}.",
        )
        write_bytes(path, self.content())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Voice":
        """Reads a file that `save` wrote.

        Raises:
            UserError: it is missing, damaged, of another format or not a voice at all.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; check the path of the voice.") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path} cannot be read ({reason}).") from None
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: bytes, name: str) -> "Voice":
        """Reads the content of a file that `save` wrote.

        Args:
            content: bytes of the file.
            name: what messages call it.

        Raises:
            UserError: it is damaged, of another format or not a voice at all.
        """
        require(
            content.startswith(MAGIC),
            f"{name} is no voice; {_MAKE}, or give a recording and its transcript.",
        )
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                size = sum(part.file_size for part in file.zip.infolist())
                if size > _MAX_BYTES:
                    raise ValueError(f"{size:,} bytes are too many")
                is_ours = "format" in file and file["format"].tolist() == FORMAT
                version = file["version"].tolist() if is_ours else VERSION
                names = ("wave", "sampling_rate", "transcript") if version == VERSION else ()
                parts = {key: file[key] for key in names if is_ours}
        # Broken archives raise errors of zipfile, zlib, struct, numpy and others.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
            raise UserError(f"{name} is damaged ({reason}); {_MAKE}.") from None
        require(is_ours, f"{name} is no voice; {_MAKE}, or give a recording and its transcript.")
        require(
            version == VERSION,
            f"{name} is a voice of format {version}, and this version of zipvoice-jax reads format "
            f"{VERSION}; update zipvoice-jax, or {_MAKE}.",
        )
        wave, rate, transcript = (parts[key] for key in names)
        good = (
            wave.dtype == np.float32
            and (wave.ndim == 2 and wave.shape[0] in (1, 2) and wave.size > 0)
            and bool(np.isfinite(wave).all())
            and (rate.shape == () and rate.dtype.kind == "i")
            and _RATES[0] <= int(rate) <= _RATES[1]
            and (transcript.shape == () and transcript.dtype.kind == "U")
            and bool(str(transcript).strip())
        )
        require(good, f"{name} is damaged (its parts do not fit together); {_MAKE}.")
        return cls(wave, int(rate), str(transcript), name)


def is_voice(source: object) -> bool:
    """Whether a prompt is a voice, by its type or the extension of its path."""
    return isinstance(source, Voice) or (
        isinstance(source, Path) and source.suffix.lower() == SUFFIX
    )

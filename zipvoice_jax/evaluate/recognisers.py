"""Recognisers: Whisper by faster-whisper, or any model of transformers or FunASR by its path."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.evaluate import packages
from zipvoice_jax.evaluate.backends import (
    RATE,
    Recogniser,
    Wave,
    Word,
    choose,
    library,
    needs,
    versions,
)
from zipvoice_jax.evaluate.timing import Region, speech_regions

# Whisper repeats itself or leaves out turns where a piece holds much, and hears poorly where it
# holds little: regions of speech are put together up to so many seconds.
_PIECE = 12.0
_MARGIN = 0.1  # seconds left at either end of a piece


def pieces(wave: Wave) -> Iterator[Region]:
    """Parts of a recording with speech, cut at pauses."""
    regions = speech_regions(wave, max_seconds=_PIECE)
    if not regions:
        return
    begin, end = regions[0].start, regions[0].end
    for region in regions[1:]:
        if region.end - begin > _PIECE:
            yield Region(begin, end)
            begin = region.start
        end = region.end
    yield Region(begin, end)


def cut(wave: Wave, piece: Region) -> tuple[Wave, float]:
    """The samples of a piece with a margin, and the second at which they begin."""
    begin = max(piece.start - _MARGIN, 0.0)
    return wave[round(begin * RATE) : round((piece.end + _MARGIN) * RATE)], begin


class FasterWhisper:
    """Whisper in CTranslate2's format."""

    def __init__(self, path: Path, name: str) -> None:
        self.about = {
            "name": name,
            "library": versions("faster-whisper", "ctranslate2"),
            "weights": packages.fingerprint(path / "model.bin"),
            "options": "int8, beam 5, temperature 0, pieces of at most 12 s cut at pauses",
        }
        from faster_whisper import WhisperModel

        try:
            self._model = WhisperModel(
                str(path),
                device="cpu",
                compute_type="int8",
                cpu_threads=os.cpu_count() or 1,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path} is no model of faster-whisper ({error}).") from None

    def words(self, wave: Wave, language: str) -> list[Word]:
        """Words with their times."""
        found = []
        for piece in pieces(wave):
            samples, begin = cut(wave, piece)
            segments, _ = self._model.transcribe(
                samples, language=language, beam_size=5, temperature=0.0,
                word_timestamps=True, condition_on_previous_text=False,
            )  # fmt: skip
            for word in itertools.chain.from_iterable(s.words or () for s in segments):
                found.append(Word(word.word, begin + float(word.start), begin + float(word.end)))
        return found


class Transformers:
    """A model of transformers' speech recognition pipeline, such as Whisper or WhisperD."""

    def __init__(self, path: Path) -> None:
        self.about = {
            "name": f"transformers:{path}",
            "library": versions("transformers", "torch"),
            "weights": packages.fingerprint(*sorted(path.glob("*.safetensors"))),
            "options": "pipeline, pieces of at most 12 s cut at pauses",
        }
        transformers = library("transformers")

        try:
            self._pipeline = transformers.pipeline("automatic-speech-recognition", model=str(path))
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path} is no recogniser of transformers ({error}).") from None
        self._whisper = getattr(self._pipeline, "type", "") == "seq2seq_whisper"

    def words(self, wave: Wave, language: str) -> list[Word]:
        """A word for each piece; tags of speakers stay in it."""
        options = {"generate_kwargs": {"language": language}} if self._whisper else {}
        found = []
        for piece in pieces(wave):
            samples, _ = cut(wave, piece)
            text = self._pipeline({"raw": samples, "sampling_rate": RATE}, **options)["text"]
            found.append(Word(text, piece.start, piece.end))
        return found


class Paraformer:
    """A model of FunASR, such as Paraformer."""

    def __init__(self, path: Path) -> None:
        self.about = {
            "name": f"paraformer:{path}",
            "library": versions("funasr", "torch"),
            "weights": packages.fingerprint(*sorted(path.glob("*.pt"))),
            "options": "AutoModel, the whole recording",
        }
        self._model = library("funasr").AutoModel(model=str(path), disable_update=True)

    def words(self, wave: Wave, language: str) -> list[Word]:
        """One word, over all of the recording."""
        (found,) = self._model.generate(input=np.asarray(wave), batch_size_s=300, disable_pbar=True)
        return [Word(found["text"], 0.0, len(wave) / RATE)]


def open_recogniser(name: str) -> Recogniser:
    """A recogniser by its name.

    Raises:
        UserError: it is unknown, or its library or weights are missing.
    """
    role = "recogniser"

    def packaged(kind: str) -> Callable[[Path | None], Recogniser]:
        return lambda path: FasterWhisper(path or packages.find(kind), kind)

    def whisper(path: Path | None) -> Recogniser:
        return FasterWhisper(needs(role, "faster-whisper", path), f"faster-whisper:{path}")

    makers: dict[str, Callable[[Path | None], Recogniser]] = {
        "whisper-tiny": packaged("whisper-tiny"),
        "whisper-base": packaged("whisper-base"),
        "faster-whisper": whisper,
        "transformers": lambda path: Transformers(needs(role, "transformers", path)),
        "paraformer": lambda path: Paraformer(needs(role, "paraformer", path)),
    }
    return choose(role, name, makers)

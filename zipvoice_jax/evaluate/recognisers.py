"""Recognisers: Whisper by faster-whisper, or any model of transformers or FunASR by its path."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.evaluate import packages
from zipvoice_jax.evaluate.backends import (
    RATE,
    Recogniser,
    Wave,
    Word,
    choose,
    fingerprint_of,
    library,
    needs,
    placed,
    versions,
)
from zipvoice_jax.evaluate.timing import Region, speech_regions

# Whisper repeats itself or leaves out turns where a piece holds much, and hears poorly where it
# holds little: regions of speech are put together up to so many seconds.
_PIECE = 12.0
_MARGIN = 0.1  # seconds left at either end of a piece
_PIECES = "pieces of at most 12 s cut at pauses"


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
            "options": f"int8, beam 5, temperature 0, {_PIECES}",
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
    """A model of transformers' speech recognition pipeline, such as Whisper.

    Args:
        path: of the model's folder.
        tags: whether it is WhisperD, which writes [S1] and [S2]. It hears a recording as a whole,
            30 s at a time, since tags mean nothing from one piece to the next; else recordings are
            cut at pauses, and times are known to the word (to the phrase where the model's
            generation_config.json has no alignment_heads).
    """

    def __init__(self, path: Path, *, tags: bool = False) -> None:
        self.about = {
            "name": f"{'whisper-d' if tags else 'transformers'}:{path}",
            "library": versions("transformers", "torch"),
            "weights": fingerprint_of(path, "*.safetensors", "*.bin"),
            "options": "the whole, 30 s at a time" if tags else _PIECES,
        }
        transformers, torch = library("transformers"), library("torch")
        device = 0 if torch.cuda.is_available() else -1
        try:
            self._pipeline = transformers.pipeline(
                "automatic-speech-recognition", model=str(path), device=device
            )
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            said = str(error).splitlines()[0]
            raise UserError(f"{path} is no recogniser of transformers ({said}).") from None
        self._tags = tags
        self._times: Any = None
        config = getattr(self._pipeline.model, "generation_config", None)
        self._whisper = getattr(self._pipeline, "type", "") == "seq2seq_whisper"
        if self._whisper and config is not None:
            config.suppress_tokens = config.forced_decoder_ids = None  # as officially
            if not tags:
                self._times = "word" if getattr(config, "alignment_heads", None) else True

    def words(self, wave: Wave, language: str) -> list[Word]:
        """Words or phrases with their times; tags of speakers stay in the text."""
        if self._tags:
            return [Word(self._hear(wave, language)["text"], 0.0, len(wave) / RATE)]
        found = []
        for piece in pieces(wave):
            samples, begin = cut(wave, piece)
            heard = self._hear(samples, language)
            chunks = heard.get("chunks")
            if not chunks:
                found.append(Word(heard["text"], piece.start, piece.end))
                continue
            for chunk in chunks:
                start, end = (
                    piece.end if time is None else begin + time for time in chunk["timestamp"]
                )
                found.append(Word(chunk["text"], start, end))
        return found

    def _hear(self, wave: Wave, language: str) -> dict[str, Any]:
        options: dict[str, Any] = {"chunk_length_s": 30} if self._tags else {}
        if self._whisper:
            options["generate_kwargs"] = {"language": language, "task": "transcribe"}
        if self._times is not None:
            options["return_timestamps"] = self._times
        return self._pipeline({"raw": np.asarray(wave), "sampling_rate": RATE}, **options)


class Paraformer:
    """A model of FunASR, such as Paraformer."""

    def __init__(self, path: Path) -> None:
        self.about = {
            "name": f"paraformer:{path}",
            "library": versions("funasr", "torch"),
            "weights": fingerprint_of(path, "*.pt"),
            "options": "AutoModel, the whole recording",
        }
        try:
            self._model = library("funasr").AutoModel(model=str(path), disable_update=True)
        except (RuntimeError, ValueError, OSError, KeyError, AssertionError) as error:
            raise UserError(f"{path} is no model of FunASR ({error}).") from None

    def words(self, wave: Wave, language: str) -> list[Word]:
        """Characters or words with their times, if the model knows them; else one `Word`."""
        (found,) = self._model.generate(input=np.asarray(wave), batch_size_s=300, disable_pbar=True)
        parts, times = found["text"].split(), found.get("timestamp") or []
        if len(parts) != len(times):
            return [Word(found["text"], 0.0, len(wave) / RATE)]
        pairs = zip(parts, times, strict=True)
        return [Word(f" {part}", begin / 1000.0, end / 1000.0) for part, (begin, end) in pairs]


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
        "whisper-d": lambda path: Transformers(placed("whisper-d", path), tags=True),
        "paraformer": lambda path: Paraformer(placed("paraformer", path)),
    }
    return choose(role, name, makers)

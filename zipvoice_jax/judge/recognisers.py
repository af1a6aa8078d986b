"""Recognisers: Whisper in faster-whisper, or any model of transformers or FunASR by path."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.judge import packages
from zipvoice_jax.judge.backends import (
    RATE,
    Recogniser,
    Wave,
    Word,
    brief,
    choose,
    fingerprint_of,
    library,
    needs,
    placed,
    versions,
)
from zipvoice_jax.judge.timing import Region, speech_regions

# Whisper repeats itself or drops turns in long pieces, and recognises short ones poorly: regions of
# speech are joined up to this many seconds.
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


def _apart(words: Sequence[Word]) -> list[Word]:
    """Words of a piece, with a space before the first one."""
    return [
        word if i else dataclasses.replace(word, text=f" {word.text}")
        for i, word in enumerate(words)
    ]


class FasterWhisper:
    """Whisper in CTranslate2's format."""

    writes_tags = False

    def __init__(self, path: Path, name: str) -> None:
        self.description = {
            "name": name,
            "library": versions("faster-whisper", "ctranslate2"),
            "weights": packages.sha256_of_files(path / "model.bin"),
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
        except Exception as error:  # what is no such model can fail in any way
            raise UserError(f"{path} is no model of faster-whisper ({brief(error)}).") from None
        self.english_only = not self._model.model.is_multilingual

    def words(self, wave: Wave, language: str) -> list[Word]:
        """Words with their times."""
        recognised = []
        for piece in pieces(wave):
            samples, begin = cut(wave, piece)
            segments, _ = self._model.transcribe(
                samples, language=language, beam_size=5, temperature=0.0,
                word_timestamps=True, condition_on_previous_text=False,
            )  # fmt: skip
            words = (word for segment in segments for word in segment.words or ())
            recognised += _apart(
                [Word(w.word, begin + float(w.start), begin + float(w.end)) for w in words]
            )
        return recognised


class Transformers:
    """A model of transformers' speech recognition pipeline, such as Whisper.

    Recordings are cut at pauses, and times are those of words (for Whisper of phrases, if its
    generation_config.json has no alignment_heads; for other models than CTC of pieces).

    Args:
        path: folder of the model.
        name: name in the report.
        beams: beams of Whisper's search; 5 is the pipeline's default.
        whole: recognise a recording as a whole instead, 30 s at a time and without times, as in
            the official code.
        tags: whether it is WhisperD, which writes [S1] and [S2]. They are not consistent between
            pieces, so it needs `whole`.
    """

    def __init__(
        self, path: Path, name: str, *, beams: int = 5, whole: bool = False, tags: bool = False
    ) -> None:
        library_versions = versions("transformers", "torch", "faster-whisper")
        weights = fingerprint_of(path, "*.safetensors", "*.bin")
        transformers, torch = library("transformers"), library("torch")
        device = 0 if torch.cuda.is_available() else -1
        try:
            self._pipeline = transformers.pipeline(
                "automatic-speech-recognition", model=str(path), device=device
            )
        except Exception as error:  # what is no such model can fail in any way
            raise UserError(f"{path} is no recogniser of transformers ({brief(error)}).") from None
        self.description = {
            "name": name,
            "library": library_versions,
            "weights": weights,
            "options": f"{'the whole, 30 s at a time' if whole else _PIECES}, "
            f"beam {beams} (Whisper), {self._pipeline.model.dtype}",
        }
        self._whole, self.writes_tags = whole, tags
        config = getattr(self._pipeline.model, "generation_config", None)
        self._whisper = getattr(self._pipeline, "type", "") == "seq2seq_whisper"
        self.english_only = self._whisper and not getattr(config, "is_multilingual", True)
        self._options: dict[str, Any] = {"chunk_length_s": 30} if whole else {}
        self._beams = beams
        if self._whisper and config is not None:
            config.suppress_tokens = config.forced_decoder_ids = None  # as officially
            if not whole:
                aligned = getattr(config, "alignment_heads", None)
                self._options["return_timestamps"] = "word" if aligned else True
        self._space = ""  # before each word
        if getattr(self._pipeline, "type", "").startswith("ctc") and not whole:
            self._options["return_timestamps"], self._space = "word", " "

    def words(self, wave: Wave, language: str) -> list[Word]:
        """Words or phrases with their times; tags of speakers stay in the text.

        Raises:
            UserError: the model fails.
        """
        if self._whole:
            return [Word(self._hear(wave, language)["text"], 0.0, len(wave) / RATE)]
        recognised = []
        for piece in pieces(wave):
            samples, begin = cut(wave, piece)
            heard = self._hear(samples, language)
            chunks = heard.get("chunks")
            if not chunks:
                recognised += _apart([Word(heard["text"], piece.start, piece.end)])
                continue
            words = []
            for chunk in chunks:
                start, end = (
                    piece.end if time is None else min(begin + time, piece.end)
                    for time in chunk["timestamp"]
                )
                words.append(Word(self._space + chunk["text"], start, end))
            recognised += _apart(words)
        return recognised

    def _hear(self, wave: Wave, language: str) -> dict[str, Any]:
        options = dict(self._options)
        if self._whisper:
            task = {} if self.english_only else {"language": language, "task": "transcribe"}
            options["generate_kwargs"] = {"num_beams": self._beams, **task}
        try:
            return self._pipeline({"raw": np.asarray(wave), "sampling_rate": RATE}, **options)
        except Exception as error:  # whatever model it is
            raise UserError(f"{self.description['name']} fails ({brief(error)}).") from None


class Paraformer:
    """A model of FunASR, such as Paraformer."""

    english_only = writes_tags = False

    def __init__(self, path: Path) -> None:
        self.description = {
            "name": f"paraformer:{path}",
            "library": versions("funasr", "torch"),
            "weights": fingerprint_of(path, "*.pt"),
            "options": "AutoModel, the whole recording, no dither",
        }
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it prints its version
                self._model = library("funasr").AutoModel(
                    model=str(path), disable_update=True, frontend_conf={"dither": 0.0}
                )
        except UserError:
            raise
        except Exception as error:  # what is no such model can fail in any way
            raise UserError(f"{path} is no model of FunASR ({brief(error)}).") from None

    def words(self, wave: Wave, language: str) -> list[Word]:
        """Characters or words with their times, if the model knows them; else one `Word`.

        Raises:
            UserError: the model fails.
        """
        options: dict[str, Any] = {"batch_size_s": 300, "disable_pbar": True}
        try:
            (result,) = self._model.generate(input=np.asarray(wave), **options)
        except Exception as error:  # whatever model it is
            raise UserError(f"{self.description['name']} fails ({brief(error)}).") from None
        parts, times = result["text"].split(), result.get("timestamp") or []
        if len(parts) != len(times):
            return [Word(result["text"], 0.0, len(wave) / RATE)]
        pairs = zip(parts, times, strict=True)
        return [Word(f" {part}", begin / 1000.0, end / 1000.0) for part, (begin, end) in pairs]


def open_recogniser(name: str) -> Recogniser:
    """A recogniser by its name.

    Raises:
        UserError: it is unknown, or its library or weights are missing.
    """
    role = "recogniser"

    def packaged(kind: str) -> Callable[[Path | None], Recogniser]:
        return lambda path: FasterWhisper(path or packages.find_package(kind), kind)

    def whisper(path: Path | None) -> Recogniser:
        return FasterWhisper(needs(role, "faster-whisper", path), f"faster-whisper:{path}")

    makers: dict[str, Callable[[Path | None], Recogniser]] = {
        "whisper-tiny": packaged("whisper-tiny"),
        "whisper-base": packaged("whisper-base"),
        "faster-whisper": whisper,
        "transformers": lambda path: Transformers(needs(role, "transformers", path), name),
        "whisper-large-v3": lambda path: Transformers(
            placed("whisper-large-v3", path), name, whole=True, beams=1
        ),
        "whisper-d": lambda path: Transformers(
            placed("whisper-d", path), name, whole=True, tags=True
        ),
        "paraformer": lambda path: Paraformer(placed("paraformer", path)),
    }
    return choose(role, name, makers)

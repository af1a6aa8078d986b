"""Backends by name: recognisers, speaker encoders and quality predictors.

A name is `KIND` or `KIND:PATH`. Every backend takes mono float32 samples at 16 kHz and describes
itself for the report, down to the library's version and the fingerprint of its weights.
"""

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.judge import packages

RATE = 16_000  # Hz

# The judges of the paper, and their paths in the repository that the official code uses.
PAPER_REPO = "k2-fsa/TTS_eval_models"
PAPER = {
    "whisper-d": "wer/whisper-d-v1a",
    "whisper-large-v3": "wer/whisper-large-v3",
    "paraformer": "wer/paraformer-zh",
    "wavlm-ecapa": "speaker_similarity/wavlm_large_finetune.pth",
    "utmos": "mos/utmos22_strong_step7459_v1.pt",
}

Wave = Float[np.ndarray, "_samples"]
Backend = TypeVar("Backend")


@dataclasses.dataclass(frozen=True)
class Word:
    """A recognised word, with its time in seconds.

    The text begins with a space if the recogniser puts one before it: "-known" may follow " well".
    Backends whose recogniser returns words without spaces add one.
    """

    text: str
    start: float
    end: float


def text_of(words: Sequence[Word]) -> str:
    """Recognised words as a text with single spaces."""
    return " ".join("".join(word.text for word in words).split())


@runtime_checkable
class Recogniser(Protocol):
    """Speech to text."""

    @property
    def description(self) -> Mapping[str, str]:
        """What it is, to version and weights."""
        ...

    @property
    def english_only(self) -> bool:
        """Whether it only knows English."""
        ...

    @property
    def writes_tags(self) -> bool:
        """Whether it writes [S1] and [S2] where speakers change."""
        ...

    def words(self, wave: Wave, language: str) -> Sequence[Word]:
        """Words of speech of any length.

        A backend without times returns all that it recognised as one `Word` over the whole wave.
        """
        ...


@runtime_checkable
class SpeakerEncoder(Protocol):
    """Speech to a vector of its voice."""

    @property
    def description(self) -> Mapping[str, str]:
        """What it is, to version and weights."""
        ...

    def embed(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """A vector of length 1."""
        ...


@runtime_checkable
class QualityPredictor(Protocol):
    """Speech to a predicted mean opinion score, 1 to 5."""

    @property
    def description(self) -> Mapping[str, str]:
        """What it is, to version and weights."""
        ...

    def score(self, wave: Wave) -> float:
        """The score."""
        ...


def versions(*packages: str) -> str:
    """Names and versions of installed packages.

    Raises:
        UserError: one is not installed.
    """
    try:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; pip install it, or all that judges: `pip install "
            "-c constraints.txt '.[evaluate]'` in a clone of the repository."
        ) from None


def library(name: str) -> Any:
    """Imports a library that is not a dependency of the package.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name  # or what it needs
        raise UserError(
            f"{missing} is not installed; pip install it beside zipvoice-jax."
        ) from None


def brief(error: Exception) -> str:
    """An error from inside a library, as one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def choose(role: str, name: str, makers: Mapping[str, Callable[[Path | None], Backend]]) -> Backend:
    """Makes the backend of a name.

    Raises:
        UserError: it is unknown, or its model is missing.
    """
    kind, colon, path = name.partition(":")
    if kind not in makers or (colon and not path):
        raise UserError(f"the {role} {name} is unknown; choose one of {', '.join(makers)}.")
    model_path = Path(path) if path else None
    if model_path is not None and not model_path.exists():
        raise UserError(f"{role} {name}: {model_path} does not exist; place the model there.")
    return makers[kind](model_path)


def fingerprint_of(folder: Path, *patterns: str) -> str:
    """Fingerprint of a model's files: those that match the first pattern with any match.

    Raises:
        UserError: there are none.
    """
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return packages.sha256_of_files(*files)
    raise UserError(f"{folder} holds no {' or '.join(patterns)}; place the model's files there.")


def placed(kind: str, path: Path | None) -> Path:
    """The file or folder of one of the paper's judges: `path`, or its default place.

    Raises:
        UserError: there is neither; the message says what to place where.
    """
    if path is not None:
        return path
    name = PAPER[kind]
    default = packages.folder() / name
    if not default.exists():
        raise UserError(
            f"the weights of {kind} are not at {default}; place {name} of "
            f"huggingface.co/{PAPER_REPO} there, or give {kind}:PATH."
        )
    return default


def needs(role: str, kind: str, path: Path | None) -> Path:
    """The path of a backend that requires one.

    Raises:
        UserError: it is None.
    """
    if path is None:
        raise UserError(f"the {role} {kind} needs its model; give {kind}:PATH.")
    return path

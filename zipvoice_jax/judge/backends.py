"""What judges speech: recognisers, speaker encoders and quality predictors, each by a name.

A name is `KIND` or `KIND:PATH`. Every backend takes mono float32 samples at 16 kHz and says what
it is, to the version of the library and the fingerprint of its weights, for the report.
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

# The judges of the paper, and where they are in the repository that the official code takes.
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

    The text begins with a space where the recogniser puts one before it: "-known" may follow
    " well". Backends whose recogniser gives words without spaces add one.
    """

    text: str
    start: float
    end: float


def joined(words: Sequence[Word]) -> str:
    """Recognised words as a text with single spaces."""
    return " ".join("".join(word.text for word in words).split())


@runtime_checkable
class Recogniser(Protocol):
    """Speech to text."""

    @property
    def about(self) -> Mapping[str, str]:
        """What it is, to version and weights."""
        ...

    @property
    def english_only(self) -> bool:
        """Whether it knows no other language."""
        ...

    @property
    def writes_tags(self) -> bool:
        """Whether it writes [S1] and [S2] where speakers change."""
        ...

    def words(self, wave: Wave, language: str) -> Sequence[Word]:
        """Words of speech of any length.

        A backend that knows no times gives what it recognised as one `Word` over all of it.
        """
        ...


@runtime_checkable
class SpeakerEncoder(Protocol):
    """Speech to a vector of its voice."""

    @property
    def about(self) -> Mapping[str, str]:
        """What it is, to version and weights."""
        ...

    def embed(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """A vector of length 1."""
        ...


@runtime_checkable
class QualityPredictor(Protocol):
    """Speech to a predicted mean opinion score, 1 to 5."""

    @property
    def about(self) -> Mapping[str, str]:
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
            f"{error.name} is not installed; it comes with pip install 'zipvoice-jax[evaluate]', "
            "or, if it is torch, transformers or funasr, by itself."
        ) from None


def library(name: str) -> Any:
    """A library that is no dependency of the package, imported.

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


def told(error: Exception) -> str:
    """What went wrong inside a library, as one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def choose(role: str, name: str, makers: Mapping[str, Callable[[Path | None], Backend]]) -> Backend:
    """The backend of a name.

    Raises:
        UserError: it is unknown, or what it needs is missing.
    """
    kind, colon, path = name.partition(":")
    if kind not in makers or (colon and not path):
        raise UserError(f"the {role} {name} is unknown; choose one of {', '.join(makers)}.")
    given = Path(path) if path else None
    if given is not None and not given.exists():
        raise UserError(f"{role} {name}: {given} does not exist; place the model there.")
    return makers[kind](given)


def fingerprint_of(folder: Path, *patterns: str) -> str:
    """The beginning of the sha256 of a model's files, those of the first pattern that has any.

    Raises:
        UserError: there are none.
    """
    for pattern in patterns:
        if files := sorted(folder.glob(pattern)):
            return packages.fingerprint(*files)
    raise UserError(f"{folder} holds no {' or '.join(patterns)}; place the model's files there.")


def placed(kind: str, path: Path | None) -> Path:
    """The file or folder of a judge of the paper: the given one, or where it is to be placed.

    Raises:
        UserError: it is neither given nor there; says what to place where.
    """
    if path is not None:
        return path
    name = PAPER[kind]
    place = packages.folder() / name
    if not place.exists():
        raise UserError(
            f"the weights of {kind} are not at {place}; place {name} of "
            f"huggingface.co/{PAPER_REPO} there, or give {kind}:PATH."
        )
    return place


def needs(role: str, kind: str, path: Path | None) -> Path:
    """The path of a backend that cannot be without.

    Raises:
        UserError: it is missing.
    """
    if path is None:
        raise UserError(f"the {role} {kind} needs its model; give {kind}:PATH.")
    return path

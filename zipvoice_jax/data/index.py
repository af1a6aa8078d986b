"""The index of a split: what batching needs to know about every record, in one small file."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int32

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import DAMAGED_NPZ
from zipvoice_jax.data.utterance import Utterance

_NO_TOKENS = -1


@dataclasses.dataclass(frozen=True)
class Index:
    """What batching needs to know about every record of a split, in the order of the records.

    Attributes:
        ids: utterance ids.
        seconds: durations, equal to those in the records.
        tokens: numbers of tokens; -1 if they are not stored.
        channels: numbers of channels, 1 or 2.
        languages: language codes.
        aligned: whether the starts of a record's tokens are known; empty: of no record.
    """

    ids: np.ndarray
    seconds: Float64[np.ndarray, " records"]
    tokens: Int32[np.ndarray, " records"]
    channels: Int8[np.ndarray, " records"]
    languages: np.ndarray
    aligned: Bool[np.ndarray, " records"] = dataclasses.field(
        default_factory=lambda: np.zeros(0, bool)
    )

    def __post_init__(self) -> None:
        if not len(self.aligned):
            object.__setattr__(self, "aligned", np.zeros(len(self.ids), bool))

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, utterances: Sequence[Utterance]) -> Self:
        """The index of these utterances."""
        return cls.join([cls.row(one) for one in utterances])

    @staticmethod
    def row(utterance: Utterance) -> tuple[str, float, int, int, str, bool]:
        """An utterance's row of the index."""
        count = len(utterance.tokens) or _NO_TOKENS
        seconds = float(np.float32(utterance.duration))  # as the record has it
        aligned = bool(utterance.token_starts)
        return utterance.id, seconds, count, utterance.channels, utterance.language, aligned

    @classmethod
    def join(cls, rows: Iterable[Sequence[Any]]) -> Self:
        """An index from rows in the order of its fields."""
        columns = list(zip(*rows, strict=True)) or [()] * 6
        ids, seconds, tokens, channels, languages, aligned = columns
        return cls(
            ids=np.array(ids, dtype=np.str_),
            seconds=np.array(seconds, dtype=np.float64),
            tokens=np.array(tokens, dtype=np.int32),
            channels=np.array(channels, dtype=np.int8),
            languages=np.array(languages, dtype=np.str_),
            aligned=np.array(aligned, dtype=bool),
        )

    def joined(self, others: Sequence["Index"]) -> "Index":
        """This index, followed by the others."""
        columns = {
            name: np.concatenate([getattr(one, name) for one in (self, *others)])
            for name in _COLUMNS
        }
        return Index(**columns)

    def save(self, path: str | Path) -> None:
        """Writes the index as .npz, atomically; equal content gives equal bytes."""
        partial = Path(path).with_name(f".{Path(path).name}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **{name: getattr(self, name) for name in _COLUMNS})
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads an index; one older than alignments has no aligned record.

        Raises:
            UserError: the file is missing or not an index.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = [name for name in _COLUMNS if name != "aligned" or name in arrays]
                index = cls(**{name: arrays[name] for name in names})
        except FileNotFoundError:
            raise UserError(f"the index {path} does not exist; prepare the dataset anew.") from None
        except DAMAGED_NPZ:
            raise UserError(
                f"{path} is not an index of a dataset; prepare the dataset anew."
            ) from None
        if len({len(getattr(index, name)) for name in _COLUMNS}) != 1:
            raise UserError(f"{path} has columns of several lengths; prepare the dataset anew.")
        return index


_COLUMNS = tuple(field.name for field in dataclasses.fields(Index))


def index_name(split: str) -> str:
    """Name of the file with a split's index."""
    return f"index-{split}.npz"

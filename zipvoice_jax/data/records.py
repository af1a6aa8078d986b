"""Opens, reads and writes datasets of stored utterances.

A dataset is a plain TFDS data directory: `dataset_info.json`, `features.json` and shards
`NAME-SPLIT.array_record-0000i-of-0000n`, with `index-SPLIT.npz` (what batching needs to know about
every record), `report.json` and, if alignments were learned, `alignment-SPLIT.npz` beside them.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from array_record.python import (
    array_record_data_source,
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue] - an extension
)
from jaxtyping import Float

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.alignment import Alignments
from zipvoice_jax.data.index import Index, index_name
from zipvoice_jax.data.utterance import Utterance, make_record, parse_record

VERSION = "1.0.0"  # of the layout


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records, with the attributes of ArrayRecord's file instructions."""

    filename: str
    examples_in_shard: int
    skip: int = 0

    @property
    def take(self) -> int:
        """All records are read."""
        return self.examples_in_shard


class RecordSource:
    """The records of a split by number; picklable, and opens files only when they are read."""

    def __init__(
        self, shards: Sequence[Shard], name: str, alignments: Alignments | None = None
    ) -> None:
        """Takes the files in order, a name for error messages, and alignments beside them."""
        self._name = name
        self._alignments = alignments
        self._length = sum(shard.examples_in_shard for shard in shards)
        filled: list[Any] = [shard for shard in shards if shard.examples_in_shard]
        self._records = array_record_data_source.ArrayRecordDataSource(filled) if filled else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Utterance:
        """The utterance at an index from 0 to len - 1.

        Raises:
            UserError: the record is damaged; the message names dataset, split and index.
        """
        if not 0 <= index < self._length or self._records is None:
            raise IndexError(f"{self._name} has {self._length} records, and no record {index}")
        try:
            utterance = parse_record(self._records[index])
        except (RuntimeError, UserError):
            raise UserError(
                f"record {index} of {self._name} is damaged; prepare the dataset anew, "
                "or get a complete copy."
            ) from None
        starts = self._alignments[index] if self._alignments is not None else ()
        return dataclasses.replace(utterance, token_starts=starts) if starts else utterance

    def __repr__(self) -> str:
        return f"RecordSource({self._name}, {self._length} records)"


def split_names(directory: str | Path) -> tuple[str, ...]:
    """Names of a dataset's splits, in alphabetical order.

    Raises:
        UserError: the directory is not a dataset.
    """
    return tuple(sorted(_read_info(Path(directory))[1]))


def open_split(
    directory: str | Path, split: str, *, learned: bool = True
) -> tuple[RecordSource, Index]:
    """Opens a split of a dataset; reads its index and the sizes of its files, no records.

    Args:
        directory: directory with `dataset_info.json`, written by `zipvoice-jax prepare` or
            `tfds build`.
        split: name of the split, such as "train" or "dev".
        learned: let alignments that `zipvoice-jax align` wrote beside the records replace the
            records' own; False ignores them.

    Raises:
        UserError: the directory is not a dataset, has no such split, or its files are missing,
            cut short or inconsistent.
    """
    directory = Path(directory)
    name, splits = _read_info(directory)
    if split not in splits:
        raise UserError(
            f"the dataset {directory} has no split {split!r}; it has {', '.join(sorted(splits))}."
        )
    lengths, size = splits[split]
    shards = [
        Shard(str(directory / shard_name(name, split, i, len(lengths))), length)
        for i, length in enumerate(lengths)
    ]
    try:
        actual = sum(os.path.getsize(shard.filename) for shard in shards)
    except OSError as error:
        raise UserError(
            f"the dataset {directory} lacks {Path(str(error.filename)).name}; get a complete copy."
        ) from None
    if actual != size:
        raise UserError(
            f"the files of split {split!r} of {directory} have {actual} bytes and should have "
            f"{size}; get a complete copy."
        )
    index = Index.load(directory / index_name(split))
    if len(index) != sum(lengths):
        raise UserError(
            f"{directory / index_name(split)} has {len(index)} lines for {sum(lengths)} records; "
            "get the dataset's own index, or prepare the dataset anew."
        )
    alignments = Alignments.beside(directory, split, index) if learned else None
    if alignments is not None:
        index = dataclasses.replace(index, aligned=index.aligned | alignments.known)
    return RecordSource(shards, f"{directory} ({split})", alignments), index


def shard_name(name: str, split: str, number: int, count: int) -> str:
    """Name of a shard's file in TFDS."""
    return f"{name}-{split}.array_record-{number:05d}-of-{count:05d}"


def _read_info(directory: Path) -> tuple[str, dict[str, tuple[list[int], int]]]:
    """The dataset's name, and for each split the records per shard and the bytes in all."""
    path = directory / "dataset_info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        return info["name"], {
            one["name"]: ([int(n) for n in one["shardLengths"]], int(one["numBytes"]))
            for one in info["splits"]
        }
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory} is no dataset: it has no dataset_info.json; give a directory that "
            "`zipvoice-jax prepare` wrote."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} cannot be read as the description of a dataset; get a complete copy."
        ) from None


def decode_audio(
    utterance: Utterance, sampling_rate: int, *, name: str
) -> Float[np.ndarray, "channels samples"]:
    """Decodes the stored audio and resamples it (soxr, very high quality) if needed.

    Args:
        utterance: a record.
        sampling_rate: rate of the result, Hz.
        name: what messages call the record, such as its dataset and id.

    Returns:
        float32 samples, full scale at 1.

    Raises:
        UserError: the audio cannot be decoded, is empty, holds NaN or infinity, or has another
            number of channels than the record says.
    """
    try:
        wave, rate = soundfile.read(io.BytesIO(utterance.audio), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        raise UserError(
            f"the audio of {name} cannot be decoded; leave the record out or prepare it anew."
        ) from None
    if rate != sampling_rate:
        import soxr

        wave = soxr.resample(wave, rate, sampling_rate, quality="VHQ")
    if wave.shape[1] != utterance.channels:
        raise UserError(
            f"the audio of {name} has {wave.shape[1]} channel(s) where its record says "
            f"{utterance.channels}; prepare it anew."
        )
    if not wave.size or not np.isfinite(wave).all():
        raise UserError(
            f"the audio of {name} is empty or not finite; leave the record out or prepare it anew."
        )
    return np.ascontiguousarray(wave.T, dtype=np.float32)


def write_shard(path: str | Path, utterances: Iterable[Utterance]) -> Index:
    """Writes utterances in order to a new ArrayRecord file; returns their index."""
    rows = []
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    try:
        for utterance in utterances:
            writer.write(make_record(utterance))
            rows.append(Index.row(utterance))
    finally:
        writer.close()
    return Index.join(rows)

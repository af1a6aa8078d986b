"""Alignments beside the records: `alignment-SPLIT.npz`, which `zipvoice-jax align` writes.

The file holds `starts`, the seconds at which tokens begin, concatenated over all records;
`offsets`, where each record's starts begin and end (an empty range: unknown); and `fingerprint`,
which ties it to the records of its split.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import DAMAGED_NPZ
from zipvoice_jax.data.index import Index
from zipvoice_jax.data.utterance import END_SLACK, alignment_fault

ALIGNER = "aligner.npz"  # beside the records: the network that learns alignments, done or not


def alignment_name(split: str) -> str:
    """Name of the file with a split's alignments."""
    return f"alignment-{split}.npz"


class Alignments:
    """The alignments of a split, by record number; picklable.

    Attributes:
        known: for each record, whether it has an alignment.
    """

    def __init__(self, path: Path, index: Index) -> None:
        """Reads and checks the file.

        Args:
            path: the .npz file.
            index: index of the split that it should belong to.

        Raises:
            UserError: the file is damaged, or belongs to other records.
        """
        remedy = "delete it, or run `zipvoice-jax align --overwrite`"
        self._offsets, self._starts, fingerprint = _read(path, remedy)
        if fingerprint != _fingerprint(index):
            raise UserError(f"{path} belongs to other records than the dataset has; {remedy}.")
        if not _is_sound(self._offsets, self._starts, index):
            raise UserError(f"{path} holds impossible alignments; {remedy}.")
        self.known: Bool[np.ndarray, " records"] = np.diff(self._offsets) > 0

    @classmethod
    def beside(cls, directory: Path, split: str, index: Index) -> "Alignments | None":
        """The alignments beside a split's records; None if there are none.

        Raises:
            UserError: the file is damaged, or belongs to other records.
        """
        path = directory / alignment_name(split)
        return cls(path, index) if path.exists() else None

    def __getitem__(self, record: int) -> tuple[float, ...]:
        """The seconds at which the tokens of a record begin; () if unknown."""
        low, high = self._offsets[record : record + 2].tolist()
        return tuple(self._starts[low:high].tolist())


def save_alignments(
    directory: str | Path, split: str, index: Index, starts: Sequence[Sequence[float]]
) -> Path:
    """Writes alignments beside the records of a split, atomically.

    Args:
        directory: directory of the dataset.
        split: name of the split.
        index: index of the split.
        starts: start of each record's tokens, in seconds; empty if unknown.

    Returns:
        The path of the file.

    Raises:
        UserError: an alignment does not fit its record, or the file cannot be written.
    """
    if len(starts) != len(index):
        raise UserError(f"{len(starts)} alignments were given for {len(index)} records.")
    for record, times in enumerate(starts):
        tokens, seconds = int(index.tokens[record]), float(index.seconds[record])
        fault = alignment_fault(times, tokens, seconds) if len(times) else None
        if fault is not None:
            raise UserError(f"the alignment of {index.ids[record]} {fault}.")
    path = Path(directory) / alignment_name(split)
    partial = path.with_name(f".{path.name}.partial")
    counts = [len(times) for times in starts]
    try:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
                starts=np.array([time for times in starts for time in times], np.float32),
                fingerprint=np.array(_fingerprint(index)),
            )
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); make the dataset's directory "
            "writable."
        ) from None
    return path


def _read(
    path: Path, remedy: str
) -> tuple[Int64[np.ndarray, " ends"], Float32[np.ndarray, " times"], str]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            offsets, starts = arrays["offsets"], arrays["starts"]
            return offsets.astype(np.int64), starts.astype(np.float32), str(arrays["fingerprint"])
    except DAMAGED_NPZ:
        raise UserError(f"{path} is no file of alignments; {remedy}.") from None


def _fingerprint(index: Index) -> str:
    """A hash of the records' ids and numbers of tokens."""
    text = json.dumps([index.ids.tolist(), index.tokens.tolist()])
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _is_sound(
    offsets: Int64[np.ndarray, " ends"], starts: Float32[np.ndarray, " times"], index: Index
) -> bool:
    """Whether every record has no starts or valid ones; vectorised over the records."""
    if offsets.shape != (len(index) + 1,) or starts.ndim != 1:
        return False
    counts = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != len(starts) or (counts < 0).any():
        return False
    if ((counts > 0) & (counts != index.tokens)).any():
        return False
    ends = np.repeat(index.seconds, counts) + END_SLACK + 1e-4  # float32 rounds
    rises = np.diff(starts, prepend=np.float32(0)) >= 0
    rises[offsets[:-1][counts > 0]] = True  # the first of a record
    return bool((np.isfinite(starts) & (starts >= 0) & (starts <= ends) & rises).all())

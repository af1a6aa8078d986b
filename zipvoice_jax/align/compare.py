"""The error of learned alignments against those that the records carry."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.alignment import Alignments, alignment_name
from zipvoice_jax.data.records import open_split


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Errors of a dataset's learned boundaries.

    Attributes:
        utterances: number of utterances compared.
        boundaries: number of boundaries compared: the starts of all tokens, blanks and stress
            marks included, except the first of each utterance, which is always 0.
        median: median of the absolute error, milliseconds.
        most: 90th percentile of the absolute error, milliseconds.
        mean_signed: mean of learned minus true, milliseconds.
        even_median: the median if all tokens were equally long, milliseconds.
    """

    utterances: int
    boundaries: int
    median: float
    most: float
    mean_signed: float
    even_median: float

    def line(self) -> str:
        """The figures in a sentence."""
        return (
            f"boundary error: median {self.median:.1f} ms, 90 % below {self.most:.1f} ms, mean "
            f"shift {self.mean_signed:+.1f} ms ({self.boundaries} boundaries of all tokens in "
            f"{self.utterances} utterances; tokens of equal length: median "
            f"{self.even_median:.1f} ms)"
        )


def compare(directory: Path, splits: Sequence[str]) -> Comparison:
    """Compares the alignments beside the records with the records' own.

    Args:
        directory: directory of the dataset.
        splits: splits to compare, pooled.

    Raises:
        UserError: there is nothing to compare.
    """
    errors, even = [np.zeros(0)], [np.zeros(0)]
    utterances = 0
    for split in splits:
        source, index = open_split(directory, split, learned=False)
        learned = Alignments.beside(directory, split, index)
        if learned is None:
            raise UserError(f"{directory / alignment_name(split)} is missing; run align first.")
        for row in np.flatnonzero(index.aligned & learned.known).tolist():
            truth = np.array(source[row].token_starts)
            share = np.arange(len(truth)) / len(truth) * index.seconds[row]
            errors.append((np.array(learned[row]) - truth)[1:])
            even.append((share - truth)[1:])
            utterances += 1
    signed = 1000.0 * np.concatenate(errors)
    if not len(signed):
        raise UserError(
            f"no record of {directory} carries an alignment of its own to compare with; leave out "
            "--compare."
        )
    sizes = np.abs(signed)
    return Comparison(
        utterances,
        len(signed),
        float(np.median(sizes)),
        float(np.quantile(sizes, 0.9)),
        float(signed.mean()),
        float(np.median(np.abs(1000.0 * np.concatenate(even)))),
    )

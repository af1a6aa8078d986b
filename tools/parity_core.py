"""What the parity cases share: the record of a case, and how an error is measured."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

VALUE_LIMIT = 1e-5
GRADIENT_LIMIT = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    `detail` rows are printed only when asked for or when they fail.
    """

    name: str
    error: float
    limit: float = VALUE_LIMIT
    detail: bool = False

    @property
    def ok(self) -> bool:
        """Whether the error is a number within the limit."""
        return bool(self.error <= self.limit)


def relative_error(ours: Any, official: Any) -> float:
    """|ours - official| / |official| in the 2-norm; infinite where the shapes differ."""
    a, b = np.asarray(ours, np.float64), np.asarray(official, np.float64)
    if a.shape != b.shape:
        return float("inf")
    norm, difference = np.linalg.norm(b), np.linalg.norm(a - b)
    return float(difference / norm if norm > 0 else difference)


def mismatches(ours: Sequence[Any], official: Sequence[Any]) -> float:
    """How many entries differ, lengths counted."""
    differing = sum(a != b for a, b in zip(ours, official, strict=False))
    return float(differing + abs(len(ours) - len(official)))

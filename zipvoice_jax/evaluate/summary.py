"""From items to numbers with intervals, and to differences between systems."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.evaluate.config import ALL_METRICS, Metric

_SEED = 20_250_709
RESAMPLES = 2000
LEVEL = 95.0  # percent

Records = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: over all items.
        low: end of the bootstrap's interval.
        high: its other end.
        items: that it was found from.
    """

    value: float
    low: float
    high: float
    items: int

    def told(self, metric: Metric, sign: bool = False) -> str:
        """As a table prints it."""
        digits = 2 if metric.scale == 1.0 else 1
        plus = "+" if sign else ""
        return f"{self.value:{plus}.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def _pairs(records: Records, name: str) -> dict[str, tuple[float, float]]:
    return {
        record["id"]: tuple(record["metrics"][name])
        for record in records
        if name in record.get("metrics", {})
    }


def _ratio(sums: Float[np.ndarray, "*draws 2"], scale: float) -> Float[np.ndarray, "*draws"]:
    """Sum by sum; NaN where there is nothing to divide by."""
    some = sums[..., 1] > 0
    return np.where(some, scale * sums[..., 0] / np.where(some, sums[..., 1], 1.0), np.nan)


def over_items(*sides: Float[np.ndarray, "items 2"], scale: float = 1.0) -> Estimate | None:
    """The ratio of sums over items, less the second side's if there is one, with its interval.

    Items are drawn with replacement, the same ones for both sides.

    Args:
        sides: numerator and denominator of each item.
        scale: factor on the ratio.

    Returns:
        None without items, or where they add up to a denominator of zero.
    """
    items = len(sides[0])
    if not items:
        return None
    rng = np.random.default_rng(_SEED)
    draws = rng.multinomial(items, np.full(items, 1.0 / items), RESAMPLES)
    whole = [_ratio(side.sum(axis=0), scale) for side in sides]
    drawn = [_ratio(draws @ side, scale) for side in sides]
    value = float(whole[0] - sum(whole[1:]))
    if np.isnan(value):
        return None
    tail = (100.0 - LEVEL) / 2.0
    low, high = np.nanpercentile(drawn[0] - sum(drawn[1:]), [tail, 100.0 - tail])
    return Estimate(value, float(low), float(high), items)


def estimate(records: Records, name: str) -> Estimate | None:
    """A metric over items, with its bootstrap interval; None where no item has it."""
    found = list(_pairs(records, name).values())
    return over_items(np.array(found, np.float64).reshape(-1, 2), scale=ALL_METRICS[name].scale)


def difference(records: Records, baseline: Records, name: str) -> Estimate | None:
    """A metric less the baseline's over the items that both have, resampled together."""
    both = [_pairs(records, name), _pairs(baseline, name)]
    shared = [item for item in both[0] if item in both[1]]
    sides = [np.array([side[i] for i in shared], np.float64).reshape(-1, 2) for side in both]
    return over_items(*sides, scale=ALL_METRICS[name].scale)


def summarise(records: Records) -> dict[str, Estimate]:
    """All metrics that the items have, in the order of `ALL_METRICS`."""
    found = ((name, estimate(records, name)) for name in ALL_METRICS)
    return {name: one for name, one in found if one is not None}


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as aligned columns, the first one to the left."""
    rows = [list(map(str, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def summary_table(records: Records, baselines: Mapping[str, Records]) -> str:
    """The summary as a text: a line per metric, a column per baseline."""
    head = ["metric", "unit", f"value [{LEVEL:g} %]", "items"]
    rows = [head + [f"less {name}" for name in baselines]]
    for name, one in summarise(records).items():
        metric = ALL_METRICS[name]
        row = [metric.title, metric.unit, one.told(metric), str(one.items)]
        for other in baselines.values():
            delta = difference(records, other, name)
            row.append("" if delta is None else delta.told(metric, sign=True))
        rows.append(row)
    return table(rows)

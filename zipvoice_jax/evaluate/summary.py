"""From items to numbers with intervals, and to differences between systems."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.evaluate.config import ALL_METRICS, Metric
from zipvoice_jax.evaluate.timing import Turn, changes

_SEED = 20_250_709
RESAMPLES = 2000
LEVEL = 95.0  # percent
_BY_LENGTH = {"cpwer_short", "cpwer_long"}

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


def over_items(*sides: Float[np.ndarray, "seeds items 2"], scale: float = 1.0) -> Estimate | None:
    """The ratio of sums, less the second side's if there is one, with its interval.

    Seeds of training and items are drawn with replacement, the same ones for both sides.

    Args:
        sides: numerator and denominator of each item with each seed.
        scale: factor on the ratio.

    Returns:
        None without items, or where they add up to a denominator of zero.
    """
    seeds, items, _ = sides[0].shape
    if not items:
        return None
    rng = np.random.default_rng(_SEED)
    draws = rng.multinomial(items, np.full(items, 1.0 / items), RESAMPLES)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), RESAMPLES)
    whole = [_ratio(side.sum(axis=(0, 1)), scale) for side in sides]
    drawn = [
        _ratio(np.einsum("rs,ri,sik->rk", of_seeds, draws, side, optimize=True), scale)
        for side in sides
    ]
    value = float(whole[0] - sum(whole[1:]))
    if np.isnan(value):
        return None
    tail = (100.0 - LEVEL) / 2.0
    low, high = np.nanpercentile(drawn[0] - sum(drawn[1:]), [tail, 100.0 - tail])
    return Estimate(value, float(low), float(high), items)


def _stacked(
    runs: Sequence[Records], name: str, items: Sequence[str]
) -> Float[np.ndarray, "seeds items 2"]:
    """Pairs of each item with each seed; zeros where there is none."""
    found = [_pairs(records, name) for records in runs]
    rows = [[pairs.get(item, (0.0, 0.0)) for item in items] for pairs in found]
    return np.array(rows, np.float64).reshape(len(runs), len(items), 2)


def _items(runs: Sequence[Records], name: str) -> list[str]:
    return list(dict.fromkeys(item for records in runs for item in _pairs(records, name)))


def estimate(runs: Sequence[Records], name: str) -> Estimate | None:
    """A metric with its interval; None where no item has it.

    Args:
        runs: records of the same items with each seed; one for a single report.
        name: of the metric.
    """
    items = _items(runs, name)
    return over_items(_stacked(runs, name, items), scale=ALL_METRICS[name].scale)


def difference(runs: Sequence[Records], baseline: Sequence[Records], name: str) -> Estimate | None:
    """A metric less the baseline's over the items that both have, drawn together."""
    theirs = set(_items(baseline, name))
    shared = [item for item in _items(runs, name) if item in theirs]
    if len(runs) != len(baseline):
        return None
    sides = [_stacked(side, name, shared) for side in (runs, baseline)]
    return over_items(*sides, scale=ALL_METRICS[name].scale)


def summarise(*runs: Records) -> dict[str, Estimate]:
    """All metrics that the items have, in the order of `ALL_METRICS`.

    cpWER by length is told where there are short and long items.
    """
    found = ((name, estimate(runs, name)) for name in ALL_METRICS)
    known = {name: one for name, one in found if one is not None}
    if not set(known) >= _BY_LENGTH:
        known = {name: one for name, one in known.items() if name not in _BY_LENGTH}
    return known


def offsets(records: Records) -> list[float]:
    """Seconds from the end of a turn to the begin of the other's, over all items.

    Floor transfer offsets: gaps, or overlaps where negative.
    """
    turns = ([Turn(*turn) for turn in record.get("turns", ())] for record in records)
    return [change for found in turns for change in changes(found)]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Their number and five quantiles."""
    told = {f"{q} %": round(float(np.percentile(values, q)), 3) for q in (5, 25, 50, 75, 95)}
    return {"count": len(values), **told}


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
            delta = difference([records], [other], name)
            row.append("" if delta is None else delta.told(metric, sign=True))
        rows.append(row)
    return table(rows)

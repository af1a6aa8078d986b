"""Summarises items as numbers with intervals, and as differences between systems."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.judge.config import ALL_METRICS, Metric
from zipvoice_jax.judge.timing import HeardTurn, changes

_SEED = 20_250_709
RESAMPLES = 2000
LEVEL = 95.0  # percent
_TAIL = (1.0 - LEVEL / 100.0) / 2.0
_FEW = 10  # items below which the bootstrap's intervals are too narrow, even when widened
INTERVAL = (
    f"{LEVEL:g} % for other items of this kind: {RESAMPLES} bootstrap samples of the items, "
    f"widened for their number; below {_FEW} items Student's t with the variance between items"
)
INTERVAL_OF_SEEDS = (
    f"{LEVEL:g} % for other seeds and items of this kind: Student's t with the sum of the "
    "variances between seeds and between items"
)
_BY_LENGTH = {"cpwer_short", "cpwer_long"}

ItemRecords = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the number over all items.
        low: lower end of the interval; NaN for a single item, which says nothing about others.
        high: upper end of the interval; NaN likewise.
        items: number of items behind it.
    """

    value: float
    low: float
    high: float
    items: int

    def formatted(self, metric: Metric, sign: bool = False) -> str:
        """The estimate as text for a table."""
        digits = 2 if metric.scale == 1.0 else 1
        value = f"{self.value:{'+' if sign else ''}.{digits}f}"
        known = not np.isnan(self.low)
        return f"{value} [{self.low:.{digits}f}, {self.high:.{digits}f}]" if known else value

    def as_json(self) -> dict[str, float | None]:
        """Its fields; None for an unknown end."""
        parts = dataclasses.asdict(self)
        return {name: None if np.isnan(part) else part for name, part in parts.items()}


def _pairs(records: ItemRecords, name: str) -> dict[str, tuple[float, float]]:
    return {
        record["id"]: tuple(record["metrics"][name])
        for record in records
        if name in record.get("metrics", {})
    }


def _ratio(sums: Float[np.ndarray, "*draws 2"], scale: float) -> Float[np.ndarray, "*draws"]:
    """Ratio of two sums; NaN if the denominator is zero."""
    some = sums[..., 1] > 0
    return np.where(some, scale * sums[..., 0] / np.where(some, sums[..., 1], 1.0), np.nan)


def over_items(*sides: Float[np.ndarray, "seeds items 2"], scale: float = 1.0) -> Estimate | None:
    """The ratio of sums, less that of a second side if there is one, with its interval.

    The interval is for other items and, if there are several seeds of training (or listeners), for
    other seeds: all seeds have the same items, and both sides the same seeds and items. It is a
    bootstrap for ten or more items with one seed, and Student's t otherwise.

    Args:
        sides: numerator and denominator of each item with each seed; zeros if it is missing.
        scale: factor on the ratio.

    Returns:
        None without items, or if their denominators sum to zero.
    """
    seeds, items, _ = sides[0].shape
    if not items:
        return None
    whole = [_ratio(side.sum(axis=(0, 1)), scale) for side in sides]
    value = float(whole[0] - sum(whole[1:]))
    if np.isnan(value):
        return None
    if items == 1:
        return Estimate(value, float("nan"), float("nan"), items)
    if seeds == 1 and items >= _FEW:
        low, high = _bootstrap([side[0] for side in sides], scale)
    else:
        half = _half_width(sides, scale)
        low, high = value - half, value + half
        if len(sides) == 1 and (sides[0] >= 0).all():
            low = max(low, 0.0)
    return Estimate(value, float(low), float(high), items)


def _bootstrap(
    sides: Sequence[Float[np.ndarray, "items 2"]], scale: float
) -> Float[np.ndarray, "2"]:
    """The expanded percentile interval.

    Its percentiles are further out than the nominal ones, to correct for Student's t being wider
    than the normal distribution, and for the spread of n items being wider than that of their
    samples (Hesterberg 2015, "What teachers should know about the bootstrap").
    """
    from scipy.special import ndtr, stdtrit

    items = len(sides[0])
    rng = np.random.default_rng(_SEED)
    draws = rng.multinomial(items, np.full(items, 1.0 / items), RESAMPLES)
    drawn = [_ratio(np.einsum("ri,ik->rk", draws, side, optimize=True), scale) for side in sides]
    tail = 100.0 * float(ndtr(np.sqrt(items / (items - 1)) * stdtrit(items - 1, _TAIL)))
    return np.nanpercentile(drawn[0] - sum(drawn[1:]), [tail, 100.0 - tail])


def _half_width(sides: Sequence[Float[np.ndarray, "seeds items 2"]], scale: float) -> float:
    """Half of the interval by Student's t.

    The variance is that between seeds divided by their number, plus that between items divided by
    theirs, with Satterthwaite's degrees of freedom. The interaction of seed and item counts in
    both, so that the interval errs on the wide side.
    """
    from scipy.special import stdtrit

    # The contribution of each cell to the ratio, to first order; their mean is zero.
    parts = [
        scale * (side[..., 0] - side[..., 1] * (totals[0] / totals[1])) / side[..., 1].mean()
        for side, totals in ((side, side.sum(axis=(0, 1))) for side in sides)
    ]
    cells = parts[0] - sum(parts[1:])
    means = [cells.mean(axis=axis) for axis in (0, 1) if cells.shape[1 - axis] > 1]
    variances = np.array([mean.var(ddof=1) / len(mean) for mean in means])
    freedoms = np.array([len(mean) - 1 for mean in means])
    if not variances.any():
        return 0.0
    freedom = variances.sum() ** 2 / (variances**2 / freedoms).sum()
    return float(-stdtrit(freedom, _TAIL) * np.sqrt(variances.sum()))


def _stacked(
    runs: Sequence[ItemRecords], name: str, items: Sequence[str]
) -> Float[np.ndarray, "seeds items 2"]:
    """Numerators and denominators of each item with each seed; zeros if missing."""
    pairs_of_seed = [_pairs(records, name) for records in runs]
    rows = [[pairs.get(item, (0.0, 0.0)) for item in items] for pairs in pairs_of_seed]
    return np.array(rows, np.float64).reshape(len(runs), len(items), 2)


def _items(runs: Sequence[ItemRecords], name: str) -> list[str]:
    return list(dict.fromkeys(item for records in runs for item in _pairs(records, name)))


def estimate(runs: Sequence[ItemRecords], name: str) -> Estimate | None:
    """A metric with its interval; None if no item has it.

    Args:
        runs: records of the same items for each seed; one for a single report.
        name: name of the metric.
    """
    items = _items(runs, name)
    return over_items(_stacked(runs, name, items), scale=ALL_METRICS[name].scale)


def difference(
    runs: Sequence[ItemRecords], baseline: Sequence[ItemRecords], name: str
) -> Estimate | None:
    """A metric minus the baseline's, over the items that both have; items are drawn jointly."""
    theirs = set(_items(baseline, name))
    shared = [item for item in _items(runs, name) if item in theirs]
    if len(runs) != len(baseline):
        return None
    sides = [_stacked(side, name, shared) for side in (runs, baseline)]
    return over_items(*sides, scale=ALL_METRICS[name].scale)


def summarise(*runs: ItemRecords) -> dict[str, Estimate]:
    """All metrics that the items have, in the order of `ALL_METRICS`.

    cpWER by length is included if there are both short and long items.
    """
    estimates = ((name, estimate(runs, name)) for name in ALL_METRICS)
    known = {name: result for name, result in estimates if result is not None}
    if not set(known) >= _BY_LENGTH:
        known = {name: result for name, result in known.items() if name not in _BY_LENGTH}
    return known


def offsets(records: ItemRecords) -> list[float]:
    """Seconds from the end of each turn to the start of the next, over all items.

    Floor transfer offsets: gaps, or overlaps where negative.
    """
    turns = ([HeardTurn(*turn) for turn in record.get("turns", ())] for record in records)
    return [change for own_turns in turns for change in changes(own_turns)]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The number of values and five quantiles."""
    levels = {f"{q} %": round(float(np.percentile(values, q)), 3) for q in (5, 25, 50, 75, 95)}
    return {"count": len(values), **levels}


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as aligned columns; the first is left-aligned, the others right-aligned."""
    rows = [list(map(str, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def summary_table(records: ItemRecords, baselines: Mapping[str, ItemRecords]) -> str:
    """The summary as a text: a line per metric, a column per baseline."""
    head = ["metric", "unit", f"value [{LEVEL:g} %]", "items"]
    rows = [head + [f"less {name}" for name in baselines]]
    for name, result in summarise(records).items():
        metric = ALL_METRICS[name]
        row = [metric.title, metric.unit, result.formatted(metric), str(result.items)]
        for other in baselines.values():
            delta = difference([records], [other], name)
            row.append("" if delta is None else delta.formatted(metric, sign=True))
        rows.append(row)
    return table(rows)

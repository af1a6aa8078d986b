"""The table of an ablation: metrics with intervals, validation losses, and differences of both."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_json, write_text
from zipvoice_jax.judge.config import ALL_METRICS
from zipvoice_jax.judge.page import draw_estimates
from zipvoice_jax.judge.summary import (
    INTERVAL,
    INTERVAL_OF_SEEDS,
    LEVEL,
    ItemRecords,
    difference,
    summarise,
    table,
)


@dataclasses.dataclass(frozen=True)
class RowResult:
    """The outcome of a row with one seed.

    Attributes:
        records: records of the items, as `evaluate` wrote them.
        loss: the last validation loss; None if there is none.
    """

    records: ItemRecords
    loss: float | None


@dataclasses.dataclass(frozen=True)
class Paired:
    """The mean of differences with the same seeds, and its interval by Student's t.

    Below three seeds the interval is None: it would say nothing.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def formatted(self) -> str:
        """The difference as text for a table."""
        if self.low is None:
            return f"{self.mean:+.4f}"
        return f"{self.mean:+.4f} [{self.low:.4f}, {self.high:.4f}]"


def paired(losses: Sequence[float | None], others: Sequence[float | None]) -> Paired | None:
    """The mean of losses minus others', seed by seed; None if one is missing."""
    from scipy.special import stdtrit

    if None in losses or None in others or not losses:
        return None
    deltas = np.subtract(np.array(losses, np.float64), np.array(others, np.float64))
    mean, count = float(deltas.mean()), len(deltas)
    if count < 3:
        return Paired(mean, None, None, count)
    half = float(-stdtrit(count - 1, (1.0 - LEVEL / 100.0) / 2.0) * deltas.std(ddof=1))
    half /= math.sqrt(count)
    return Paired(mean, mean - half, mean + half, count)


def of_common_items(
    outcomes: Mapping[str, Sequence[RowResult]],
) -> dict[str, list[RowResult]]:
    """The same outcomes for the items alone that every row has with every seed.

    Raises:
        UserError: there are none.
    """
    ids = [{record["id"] for record in one.records} for row in outcomes.values() for one in row]
    common = set.intersection(*ids)
    if not common:
        raise UserError("no item has been judged in all rows so far; let more of them speak.")
    return {
        name: [
            RowResult([record for record in one.records if record["id"] in common], one.loss)
            for one in row
        ]
        for name, row in outcomes.items()
    }


def write_report(
    question: str,
    seeds: Sequence[int],
    trained_on: Mapping[str, str],
    outcomes: Mapping[str, Sequence[RowResult]],
    to: Path,
    *,
    note: str = "",
) -> str:
    """Writes table.txt, table.json and table.png; returns the table.

    Args:
        question: the question that the ablation answers.
        seeds: seeds of training.
        trained_on: steps, audio and datasets of each row, as text.
        outcomes: outcomes of each row, by seed; the others are compared with the first row.
        to: folder of the table.
        note: a line for the table's head, such as what it lacks.

    Raises:
        UserError: a file cannot be written.
    """
    first, *others = outcomes
    runs = {name: [result.records for result in by_seed] for name, by_seed in outcomes.items()}
    losses = {name: [result.loss for result in by_seed] for name, by_seed in outcomes.items()}
    systems = {name: summarise(*by_seed) for name, by_seed in runs.items()}
    names = [
        name for name in ALL_METRICS if any(name in estimates for estimates in systems.values())
    ]
    titles = [f"{ALL_METRICS[n].title} {ALL_METRICS[n].unit}".strip() for n in names]
    rows = [["", "trained on", "validation loss", *titles]]
    for row, estimates in systems.items():
        texts = ["" if result is None else f"{result:.4f}" for result in losses[row]]
        cells = [estimates[n].formatted(ALL_METRICS[n]) if n in estimates else "" for n in names]
        rows.append([row, trained_on[row], " ".join(texts), *cells])
    deltas = [["less the first", "validation loss", *titles]]
    content: dict[str, dict[str, Any]] = {
        row: {
            "trained_on": trained_on[row],
            "validation_loss": losses[row],
            **{name: result.as_json() for name, result in estimates.items()},
        }
        for row, estimates in systems.items()
    }
    for row in others:
        loss = paired(losses[row], losses[first])
        differences = {name: difference(runs[row], runs[first], name) for name in names}
        texts = [
            "" if result is None else result.formatted(ALL_METRICS[n], sign=True)
            for n, result in differences.items()
        ]
        deltas.append([row, "" if loss is None else loss.formatted(), *texts])
        content[row]["less_the_first"] = {
            "validation_loss": None if loss is None else dataclasses.asdict(loss),
            **{
                name: result.as_json() for name, result in differences.items() if result is not None
            },
        }
    interval = INTERVAL if len(seeds) == 1 else INTERVAL_OF_SEEDS
    note = f"{note}\n" if note else ""
    text = (
        f"{question}\n{len(seeds)} seeds, {len(runs[first][0])} items. Intervals: {interval}.\n"
        "A validation loss for each seed; its differences are paired by seed, with Student's t "
        f"from 3 seeds on.\n{note}\n{table(rows)}\n\n{table(deltas)}"
    )
    write_text(to / "table.txt", text + "\n")
    report = {"question": question, "seeds": list(seeds), "interval": interval, "rows": content}
    write_json(to / "table.json", report)
    draw_estimates(systems, to / "table.png")
    return text

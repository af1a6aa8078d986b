"""Reports the rows of `forecast/ahead.py`: a table, details below a row, a picture of scaling."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.forecast.hlo.memory import amount

_COLUMNS = (
    ("topology", 11, lambda r: r["topology"]),
    ("program", 7, lambda r: r["program"]),
    ("stage", 10, lambda r: r["stage"]),
    ("bucket", 17, lambda r: r["bucket"]),
    ("GiB", 6, lambda r: _number(r, "hbm_gib", 1.0, ".2f")),
    ("of", 6, lambda r: _number(r, "hbm_limit_gib", 1.0, ".2f")),
    ("TFLOP", 7, lambda r: _number(r, "flops", 1e-12, ".3f")),
    ("GB", 7, lambda r: _number(r, "bytes", 1e-9, ".2f")),
    ("sent MB", 8, lambda r: _sum(r, "collective_bytes", 1e-6, ".1f")),
    ("XLA ms", 8, lambda r: _number(r, "xla_s", 1e3, ".1f")),
    ("roof ms", 8, lambda r: _roof(r)),
    ("bound", 12, lambda r: r.get("bound", "-")),
    ("ms", 8, lambda r: _number(r, "predicted_s", 1e3, ".1f")),
    ("MFU", 6, lambda r: _number(r, "mfu", 100.0, ".1f") + ("%" if "mfu" in r else "")),
    ("compile s", 9, lambda r: _number(r, "compile_s", 1.0, ".1f")),
)

COLOURS = ("#3b6fb6", "#c8553d", "#4c8c4a", "#8a5fa8")
MARKERS = {"v5e": "o", "v5p": "s", "v6e": "^"}
# Parts of a step's bar, from the bottom: name, value from a row, colour.
PARTS = (
    ("matrix products at the peak", lambda r: r["compute_bound_s"], "#3b6fb6"),
    ("other work on the chip (XLA's estimate)", lambda r: _other(r), "#a9c4e4"),
    ("waiting for the interconnect", lambda r: r["waits_s"], "#c8553d"),
)


def line(row: dict[str, Any], *, header: bool = False) -> str:
    """A row as fixed-width text, or the titles above it."""
    return " ".join(f"{title if header else tell(row):>{width}}" for title, width, tell in _COLUMNS)


def details(row: dict[str, Any], parts: int = 0) -> list[str]:
    """The lines below a row: collectives, notes, and the largest arrays if it does not fit."""
    lines = [
        f"{kind}: {row['collective_times'][kind]:,.0f} times, {size / 1e6:,.1f} MB"
        for kind, size in row.get("collective_bytes", {}).items()
    ]
    if not row["fits"]:
        lines.append(f"does not fit: {too_much(row)}")
    lines += [f"note: {text}" for text in (row["note"], *row.get("unknown", ())) if text]
    total = sum(part["cycles"] for part in row.get("parts", ())) or math.inf
    for part in row.get("parts", ())[:parts]:
        lines.append(
            f"{part['cycles'] / total:6.1%} of XLA's time, {part['flops'] / 1e9:8.1f} GFLOP, "
            f"{part['bytes'] / 1e6:8.1f} MB, {part['collective_bytes'] / 1e6:7.1f} MB sent: "
            f"{part['name']}"
        )
    return lines


def too_much(row: dict[str, Any]) -> str:
    """One line on the memory that a case that does not fit needs, and what for."""
    needs, has = (_number(row, name, 1.0, ".2f") for name in ("hbm_gib", "hbm_limit_gib"))
    return (
        f"it needs {needs} GiB of the {has} GiB of a chip; the state takes "
        f"{amount(row['state_gib'] * 2**30)}, and on each chip {'; '.join(row['memory'])}"
    )


def _number(row: dict[str, Any], name: str, factor: float, form: str) -> str:
    value = row.get(name)
    return "-" if value is None else f"{value * factor:{form}}"


def _sum(row: dict[str, Any], name: str, factor: float, form: str) -> str:
    return "-" if name not in row else f"{sum(row[name].values()) * factor:{form}}"


def _roof(row: dict[str, Any]) -> str:
    names = ("compute_bound_s", "hbm_bound_s", "interconnect_s")
    return f"{1e3 * max(row[name] for name in names):.1f}" if "bound" in row else "-"


def plot_scaling(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws a PNG of the training steps among the rows of `forecast/ahead.py`.

    Raises:
        UserError: no row is a training step for a TPU that fits, or the file cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    shown = [row for row in rows if row["program"] == "train" and "mfu" in row and row["fits"]]
    if not shown:
        raise UserError("there is nothing to plot; compile train for a TPU topology that fits.")
    rules = list(dict.fromkeys((row["stage"], row["rule"]) for row in shown))
    figure = Figure(figsize=(12.0, 4.8))
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.2))
    for (stage, rule), colour in zip(rules, COLOURS * len(rules), strict=False):
        left.plot([], [], color=colour, label=f"{stage}, {rule}")
        for kind, marker in MARKERS.items():  # a line joins chips of one kind only
            line = sorted(
                (row["chips"], 100.0 * row["mfu"])
                for row in shown
                if (row["stage"], row["rule"]) == (stage, rule)
                and row["topology"].startswith(f"{kind}:")
            )
            left.plot(*zip(*line, strict=True), marker, color=colour, linestyle="-") if line else ()
            for point in line:
                left.annotate(kind, point, (4, 5), textcoords="offset points", size=7)
    left.set_xscale("log", base=2)
    left.set_xticks(sorted({r["chips"] for r in shown}), minor=False)
    left.set_xticklabels([str(n) for n in sorted({r["chips"] for r in shown})])
    left.set_ylim(bottom=0.0)
    left.set_xlabel("chips")
    left.set_ylabel("predicted MFU, % of the bfloat16 peak")
    left.set_title("flat is perfect weak scaling", size=9)
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    base = [0.0] * len(shown)
    for name, value, colour in PARTS:
        widths = [1e3 * value(row) for row in shown]
        right.barh(range(len(shown)), widths, left=base, color=colour, label=name)
        base = [a + b for a, b in zip(base, widths, strict=True)]
    right.set_yticks(range(len(shown)))
    right.set_yticklabels([f"{r['topology']}, {r['rule']}" for r in shown], fontsize=7)
    right.invert_yaxis()
    right.set_xlabel("predicted ms of a training step")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=3)
    figure.tight_layout()
    save_picture(figure, path, dpi=110)


def _other(row: dict[str, Any]) -> float:
    return max(0.0, row["predicted_s"] - row["compute_bound_s"] - row["waits_s"])

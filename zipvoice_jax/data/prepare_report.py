"""The report of a preparation: what is in the dataset and what was left out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zipvoice_jax.data.checks import REASONS, Reject
from zipvoice_jax.data.prepare_shards import tally_reject
from zipvoice_jax.data.records import Index


def make_report(
    name: str,
    indices: Mapping[str, Index],
    notes: Mapping[str, Sequence[Mapping[str, Any]]],
    rejects: Sequence[Reject],
    *,
    examples: int,
) -> dict[str, Any]:
    """Summarises a preparation.

    Args:
        name: name of the dataset.
        indices: index of each split.
        notes: notes of each split's finished shards, in order.
        rejects: items that the plan rejected.
        examples: rejected items to name per reason.

    Returns:
        The content of report.json.
    """
    left_out: dict[str, dict[str, Any]] = {}
    for one in rejects:
        tally_reject(left_out, one, examples)
    for note in (note for split in notes.values() for note in split):
        for reason, entry in note["rejects"].items():
            total = left_out.setdefault(reason, {"count": 0, "examples": []})
            total["count"] += entry["count"]
            total["examples"] = (total["examples"] + entry["examples"])[:examples]
    return {
        "name": name,
        "splits": {
            split: _split_report(index, sum(note["turns"] for note in notes[split]))
            for split, index in indices.items()
        },
        "rejects": {reason: left_out[reason] for reason in REASONS if reason in left_out},
    }


def _split_report(index: Index, turns: int) -> dict[str, Any]:
    seconds = float(index.seconds.sum())
    languages, counts = np.unique(index.languages, return_counts=True)
    channels, of_channels = np.unique(index.channels, return_counts=True)
    lengths = np.percentile(index.seconds, [0, 50, 100]) if len(index) else np.zeros(3)
    aligned = int(index.aligned.sum())
    return {
        "utterances": len(index),
        **({"aligned": aligned} if aligned else {}),
        "hours": round(seconds / 3600, 6),
        "turns": turns,
        "tokens": int(index.tokens.sum()),
        "tokens_per_second": round(float(index.tokens.sum()) / seconds, 3) if seconds else 0.0,
        "seconds_min_median_max": [round(float(one), 3) for one in lengths],
        "languages": dict(zip(languages.tolist(), counts.tolist(), strict=True)),
        "channels": {
            str(one): n for one, n in zip(channels.tolist(), of_channels.tolist(), strict=True)
        },
    }


def dumps(report: Mapping[str, Any]) -> str:
    """The report as the text of report.json."""
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report as lines for the terminal."""
    output = []
    for split, part in report["splits"].items():
        low, median, high = part["seconds_min_median_max"]
        languages = ", ".join(f"{name or 'unknown'} {n}" for name, n in part["languages"].items())
        output.append(
            f"{report['name']} {split}: {part['utterances']:,} utterances, {part['hours']:.3f} h, "
            f"{part['turns']:,} turns, {part['tokens_per_second']:.1f} tokens/s, "
            f"{low:.1f} to {high:.1f} s (median {median:.1f}), languages: {languages}"
            + (f", {part['aligned']:,} with an alignment" if "aligned" in part else "")
        )
    total = sum(entry["count"] for entry in report["rejects"].values())
    output.append(f"left out: {total:,}")
    for reason, entry in report["rejects"].items():
        output.append(f"  {reason}: {entry['count']:,}")
        output += [f"    {example['id']}: {example['detail']}" for example in entry["examples"]]
    return output

"""How well the length of speech is predicted: by the ratio of tokens, and by durations.

Official models use the prompt's frames per token; a duration head uses its frames per predicted
frame. Both are compared with recordings of the same texts.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.prepare import Preparation
from zipvoice_jax.infer.requests import Request, wave_path

RULES = ("tokens", "durations")
COLUMNS = (
    ("rule", "length_by", "{:>10}"),
    ("items", "items", "{:5d}"),
    ("mean", "mean", "{:+7.3f}"),
    ("absolute", "mean_abs", "{:8.3f}"),
    ("p90", "abs_90%", "{:8.3f}"),
    ("worst", "worst", "{:7.3f}"),
)


def lengths(
    prepare: Preparation, requests: Sequence[Request], wav_dir: Path
) -> Iterator[dict[str, Any]]:
    """Lengths of each item, in seconds.

    Args:
        prepare: the model's preparation; with `raw_evaluation`, so that prompt and text count
            unchanged. Its tokenizer reads the texts of the list.
        requests: the items.
        wav_dir: recordings of the items, named as by `generate`.

    Yields:
        `id`, the recording's seconds as `true`, and the seconds by each of `RULES` that the model
        supports.

    Raises:
        UserError: a recording or a text cannot be used.
    """
    rate, hop = prepare.features.sampling_rate, prepare.features.hop_length
    rules = {"tokens": dataclasses.replace(prepare, durations=None)}
    if prepare.durations is not None:
        rules["durations"] = prepare
    for request in requests:
        wave = read_audio(wave_path(wav_dir, request.item_id), rate)
        row: dict[str, Any] = {"id": request.item_id, "true": wave.shape[1] / rate}
        for name, rule in rules.items():
            try:
                frames = sum(job.new_frames for job in rule(request).jobs)
            except UserError as error:
                raise UserError(f"{request.item_id}: {error}") from None
            if not frames:
                raise UserError(f"{request.item_id}: the model knows none of its tokens.")
            row[name] = frames * hop / rate
        yield row


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row of `COLUMNS` for each rule, with errors of the logarithm of the length.

    0.1 is a length that is 10 % too long. `p90` is the 90th percentile of the absolute error,
    `worst` its maximum.
    """
    summaries = []
    for rule in RULES:
        errors = np.array([math.log(row[rule] / row["true"]) for row in rows if rule in row])
        if len(errors):
            summaries.append(
                {
                    "rule": rule,
                    "items": len(errors),
                    "mean": float(errors.mean()),
                    "absolute": float(np.abs(errors).mean()),
                    "p90": float(np.quantile(np.abs(errors), 0.9)),
                    "worst": float(np.abs(errors).max()),
                }
            )
    return summaries

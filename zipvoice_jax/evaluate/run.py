"""A folder of recordings to a report: an item at a time, restartable at any point."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import append_record, read_records, write_json, write_text
from zipvoice_jax.data.requests import BadLine, Request, wave_path
from zipvoice_jax.evaluate.judge import Judge
from zipvoice_jax.evaluate.page import (
    ESTIMATES,
    OFFSETS,
    draw_estimates,
    draw_offsets,
    write_page,
)
from zipvoice_jax.evaluate.summary import (
    LEVEL,
    RESAMPLES,
    Records,
    offsets,
    quantiles,
    summarise,
    summary_table,
)

ITEMS, JUDGE = "items.jsonl", "judge.json"


@dataclasses.dataclass
class Totals:
    """Counts of a run."""

    done: int = 0
    skipped: int = 0
    failed: int = 0


def evaluate(
    judge: Judge,
    requests: Sequence[Request | BadLine],
    wav_dir: Path,
    to: Path,
    *,
    baselines: Mapping[str, Path],
    overwrite: bool,
    say: Callable[[str], None],
) -> tuple[Totals, str]:
    """Judges all items that were not judged before, and writes the report.

    Args:
        judge: who judges.
        requests: what was to be said.
        wav_dir: the recordings, as `generate` names them, with its report if there is one.
        to: folder of the report.
        baselines: folders of reports to compare with, by name.
        overwrite: judge all anew.
        say: gets a line for each item that cannot be judged.

    Returns:
        What was done, and the summary as a table.

    Raises:
        UserError: nothing can be judged, a report cannot be written, or is of another judge.
    """
    others = {name: load(folder) for name, folder in baselines.items()}
    about = json.loads(json.dumps(judge.about()))
    known = _begin(to, about, overwrite)
    made = read_records(wav_dir / "report.jsonl")
    totals, listed = Totals(), []
    bar = tqdm(requests, desc="judge", unit="item", file=sys.stderr, mininterval=0.5)
    for request in bar:
        path = wave_path(wav_dir, request.item_id)
        stamp = _stamp(path, request)
        before = known.get(request.item_id)
        if before is not None and "error" not in before and before.get("stamp") == stamp:
            listed.append(before)
            totals.skipped += 1
            continue
        try:
            if isinstance(request, BadLine):
                raise UserError(request.error)
            record = judge.judge(request, path, made.get(request.item_id, {}))
            totals.done += 1
        except UserError as error:
            record = {"id": request.item_id, "error": str(error)}
            bar.clear()
            say(f"{request.item_id}: {error}")
            totals.failed += 1
        record["stamp"] = stamp
        append_record(to / ITEMS, record)
        listed.append(record)
    return totals, write_report(to, listed, others, about)


def load(folder: Path) -> list[dict[str, Any]]:
    """The records of a report.

    Raises:
        UserError: the folder holds none.
    """
    records = list(read_records(folder / ITEMS).values())
    if not records:
        raise UserError(f"{folder} holds no report; give a folder that `evaluate --to` wrote.")
    return records


def write_report(
    to: Path,
    records: list[dict[str, Any]],
    baselines: Mapping[str, Records],
    about: Mapping[str, Any],
) -> str:
    """Writes summary.json, summary.txt, pictures and index.html; returns the table.

    Raises:
        UserError: no item was judged, or a file cannot be written.
    """
    good = [record for record in records if "error" not in record]
    if not good:
        raise UserError(f"no item of {to} could be judged; see {to / ITEMS}.")
    if not any(record["metrics"] for record in good):
        raise UserError(
            f"none of the metrics is one of these items ({', '.join(about['metrics'])}); cpwer, "
            "cpsim and turns need dialogues, sim one speaker, leakage two channels, rtf the report "
            "of `generate`."
        )
    text = summary_table(good, baselines)
    systems = {"this": good, **baselines}
    between = {name: found for name, one in systems.items() if (found := offsets(one))}
    content = {
        "judge": about,
        "items": len(good),
        "failed": len(records) - len(good),
        "interval": f"{LEVEL:g} % of {RESAMPLES} bootstrap samples of the items",
        "metrics": {name: dataclasses.asdict(one) for name, one in summarise(good).items()},
        "seconds_between_turns": {name: quantiles(found) for name, found in between.items()},
    }
    write_json(to / "summary.json", content)
    write_text(to / "summary.txt", text + "\n")
    if between:
        draw_offsets(between, to / OFFSETS)
    draw_estimates({name: summarise(one) for name, one in systems.items()}, to / ESTIMATES)
    write_page(to, good, text, about)
    return text


def _begin(to: Path, about: dict[str, Any], overwrite: bool) -> dict[str, dict[str, Any]]:
    """What is known already; writes down who judges."""
    known = {} if overwrite else read_records(to / ITEMS)
    path = to / JUDGE
    if known and path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before != about:
            raise UserError(
                f"{to} holds the report of another judge (see {path}); give another --to, or "
                "--overwrite."
            )
    write_json(path, about)
    if overwrite:
        write_text(to / ITEMS, "")
    return known


def _stamp(path: Path, request: Request | BadLine) -> str:
    """Changes when the recording or what it should say does."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return "missing"
    if isinstance(request, BadLine):
        return "bad"
    return f"{stat.st_size} {stat.st_mtime_ns} {request.text} {list(map(str, request.prompt_wavs))}"

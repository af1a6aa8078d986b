"""Judges a folder of recordings: item by item, restartable at any point."""

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import (
    append_record,
    read_records,
    stamp_of,
    write_json,
    write_text,
)
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.infer.requests import BadLine, Request, wave_path
from zipvoice_jax.judge.config import ROLES
from zipvoice_jax.judge.judge import Judge
from zipvoice_jax.judge.page import (
    ESTIMATES,
    OFFSETS,
    draw_estimates,
    draw_offsets,
    write_page,
)
from zipvoice_jax.judge.summary import (
    INTERVAL,
    ItemRecords,
    offsets,
    quantiles,
    summarise,
    summary_table,
)

ITEMS, JUDGE = "items.jsonl", "judge.json"


@dataclasses.dataclass
class Counts:
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
) -> tuple[Counts, str]:
    """Judges all items that were not judged before, and writes the report.

    Args:
        judge: the judge.
        requests: the texts and prompts.
        wav_dir: folder of recordings named as by `generate`, with its report if there is one.
        to: folder of the report.
        baselines: folders of reports to compare with, by name.
        overwrite: judge all items again.
        say: prints a line for each item that cannot be judged, and for each baseline whose judge
            had other versions of libraries.

    Returns:
        Counts of the run, and the summary as a table.

    Raises:
        UserError: nothing can be judged, the report cannot be written, or it or a baseline is of
            another judge.
    """
    description = json.loads(json.dumps(judge.describe()))
    others = {name: read_report(folder) for name, folder in baselines.items()}
    for name, folder in baselines.items():
        _check_judge(name, _read_judge(folder) or {}, description, say)
    known = _begin(to, description, overwrite)
    made = read_records(wav_dir / "report.jsonl")
    totals, listed = Counts(), []
    bar = progress_bar(requests, desc="judge", unit="item")
    for request in bar:
        path = wave_path(wav_dir, request.item_id)
        its = made.get(request.item_id, {})
        stamp = _stamp(path, request, its)
        before = known.get(request.item_id)
        if before is not None and "error" not in before and before.get("stamp") == stamp:
            if before["wav"] != str(path):  # called from another folder
                before = {**before, "wav": str(path)}
                append_record(to / ITEMS, before)
            listed.append(before)
            totals.skipped += 1
            continue
        try:
            if isinstance(request, BadLine):
                raise UserError(request.error)
            record = judge.judge(request, path, its)
            totals.done += 1
        except UserError as error:
            record = {"id": request.item_id, "error": str(error)}
            bar.clear()
            say(f"{request.item_id}: {error}")
            totals.failed += 1
        record["stamp"] = stamp
        append_record(to / ITEMS, record)
        listed.append(record)
    return totals, write_evaluation(to, listed, others, description)


def read_report(folder: Path) -> list[dict[str, Any]]:
    """The records of a report.

    Raises:
        UserError: the folder holds none.
    """
    records = list(read_records(folder / ITEMS).values())
    if not records:
        raise UserError(f"{folder} holds no report; give a folder that `evaluate --to` wrote.")
    return records


def write_evaluation(
    to: Path,
    records: list[dict[str, Any]],
    baselines: Mapping[str, ItemRecords],
    description: Mapping[str, Any],
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
            f"none of the metrics is one of these items ({', '.join(description['metrics'])}); "
            "cpwer, cpsim and turns need dialogues (cpwer in one channel also a recogniser that "
            "knows times or speakers), sim one speaker, leakage two channels, rtf the report of "
            "`generate`."
        )
    text = f"{summary_table(good, baselines)}\n\nIntervals: {INTERVAL}."
    systems = {"this": good, **baselines}
    between = {name: seconds for name, one in systems.items() if (seconds := offsets(one))}
    content = {
        "judge": description,
        "items": len(good),
        "failed": len(records) - len(good),
        "interval": INTERVAL,
        "attribution": collections.Counter(
            ", ".join(f"{what} by {how}" for what, how in record["attribution"].items())
            for record in good
            if "attribution" in record
        ),
        "metrics": {name: one.as_json() for name, one in summarise(good).items()},
        "seconds_between_turns": {name: quantiles(seconds) for name, seconds in between.items()},
    }
    write_json(to / "summary.json", content)
    write_text(to / "summary.txt", text + "\n")
    if between:
        draw_offsets(between, to / OFFSETS)
    else:
        (to / OFFSETS).unlink(missing_ok=True)  # of a run with other metrics
    draw_estimates({name: summarise(one) for name, one in systems.items()}, to / ESTIMATES)
    write_page(to, good, text, description)
    return text


def _begin(to: Path, description: dict[str, Any], overwrite: bool) -> dict[str, dict[str, Any]]:
    """Reads the records of earlier runs, and writes the description of the judge."""
    known = {} if overwrite else read_records(to / ITEMS)
    if known and (to / JUDGE).is_file() and _read_judge(to) != description:
        raise UserError(
            f"{to} holds the report of another judge (see {to / JUDGE}); give another --to, or "
            "--overwrite."
        )
    if overwrite:  # before the new judge is named, whose records they are not
        write_text(to / ITEMS, "")
    write_json(to / JUDGE, description)
    return known


def _read_judge(folder: Path) -> dict[str, Any] | None:
    """The description of a report's judge; None if there is none."""
    try:
        judge = json.loads((folder / JUDGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return judge if isinstance(judge, dict) else None


def _check_judge(
    name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Refuses a baseline of another judge; reports other versions of libraries."""
    if "language" not in theirs:
        raise UserError(f"the baseline {name} has no {JUDGE}; judge it anew, or leave it out.")
    if diff := _differences(_settings(theirs), _settings(ours)):
        raise UserError(
            f"the baseline {name} is of another judge ({diff}); judge it anew, or leave it out."
        )
    if diff := _differences(_libraries(theirs), _libraries(ours)):
        say(f"the baseline {name} was judged with other versions ({diff}).")


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{key}: {there[key]} there, {here[key]} here"
        for key in here
        if key in there and there[key] != here[key]
    )


def _settings(description: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that two judges must share; paths of backends' files may differ."""
    settings = {key: description[key] for key in ("language", "normaliser") if key in description}
    backends = [role for role in ROLES if isinstance(description.get(role), dict)]
    for role in backends:
        settings[role] = description[role]["name"].partition(":")[0]
        settings |= {f"{role}'s {key}": description[role][key] for key in ("weights", "options")}
    if {"recogniser", "speaker_encoder"} <= set(backends):
        settings["attribution"] = description["attribution"]
    return settings


def _libraries(description: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of libraries, which may change the last digits of numbers."""
    backends = [role for role in ROLES if isinstance(description.get(role), dict)]
    return {
        **description.get("libraries", {}),
        **{role: description[role]["library"] for role in backends},
    }


def _stamp(path: Path, request: Request | BadLine, made: Mapping[str, Any]) -> str:
    """A string that changes with the recording, how it was made, its text or its prompts."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return "missing"
    if isinstance(request, BadLine):
        return "bad"
    prompts = [stamp_of(Path(os.path.abspath(prompt))) for prompt in request.prompt_wavs]
    said = request.text, request.prompt_texts
    known = {name: made[name] for name in ("rtf", "turns") if name in made}
    return f"{stat.st_size} {stat.st_mtime_ns} {said} {prompts} {known}"

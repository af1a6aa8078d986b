"""A list of requests to a folder of waves, with a report that makes the run restartable."""

import contextlib
import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zipvoice_jax.audio.io import write_audio
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.plot import plot
from zipvoice_jax.infer.prepare import Item
from zipvoice_jax.infer.requests import BadLine, Request, wave_path
from zipvoice_jax.infer.synthesizer import Speech, Synthesizer

REPORT = "report.jsonl"
# Requests that are prepared and packed together: enough to fill batches, few enough that
# finished waves appear early and little is lost when a run is stopped.
WINDOW = 32
# Names of files may hold bytes that are no Unicode; JSON has the same escapes for them.
_SURROGATES = "backslashreplace"


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What a run does beside sampling."""

    min_duration: float = 1.0
    raw_evaluation: bool = False
    remove_long_sil: bool = False
    plot: bool = False
    overwrite: bool = False


@dataclasses.dataclass
class Totals:
    """Counts and seconds of a run."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    wave_seconds: float = 0.0
    model_seconds: float = 0.0
    vocoder_seconds: float = 0.0


def fingerprint(*parts: Any) -> str:
    """A short hash of what determines a result."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamp(path: Path) -> list[Any]:
    """Tells whether a recording is still the same, without reading it."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return [str(path)]
    return [str(path), stat.st_size, stat.st_mtime_ns]


def stamps_of(model_dir: Path) -> list[Any]:
    """Tells whether the files of a model directory are still the same, without reading them."""
    return [_stamp(path) for path in sorted(model_dir.resolve().iterdir()) if path.is_file()]


def _remove_strays(waves: set[Path]) -> None:
    """Removes half-written waves that a killed run left beside those that are to be made."""
    for folder in {wave.parent for wave in waves}:
        for path in folder.glob(".*.partial"):
            match = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.partial", path.name, re.DOTALL)
            if match and folder / match[1] in waves:
                with contextlib.suppress(OSError):
                    path.unlink()


def write_speech(speech: Speech, path: Path, *, with_plot: bool) -> None:
    """Writes a wave, and its picture beside it."""
    write_audio(path, speech.wave, speech.sampling_rate)
    if with_plot:
        plot(speech, path.with_suffix(".png"))


def record_of(speech: Speech, path: Path, sampling: SamplingConfig, vocoder: str) -> dict[str, Any]:
    """The report line of a finished item."""
    return {
        "id": speech.item_id,
        "wav": str(path),
        "wav_seconds": round(speech.duration, 4),
        "seconds_model": round(speech.seconds_model, 4),
        "seconds_vocoder": round(speech.seconds_vocoder, 4),
        "rtf": round(speech.rtf, 4),
        "rtf_no_vocoder": round(speech.rtf_no_vocoder, 4),
        "vocoder": vocoder,
        "buckets": [dataclasses.asdict(bucket) for bucket in speech.buckets],
        "seed": sampling.seed,
        "num_step": sampling.num_step,
        "guidance_scale": sampling.guidance_scale,
        "turns": [dataclasses.asdict(turn) for turn in speech.turns],
        "notes": list(speech.notes),
    }


def run_list(
    synthesizer: Synthesizer,
    requests: Sequence[Request | BadLine],
    res_dir: Path,
    sampling: SamplingConfig,
    options: RunOptions,
    model_id: str,
    say: Callable[[str], None],
) -> Totals:
    """Generates a list; a bad line costs that line only, and finished items are skipped.

    Args:
        synthesizer: the model.
        requests: from `read_requests`.
        res_dir: for waves, pictures and report.jsonl.
        sampling: how to solve the ODE.
        options: what else to do.
        model_id: tells models apart; a change of model regenerates.
        say: prints a line for the user.

    Raises:
        UserError: `res_dir` cannot be written.
    """
    try:
        res_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the folder {res_dir} cannot be made ({reason}); choose a writable place."
        ) from None
    report = res_dir / REPORT
    records = _read_report(report)
    common = fingerprint(
        model_id, dataclasses.asdict(sampling), options.min_duration, options.raw_evaluation,
        options.remove_long_sil, synthesizer.vocoder.name, synthesizer.config.to_dict(),
    )  # fmt: skip
    totals, todo, keys = Totals(), [], {}
    waves: set[Path] = set()
    for request in requests:
        item_id = request.item_id
        if isinstance(request, Request):
            stamps = [_stamp(path) for path in request.prompt_wavs]
            keys[item_id] = fingerprint(common, dataclasses.asdict(request), stamps)
            old = records.get(item_id, {})
            finished = "error" not in old and old.get("key") == keys[item_id]
            if finished and wave_path(res_dir, item_id).is_file() and not options.overwrite:
                totals.skipped += 1
                continue
            waves.add(wave_path(res_dir, item_id))
        todo.append(request)
    _remove_strays(waves)
    if records:
        _rewrite(report, requests, records)  # a kill may have left half a line at its end
    if totals.skipped:
        say(f"{totals.skipped} items were finished before and are skipped")

    def note(record: dict[str, Any]) -> None:
        records[record["id"]] = record
        try:
            with report.open("a", encoding="utf-8", errors=_SURROGATES) as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{report} cannot be written ({error.strerror}).") from None

    def fail(item_id: str, error: str) -> None:
        totals.failed += 1
        bar.update()
        bar.clear()
        say(f"{item_id}: {error}")
        note({"id": item_id, "error": error})

    prepare = synthesizer.preparation(
        sampling, min_duration=options.min_duration, raw_evaluation=options.raw_evaluation
    )
    bar = tqdm(total=len(todo), unit="item", file=sys.stderr, mininterval=0.5, dynamic_ncols=True)
    with bar:
        for window in _windows(todo):
            items: list[Item] = []
            for request in window:
                if isinstance(request, BadLine):
                    fail(request.item_id, request.error)
                    continue
                try:
                    items.append(prepare(request))
                except UserError as error:
                    fail(request.item_id, str(error))
            for speech in synthesizer.speak(
                items,
                sampling,
                prepare,
                remove_long_sil=options.remove_long_sil,
                failed=lambda item, error: fail(item.request.item_id, str(error)),
            ):
                path = wave_path(res_dir, speech.item_id)
                try:
                    write_speech(speech, path, with_plot=options.plot)
                except UserError as error:
                    fail(speech.item_id, str(error))
                    continue
                for told in speech.notes:
                    bar.clear()
                    say(f"{speech.item_id}: note: {told}")
                record = record_of(speech, path, sampling, synthesizer.vocoder.name)
                note({**record, "key": keys[speech.item_id]})
                totals.done += 1
                totals.wave_seconds += speech.duration
                totals.model_seconds += speech.seconds_model
                totals.vocoder_seconds += speech.seconds_vocoder
                spent = totals.model_seconds + totals.vocoder_seconds
                bar.set_postfix_str(f"RTF {spent / max(totals.wave_seconds, 1e-9):.3f}")
                bar.update()
    _rewrite(report, requests, records)
    return totals


def _windows(requests: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(requests), WINDOW):
        yield requests[begin : begin + WINDOW]


def _read_report(path: Path) -> dict[str, dict[str, Any]]:
    """Lines of an earlier run by id, the last one of each; a line cut by a kill is dropped."""
    records: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return records
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("id"), str):
            records[record["id"]] = record
    return records


def _rewrite(
    path: Path, requests: Sequence[Request | BadLine], records: dict[str, dict[str, Any]]
) -> None:
    """Leaves one line per item, in the list's order, then the waves of other lists."""
    order = [request.item_id for request in requests]
    listed = set(order)
    order += [i for i, record in records.items() if i not in listed and "error" not in record]
    lines = [json.dumps(records[i], ensure_ascii=False) + "\n" for i in order if i in records]
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text("".join(lines), encoding="utf-8", errors=_SURROGATES)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from None

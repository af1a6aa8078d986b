"""Corpora that are lists of files: JSONL (as in Emilia), LibriTTS' folders, TSV, Lhotse cuts."""

import dataclasses
import functools
import gzip
import itertools
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Reject, Rejected
from zipvoice_jax.data.source_webdataset import find_tars, tar_items
from zipvoice_jax.data.sources import CorpusItem, Format, Source, Unit, sliced
from zipvoice_jax.data.timing import joined, timing_of_lhotse, timing_of_tokens

_AUDIO_KEYS = ("wav", "path", "audio", "audio_path", "audio_filepath")
_NEEDED = f"needs id, text and one of {', '.join(_AUDIO_KEYS)}"


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields position and content of each line of a text file (or .gz) that is not blank.

    Raises:
        UserError: the file is missing, damaged or not UTF-8.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield f"{path.name}, line {number}", text
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path of the corpus.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}); get a complete copy.") from None


def read_jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | Reject]]:
    """Yields position and object, or a `Reject`, of each line of a JSONL file (or .gz)."""
    for where, line in read_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield where, row
        else:
            yield where, Reject("bad entry", where, "is not a JSON object")


def manifest_inputs(source: Source) -> list[Path]:
    """The one manifest; raises a UserError if it is not there."""
    if not source.path.is_file():
        raise UserError(f"{source.path} is not a file; give the {source.format} manifest.")
    return [source.path]


def jsonl_inputs(source: Source) -> list[Path]:
    """A JSONL or tar file; or all JSONL files below a directory, else all tars.

    Raises:
        UserError: there is none, or a tar is compressed.
    """
    if source.path.is_file():
        return find_tars(source.path) or [source.path]
    paths = sorted([*source.path.rglob("*.jsonl"), *source.path.rglob("*.jsonl.gz")])
    paths = paths or find_tars(source.path)
    if not paths:
        raise UserError(
            f"{source.path} has no .jsonl and no .tar file; give a manifest or a tar, or the "
            "directory of some."
        )
    return paths


def jsonl_units(source: Source) -> Iterator[Unit]:
    """Objects with id, text, the audio's path relative to the manifest, perhaps a language.

    They may have `token_starts`, a time in seconds for each token, or `alignment` as in Lhotse.
    In a tar each object is a file beside its audio, and its path is ignored. Each manifest or tar
    is cut into units by itself.
    """
    for manifest in jsonl_inputs(source):
        if manifest.suffix.lower() == ".tar":
            items = tar_items(manifest, functools.partial(_member_item, source.language))
        else:
            items = _jsonl_items(manifest, source.language)
        yield from sliced(items, source.unit_size)


def _jsonl_items(manifest: Path, language: str) -> Iterator[CorpusItem | Reject]:
    for where, row in read_jsonl(manifest):
        if isinstance(row, Reject):
            yield row
            continue
        audio = next((row[key] for key in _AUDIO_KEYS if isinstance(row.get(key), str)), "")
        if audio:
            yield _row_item(where, row, str(manifest.parent / audio), Path(audio).stem, language)
        else:
            yield Reject("bad entry", where, _NEEDED)


def _member_item(
    language: str, where: str, row: Mapping[str, Any], tar: Path, span: tuple[int, int]
) -> CorpusItem | Reject:
    """The item of an object whose audio is a range of bytes of a tar file."""
    item = _row_item(where, row, str(tar), str(row["id"]), language)
    if isinstance(item, Reject):
        return item
    return dataclasses.replace(item, offset=span[0], size=span[1])


def _row_item(
    where: str, row: Mapping[str, Any], path: str, recording: str, language: str
) -> CorpusItem | Reject:
    """The item of an object with id and text, whose audio is known."""
    item_id, text = row.get("id"), row.get("text")
    if not (isinstance(item_id, str) and item_id and isinstance(text, str)):
        return Reject("bad entry", where, _NEEDED)
    try:
        timing = timing_of_tokens(row.get("token_starts"))
        timing = timing or timing_of_lhotse(row.get("alignment"))
    except Rejected as rejected:
        return Reject(rejected.reason, item_id, f"{where}: {rejected}")
    return CorpusItem(
        id=item_id,
        text=text,
        path=path,
        language=str(row.get("language") or language),
        recording=recording,
        timing=timing,
    )


def libritts_inputs(source: Source) -> list[Path]:
    """The chapter folders (their times change with their content)."""
    transcripts = _libritts_transcripts(source)
    if not transcripts:
        raise UserError(
            f"{source.path} has no *.normalized.txt; give LibriTTS' directory, the one with "
            "train-clean-100 and the like."
        )
    return sorted({path.parent for path in transcripts})


def libritts_units(source: Source) -> Iterator[Unit]:
    """SUBSET/SPEAKER/CHAPTER/ID.wav with ID.normalized.txt; the subset's name gives the split."""
    return sliced(_libritts_items(source), source.unit_size)


def _libritts_transcripts(source: Source) -> list[Path]:
    return sorted(source.path.rglob("*.normalized.txt"))


def _libritts_items(source: Source) -> Iterator[CorpusItem | Reject]:
    for transcript in _libritts_transcripts(source):
        name = transcript.name.removesuffix(".normalized.txt")
        subsets = ("train", "dev", "test")
        split = next(
            (
                subset
                for part, subset in itertools.product(reversed(transcript.parts[:-1]), subsets)
                if part.startswith(f"{subset}-")
            ),
            "",
        )
        try:
            text = transcript.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            yield Reject("bad entry", name, f"{transcript} is not readable as text")
            continue
        yield CorpusItem(
            id=name,
            text=text,
            path=str(transcript.with_name(f"{name}.wav")),
            language=source.language or "en",
            recording=name,
            split=split,
        )


def tsv_units(source: Source) -> Iterator[Unit]:
    """Lines of id, text, audio and perhaps start and end in seconds, separated by tabs.

    Paths are relative to the manifest's folder, or else to the working directory, as in the
    official code.
    """
    return sliced(_tsv_items(source), source.unit_size)


def _tsv_items(source: Source) -> Iterator[CorpusItem | Reject]:
    for where, line in read_lines(source.path):
        columns = [column.strip() for column in line.split("\t")]
        while len(columns) > 3 and not columns[-1]:  # spreadsheets end lines with tabs
            columns.pop()
        if len(columns) not in (3, 5) or not all(columns[:1] + columns[2:]):
            yield Reject(
                "bad entry",
                columns[0] or where,
                f"{where}: needs the columns id, text, audio, perhaps start and end, between tabs",
            )
            continue
        item_id, text, audio = columns[:3]
        span = _span(columns[3:])
        if span is None:
            yield Reject("bad entry", item_id, f"{where}: start and end are not a span of seconds")
            continue
        beside = source.path.parent / audio
        yield CorpusItem(
            id=item_id,
            text=text,
            path=str(
                Path(audio) if os.path.exists(audio) and not os.path.exists(beside) else beside
            ),
            language=source.language,
            recording=audio,
            start=span[0],
            end=span[1],
        )


def _span(columns: list[str]) -> tuple[float, float | None] | None:
    if not columns:
        return 0.0, None
    try:
        start, end = map(float, columns)
    except ValueError:
        return None
    return (start, end) if 0 <= start < end < math.inf else None


def lhotse_units(source: Source) -> Iterator[Unit]:
    """Lhotse cuts: recordings in files, channels, start and duration.

    A cut is one utterance, with the texts of its supervisions in order, and their alignments if
    all have one.
    """
    return sliced(_lhotse_items(source), source.unit_size)


def _lhotse_items(source: Source) -> Iterator[CorpusItem | Reject]:
    for where, cut in read_jsonl(source.path):
        if isinstance(cut, Reject):
            yield cut
            continue
        try:
            yield _cut_item(cut, source)
        except Rejected as rejected:
            detail = f"{where}: the alignment {rejected}"
            yield Reject(rejected.reason, str(cut.get("id") or where), detail)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            detail = str(error) if type(error) is ValueError else "is not a cut with a recording"
            yield Reject("bad entry", str(cut.get("id") or where), f"{where}: {detail}")


def _cut_item(cut: Mapping[str, Any], source: Source) -> CorpusItem:
    """The item of a MonoCut or MultiCut; raises a ValueError for a cut that is not supported."""
    if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
        raise ValueError(f"is a {cut['type']}; save it with its audio first")
    recording = cut["recording"]
    changes = {one.get("name") for one in recording.get("transforms") or ()} - {"Resample"}
    if changes:
        raise ValueError(f"changes its audio by {', '.join(sorted(map(str, changes)))}; save it")
    wanted = cut["channel"] if isinstance(cut["channel"], list) else [cut["channel"]]
    files = [one for one in recording["sources"] if set(wanted) <= set(one["channels"])]
    if not files or files[0]["type"] != "file":
        raise ValueError("has no one file with all its channels")
    numbers = files[0]["channels"]
    path = Path(files[0]["source"])
    whole = cut["start"] == 0 and abs(cut["duration"] - recording["duration"]) < 1e-3
    start, end = (0.0, None) if whole else (cut["start"], cut["start"] + cut["duration"])
    supervisions = sorted(cut["supervisions"], key=lambda one: one["start"])
    languages = [one.get("language") for one in supervisions if one.get("language")]
    return CorpusItem(
        id=str(cut["id"]),
        text=" ".join(one.get("text") or "" for one in supervisions),
        path=str(path if os.path.exists(path) else source.path.parent / path),
        language=str(languages[0]) if languages else source.language,
        recording=str(recording["id"]),
        start=float(start),
        end=None if end is None else float(end),
        channels=() if wanted == numbers else tuple(numbers.index(one) for one in wanted),
        # Their times are relative to the cut's beginning, as those of supervisions are.
        timing=joined([timing_of_lhotse(one.get("alignment")) for one in supervisions]),
    )


FORMATS = {
    "emilia": Format(jsonl_inputs, jsonl_units),
    "jsonl": Format(jsonl_inputs, jsonl_units),
    # Its folders define the split.
    "libritts": Format(libritts_inputs, libritts_units, lambda source: frozenset()),
    "tsv": Format(manifest_inputs, tsv_units),
    "lhotse": Format(manifest_inputs, lhotse_units),
}

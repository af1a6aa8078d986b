"""One shard of a preparation: reads the items, checks them, writes the records.

A shard is finished when its note lies beside it; a killed run leaves no note, and the shard is
made again from the beginning, as is one that left items out whose audio has changed since. Shards
do not depend on each other.
"""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from zipvoice_jax.audio.containers import container_of
from zipvoice_jax.audio.io import read_audio, sampling_rate_of
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data import checks
from zipvoice_jax.data.checks import Limits, Reject, Rejected
from zipvoice_jax.data.prepare_config import TokenizerSettings
from zipvoice_jax.data.prepare_plan import read_items, write_atomically
from zipvoice_jax.data.records import Index, write_shard
from zipvoice_jax.data.sources import CorpusItem
from zipvoice_jax.data.timing import token_starts
from zipvoice_jax.data.utterance import Utterance

_SLACK = 0.1  # seconds that a lossy file's header may be off


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """What a worker needs to make a shard.

    Attributes:
        split: the split that it belongs to.
        unit: file of its items, from the plan.
        size: number of its items.
        shard: file to write.
        tokenizer: tokenizer of the texts.
        limits: bounds on durations and speaking rate.
        examples: rejected items to name per reason.
    """

    split: str
    unit: Path
    size: int
    shard: Path
    tokenizer: TokenizerSettings
    limits: Limits
    examples: int

    @property
    def note_path(self) -> Path:
        """Path of the note that marks the shard as finished and describes its content."""
        return self.shard.with_name(f"{self.shard.name}.json")

    def note(self) -> dict[str, Any] | None:
        """The note, if the shard is finished and complete."""
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
            return note if os.path.getsize(self.shard) == note["bytes"] else None
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def is_finished(self) -> bool:
        """Whether the shard need not be made again.

        One that left items out is, once a file of its audio is newer than itself: what was wrong
        may have been mended since an earlier run was stopped.
        """
        note = self.note()
        if note is None or not note["rejects"]:
            return note is not None
        made = self.note_path.stat().st_mtime_ns
        paths = {item.path for item in read_items(self.unit)}
        return not any(_changed_at(path) > made for path in paths)


def _changed_at(path: str) -> int:
    """When a file was last written, moved or opened to us, in ns; 0 for one that is not there."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return 0
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


@dataclasses.dataclass
class _Tally:
    """Counts of a shard: turns, and rejected items by reason."""

    examples: int
    turns: int = 0
    rejects: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def reject(self, one: Reject) -> None:
        tally_reject(self.rejects, one, self.examples)


def tally_reject(rejects: dict[str, dict[str, Any]], one: Reject, examples: int) -> None:
    """Counts a reject under its reason, and keeps the first `examples` of them."""
    entry = rejects.setdefault(one.reason, {"count": 0, "examples": []})
    entry["count"] += 1
    if len(entry["examples"]) < examples:
        entry["examples"].append({"id": one.id, "detail": one.detail})


def prepare_shard(job: ShardJob) -> int:
    """Makes a shard unless it is finished; returns the number of its items.

    Raises:
        UserError: the shard cannot be written.
    """
    if job.is_finished():
        return job.size
    tally = _Tally(job.examples)
    partial = job.shard.with_name(f".{job.shard.name}.{os.getpid()}.partial")
    try:
        index = write_shard(partial, _utterances(job, tally))
        os.replace(partial, job.shard)
        note = {
            "bytes": job.shard.stat().st_size,
            "index": [column.tolist() for column in dataclasses.astuple(index)],
            "turns": tally.turns,
            "rejects": tally.rejects,
        }
        write_atomically(job.note_path, json.dumps(note, ensure_ascii=False))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{job.shard} cannot be written ({getattr(error, 'strerror', None) or error}); give a "
            "writable place with free space and run the command again."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return job.size


def note_index(note: dict[str, Any]) -> Index:
    """The index of a finished shard."""
    return Index.join(zip(*note["index"], strict=True))


def _utterances(job: ShardJob, tally: _Tally) -> Iterator[Utterance]:
    """Yields the items that pass the checks, in order; a bad item never stops the others."""
    for item in read_items(job.unit):
        try:
            utterance = make_utterance(item, job.tokenizer, job.limits)
        except Rejected as rejected:
            tally.reject(Reject(rejected.reason, item.id, str(rejected)))
            continue
        except MemoryError:
            raise
        except Exception as error:  # from a library, on one strange text or file
            tally.reject(Reject("bad entry", item.id, f"{type(error).__name__}: {error}"))
            continue
        tally.turns += checks.count_turns(utterance.text)
        yield utterance


def make_utterance(item: CorpusItem, settings: TokenizerSettings, limits: Limits) -> Utterance:
    """Reads an item's audio, checks it, and tokenizes its text.

    Raises:
        Rejected: the item is not fit for training; the message says why.
    """
    text = checks.normalize_text(item.text)
    checks.check_text(
        text,
        dialogue=settings.must_be_dialogue(text),
        speakers=settings.tokenizer.speakers,
    )
    tokens = _tokens(text, item.language, settings)
    audio, seconds, channels = _read_item(item)
    checks.check_seconds(seconds, limits)
    checks.check_proportion(text, seconds, limits)
    starts: tuple[float, ...] = ()
    if item.timing is not None:
        starts = token_starts(item.timing, tokens, seconds, settings.tokenizer.tokens)
    return Utterance(
        id=item.id,
        text=text,
        tokens=tokens,
        language=item.language,
        duration=seconds,
        channels=channels,
        audio=audio,
        token_starts=starts,
    )


def _tokens(text: str, language: str, settings: TokenizerSettings) -> tuple[str, ...]:
    """Tokens of a text; rejects those that the table, if there is one, does not know."""
    try:
        code = language.lower()[:2] if settings.text_repair else ""
        tokens, dropped = settings.tokenizer.split(
            text, language=code if code in ("en", "zh") else ""
        )
        unknown = settings.tokenizer.ids(tokens)[1] if settings.table is not None else ()
    except UserError as error:
        raise Rejected("unknown tokens", str(error)) from None
    checks.check_tokens(unknown, dropped)
    checks.check_turns(tokens)
    return tokens


def _read_item(item: CorpusItem) -> tuple[bytes, float, int]:
    """An item's encoded audio, its duration in seconds and its number of channels."""
    if item.size is not None:
        return _read_member(item)
    path = Path(item.path)
    try:
        rate = sampling_rate_of(path)
        wave = read_audio(
            path,
            rate,
            offset=item.start,
            duration=None if item.end is None else item.end - item.start,
            max_duration=None,
        )
        if item.channels:
            wave = wave[list(item.channels)]
        # Records hold what libsndfile decodes.
        as_is = item.is_whole and container_of(path) is None
        audio = path.read_bytes() if as_is else _as_flac(wave, rate)
    except (UserError, OSError, IndexError) as error:
        raise Rejected("unreadable", str(error)) from None
    return audio, wave.shape[1] / rate, wave.shape[0]


def _read_member(item: CorpusItem) -> tuple[bytes, float, int]:
    """Like `_read_item`, for an audio file that is a range of bytes of another file."""
    try:
        with open(item.path, "rb") as file:
            file.seek(item.offset)
            audio = file.read(item.size)
        with soundfile.SoundFile(io.BytesIO(audio)) as sound:
            rate, channels, promised = sound.samplerate, sound.channels, sound.frames
            frames = len(sound.read(dtype="int16", always_2d=True))
    except OSError as error:
        raise Rejected("unreadable", f"{item.path} cannot be read ({error.strerror})") from None
    except soundfile.SoundFileError:
        raise Rejected("unreadable", f"a member of {item.path} is not an audio file") from None
    if frames == 0 or frames < promised - _SLACK * rate:
        raise Rejected("unreadable", f"{frames} of {promised} samples could be decoded")
    if channels > 2:
        raise Rejected("unreadable", f"has {channels} channels, and 1 or 2 count")
    return audio, frames / rate, channels


def _as_flac(wave: np.ndarray, rate: int) -> bytes:
    """16-bit FLAC of float samples (channels, samples) with full scale at 1."""
    buffer = io.BytesIO()
    samples = np.clip(np.round(wave.T * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()

"""Requests to generate or to judge: from options, from the official TSV lists, or from JSONL."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from zipvoice_jax.audio.recording import Recording
from zipvoice_jax.audio.voice import Voice, is_voice
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import check_number
from zipvoice_jax.text.pauses import check_no_pause, split_pauses
from zipvoice_jax.text.tokens import SPEAKERS, quote

_JSON_KEYS = ("id", "text", "prompt_text", "prompt_wav", "speed", "duration")
MAX_TEXT = 100_000  # characters
DURATIONS = (0.1, 3600.0)  # allowed seconds for speech of a fixed length
MAX_LIST = 1 << 28  # bytes


@dataclasses.dataclass(frozen=True)
class Request:
    """One item to generate.

    Attributes:
        item_id: name of the output.
        text: what to say, with or without pauses (`zipvoice_jax.text.pauses`).
        prompt_texts: transcripts of the prompts; for a dialogue one per speaker or one of all. May
            be empty for voices (`audio/voice.py`), which have their own.
        prompt_wavs: the recordings or voices, one per transcript.
        speed: speaking rate, above 1 is faster; None takes that of the run.
        duration: seconds of the whole speech, whatever the speed; None takes that of the run, if
            it has one.
        contents: recordings in memory to read instead of `prompt_wavs`, which then only name them
            in messages; empty: read the files.
    """

    item_id: str
    text: str
    prompt_texts: tuple[str, ...]
    prompt_wavs: tuple[Path, ...]
    speed: float | None = None
    duration: float | int | None = None
    contents: tuple[Path | Recording | Voice, ...] = ()

    def __post_init__(self) -> None:
        path = PurePosixPath(self.item_id)
        nameless = self.item_id.endswith("/") or path.name.lower() in ("", ".wav")
        if not self.item_id.strip() or nameless or path.is_absolute() or ".." in path.parts:
            raise UserError(
                f"the item name {quote(self.item_id)} cannot name a file; use letters, digits, "
                "'-', '_' and '/'."
            )
        odd = any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in self.item_id)
        if odd or len(self.item_id.encode("utf-8", "replace")) > 200:
            raise UserError(
                f"the item name {quote(self.item_id[:60])} holds control characters or broken "
                "Unicode, or is longer than 200 bytes; choose a plain name."
            )
        if not self.text.strip() or not split_pauses(self.text)[0]:
            raise UserError(f"the text of {self.item_id} is empty; give some words to say.")
        if len(self.text) > MAX_TEXT:
            raise UserError(
                f"the text of {self.item_id} has {len(self.text):,} characters; split it into "
                f"items of at most {MAX_TEXT:,}."
            )
        count = len(self.prompt_wavs)
        if len(self.prompt_texts) != count or count not in SPEAKERS:
            raise UserError(
                f"{self.item_id} has {count} prompt recordings and {len(self.prompt_texts)} "
                "transcripts; give one of each, or for a dialogue one of each for every speaker."
            )
        for text, source in zip(self.prompt_texts, self.contents or self.prompt_wavs, strict=True):
            if not text.strip() and not is_voice(source):
                raise UserError(
                    f"a prompt transcript of {self.item_id} is empty; write what the recording "
                    "says."
                )
            check_no_pause(text, f"a prompt transcript of {self.item_id}")
        if self.speed is not None and not 0.05 <= self.speed <= 20:
            raise UserError(f"the speed of {self.item_id} is {self.speed}; give 0.05 to 20.")
        if self.duration is not None:
            check_number(f"the duration of {self.item_id}", self.duration, *DURATIONS)


@dataclasses.dataclass(frozen=True)
class BadLine:
    """A line of a list that is not a request, and why; other lines are not affected.

    Attributes:
        item_id: "line N", which precedes the error in messages.
        error: a sentence that says what is wrong.
    """

    item_id: str
    error: str


def wave_path(res_dir: Path, item_id: str) -> Path:
    """Where an item's wave goes."""
    return res_dir / (item_id if item_id.lower().endswith(".wav") else f"{item_id}.wav")


def read_requests(path: Path) -> list[Request | BadLine]:
    """Reads a list: TSV in one of the official formats, or JSONL by its extension.

    TSV lines are `name, prompt transcript, prompt wav, text` (one speaker, or a dialogue with
    a merged prompt) or `name, transcript 1, transcript 2, wav 1, wav 2, text` (a dialogue with
    a prompt per speaker; all transcripts, then all recordings, for any number). JSONL objects
    have id, text, prompt_text and prompt_wav (a string, or a list of one per speaker), and may
    have speed or duration. Paths of recordings are relative to the working directory, or else to
    the list's own folder. The transcript of a voice may be empty, and JSONL objects with only
    voices may lack prompt_text.

    Raises:
        UserError: the list as a whole cannot be read, or holds nothing.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LIST + 1)
        if len(data) > MAX_LIST:
            raise UserError(f"the list {path} is larger than {MAX_LIST >> 20} MiB; split it.")
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"the list {path} does not exist.") from None
    except UnicodeDecodeError:
        raise UserError(f"the list {path} is not UTF-8 text.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the list {path} cannot be read ({reason}).") from None
    is_json = path.suffix.lower() in (".jsonl", ".json")
    requests = list(_parse_lines(text, is_json, path.parent))
    if not requests:
        raise UserError(f"the list {path} has no lines.")
    return requests


def read_usable(path: Path, limit: int | None = None) -> list[Request]:
    """The items of a list of which every line can be used; see `read_requests`.

    Args:
        path: the list.
        limit: lines to take, from the first on; None for all.

    Raises:
        UserError: the list cannot be read, or one of these lines cannot be used.
    """
    requests = []
    for item in read_requests(path)[:limit]:
        if isinstance(item, BadLine):
            raise UserError(f"the list {path}: {item.item_id}: {item.error}")
        requests.append(item)
    return requests


def _parse_lines(text: str, is_json: bool, folder: Path) -> Iterator[Request | BadLine]:
    seen: dict[Path, str] = {}  # item names by the path of their wave
    # Only newlines end a line; other Unicode separators may occur in a text.
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip("\r")
        if not line.strip():
            continue
        name = f"line {number}"
        try:
            request = (_from_json if is_json else _from_tsv)(line, folder)
            wave = wave_path(Path(), request.item_id)
            if wave in seen:
                before = "" if seen[wave] == request.item_id else f", as {quote(seen[wave])}"
                raise UserError(
                    f"the name {quote(request.item_id)} was used before{before}; names must differ."
                )
        except UserError as error:
            yield BadLine(name, str(error))
            continue
        seen[wave] = request.item_id
        yield request


def _wav(name: str, folder: Path) -> Path:
    path = Path(name.strip())
    try:
        beside_list = not path.is_absolute() and not path.exists() and (folder / path).exists()
    except (OSError, ValueError):  # an impossible path; reading it will report that
        beside_list = False
    return folder / path if beside_list else path


def _from_tsv(line: str, folder: Path) -> Request:
    fields = [field.strip() for field in line.split("\t")]
    filled = max((number for number, field in enumerate(fields, 1) if field), default=0)
    # Spreadsheets end lines with tabs; five fields can only be a dialogue without a text.
    fields = fields[: max(4, filled if filled != 5 or len(fields) == 5 else 6)]
    if len(fields) == 4:
        item, prompt_text, prompt_wav, text = fields
        return Request(item, text, (prompt_text,), (_wav(prompt_wav, folder),))
    if len(fields) >= 6 and len(fields) % 2 == 0:
        item, *prompts, text = fields
        texts, wavs = prompts[: len(prompts) // 2], prompts[len(prompts) // 2 :]
        return Request(item, text, tuple(texts), tuple(_wav(wav, folder) for wav in wavs))
    raise UserError(
        f"it has {len(fields)} tab-separated fields; 4 are needed (name, transcript, wav, text) "
        "or 6 (name, two transcripts, two wavs, text), and 2 more for each further speaker."
    )


def _strings(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = values[key]
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise UserError(f"{key} must be a string or a list of strings.")
    return tuple(parts)


def _from_json(line: str, folder: Path) -> Request:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError("it is not JSON; write one object per line.") from None
    if not isinstance(values, dict):
        raise UserError("it is not a JSON object; write one object per line.")
    unknown = sorted(set(values) - set(_JSON_KEYS))
    missing = [key for key in _JSON_KEYS[:4] if key not in values]
    if missing == ["prompt_text"] and all(
        is_voice(Path(wav)) for wav in _strings(values, "prompt_wav")
    ):
        values["prompt_text"] = ["" for _ in _strings(values, "prompt_wav")]
        missing = []
    if unknown or missing:
        faults = [f"unknown keys {', '.join(map(quote, unknown))}"] if unknown else []
        faults += [f"no {', '.join(missing)}"] if missing else []
        raise UserError(f"it has {' and '.join(faults)}; the keys are {', '.join(_JSON_KEYS)}.")
    (item, *more), (text, *rest) = _strings(values, "id"), _strings(values, "text")
    if more or rest:
        raise UserError("id and text must be single strings.")
    speed, duration = values.get("speed"), values.get("duration")
    for name, value in (("speed", speed), ("duration", duration)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{name} is {quote(str(value))}; give a number.")
    wavs = tuple(_wav(wav, folder) for wav in _strings(values, "prompt_wav"))
    return Request(item, text, _strings(values, "prompt_text"), wavs, speed, duration)

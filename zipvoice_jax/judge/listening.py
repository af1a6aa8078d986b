"""Listening tests: a page that plays pairs blindly, and the analysis of its answers.

CMOS compares two systems on the same text; SMOS compares the voices of a system with its prompts.
The page contains its sounds, so that a listener only needs this file and a browser; a key beside
it says which sound is whose. Page, key and answers carry a digest of all sounds and their order,
so that answers to another page of the same name are rejected.
"""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.core.errors import UserError, require
from zipvoice_jax.core.files import write_json, write_text
from zipvoice_jax.infer.requests import BadLine, Request, wave_path
from zipvoice_jax.judge.config import Metric
from zipvoice_jax.judge.judge import speakers_in
from zipvoice_jax.judge.summary import LEVEL, over_items, table

SCALES = {"cmos": (-3, 3), "smos": (1, 5)}
KINDS = tuple(SCALES)
_TEMPLATE = Path(__file__).with_name("listening.html")
_RATE = 24_000
_LEVEL = 0.08  # root mean square of all sounds, equal so that loudness does not decide
_PEAK = 0.99  # of full scale; the level of all is lowered if one would exceed it
_PAUSE = 0.5  # seconds between the prompts of two speakers
_PROMPT = "prompt"

Sound = Float[np.ndarray, "channels samples"]


def write_test(
    requests: Sequence[Request | BadLine],
    systems: Mapping[str, Path],
    path: Path,
    *,
    kind: str,
    count: int,
    seed: int,
    overwrite: bool = False,
) -> int:
    """Writes the page and, beside it, its key; returns the number of trials.

    Args:
        requests: the test list.
        systems: folders of recordings by name; two for CMOS, one or more for SMOS.
        path: path of the page.
        kind: "cmos" or "smos".
        count: number of items, drawn from those that all systems have.
        seed: seed of the drawn items and of which sound is A.
        overwrite: replace another test's page and key, without which its answers say nothing.

    Raises:
        UserError: there are no such items, a file cannot be read or written, or another test lies
            there.
    """
    if kind not in KINDS:
        raise UserError(f"the listening test {kind!r} is unknown; choose {' or '.join(KINDS)}.")
    if kind == "cmos" and len(systems) != 2:
        raise UserError("CMOS compares two systems; give two NAME=DIR.")
    items = [
        request
        for request in requests
        if isinstance(request, Request)
        and all(wave_path(folder, request.item_id).is_file() for folder in systems.values())
    ]
    if not items:
        raise UserError("no item of the list has a recording of every system; check the folders.")
    rng = np.random.default_rng([zlib.crc32(b"listening test"), seed])
    key: dict[str, dict[str, str]] = {}
    sounds: list[tuple[Sound, Sound]] = []
    voices: list[int] = []
    for request in [items[i] for i in sorted(rng.permutation(len(items))[:count])]:
        recordings = [(name, _sound(wave_path(folder, request.item_id)))
                for name, folder in systems.items()]  # fmt: skip
        if kind == "cmos":
            pairs = [[recordings[i] for i in rng.permutation(2)]]
        else:
            prompt = (_PROMPT, _prompt(request))
            pairs = [[prompt, sound] for sound in recordings]
        for (a, first), (b, second) in pairs:
            key[f"trial{len(key):03d}"] = {"item": request.item_id, "a": a, "b": b}
            sounds.append((first, second))
            tagged = speakers_in(" ".join([request.text, *request.prompt_texts]))
            voices.append(max(len(request.prompt_wavs), len(tagged)))
    peaks = (max(float(np.abs(sound).max()), 1.0) for pair in sounds for sound in pair)
    level = min(_LEVEL, _PEAK / max(peaks))
    trials = [
        {"id": name, "voices": speakers, "a": _url(level * a), "b": _url(level * b)}
        for name, speakers, (a, b) in zip(key, voices, sounds, strict=True)
    ]
    digest = hashlib.sha256(json.dumps([kind, trials]).encode()).hexdigest()[:12]
    header = {"name": f"{path.stem}-{digest}", "kind": kind}
    if not overwrite and key_path(path).exists():
        require(
            _read_key(key_path(path))["name"] == header["name"],
            f"{key_path(path)} is the key of another test, whose answers say nothing without it; "
            "name another page, or give --overwrite.",
        )
    test = json.dumps({**header, "trials": trials}).replace("</", "<\\/")
    write_text(path, _TEMPLATE.read_text(encoding="utf-8").replace("@TEST@", test))
    write_json(key_path(path), {**header, "trials": key})
    return len(trials)


def key_path(page: Path) -> Path:
    """Path of the key of a page."""
    return page.with_suffix(".key.json")


def analyse(results: Sequence[Path], key: Path) -> str:
    """A table of means with intervals, from the files that listeners saved.

    CMOS: how much better each system is than the other, -3 to 3. SMOS: the score of each, 1 to 5.
    Intervals are for other listeners and other items. Duplicate files of a listener count once.

    Raises:
        UserError: a file is damaged or not a result of this test, files of one listener differ, or
            nothing was answered.
    """
    test = _read_key(key)
    heard: dict[str, tuple[Path, dict[str, float]]] = {}  # by listener
    for path in results:
        listener, answers = _read_result(path, test, key)
        before, known = heard.setdefault(listener, (path, answers))
        if known != answers:
            raise UserError(
                f"{before} and {path} are of one listener ({listener}) and differ; leave one out, "
                "or name the listeners apart in the files."
            )
    trials = test["trials"]
    items = list(dict.fromkeys(trial["item"] for trial in trials.values()))
    sums: dict[str, Float[np.ndarray, "listeners items 2"]] = {}
    for i, (_, answers) in enumerate(heard.values()):
        for name, value in answers.items():
            trial = trials[name]
            scores = {trial["b"]: value}
            if test["kind"] == "cmos":
                scores[trial["a"]] = -value
            for system, score in scores.items():
                empty = np.zeros((len(heard), len(items), 2))
                sums.setdefault(system, empty)[i, items.index(trial["item"])] += (score, 1.0)
    if not sums:
        raise UserError("nobody has answered anything; give files that listeners saved.")
    metric = Metric(test["kind"].upper(), "")
    rows = [["system", metric.title, "items", "answers"]]
    for system, cells in sorted(sums.items()):
        cells = cells[:, cells[..., 1].any(axis=0)]
        # CMOS is a difference, so that its interval may go below zero.
        sides = (cells, cells * (0.0, 1.0)) if test["kind"] == "cmos" else (cells,)
        result = over_items(*sides)
        assert result is not None
        value_text = result.formatted(metric, sign=len(sides) == 2)
        rows.append([system, value_text, str(result.items), str(int(cells[..., 1].sum()))])
    count = f"{len(heard)} listener{'s' if len(heard) > 1 else ''}"
    return f"{count}; intervals of {LEVEL:g} % for other listeners and items\n{table(rows)}"


def _read_key(path: Path) -> dict[str, Any]:
    key = _read(path)
    if "answers" in key:
        raise UserError(
            f"{path} is what a listener saved and no key; give PAGE.key.json as --key, and what "
            "listeners saved as --listening-results."
        )
    trials = key.get("trials")
    if not (
        isinstance(key.get("name"), str)
        and key.get("kind") in KINDS
        and isinstance(trials, dict)
        and all(
            isinstance(trial, dict) and {"item", "a", "b"} <= set(trial)
            for trial in trials.values()
        )
    ):
        raise UserError(f"{path} is no key of a listening test; give PAGE.key.json.")
    return key


def _read_result(path: Path, test: Mapping[str, Any], key: Path) -> tuple[str, dict[str, float]]:
    """The listener, and the answer to each trial with A and B in the order of the key."""
    saved = _read(path)
    if "trials" in saved:
        raise UserError(
            f"{path} is a key and no result; give it as --key, and what listeners saved as "
            "--listening-results."
        )
    answers, listener = saved.get("answers"), saved.get("listener")
    if not isinstance(answers, dict) or not isinstance(listener, str):
        raise UserError(f"{path} is no result of a listening test; give what the page saved.")
    if saved.get("test") != test["name"]:
        raise UserError(
            f"{path} is of the test {saved.get('test')!r}, not {test['name']!r}; pages that "
            "were made anew have keys of their own."
        )
    low, high = SCALES[test["kind"]]
    values: dict[str, float] = {}
    for name, answer in answers.items():
        if name not in test["trials"]:
            raise UserError(f"{path} answers {name}, which {key} does not have.")
        value = answer.get("value") if isinstance(answer, dict) else None
        exchanged = answer.get("exchanged", False) if isinstance(answer, dict) else None
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not low <= value <= high
            or not isinstance(exchanged, bool)
        ):
            raise UserError(
                f"{path} is damaged: its answer to {name} is no number from {low} to {high}; give "
                "the file as the page saved it."
            )
        values[name] = -float(value) if exchanged and test["kind"] == "cmos" else float(value)
    return listener, values


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise UserError(f"{path} cannot be read ({reason}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is neither a listener's result nor a key of a listening test.")
    return content


def _prompt(request: Request) -> Sound:
    """The prompt; the prompts of several speakers are joined with pauses."""
    first, *rest = (_sound(path) for path in request.prompt_wavs)
    if not rest:
        return first
    pause = np.zeros(round(_PAUSE * _RATE), np.float32)
    parts = [part for sound in rest for part in (pause, sound.mean(axis=0))]
    return np.concatenate([first.mean(axis=0), *parts])[None]


def _sound(path: Path) -> Sound:
    """A recording scaled to a root mean square of 1; silence stays silent."""
    wave = read_audio(path, _RATE)
    return wave / max(float(np.sqrt(np.mean(wave**2))), 1e-6)


def _url(wave: Sound) -> str:
    """A recording as a data URL (FLAC)."""
    file = io.BytesIO()
    soundfile.write(file, wave.T, _RATE, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()

"""Listening tests: a page that plays pairs blindly, and what the answers say.

CMOS compares two systems on the same text; SMOS compares the voices of one with its prompts. The
page holds its sounds, so that a listener needs this one file and a browser; which sound is whose
stays in a key beside it. Page, key and answers carry a digest of all sounds and their order, so
that answers to another page of the same name are not taken for answers to this one.
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
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_json, write_text
from zipvoice_jax.infer.requests import BadLine, Request, wave_path
from zipvoice_jax.judge.config import Metric
from zipvoice_jax.judge.judge import is_dialogue
from zipvoice_jax.judge.summary import LEVEL, over_items, table

SCALES = {"cmos": (-3, 3), "smos": (1, 5)}
KINDS = tuple(SCALES)
_TEMPLATE = Path(__file__).with_name("listening.html")
_RATE = 24_000
_LEVEL = 0.08  # root mean square of what is played, the same for all so that it decides nothing
_PEAK = 0.99  # of full scale; the level of all is lowered where one would pass it
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
) -> int:
    """Writes the page and, beside it, its key; gives the number of trials.

    Args:
        requests: the test list.
        systems: folders of recordings by name; two for CMOS, one or more for SMOS.
        path: of the page.
        kind: "cmos" or "smos".
        count: of items, drawn from those that all systems have.
        seed: of what is drawn and which sound is A.

    Raises:
        UserError: there are no such items, or a file cannot be read or written.
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
        said = [(name, _sound(wave_path(folder, request.item_id)))
                for name, folder in systems.items()]  # fmt: skip
        if kind == "cmos":
            pairs = [[said[i] for i in rng.permutation(2)]]
        else:
            prompt = (_PROMPT, _prompt(request))
            pairs = [[prompt, one] for one in said]
        for (a, first), (b, second) in pairs:
            key[f"trial{len(key):03d}"] = {"item": request.item_id, "a": a, "b": b}
            sounds.append((first, second))
            voices.append(2 if is_dialogue(request) else 1)
    peaks = (max(float(np.abs(one).max()), 1.0) for pair in sounds for one in pair)
    level = min(_LEVEL, _PEAK / max(peaks))
    trials = [
        {"id": name, "voices": speakers, "a": _url(level * a), "b": _url(level * b)}
        for name, speakers, (a, b) in zip(key, voices, sounds, strict=True)
    ]
    digest = hashlib.sha256(json.dumps([kind, trials]).encode()).hexdigest()[:12]
    about = {"name": f"{path.stem}-{digest}", "kind": kind}
    test = json.dumps({**about, "trials": trials}).replace("</", "<\\/")
    write_text(path, _TEMPLATE.read_text(encoding="utf-8").replace("@TEST@", test))
    write_json(key_path(path), {**about, "trials": key})
    return len(trials)


def key_path(page: Path) -> Path:
    """Where the key of a page is."""
    return page.with_suffix(".key.json")


def analyse(results: Sequence[Path], key: Path) -> str:
    """A table of means with intervals, from the files that listeners saved.

    CMOS: how much better each system is than the other, -3 to 3. SMOS: 1 to 5 of each. Intervals
    are for other listeners and other items. Of files with the same answers by one listener, one
    counts.

    Raises:
        UserError: a file is no result of this test or is damaged, one listener has answered in two
            ways, or nothing was answered.
    """
    about = _read_key(key)
    heard: dict[str, tuple[Path, dict[str, float]]] = {}  # by listener
    for path in results:
        listener, answers = _read_result(path, about, key)
        before, known = heard.setdefault(listener, (path, answers))
        if known != answers:
            raise UserError(
                f"{before} and {path} are of one listener ({listener}) and differ; leave one out, "
                "or name the listeners apart in the files."
            )
    trials = about["trials"]
    items = list(dict.fromkeys(trial["item"] for trial in trials.values()))
    sums: dict[str, Float[np.ndarray, "listeners items 2"]] = {}
    for i, (_, answers) in enumerate(heard.values()):
        for name, value in answers.items():
            trial = trials[name]
            given = {trial["b"]: value}
            if about["kind"] == "cmos":
                given[trial["a"]] = -value
            for system, score in given.items():
                empty = np.zeros((len(heard), len(items), 2))
                sums.setdefault(system, empty)[i, items.index(trial["item"])] += (score, 1.0)
    if not sums:
        raise UserError("nobody has answered anything; give files that listeners saved.")
    metric = Metric(about["kind"].upper(), "")
    rows = [["system", metric.title, "items", "answers"]]
    for system, found in sorted(sums.items()):
        found = found[:, found[..., 1].any(axis=0)]
        # CMOS is a difference, so that its interval may go below zero.
        sides = (found, found * (0.0, 1.0)) if about["kind"] == "cmos" else (found,)
        one = over_items(*sides)
        assert one is not None
        told = one.told(metric, sign=len(sides) == 2)
        rows.append([system, told, str(one.items), str(int(found[..., 1].sum()))])
    count = f"{len(heard)} listener{'s' if len(heard) > 1 else ''}"
    return f"{count}; intervals of {LEVEL:g} % for other listeners and items\n{table(rows)}"


def _read_key(path: Path) -> dict[str, Any]:
    found = _read(path)
    if "answers" in found:
        raise UserError(
            f"{path} is what a listener saved and no key; give PAGE.key.json as --key, and what "
            "listeners saved as --listening-results."
        )
    trials = found.get("trials")
    if not (
        isinstance(found.get("name"), str)
        and found.get("kind") in KINDS
        and isinstance(trials, dict)
        and all(isinstance(one, dict) and {"item", "a", "b"} <= set(one) for one in trials.values())
    ):
        raise UserError(f"{path} is no key of a listening test; give PAGE.key.json.")
    return found


def _read_result(path: Path, about: Mapping[str, Any], key: Path) -> tuple[str, dict[str, float]]:
    """The listener, and by trial the answer with A and B as the key has them."""
    found = _read(path)
    if "trials" in found:
        raise UserError(
            f"{path} is a key and no result; give it as --key, and what listeners saved as "
            "--listening-results."
        )
    answers, listener = found.get("answers"), found.get("listener")
    if not isinstance(answers, dict) or not isinstance(listener, str):
        raise UserError(f"{path} is no result of a listening test; give what the page saved.")
    if found.get("test") != about["name"]:
        raise UserError(
            f"{path} is of the test {found.get('test')!r}, not {about['name']!r}; pages that "
            "were made anew have keys of their own."
        )
    low, high = SCALES[about["kind"]]
    values: dict[str, float] = {}
    for name, answer in answers.items():
        if name not in about["trials"]:
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
        values[name] = -float(value) if exchanged and about["kind"] == "cmos" else float(value)
    return listener, values


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise UserError(f"{path} cannot be read ({reason}).") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is neither a listener's result nor a key of a listening test.")
    return found


def _prompt(request: Request) -> Sound:
    """The prompt; those of two speakers one after the other."""
    first, *rest = (_sound(path) for path in request.prompt_wavs)
    if not rest:
        return first
    pause = np.zeros(round(_PAUSE * _RATE), np.float32)
    return np.concatenate([first.mean(axis=0), pause, rest[0].mean(axis=0)])[None]


def _sound(path: Path) -> Sound:
    """A recording with a root mean square of 1; silence stays what it is."""
    wave = read_audio(path, _RATE)
    return wave / max(float(np.sqrt(np.mean(wave**2))), 1e-6)


def _url(wave: Sound) -> str:
    """A recording as a URL that holds it."""
    file = io.BytesIO()
    soundfile.write(file, wave.T, _RATE, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()

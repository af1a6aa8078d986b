"""Listening tests: a page that plays pairs blindly, and what the answers say.

CMOS compares two systems on the same text; SMOS compares the voice of one with its prompt. The
page holds its sounds, so that a listener needs this one file and a browser; which sound is whose
stays in a key beside it.
"""

import base64
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
from zipvoice_jax.data.requests import BadLine, Request, wave_path
from zipvoice_jax.evaluate.summary import Estimate, over_items, table

KINDS = ("cmos", "smos")
_TEMPLATE = Path(__file__).with_name("listening.html")
_RATE = 24_000
_LEVEL = 0.08  # root mean square of what is played, so that loudness decides nothing
_PROMPT = "prompt"


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
    chosen = [items[i] for i in sorted(rng.permutation(len(items))[:count])]
    trials: list[dict[str, Any]] = []
    key: dict[str, dict[str, str]] = {}
    for request in chosen:
        sounds = {
            name: _sound(wave_path(folder, request.item_id)) for name, folder in systems.items()
        }
        if kind == "cmos":
            pairs = [tuple(np.array(list(systems))[rng.permutation(2)])]
        else:
            sounds[_PROMPT] = _sound(request.prompt_wavs[0])
            pairs = [(_PROMPT, name) for name in systems]
        for a, b in pairs:
            name = f"trial{len(trials):03d}"
            trials.append({"id": name, "a": sounds[str(a)], "b": sounds[str(b)]})
            key[name] = {"item": request.item_id, "a": str(a), "b": str(b)}
    test = {"name": path.stem, "kind": kind, "trials": trials}
    page = _TEMPLATE.read_text(encoding="utf-8").replace("@TEST@", json.dumps(test))
    write_text(path, page)
    write_json(key_path(path), {"name": path.stem, "kind": kind, "trials": key})
    return len(trials)


def key_path(page: Path) -> Path:
    """Where the key of a page is."""
    return page.with_suffix(".key.json")


def analyse(results: Sequence[Path], key: Path) -> str:
    """A table of means with intervals, from the files that listeners saved.

    CMOS: how much better each system is than the other, -3 to 3. SMOS: 1 to 5 of each. Items are
    resampled, with the answers of all listeners to an item together.

    Raises:
        UserError: a file is no result of this test, or nothing was answered.
    """
    about = _read(key)
    scores: dict[str, dict[str, list[float]]] = {}  # by system, by item
    for path in results:
        found = _read(path)
        if found.get("test") != about.get("name"):
            raise UserError(f"{path} is of the test {found.get('test')!r}, not {about['name']!r}.")
        for name, answer in found["answers"].items():
            trial = about["trials"].get(name)
            if trial is None:
                raise UserError(f"{path} answers {name}, which {key} does not have.")
            value = float(answer["value"])
            if about["kind"] == "cmos":
                value = -value if answer["exchanged"] else value
                given = {trial["b"]: value, trial["a"]: -value}
            else:
                given = {trial["b"]: value}
            for system, score in given.items():
                scores.setdefault(system, {}).setdefault(trial["item"], []).append(score)
    if not scores:
        raise UserError("nobody has answered anything; give files that listeners saved.")
    rows = [["system", about["kind"].upper(), "items", "answers"]]
    for system, items in sorted(scores.items()):
        one = _over_items(list(items.values()))
        told = f"{one.value:+.2f}" if about["kind"] == "cmos" else f"{one.value:.2f}"
        answers = sum(map(len, items.values()))
        rows.append(
            [system, f"{told} [{one.low:.2f}, {one.high:.2f}]", str(len(items)), str(answers)]
        )
    return f"{len(results)} listeners\n{table(rows)}"


def _over_items(answers: Sequence[Sequence[float]]) -> Estimate:
    sums = np.array([[[sum(one), len(one)] for one in answers]], np.float64)
    found = over_items(sums)
    assert found is not None
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise UserError(f"{path} cannot be read ({reason}).") from None
    if not isinstance(found, dict) or not {"answers", "trials"} & set(found):
        raise UserError(f"{path} is neither a listener's result nor a key of a listening test.")
    return found


def _sound(path: Path) -> str:
    """A recording as a URL that holds it, at one loudness for all."""
    wave: Float[np.ndarray, "channels samples"] = read_audio(path, _RATE)
    level = float(np.sqrt(np.mean(wave**2)))
    wave = np.clip(wave * (_LEVEL / max(level, 1e-6)), -1.0, 1.0)
    file = io.BytesIO()
    soundfile.write(file, wave.T, _RATE, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()

"""Praat TextGrids beside recordings, as the Montreal Forced Aligner writes them.

Both text formats, long and short, hold the same values in the same order, with or without words
around them (Praat's manual, "TextGrid file formats").
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Rejected
from zipvoice_jax.data.timing import Timing, timing_of_words

SUFFIX = ".TextGrid"
Tiers = dict[str, list[tuple[str, float, float]]]  # label, start and end in seconds

# Numbers stand alone: not in brackets, as in `intervals [2]:`, and not in a word.
_VALUE = re.compile(
    r'"((?:[^"]|"")*)"|(?<![\w.\[+-])([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)(?![\w.\]])|(<\w+>)'
)


def read_textgrid(path: Path) -> Tiers:
    """The interval tiers of a TextGrid, by name; point tiers are ignored.

    Raises:
        Rejected: the file cannot be read as a TextGrid.
    """
    try:
        data = path.read_bytes()
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        return _tiers(data.decode("utf-16" if wide else "utf-8-sig"))
    except OSError as error:
        raise Rejected("bad alignment", f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, StopIteration):  # UnicodeDecodeError too
        raise Rejected("bad alignment", f"{path} is no whole TextGrid in a text format") from None


def _tiers(text: str) -> Tiers:
    values: Iterator[str] = iter(
        [
            match[1].replace('""', '"') if match[1] is not None else match[0]
            for match in _VALUE.finditer(text)
        ]
    )
    if (next(values), next(values)) != ("ooTextFile", "TextGrid"):
        raise ValueError("another kind of file")
    _ = float(next(values)), float(next(values))
    if next(values) != "<exists>":
        return {}
    tiers: Tiers = {}
    for _ in range(int(next(values))):
        kind, name = next(values), next(values)
        _ = float(next(values)), float(next(values))
        count = int(next(values))
        if kind == "IntervalTier":
            rows = [(float(next(values)), float(next(values)), next(values)) for _ in range(count)]
            tiers[name] = [(label, start, end) for start, end, label in rows]
        elif kind == "TextTier":
            for _ in range(2 * count):
                next(values)
        else:
            raise ValueError("an unknown kind of tier")
    return tiers


def timing_of_textgrid(path: Path, start: float, end: float | None) -> Timing | None:
    """The timing of an utterance from its recording's TextGrid.

    Uses the tier "words", or that of a speaker ("anna - words") if there is only one, or else
    "phones".

    Args:
        path: the TextGrid.
        start: start of the utterance in the recording, in seconds.
        end: end of the utterance, in seconds; None: the end of the recording.

    Returns:
        None if there are no words.

    Raises:
        Rejected: the file cannot be read, has no such tier, or has impossible times.
    """
    tiers = read_textgrid(path)
    rows = None
    for kind in ("words", "phones"):
        named = [rows for name, rows in tiers.items() if _names(name, kind)]
        # The Montreal Forced Aligner writes one for each speaker.
        by_speaker = all("- " in name for name in tiers if _names(name, kind))
        if len(named) == 1 or (named and by_speaker):
            rows = named[0]
            if len(named) > 1:
                rows = sorted((row for tier in named for row in tier), key=lambda row: row[1])
            break
    if rows is None and not tiers:  # nothing but points
        return None
    if rows is None:
        shown = ", ".join(tiers) or "none"
        raise Rejected("bad alignment", f"{path} has no one tier of words or phones ({shown})")
    stop = float("inf") if end is None else end
    inside = [row for row in rows if start <= (row[1] + row[2]) / 2 < stop]
    whole = start == 0 and end is None
    moved = [
        (label, low - start if whole else max(low - start, 0.0), min(high, stop) - start)
        for label, low, high in inside
    ]
    return timing_of_words(moved)


def _names(tier: str, kind: str) -> bool:
    name = tier.strip().lower()
    return name in (kind, kind[:-1]) or name.endswith(f"- {kind}")


class TextGrids:
    """Finds the TextGrid of a recording, beside it or below another directory."""

    def __init__(self, directory: Path | None) -> None:
        """Lists the TextGrids below a directory, if there is one.

        Raises:
            UserError: the directory has no TextGrid.
        """
        self._by_name: dict[str, list[Path]] = {}
        if directory is None:
            return
        for path in sorted(directory.rglob(f"*{SUFFIX}")):
            self._by_name.setdefault(path.stem, []).append(path)
        if not self._by_name:
            raise UserError(f"{directory} has no {SUFFIX} file; give the directory of some.")

    def find(self, audio: Path) -> Path | None:
        """The TextGrid of a recording; None if there is none.

        Of several with the recording's name, the one in a folder with the name of the recording's
        folder.
        """
        beside = audio.with_suffix(SUFFIX)
        candidates = self._by_name.get(audio.stem, [])
        if len(candidates) > 1:
            candidates = [path for path in candidates if path.parent.name == audio.parent.name]
        if len(candidates) == 1:
            return candidates[0]
        return beside if os.path.isfile(beside) else None

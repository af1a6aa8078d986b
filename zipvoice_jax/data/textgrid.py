"""Praat TextGrids beside recordings, as the Montreal Forced Aligner writes them.

Both text formats, long and short, are the same values in the same order with or without words
around them (Praat's manual, "TextGrid file formats").
"""

import re
from collections.abc import Iterator
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Rejected
from zipvoice_jax.data.timing import Timing, timing_of_words

SUFFIX = ".TextGrid"
Tiers = dict[str, list[tuple[str, float, float]]]  # label, start and end in seconds

# A number stands free: not in brackets, as in `intervals [2]:`, and not in a word.
_VALUE = re.compile(
    r'"((?:[^"]|"")*)"|(?<![\w.\[+-])([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)(?![\w.\]])|(<\w+>)'
)


def read_textgrid(path: Path) -> Tiers:
    """The interval tiers of a TextGrid, by name; points are left aside.

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
            found[1].replace('""', '"') if found[1] is not None else found[0]
            for found in _VALUE.finditer(text)
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

    The tier "words" is taken, or that of one speaker ("anna - words") if there is but one, or
    else "phones".

    Args:
        path: of the file.
        start: of the utterance in the recording, in seconds.
        end: of the utterance; None: it goes to the end.

    Returns:
        None if there are no words.

    Raises:
        Rejected: the file cannot be read, names no such tier, or its times cannot be.
    """
    tiers = read_textgrid(path)
    rows = None
    for kind in ("words", "phones"):
        named = [rows for name, rows in tiers.items() if _names(name, kind)]
        if len(named) == 1:
            rows = named[0]
            break
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
    """Finds the TextGrid of a recording: beside it, or below another directory."""

    def __init__(self, directory: Path | None) -> None:
        """Lists what lies below a directory, if one is given.

        Raises:
            UserError: there is no TextGrid.
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

        Of several with the name of the recording, that in a folder with the name of the
        recording's folder.
        """
        beside = audio.with_suffix(SUFFIX)
        found = self._by_name.get(audio.stem, [])
        if len(found) > 1:
            found = [path for path in found if path.parent.name == audio.parent.name]
        if len(found) == 1:
            return found[0]
        return beside if beside.is_file() else None

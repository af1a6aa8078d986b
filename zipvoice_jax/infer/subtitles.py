"""Subtitles of generated speech, SubRip or WebVTT, from the times of its turns."""

import re
from collections.abc import Sequence

from zipvoice_jax.infer.turns import Turn
from zipvoice_jax.text.normalizer import single_line
from zipvoice_jax.text.pauses import split_pauses

FORMS = ("srt", "vtt")
_MOST = 84  # characters of a cue: two lines of 42
_TURN = re.compile(r"\[(S[12])\]")
# The end of a sentence or clause, with the blank behind it.
_ENDS = (
    re.compile("(?<=[.!?\u2026])\\s+|(?<=[\u3002\uff01\uff1f])"),
    re.compile("(?<=[,;:])\\s+|(?<=[\uff0c\uff1b\uff1a\u3001])"),
)


def subtitles(text: str, turns: Sequence[Turn], form: str) -> str:
    """Cues of at most two lines; within a stretch each lasts by its share of the characters.

    Args:
        text: what is said, with [S1] and [S2] before its turns in a dialogue, and with pauses.
        turns: of the speech, in seconds.
        form: "srt" or "vtt".
    """
    said = _said(text)
    if len(said) != len(turns):  # one was too short to be told apart
        said = [("", " ".join(words for _, words in said))]
        turns = [Turn("", turns[0].start, turns[-1].end)] if turns else []
    cues = []
    for (speaker, words), turn in zip(said, turns, strict=False):
        parts = _parts(words)
        done, total = 0, max(sum(map(len, parts)), 1)
        length = turn.end - turn.start
        for part in parts:
            start = turn.start + length * done / total
            done += len(part)
            end = turn.start + length * done / total
            cues.append((start, end, _voiced(speaker, part, form)))
    comma = "," if form == "srt" else "."
    lines = ["WEBVTT\n"] if form == "vtt" else []
    for number, (start, end, shown) in enumerate(cues, start=1):
        lines.append(f"{number}\n{_time(start, comma)} --> {_time(end, comma)}\n{shown}\n")
    return "\n".join(lines)


def _said(text: str) -> list[tuple[str, str]]:
    """Speaker and words of each stretch, which a pause or another speaker ends."""
    return [one for passage in split_pauses(text)[0] for one in _turns(passage.text)]


def _turns(passage: str) -> list[tuple[str, str]]:
    """Speaker and words of each turn; turns of one speaker in a row are one, as in `turns_of`."""
    first, *rest = _TURN.split(single_line(passage))
    said = [("", first.strip())] if first.strip() else []
    for speaker, words in zip(rest[::2], rest[1::2], strict=True):
        if said and said[-1][0] == speaker:
            said[-1] = (speaker, f"{said[-1][1]} {words.strip()}")
        else:
            said.append((speaker, words.strip()))
    return said


def _parts(words: str) -> list[str]:
    """A turn in pieces that fit into a cue, cut at sentences, else clauses, else blanks."""
    pieces = [words]
    for end in _ENDS:
        pieces = [
            part
            for piece in pieces
            for part in (end.split(piece) if len(piece) > _MOST else [piece])
            if part
        ]
    cut: list[str] = []
    for piece in pieces:
        while len(piece) > _MOST:
            blank = piece.rfind(" ", 1, _MOST + 1)
            at = blank if blank > 0 else _MOST
            cut.append(piece[:at].strip())
            piece = piece[at:].strip()
        if piece:
            cut.append(piece)
    return cut


def _voiced(speaker: str, words: str, form: str) -> str:
    """A cue's text with who speaks."""
    if form == "vtt":
        words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"<v {speaker}>{words}" if speaker else words
    return f"{speaker}: {words}" if speaker else words


def _time(seconds: float, comma: str) -> str:
    """HH:MM:SS.mmm."""
    whole, thousandths = divmod(round(1000 * max(seconds, 0.0)), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{comma}{thousandths:03}"

"""Subtitles of generated speech, SubRip or WebVTT, from the times of its turns."""

import re
from collections.abc import Sequence

from zipvoice_jax.infer.turns import Turn
from zipvoice_jax.text.normalizer import single_line
from zipvoice_jax.text.pauses import split_pauses
from zipvoice_jax.text.tags import BARE_TAG

_MOST = 84  # characters in a cue: two lines of 42
# The end of a sentence or clause, with the blank after it.
_ENDS = (
    re.compile("(?<=[.!?\u2026])\\s+|(?<=[\u3002\uff01\uff1f])"),
    re.compile("(?<=[,;:])\\s+|(?<=[\uff0c\uff1b\uff1a\u3001])"),
)


def subtitles(text: str, turns: Sequence[Turn], form: str) -> str:
    """Cues of at most two lines; within a turn, durations are proportional to characters.

    Args:
        text: the spoken text, with the speakers' tags before its turns in a dialogue, and pauses.
        turns: turns of the speech, in seconds.
        form: "srt" or "vtt".
    """
    stretches = _stretches(text)
    if len(stretches) != len(turns):  # a turn was too short to be kept
        stretches = [("", " ".join(words for _, words in stretches))]
        turns = [Turn("", turns[0].start, turns[-1].end)] if turns else []
    cues = []
    for (speaker, words), turn in zip(stretches, turns, strict=False):
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


def _stretches(text: str) -> list[tuple[str, str]]:
    """Speaker and words of each turn; a pause or another speaker ends it."""
    return [turn for passage in split_pauses(text)[0] for turn in _turns(passage.text)]


def _turns(passage: str) -> list[tuple[str, str]]:
    """Speaker and words of each turn; consecutive turns of a speaker merge, as in `turns_of`."""
    first, *rest = BARE_TAG.split(single_line(passage))
    turns = [("", first.strip())] if first.strip() else []
    for tag, words in zip(rest[::2], rest[1::2], strict=True):
        speaker = tag[1:-1]
        if turns and turns[-1][0] == speaker:
            turns[-1] = (speaker, f"{turns[-1][1]} {words.strip()}")
        else:
            turns.append((speaker, words.strip()))
    return turns


def _parts(words: str) -> list[str]:
    """Splits a turn into pieces that fit into a cue: at sentences, else clauses, else blanks."""
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
    """A cue's text with its speaker."""
    if form == "vtt":
        words = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"<v {speaker}>{words}" if speaker else words
    return f"{speaker}: {words}" if speaker else words


def _time(seconds: float, comma: str) -> str:
    """HH:MM:SS.mmm."""
    whole, thousandths = divmod(round(1000 * max(seconds, 0.0)), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{comma}{thousandths:03}"

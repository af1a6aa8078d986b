"""Pauses in texts: `[pause 0.5s]` is silence between sentences or turns, not a token."""

# ruff: noqa: RUF001 - brackets and punctuation of other scripts

import dataclasses
import re
from collections.abc import Iterator

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tags import BARE_TAG
from zipvoice_jax.text.tokens import SPEAKER_PATTERN, quote

MAX_PAUSE = 30.0  # seconds
# `_MEANT` matches what was meant as a pause, `_PAUSE` a well-formed one. A Markdown link,
# `[pause](...)`, is neither.
_FORM = r"\[\s*pause\s+([0-9]+\.?[0-9]*|\.[0-9]+)\s*(m?s)\s*\]"
_ANY = r"[\[［【]\s*pause(?![^\W\d_])[^\]］】\n]*[\]］】]?"
_PAUSE = re.compile(_FORM, re.IGNORECASE)
_MEANT = re.compile(f"{_FORM}|{_ANY}", re.IGNORECASE)
_OPEN_TAG = re.compile(rf"{SPEAKER_PATTERN}\s*$")
_LATE_MARKS = re.compile(r"\s*([.,;:!?…。，！？；：、]+)(?![0-9])")


@dataclasses.dataclass(frozen=True)
class Passage:
    """A stretch of text between pauses.

    Attributes:
        pause: seconds of silence before it.
        text: its words; in a dialogue it begins with a speaker's tag.
        goes_on: whether it continues the turn, or the single speaker's text, from before the pause.
    """

    pause: float
    text: str
    goes_on: bool = False


def split_pauses(text: str) -> tuple[tuple[Passage, ...], float]:
    """Splits a text at its pauses; also returns the seconds of silence after the last passage.

    Pauses in a row add up to one. After a pause within a turn the turn's tag is repeated; a pause
    between a tag and its words moves before the tag; punctuation after a pause ends the passage
    before it. A text without pauses is one passage, unchanged.

    Raises:
        UserError: a pause of another form, of no length or longer than `MAX_PAUSE`.
    """
    passages: list[Passage] = []
    pause, speaker, carried, begin = 0.0, "", "", 0
    pauses = [*_pauses(text)]
    if not pauses:
        return (Passage(0.0, text),), 0.0
    for start, end, seconds in [*pauses, (len(text), len(text), 0.0)]:
        passage = carried + text[begin:start]
        if passages and (late := _LATE_MARKS.match(passage)):
            before = passages[-1]
            passages[-1] = dataclasses.replace(before, text=before.text.rstrip() + late[1])
            passage = passage[late.end() :]
        tag = _OPEN_TAG.search(passage) if start < len(text) else None
        carried = "" if tag is None else tag[0]
        passage = passage.removesuffix(carried)
        tags = BARE_TAG.findall(passage)
        if passage.strip():
            goes_on = BARE_TAG.match(passage.lstrip()) is None
            passage = speaker + passage if goes_on else passage
            passages.append(Passage(pause, passage, goes_on and bool(passages)))
            pause = 0.0
        speaker = tags[-1] if tags else speaker
        pause, begin = pause + seconds, end
        if pause > MAX_PAUSE:
            raise UserError(
                f"pauses in a row, up to {quote(text[start:end])}, last {pause:g} s; make it at "
                f"most {MAX_PAUSE:g} s."
            )
    return tuple(passages), pause


def without_pauses(text: str) -> str:
    """The text with a blank in place of each pause."""
    return _PAUSE.sub(" ", text)


def check_no_pause(text: str, name: str) -> None:
    """Refuses a pause where it has no meaning.

    Args:
        text: a text that may have no pause.
        name: name of the text, for the message.

    Raises:
        UserError: it has one, well-formed or not.
    """
    pause = _MEANT.search(text)
    if pause is not None:
        raise UserError(
            f"{name} has the tag {quote(pause[0])}, which only a text to be spoken may have; write "
            "what the recording says."
        )


def _pauses(text: str) -> Iterator[tuple[int, int, float]]:
    """Yields the start and end of each pause in the text, and its seconds."""
    for meant in _MEANT.finditer(text):
        pause = _PAUSE.fullmatch(meant[0])
        if pause is None and text[meant.end() : meant.end() + 1] == "(":
            continue
        seconds = 0.0
        if pause is not None:
            seconds = float(pause[1]) / (1000.0 if pause[2].lower() == "ms" else 1.0)
        if not 0.0 < seconds <= MAX_PAUSE:
            raise UserError(
                f"{quote(meant[0])} is no pause; write [pause 0.5s] or [pause 500ms], above 0 and "
                f"at most {MAX_PAUSE:g} s."
            )
        yield (*meant.span(), seconds)

"""Pauses in texts: `[pause 0.5s]` is silence between sentences or turns, and no token."""

# ruff: noqa: RUF001 - brackets and punctuation of other scripts

import dataclasses
import re
from collections.abc import Iterator

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tags import BARE_TAG
from zipvoice_jax.text.tokens import quote

MAX_PAUSE = 30.0  # seconds
# What is meant to be a pause, and what is one. A link of Markdown, `[pause](...)`, is neither.
_FORM = r"\[\s*pause\s+([0-9]+\.?[0-9]*|\.[0-9]+)\s*(m?s)\s*\]"
_ANY = r"[\[［【]\s*pause(?![^\W\d_])[^\]］】\n]*[\]］】]?"
_PAUSE = re.compile(_FORM, re.IGNORECASE)
_MEANT = re.compile(f"{_FORM}|{_ANY}", re.IGNORECASE)
_OPEN_TAG = re.compile(rf"{BARE_TAG.pattern}\s*$")
_LATE_MARKS = re.compile(r"\s*([.,;:!?…。，！？；：、]+)(?![0-9])")


@dataclasses.dataclass(frozen=True)
class Passage:
    """What is said without a pause in it.

    Attributes:
        pause: seconds of silence before it.
        text: what is said; in a dialogue it begins with a speaker's tag.
        goes_on: with the turn, or the text of one speaker, from before the pause.
    """

    pause: float
    text: str
    goes_on: bool = False


def split_pauses(text: str) -> tuple[tuple[Passage, ...], float]:
    """A text in passages between its pauses, and the seconds of silence after the last one.

    Pauses in a row are one. A pause within a turn states the turn's tag again; one between a tag
    and its words comes before the tag; punctuation after one ends what was said before. A text
    without pauses is one passage, as it is.

    Raises:
        UserError: a pause of another form, of no length or beyond `MAX_PAUSE`.
    """
    passages: list[Passage] = []
    pause, speaker, carried, begin = 0.0, "", "", 0
    found = [*_pauses(text)]
    if not found:
        return (Passage(0.0, text),), 0.0
    for start, end, seconds in [*found, (len(text), len(text), 0.0)]:
        said = carried + text[begin:start]
        if passages and (late := _LATE_MARKS.match(said)):
            before = passages[-1]
            passages[-1] = dataclasses.replace(before, text=before.text.rstrip() + late[1])
            said = said[late.end() :]
        tag = _OPEN_TAG.search(said) if start < len(text) else None
        carried = "" if tag is None else tag[0]
        said = said.removesuffix(carried)
        tags = BARE_TAG.findall(said)
        if said.strip():
            goes_on = BARE_TAG.match(said.lstrip()) is None
            said = speaker + said if goes_on else said
            passages.append(Passage(pause, said, goes_on and bool(passages)))
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
    """A text with a blank in place of each pause; one without pauses as it is."""
    return _PAUSE.sub(" ", text)


def check_no_pause(text: str, name: str) -> None:
    """Refuses a pause where it has no meaning.

    Args:
        text: that may have none.
        name: of the text, for the message.

    Raises:
        UserError: it has one, of whatever form.
    """
    found = _MEANT.search(text)
    if found is not None:
        raise UserError(
            f"{name} has the tag {quote(found[0])}, which only a text to be spoken may have; write "
            "what the recording says."
        )


def _pauses(text: str) -> Iterator[tuple[int, int, float]]:
    """Where each pause begins and ends, and its seconds."""
    for meant in _MEANT.finditer(text):
        found = _PAUSE.fullmatch(meant[0])
        if found is None and text[meant.end() : meant.end() + 1] == "(":
            continue
        seconds = 0.0
        if found is not None:
            seconds = float(found[1]) / (1000.0 if found[2].lower() == "ms" else 1.0)
        if not 0.0 < seconds <= MAX_PAUSE:
            raise UserError(
                f"{quote(meant[0])} is no pause; write [pause 0.5s] or [pause 500ms], above 0 and "
                f"at most {MAX_PAUSE:g} s."
            )
        yield (*meant.span(), seconds)

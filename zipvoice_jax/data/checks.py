"""The checks that an utterance must pass to be trained on, and the reasons for rejecting it."""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, get_args

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import check_number
from zipvoice_jax.text.tags import (
    BARE_TAG,
    check_speaker_tags,
    split_turns,
    turns_without_words,
)
from zipvoice_jax.text.tokens import is_speaker_tag, quote, tags_in_words

Reason = Literal[
    "bad entry",
    "duplicate id",
    "unreadable",
    "empty text",
    "broken turn tags",
    "too short",
    "too long",
    "out of proportion",
    "repeated words",
    "unknown tokens",
    "bad alignment",
]
REASONS: tuple[str, ...] = get_args(Reason)

_TAG = re.compile(r"\[[^\]]*\]|[\[\]]")
_PINYIN = re.compile(r"<[a-z]+[0-9]>")
# Unicode blocks whose characters count as one word each (official preprocess_emilia.py).
_WORD_BLOCKS = (
    (0x1100, 0x11FF),
    (0x2E80, 0xA4CF),
    (0xA840, 0xD7AF),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),
    (0xFF65, 0xFFDC),
    (0x20000, 0x2FFFF),
)
_REPEATS = 10


@dataclasses.dataclass(frozen=True)
class Reject:
    """An item that is left out, and why.

    Attributes:
        reason: one of `REASONS`.
        id: id of the item, or its position in the manifest if it has none.
        detail: what exactly is wrong, in one line.
    """

    reason: Reason
    id: str
    detail: str


class Rejected(Exception):  # noqa: N818 - not an error: one item less
    """Ends the work on an item; `reason` and the message say why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds on an utterance.

    Attributes:
        min_seconds: shortest duration, as in the official training (--min-len).
        max_seconds: longest duration; the official training keeps utterances of up to 30 s
            (stereo 60 s).
        min_words_per_minute: slowest speech, as in the official preprocess_emilia.py.
        max_words_per_minute: fastest speech, likewise.

    Raises:
        UserError: a lower bound is not below its upper bound.
    """

    min_seconds: float = 1.0
    max_seconds: float = 60.0
    min_words_per_minute: float = 20.0
    max_words_per_minute: float = 600.0

    def __post_init__(self) -> None:
        for low, high in (
            ("min_seconds", "max_seconds"),
            ("min_words_per_minute", "max_words_per_minute"),
        ):
            for name in (low, high):
                check_number(name, getattr(self, name), 0, 10**6)
            if not getattr(self, low) < getattr(self, high):
                raise UserError(
                    f"{low} is {getattr(self, low)} and {high} {getattr(self, high)}; "
                    "give two numbers, the first the smaller one."
                )


def normalize_text(text: str) -> str:
    """The official clean-up: "_" (the padding token) becomes a blank, runs of blanks one blank."""
    return " ".join(text.replace("_", " ").split())


def count_turns(text: str) -> int:
    """Number of speaker turns; a text without tags is one."""
    return max(1, len(BARE_TAG.findall(text)))


def check_text(text: str, *, dialogue: bool, speakers: int = 2) -> None:
    """Checks a normalised text by itself.

    Args:
        text: output of `normalize_text`.
        dialogue: the text must consist of turns that begin with speakers' tags.
        speakers: number of speakers allowed, from [S1] on.

    Raises:
        Rejected: empty text or broken turn tags.
    """
    if not any(c.isalnum() for c in _TAG.sub("", text)):
        raise Rejected("empty text", f"{quote(text)} has no words")
    if not dialogue:
        return
    try:
        check_speaker_tags(text, speakers)
    except UserError as error:
        raise Rejected("broken turn tags", str(error)) from None
    for tag in _TAG.findall(text):
        if not is_speaker_tag(tag):
            raise Rejected("broken turn tags", f"{quote(text)} has {tag}")
    before, *turns = split_turns(text)
    if before.strip() or not turns:
        begin = f"{quote(text)} does not begin with {tags_in_words(speakers)}"
        raise Rejected("broken turn tags", begin)
    if not all(any(c.isalnum() for c in BARE_TAG.sub("", turn)) for turn in turns):
        raise Rejected("broken turn tags", f"{quote(text)} has a turn without words")


def check_seconds(seconds: float, limits: Limits) -> None:
    """Checks a duration.

    Raises:
        Rejected: too short or too long.
    """
    if seconds < limits.min_seconds:
        raise Rejected("too short", f"{seconds:.2f} s, and at least {limits.min_seconds:g} s count")
    if seconds > limits.max_seconds:
        raise Rejected("too long", f"{seconds:.2f} s, and at most {limits.max_seconds:g} s count")


def check_proportion(text: str, seconds: float, limits: Limits) -> None:
    """Checks the number of words of a text against the length of its audio (preprocess_emilia.py).

    Letters of all scripts count here; the official code only knows Latin and Chinese ones.

    Args:
        text: normalised text; tags do not count.
        seconds: duration of its audio.
        limits: bounds on words per minute.

    Raises:
        Rejected: too many or too few words, or one word ten times in a row.
    """
    words = _words(text)
    for i in range(len(words) - _REPEATS):
        if words[i : i + _REPEATS].count(words[i]) == _REPEATS:
            raise Rejected("repeated words", f"{words[i]!r} comes {_REPEATS} times in a row")
    rate = len(words) / seconds * 60
    if not limits.min_words_per_minute <= rate <= limits.max_words_per_minute:
        raise Rejected(
            "out of proportion",
            f"{len(words)} word(s) in {seconds:.2f} s are {rate:.0f} a minute, and "
            f"{limits.min_words_per_minute:g} to {limits.max_words_per_minute:g} count",
        )


def count_words(text: str) -> tuple[int, float]:
    """Lower and upper estimates of the number of words of a text; tags do not count.

    A digit counts as a word, since it is spoken as one or more. In the upper estimate six letters
    make a word, for scripts without blanks such as Thai.
    """
    words = _words(re.sub(r"\d", " a ", normalize_text(text)))
    return len(words), max(float(len(words)), sum(map(len, words)) / 6)


def check_tokens(unknown: Sequence[str], dropped: Sequence[str]) -> None:
    """Checks that a tokenizer could use all of a text.

    Raises:
        Rejected: there are unknown tokens or dropped words.
    """
    lost = [*unknown, *(part.strip() for part in dropped if any(c.isalnum() for c in part))]
    if lost:
        raise Rejected("unknown tokens", ", ".join(quote(part, 30) for part in lost[:5]))


def check_turns(tokens: Sequence[str]) -> None:
    """Checks that every turn, or a text without turns, has a word among its tokens.

    Raises:
        Rejected: a turn has none.
    """
    for number in turns_without_words(tokens, ()):
        has_tags = any(map(is_speaker_tag, tokens))
        raise Rejected("empty text", f"turn {number} has no words" if has_tags else "has no words")


def _words(text: str) -> list[str]:
    """The words of a text; in scripts without blanks each character is one."""
    text = unicodedata.normalize("NFC", _PINYIN.sub(" \u4e00 ", _TAG.sub(" ", text)))
    spaced: list[str] = []
    for char in text:
        if any(low <= ord(char) <= high for low, high in _WORD_BLOCKS):
            spaced += [" ", char, " "] if char.isalpha() else []
        elif char.isalpha() or char == " ":
            spaced.append(char)
    return "".join(spaced).split()

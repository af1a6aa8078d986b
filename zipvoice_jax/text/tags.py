"""Speaker tags in texts, the turns that they open, and the language of a text."""

# ruff: noqa: RUF001 - brackets of other scripts

import re
from collections.abc import Callable, Sequence

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import (
    SPEAKER_PATTERN,
    is_speaker_tag,
    quote,
    speaker_tag,
    tags_in_words,
)

_BRACKETED = re.compile(r"[<\[].*?[>\]]")
_HAN = re.compile(r"[\u4e00-\u9fa5]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")
SPEAKER_TAG = re.compile(rf"\s*({SPEAKER_PATTERN})\s*")
BARE_TAG = re.compile(f"({SPEAKER_PATTERN})")
# What was probably meant to be a speaker's tag: any spelling of it, or one bracket missing.
_ALMOST_SPEAKER_TAG = re.compile(
    r"[\[［【]\s*(?:s|spk|speaker)[\s_-]*\d*\s*[\]］】]|[\[［【]\s*s\s*\d+|\bs[1-9][0-9]?\s*\]",
    re.IGNORECASE,
)


def check_speaker_tags(text: str, speakers: int = 2) -> None:
    """Raises a UserError that names what looks like a speaker's tag but is not one.

    Args:
        text: text of a dialogue.
        speakers: number of speakers allowed, from [S1] on.
    """
    known = {speaker_tag(number) for number in range(1, speakers + 1)}
    rest = BARE_TAG.sub(lambda tag: "" if tag[0] in known else tag[0], text)
    for tag_like in _ALMOST_SPEAKER_TAG.finditer(rest):
        raise UserError(
            f"the dialogue {quote(text)} has the speaker tag {tag_like[0]!r}; "
            f"write {tags_in_words(speakers)}."
        )


def split_turns(text: str) -> list[str]:
    """Splits a text before each speaker's tag; the first part, before any tag, may be empty."""
    return re.split(f"(?={SPEAKER_PATTERN})", text)


def turns_without_words(tokens: Sequence[str], unknown: Sequence[str]) -> list[int]:
    """Numbers, from 1, of the turns that have no word among their tokens.

    Args:
        tokens: tokens of the text; a text without speaker tags is one turn.
        unknown: tokens that cannot be spoken.
    """
    turns: list[bool] = []
    for token in tokens:
        if is_speaker_tag(token) or not turns:
            turns.append(False)
        is_word = not token.startswith("[") and any(map(str.isalnum, token))
        turns[-1] = turns[-1] or (is_word and token not in unknown)
    return [number for number, has_words in enumerate(turns, 1) if not has_words]


def language_of(text: str) -> str:
    """The main language of a text, "en" or "zh", or "" if it has no letters of either.

    Compares Latin words with Chinese characters; speaker tags and pinyin in <> do not count.
    """
    text = _BRACKETED.sub(" ", text)
    chinese, words = len(_HAN.findall(text)), len(_LATIN_WORD.findall(text))
    if not chinese and not words:
        return ""
    return "zh" if chinese > words else "en"


def between_tags(
    text: str,
    split: Callable[[str], list[str]],
    *,
    speakers: int = 2,
    keep_blanks: bool = False,
) -> list[str]:
    """Tokenizes with a tokenizer that knows no tags, and keeps the speakers' tags as tokens.

    Args:
        text: a text with or without tags.
        split: returns the tokens of a part between tags.
        speakers: number of speakers allowed, from [S1] on.
        keep_blanks: keep blanks beside tags; otherwise drop them, as the official code does.
    """
    known = [speaker_tag(number) for number in range(1, speakers + 1)]
    if not any(tag in text for tag in known):
        return split(text)
    check_speaker_tags(text, speakers)
    tokens: list[str] = []
    for part in (BARE_TAG if keep_blanks else SPEAKER_TAG).split(text):
        tokens += [part] if part in known else split(part) if part else []
    return tokens

"""Speaker tags in texts, the turns that they open, and what language a text is in."""

# ruff: noqa: RUF001 - brackets of other scripts

import re
from collections.abc import Callable, Sequence

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import is_speaker_tag, quote, speaker_tag, tags_in_words

_BRACKETED = re.compile(r"[<\[].*?[>\]]")
_HAN = re.compile(r"[\u4e00-\u9fa5]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")
SPEAKER_TAG = re.compile(r"\s*(\[S[1-9][0-9]?\])\s*")
BARE_TAG = re.compile(r"(\[S[1-9][0-9]?\])")
# What was probably meant to be a speaker's tag: any spelling of it, or one bracket missing.
_ALMOST_SPEAKER_TAG = re.compile(
    r"[\[［【]\s*(?:s|spk|speaker)[\s_-]*\d*\s*[\]］】]|[\[［【]\s*s\s*\d+|\bs[1-9][0-9]?\s*\]",
    re.IGNORECASE,
)


def check_speaker_tags(text: str, speakers: int = 2) -> None:
    """Raises a UserError that names what looks like a speaker's tag but is none.

    Args:
        text: of a dialogue.
        speakers: that may speak, from [S1] on.
    """
    known = {speaker_tag(number) for number in range(1, speakers + 1)}
    rest = BARE_TAG.sub(lambda tag: "" if tag[0] in known else tag[0], text)
    for found in _ALMOST_SPEAKER_TAG.finditer(rest):
        raise UserError(
            f"the dialogue {quote(text)} has the speaker tag {found[0]!r}; "
            f"write {tags_in_words(speakers)}."
        )


def split_turns(text: str) -> list[str]:
    """A text before each speaker's tag; first what stands before them all, which may be empty."""
    return re.split(rf"(?={BARE_TAG.pattern[1:-1]})", text)


def turns_without_words(tokens: Sequence[str], unknown: Sequence[str]) -> list[int]:
    """Which turns of a text have no word among their tokens, counted from 1.

    Args:
        tokens: of the text; a text without speaker tags is one turn.
        unknown: those that cannot be spoken.
    """
    turns: list[bool] = []
    for token in tokens:
        if is_speaker_tag(token) or not turns:
            turns.append(False)
        is_word = not token.startswith("[") and any(map(str.isalnum, token))
        turns[-1] = turns[-1] or (is_word and token not in unknown)
    return [number for number, has_words in enumerate(turns, 1) if not has_words]


def language_of(text: str) -> str:
    """What a text is mostly in, "en" or "zh": Latin words against Chinese characters; "" if none.

    Speaker tags and pinyin in <> do not count.
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
    """Tokens by a tokenizer that knows no tags, with the speakers' tags as tokens between them.

    Args:
        text: with or without tags.
        split: makes the tokens of a part.
        speakers: that may speak.
        keep_blanks: blanks beside tags belong to the parts; else they go, as officially.
    """
    known = [speaker_tag(number) for number in range(1, speakers + 1)]
    if not any(tag in text for tag in known):
        return split(text)
    check_speaker_tags(text, speakers)
    tokens: list[str] = []
    for part in (BARE_TAG if keep_blanks else SPEAKER_TAG).split(text):
        tokens += [part] if part in known else split(part) if part else []
    return tokens

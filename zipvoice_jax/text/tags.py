"""Speaker tags in texts, the turns that they open, and what language a text is in."""

# ruff: noqa: RUF001 - brackets of other scripts

import re
from collections.abc import Callable, Sequence

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import SPEAKER_A, SPEAKER_B, quote

_BRACKETED = re.compile(r"[<\[].*?[>\]]")
_HAN = re.compile(r"[\u4e00-\u9fa5]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")
SPEAKER_TAG = re.compile(r"\s*(\[S[12]\])\s*")
BARE_TAG = re.compile(r"(\[S[12]\])")
# What was probably meant to be [S1] or [S2]: any spelling of it, or one bracket missing.
_ALMOST_SPEAKER_TAG = re.compile(
    r"[\[［【]\s*(?:s|spk|speaker)[\s_-]*\d*\s*[\]］】]|[\[［【]\s*s\s*\d+|\bs[12]\s*\]",
    re.IGNORECASE,
)


def check_speaker_tags(text: str) -> None:
    """Raises a UserError that names what looks like a speaker tag but is not [S1] or [S2]."""
    for found in _ALMOST_SPEAKER_TAG.finditer(text.replace(SPEAKER_A, "").replace(SPEAKER_B, "")):
        raise UserError(
            f"the dialogue {quote(text)} has the speaker tag {found[0]!r}; "
            f"write {SPEAKER_A} or {SPEAKER_B}."
        )


def turns_without_words(tokens: Sequence[str], unknown: Sequence[str]) -> list[int]:
    """Which turns of a text have no word among their tokens, counted from 1.

    Args:
        tokens: of the text; a text without speaker tags is one turn.
        unknown: those that cannot be spoken.
    """
    turns: list[bool] = []
    for token in tokens:
        is_tag = token in (SPEAKER_A, SPEAKER_B)
        if is_tag or not turns:
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
    text: str, split: Callable[[str], list[str]], *, keep_blanks: bool = False
) -> list[str]:
    """Tokens by a tokenizer that knows no tags, with [S1] and [S2] as tokens between them.

    Args:
        text: with or without tags.
        split: makes the tokens of a part.
        keep_blanks: blanks beside tags belong to the parts; else they go, as officially.
    """
    if SPEAKER_A not in text and SPEAKER_B not in text:
        return split(text)
    check_speaker_tags(text)
    tokens: list[str] = []
    for part in (BARE_TAG if keep_blanks else SPEAKER_TAG).split(text):
        tokens += [part] if part in (SPEAKER_A, SPEAKER_B) else split(part) if part else []
    return tokens

"""Rewrites texts as people would read them aloud, before the official normaliser sees them.

The official normaliser, which `zipvoice_jax.text.normalizer` reproduces, speaks the asterisks of
Markdown and reads "$2.5 million" as "two dollars, five cents million". This stage removes what is
written but not spoken, and writes in words what the normaliser gets wrong. Speaker tags, other
tags in [] and pinyin in <> pass unchanged.
"""

# ruff: noqa: RUF001 - Chinese punctuation

import re
from collections.abc import Callable, Sequence

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text import chinese, english_rules, links, markup
from zipvoice_jax.text.tokens import SPEAKER_PATTERN, quote

_KEPT = re.compile(
    rf"{SPEAKER_PATTERN}|<([A-Za-zü]+[0-9]?)>|(?<!!)\[(?![ xX]?\]|\^)[^\[\]\n]*\](?!\(|\[\d*\])"
)
_TASK = re.compile(r"^(\s*[-*+]\s+)\[[ xX]\]\s+", re.MULTILINE)
# A Markdown block may begin after a speaker's tag as well as on a line of its own.
_BLOCK = re.compile(
    rf"({SPEAKER_PATTERN})[^\S\n]*"
    r"(?=(?:#{1,6}[^\S\n]+|>[^\S\n]*|[-*+•‣][^\S\n]+(?:\[[ xX]\][^\S\n]+)?)[^\s\d])"
)
# A footnote's own line, or the mark of one in a sentence.
_FOOTNOTE = re.compile(r"^[^\S\n]*\[\^[^\]\s]*\]:.*|\[\^[^\]\s]*\]", re.MULTILINE)
_FIRST = 0xF0000  # first of the private-use characters that stand for what is kept
_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]+")
_ADDRESS = re.compile(r"[A-Za-z0-9_+-]*[@:/.][A-Za-z0-9_./:@?=&#%+-]*[A-Za-z0-9]")  # no language
_BOUNDARY = re.compile("[。！？!?\\n\U000f0000-\U000ffffd]|\\.(?=\\s|$)")


def repair(text: str, languages: Sequence[str] = ("en", "zh"), language: str = "") -> str:
    """Rewrites a text so that the official code reads it as people would.

    Args:
        text: any text; lines may matter, as in Markdown.
        languages: languages to read numbers and signs in, of "en" and "zh"; none: repair markup
            and characters only.
        language: language of a text without letters of either language.

    Returns:
        The text, on one line.

    Raises:
        UserError: a number has no words.
    """
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        if match[1] and markup.is_html(match[1]):
            return match[0]
        kept.append(match[0])
        return chr(_FIRST + len(kept) - 1)

    text = _BLOCK.sub(r"\n\1\n", markup.characters(text))
    text = _KEPT.sub(keep, _FOOTNOTE.sub("", _TASK.sub(r"\1", text)))
    text = links.spare(text)
    text = markup.plain(text)
    if languages:
        text = _read(text, languages, language or _main(text) or languages[0])
    text = markup.tidy(text)
    text = re.sub("[\U000f0000-\U000ffffd]", lambda m: kept[ord(m[0]) - _FIRST], text)
    return re.sub(r"\s*\n\s*", " ", text)


def _read(text: str, languages: Sequence[str], language: str) -> str:
    rules = {"zh": chinese.RULES, "en": english_rules.RULES}
    for name in [name for name in rules if name in languages]:
        for pattern, words in (*links.rules(name), *rules[name]):
            try:
                text = _apply(text, pattern, words, name, languages, language)
            except Exception as error:  # inflect or cn2an, on an absurd number
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                raise UserError(
                    f"a number in {quote(text)} has no words ({reason}); write it out."
                ) from None
    return text


def _apply(
    text: str,
    pattern: re.Pattern[str],
    words: Callable[[re.Match[str]], str],
    name: str,
    languages: Sequence[str],
    language: str,
) -> str:
    """Applies a rule where the text is in its language."""
    if len(languages) == 1:
        return pattern.sub(words, text)
    return pattern.sub(
        lambda match: words(match) if _language_at(text, match, language) == name else match[0],
        text,
    )


def _main(text: str) -> str:
    text = _ADDRESS.sub(" ", text)
    chinese_chars, words = len(_HAN.findall(text)), len(_LATIN.findall(text))
    if not chinese_chars and not words:
        return ""
    return "zh" if chinese_chars and chinese_chars >= words else "en"


def _language_at(text: str, match: re.Match[str], language: str) -> str:
    """The language of a match: of adjacent characters, else of its sentence, else `language`."""
    start, end = match.span()
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if _HAN.search(match[0]):
        return "zh"
    if _HAN.match(text[end : end + 1]) or _HAN.match(text[max(start - 1, 0) : start]):
        return "zh"
    first = max((m.end() for m in _BOUNDARY.finditer(text, 0, start)), default=0)
    after = _BOUNDARY.search(text, end)
    last = after.start() if after else len(text)
    return _main(text[first:start] + " " + text[end:last]) or language

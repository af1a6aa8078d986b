"""Scripts of letters: what a tokenizer cannot read and must not spell out letter by letter."""

import functools
import unicodedata
from collections.abc import Collection

# eSpeak languages written in Latin letters; others may mix scripts, and are not checked.
_LATIN = frozenset(
    "af an ca cs cy da de en eo es et eu fi fr ga gd hr ht hu id is it la lb lt lv mi ms mt nb nl "
    "no pap pl pt ro sk sl sq sv sw tr vi".split()
)
# First words of the Unicode names of letters that belong to no script, or to Latin under another
# name.
_COMMON = frozenset(
    "FULLWIDTH MATHEMATICAL MODIFIER FEMININE MASCULINE MICRO OHM KELVIN ANGSTROM SCRIPT "
    "DOUBLE-STRUCK BLACK-LETTER PLANCK TURNED INFORMATION IDEOGRAPHIC EULER".split()
)


def is_latin(lang: str) -> bool:
    """Whether an eSpeak language is known to be written in Latin letters only."""
    return lang.lower().split("-")[0] in _LATIN


def foreign_passages(text: str, keep: Collection[str]) -> tuple[str, list[str]]:
    """Removes passages in other scripts from a text.

    A single Greek letter stays: it is a symbol, and eSpeak knows its name.

    Args:
        text: any text.
        keep: scripts to keep, by the first word of their letters' Unicode names: LATIN, CJK.

    Returns:
        The text with a blank in place of each passage, and the passages, inner blanks included.
    """
    if text.isascii():
        return text, []
    kept: list[str] = []
    passages: list[str] = []
    i = 0
    while i < len(text):
        if not _is_foreign(text[i], keep):
            kept.append(text[i])
            i += 1
            continue
        end = i + 1  # one past the last letter of the passage
        while end < len(text):
            after = end
            while after < len(text) and text[after].isspace():
                after += 1
            if after == len(text) or not (
                _is_foreign(text[after], keep)
                or (after == end and unicodedata.category(text[after])[0] == "M")
                or (after == end and text[after] in "\u200c\u200d\u30fc\uff70")
            ):
                break
            end = after + 1
        passage = text[i:end]
        if _script(passage[0]) == "GREEK" and len(passage) == 1:
            kept.append(passage)
        else:
            passages.append(passage)
            kept.append(" ")
        i = end
    if not passages:
        return text, []
    return "".join(kept), passages


def _is_foreign(char: str, keep: Collection[str]) -> bool:
    return char.isalpha() and _script(char) not in keep and _script(char) not in _COMMON


@functools.lru_cache(maxsize=4096)
def _script(char: str) -> str:
    """The first word of a character's Unicode name, which for letters is their script."""
    return unicodedata.name(char, "UNKNOWN").split()[0].split("-")[0]

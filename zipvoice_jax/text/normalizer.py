"""Text normalisers that write numbers and abbreviations in words, for English and Chinese.

Same results as zipvoice/tokenizer/normalizer.py (English, Chinese) and as
`tacotron_cleaner.cleaners.custom_english_cleaners` of espnet_tts_frontend, which the
official LibriTTS tokenizer uses.
"""

# ruff: noqa: RUF001 - punctuation of other scripts

import functools
import importlib.util
import re
import warnings
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import quote

_TITLES = {
    "mrs": "misess",
    "mr": "mister",
    "dr": "doctor",
    "st": "saint",
    "co": "company",
    "jr": "junior",
    "maj": "major",
    "gen": "general",
    "drs": "doctors",
    "rev": "reverend",
    "lt": "lieutenant",
    "hon": "honorable",
    "sgt": "sergeant",
    "capt": "captain",
    "esq": "esquire",
    "ltd": "limited",
    "col": "colonel",
    "ft": "fort",
}
_PHRASES = {"etc": "et cetera", "btw": "by the way"}
# Matched anywhere as a word; the tacotron cleaner requires the full stop, and removes it.
_ABBREVIATIONS = [
    (re.compile(rf"\b{short}\b", re.IGNORECASE), long)
    for short, long in {**_TITLES, **_PHRASES}.items()
]
_ABBREVIATIONS_WITH_STOP = [
    (re.compile(rf"\b{short}\.", re.IGNORECASE), long) for short, long in _TITLES.items()
]

_GROUPED_NUMBER = re.compile(r"[0-9][0-9,]+[0-9]")
_POUNDS = re.compile(r"£([0-9,]*[0-9])")
_DOLLARS = re.compile(r"\$([0-9.,]*[0-9])")
_FRACTION = re.compile(r"([0-9]+)/([0-9]+)")
_DECIMAL = re.compile(r"([0-9]+)\.([0-9]+)")
_PERCENT = re.compile(r"([0-9.,]*[0-9])%")
_ORDINAL = re.compile(r"[0-9]+(?:st|nd|rd|th)")
_NUMBER = re.compile(r"[0-9]+")

_PUNCTUATION = str.maketrans("，。！？；：、‘“”’⋯", ",.!?;:,'\"\"'…")
_ELLIPSES = ("···", "・・・", "...")


def map_punctuation(text: str) -> str:
    """Replaces full-width and typographic punctuation by the forms in the token table."""
    text = text.translate(_PUNCTUATION)
    for dots in _ELLIPSES:
        text = text.replace(dots, "…")
    return text


def single_line(text: str) -> str:
    """Replaces line breaks and the blanks around them by one space, and strips the ends.

    The official tokenizers delete a line break, which joins two words: pass text through this
    first.
    """
    return re.sub(r"[^\S\n]*\n\s*", " ", text.strip().replace("\r", "\n"))


def normalize_english(text: str) -> str:
    """Writes abbreviations and numbers of English text in words.

    Raises:
        UserError: a number has no words, such as one of forty digits.
    """
    for pattern, words in _ABBREVIATIONS:
        text = pattern.sub(words, text)
    _inflect()  # a missing package is not the text's fault
    try:
        return _numbers_to_words(text, pad=" ", fractions=True)
    except Exception as error:  # inflect's own errors, int() of an absurd number
        raise _unreadable_number(text, error) from None


def normalize_chinese(text: str) -> str:
    """Writes numbers, dates and percentages of Chinese text in characters (cn2an).

    Raises:
        UserError: cn2an cannot read a number.
    """
    transform = _cn2an().transform
    try:
        with warnings.catch_warnings():
            # A number beyond its range stays in digits; the tokenizer then reports them.
            warnings.simplefilter("ignore")
            return transform(text, "an2cn")
    except Exception as error:  # cn2an raises ValueError, IndexError and more
        raise _unreadable_number(text, error) from None


def clean_libritts(text: str) -> str:
    """Cleans English text for LibriTTS models: ASCII, words for numbers, capitals.

    Raises:
        UserError: a number has no words, or the text is not ASCII and `unidecode` is missing.
    """
    text = _to_ascii(text).lower()
    _inflect()
    try:
        text = _numbers_to_words(text, pad="", fractions=False)
    except Exception as error:
        raise _unreadable_number(text, error) from None
    for pattern, words in _ABBREVIATIONS_WITH_STOP:
        text = pattern.sub(words, text)
    text = text.translate({ord(";"): ",", ord(":"): ",", ord("-"): " ", ord("&"): "and"})
    text = re.sub(r'[()\[\]<>"]+', "", text).upper()
    return re.sub(r"\s+", " ", text)


def _unreadable_number(text: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return UserError(f"a number in {quote(text)} has no words ({reason}); write it out.")


@functools.cache
def _inflect() -> Any:
    import typeguard

    # inflect has its arguments checked by typeguard, which for that parses inflect's source once
    # for every function: four seconds of every command that reads English.
    checked, typeguard.typechecked = typeguard.typechecked, lambda function: function
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import inflect
    finally:
        typeguard.typechecked = checked
    return inflect.engine()


@functools.cache
def _cn2an() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cn2an
    return cn2an


def _to_ascii(text: str) -> str:
    if text.isascii():
        return text
    if importlib.util.find_spec("unidecode") is None:
        raise UserError(
            f"the libritts tokenizer needs the package unidecode for the accents in {quote(text)}; "
            "install it, or write the text in plain ASCII."
        )
    from unidecode import unidecode  # pyright: ignore[reportMissingImports]

    return unidecode(text)


def _numbers_to_words(text: str, *, pad: str, fractions: bool) -> str:
    """Writes numbers in words; the result depends on the order of the steps.

    Args:
        text: any text.
        pad: added on both sides of written-out numbers (the official normaliser pads with blanks).
        fractions: whether to read a/b and percentages (the tacotron cleaner does not).
    """

    def padded(words: str) -> str:
        return f"{pad}{words}{pad}"

    text = _GROUPED_NUMBER.sub(lambda m: m[0].replace(",", ""), text)
    text = _POUNDS.sub(r"\1 pounds", text)
    text = _DOLLARS.sub(lambda m: padded(_dollars(m[1])), text)
    if fractions:
        text = _FRACTION.sub(lambda m: padded(_fraction(int(m[1]), int(m[2]))), text)
    text = _DECIMAL.sub(r"\1 point \2", text)
    if fractions:
        text = _PERCENT.sub(r"\1 percent ", text)
    text = _ORDINAL.sub(lambda m: padded(_inflect().number_to_words(m[0])), text)
    return _NUMBER.sub(lambda m: padded(cardinal_or_year(int(m[0]))), text)


def _dollars(amount: str) -> str:
    whole, *rest = amount.split(".")
    if len(rest) > 1:
        return f"{amount} dollars"
    dollars = int(whole) if whole else 0
    cents = int(rest[0]) if rest and rest[0] else 0
    parts = []
    if dollars:
        parts.append(f"{dollars} dollar" if dollars == 1 else f"{dollars} dollars")
    if cents:
        parts.append(f"{cents} cent" if cents == 1 else f"{cents} cents")
    return ", ".join(parts) or "zero dollars"


def _fraction(numerator: int, denominator: int) -> str:
    named = {2: ("half", "halves"), 4: ("quarter", "quarters")}.get(denominator)
    words = _inflect().number_to_words(numerator)
    if named:
        return f"{words} {named[0] if numerator == 1 else named[1]}"
    return f"{words} {_inflect().ordinal(_inflect().number_to_words(denominator))}"


def chinese_number(number: int) -> str:
    """Characters of a whole number of up to 16 digits (cn2an)."""
    return _cn2an().an2cn(number, "low")


def words_of(number: int | str) -> str:
    """Words of a whole number, or of an ordinal such as "21st"; no "and", no commas."""
    return _inflect().number_to_words(number, andword="").replace(",", "")


def cardinal_or_year(number: int) -> str:
    """Words of a whole number; possible years, 1001 to 2999, are read in pairs of digits."""
    words = _inflect().number_to_words
    if not 1000 < number < 3000:
        return words(number, andword="")
    if number == 2000:
        return "two thousand"
    if 2000 < number < 2010:
        return f"two thousand {words(number % 100)}"
    if number % 100 == 0:
        return f"{words(number // 100)} hundred"
    return words(number, andword="", zero="oh", group=2).replace(", ", " ")

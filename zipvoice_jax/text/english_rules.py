"""The rules of English in the order they apply; see `zipvoice_jax.text.english`."""

# ruff: noqa: RUF001 - punctuation and signs

import re
from collections.abc import Iterable

from zipvoice_jax.text import english, roman
from zipvoice_jax.text.english_words import (
    ANYWHERE,
    BEFORE_NAME,
    BEFORE_NUMBER,
    CURRENCIES,
    CURRENCY_CODES,
    DAYS_AND_MONTHS,
    MONTHS,
    NAMES,
    UNITS,
)
from zipvoice_jax.text.normalizer import words_of
from zipvoice_jax.text.rules import Rule, any_of, rule

_N = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_DASH = r"\s?[-–—−~～]\s?"
# A number, or a range of two; not the end of a longer chain or the tail of a word.
_Q = rf"(?<![\w.,:/])(?P<sign>(?<![)\]])[-−–])?(?P<a>{_N})(?:{_DASH}(?P<b>{_N}))?"
_END = r"(?![A-Za-z0-9])"


_CUR = any_of(k for k in CURRENCIES if k[-1] in "$€£¥￥₹₩₽₿₺₪₫฿₴")
_AFTER = any_of([*CURRENCY_CODES, *"€£¥￥₹₩₽₿₺₪₫฿₴¢$"])
_CODE = any_of(CURRENCY_CODES)
_MAG = r"[\s-]?(?:thousand|million|billion|trillion)\b|(?:k|m|mn|mm|b|bn|t|tn)\b"
_UNIT = any_of(UNITS)
_BIG_UNITS = any_of(u for u in UNITS if len(u) > 1 or u in "mgLlshWVΩ")
_MONTH = "|".join(MONTHS) + "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec"
_AM = r"[ap]\.?\s?m\b\.?"
_YEAR = r"(?:,?\s(?P<year>[12]\d{3})\b)?"
_I = re.IGNORECASE
_BOOKS = (
    "Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|Job|Psalms?|Proverbs|"
    "Ecclesiastes|Isaiah|Jeremiah|Ezekiel|Daniel|Matthew|Mark|Luke|John|Acts|Romans|Corinthians|"
    "Galatians|Ephesians|Philippians|Colossians|Hebrews|James|Peter|Revelation"
)
_WORD_BEFORE_PHONE = r"(?:call|phone|tel|dial|number|fax|text|mobile|cell|hotline)"


_AFTER_A_NO = "(?<!said )(?<!say )(?<!says )"  # a sentence may end with it


def _names(short: Iterable[str]) -> str:
    return rf"(?<![\w.])(?P<short>{any_of(short)})\."


RULES: tuple[Rule, ...] = (
    rule(r"(?<!\d)[~～≈]\s?(?=[\d$€£])", "about "),
    rule(
        r"(?<=€)\s?(\d+),(\d\d)(?!\d)|(?<![\w.,])(\d+),(\d\d)(?=\s?€)",
        lambda m: f"{m[1] or m[3]}.{m[2] or m[4]}",
    ),
    rule(r"(?<![\w.])\d{1,3}(?:\.\d{3}){2,}(?![\w.])", lambda m: m[0].replace(".", "")),
    # Dates before times before chains of digits before ranges.
    rule(
        r"(?<![\w.-])([12]\d{3})([-/.])(\d{1,2})\2(\d{1,2})(?=T\d\d:|(?![\w-]|[./]\d))",
        english.iso_words,
    ),
    rule(r"(?<=[a-z] )T(?=\d\d:\d\d)", "at "),
    rule(r"(?<=:\d\d)(?:\.\d+)?Z\b", " UTC"),
    rule(
        r"(?<![\w./-])(\d{1,2})([-/.])(\d{1,2})\2((?:[12]\d)?\d\d)(?![\w-]|[./]\d)",
        english.slashed_words,
    ),
    rule(
        rf"\b(?P<month>{_MONTH})\.?\s(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
        rf"(?:{_DASH}(?P<to>[0-3]?\d)(?:st|nd|rd|th)?)?{_YEAR}(?![\d:%]|[.,]\d|\s?[ap]\.?m\b)",
        english.month_day_words,
    ),
    rule(
        rf"(?P<the>\b[Tt]he\s)?(?<![\w.:/–-])(?P<day>[0-3]?\d)(?:st|nd|rd|th)?\s(?:of\s)?"
        rf"(?P<month>{_MONTH})\b\.?{_YEAR}",
        english.day_month_words,
    ),
    rule(
        rf"\b(?P<book>{_BOOKS})\s(?P<chapter>\d{{1,3}}):(?P<verse>\d{{1,3}}){_DASH}(?P<to>\d{{1,3}})"
        rf"(?![\w:])|\b(?P<book1>{_BOOKS})\s(?P<chapter1>\d{{1,3}}):(?P<verse1>\d)(?![\w:])",
        english.verse_words,
    ),
    # Times; a range of two becomes two times.
    rule(
        rf"(?<![\w.:])(\d{{1,2}}(?::\d\d(?:\s?{_AM})?|\s?{_AM})){_DASH}"
        rf"(?=\d{{1,2}}(?::\d\d|\s?{_AM}))",
        r"\1 to ",
        _I,
    ),
    rule(
        rf"(?<![\w.:$])(?P<h>\d{{1,2}})(?P<h2>{_DASH}(?:\d{{1,2}}))\s?(?P<half>{_AM})",
        english.hour_range_words,
        _I,
    ),
    rule(
        rf"(?<![\w.:$])(?P<h>\d{{1,2}})(?:[:.](?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?)?\s?(?P<half>{_AM})",
        english.time_words,
        _I,
    ),
    rule(
        r"(?<![\w.:$])(?P<h>[01]?\d|2[0-4]):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?(?P<half>)(?![\d:])",
        english.time_words,
    ),
    rule(
        rf"(?<![\w.:])({_N})\s?:\s?({_N})(?![\d:])",
        lambda m: f" {english.cardinal(m[1])} to {english.cardinal(m[2])} ",
    ),
    # Phone numbers and other chains of digits.
    rule(r"(?<![\w.])\+\d[\d\s().-]{5,17}\d(?!\w)", english.phone_words),
    rule(
        r"(?<![\w.+-])(?:1[\s.-])?(?:\(\d{3}\)\s?|\d{3}[\s.-])\d{3}[\s.-]\d{4}(?![\w-])",
        english.phone_words,
    ),
    rule(r"(?<![\w.])\(?0\d{2,4}\)?[\s-]\d{3,4}[\s-]?\d{3,4}(?![\w-])", english.phone_words),
    rule(r"(?<![\w.])\d{4}(?:[ -]\d{4}){3}(?![\w-])", english.phone_words),
    rule(
        rf"(?<=\b)({_WORD_BEFORE_PHONE}\W+(?:(?:me|us|at|is|on|to)\W+){{0,2}})(\d{{3}})-(\d{{4}})\b",
        lambda m: f"{m[1]}{english.digits(m[2])}, {english.digits(m[3])} ",
        _I,
    ),
    rule(
        rf"({_WORD_BEFORE_PHONE}\W+(?:(?:me|us|at|is|on|to)\W+){{0,2}})(\d{{7,}})\b",
        lambda m: f"{m[1]}{english.digits(m[2])} ",
        _I,
    ),
    rule(r"(?<![\w.,-])\d+(?:-\d+){2,}(?![\w-])", english.phone_words),
    rule(r"(?<![\w.,$€£])\d{10,}(?![\w,.]*\d)", lambda m: f" {english.digits(m[0])} "),
    rule(r"(?<![\w.,$€£–-])0\d+(?![\w.,:/-]*\d)", lambda m: f" {english.digits(m[0])} "),
    rule(
        r"\b((?:call|dial)(?:ed)?\s)([2-9]11|112|999|988|000)\b(?!-)",
        lambda m: f"{m[1]}{english.digits(m[2])}",
        _I,
    ),
    # Versions.
    rule(r"(?i:\b(?P<v>(?:v\.?|ver\.)\s?))(?P<n>\d+(?:\.\d+)+)\b", english.version_words),
    rule(r"\b(?P<v>v)(?P<n>\d+)\b", english.version_words),
    rule(r"(?<![\w.])(?P<v>)(?P<n>\d+(?:\.\d+){2,})(?![.\w]*\d)", english.version_words),
    rule(
        r"(?<![\w.,$€£])(100|1000)s(?=\sof\b)",
        lambda m: "hundreds" if m[1] == "100" else "thousands",
    ),
    rule(r"(?<![\w.,])'?(\d0|[12]\d\d0)'?s\b", english.decade_words),
    # Money.
    rule(rf"(?<=\d)(\s?[€£¥₹]){_DASH}(?=[\d.])", r"\1 to "),
    rule(
        rf"(?P<sign>(?<![\w)])[-−–])?(?P<cur>{_CUR})\s?(?P<sign2>[-−])?(?P<a>{_N})(?P<mag>{_MAG})?"
        rf"(?:{_DASH}(?:{_CUR})?(?P<b>{_N})(?P<mag2>{_MAG})?)?{_END}",
        english.money_words,
        _I,
    ),
    rule(
        rf"\b(?P<sign>)(?P<sign2>)(?P<cur>{_CODE})\s?(?P<a>{_N})(?P<mag>{_MAG})?"
        rf"(?P<b>(?!))?(?P<mag2>(?!))?{_END}",
        english.money_words,
    ),
    rule(rf"{_Q}(?P<mag>{_MAG})?\s?(?P<cur>{_AFTER}){_END}", english.after_money_words),
    rule(
        r"(?<=[a-z]) ?/\s?(hour|hr|day|week|month|mo|year|yr|night|person|piece|kg|lb|min)\b",
        lambda m: (
            " per "
            + {
                "hr": "hour",
                "mo": "month",
                "yr": "year",
                "kg": "kilogram",
                "lb": "pound",
                "min": "minute",
            }.get(m[1], m[1])
        ),
    ),
    # Numbers followed by a unit or a sign.
    rule(rf"(?<=\d)(\s?(?:{_BIG_UNITS}|°\s?[CF]|[℃℉%％])){_DASH}(?=[\d.])", r"\1 to "),
    rule(rf"{_Q}(?P<c>\s?[°º]\s?[CF]\b|\s?[℃℉]|\s?[°º])", english.degrees_words),
    rule(rf"{_Q}\s?[%％]", lambda m: f" {english.span_words(m)} percent "),
    rule(rf"{_Q}\s?‰", lambda m: f" {english.span_words(m)} per mille "),
    rule(
        r"(?<![\w.])(\d)['′’](\d{1,2})(?:[\"″”]|'')?(?!\w)",
        lambda m: f" {words_of(int(m[1]))} foot {words_of(int(m[2]))} ",
    ),
    rule(
        rf"{_Q}(?:(?P<hyphen>-)|\s?)(?P<u>{_BIG_UNITS})(?P<p>[²³]|\^?[23])?"
        rf"(?:/(?P<per>{_UNIT}))?(?P<stop>\.(?=\s*$))?{_END}",
        english.unit_words,
    ),
    rule(rf"(?<=\d)(k|K|M|B|bn|mn|tn){_DASH}(?=\d)", r"\1 to "),
    rule(rf"(?<![\w.,/-])({_N}){_DASH}(?={_N}(?:k|K|M|B|bn|mn|tn)\b)", r"\1 to "),
    rule(rf"(?<![\w.,])(?P<n>{_N})(?P<k>k|K|M|B|bn|mn|tn)\b", english.magnitude_words),
    rule(rf"(?<![\w.,]){_N}(?:\s?(?P<x>[x×X])\s?{_N})+(?!\w)", english.times_words),
    rule(rf"(?<![\w.,])({_N})[x×](?!\w)", lambda m: f" {english.cardinal(m[1])} times "),
    rule(
        r"(?P<on>\b(?:on|by|since|until|before|after|due)\s)?(?<![\w.,/-])(?P<whole>\d{1,9}\s+)?"
        r"(?P<top>\d{1,9})\s?/\s?(?P<bottom>\d{1,9})(?![\w/]|[.,]\d)",
        english.fraction_words,
        _I,
    ),
    rule(_AFTER_A_NO + _names(BEFORE_NUMBER) + r"(?=\s?\d)", english.abbreviation_words, _I),
    rule(rf"(?<![\w.,/-])(?P<a>{_N}){_DASH}(?P<b>{_N})(?![\w/-]|[.,]\d)", english.range_words),
    # Abbreviations.
    rule(_names(BEFORE_NAME) + r"(?=\s?[A-Z])", english.abbreviation_words, _I),
    rule(r"(?<![\w.])(?P<short>St)\.", english.abbreviation_words),
    rule(r"(?<![\w.-])(?P<short>Mrs|Mr|Dr|Ms)(?=\s[A-Z])", english.abbreviation_words),
    rule(r"\b(?P<short>Co)\.(?=\s*$|\s|,)", english.abbreviation_words),
    rule(_names(ANYWHERE), english.abbreviation_words, _I),
    rule(r"(?<![\w.-])(?P<short>etc|vs|eg|ie)\b(?!\.\w)", english.abbreviation_words),
    rule(
        rf"(?<![\w.])(?P<short>{any_of(d.capitalize() for d in DAYS_AND_MONTHS - NAMES)})\."
        r"(?=\s\w|,|\s*$)",
        english.abbreviation_words,
    ),
    rule(
        rf"(?<![\w.])(?P<short>{any_of(d.capitalize() for d in NAMES)})\."
        rf"(?=,|\s\d|\s(?:{_MONTH})\b)",
        english.abbreviation_words,
    ),
    rule(r"\b([A-Z]\w*|\d(?:st|nd|rd|th))\sSt\b(?!\.|\s[A-Z])", r"\1 Street"),
    rule(r"\b([Cc]o)-op\b", r"\1operative"),  # "coop" is for hens
    rule(r"\b([Cc]o)-(?=[a-z])", r"\1"),
    rule(r"\bGen (?=[XYZ]\b)", "Generation "),
    rule(r"\bet al\.", "and others"),
    rule(r"\bPh\.?\s?D\.?(?=\s|$|,)", "PhD"),
    rule(
        r"\b([AaPp])\.([Mm])\.(?!\w)",
        lambda m: f"{m[1]}{m[2]}".upper() + english.stop_words(m, m[0]),
    ),
    rule(r"\b(?:[A-Z]\.){2,}(?=\s+[a-z]|,)", lambda m: m[0].replace(".", "")),
    rule(r"\bw/o\b", "without"),
    rule(r"\bw/(?=\s?\w)", "with "),
    *roman.RULES,
    # Signs.
    rule(rf"(?:{_AFTER_A_NO}\b[Nn]o\.|\bNo|№|#)\s?(?=\d)", "number "),
    rule(r"\b(he|him|his|she)/(she|her|hers|he)\b", r"\1 or \2", _I),
    rule(r"(?<=[A-Za-z])\s?/\s?(?=[A-Za-z])", " "),
    rule(r"\b([CcFf])#(?!\w)", r"\1 sharp"),
    rule(r"(?<=\w)\+\+", " plus plus"),
    rule(r"(?<=\w)\+(?=[\s,.;:!?)]|$)", " plus"),
    rule(r"\s?\+\s?(?=[\w$(])", " plus "),
    rule(r"(?<=[\w)])\s*[=＝]\s*(?=[\w(-])", " equals "),
    rule(r"(?<=[\w)])\s?(?:≈|~=)\s?(?=\w)", " is about "),
    rule(r"\s?(?:≤|<=)\s?", " is at most "),
    rule(r"\s?(?:≥|>=)\s?", " is at least "),
    rule(r"\s?≠\s?", " is not "),
    rule(r"\s?±\s?", " plus or minus "),
    rule(r"(?<=\d)\s?÷\s?(?=\d)", " divided by "),
    rule(r"(?<=[\w)])\s<\s?(?=[\d\w])|(?<=\w)<(?=\d)|(?<!\S)<(?=\d)", " less than "),
    rule(r"(?<=[\w)])\s>\s?(?=[\d\w])|(?<=\w)>(?=\d)|(?<!\S)>(?=\d)", " greater than "),
    rule(r"(?<=\s)@(?=\s)", "at"),
    rule(r"(?<=\w)\s?×\s?(?=\w)", " times "),
    rule(r"(?<=\w)(?:\^2(?!\d)|²)", " squared "),
    rule(r"(?<=\w)(?:\^3(?!\d)|³)", " cubed "),
    # The numbers that are left.
    rule(
        r"(?P<sign>(?<![\w)\]])[-−])?(?<![\w.])(?P<n>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+"
        r"|\.\d+)(?!\w)",
        english.number_words,
    ),
    rule(r"(?P<sign>(?<![\w)\]])[-−])(?P<n>\d+)(?!\w|\.\d)", english.number_words),
    rule(r"(\d)(ST|ND|RD|TH)\b", lambda m: m[0].lower()),
)

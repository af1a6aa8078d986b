"""English as people read it: money, dates, times, units, ranges and more in words.

Each rule is a pattern and a function of its match that gives the words; the order counts.
What no rule takes is left to the official normaliser. Words of numbers are those of inflect.
"""

# ruff: noqa: RUF001 - punctuation and signs

import re
from collections.abc import Callable

from zipvoice_jax.text.english_words import (
    ABBREVIATIONS,
    ANYWHERE,
    BEFORE_NAME,
    BEFORE_NUMBER,
    CURRENCIES,
    CURRENCY_CODES,
    DAYS_AND_MONTHS,
    MAGNITUDES,
    MONTHS,
    UNITS,
)
from zipvoice_jax.text.normalizer import cardinal_or_year, words_of

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

_N = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_DASH = r"\s?[-–—−~～]\s?"
# A number, or a range of two; not the end of a longer chain or the tail of a word.
_Q = rf"(?<![\w.,:/])(?P<sign>(?<![)\]])[-−–])?(?P<a>{_N})(?:{_DASH}(?P<b>{_N}))?"
_END = r"(?![A-Za-z0-9])"


def cardinal(number: str) -> str:
    """Words of a number as written: 1,234.05, 007, .5; digit by digit after the point."""
    whole, _, rest = number.replace(",", "").partition(".")
    if len(whole) > 1 and whole[0] == "0" and not rest:
        return digits(whole)
    if len(whole) > 15:
        return digits(whole)
    said = words_of(int(whole)) if whole else ""
    return " ".join(filter(None, [said, "point" if rest else "", digits(rest)]))


def digits(number: str) -> str:
    """Digits one by one."""
    return " ".join(words_of(int(d)) for d in number if d.isdigit())


def ordinal(number: int) -> str:
    """Such as "twenty-first"."""
    return words_of(f"{number}th")


def date(year: int | None, month: int, day: int | None) -> str | None:
    """Such as "December twenty-fifth, twenty twenty-three"; None for no date."""
    if not 1 <= month <= 12 or (day is not None and not 1 <= day <= 31):
        return None
    said = MONTHS[month - 1] + (f" {ordinal(day)}" if day else "")
    if year is None:
        return said
    return f"{said}, {cardinal_or_year(year)}" if day else f"{said} {cardinal_or_year(year)}"


def clock(hour: int, minute: int, second: int | None = None, half: str = "") -> str:
    """Such as "three thirty PM"; `half` is "a", "p" or ""."""
    said = words_of(hour)
    if minute or second is not None:
        said += f" {'oh ' if minute < 10 else ''}{words_of(minute)}"
    elif not half:
        said += " o'clock" if 0 < hour <= 12 else " hundred" if hour else " hundred hours"
    if second is not None:
        said += f" and {words_of(second)} second{'' if second == 1 else 's'}"
    return said + (f" {half.upper()}M" if half else "")


def _span(m: re.Match[str]) -> str:
    """The words of `_Q`."""
    said = ("minus " if m["sign"] else "") + cardinal(m["a"])
    return f"{said} to {cardinal(m['b'])}" if m["b"] else said


def _is_one(m: re.Match[str]) -> bool:
    return not m["b"] and m["a"].replace(",", "") in ("1", "1.0")


def _money(m: re.Match[str]) -> str:
    currency = CURRENCIES[(m["cur"] or "").upper()]
    one, many, cent, cents = currency
    sign = "minus " if m["sign"] or m["sign2"] else ""
    mags = [MAGNITUDES.get((m[g] or "").strip().lower(), "") for g in ("mag", "mag2")]
    if m["b"] or any(mags):
        said = cardinal(m["a"])
        if m["b"]:
            first = mags[0] if mags[0] and mags[0] != mags[1] else ""
            said = " ".join(filter(None, [said, first, "to", cardinal(m["b"]), mags[1]]))
        else:
            said += f" {mags[0]}"
        return f" {sign}{said} {many} "
    return f" {sign}{_amount(m['a'], one, many, cent, cents)} "


def _amount(number: str, one: str, many: str, cent: str, cents: str) -> str:
    whole, _, rest = number.replace(",", "").partition(".")
    if len(rest) > 2 or (rest and not cent):
        return f"{cardinal(number)} {many}"
    minor = int(rest.ljust(2, "0")) if rest else 0
    parts = []
    if int(whole or 0) or not minor:
        parts.append(f"{cardinal(whole or '0')} {one if int(whole or 0) == 1 else many}")
    if minor:
        parts.append(f"{words_of(minor)} {cent if minor == 1 else cents}")
    return " and ".join(parts)


def _after_money(m: re.Match[str]) -> str:
    one, many, cent, cents = CURRENCIES[m["cur"].upper()]
    mag = MAGNITUDES.get((m["mag"] or "").strip().lower(), "")
    sign = "minus " if m["sign"] else ""
    if mag or m["b"]:
        said = cardinal(m["a"]) + (f" to {cardinal(m['b'])}" if m["b"] else "")
        return " ".join(["", *filter(None, [sign.strip(), said, mag, many]), ""])
    return f" {sign}{_amount(m['a'], one, many, cent, cents)} "


def _iso(m: re.Match[str]) -> str:
    said = date(int(m[1]), int(m[3]), int(m[4]))
    return f" {said} " if said else m[0]


def _slashed(m: re.Match[str]) -> str:
    """Month first unless that cannot be, or points stand between, as in Germany."""
    first, second, year = int(m[1]), int(m[3]), int(m[4])
    if m[2] == "." or first > 12:
        first, second = second, first
    if year < 100:
        year += 2000 if year < 50 else 1900
    said = date(year, first, second)
    return f" {said} " if said else m[0]


def _month_day(m: re.Match[str]) -> str:
    month = MONTHS[_month(m["month"])]
    said = f"{month} {ordinal(int(m['day']))}"
    if m["to"]:
        said += f" to {ordinal(int(m['to']))}"
    return f"{said}, {cardinal_or_year(int(m['year']))}" if m["year"] else said


def _day_month(m: re.Match[str]) -> str:
    the = "" if m["the"] else "the "
    said = f"{the}{ordinal(int(m['day']))} of {MONTHS[_month(m['month'])]}"
    said = f"{m['the'] or ''}{said}"
    return f"{said} {cardinal_or_year(int(m['year']))}" if m["year"] else said


def _month(name: str) -> int:
    return next(i for i, full in enumerate(MONTHS) if full.lower().startswith(name.lower()[:3]))


def _time(m: re.Match[str]) -> str:
    hour, minute = int(m["h"]), int(m["m"] or 0)
    if hour > 24 or minute > 59:
        return m[0]
    second = int(m["s"]) if m["s"] else None
    return f" {clock(hour, minute, second, (m['half'] or '')[:1].lower())}{_stop(m, m['half'])} "


def _stop(m: re.Match[str], found: str | None) -> str:
    """The full stop that an abbreviation shares with its sentence."""
    rest = m.string[m.end() :]
    ends = bool(found) and found.endswith(".") and not rest.strip()
    return "." if ends or (found and found.endswith(".") and re.match(r"\s+[A-Z]", rest)) else ""


def _hour_range(m: re.Match[str]) -> str:
    half = (m["half"] or "")[:1].lower()
    second = int(re.sub(r"\D", "", m["h2"]))
    said = f"{words_of(int(m['h']))} to {clock(second, 0, None, half)}"
    return f" {said}{_stop(m, m['half'])} "


def _phone(m: re.Match[str]) -> str:
    groups = re.findall(r"\d+", m[0])
    said = ", ".join(digits(group) for group in groups)
    return f" {'plus ' if m[0].lstrip().startswith('+') else ''}{said} "


def _version(m: re.Match[str]) -> str:
    joint = " dot " if m["n"].count(".") == 3 else " point "
    said = joint.join(map(cardinal, m["n"].split(".")))
    return f" {'version ' if m['v'] else ''}{said} "


def _fraction(m: re.Match[str]) -> str:
    top, bottom = int(m["top"]), int(m["bottom"])
    whole = m["whole"]
    special = {(24, 7): "twenty-four seven", (9, 11): "nine eleven", (50, 50): "fifty fifty"}
    if not whole and (top, bottom) in special:
        return f" {special[top, bottom]} "
    if not whole and m["on"] and bottom > 10 and (said := date(None, top, bottom)):
        return f"{m['on']}{said} "
    on = m["on"] or ""
    if bottom < 2 or (not whole and (top > bottom or bottom > 100)):
        return f"{on} {cardinal(m['top'])} over {cardinal(m['bottom'])} "
    if top == bottom:
        return f"{on} {words_of(top)} out of {words_of(bottom)} "
    named = {2: ("half", "halves"), 4: ("quarter", "quarters")}
    one, many = named.get(bottom, (ordinal(bottom), ordinal(bottom) + "s"))
    if whole:
        part = f"a {one}" if top == 1 else f"{words_of(top)} {many}"
        return f"{on} {cardinal(whole.strip())} and {part} "
    return f"{on} {words_of(top)} {one if top == 1 else many} "


def _degrees(m: re.Match[str]) -> str:
    scale = {"C": " Celsius", "F": " Fahrenheit", "℃": " Celsius", "℉": " Fahrenheit"}
    kind = (m["c"] or "").strip(" °º").upper()
    return f" {_span(m)} degree{'' if _is_one(m) else 's'}{scale.get(kind, '')} "


def _unit(m: re.Match[str]) -> str:
    one, many = UNITS[m["u"]]
    power = {"²": "square ", "2": "square ", "³": "cubic ", "3": "cubic "}.get(
        (m["p"] or "").lstrip("^"), ""
    )
    said = f"{_span(m)} {power}{one if _is_one(m) or m['hyphen'] else many}"
    if m["per"]:
        said += f" per {UNITS[m['per']][0]}"
    return f" {said}{_stop(m, m['stop'])} "


def _range(m: re.Match[str]) -> str:
    first, second = m["a"], m["b"]
    if re.match(r"\s*=", m.string[m.end() :]):
        return f" {cardinal(first)} minus {cardinal(second)} "
    years = re.fullmatch(r"[12]\d{3}", first) and re.fullmatch(r"[12]\d{3}|\d\d", second)
    said = [cardinal_or_year(int(n)) if years else cardinal(n) for n in (first, second)]
    return f" {said[0]} to {said[1]} "


def _decade(m: re.Match[str]) -> str:
    number = int(m[1])
    said = cardinal_or_year(number) if number > 99 else words_of(number)
    return f" {said[:-1]}ies " if said.endswith("y") else f" {said}s "


def _times(m: re.Match[str]) -> str:
    math = m["x"] == "×" or re.match(r"\s*=", m.string[m.end() :])
    parts = re.split(r"\s?[x×X]\s?", m[0])
    return f" {(' times ' if math else ' by ').join(map(cardinal, parts))} "


def _magnitude(m: re.Match[str]) -> str:
    if m["k"] == "K" and len(m["n"]) == 1:
        return f" {cardinal(m['n'])} K "
    return f" {cardinal(m['n'])} {MAGNITUDES[m['k'].lower()]} "


def _abbreviation(m: re.Match[str]) -> str:
    short = m["short"].lower()
    said = ABBREVIATIONS[short]
    if short == "st":
        before = re.search(r"[A-Z]\w*\s$", m.string[: m.start()])
        after = re.match(r"\s[A-Z]", m.string[m.end() :])
        said = "street" if before and not after else "saint"
        said = said.capitalize() if m["short"][0].isupper() else said
    elif m["short"][0].isupper() and not said[0].isupper():
        said = said.capitalize()
    rest = m.string[m.end() :]
    ends = not rest.strip() or re.match(r"[^\S\n]*\n|[\"')\]]*\s*$", rest)
    can_end = short in ("etc", "inc", "ltd", "co", "corp", "jr", "sr", "ave", "blvd", "rd") or (
        said.lower() == "street"
    )
    if ends or (can_end and re.match(r"\s+[A-Z]", rest)):
        return said + "."
    return said


def _number(m: re.Match[str]) -> str:
    return f" {'minus ' if m['sign'] else ''}{cardinal(m['n'])} "


def _rule(pattern: str, words: Callable[[re.Match[str]], str] | str, flags: int = 0) -> Rule:
    if isinstance(words, str):
        text = words
        return re.compile(pattern, flags), lambda m: m.expand(text)
    return re.compile(pattern, flags), words


def _any(words: object) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))  # type: ignore[call-overload]


_CUR = _any(k for k in CURRENCIES if k[-1] in "$€£¥￥₹₩₽₿₺₪₫฿₴")
_AFTER = _any([*CURRENCY_CODES, *"€£¥￥₹₩₽₿₺₪₫฿₴¢$"])
_CODE = _any(CURRENCY_CODES)
_MAG = r"\s?(?:thousand|million|billion|trillion)\b|(?:k|m|mn|mm|b|bn|t|tn)\b"
_UNIT = _any(UNITS)
_BIG_UNITS = _any(u for u in UNITS if len(u) > 1 or u in "mgLlshWVΩ")
_MONTH = "|".join(MONTHS) + "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec"
_AM = r"[ap]\.?\s?m\b\.?"
_YEAR = r"(?:,?\s(?P<year>[12]\d{3})\b)?"
_I = re.IGNORECASE
_WORD_BEFORE_PHONE = r"(?:call|phone|tel|dial|number|fax|text|mobile|cell|hotline)"


def _names(short: object) -> str:
    return rf"(?<![\w.])(?P<short>{_any(short)})\."


RULES: tuple[Rule, ...] = (
    # Dates before times before chains of digits before ranges.
    _rule(r"(?<![\w.-])([12]\d{3})([-/.])(\d{1,2})\2(\d{1,2})(?=T\d\d:|(?![\w-]|[./]\d))", _iso),
    _rule(r"(?<=[a-z] )T(?=\d\d:\d\d)", "at "),
    _rule(r"(?<=:\d\d)(?:\.\d+)?Z\b", " UTC"),
    _rule(r"(?<![\w./-])(\d{1,2})([-/.])(\d{1,2})\2((?:[12]\d)?\d\d)(?![\w-]|[./]\d)", _slashed),
    _rule(
        rf"\b(?P<month>{_MONTH})\.?\s(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
        rf"(?:{_DASH}(?P<to>[0-3]?\d)(?:st|nd|rd|th)?)?{_YEAR}(?![\d:%]|[.,]\d|\s?[ap]\.?m\b)",
        _month_day,
    ),
    _rule(
        rf"(?P<the>\b[Tt]he\s)?(?<![\w.:/-])(?P<day>[0-3]?\d)(?:st|nd|rd|th)?\s(?:of\s)?"
        rf"(?P<month>{_MONTH})\b\.?{_YEAR}",
        _day_month,
    ),
    # Times; a range of two becomes two times.
    _rule(
        rf"(?<![\w.:])(\d{{1,2}}(?::\d\d(?:\s?{_AM})?|\s?{_AM})){_DASH}"
        rf"(?=\d{{1,2}}(?::\d\d|\s?{_AM}))",
        r"\1 to ",
        _I,
    ),
    _rule(
        rf"(?<![\w.:$])(?P<h>\d{{1,2}})(?P<h2>{_DASH}(?:\d{{1,2}}))\s?(?P<half>{_AM})",
        _hour_range,
        _I,
    ),
    _rule(
        rf"(?<![\w.:$])(?P<h>\d{{1,2}})(?:[:.](?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?)?\s?(?P<half>{_AM})",
        _time,
        _I,
    ),
    _rule(
        r"(?<![\w.:$])(?P<h>[01]?\d|2[0-4]):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?(?P<half>)(?![\d:])",
        _time,
    ),
    _rule(
        rf"(?<![\w.:])({_N})\s?:\s?({_N})(?![\d:])",
        lambda m: f" {cardinal(m[1])} to {cardinal(m[2])} ",
    ),
    # Phone numbers and other chains of digits.
    _rule(r"(?<![\w.])\+\d[\d\s().-]{5,17}\d(?!\w)", _phone),
    _rule(r"(?<![\w.+-])(?:1[\s.-])?(?:\(\d{3}\)\s?|\d{3}[\s.-])\d{3}[\s.-]\d{4}(?![\w-])", _phone),
    _rule(r"(?<![\w.])\(?0\d{2,4}\)?[\s-]\d{3,4}[\s-]?\d{3,4}(?![\w-])", _phone),
    _rule(r"(?<![\w.])\d{4}(?:[ -]\d{4}){3}(?![\w-])", _phone),
    _rule(
        rf"(?<=\b)({_WORD_BEFORE_PHONE}\W+(?:(?:me|us|at|is|on|to)\W+){{0,2}})(\d{{3}})-(\d{{4}})\b",
        lambda m: f"{m[1]}{digits(m[2])}, {digits(m[3])} ",
        _I,
    ),
    _rule(
        rf"({_WORD_BEFORE_PHONE}\W+(?:(?:me|us|at|is|on|to)\W+){{0,2}})(\d{{7,}})\b",
        lambda m: f"{m[1]}{digits(m[2])} ",
        _I,
    ),
    _rule(r"(?<![\w.,-])\d+(?:-\d+){2,}(?![\w-])", _phone),
    _rule(r"(?<![\w.,$€£])\d{10,}(?![\w,.]*\d)", lambda m: f" {digits(m[0])} "),
    _rule(r"(?<![\w.,$€£])0\d+(?![\w.,:/-]*\d)", lambda m: f" {digits(m[0])} "),
    # Versions.
    _rule(r"(?i:\b(?P<v>(?:v\.?|ver\.)\s?))(?P<n>\d+(?:\.\d+)+)\b", _version),
    _rule(r"\b(?P<v>v)(?P<n>\d+)\b", _version),
    _rule(r"(?<![\w.])(?P<v>)(?P<n>\d+(?:\.\d+){2,})(?![.\w]*\d)", _version),
    # Money.
    _rule(
        rf"(?P<sign>(?<![\w)])[-−–])?(?P<cur>{_CUR})\s?(?P<sign2>[-−])?(?P<a>{_N})(?P<mag>{_MAG})?"
        rf"(?:{_DASH}(?:{_CUR})?(?P<b>{_N})(?P<mag2>{_MAG})?)?{_END}",
        _money,
        _I,
    ),
    _rule(
        rf"\b(?P<sign>)(?P<sign2>)(?P<cur>{_CODE})\s?(?P<a>{_N})(?P<mag>{_MAG})?"
        rf"(?P<b>(?!))?(?P<mag2>(?!))?{_END}",
        _money,
    ),
    _rule(rf"{_Q}(?P<mag>{_MAG})?\s?(?P<cur>{_AFTER}){_END}", _after_money),
    _rule(
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
    # Numbers with something behind them.
    _rule(rf"{_Q}(?P<c>\s?[°º]\s?[CF]\b|\s?[℃℉]|\s?[°º])", _degrees),
    _rule(rf"{_Q}\s?[%％]", lambda m: f" {_span(m)} percent "),
    _rule(rf"{_Q}\s?‰", lambda m: f" {_span(m)} per mille "),
    _rule(
        r"(?<![\w.])(\d)['′’](\d{1,2})(?:[\"″”]|'')?(?!\w)",
        lambda m: f" {words_of(int(m[1]))} foot {words_of(int(m[2]))} ",
    ),
    _rule(
        rf"{_Q}(?:(?P<hyphen>-)|\s?)(?P<u>{_BIG_UNITS})(?P<p>[²³]|\^?[23])?"
        rf"(?:/(?P<per>{_UNIT}))?(?P<stop>\.(?=\s*$))?{_END}",
        _unit,
    ),
    _rule(r"(?<![\w.,])'?(\d0|[12]\d\d0)'?s\b", _decade),
    _rule(rf"(?<![\w.,])(?P<n>{_N})(?P<k>k|K|M|B|bn|mn|tn)\b", _magnitude),
    _rule(rf"(?<![\w.,]){_N}(?:\s?(?P<x>[x×X])\s?{_N})+(?!\w)", _times),
    _rule(rf"(?<![\w.,])({_N})[x×](?!\w)", lambda m: f" {cardinal(m[1])} times "),
    _rule(
        r"(?P<on>\b(?:on|by|since|until|before|after|due)\s)?(?<![\w.,/-])(?P<whole>\d+\s+)?"
        r"(?P<top>\d+)\s?/\s?(?P<bottom>\d+)(?![\w/]|[.,]\d)",
        _fraction,
        _I,
    ),
    _rule(rf"(?<![\w.,/-])(?P<a>{_N}){_DASH}(?P<b>{_N})(?![\w/-]|[.,]\d)", _range),
    # Abbreviations.
    _rule(_names(BEFORE_NAME) + r"(?=\s?[A-Z])", _abbreviation, _I),
    _rule(r"(?<![\w.])(?P<short>St)\.(?=\s?\w|\s*$|[,;])", _abbreviation),
    _rule(r"(?<![\w.-])(?P<short>Mrs|Mr|Dr|Ms)(?=\s[A-Z])", _abbreviation),
    _rule(_names(BEFORE_NUMBER) + r"(?=\s?\d)", _abbreviation, _I),
    _rule(r"\b(?P<short>Co)\.(?=\s*$|\s|,)", _abbreviation),
    _rule(_names(ANYWHERE), _abbreviation, _I),
    _rule(r"(?<![\w.-])(?P<short>etc|vs|eg|ie)\b(?!\.\w)", _abbreviation),
    _rule(
        rf"(?<![\w.])(?P<short>{'|'.join(d.capitalize() for d in sorted(DAYS_AND_MONTHS))})\."
        r"(?=\s\w|,|\s*$)",
        _abbreviation,
    ),
    _rule(r"\bet al\.", "and others"),
    _rule(r"\bPh\.?\s?D\.?(?=\s|$|,)", "PhD"),
    _rule(r"\b([AaPp])\.([Mm])\.(?!\w)", lambda m: f"{m[1]}{m[2]}".upper() + _stop(m, m[0])),
    _rule(r"\b(?:[A-Z]\.){2,}(?=\s+[a-z]|,)", lambda m: m[0].replace(".", "")),
    _rule(r"\bw/o\b", "without"),
    _rule(r"\bw/(?=\s?\w)", "with "),
    # Signs.
    _rule(r"(?i:\bno\.?|№|#)\s?(?=\d)", "number "),
    _rule(r"\b(he|him|his|she)/(she|her|hers|he)\b", r"\1 or \2", _I),
    _rule(r"(?<=[A-Za-z])\s?/\s?(?=[A-Za-z])", " "),
    _rule(r"\b([CcFf])#(?!\w)", r"\1 sharp"),
    _rule(r"(?<=\w)\+\+", " plus plus"),
    _rule(r"(?<=\w)\+(?=[\s,.;:!?)]|$)", " plus"),
    _rule(r"\s?\+\s?(?=[\w$(])", " plus "),
    _rule(r"(?<=[\w)])\s?[=＝]\s?(?=[\w(-])", " equals "),
    _rule(r"(?<=[\w)])\s?(?:≈|~=)\s?(?=\w)", " is about "),
    _rule(r"[~～≈]\s?(?=[\d$€£])", "about "),
    _rule(r"\s?(?:≤|<=)\s?", " is at most "),
    _rule(r"\s?(?:≥|>=)\s?", " is at least "),
    _rule(r"\s?≠\s?", " is not "),
    _rule(r"\s?±\s?", " plus or minus "),
    _rule(r"(?<=\d)\s?÷\s?(?=\d)", " divided by "),
    _rule(r"(?<=[\w)])\s<\s?(?=[\d\w])|(?<=\w)<(?=\d)|(?<!\S)<(?=\d)", " less than "),
    _rule(r"(?<=[\w)])\s>\s?(?=[\d\w])|(?<=\w)>(?=\d)|(?<!\S)>(?=\d)", " greater than "),
    _rule(r"(?<=\s)@(?=\s)", "at"),
    # What is left of numbers.
    _rule(
        r"(?P<sign>(?<![\w)\]])[-−])?(?<![\w.])(?P<n>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+"
        r"|\.\d+)(?!\w)",
        _number,
    ),
    _rule(r"(?P<sign>(?<![\w)\]])[-−])(?P<n>\d+)(?![\w.])", _number),
    _rule(r"(\d)(ST|ND|RD|TH)\b", lambda m: m[0].lower()),
)

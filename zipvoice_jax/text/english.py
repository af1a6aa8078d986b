"""English as people read it: money, dates, times, units, ranges and more in words.

Each rule is a pattern and a function from its match to words; their order matters. What no rule
matches is left to the official normaliser. inflect writes the words of numbers.
"""

# ruff: noqa: RUF001 - punctuation and signs

import re

from zipvoice_jax.text.english_words import (
    ABBREVIATIONS,
    CURRENCIES,
    MAGNITUDES,
    MONTHS,
    UNITS,
)
from zipvoice_jax.text.normalizer import cardinal_or_year, words_of

_ARTICLE = re.compile(r"\b(?:an?|each|every|another)\s$", re.IGNORECASE)
_NOUN = re.compile(
    r"\s(?!(?:a|an|the|and|or|in|on|at|per|for|from|to|of|off|with|by|is|was|were|are|each)\b)[a-z]"
)


def cardinal(number: str) -> str:
    """Words of a written number such as 1,234.05, 007 or .5; digit by digit after the point."""
    whole, _, rest = number.replace(",", "").partition(".")
    if len(whole) > 1 and whole[0] == "0" and not rest:
        return digits(whole)
    if len(whole) > 15:
        return digits(whole)
    words = words_of(int(whole)) if whole else ""
    return " ".join(filter(None, [words, "point" if rest else "", digits(rest)]))


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
    words = MONTHS[month - 1] + (f" {ordinal(day)}" if day else "")
    if year is None:
        return words
    return f"{words}, {cardinal_or_year(year)}" if day else f"{words} {cardinal_or_year(year)}"


def clock(hour: int, minute: int, second: int | None = None, half: str = "") -> str:
    """Such as "three thirty PM"; `half` is "a", "p" or ""."""
    words = words_of(hour)
    if minute or second is not None:
        words += f" {'oh ' if minute < 10 else ''}{words_of(minute)}"
    elif not half:
        words += " o'clock" if 0 < hour <= 12 else " hundred" if hour else " hundred hours"
    if second is not None:
        words += f" and {words_of(second)} second{'' if second == 1 else 's'}"
    return words + (f" {half.upper()}M" if half else "")


def span_words(m: re.Match[str]) -> str:
    """Words of a match of `_Q` in english_rules: a number, or a range of two."""
    words = ("minus " if m["sign"] else "") + cardinal(m["a"])
    return f"{words} to {cardinal(m['b'])}" if m["b"] else words


def _is_one(m: re.Match[str]) -> bool:
    return not m["b"] and m["a"].replace(",", "") in ("1", "1.0")


def money_words(m: re.Match[str]) -> str:
    """Money with its sign or code in front: $2.5 million, $5-10, -$3.50."""
    currency = CURRENCIES[(m["cur"] or "").upper()]
    one, many, cent, cents = currency
    if _ARTICLE.search(m.string[: m.start()]) and _NOUN.match(m.string[m.end() :]):
        many = one  # a $5 million deal
    sign = "minus " if m["sign"] or m["sign2"] else ""
    mags = [MAGNITUDES.get((m[g] or "").strip(" -").lower(), "") for g in ("mag", "mag2")]
    if m["b"] or any(mags):
        words = cardinal(m["a"])
        if m["b"]:
            first = mags[0] if mags[0] and mags[0] != mags[1] else ""
            words = " ".join(filter(None, [words, first, "to", cardinal(m["b"]), mags[1]]))
        else:
            words += f" {mags[0]}"
        return f" {sign}{words} {many} "
    return f" {sign}{_amount(m['a'], one, many, cent, cents)} "


def _amount(number: str, one: str, many: str, cent: str, cents: str) -> str:
    whole, _, rest = number.replace(",", "").partition(".")
    if len(rest) > 2 or (rest and not cent):
        return f"{cardinal(number)} {many}"
    minor = int(rest.ljust(2, "0")) if rest else 0
    parts = []
    if whole.strip("0") or not minor:
        parts.append(f"{cardinal(whole or '0')} {one if whole == '1' else many}")
    if minor:
        parts.append(f"{words_of(minor)} {cent if minor == 1 else cents}")
    return " and ".join(parts)


def after_money_words(m: re.Match[str]) -> str:
    """Money with its sign or code behind it: 5€, 100 USD."""
    one, many, cent, cents = CURRENCIES[m["cur"].upper()]
    mag = MAGNITUDES.get((m["mag"] or "").strip(" -").lower(), "")
    sign = "minus " if m["sign"] else ""
    if mag or m["b"]:
        words = cardinal(m["a"]) + (f" to {cardinal(m['b'])}" if m["b"] else "")
        return " ".join(["", *filter(None, [sign.strip(), words, mag, many]), ""])
    return f" {sign}{_amount(m['a'], one, many, cent, cents)} "


def iso_words(m: re.Match[str]) -> str:
    """A date with the year first."""
    words = date(int(m[1]), int(m[3]), int(m[4]))
    return f" {words} " if words else m[0]


def slashed_words(m: re.Match[str]) -> str:
    """Month first, unless that is impossible or points separate the parts, as in Germany."""
    first, second, year = int(m[1]), int(m[3]), int(m[4])
    if m[2] == "." or first > 12:
        first, second = second, first
    if year < 100:
        year += 2000 if year < 50 else 1900
    words = date(year, first, second)
    return f" {words} " if words else m[0]


def month_day_words(m: re.Match[str]) -> str:
    """December 25, 2023, or a range of days."""
    month = MONTHS[_month(m["month"])]
    words = f"{month} {ordinal(int(m['day']))}"
    if m["to"]:
        words += f" to {ordinal(int(m['to']))}"
    return f"{words}, {cardinal_or_year(int(m['year']))}" if m["year"] else words


def day_month_words(m: re.Match[str]) -> str:
    """25 December 2023."""
    the = "" if m["the"] else "the "
    words = f"{the}{ordinal(int(m['day']))} of {MONTHS[_month(m['month'])]}"
    words = f"{m['the'] or ''}{words}"
    return f"{words} {cardinal_or_year(int(m['year']))}" if m["year"] else words


def _month(name: str) -> int:
    return next(i for i, full in enumerate(MONTHS) if full.lower().startswith(name.lower()[:3]))


def time_words(m: re.Match[str]) -> str:
    """A time of day, with AM or PM or without."""
    hour, minute = int(m["h"]), int(m["m"] or 0)
    if hour > 24 or minute > 59:
        return m[0]
    second = int(m["s"]) if m["s"] else None
    return (
        f" {clock(hour, minute, second, (m['half'] or '')[:1].lower())}{stop_words(m, m['half'])} "
    )


def stop_words(m: re.Match[str], found: str | None) -> str:
    """The full stop that an abbreviation shares with its sentence; "" if they share none."""
    rest = m.string[m.end() :]
    ends = bool(found) and found.endswith(".") and not rest.strip()
    return "." if ends or (found and found.endswith(".") and re.match(r"\s+[A-Z]", rest)) else ""


def hour_range_words(m: re.Match[str]) -> str:
    """9-5 pm."""
    half = (m["half"] or "")[:1].lower()
    second = int(re.sub(r"\D", "", m["h2"]))
    words = f"{words_of(int(m['h']))} to {clock(second, 0, None, half)}"
    return f" {words}{stop_words(m, m['half'])} "


def phone_words(m: re.Match[str]) -> str:
    """Groups of digits, one digit at a time."""
    groups = re.findall(r"\d+", m[0])
    words = ", ".join(digits(group) for group in groups)
    return f" {'plus ' if m[0].lstrip().startswith('+') else ''}{words} "


def version_words(m: re.Match[str]) -> str:
    """v2.0.1, or any number with several points; four parts are an IP address."""
    joint = " dot " if m["n"].count(".") == 3 else " point "
    is_address = m["n"].count(".") == 3
    words = joint.join(map(digits if is_address else cardinal, m["n"].split(".")))
    return f" {'version ' if m['v'] else ''}{words} "


def fraction_words(m: re.Match[str]) -> str:
    """3/4, 1 1/2, and what only looks like a fraction: 24/7, on 12/25, 120/80."""
    top, bottom = int(m["top"]), int(m["bottom"])
    whole = m["whole"]
    special = {(24, 7): "twenty-four seven", (9, 11): "nine eleven", (50, 50): "fifty fifty"}
    if not whole and (top, bottom) in special:
        return f" {special[top, bottom]} "
    if not whole and re.fullmatch(r"[12]\d{3}", m["top"]) and len(m["bottom"]) == 2:
        return f"{m['on'] or ''} {cardinal_or_year(top)} {cardinal(m['bottom'])} "  # 2023/24
    is_date = bottom > 10 if m["on"] else bottom > 12 and bottom not in (16, 20)
    if not whole and is_date and (words := date(None, top, bottom)):
        return f"{m['on'] or ''}{words} "
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


def degrees_words(m: re.Match[str]) -> str:
    """Temperatures and angles."""
    scale = {"C": " Celsius", "F": " Fahrenheit", "℃": " Celsius", "℉": " Fahrenheit"}
    kind = (m["c"] or "").strip(" °º").upper()
    return f" {span_words(m)} degree{'' if _is_one(m) else 's'}{scale.get(kind, '')} "


def unit_words(m: re.Match[str]) -> str:
    """A number with a unit, or two: 5 km/h, 10 m²."""
    one, many = UNITS[m["u"]]
    power = {"²": "square ", "2": "square ", "³": "cubic ", "3": "cubic "}.get(
        (m["p"] or "").lstrip("^"), ""
    )
    words = f"{span_words(m)} {power}{one if _is_one(m) or m['hyphen'] else many}"
    if m["per"]:
        words += f" per {UNITS[m['per']][0]}"
    return f" {words}{stop_words(m, m['stop'])} "


def range_words(m: re.Match[str]) -> str:
    """5-10, 1990-2000; a difference before an equals sign."""
    first, second = m["a"], m["b"]
    if re.match(r"\s*=", m.string[m.end() :]):
        return f" {cardinal(first)} minus {cardinal(second)} "
    years = re.fullmatch(r"[12]\d{3}", first) and re.fullmatch(r"[12]\d{3}|\d\d", second)
    words = [cardinal_or_year(int(n)) if years else cardinal(n) for n in (first, second)]
    return f" {words[0]} to {words[1]} "


def decade_words(m: re.Match[str]) -> str:
    """1980s, '90s."""
    number = int(m[1])
    words = cardinal_or_year(number) if number > 99 else words_of(number)
    return f" {words[:-1]}ies " if words.endswith("y") else f" {words}s "


def times_words(m: re.Match[str]) -> str:
    """1920x1080, 3 x 4 = 12."""
    math = m["x"] == "×" or re.match(r"\s*=", m.string[m.end() :])
    parts = re.split(r"\s?[x×X]\s?", m[0])
    if math:
        return f" {' times '.join(map(cardinal, parts))} "
    # A resolution is read like a year.
    words = (
        cardinal_or_year(int(n)) if len(n) == 4 and n.isdigit() else cardinal(n) for n in parts
    )
    return f" {' by '.join(words)} "


def verse_words(m: re.Match[str]) -> str:
    """Psalm 23:1, Matthew 5:3-12."""
    if m["book1"]:
        return f"{m['book1']} {cardinal(m['chapter1'])}, verse {cardinal(m['verse1'])} "
    verses = f"{cardinal(m['verse'])} to {cardinal(m['to'])}"
    return f"{m['book']} {cardinal(m['chapter'])}, verses {verses} "


_LABELLED = re.compile(
    r"\b(?:seat|row|gate|rooms?|apartment|apt\.?|flat|suite|unit|block|building|bus|route|flight|"
    r"platform|terminal)\s$",
    re.IGNORECASE,
)


def magnitude_words(m: re.Match[str]) -> str:
    """10k, 1.5M; and what only looks so: 401k, 18K gold, seat 14B, 221B Baker Street."""
    before, after = m.string[: m.start()], m.string[m.end() :]
    if m[0] == "401k":
        return " four oh one K "
    if m["k"] == "K" and re.match(r"\s(?:yellow |white |rose )?gold\b", after):
        return f" {cardinal(m['n'])} karat "
    named = m["k"] == "B" and m["n"].isdigit() and re.match(r"\s[A-Z][a-z]", after)
    if (m["k"] == "K" and len(m["n"]) == 1) or named or _LABELLED.search(before):
        return f" {cardinal(m['n'])} {m['k']} "
    return f" {cardinal(m['n'])} {MAGNITUDES[m['k'].lower()]} "


def abbreviation_words(m: re.Match[str]) -> str:
    """An abbreviation, with its full stop if that also ends the sentence."""
    short = m["short"].lower()
    words = ABBREVIATIONS[short]
    if short == "st":
        before = re.search(r"(?:[A-Z]\w*|\d(?:st|nd|rd|th))\s$", m.string[: m.start()])
        after = re.match(r"\s[A-Z]", m.string[m.end() :])
        words = "street" if before and not after else "saint"
        words = words.capitalize() if m["short"][0].isupper() else words
    elif m["short"][0].isupper() and not words[0].isupper():
        words = words.capitalize()
    rest = m.string[m.end() :]
    ends = not rest.strip() or re.match(r"[^\S\n]*\n|[\"')\]]*\s*$", rest)
    can_end = short in ("etc", "inc", "ltd", "co", "corp", "jr", "sr", "ave", "blvd", "rd") or (
        words.lower() == "street"
    )
    if (ends and m[0].endswith(".")) or (can_end and re.match(r"\s+[A-Z]", rest)):
        return words + "."
    return words


def number_words(m: re.Match[str]) -> str:
    """A number with commas, a point or a minus."""
    return f" {'minus ' if m['sign'] else ''}{cardinal(m['n'])} "

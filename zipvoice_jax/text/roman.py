"""Roman numerals in English: Henry VIII, Chapter IV, World War II, the XIX century.

eSpeak says "roman eight". Single letters are numerals only if the word before them implies it.
"""

import re

from zipvoice_jax.text.english import cardinal, ordinal
from zipvoice_jax.text.rules import Rule, any_of, rule

_VALUES = {"L": 50, "X": 10, "V": 5, "I": 1}
_BARE = r"(?=[LXVI])(?:XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
_END = r"(?![\w-]|['’](?!s\b))"  # noqa: RUF001
_NUMERAL = _BARE + _END
_LONG = rf"(?=[LXVI]{{2}})(?!XL\b){_NUMERAL}"  # XL alone is a size
_RULERS = any_of(
    "Albert Alexander Alfonso Benedict Carl Carlos Catherine Charles Christian Clement Constantine "
    "Cleopatra Darius Edward Elizabeth Felipe Ferdinand Francis Frederick Friedrich George Gregory "
    "Gustav Haakon Harald Henry Innocent Ivan James Leo Leopold Louis Mary Napoleon Nicholas Olav "
    "Otto Paul Peter Philip Pius Ptolemy Ramses Ramesses Richard Urban Wilhelm William "
    "Xerxes".split()
)
_NUMBERED = any_of(
    "Act Amendment Apollo Appendix Article Book Bowl Chapter Class Episode Exhibit Figure Game "
    "Grade Layer Lesson Level Mark Part Phase Rule Scene Season Section Segment Stage Step "
    "Symphony Table Tier Title Type Unit Version Vol Volume War".split()
)
_NO_NAME = "A|An|And|As|At|But|By|For|From|Her|His|If|In|It|My|Of|On|Or|Our|So|That|The|This|To"
_AFTER_ONE = r"(?=\s*(?:$|[.,;:!?)\n'’]|(?:of|was|ruled|reigned|died|and)\b))"  # noqa: RUF001


def value(numeral: str) -> int:
    """The number that a Roman numeral stands for."""
    numbers = [_VALUES[letter] for letter in numeral]
    after = [*numbers[1:], 0]
    return sum(-n if n < then else n for n, then in zip(numbers, after, strict=True))


def _nth(m: re.Match[str]) -> str:
    return f"{m['before']} the {ordinal(value(m['n']))}"


def _number(m: re.Match[str]) -> str:
    return f"{m['before']} {cardinal(str(value(m['n'])))}"


RULES: tuple[Rule, ...] = (
    rule(
        rf"\b(?P<n>{_BARE})(?:th|st|nd|rd)?(?=[\s-](?:century|centuries|dynasty)\b)",
        lambda m: ordinal(value(m["n"])),
    ),
    rule(rf"\b(?P<before>{_RULERS}) (?P<n>I{_END}){_AFTER_ONE}", _nth),
    rule(rf"\b(?P<before>{_RULERS}) (?P<n>(?!I(?!\w)){_NUMERAL})", _nth),
    rule(rf"\b(?P<before>World War) (?P<n>I{_END})", _number),
    rule(rf"\b(?P<before>(?i:{_NUMBERED})) (?P<n>I{_END}){_AFTER_ONE}", _number),
    rule(rf"\b(?P<before>(?i:{_NUMBERED})) (?P<n>(?!I(?!\w)){_NUMERAL})", _number),
    # After any other name, two letters or more: Rocky III.
    rule(rf"\b(?!(?:{_NO_NAME})\b)(?P<before>[A-Z][a-z]+) (?P<n>{_LONG})", _number),
)

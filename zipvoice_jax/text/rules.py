"""Rules of text repair: a pattern, and the words for its matches."""

import re
from collections.abc import Callable, Iterable

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def rule(pattern: str, words: Callable[[re.Match[str]], str] | str, flags: int = 0) -> Rule:
    """A rule; words given as a string are a template for `re.Match.expand`."""
    if isinstance(words, str):
        text = words
        return re.compile(pattern, flags), lambda m: m.expand(text)
    return re.compile(pattern, flags), words


def any_of(words: Iterable[str]) -> str:
    """A pattern that matches any of these words literally, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))

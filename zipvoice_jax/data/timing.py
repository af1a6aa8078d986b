"""What a corpus says of when its text is spoken, and the starts of tokens that follow from it."""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Rejected
from zipvoice_jax.data.utterance import END_SLACK, alignment_fault

TimingKind = Literal["tokens", "words"]
MATCHED = 0.7  # least share of tokens that words with times must have in common with the text
# What aligners write for what is no word: silence, noise, words that they do not know.
_NO_WORDS = frozenset({"", "sil", "sp", "spn", "<sil>", "<eps>", "<unk>", "<p>", "[noise]"})


@dataclasses.dataclass(frozen=True)
class Timing:
    """When the parts of an utterance are spoken, as its corpus has it.

    Attributes:
        kind: what the parts are: "tokens", the tokenizer's own, or "words" (phones too).
        labels: of the parts; () for tokens.
        starts: of the parts, in seconds from the utterance's beginning.
        ends: likewise; () for tokens, each of which ends where the next begins.
    """

    kind: TimingKind
    labels: tuple[str, ...]
    starts: tuple[float, ...]
    ends: tuple[float, ...]


def timing_of_tokens(starts: Any) -> Timing | None:
    """The timing from the field `token_starts` of a manifest.

    Args:
        starts: a list of seconds; None or an empty list: not known.

    Raises:
        Rejected: it is no list of numbers.
    """
    if starts is None or starts == []:
        return None
    if not isinstance(starts, list):
        raise Rejected("bad alignment", "token_starts is no list of seconds")
    for place, start in enumerate(starts):
        if not _is_time(start):
            shown = str(start)[:30]
            raise Rejected("bad alignment", f"token_starts has {shown!r} for token {place}")
    return Timing("tokens", (), tuple(map(float, starts)), ())


def timing_of_words(words: Sequence[tuple[str, float, float]]) -> Timing | None:
    """The timing from words, or phones, with their times; silences are dropped.

    Args:
        words: label, start and end of each, in seconds.

    Returns:
        None if there are no words.

    Raises:
        Rejected: a word ends before it begins, or begins before the one before it.
    """
    words = [word for word in words if word[0].strip().lower() not in _NO_WORDS]
    for label, start, end in words:
        if end < start:
            raise Rejected("bad alignment", f"{label!r} ends at {end:.3f} s, before its beginning")
    for (_, before, _), (label, start, _) in itertools.pairwise(words):
        if start < before:
            detail = f"goes back from {before:.3f} s to {start:.3f} s at {label!r}"
            raise Rejected("bad alignment", detail)
    if not words:
        return None
    labels, starts, ends = zip(*words, strict=True)
    return Timing("words", tuple(labels), tuple(starts), tuple(ends))


def timing_of_lhotse(alignment: Any) -> Timing | None:
    """The timing from a supervision's `alignment`, as Lhotse writes it.

    Args:
        alignment: for kinds such as "word" or "phone" a list of [symbol, start, duration] or
            [symbol, start, duration, score], in seconds; words are taken where there are some.

    Returns:
        None if nothing is aligned.

    Raises:
        Rejected: it is not of this shape, or its times cannot be.
    """
    if not alignment:
        return None
    if not isinstance(alignment, Mapping):
        raise Rejected("bad alignment", "alignment is no object of lists")
    kinds = ("word", "words", "phone", "phones", *alignment)
    kind = next((one for one in kinds if alignment.get(one)), None)
    if kind is None:
        return None
    words = []
    for place, row in enumerate(alignment[kind]):
        good = isinstance(row, list) and len(row) in (3, 4) and isinstance(row[0], str)
        if not good or not (_is_time(row[1]) and _is_time(row[2])):
            raise Rejected(
                "bad alignment", f"{kind} {place} is {str(row)[:40]}, not [symbol, start, duration]"
            )
        words.append((row[0], float(row[1]), float(row[1]) + float(row[2])))
    return timing_of_words(words)


def joined(timings: Sequence[Timing | None]) -> Timing | None:
    """The timing of supervisions one after the other, which may overlap.

    Words are spoken in the order of the text there: what a second speaker says while the first
    still speaks begins no sooner than the first's last word.

    Returns:
        None unless all are known.
    """
    labels: list[str] = []
    starts: list[float] = []
    ends: list[float] = []
    for timing in timings:
        if timing is None:
            return None
        low = starts[-1] if starts else -math.inf
        labels += timing.labels
        starts += [max(low, start) for start in timing.starts]
        ends += [max(low, end) for end in timing.ends]
    return Timing("words", tuple(labels), tuple(starts), tuple(ends)) if labels else None


def token_starts(
    timing: Timing,
    tokens: Sequence[str],
    duration: float,
    tokens_of: Callable[[str], Sequence[str]],
) -> tuple[float, ...]:
    """Where each token of an utterance begins.

    Args:
        timing: of the utterance.
        tokens: as the tokenizer yields them.
        duration: of its audio, in seconds.
        tokens_of: the tokens of a single word; may raise a UserError.

    Returns:
        seconds from the beginning of the audio.

    Raises:
        Rejected: the timing does not fit the tokens or the audio.
    """
    starts = timing.starts
    if timing.kind == "words":
        starts = _starts_by_words(timing, tokens, duration, tokens_of)
    fault = alignment_fault(starts, len(tokens), duration)
    if fault is not None:
        if len(starts) != len(tokens):
            fault += "; it must be made with the tokenizer of the preparation"
        raise Rejected("bad alignment", fault)
    return tuple(min(start, duration) for start in starts)


def _starts_by_words(
    timing: Timing,
    tokens: Sequence[str],
    duration: float,
    tokens_of: Callable[[str], Sequence[str]],
) -> tuple[float, ...]:
    """Starts of tokens from those of words.

    Tokens of a word share its span evenly; tokens of no word (blanks, punctuation, tags) share
    the time from the word before to the next.
    """
    for label, start, end in zip(timing.labels, timing.starts, timing.ends, strict=True):
        if start < 0:
            detail = f"has {label!r} at {start:.3f} s, before the audio"
            raise Rejected("bad alignment", detail)
        if start > duration or end > duration + 2 * END_SLACK:
            detail = f"has {label!r} past the end of the audio at {duration:.3f} s"
            raise Rejected("bad alignment", detail)
    owners = _owners(timing.labels, tokens, tokens_of)
    starts = [0.0] * len(tokens)
    place, now = 0, 0.0
    for owner, run in _runs(owners):
        if owner is None:
            following = place + run < len(tokens)
            until = timing.starts[owners[place + run] or 0] if following else duration
            until = max(now, until)
        else:
            now = max(now, timing.starts[owner])
            until = max(now, timing.ends[owner])
            if owner + 1 < len(timing.starts):  # words may overlap a little
                until = max(now, min(until, timing.starts[owner + 1]))
        until = min(until, duration)
        for number in range(run):
            starts[place + number] = now + (until - now) * number / run
        place, now = place + run, until
    return tuple(starts)


def _runs(owners: Sequence[int | None]) -> list[tuple[int | None, int]]:
    """Owners of neighbouring tokens and how many tokens each has."""
    return [(owner, len(list(group))) for owner, group in itertools.groupby(owners)]


def _owners(
    labels: Sequence[str], tokens: Sequence[str], tokens_of: Callable[[str], Sequence[str]]
) -> list[int | None]:
    """For each token the number of the word that it belongs to; never going down.

    The words' own tokens, one word after the other, are matched with those of the whole text,
    where a word may sound a little different.

    Raises:
        Rejected: words and text have too little in common.
    """
    spoken: list[str] = []
    words: list[int] = []
    known: dict[str, list[str]] = {}
    for number, label in enumerate(labels):
        if label not in known:
            try:
                known[label] = [one.casefold() for one in tokens_of(label) if _is_spoken(one)]
            except UserError:  # nothing that the tokenizer can speak
                known[label] = []
        spoken += known[label]
        words += [number] * len(known[label])
    places = [place for place, token in enumerate(tokens) if _is_spoken(token)]
    text = [tokens[place].casefold() for place in places]
    owners: list[int | None] = [None] * len(tokens)
    same = 0
    matcher = difflib.SequenceMatcher(None, spoken, text, autojunk=False)
    for kind, low, high, first, end in matcher.get_opcodes():
        same += end - first if kind == "equal" else 0
        if high > low:
            for at in range(first, end):
                owner = words[low + (at - first) * (high - low) // (end - first)]
                owners[places[at]] = owner
    share = same / max(len(spoken), len(text), 1)
    if share < MATCHED:
        raise Rejected(
            "bad alignment",
            f"shares {share:.0%} of its tokens with the text, and {MATCHED:.0%} are needed",
        )
    # What lies within a word belongs to it.
    last: dict[int, int] = {}
    for place, owner in enumerate(owners):
        if owner is not None:
            for between in range(last.get(owner, place), place):
                owners[between] = owner
            last[owner] = place
    return owners


def _is_spoken(token: str) -> bool:
    """Whether a token sounds: no blank, punctuation or tag."""
    is_tag = token.startswith("[") and token.endswith("]")
    return any(char.isalnum() for char in token) and not is_tag


def _is_time(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False

"""When the text of an utterance is spoken, as its corpus says, and the token starts from that."""

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
# What aligners write for silence, noise and unknown words.
_NO_WORDS = frozenset({"", "sil", "sp", "spn", "<sil>", "<eps>", "<unk>", "<p>", "[noise]"})


@dataclasses.dataclass(frozen=True)
class Timing:
    """When the parts of an utterance are spoken, according to its corpus.

    Attributes:
        kind: what the parts are: "tokens", the tokenizer's own, or "words" (phones too).
        labels: labels of the parts; () for tokens.
        starts: starts of the parts, in seconds from the utterance's beginning.
        ends: their ends, likewise; () for tokens, each of which ends where the next begins.
    """

    kind: TimingKind
    labels: tuple[str, ...]
    starts: tuple[float, ...]
    ends: tuple[float, ...]


def timing_of_tokens(starts: Any) -> Timing | None:
    """The timing from the field `token_starts` of a manifest.

    Args:
        starts: a list of seconds; None or an empty list: unknown.

    Raises:
        Rejected: it is not a list of numbers.
    """
    if starts is None or starts == []:
        return None
    if not isinstance(starts, list):
        raise Rejected("bad alignment", "token_starts is not a list of seconds")
    for number, start in enumerate(starts):
        if not _is_time(start):
            shown = str(start)[:30]
            raise Rejected("bad alignment", f"token_starts has {shown!r} for token {number}")
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
            [symbol, start, duration, score], in seconds; words are preferred.

    Returns:
        None if nothing is aligned.

    Raises:
        Rejected: it is not of this shape, or has impossible times.
    """
    if not alignment:
        return None
    if not isinstance(alignment, Mapping):
        raise Rejected("bad alignment", "alignment is no object of lists")
    kinds = ("word", "words", "phone", "phones", *alignment)
    kind = next((one for one in kinds if alignment.get(one)), None)
    if kind is None:
        return None
    if not isinstance(alignment[kind], list):
        raise Rejected("bad alignment", f"{kind} is {str(alignment[kind])[:40]}, not a list")
    words = []
    for number, row in enumerate(alignment[kind]):
        good = isinstance(row, list) and len(row) in (3, 4) and isinstance(row[0], str)
        if not good or not (_is_time(row[1]) and _is_time(row[2])):
            raise Rejected(
                "bad alignment",
                f"{kind} {number} is {str(row)[:40]}, not [symbol, start, duration]",
            )
        words.append((row[0], float(row[1]), float(row[1]) + float(row[2])))
    return timing_of_words(words)


def joined(timings: Sequence[Timing | None]) -> Timing | None:
    """The timing of consecutive supervisions, which may overlap.

    Words are forced into the order of the text: words of a second speaker who interrupts the
    first begin no sooner than the first's last word.

    Returns:
        None unless the timing of all is known.
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
    """When each token of an utterance begins.

    Args:
        timing: timing of the utterance.
        tokens: its tokens, as the tokenizer yields them.
        duration: duration of its audio, in seconds.
        tokens_of: returns the tokens of a single word; may raise a UserError.

    Returns:
        Seconds from the beginning of the audio.

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

    Tokens of a word share its span evenly; tokens between words (blanks, punctuation, tags) share
    the time from the end of the word before to the start of the next.
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
    position, now = 0, 0.0
    for owner, run in _runs(owners):
        if owner is None:
            following = position + run < len(tokens)
            until = timing.starts[owners[position + run] or 0] if following else duration
            until = max(now, until)
        else:
            now = max(now, timing.starts[owner])
            until = max(now, timing.ends[owner])
            if owner + 1 < len(timing.starts):  # words may overlap a little
                until = max(now, min(until, timing.starts[owner + 1]))
        until = min(until, duration)
        for number in range(run):
            starts[position + number] = now + (until - now) * number / run
        position, now = position + run, until
    return tuple(starts)


def _runs(owners: Sequence[int | None]) -> list[tuple[int | None, int]]:
    """Runs of neighbouring tokens with the same owner: the owner and the number of tokens."""
    return [(owner, len(list(group))) for owner, group in itertools.groupby(owners)]


def _owners(
    labels: Sequence[str], tokens: Sequence[str], tokens_of: Callable[[str], Sequence[str]]
) -> list[int | None]:
    """For each token the number of the word that it belongs to; never decreasing.

    The concatenated tokens of the words are matched with those of the whole text, in which a word
    may be pronounced slightly differently.

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
            except UserError:  # the tokenizer cannot speak it
                known[label] = []
        spoken += known[label]
        words += [number] * len(known[label])
    positions = [position for position, token in enumerate(tokens) if _is_spoken(token)]
    text = [tokens[position].casefold() for position in positions]
    owners: list[int | None] = [None] * len(tokens)
    same = 0
    matcher = difflib.SequenceMatcher(None, spoken, text, autojunk=False)
    for kind, low, high, first, end in matcher.get_opcodes():
        same += end - first if kind == "equal" else 0
        if high > low:
            for at in range(first, end):
                owner = words[low + (at - first) * (high - low) // (end - first)]
                owners[positions[at]] = owner
    share = same / max(len(spoken), len(text), 1)
    if share < MATCHED:
        raise Rejected(
            "bad alignment",
            f"shares {share:.0%} of its tokens with the text, and {MATCHED:.0%} are needed",
        )
    # Tokens within a word belong to it.
    last: dict[int, int] = {}
    for position, owner in enumerate(owners):
        if owner is not None:
            for between in range(last.get(owner, position), position):
                owners[between] = owner
            last[owner] = position
    return owners


def _is_spoken(token: str) -> bool:
    """Whether a token is spoken: not a blank, punctuation or a tag."""
    is_tag = token.startswith("[") and token.endswith("]")
    return any(char.isalnum() for char in token) and not is_tag


def _is_time(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False

"""What a corpus says of when its text is spoken, and the starts of tokens that follow from it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from zipvoice_jax.data.checks import Rejected
from zipvoice_jax.data.utterance import alignment_fault

TimingKind = Literal["tokens"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """When the parts of an utterance are spoken, as its corpus has it.

    Attributes:
        kind: what the parts are: "tokens", the tokenizer's own.
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


def token_starts(timing: Timing, tokens: Sequence[str], duration: float) -> tuple[float, ...]:
    """Where each token of an utterance begins.

    Args:
        timing: of the utterance.
        tokens: as the tokenizer yields them.
        duration: of its audio, in seconds.

    Returns:
        seconds from the beginning of the audio.

    Raises:
        Rejected: the timing does not fit the tokens or the audio.
    """
    starts = timing.starts
    fault = alignment_fault(starts, len(tokens), duration)
    if fault is not None:
        if len(starts) != len(tokens):
            fault += "; it must be made with the tokenizer of the preparation"
        raise Rejected("bad alignment", fault)
    return tuple(min(start, duration) for start in starts)


def _is_time(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False

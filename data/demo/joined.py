"""Single utterances of one voice in a row, for the corpus of make_speech.py.

A model that has only heard one sentence at a time does not know what follows one, and a prompt's
sentence followed by another is what generation gives it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from conversations import Clip
from kokoro import RATE
from speech_plan import Speech, by_voice, in_turn, rng_of

PARTS = (2, 4)  # utterances in a row, the second not included
GAPS = (0.05, 0.6)  # seconds between them


@dataclasses.dataclass(frozen=True)
class Joined:
    """Utterances of one voice and the seconds between them."""

    id: str
    parts: tuple[Speech, ...]
    gaps: tuple[float, ...]

    @property
    def text(self) -> str:
        """What is said."""
        return " ".join(part.text for part in self.parts)


def joined(singles: Sequence[Speech], *, count: int, seed: int) -> list[Joined]:
    """Rows of single utterances that exist, each of one voice; they cost no time."""
    of_voice = by_voice(singles)
    names = [name for name, some in of_voice.items() if len(some) > 1]
    made = []
    for number in range(count if names else 0):
        rng = rng_of(seed, "joined", number)
        some = of_voice[in_turn(names, seed, number)]
        order = rng.permutation(len(some))[: int(rng.integers(*PARTS))]
        gaps = np.round(rng.uniform(*GAPS, len(order) - 1), 3)
        parts = tuple(some[i] for i in order)
        made.append(Joined(f"joined_{number:05d}", parts, tuple(gaps.tolist())))
    return made


def begins_of(row: Joined, clips: Sequence[Clip]) -> list[int]:
    """Where each utterance begins, in samples."""
    begins = [0]
    for gap, clip in zip(row.gaps, clips, strict=False):
        begins.append(begins[-1] + clip.samples + round(gap * RATE))
    return begins


def join(waves: Sequence[np.ndarray], begins: Sequence[int]) -> np.ndarray:
    """The utterances at their places, (samples,), with silence between them."""
    row = np.zeros(begins[-1] + len(waves[-1]), np.float32)
    for wave, begin in zip(waves, begins, strict=True):
        row[begin : begin + len(wave)] = wave
    return row


def starts_of(clips: Sequence[Clip], begins: Sequence[int]) -> tuple[float, ...]:
    """Where each token begins, in seconds; an utterance's last token holds the silence after it."""
    starts = [0.0, *clips[0].token_starts[1:]]
    for clip, begin in zip(clips[1:], begins[1:], strict=True):
        starts += [begin / RATE + start for start in (clip.onset, *clip.token_starts[1:])]
    return tuple(round(start, 4) for start in starts)

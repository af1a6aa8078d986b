"""Each speaker of a dialogue alone: a wave for each of the two, as long as both together."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.turns import Turn
from zipvoice_jax.text.tokens import SPEAKER_A, SPEAKER_B

SPEAKERS = (SPEAKER_A[1:-1], SPEAKER_B[1:-1])
_FADE_SECONDS = 0.02

Track = Float[np.ndarray, "1 samples"]


def tracks_of(
    wave: Float[np.ndarray, "channels samples"], turns: Sequence[Turn], sampling_rate: int
) -> tuple[Track, Track]:
    """The two speakers of a dialogue, who together are the wave.

    Args:
        wave: with a channel for each, or with both in one; from that a speaker's turns are taken,
            with fades of 20 ms where the other one takes over.
        turns: who speaks when, as far as is known.
        sampling_rate: Hz.

    Raises:
        UserError: nobody knows who speaks when.
    """
    if wave.shape[0] == 2:
        return wave[:1], wave[1:]
    if not any(turn.speaker for turn in turns):
        raise UserError("only a dialogue whose long silences stay can be split into tracks.")
    first, second = (
        wave * _share(turns, speaker, wave.shape[1], sampling_rate) for speaker in SPEAKERS
    )
    return first, second


def track_paths(path: Path) -> tuple[Path, Path]:
    """Where the tracks of a wave go: `name.s1.wav` and `name.s2.wav` beside `name.wav`."""
    first, second = (path.with_suffix(f".{name.lower()}{path.suffix}") for name in SPEAKERS)
    return first, second


def _share(
    turns: Sequence[Turn], speaker: str, samples: int, sampling_rate: int
) -> Float[np.ndarray, "1 samples"]:
    """1 where a speaker has the turn, else 0, with linear fades; the speakers' sum to 1."""
    seconds = np.arange(samples) / sampling_rate
    share = np.full(samples, float(turns[0].speaker == speaker))
    for before, after in itertools.pairwise(turns):
        change = int(after.speaker == speaker) - int(before.speaker == speaker)
        # The end of a turn is where the next begins, but for a pause between them.
        middle = (before.end + after.start) / 2
        share += change * np.clip((seconds - middle) / _FADE_SECONDS + 0.5, 0.0, 1.0)
    return share.astype(np.float32)[None]

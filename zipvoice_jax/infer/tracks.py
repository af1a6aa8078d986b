"""Tracks: one wave per speaker of a dialogue, as long as the dialogue."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.turns import Turn
from zipvoice_jax.text.tags import BARE_TAG

_FADE_SECONDS = 0.02

Track = Float[np.ndarray, "1 samples"]


def tracks_of(
    wave: Float[np.ndarray, "channels samples"],
    turns: Sequence[Turn],
    sampling_rate: int,
    speakers: int = 2,
) -> tuple[Track, ...]:
    """Splits a dialogue into one track per speaker; the tracks add up to the wave.

    Args:
        wave: a wave with one channel for each of two speakers, or with all speakers in one
            channel; then each track keeps the speaker's turns, with fades of 20 ms between them.
        turns: who speaks when, as far as known.
        sampling_rate: Hz.
        speakers: number of speakers.

    Raises:
        UserError: the turns are unknown.
    """
    if wave.shape[0] == 2:
        return wave[:1], wave[1:]
    if not any(turn.speaker for turn in turns):
        raise UserError("only a dialogue whose long silences stay can be split into tracks.")
    return tuple(
        wave * _share(turns, f"S{number}", wave.shape[1], sampling_rate)
        for number in range(1, speakers + 1)
    )


def track_paths(path: Path, speakers: int = 2) -> tuple[Path, ...]:
    """Paths of the tracks of `name.wav`: `name.s1.wav`, `name.s2.wav` and so on beside it."""
    numbers = range(1, speakers + 1)
    return tuple(path.with_suffix(f".s{number}{path.suffix}") for number in numbers)


def speakers_of(text: str) -> int:
    """Number of tracks of a dialogue: one per speaker up to the highest number, at least two."""
    return max([2, *(int(tag[2:-1]) for tag in BARE_TAG.findall(text))])


def _share(
    turns: Sequence[Turn], speaker: str, samples: int, sampling_rate: int
) -> Float[np.ndarray, "1 samples"]:
    """1 during a speaker's turns, else 0, with linear fades; the speakers' shares sum to 1."""
    seconds = np.arange(samples) / sampling_rate
    share = np.full(samples, float(turns[0].speaker == speaker))
    for before, after in itertools.pairwise(turns):
        change = int(after.speaker == speaker) - int(before.speaker == speaker)
        # A turn ends where the next begins, unless there is a pause between them.
        middle = (before.end + after.start) / 2
        share += change * np.clip((seconds - middle) / _FADE_SECONDS + 0.5, 0.0, 1.0)
    return share.astype(np.float32)[None]

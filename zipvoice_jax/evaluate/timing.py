"""When somebody speaks, and what follows: pauses, speaking rate, turns, gaps, overlaps, leakage."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from zipvoice_jax.evaluate.backends import RATE, Wave

_STEP = 0.01  # seconds, of activity
_QUIET = 1e-10  # power below which nothing is heard at all: -100 dB


@dataclasses.dataclass(frozen=True)
class Region:
    """A stretch of time in seconds."""

    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Turn:
    """A stretch in which one speaker has the floor."""

    speaker: str
    start: float
    end: float


def speech_regions(wave: Wave, *, max_seconds: float = float("inf")) -> list[Region]:
    """Where there is speech, by Silero's detector (as faster-whisper carries it).

    Args:
        wave: at 16 kHz.
        max_seconds: longer stretches are cut at their longest pause.
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        threshold=0.5, min_speech_duration_ms=100, min_silence_duration_ms=150, speech_pad_ms=30,
        max_speech_duration_s=max_seconds,
    )  # fmt: skip
    if len(wave) < RATE // 20:
        return []
    found = get_speech_timestamps(np.asarray(wave, np.float32), options)
    return [Region(region["start"] / RATE, region["end"] / RATE) for region in found]


def activity(regions: Sequence[Region], seconds: float) -> Bool[np.ndarray, " steps"]:
    """Whether there is speech, for every 10 ms."""
    active = np.zeros(int(np.ceil(seconds / _STEP)), bool)
    for region in regions:
        active[round(region.start / _STEP) : round(region.end / _STEP)] = True
    return active


def pauses(regions: Sequence[Region]) -> list[float]:
    """Seconds of silence between stretches of speech."""
    return [b.start - a.end for a, b in itertools.pairwise(regions)]


def turns_of(regions: Mapping[str, Sequence[Region]]) -> list[Turn]:
    """Turns of speakers who each have their own regions.

    A turn is all that a speaker says until another begins to speak and goes on for longer.
    """
    marked = sorted(
        (Turn(name, r.start, r.end) for name, rs in regions.items() for r in rs),
        key=lambda turn: (turn.start, turn.end),
    )
    turns: list[Turn] = []
    for turn in marked:
        if turns and turns[-1].speaker == turn.speaker:
            end = max(turns[-1].end, turn.end)
            turns[-1] = dataclasses.replace(turns[-1], end=end)
        elif turns and turn.end <= turns[-1].end:
            continue  # a word from the listener, within the other's turn
        else:
            turns.append(turn)
    return turns


def changes(turns: Sequence[Turn]) -> list[float]:
    """Seconds from the end of each turn to the begin of the next: gaps, or overlaps if negative."""
    return [b.start - a.end for a, b in itertools.pairwise(turns)]


def leakage(
    stereo: Float[np.ndarray, "2 samples"], regions: Mapping[str, Sequence[Region]]
) -> list[float]:
    """How much of the other is heard on each channel, in dB.

    The power of a channel where only the other speaks, by its power where only its own speaker
    speaks; from -100 (nothing). A channel without either is left out.
    """
    seconds = stereo.shape[1] / RATE
    active = [activity(regions[name], seconds) for name in ("S1", "S2")]
    step = round(_STEP * RATE)
    found = []
    for channel in range(2):
        frames = stereo[channel, : stereo.shape[1] // step * step].reshape(-1, step)
        power = np.mean(frames.astype(np.float64) ** 2, axis=1)
        own, other = (a[: len(power)] for a in (active[channel], active[1 - channel]))
        if (own & ~other).any() and (other & ~own).any():
            ratio = (power[other & ~own].mean() + _QUIET) / (power[own & ~other].mean() + _QUIET)
            found.append(max(10.0 * float(np.log10(ratio)), -100.0))
    return found

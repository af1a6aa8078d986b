"""Regions of speech, and measures from them: pauses, turns, gaps, overlaps, leakage."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from zipvoice_jax.judge.backends import RATE, Wave

_STEP = 0.01  # seconds, of activity
_QUIET = 1e-10  # power below which a channel counts as silent: -100 dB
_ALIKE = 0.7  # correlation of loudness over 1 s: of two speakers below 0.5, of one above 0.9


@dataclasses.dataclass(frozen=True)
class Region:
    """A stretch of time in seconds."""

    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class HeardTurn:
    """A stretch in which one speaker has the floor."""

    speaker: str
    start: float
    end: float


def speech_regions(wave: Wave, *, max_seconds: float = float("inf")) -> list[Region]:
    """Regions of speech, by Silero's detector (the copy in faster-whisper).

    Args:
        wave: samples at 16 kHz.
        max_seconds: longer stretches are cut at their longest pause.
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        threshold=0.5, min_speech_duration_ms=100, min_silence_duration_ms=150, speech_pad_ms=30,
        max_speech_duration_s=max_seconds,
    )  # fmt: skip
    if len(wave) < RATE // 20:
        return []
    spans = get_speech_timestamps(np.asarray(wave, np.float32), options)
    return [Region(region["start"] / RATE, region["end"] / RATE) for region in spans]


def activity(regions: Sequence[Region], seconds: float) -> Bool[np.ndarray, " steps"]:
    """Whether there is speech, for every 10 ms."""
    active = np.zeros(int(np.ceil(seconds / _STEP)), bool)
    for region in regions:
        active[round(region.start / _STEP) : round(region.end / _STEP)] = True
    return active


def pauses(regions: Sequence[Region]) -> list[float]:
    """Seconds of silence between stretches of speech."""
    return [b.start - a.end for a, b in itertools.pairwise(regions)]


def heard_turns(regions: Mapping[str, Sequence[Region]]) -> list[HeardTurn]:
    """Turns of speakers who each have their own regions.

    A turn lasts until another speaker begins to speak and continues beyond its end.
    """
    marked = sorted(
        (HeardTurn(name, r.start, r.end) for name, rs in regions.items() for r in rs),
        key=lambda turn: (turn.start, turn.end),
    )
    turns: list[HeardTurn] = []
    for turn in marked:
        if turns and turns[-1].speaker == turn.speaker:
            end = max(turns[-1].end, turn.end)
            turns[-1] = dataclasses.replace(turns[-1], end=end)
        elif turns and turn.end <= turns[-1].end:
            continue  # a word from the listener, within the other's turn
        else:
            turns.append(turn)
    return turns


def changes(turns: Sequence[HeardTurn]) -> list[float]:
    """Seconds from the end of each turn to the start of the next: gaps, or overlaps if negative."""
    return [b.start - a.end for a, b in itertools.pairwise(turns)]


def leakage(
    stereo: Float[np.ndarray, "2 samples"], regions: Sequence[Sequence[Region]]
) -> list[float]:
    """How much of each speaker is heard on the other's channel, in dB.

    The louder channel is that of the speaker. The measure is the power of the other channel
    divided by that of the speaker's own, over all speech of that speaker, from -100 (silence) to 0
    (equally loud). Simultaneous speech is excluded: both channels have speech there, and their
    levels do not rise and fall together.

    Args:
        stereo: samples at 16 kHz.
        regions: regions of speech in each channel, of either speaker.

    Returns:
        A number for each speaker who speaks.
    """
    step = round(_STEP * RATE)
    frames = stereo[:, : stereo.shape[1] // step * step].reshape(2, -1, step)
    power = np.mean(frames.astype(np.float64) ** 2, axis=2)
    seconds = stereo.shape[1] / RATE
    left, right = (activity(one, seconds)[: power.shape[1]] for one in regions)
    alone = (left | right) & ~(left & right & (_together(power) < _ALIKE))
    levels = []
    for channel in range(2):  # if both are equal, each counts as the louder one
        own = power[:, alone & (power[channel] >= power[1 - channel])].sum(axis=1)
        if own[channel] > 0:
            ratio = own[1 - channel] / own[channel]
            levels.append(10.0 * float(np.log10(max(ratio, _QUIET))))
    return levels


def _together(power: Float[np.ndarray, "2 steps"]) -> Float[np.ndarray, " steps"]:
    """Correlation of the levels of two channels, in decibels, over windows of 1 s."""
    window = np.ones(round(1.0 / _STEP) + 1)
    a, b = np.log(power + _QUIET)
    if not len(a):
        return a
    share = _smooth(np.ones_like(a), window)

    def mean(x: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
        return _smooth(x, window) / share

    both = mean(a * b) - mean(a) * mean(b)
    each = (mean(a * a) - mean(a) ** 2) * (mean(b * b) - mean(b) ** 2)
    return np.where(each > _QUIET, both / np.sqrt(np.maximum(each, _QUIET)), 0.0)


def _smooth(
    x: Float[np.ndarray, " steps"], window: Float[np.ndarray, " width"]
) -> Float[np.ndarray, " steps"]:
    """Sums over a window around each step, truncated at the ends."""
    half = len(window) // 2
    return np.convolve(x, window)[half : half + len(x)]

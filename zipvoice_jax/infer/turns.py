"""Speaker turns of generated speech, from predicted or average durations of tokens."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.infer.prepare import Job
from zipvoice_jax.text.tokens import is_speaker_tag


@dataclasses.dataclass(frozen=True)
class Turn:
    """Speech of one speaker without a pause; `speaker` is "S1", "S2", ... or "" without tags."""

    speaker: str
    start: float  # seconds
    end: float


def turns_of(
    jobs: Sequence[Job],
    features: FeatureConfig,
    fade_seconds: float,
    trimmed: float,
    duration: float,
) -> tuple[Turn, ...]:
    """Turns of an item, or of its part between two pauses, in seconds of the final wave.

    Args:
        jobs: its chunks in order.
        features: feature settings, which give the frame rate.
        fade_seconds: overlap of neighbouring chunks, in seconds.
        trimmed: seconds of silence cut from the beginning.
        duration: seconds of the final wave.
    """
    turns: list[Turn] = []
    offset = -trimmed
    for job in jobs:
        hop = features.hop_length / features.sampling_rate
        seconds = job.new_frames * hop
        if job.durations is None:
            bounds = np.linspace(0.0, seconds, len(job.tokens) + 1)
        else:
            ends = np.cumsum(np.concatenate([[0.0], job.durations]))
            bounds = seconds * ends / max(ends[-1], 1e-9)
        lasting = seconds - hop  # of its wave: frames lie at its ends, too
        bounds = np.minimum(bounds, lasting)
        for token, (begin, until) in zip(job.tokens, itertools.pairwise(bounds), strict=True):
            start, end = offset + float(begin), offset + float(until)
            if is_speaker_tag(token) and (not turns or turns[-1].speaker != token[1:-1]):
                turns.append(Turn(token[1:-1], start, end))
            elif not turns:
                turns.append(Turn("", start, end))
            else:
                turns[-1] = dataclasses.replace(turns[-1], end=end)
        offset += lasting - fade_seconds
    clipped = (
        Turn(turn.speaker, min(max(turn.start, 0.0), duration), min(turn.end, duration))
        for turn in turns
    )
    return tuple(turn for turn in clipped if turn.end > turn.start)

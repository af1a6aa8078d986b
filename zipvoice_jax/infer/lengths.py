"""Speech of a fixed length: the frames of its chunks for a length of the whole."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.jobs import Job

FADE_SECONDS = 0.1  # overlap of neighbouring chunks
# Factor faster or slower than the prompt beyond which a text cannot be spoken.
_MOST = 10.0
_LEAST_FRAMES = 2  # of a chunk, for one sample or more


def shared_frames(
    estimates: Sequence[int], samples: int, features: FeatureConfig, *, joints: int, name: str
) -> list[int]:
    """Frames of chunks that, joined, have a total number of samples.

    Chunks share the frames in proportion to their natural lengths. Their waves, of (frames - 1) *
    hop_length samples, add up to `samples` and less than a frame more, which is to be cut off.

    Args:
        estimates: frames that each chunk would have at the prompt's rate.
        samples: number of samples of all chunks, joined.
        features: feature settings, which give hop length and rate.
        joints: number of overlaps between chunks.
        name: name of the item, for messages.

    Raises:
        UserError: the text cannot be spoken that fast or that slowly.
    """
    rate, hop = features.sampling_rate, features.hop_length
    overlap = joints * int(FADE_SECONDS * rate)
    natural = max(sum(estimates) * hop - overlap, hop) / rate
    if not natural / _MOST <= samples / rate <= natural * _MOST:
        raise UserError(
            f"{name} cannot last {samples / rate:.2f} s, since its text takes about {natural:.1f} "
            f"s at the prompt's speed; give it {natural / _MOST:.2f} to {natural * _MOST:.0f} s."
        )
    total = math.ceil((samples + overlap) / hop) + len(estimates)
    ends = np.round(np.cumsum(estimates) * (total / sum(estimates))).astype(int)
    return np.maximum(np.diff(ends, prepend=0), _LEAST_FRAMES).tolist()


def fitted(jobs: Sequence[Job], samples: int, ending: float, features: FeatureConfig) -> list[Job]:
    """The jobs of an item, with their frames set so that the item has a number of samples.

    Args:
        jobs: the jobs with their natural numbers of frames.
        samples: number of samples of the item, pauses included.
        ending: seconds of silence after the last job.
        features: feature settings, which give hop length and rate.

    Raises:
        UserError: pauses leave no time for words, or an error of `shared_frames`.
    """
    if not jobs:
        return []
    rate, name = features.sampling_rate, jobs[0].item_id
    silence = sum(round(rate * pause) for pause in (*(job.pause for job in jobs), ending))
    if silence >= samples:
        raise UserError(
            f"the pauses of {name} last {silence / rate:g} s, which leaves nothing of its "
            f"{samples / rate:g} s for words; give it a longer duration."
        )
    joints = sum(job.pause == 0.0 for job in jobs[1:])
    estimates = [job.new_frames for job in jobs]
    new = shared_frames(estimates, samples - silence, features, joints=joints, name=name)
    return [
        dataclasses.replace(job, features_len=job.prompt_features.shape[0] + frames)
        for job, frames in zip(jobs, new, strict=True)
    ]


def with_length(
    wave: Float[np.ndarray, "channels samples"], samples: int
) -> Float[np.ndarray, "channels _"]:
    """Cuts a wave at its end, or pads it with silence, to a number of samples."""
    missing = samples - wave.shape[1]
    return np.pad(wave, ((0, 0), (0, missing))) if missing > 0 else wave[:, :samples]

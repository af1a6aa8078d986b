"""How long speech lasts where its user says so: frames of its chunks for a length of the whole."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError

FADE_SECONDS = 0.1  # by which a chunk overlaps the one before
# Times faster or slower than the prompt, beyond which no speech can come of a text.
_MOST = 10.0
_LEAST_FRAMES = 2  # of a chunk, for one sample or more


def shared_frames(
    estimates: Sequence[int], samples: int, features: FeatureConfig, *, joints: int, name: str
) -> list[int]:
    """Frames of chunks that together, joined, last as long as they are told to.

    Each chunk gets its share by what it would last otherwise. Their waves, of (frames - 1) *
    hop_length samples, make `samples` and less than a frame more, which is to be cut off.

    Args:
        estimates: frames that each chunk would have at the prompt's rate.
        samples: of all chunks, joined.
        features: for hop length and rate.
        joints: how often a chunk overlaps the one before.
        name: of the item, for messages.

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


def with_length(
    wave: Float[np.ndarray, "channels samples"], samples: int
) -> Float[np.ndarray, "channels _"]:
    """A wave cut off at its end, or continued by silence, to a number of samples."""
    missing = samples - wave.shape[1]
    return np.pad(wave, ((0, 0), (0, missing))) if missing > 0 else wave[:, :samples]

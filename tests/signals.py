"""Noise to take for sound, and how far two signals or other arrays are apart."""

import numpy as np

from zipvoice_jax.config import FeatureConfig

FEATURES = FeatureConfig()
RATE = FEATURES.sampling_rate


def distance(ours, golden) -> float:
    """Relative 2-norm of the difference."""
    golden = np.asarray(golden, np.float64)
    return float(np.linalg.norm(np.asarray(ours, np.float64) - golden) / np.linalg.norm(golden))


def noise(*shape: int, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """White noise of a shape, the same for the same seed."""
    return (level * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)

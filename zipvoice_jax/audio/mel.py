"""Vocos log-mel features, on the host (librosa) and on the device (jax.numpy).

Both follow `VocosFbank` of the official code (zipvoice/utils/feature.py): a centred,
reflect-padded STFT with a periodic Hann window, magnitudes (power 1) through an HTK mel
filterbank without area normalisation, and `log(max(mel, 1e-7))`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.sparse import csr_array

from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError

MEL_FLOOR = 1e-7  # smallest mel magnitude; its logarithm is the feature of digital silence


def num_frames(samples: int, features: FeatureConfig) -> int:
    """Number of frames of `samples` samples: samples / hop, halves rounded up.

    Equals lhotse's `compute_num_frames(duration, frame_shift, sampling_rate)`, without its
    detour through seconds. A centred STFT has `1 + samples // hop` frames, which is never fewer,
    so surplus frames are cut and none has to be repeated.
    """
    return (samples + features.hop_length // 2) // features.hop_length


@functools.lru_cache(maxsize=8)
def mel_filterbank(features: FeatureConfig) -> Float[np.ndarray, "n_mels bins"]:
    """Triangular filters on the HTK mel scale from 0 Hz to Nyquist, peak 1 (float32)."""
    import librosa.filters  # imported here since it takes half a second

    weights = librosa.filters.mel(
        sr=features.sampling_rate,
        n_fft=features.n_fft,
        n_mels=features.n_mels,
        htk=True,
        norm=None,
    )
    weights.flags.writeable = False  # the array is shared by all callers
    return weights


@functools.lru_cache(maxsize=8)
def _sparse_filterbank(features: FeatureConfig) -> csr_array:
    # 99 of 100 weights are zero. SciPy adds in a fixed order, whereas the last bits of BLAS depend
    # on the number of its threads, so that the waves of two processes would differ.
    return csr_array(mel_filterbank(features))


def hann_window(length: int) -> Float[np.ndarray, " length"]:
    """Periodic Hann window, as torch.hann_window makes it (float32)."""
    phase = 2.0 * np.pi * np.arange(length) / length
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


def _check_wave(shape: tuple[int, ...], features: FeatureConfig, channels: int) -> None:
    if channels not in (1, 2):
        raise UserError(f"features of {channels} channels were asked for; choose 1 or 2.")
    if len(shape) != 2 or shape[0] not in (1, 2):
        raise UserError(
            f"the audio has shape {shape}; give (channels, samples) with 1 or 2 channels."
        )
    if channels == 2 and shape[0] != 2:
        raise UserError("the audio has 1 channel, but this model takes 2; give stereo audio.")
    if shape[1] <= features.n_fft // 2:
        needed = features.n_fft // 2 + 1
        raise UserError(
            f"the audio is too short: {shape[1]} samples at {features.sampling_rate} Hz; "
            f"give at least {needed} ({1000 * needed / features.sampling_rate:.0f} ms)."
        )


def log_mel_host(
    wave: Float[np.ndarray, "channels samples"], features: FeatureConfig, *, channels: int = 1
) -> Float[np.ndarray, "frames bins"]:
    """Log-mel features on the host.

    Args:
        wave: samples at `features.sampling_rate`, 1 or 2 channels.
        features: the feature settings.
        channels: 1: a stereo wave is averaged to mono first; 2: the wave must be stereo.

    Returns:
        (num_frames(samples), channels * n_mels), float32; channel 0's bins come first.

    Raises:
        UserError: wrong channel count, or no more than n_fft / 2 samples.
    """
    import librosa  # imported here since it takes half a second

    _check_wave(wave.shape, features, channels)
    wave = np.asarray(wave, np.float32)
    if channels == 1:
        wave = wave.mean(axis=0, keepdims=True)
    half = features.n_fft // 2
    # Padded here rather than by librosa, which warns of waves shorter than a window.
    padded = np.pad(wave, ((0, 0), (half, half)), mode="reflect")
    spectrum = librosa.stft(
        padded, n_fft=features.n_fft, hop_length=features.hop_length, window="hann", center=False
    )
    filters = _sparse_filterbank(features)
    mel = np.stack([filters @ magnitudes for magnitudes in np.abs(spectrum)])
    log_mel = np.log(np.maximum(mel, np.float32(MEL_FLOOR)))
    log_mel = log_mel[..., : num_frames(wave.shape[1], features)]
    return np.ascontiguousarray(log_mel.reshape(-1, log_mel.shape[-1]).T)


def log_mel(
    wave: Float[Array, "channels samples"],
    features: FeatureConfig,
    *,
    channels: int = 1,
    length: Int[Array, ""] | int | None = None,
) -> Float[Array, "frames bins"]:
    """Log-mel features in jax.numpy; jit-able with `features` and `channels` static.

    Args:
        wave: samples at `features.sampling_rate`, 1 or 2 channels.
        features: the feature settings.
        channels: as for `log_mel_host`.
        length: valid samples of a wave that is padded at its end, more than n_fft / 2 (a
            smaller one is not detected when traced); None: all. Samples from `length` on have
            no effect.

    Returns:
        (num_frames(samples), channels * n_mels), float32. Frames from num_frames(length)
        on are zero.

    Raises:
        UserError: wrong channel count, or no more than n_fft / 2 samples.
    """
    _check_wave(wave.shape, features, channels)
    wave = wave.astype(jnp.float32)
    if channels == 1:
        wave = wave.mean(axis=0, keepdims=True)
    samples = wave.shape[1]
    valid = jnp.asarray(samples if length is None else length, jnp.int32)
    n_fft, hop = features.n_fft, features.hop_length
    frames = num_frames(samples, features)

    # Reflected at the item's own end, not at the end of the padding.
    index = jnp.abs(jnp.arange(-(n_fft // 2), samples + n_fft + hop, dtype=jnp.int32))
    index = jnp.where(index >= valid, 2 * (valid - 1) - index, index)
    padded = wave[:, jnp.clip(index, 0, samples - 1)]

    # Frames as shifted slices of blocks (of hop samples where hop divides n_fft): on
    # accelerators that is cheaper than gathering every overlapping sample.
    block = int(np.gcd(n_fft, hop))
    stride = hop // block
    blocks = padded[:, : padded.shape[1] // block * block].reshape(wave.shape[0], -1, block)
    last = (frames - 1) * stride + 1
    framed = jnp.concatenate(
        [blocks[:, k : k + last : stride] for k in range(n_fft // block)], axis=-1
    )
    windowed = framed * jnp.asarray(hann_window(n_fft))[None, None, :]
    magnitude = jnp.abs(jnp.fft.rfft(windowed, axis=-1))  # (channels, frames, bins)
    # Full float32: the default matmul precision of accelerators costs 1e-3 here.
    mel = jnp.einsum(
        "cfb,mb->fcm",
        magnitude,
        jnp.asarray(mel_filterbank(features)),
        precision=jax.lax.Precision.HIGHEST,
    )
    log = jnp.log(jnp.maximum(mel, MEL_FLOOR)).reshape(frames, -1)
    own = (jnp.arange(frames, dtype=jnp.int32) < (valid + hop // 2) // hop)[:, None]
    return jnp.where(own, log, 0.0)


def log_mel_batch(
    waves: Float[Array, "batch channels samples"],
    lengths: Int[Array, " batch"],
    features: FeatureConfig,
    *,
    channels: int = 1,
) -> tuple[Float[Array, "batch frames bins"], Int[Array, " batch"]]:
    """`log_mel` of a padded batch.

    Args:
        waves: samples, padded at the end with any finite values.
        lengths: valid samples of each item, more than n_fft / 2.
        features: the feature settings.
        channels: as for `log_mel_host`.

    Returns:
        Features, zero after each item's own frames, and each item's number of frames.
    """

    def of_item(wave: Array, length: Array) -> Array:
        return log_mel(wave, features, channels=channels, length=length)

    hop = features.hop_length
    return jax.vmap(of_item)(waves, lengths), (lengths + hop // 2) // hop

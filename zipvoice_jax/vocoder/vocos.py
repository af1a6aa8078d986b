"""Vocos as a vocoder: batches in a few shapes, on the first device."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from zipvoice_jax.checkpoint.official import read_state_dict
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.compiling import Programs, specialised
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.packages import sha256_of_files
from zipvoice_jax.models.vocos import VocosConfig, decode, load_vocos
from zipvoice_jax.vocoder.base import Mels, Wave

# Steps of a fifth to a third, so that no bucket above the first is more than a quarter padding.
FRAMES = (384, 512, 640, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192)
MAX_BATCH = 32


class VocosVocoder:
    """Vocos on the first device, padded to buckets."""

    name = "vocos"

    def __init__(self, config: VocosConfig, params: dict[str, Any], weights: str = "") -> None:
        self.weights = weights
        self.config, self.params = config, jax.device_put(params, jax.local_devices()[0])
        self._programs = Programs(jax.local_devices()[0].platform)
        self.compilations = self._programs.compilations

    def __call__(self, mels: Mels) -> list[Wave]:
        """Waves of (frames - 1) * hop samples, computed batch by batch."""
        waves: list[Wave] = []
        for begin in range(0, len(mels), MAX_BATCH):
            waves += self._batch(mels[begin : begin + MAX_BATCH])
        return waves

    def _batch(self, mels: Mels) -> list[Wave]:
        longest = max(len(mel) for mel in mels)
        frames = next((step for step in FRAMES if longest <= step), longest)
        size = 1 << (len(mels) - 1).bit_length()
        padded = np.zeros((size, frames, mels[0].shape[1]), np.float32)
        lengths = np.zeros((size,), np.int32)
        for row, mel in enumerate(mels):
            padded[row, : len(mel)], lengths[row] = mel, len(mel)
        name = f"vocoder, batch {size}, {frames} frames"
        out = self._programs.run(
            name, name, lambda: jax.jit(specialised(decode, self.config)),
            self.params, padded, lengths,
        )  # fmt: skip
        out = np.asarray(out)
        hop = self.config.hop_length
        return [out[row, : (len(mel) - 1) * hop] for row, mel in enumerate(mels)]


def load_vocoder(directory: Path, features: FeatureConfig) -> VocosVocoder:
    """A vocoder from a Vocos release.

    Raises:
        UserError: it cannot be read, or does not fit the features.
    """
    config, params = load_vocos(directory, read_state_dict)
    takes = config.input_channels, config.n_fft, config.hop_length, config.sampling_rate
    made = features.n_mels, features.n_fft, features.hop_length, features.sampling_rate
    if takes != made:
        raise UserError(
            f"the vocoder in {directory} takes {_described(takes)}, but the model makes "
            f"{_described(made)}; use charactr/vocos-mel-24khz."
        )
    return VocosVocoder(config, params, sha256_of_files(directory / "pytorch_model.bin"))


def _described(features: tuple[int, int, int, int]) -> str:
    return "{} mel bins of {} samples every {} at {} Hz".format(*features)

"""From log-mel to waves: Vocos where its weights are at hand, else Griffin-Lim."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.griffin_lim import griffin_lim
from zipvoice_jax.checkpoint.hub import find_vocoder
from zipvoice_jax.checkpoint.official import read_state_dict
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.compiling import Compilation, compile_for
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.buckets import FRAMES, MAX_BATCH
from zipvoice_jax.models.vocos import VocosConfig, decode, load_vocos

Wave = Float[np.ndarray, " samples"]
Mels = Sequence[Float[np.ndarray, "_ n_mels"]]


@runtime_checkable
class Vocoder(Protocol):
    """Turns log-mel features into waves, each independent of the others."""

    name: str
    compilations: list[Compilation]

    def __call__(self, mels: Mels) -> list[Wave]:
        """Waves of (frames - 1) * hop_length samples."""
        ...


class GriffinLim:
    """The embedded default: no weights, buzzing speech."""

    name = "griffin-lim"

    def __init__(self, features: FeatureConfig) -> None:
        self.features = features
        self.compilations: list[Compilation] = []

    def __call__(self, mels: Mels) -> list[Wave]:
        """One by one, on the host."""
        return [griffin_lim(mel, self.features) for mel in mels]


class VocosVocoder:
    """Vocos on the first device, padded to buckets."""

    name = "vocos"

    def __init__(self, config: VocosConfig, params: dict[str, Any]) -> None:
        self.config, self.params = config, jax.device_put(params, jax.local_devices()[0])
        self.compilations: list[Compilation] = []
        self._programs: dict[tuple[int, int], Any] = {}

    def __call__(self, mels: Mels) -> list[Wave]:
        """Batch by batch, in the order given."""
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
        if (size, frames) not in self._programs:
            function = functools.partial(decode, self.config)
            platform = jax.local_devices()[0].platform
            compiled, seconds = compile_for(function, platform, self.params, padded, lengths)
            name = f"vocoder, batch {size}, {frames} frames"
            self.compilations.append(Compilation(name, seconds))
            self._programs[size, frames] = compiled
        out = np.asarray(self._programs[size, frames](self.params, padded, lengths))
        hop = self.config.hop_length
        return [out[row, : (len(mel) - 1) * hop] for row, mel in enumerate(mels)]


def find(vocoder_path: str | Path | None, features: FeatureConfig) -> tuple[Vocoder, str]:
    """The vocoder to use, and a sentence for the user if it is the makeshift one.

    Args:
        vocoder_path: a Vocos directory; "griffin-lim" asks for that; None looks on the hub.
        features: that the vocoder must fit.

    Raises:
        UserError: `vocoder_path` holds no Vocos that fits.
    """
    if vocoder_path == GriffinLim.name:
        return GriffinLim(features), ""
    directory, reason = find_vocoder(vocoder_path)
    if directory is None:
        told = (
            "no Vocos weights, so Griffin-Lim makes the waves, which sounds much worse than the "
            f"model: {reason}"
        )
        return GriffinLim(features), told
    config, params = load_vocos(directory, read_state_dict)
    if (config.input_channels, config.hop_length) != (features.n_mels, features.hop_length):
        raise UserError(
            f"the vocoder in {directory} takes {config.input_channels} mel bins every "
            f"{config.hop_length} samples, but the model makes {features.n_mels} every "
            f"{features.hop_length}; use charactr/vocos-mel-24khz."
        )
    return VocosVocoder(config, params), ""

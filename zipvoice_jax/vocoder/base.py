"""The vocoder protocol, and the vocoder that needs no weights."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.griffin_lim import griffin_lim
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.compiling import Compilation

Wave = Float[np.ndarray, " samples"]
Mels = Sequence[Float[np.ndarray, "_ n_mels"]]


@runtime_checkable
class Vocoder(Protocol):
    """Turns log-mel features into waves, each independent of the others."""

    name: str
    weights: str  # says which, so that speech by others is not taken for its own; "" for none
    compilations: list[Compilation]

    def __call__(self, mels: Mels) -> list[Wave]:
        """Waves of (frames - 1) * hop_length samples."""
        ...


class GriffinLim:
    """A fallback that needs no weights; its speech buzzes."""

    name = "griffin-lim"
    weights = ""

    def __init__(self, features: FeatureConfig) -> None:
        self.features = features
        self.compilations: list[Compilation] = []

    def __call__(self, mels: Mels) -> list[Wave]:
        """Waves of (frames - 1) * hop_length samples, computed one by one on the host."""
        return [griffin_lim(mel, self.features) for mel in mels]

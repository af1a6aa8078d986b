"""What an aligner looks like and how it is trained."""

import dataclasses
import math

from zipvoice_jax.core.errors import require


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """An aligner and its training.

    Attributes:
        steps: of training.
        batch_seconds: audio in a batch, padding included; raised to the longest utterance.
        buckets: length classes of batches.
        rate: peak of Adam's learning rate, after `warmup` steps; a cosine takes it to 0.
        warmup: steps.
        prior_steps: share of the steps over which the weight of the diagonal prior goes from 1
            to 0.
        width: channels of the hidden layer.
        blank: logarithm of the share of a frame that belongs to no token; too small to matter.
        seed: of parameters and the order of batches.

    Raises:
        UserError: a value that cannot work, with what to do about it.
    """

    steps: int = 400
    batch_seconds: float = 48.0
    buckets: int = 6
    rate: float = 5e-3
    warmup: int = 20
    prior_steps: float = 0.4
    width: int = 64
    blank: float = -30.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "buckets", "width"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and value > 0, f"{name} is {value!r}; give a whole number above 0.")
        for name in ("warmup", "seed"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and value >= 0, f"{name} is {value!r}; give a whole number from 0 on.")
        require(self.seed < 2**32, f"seed is {self.seed}; give one below 2**32.")
        for name in ("batch_seconds", "rate", "prior_steps"):
            value = getattr(self, name)
            require(
                math.isfinite(value) and value > 0, f"{name} is {value!r}; give a number above 0."
            )
        require(math.isfinite(self.blank), f"blank is {self.blank!r}; give a finite score.")

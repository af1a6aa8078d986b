"""The settings of an aligner and of its training."""

import dataclasses

from zipvoice_jax.core.numbers import check_number


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """An aligner and its training.

    Attributes:
        steps: number of training steps.
        batch_seconds: seconds of audio in a batch, padding included; raised to the longest
            utterance.
        buckets: number of length classes of batches.
        rate: peak learning rate of Adam, after `warmup` steps; a cosine decays it to 0.
        warmup: steps of linear warm-up.
        prior_steps: share of the steps over which the weight of the diagonal prior decays from 1
            to 0.
        width: channels of the hidden layer.
        blank: logarithm of the share of a frame that belongs to no token; too small to matter.
        seed: seed of the parameters and of the order of batches.

    Raises:
        UserError: a value cannot work; the message says what to do.
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
        for name, low, high in (
            ("steps", 1, 10**8),
            ("buckets", 1, 64),
            ("width", 1, 100_000),
            ("warmup", 0, 10**8),
            ("seed", 0, 2**32 - 1),
        ):
            check_number(name, getattr(self, name), low, high, whole=True)
        for name, high in (("batch_seconds", 10**6), ("rate", 1), ("prior_steps", 1)):
            check_number(name, getattr(self, name), 0, high, above=True)
        check_number("blank", self.blank, -1000, 0)

"""What an aligner looks like and how it is trained."""

import dataclasses

from zipvoice_jax.core.numbers import check_number


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

"""The data to train on and the shape of its batches: sources, lengths, channels, workers."""

import dataclasses
from typing import Literal, get_args

from zipvoice_jax.core.errors import require
from zipvoice_jax.core.numbers import check_choice, check_number
from zipvoice_jax.text.tokenizer import TOKENIZERS, TokenizerName

Channels = Literal["mono", "stereo", "alternate"]


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One split of a prepared dataset, and how much of it to take.

    Attributes:
        path: dataset directory, as `zipvoice-jax prepare` writes it.
        split: name of the split.
        repeats: how often each record occurs in an epoch; may be a fraction.
        weight: desired share of the audio in the batches, relative to the other sources'
            weights; it sets `repeats`.
        languages: keep only records of these languages; None keeps all.

    Raises:
        UserError: a value cannot work; the message says what to do.
    """

    path: str
    split: str = "train"
    repeats: float = 1.0
    weight: float | None = None
    languages: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        require(bool(self.path), "a source has an empty path; give a dataset directory.")
        for name, value in (("repeats", self.repeats), ("weight", self.weight)):
            if value is not None or name == "repeats":
                check_number(f"{name} of the source {self.path}", value, 0, 10**9, above=True)
        require(
            self.weight is None or self.repeats == 1.0,
            f"the source {self.path} has both repeats and weight; give one of them.",
        )
        require(
            self.languages is None
            or (isinstance(self.languages, tuple) and all(self.languages) and self.languages != ()),
            f"languages of the source {self.path} is {self.languages!r}; give a tuple such as "
            "('en',), or None for all.",
        )

    @property
    def name(self) -> str:
        """Name of the source in messages."""
        return f"{self.path} ({self.split})"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Batches of one stage of training, or of its validation.

    Attributes:
        sources: prepared datasets, mixed.
        batch_seconds: seconds of audio in a global batch, padding included.
        buckets: number of length classes, each with a static shape.
        min_seconds: shorter utterances are left out.
        max_seconds: longer utterances are left out; none is cropped, since its text would no
            longer match.
        channels: "mono" mixes two channels down; "stereo" takes only records of two channels, with
            their features side by side; "alternate" takes the same records, mixed down in even
            steps and with two channels in odd ones, as train_zipvoice_dialog_stereo.py does.
        tokenizer: tokenizer for records without stored tokens; None: all must have them.
        lang: language of the tokenizer "espeak".
        tokens_per_second: room in a batch for the tokens of records without stored tokens; a
            record with more is left out.
        workers: number of decoding processes; 0 decodes in threads of this process.
        threads: number of threads per process.
        prefetch: batches that each process reads ahead.
        cache: keep computed features in the memory of each process, 37.5 kB per second and
            channel; for a small corpus that is read over and over on a fast accelerator.
        max_corrupt: distinct records that may prove unusable before the run stops; never more
            than half of all.

    Raises:
        UserError: a value cannot work; the message says what to do.
    """

    sources: tuple[SourceConfig, ...]
    batch_seconds: float
    buckets: int = 10
    min_seconds: float = 1.0
    max_seconds: float = 30.0
    channels: Channels = "mono"
    tokenizer: TokenizerName | None = None
    lang: str = "en-us"
    tokens_per_second: float = 25.0
    workers: int = 0
    threads: int = 1
    prefetch: int = 2
    cache: bool = False
    max_corrupt: int = 100

    def __post_init__(self) -> None:
        require(
            isinstance(self.sources, tuple)
            and len(self.sources) > 0
            and all(isinstance(source, SourceConfig) for source in self.sources),
            "sources is not a tuple of SourceConfig; give one or more datasets.",
        )
        weighted = sum(source.weight is not None for source in self.sources)
        require(
            weighted in (0, len(self.sources)),
            f"{weighted} of {len(self.sources)} sources have a weight; give all of them one, or "
            "none.",
        )
        for name, most in (
            ("batch_seconds", 10**8),
            ("min_seconds", 10**6),
            ("max_seconds", 10**6),
            ("tokens_per_second", 10_000),
        ):
            check_number(name, getattr(self, name), 0, most, above=True)
        require(
            self.min_seconds <= self.max_seconds,
            f"min_seconds {self.min_seconds:g} is above max_seconds {self.max_seconds:g}; "
            "exchange them.",
        )
        for name, low, high in (
            ("buckets", 1, 64),
            ("workers", 0, 512),
            ("threads", 0, 256),
            ("prefetch", 1, 1024),
            ("max_corrupt", 0, 10**9),
        ):
            check_number(name, getattr(self, name), low, high, whole=True)
        require(
            isinstance(self.cache, bool),
            f"cache is {self.cache!r}; give true or false.",
        )
        check_choice("channels", self.channels, get_args(Channels))
        require(
            self.tokenizer is None or self.tokenizer in TOKENIZERS,
            f"tokenizer is {self.tokenizer!r}; choose one of {', '.join(TOKENIZERS)}, or None for "
            "stored tokens.",
        )

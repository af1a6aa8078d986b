"""Small datasets of made-up speech for the tests of loading."""

import io
from pathlib import Path

import numpy as np
import soundfile
from datasets import write_dataset

from zipvoice_jax.data.utterance import Utterance
from zipvoice_jax.text.tokens import TokenTable

TABLE = TokenTable(("_", "a", "b", "c"))
RATE = 16_000


def utterance(name: str, seconds: float, *, channels: int = 1, tokens: str = "abc") -> Utterance:
    """Noise of a level of its own, as FLAC."""
    samples = round(seconds * RATE)
    noise = np.random.default_rng(samples).standard_normal((samples, channels))
    file = io.BytesIO()
    soundfile.write(file, 0.1 * noise * np.linspace(0.2, 1.0, channels), RATE, format="FLAC")
    duration = samples / RATE
    return Utterance(name, tokens, tuple(tokens), "en", duration, channels, file.getvalue())


def dataset(
    directory: Path, count: int, *, channels: int = 1, low: float = 0.5, high: float = 3.0
) -> Path:
    """A dataset of `count` utterances u0, u1 ... from `low` to `high` seconds in `train`."""
    lengths = np.random.default_rng(count).uniform(low, high, count)
    utterances = [utterance(f"u{i}", s, channels=channels) for i, s in enumerate(lengths)]
    write_dataset(directory, "made_up", {"train": utterances}, shards=2)
    return directory

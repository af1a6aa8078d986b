"""Models that are not run: a sampler and a vocoder of constants, to test what is around them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from zipvoice_jax.infer.engine import Engine
from zipvoice_jax.infer.prepare import Job

HOP = 256
LEVELS = (0.25, 0.5)  # of the channels, before the volume of the prompt


class Tone:
    """A vocoder whose waves stay where the first bin of the mel is."""

    name = "tone"
    weights = ""
    compilations: tuple = ()

    def __call__(self, mels: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.full(HOP * (len(mel) - 1), 0.1 * mel[0, 0], np.float32) for mel in mels]


def run(engine: Engine, batches: Any, _: Any) -> Iterator[Any]:
    """What `Engine.run` yields, without a model: each channel at its level."""
    for bucket, jobs in batches:
        yield bucket, [(job, mel_of(job, engine.config.channels), 0.0) for job in jobs]


def mel_of(job: Job, channels: int) -> np.ndarray:
    row = np.repeat(np.array(LEVELS[:channels], np.float32), 100)
    return np.tile(row, (job.new_frames, 1))


def fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets models of any kind be loaded and none be run."""
    monkeypatch.setattr(Engine, "run", run)
    for name in (
        "zipvoice_jax.vocoder.find.find_vocoder",
        "zipvoice_jax.infer.synthesizer.find_vocoder",
    ):
        monkeypatch.setattr(name, lambda *_: (Tone(), ""))

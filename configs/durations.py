r"""A duration head beside a model of average upsampling, for lengths of speech that fit the words.

    zipvoice-jax train --config configs/durations.py --set init=MODEL --set data=data/mine --to RUN

MODEL is any directory of a model, an official release too. It stays as it is, bit for bit; only the
length of its speech is told by the head instead of the ratio of tokens. The dataset needs
alignments (docs/data.md). The model with its head is RUN/head; `zipvoice-jax bench lengths` tells
what it is worth.
"""

import dataclasses

from zipvoice_jax.checkpoint.hub import load_model
from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.assets import ASSETS
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig


def get_config(
    data: str = "demo/data/single",
    init: str = "",  # the model
    steps: int = 2_000,
    peak: float = 0.03,  # learning rate
    batch_seconds: float = 80.0,
    max_seconds: float = 0.0,  # 0: 20, of dialogues 60
    save_every: int = 500,
) -> TrainConfig:
    """The run."""
    # Sizes, kind and tokens are the model's.
    model = load_model(model_dir=init).config if init else ModelConfig(kind="zipvoice")

    def of(split: str) -> DataConfig:
        return DataConfig(
            (SourceConfig(data, split),),
            batch_seconds=batch_seconds,
            buckets=4,  # fewer programs to compile; the text encoder alone has little to pad
            max_seconds=max_seconds or (60.0 if model.is_dialog else 20.0),
        )

    rise = max(steps // 20, 1)
    return TrainConfig(
        model=dataclasses.replace(model, duration_head=True),
        stages=(
            Stage(
                name="head",
                kind=model.kind,
                objective="durations",
                steps=steps,
                data=of("train"),
                valid=of("dev"),
                learning_rate=PiecewiseLinear(
                    ((0.0, 0.1 * peak), (rise, peak), (max(steps, rise + 1), 0.01 * peak))
                ),
            ),
        ),
        tokens=init or str(ASSETS / "tokens_emilia.txt"),
        init=init or None,
        average="ema",
        ema_decay=0.99,
        log_every=10,
        save_every=save_every,
        keep_last=1,
        samples=0,  # the head changes no sample
    )

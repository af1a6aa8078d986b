r"""ZipVoice-Distill: both stages, from a ZipVoice model (stages 4 to 6 of run_emilia.sh).

    zipvoice-jax train --config configs/distill.py --to exp/distill \
        --set english=data/emilia_en --set chinese=data/emilia_zh \
        --set tokens=zipvoice_jax/assets/tokens_emilia.txt --set init=exp/zipvoice/single

Updates are those of the paper (62k and 12k); the script has 60,000 and 2,000.
"""

import dataclasses

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig

BATCH_SECONDS = 8 * 500.0  # --world-size 8 --max-duration 500


def stages(english: str, chinese: str, after: str | None = None) -> tuple[Stage, Stage]:
    """Both stages; also the last of `curriculum.py`, after its ZipVoice model."""

    def of(split: str) -> DataConfig:
        return DataConfig(
            sources=(
                SourceConfig(english, split, weight=46_000.0),
                SourceConfig(chinese, split, weight=49_000.0),
            ),
            batch_seconds=BATCH_SECONDS,
            min_seconds=1.0,  # --min-len, default
            max_seconds=30.0,  # --max-len, default
            workers=8,  # --num-workers, default
        )

    first = Stage(
        name="distill_first",
        kind="zipvoice_distill",
        objective="distill_first",
        steps=62_000,
        data=of("train"),
        valid=of("dev"),
        learning_rate=5e-4,  # --base-lr 0.0005
        mask_low=0.7,  # compute_fbank_loss: mask_percent=(0.7, 1.0)
        mask_high=1.0,
        condition_drop=0.0,  # compute_fbank_loss drops no condition
        batch_count_offset=100_000.0,  # set_batch_count(... + 100000)
        after=after,
        export_window=7 * 1000,  # generate_averaged_model --iter 60000 --avg 7
    )
    second = dataclasses.replace(
        first,
        name="distill_second",
        objective="distill_second",
        steps=12_000,
        learning_rate=1e-4,  # --base-lr 0.0001
        after=None,
        export_window=0,  # checkpoint-2000.pt is used as it is
    )
    return first, second


def get_config(
    english: str = "data/emilia_en",
    chinese: str = "data/emilia_zh",
    tokens: str = "data/tokens_emilia.txt",
    init: str = "download/zipvoice",  # --teacher-model
    dtype: str = "bfloat16",  # officially float16 autocast: --use-fp16 1
    remat: str = "dots",
) -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=ModelConfig(dtype=dtype, remat=remat),
        stages=stages(english, chinese),
        tokens=tokens,
        batch_multiple=32,
        init=init,
        ema_decay=0.9999,  # --ema-decay, default
        save_every=1000,  # --save-every-n, default of the distillation
        keep_last=30,  # --keep-last-k, default
    )

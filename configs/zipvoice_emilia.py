r"""ZipVoice on Emilia from scratch: the official recipe (egs/zipvoice/run_emilia.sh).

    zipvoice-jax train --config configs/zipvoice_emilia.py --to exp/zipvoice \
        --set english=data/emilia_en --set chinese=data/emilia_zh \
        --set tokens=zipvoice_jax/assets/tokens_emilia.txt

Times and learning rates follow the hours of audio seen, as officially.
"""

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.schedules import Eden

BATCH_SECONDS = 8 * 500.0  # --world-size 8 --max-duration 500
HOURS = 46_000 + 49_000  # English and Chinese: the weights of CutSet.mux in train_zipvoice.py
EPOCHS = 11  # --num-epochs 11
EPOCH = round(HOURS * 3600 / BATCH_SECONDS)  # steps; Lhotse drops some, so about


def stage(english: str, chinese: str) -> Stage:
    """The only stage; also the first of `curriculum.py`."""

    def data(split: str, weighted: bool) -> DataConfig:
        weights = (46_000.0, 49_000.0) if weighted else (None, None)
        return DataConfig(
            sources=(
                SourceConfig(english, split, weight=weights[0]),
                SourceConfig(chinese, split, weight=weights[1]),
            ),
            batch_seconds=BATCH_SECONDS,
            min_seconds=1.0,  # --min-len, default
            max_seconds=30.0,  # --max-len, default
            workers=8,  # --num-workers, default
        )

    return Stage(
        name="single",
        kind="zipvoice",
        steps=EPOCHS * EPOCH,
        data=data("train", True),
        valid=data("dev", False),
        learning_rate=Eden(
            base_lr=0.02,  # --base-lr, default
            lr_batches=7500.0,  # --lr-batches, default
            lr_hours=30_000.0,  # --lr-hours 30000
            warmup_batches=500.0,  # Eden.__init__
            warmup_start=0.5,
        ),
        mask="span",  # ZipVoice.forward: condition_time_mask(mask_percent=(0.7, 1.0))
        mask_low=0.7,
        mask_high=1.0,
        condition_drop=0.2,  # --condition-drop-ratio, default
        export_window=4 * EPOCH,  # generate_averaged_model --epoch 11 --avg 4
    )


def get_config(
    english: str = "data/emilia_en",
    chinese: str = "data/emilia_zh",
    tokens: str = "data/tokens_emilia.txt",
    dtype: str = "bfloat16",  # officially float16 autocast: --use-fp16 1
    remat: str = "dots",
) -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=ModelConfig(dtype=dtype, remat=remat),  # conf/zipvoice_base.json is the default
        stages=(stage(english, chinese),),
        tokens=tokens,
        batch_multiple=32,
        seed=42,  # --seed, default
        feat_scale=0.1,  # --feat-scale, default
        ref_seconds=50.0,  # --ref-duration, default
        average_period=200,  # --average-period, default
        save_every=5000,  # --save-every-n, default
        keep_last=30,  # --keep-last-k, default
    )

r"""ZipVoice on LibriTTS from scratch: the official recipe (egs/zipvoice/run_libritts.sh).

    zipvoice-jax train --config configs/zipvoice_libritts.py --to exp/zipvoice_libritts \
        --set data=data/libritts --set tokens=tokens_libritts.txt

tokens_libritts.txt is written by the official recipe (its script of token files). Times and
learning rates follow the epochs, as officially.
"""

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.schedules import Eden

BATCH_SECONDS = 8 * 250.0  # --world-size 8 --max-duration 250
HOURS = 53.8 + 191.3 + 310.1  # train-clean-100, train-clean-360, train-other-500 (OpenSLR 60)
EPOCHS = 60  # --num-epochs 60
EPOCH = round(HOURS * 3600 / BATCH_SECONDS)  # steps


def get_config(
    data: str = "data/libritts",
    tokens: str = "data/tokens_libritts.txt",
    dtype: str = "float32",  # --use-fp16 0
    remat: str = "dots",
) -> TrainConfig:
    """The run."""

    def of(split: str) -> DataConfig:
        return DataConfig(
            sources=(SourceConfig(data, split),),
            batch_seconds=BATCH_SECONDS,
            min_seconds=1.0,  # --min-len, default
            max_seconds=20.0,  # --max-len 20
            workers=8,  # --num-workers, default
        )

    stage = Stage(
        name="single",
        kind="zipvoice",
        steps=EPOCHS * EPOCH,
        data=of("train"),
        valid=of("dev"),
        learning_rate=Eden(
            base_lr=0.02,  # --base-lr, default
            lr_batches=7500.0,  # --lr-batches, default
            lr_epochs=10.0,  # --lr-epochs 10
            steps_per_epoch=EPOCH,
        ),
        mask_low=0.7,  # ZipVoice.forward
        mask_high=1.0,
        condition_drop=0.2,  # --condition-drop-ratio, default
    )
    return TrainConfig(
        model=ModelConfig(dtype=dtype, remat=remat),  # conf/zipvoice_base.json is the default
        stages=(stage,),
        tokens=tokens,
        batch_multiple=32,
        save_every=EPOCH,  # --valid-by-epoch 1, and a checkpoint per epoch
        export_window=10 * EPOCH,  # generate_averaged_model --epoch 60 --avg 10
    )

r"""ZipVoice-Dialog on OpenDialog, from a ZipVoice model (egs/zipvoice_dialog/run_opendialog.sh).

    zipvoice-jax train --config configs/dialog_opendialog.py --to exp/dialog \
        --set data=data/opendialog --set init=download/zipvoice \
        --set tokens=zipvoice_jax/assets/tokens_dialog.txt

Chinese comes twice an epoch, as officially.
"""

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig

BATCH_SECONDS = 8 * 500.0  # --world-size 8 --max-duration 500


def stage(data: str, tokens: str | None = None) -> Stage:
    """The only stage; also the second of `curriculum.py`."""

    def of(split: str) -> DataConfig:
        return DataConfig(
            sources=(
                SourceConfig(data, split, languages=("en",)),
                # train_zipvoice_dialog.py: train_opendialog_zh_cuts().repeat(2)
                SourceConfig(data, split, repeats=2.0, languages=("zh",)),
            ),
            batch_seconds=BATCH_SECONDS,
            min_seconds=1.0,  # --min-len, default
            max_seconds=30.0,  # --max-len, default
            workers=8,  # --num-workers, default
        )

    return Stage(
        name="dialog",
        kind="zipvoice_dialog",
        steps=60_000,  # --num-iters, default
        data=of("train"),
        valid=of("dev"),
        learning_rate=1e-4,  # --base-lr 0.0001, FixedLRScheduler
        mask="suffix",  # ZipVoiceDialog.forward: condition_time_mask_suffix((0.5, 1.0))
        mask_low=0.5,
        mask_high=1.0,
        condition_drop=0.2,  # --condition-drop-ratio, default
        batch_count_offset=100_000.0,  # set_batch_count(... + 100000)
        tokens=tokens,
        export_window=2 * 5000,  # generate_averaged_model --iter 60000 --avg 2
    )


def get_config(
    data: str = "data/opendialog",
    tokens: str = "data/tokens_dialog.txt",
    init: str = "download/zipvoice",  # --checkpoint download/zipvoice/model.pt
    dtype: str = "bfloat16",  # officially float16 autocast: --use-fp16 1
    remat: str = "dots",
) -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=ModelConfig(dtype=dtype, remat=remat),
        stages=(stage(data),),
        tokens=tokens,
        batch_multiple=32,
        init=init,
        save_every=5000,  # --save-every-n, default
        keep_last=30,  # --keep-last-k, default
    )

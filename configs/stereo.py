r"""ZipVoice-Dialog-Stereo on two-channel dialogues (zipvoice/bin/train_zipvoice_dialog_stereo.py).

    zipvoice-jax train --config configs/stereo.py --to exp/stereo \
        --set data=data/stereo --set init=exp/dialog/dialog \
        --set tokens=zipvoice_jax/assets/tokens_dialog.txt

The official data is not public; any corpus with one speaker per channel will do. Only the
trainer's defaults are known, not the command that was run.
"""

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig

BATCH_SECONDS = 8 * 500.0  # --world-size 8 --max-duration 500 in the trainer's example


def stage(data: str, tokens: str | None = None) -> Stage:
    """The only stage; also the third of `curriculum.py`."""

    def of(split: str) -> DataConfig:
        return DataConfig(
            sources=(SourceConfig(data, split),),
            batch_seconds=BATCH_SECONDS,
            min_seconds=1.0,  # --min-len, default
            max_seconds=60.0,  # --max-len, default
            channels="alternate",  # use_two_channel=(batch_idx % 2 == 1)
            workers=8,  # --num-workers, default
        )

    return Stage(
        name="stereo",
        kind="zipvoice_dialog_stereo",
        steps=25_000,  # --num-iters, default
        data=of("train"),
        valid=of("dev"),
        learning_rate=0.002,  # --base-lr, default; FixedLRScheduler
        mask="suffix",  # ZipVoiceDialogStereo.forward
        mask_low=0.5,
        mask_high=1.0,
        condition_drop=0.2,  # --condition-drop-ratio, default
        exclusive_weight=1.0,  # se_weight=1 in two-channel batches
        batch_count_offset=100_000.0,  # set_batch_count(... + 100000)
        tokens=tokens,
        export_window=2 * 5000,  # as for dialogue; the stereo script's own average is not known
    )


def get_config(
    data: str = "data/stereo",
    tokens: str = "data/tokens_dialog.txt",
    init: str = "download/zipvoice_dialog",
    dtype: str = "bfloat16",  # officially float16 autocast: --use-fp16 1
    remat: str = "full",  # twice the longest item of the other recipes
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

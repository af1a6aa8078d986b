r"""Fine-tuning a model on data of your own (run_finetune.sh of both official recipes).

    zipvoice-jax train --config configs/finetune.py --to exp/mine --set data=data/mine \
        --set init=download/zipvoice --set tokens=download/zipvoice/tokens.txt

For a new language give a token table with the old tokens and the new ones: rows of the embedding
follow their tokens by name, and new ones start at random. For dialogue set kind=zipvoice_dialog,
for dialogue with a speaker on each channel kind=zipvoice_dialog_stereo. A ZipVoice-Distill model is
not fine-tuned but distilled anew (distill.py), from a ZipVoice model that was.
"""

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import require
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig


def get_config(
    data: str = "data/mine",
    init: str = "download/zipvoice",
    tokens: str = "download/zipvoice/tokens.txt",
    kind: str = "zipvoice",
    steps: int = 10_000,  # --num-iters 10000
    learning_rate: float = 1e-4,  # --base-lr 0.0001
    batch_seconds: float = 4 * 500.0,  # --world-size 4 --max-duration 500
    max_seconds: float = 0.0,  # 0: max_len=20 of run_finetune.sh, 60 of that for dialogue
    save_every: int = 1000,  # --save-every-n 1000
    dtype: str = "bfloat16",  # officially float16 autocast: --use-fp16 1
    remat: str = "dots",
) -> TrainConfig:
    """The run."""
    require(
        kind != "zipvoice_distill",
        "a zipvoice_distill model is not fine-tuned; fine-tune a zipvoice model, and distil it "
        "with configs/distill.py.",
    )
    suffix, stereo = kind != "zipvoice", kind == "zipvoice_dialog_stereo"

    def of(split: str) -> DataConfig:
        return DataConfig(
            sources=(SourceConfig(data, split),),
            batch_seconds=batch_seconds,
            max_seconds=max_seconds or (60.0 if suffix else 20.0),
            channels="alternate" if stereo else "mono",  # as in the stereo trainer
            workers=8,  # --num-workers, default
        )

    stage = Stage(
        name="finetune",
        kind=kind,
        steps=steps,
        data=of("train"),
        valid=of("dev"),
        learning_rate=learning_rate,
        mask="suffix" if suffix else "span",
        mask_low=0.5 if suffix else 0.7,
        mask_high=1.0,
        condition_drop=0.2,  # --condition-drop-ratio, default
        exclusive_weight=1.0 if stereo else 0.0,  # se_weight=1 in two-channel batches
        batch_count_offset=100_000.0,  # set_batch_count(... + 100000) with --finetune 1
    )
    return TrainConfig(
        model=ModelConfig(kind=kind, dtype=dtype, remat=remat),
        stages=(stage,),
        tokens=tokens,
        batch_multiple=32,
        init=init,
        save_every=save_every,
        keep_last=30,  # --keep-last-k, default
        export_window=2 * save_every,  # generate_averaged_model --iter 10000 --avg 2
    )

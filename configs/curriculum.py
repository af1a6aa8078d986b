r"""All stages in one run: the official recipes one after the other.

    zipvoice-jax train --config configs/curriculum.py --to exp/curriculum \
        --set english=data/emilia_en --set chinese=data/emilia_zh --set dialog=data/opendialog \
        --set stereo=data/stereo --set tokens=zipvoice_jax/assets/tokens_dialog.txt

Single speaker, dialogue, stereo; then both stages of distillation, from the single-speaker model.
Each stage begins with the model that the one before it handed on, or the one its `after` names.
`--set stages=dialog,stereo --set init=download/zipvoice` takes some of them.
"""

import dataclasses

import dialog_opendialog
import distill
import stereo as stereo_recipe
import zipvoice_emilia

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import require
from zipvoice_jax.train.config import TrainConfig


def get_config(
    english: str = "data/emilia_en",
    chinese: str = "data/emilia_zh",
    dialog: str = "data/opendialog",
    stereo: str = "data/stereo",
    tokens: str = "data/tokens_dialog.txt",  # from the start, so that no stage adds tokens
    dtype: str = "bfloat16",
    remat: str = "dots",
    stages: str = "single,dialog,stereo,distill_first,distill_second",
    init: str = "",
) -> TrainConfig:
    """The run."""
    known = (
        zipvoice_emilia.stage(english, chinese),
        dialog_opendialog.stage(dialog),
        stereo_recipe.stage(stereo),
        *distill.stages(english, chinese, after="single"),
    )
    names = stages.split(",")
    require(
        set(names) <= {stage.name for stage in known},
        f"stages={stages} has unknown ones; choose some of "
        f"{','.join(stage.name for stage in known)}.",
    )
    chosen = [stage for stage in known if stage.name in names]
    chosen = [
        stage if stage.after in (None, *names) else dataclasses.replace(stage, after=None)
        for stage in chosen
    ]
    return TrainConfig(
        model=ModelConfig(dtype=dtype, remat=remat),
        stages=tuple(chosen),
        tokens=tokens,
        init=init or None,
        batch_multiple=32,
        ema_decay=0.9999,  # --ema-decay of the distillation, default
        save_every=5000,  # --save-every-n, default
        keep_last=30,  # --keep-last-k, default
    )

r"""Single speaker, dialogue and stereo in one run: the official recipes one after the other.

    zipvoice-jax train --config configs/curriculum.py --to exp/curriculum \
        --set english=data/emilia_en --set chinese=data/emilia_zh --set dialog=data/opendialog \
        --set stereo=data/stereo --set tokens=tokens_dialog.txt

Each stage begins with the model that the one before it handed on.
"""

import dialog_opendialog
import stereo as stereo_recipe
import zipvoice_emilia

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.train.config import TrainConfig


def get_config(
    english: str = "data/emilia_en",
    chinese: str = "data/emilia_zh",
    dialog: str = "data/opendialog",
    stereo: str = "data/stereo",
    tokens: str = "data/tokens_dialog.txt",  # from the start, so that no stage adds tokens
    dtype: str = "bfloat16",
    remat: str = "dots",
) -> TrainConfig:
    """The run."""
    return TrainConfig(
        model=ModelConfig(dtype=dtype, remat=remat),
        stages=(
            zipvoice_emilia.stage(english, chinese),
            dialog_opendialog.stage(dialog),
            stereo_recipe.stage(stereo),
        ),
        tokens=tokens,
        batch_multiple=32,
        save_every=5000,
        keep_last=3,
        export_window=2 * 5000,
    )

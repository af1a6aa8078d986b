"""All three stages on a few minutes of speech, in minutes on two CPU cores: a run to try things on.

    python data/demo/make_corpus.py --to demo/corpus
    for name in single dialogue stereo; do
        zipvoice-jax prepare --format tsv --from demo/corpus/$name.tsv --to demo/data/$name ...
    done
    zipvoice-jax train --config configs/tiny.py --to demo/run --set data=demo/data

The model is far too small, and the data too little, for speech that anyone can understand.
"""

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.assets import ASSETS
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig

TOKENS = ASSETS / "tokens_dialog.txt"


def get_config(
    data: str = "demo/data",
    tokens: str = str(TOKENS),
    single: int = 400,  # steps of each stage
    dialog: int = 150,
    stereo: int = 100,
    batch_seconds: float = 32.0,
    save_every: int = 75,
    peak: float = 0.045,  # learning rate of the first stage
) -> TrainConfig:
    """The run."""

    def of(name: str, split: str, buckets: int, **rest: object) -> DataConfig:
        source = SourceConfig(f"{data}/{name}", split)
        # Longer ones are left out: time grows with the square of the length.
        return DataConfig(
            (source,), batch_seconds=batch_seconds, buckets=buckets, max_seconds=12.0, **rest
        )  # type: ignore[arg-type]

    def rate(peak: float, steps: int) -> PiecewiseLinear:
        """Up over a tenth of the stage, then down to a tenth."""
        return PiecewiseLinear(((0.0, 0.1 * peak), (0.1 * steps, peak), (steps, 0.1 * peak)))

    dialogue = dict(mask="suffix", mask_low=0.5, mask_high=1.0, batch_count_offset=100_000.0)
    return TrainConfig(
        model=ModelConfig(
            fm_decoder_downsampling_factor=(1,),  # one stack, since each takes long to compile
            fm_decoder_num_layers=(3,),
            fm_decoder_cnn_module_kernel=(15,),
            fm_decoder_feedforward_dim=192,
            fm_decoder_num_heads=2,
            fm_decoder_dim=96,
            text_encoder_num_layers=1,
            text_encoder_feedforward_dim=96,
            text_encoder_cnn_module_kernel=7,
            text_encoder_num_heads=2,
            text_encoder_dim=64,
            query_head_dim=16,
            time_embed_dim=64,
            text_embed_dim=64,
        ),
        stages=(
            Stage(
                name="single",
                kind="zipvoice",
                steps=single,
                data=of("single", "train", 1),
                valid=of("single", "dev", 1),
                learning_rate=rate(peak, single),
                batch_count_offset=100_000.0,  # little dropout: there is no time for more
            ),
            Stage(
                name="dialog",
                kind="zipvoice_dialog",
                steps=dialog,
                data=of("dialogue", "train", 1),
                valid=of("dialogue", "dev", 1),
                learning_rate=rate(0.01, dialog),
                **dialogue,  # type: ignore[arg-type]
            ),
            Stage(
                name="stereo",
                kind="zipvoice_dialog_stereo",
                steps=stereo,
                data=of("stereo", "train", 1, channels="alternate"),
                valid=of("stereo", "dev", 1, channels="alternate"),
                learning_rate=rate(0.01, stereo),
                exclusive_weight=1.0,
                **dialogue,  # type: ignore[arg-type]
            ),
        ),
        tokens=tokens,
        average_period=5,
        export_window=20,
        log_every=1,
        save_every=save_every,
        keep_last=2,
    )

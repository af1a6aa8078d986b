"""A small model that speaks: three stages on hours of synthetic speech.

    python data/demo/make_speech.py --to demo/speech  # what it needs is said there
    for name in single dialogue stereo; do
        tokenizer=dialog; if [ $name = single ]; then tokenizer=emilia; fi
        zipvoice-jax prepare --format jsonl --from demo/speech/$name.jsonl \
            --dev-from demo/speech/${name}_dev.jsonl --to demo/speech/data/$name --language en \
            --tokenizer $tokenizer --tokens zipvoice_jax/assets/tokens_dialog.txt
    done
    zipvoice-jax train --config configs/demo.py --set data=demo/speech/data --to demo/speech/run

10M parameters, upsampling by durations: it is told where tokens are spoken, and so says words after
a small part of the updates that average upsampling takes: in minutes on a GPU with the settings of
docs/demo_model.md, and within two hours on two CPU cores with AVX-512 as far as measured (3,350
steps of the first stage and 550 of dialogues at dim=192, the same page), so with `--set dim=192
--set single=3000 --set dialog=550`. `--listen LIST` hears words beside the losses. For a language
of your own, give its data, prepared with alignments or aligned by `zipvoice-jax align`.
"""

import math

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.assets import ASSETS
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig

TOKENS = ASSETS / "tokens_dialog.txt"


def cosine(peak: float, steps: int, warmup: int = 300) -> PiecewiseLinear:
    """Up to a peak, then down to a hundredth of it by half a cosine, in twelve straight pieces."""
    warmup = max(min(warmup, steps // 4), 1)
    span = max(steps - warmup, 1)
    points = [(0.0, 0.1 * peak)]
    for i in range(13):
        share = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * i / 12))
        points.append((warmup + span * i / 12, peak * share))
    return PiecewiseLinear(tuple(points))


def get_config(
    data: str = "demo/speech/data",  # or several folders with commas between
    tokens: str = str(TOKENS),
    single: int = 20_000,  # steps of each stage
    dialog: int = 6_000,
    stereo: int = 1_200,
    batch_seconds: float = 40.0,
    buckets: int = 3,  # length classes; each is a program to compile
    peak: float = 0.035,  # learning rate of the first stage
    later: float = 0.015,  # of the stage of dialogues
    last: float = 0.006,  # of the stereo stage
    dim: int = 256,  # of the decoder
    dtype: str = "float32",  # bfloat16 on an accelerator
    threads: int = 1,  # that read data
    upsampling: str = "durations",
    t_shift: float = 0.3,  # of the stages of dialogues
    channel_decoding: str = "separate",  # or joint: both channels in one pass
    only_speaker: float = 0.0,  # share of dialogues that are learnt voice by voice
    valid: bool = True,  # validation losses at each checkpoint, with programs of their own
    save_every: int = 500,
    samples: int = 2,  # validation items to draw and to hear at each checkpoint
    init: str = "",  # a model to start from
) -> TrainConfig:
    """The run."""

    def of(name: str, split: str, most: float, **rest: object) -> DataConfig:
        sources = tuple(SourceConfig(f"{folder}/{name}", split) for folder in data.split(","))
        return DataConfig(
            sources[:1] if split == "dev" else sources,
            batch_seconds=batch_seconds, buckets=buckets, max_seconds=most, cache=True,
            threads=threads, prefetch=2 * threads, **rest,
        )  # type: ignore[arg-type]  # fmt: skip

    # A few seconds of one voice say enough of it: up to all of an utterance is to be generated.
    common = dict(condition_drop=0.15, hooks=False)
    # A span anywhere: either voice may be in sight, before or after what is to be generated. Where
    # `only_speaker` draws one of the speakers, the other's turns are not in sight.
    dialogue = dict(
        mask="span",
        mask_low=0.3,
        mask_high=0.8,
        t_shift=t_shift,
        only_speaker=only_speaker,
        speaker_std=0.5,
        **common,
    )
    return TrainConfig(
        model=ModelConfig(
            fm_decoder_downsampling_factor=(1, 2, 1),
            fm_decoder_num_layers=(1, 4, 1),
            fm_decoder_cnn_module_kernel=(15, 9, 15),
            fm_decoder_feedforward_dim=512,
            fm_decoder_num_heads=4,
            fm_decoder_dim=dim,
            text_encoder_num_layers=2,
            text_encoder_feedforward_dim=256,
            text_encoder_cnn_module_kernel=9,
            text_encoder_num_heads=4,
            text_encoder_dim=128,
            upsampling=upsampling,  # type: ignore[arg-type]
            dtype=dtype,  # type: ignore[arg-type]
            speaker_prompts="own",
            channel_decoding=channel_decoding,  # type: ignore[arg-type]
        ),
        stages=(
            Stage(
                name="single",
                kind="zipvoice",
                steps=single,
                data=of("single", "train", 14.0),
                valid=of("single", "dev", 14.0) if valid else None,
                learning_rate=cosine(peak, single),
                **common,  # type: ignore[arg-type]
            ),
            Stage(
                name="dialog",
                kind="zipvoice_dialog",
                steps=dialog,
                data=of("dialogue", "train", 24.0),
                valid=of("dialogue", "dev", 24.0) if valid else None,
                learning_rate=cosine(later, dialog),
                **dialogue,  # type: ignore[arg-type]
            ),
            Stage(
                name="stereo",
                kind="zipvoice_dialog_stereo",
                steps=stereo,
                data=of("stereo", "train", 24.0, channels="alternate"),
                valid=of("stereo", "dev", 24.0, channels="alternate") if valid else None,
                learning_rate=cosine(last, stereo),
                exclusive_weight=1.0,
                channel_difference=0.3 if channel_decoding == "joint" else 0.0,
                **dialogue,  # type: ignore[arg-type]
            ),
        ),
        tokens=tokens,
        init=init or None,
        average="ema",
        ema_decay=0.999,
        export_window=1000,
        log_every=10,
        save_every=save_every,
        keep_last=2,
        samples=samples,
    )

"""Ablations at the size of the demo model, on its corpus: small, and yet understood.

    zipvoice-jax ablate turns --config configs/demo_ablations.py --set data=demo/speech/data \
        --set single_model=demo/speech/run/single --test-list demo/speech/test_dialogue.tsv \
        --to demo/ablate/turns --vocoder-path hifigan --seeds 0 1

Data, model and rates are those of demo.py. Rows that do not say otherwise start from one model of
single speakers (`single_model`), those of `stereo` from one of dialogues (`dialog_model`), so that
a few hundred steps are enough to be understood; the seed tells order of data, noise and masks. Rows
of one ablation take as many steps.
"""

import dataclasses

import ablations
import demo

from zipvoice_jax.ablation.study import Ablation, Row
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import SourceConfig
from zipvoice_jax.train.config import TrainConfig

SPEECH = ("wer", "sim", "rate")
DIALOGUE = ("wer", "cpwer", "cpsim", "voices", "turns")


def get_config(
    data: str = "demo/speech/data",  # or several folders with commas between
    stage: str = "dialog",  # single, dialog or stereo
    steps: int = 300,
    start: str = "single",  # single, dialog or nothing: random weights
    single_model: str = "demo/speech/run/single",
    dialog_model: str = "demo/speech/run/dialog",
    upsampling: str = "durations",
    alignment: str = "",  # blend or items: boundaries from true to average
    mixture: float = 0.0,  # share of single speakers in the dialogue stage
    speaker_tokens: str = "tags",
    speaker_embedding: str = "text_output",
    speaker_prompts: str = "own",  # or joint: sampled, and learnt, with both voices in sight
    channel_decoding: str = "separate",  # or joint: both channels in one pass
    exclusive_weight: float = 1.0,
    one_channel: bool = True,  # alternates one- and two-channel batches of the stereo stage
    peak: float = 0.02,  # learning rate
    batch_seconds: float = 40.0,
    buckets: int = 3,
    dtype: str = "float32",  # bfloat16 on an accelerator
    threads: int = 1,  # that read data
    valid: bool = True,
    seed: int = 0,
) -> TrainConfig:
    """One row's run."""
    init = {"single": single_model, "dialog": dialog_model, "": ""}[start]
    run = demo.get_config(
        data, single=steps, dialog=steps, stereo=steps, peak=peak, later=peak, last=peak,
        upsampling=upsampling, init=init, save_every=10_000, samples=0, valid=valid,
        batch_seconds=batch_seconds, buckets=buckets, dtype=dtype, threads=threads,
        only_speaker=float(speaker_prompts == "own"), channel_decoding=channel_decoding,
    )  # fmt: skip
    only = next(one for one in run.stages if one.name == stage)
    if alignment:
        # True boundaries for a tenth, then down for 60 %, then those of the average rule alone.
        moving = PiecewiseLinear(((0.1 * steps, 1.0), (0.7 * steps, 0.0)))
        only = dataclasses.replace(only, alignment=moving, alignment_rule=alignment)
    if mixture > 0:
        shares = {"dialogue": 1.0 - mixture, "single": mixture}
        folders = data.split(",")
        sources = [
            SourceConfig(f"{folder}/{name}", weight=share / len(folders))
            for name, share in shares.items()
            for folder in folders
        ]
        only = ablations.with_sources(only, sources)
    if stage == "stereo":
        both = None if only.valid is None else dataclasses.replace(only.valid, channels="stereo")
        only = dataclasses.replace(
            only,
            data=only.data if one_channel else dataclasses.replace(only.data, channels="stereo"),
            valid=both,  # two channels for all rows, however they train
            exclusive_weight=exclusive_weight,
        )
    model = dataclasses.replace(
        run.model,
        speaker_tokens=speaker_tokens,  # type: ignore[arg-type]
        speaker_embedding=speaker_embedding,  # type: ignore[arg-type]
        speaker_prompts=speaker_prompts,  # type: ignore[arg-type]
    )
    return dataclasses.replace(run, model=model, stages=(only,), seed=seed)


def get_ablations() -> dict[str, Ablation]:
    """The ablations by name."""
    one, average = ("stage=single",), ("stage=single", "upsampling=average")
    upsampling = (
        Row("durations", one),
        Row("average", average),
        Row("boundaries move to average", (*average, "alignment=blend")),
        Row("items change to average", (*average, "alignment=items")),
    )
    scratch = tuple(
        dataclasses.replace(row, settings=(*row.settings, "start=")) for row in upsampling
    )
    # Where each speaker is sampled apart, the model need not know whose turn it is.
    turns = tuple(
        dataclasses.replace(row, settings=(*row.settings, "speaker_prompts=joint"))
        for row in ablations.TURNS
    )
    curriculum = (
        Row("from single speakers"),
        Row("from scratch", ("start=",)),
        Row("mixture from scratch", ("start=", "mixture=0.3")),
    )
    full = ("stage=stereo", "start=dialog")
    stereo = (
        Row("full", full),
        Row("without exclusive loss", (*full, "exclusive_weight=0")),
        Row("without one-channel regularisation", (*full, "one_channel=false")),
        Row("without one-channel initialisation", ("stage=stereo", "start=")),
    )
    return {
        "upsampling": Ablation("Can an average model learn from boundaries?", "single", upsampling,
                               SPEECH),
        "upsampling_scratch": Ablation("What do boundaries tell a model with random weights?",
                                       "single", scratch, SPEECH),
        "turns": Ablation("How does the model know whose turn it is?", "dialog", turns, DIALOGUE),
        "curriculum": Ablation("Does single speech first help dialogues?", "dialog", curriculum,
                               DIALOGUE),
        "stereo": Ablation("What keeps the channels of a stereo dialogue apart?", "stereo", stereo,
                           ("wer", "cpwer", "cpsim", "voices", "leakage")),
    }  # fmt: skip

"""The ablations of the paper and the open checks on it, at a size that trains in minutes.

    zipvoice-jax ablate turns --config configs/ablations.py --set data=demo/data \
        --test-list demo/check/right.tsv --to demo/ablate/turns

`get_config` is one budget for all rows: tiny.py's model with fewer steps. For an ablation that
says something about speech, give `get_config` the sizes of dialog_opendialog.py and its data.
`speakers` wants the corpora of data/demo/make_voices.py.

Rows of an ablation are validated on one set, and their stages that start from random weights have
one peak of the learning rate, so that they differ in what their names say.
"""

import dataclasses

import tiny

from zipvoice_jax.ablation.study import Ablation, Row
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig

TURNS = (
    Row("tokens and embedding"),
    Row("| separator", ("speaker_tokens=separator", "speaker_embedding=none")),
    Row("[S1] [S2] tokens", ("speaker_embedding=none",)),
    Row("embedding before the text encoder", ("speaker_embedding=text_input",)),
)


def get_config(
    data: str = "demo/data",
    voices: str = "",  # folder in data: seen or held_out, of make_voices.py
    stages: str = "single,dialog",  # of single, dialog, stereo
    single: int = 60,
    dialog: int = 60,
    stereo: int = 40,
    mixture: float = 0.0,  # share of single speakers in the dialogue stage
    speaker_tokens: str = "tags",
    speaker_embedding: str = "text_output",
    exclusive_weight: float = 1.0,
    one_channel: bool = True,  # alternates one- and two-channel batches of the stereo stage
    batch_seconds: float = 16.0,
    peak: float = 0.045,  # learning rate of the stage that starts from random weights
    seed: int = 0,
) -> TrainConfig:
    """One row's run."""
    data = f"{data}/{voices}" if voices else data
    run = tiny.get_config(
        data, single=single, dialog=dialog, stereo=stereo, batch_seconds=batch_seconds,
        save_every=10_000,
    )  # fmt: skip
    by_name = {stage.name: stage for stage in run.stages}
    if mixture > 0:
        by_name["dialog"] = with_sources(
            by_name["dialog"],
            [
                SourceConfig(f"{data}/dialogue", weight=1.0 - mixture),
                SourceConfig(f"{data}/single", weight=mixture),
            ],
        )
    two = by_name["stereo"]
    assert two.valid is not None
    by_name["stereo"] = dataclasses.replace(
        two,
        data=two.data if one_channel else dataclasses.replace(two.data, channels="stereo"),
        # Two channels for all rows, however they train.
        valid=dataclasses.replace(two.valid, channels="stereo"),
        exclusive_weight=exclusive_weight,
    )
    first, *rest = (by_name[name] for name in stages.split(","))
    model = dataclasses.replace(
        run.model,
        speaker_tokens=speaker_tokens,  # type: ignore[arg-type]
        speaker_embedding=speaker_embedding,  # type: ignore[arg-type]
    )
    return dataclasses.replace(
        run, model=model, stages=(_with_peak(first, peak), *rest), seed=seed, samples=0
    )


def _with_peak(stage: Stage, peak: float) -> Stage:
    """The stage with its learning rate scaled to another peak."""
    rate = stage.learning_rate
    assert isinstance(rate, PiecewiseLinear)
    most = max(value for _, value in rate.points)
    points = tuple((step, value * peak / most) for step, value in rate.points)
    return dataclasses.replace(stage, learning_rate=PiecewiseLinear(points))


def with_sources(stage: Stage, sources: list[SourceConfig]) -> Stage:
    """The stage with other data to train on."""
    return dataclasses.replace(stage, data=dataclasses.replace(stage.data, sources=tuple(sources)))


def get_ablations() -> dict[str, Ablation]:
    """The ablations by name."""
    # The same number of steps for all.
    curriculum = (
        Row("from single speakers"),
        Row("from scratch", ("stages=dialog", "dialog=120")),
        Row("mixture", ("mixture=0.3",)),
    )
    full = ("stages=single,dialog,stereo",)
    stereo = (
        Row("full", full),
        Row("without exclusive loss", (*full, "exclusive_weight=0")),
        Row("without one-channel regularisation", (*full, "one_channel=false")),
        Row(
            "without one-channel initialisation", ("stages=stereo", "stereo=160"),
        ),
    )  # fmt: skip
    # The same prompts for both, of voices that only the first was trained on: in both stages, on
    # the same sentences and dialogues, with other voices in their place in the second.
    speakers = (
        Row("voices seen in training", ("voices=seen",)),
        Row("voices held out", ("voices=held_out",)),
    )
    inference = (
        Row("16 steps, guidance 1.5, t_shift 0.5"),
        Row("8 steps", (), ("--num-step", "8")),
        Row("4 steps", (), ("--num-step", "4")),
        Row("guidance 0", (), ("--guidance-scale", "0")),
        Row("guidance 3", (), ("--guidance-scale", "3")),
        Row("t_shift 1", (), ("--t-shift", "1")),
    )
    return {
        "turns": Ablation("How does the model know whose turn it is?", "dialog", TURNS),
        "curriculum": Ablation("Does single speech first help dialogues?", "dialog", curriculum),
        "stereo": Ablation(
            "What keeps the channels of a stereo dialogue apart?", "stereo", stereo,
            ("wer", "cpwer", "cpsim", "mos", "turns", "leakage"),
        ),
        "speakers": Ablation("Are voices that were not trained on as good?", "dialog", speakers),
        "inference": Ablation(
            "What do steps, guidance and the shift of time do?", "dialog", inference,
            ("wer", "cpwer", "cpsim", "mos", "rtf"),
        ),
    }  # fmt: skip

"""A training run as data: stages, what each trains on and how, and what the run writes down.

A file in `configs/` returns one `TrainConfig`. Numbers that may change with the step are fields
made by `scheduled`: a plain number, or a `PiecewiseLinear` over the stage's own steps.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from zipvoice_jax.config import MODEL_KINDS, SPEAKER_STD, FeatureConfig, ModelConfig, ModelKind
from zipvoice_jax.core.errors import require
from zipvoice_jax.core.numbers import check_choice, check_number
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import DataConfig
from zipvoice_jax.train.objectives import OBJECTIVES
from zipvoice_jax.train.optimizer import OptimizerConfig
from zipvoice_jax.train.schedules import (
    MAX_LEARNING_RATE,
    Eden,
    Rate,
    check_rate,
    points,
    scheduled,
    scheduled_fields,
)

MaskKind = Literal["span", "suffix"]
AlignmentRule = Literal["blend", "items"]
Average = Literal["running", "ema"]
MAX_STEPS = 10**9
MAX_DECAY = 0.999999


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a curriculum.

    Attributes:
        name: names its folder and its random numbers.
        kind: the model at this stage; a smaller one before it is grown.
        steps: updates.
        data: what it trains on.
        valid: what its validation loss is computed on.
        objective: what is minimised, by its name in `train/objectives.py`: flow matching, the
            first or second stage of distillation, or the error of durations.
        learning_rate: over the stage's steps.
        mask: where speech is to be generated: a span anywhere, or the end of an item.
        mask_low: least share of an item that is to be generated.
        mask_high: greatest share.
        condition_drop: share of items whose text condition is dropped.
        t_shift: moves the flow times that are drawn as that of sampling does: 1 draws them evenly,
            as officially, less than 1 more of those near noise, where text and prompt decide what
            is said in which voice. Near speech the loss is large whatever the model knows.
        only_speaker: share of the dialogues of which one speaker's turns alone, drawn evenly, are
            in sight and are to be generated: what a model of `speaker_prompts="own"` is asked
            when it speaks. Officially 0. Of more speakers only [S1] and [S2] are drawn; separate
            channels of a stereo model have one speaker each, and all of them counts.
        exclusive_weight: weight of the stereo model's speaker-exclusive loss.
        channel_difference: how far the input projections of a stereo model's channels differ where
            it starts from a mono one, as a share of the mono one's standard deviation.
            Officially 0: both are alike, and a small model takes long to tell them apart.
        speaker_std: standard deviation of the new speaker-turn embedding with which a dialogue
            model starts. Officially 0.1; a short training learns nothing from so faint a signal.
        alignment: from which boundaries tokens are spread over frames: those of the data's
            alignments (1), of average upsampling (0) or between. None is what the model takes
            when it speaks: 1 for upsampling by durations, 0 by averages; the objective
            "durations" always learns from the aligned ones.
        alignment_rule: for an alignment between 0 and 1, "blend" moves every boundary, "items"
            takes the aligned ones for this share of the items.
        duration_weight: weight of the error of predicted durations beside the flow's, for
            upsampling by durations.
        hooks: dropout and the gradient hooks of Zipformer, which keep a large model's long
            training stable; without them a small one learns faster and each step is shorter.
        batch_count_offset: added to the adjusted batch count that drives dropout and hooks;
            officially 100,000 wherever training starts from a trained model.
        tokens: token table from this stage on; None keeps the one before.
        keep_optimizer: carries the optimiser's state over from the stage before.
        after: name of an earlier stage whose model this one starts from; None: the one before.
        export_window: as of the run, for this stage alone; None takes the run's.
    """

    name: str
    kind: ModelKind
    steps: int
    data: DataConfig
    valid: DataConfig | None = None
    objective: str = "flow"
    learning_rate: Rate = 1e-4
    mask: MaskKind = "span"
    mask_low: float | PiecewiseLinear = scheduled(0.7, 0.0, 1.0)
    mask_high: float | PiecewiseLinear = scheduled(1.0, 0.0, 1.0)
    condition_drop: float | PiecewiseLinear = scheduled(0.2, 0.0, 1.0)
    t_shift: float | PiecewiseLinear = scheduled(1.0, 1e-3, 1.0)
    only_speaker: float | PiecewiseLinear = scheduled(0.0, 0.0, 1.0)
    exclusive_weight: float | PiecewiseLinear = scheduled(0.0, 0.0, 1e6)
    channel_difference: float = 0.0
    speaker_std: float = SPEAKER_STD
    alignment: float | PiecewiseLinear | None = scheduled(None, 0.0, 1.0)
    alignment_rule: AlignmentRule = "blend"
    duration_weight: float | PiecewiseLinear = scheduled(0.05, 0.0, 1e6)
    hooks: bool = True
    batch_count_offset: float = 0.0
    tokens: str | None = None
    keep_optimizer: bool = False
    after: str | None = None
    export_window: int | None = None

    def __post_init__(self) -> None:
        require(
            self.name.isidentifier(),
            f"the stage name {self.name!r} cannot name a folder; use letters, digits and _.",
        )
        prefix = f"stage {self.name}: "
        check_choice(f"{prefix}kind", self.kind, MODEL_KINDS)
        check_number(f"{prefix}steps", self.steps, 0, MAX_STEPS, whole=True, above=True)
        check_choice(f"{prefix}objective", self.objective, OBJECTIVES)
        check_choice(f"{prefix}mask", self.mask, get_args(MaskKind))
        OBJECTIVES[self.objective].check_kind(self)
        require(
            (self.data.channels == "mono") or self.kind == "zipvoice_dialog_stereo",
            f"{prefix}its data has channels={self.data.channels!r} but {self.kind} is "
            "mono; use channels='mono'.",
        )
        for name, (low, high) in scheduled_fields(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                check_rate(prefix + name, value, low, high)
        if not isinstance(self.learning_rate, Eden):  # which has looked at its numbers
            check_rate(f"{prefix}learning_rate", self.learning_rate, 0.0, MAX_LEARNING_RATE)
            require(
                max(points(self.learning_rate)) > 0.0,
                f"{prefix}learning_rate is {self.learning_rate!r}, with which nothing is learnt; "
                "give a number above 0.",
            )
        check_number(f"{prefix}channel_difference", self.channel_difference, 0.0, 10.0)
        check_number(f"{prefix}speaker_std", self.speaker_std, 0.0, 100.0)
        check_number(f"{prefix}batch_count_offset", self.batch_count_offset, 0.0, 1e9)
        check_choice(f"{prefix}alignment_rule", self.alignment_rule, get_args(AlignmentRule))
        require(
            max(points(self.mask_low)) <= min(points(self.mask_high)),
            f"{prefix}mask_low {self.mask_low!r} is above mask_high "
            f"{self.mask_high!r}; exchange them.",
        )
        require(
            not (self.keep_optimizer and self.after is not None),
            f"{prefix}keep_optimizer carries on the stage before, and after names "
            "another; give one of them.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run.

    Attributes:
        model: sizes, dtype and remat; kind and token ids come from the stage.
        stages: in order.
        tokens: token table of the first stage, or a model directory that has it.
        features: settings for all recordings.
        init: model to start from, a directory or a name such as demo; None starts from random
            weights.
        optimizer: settings for all stages.
        seed: seed of all randomness.
        feat_scale: factor on the log-mel.
        ref_seconds: batch duration to which batch counts are adjusted.
        batch_multiple: batch sizes are multiples of it, whatever the devices, so that runs on
            numbers of devices that divide it see the same batches.
        accumulate: a step's batch is worked through in this many parts.
        average: average of parameters: "running" from the stage's start, or "ema" with a decay
            that rises to `ema_decay` over the stage's first steps.
        average_period: steps between updates of the running mean.
        ema_decay: decay of the exponential average, and of the second distillation's teacher.
        export_window: last steps of a stage that its exported model averages over, at most all
            of the stage; 0 exports the last parameters as they are.
        log_every: steps between log lines.
        save_every: steps between checkpoints, validation and samples.
        keep_last: newest checkpoints to keep.
        keep_every: keep those at multiples of this for good; None keeps none.
        keep_best: checkpoints with the lowest validation loss to keep.
        max_bad_steps: steps in a row with a loss or gradient that is not finite, after which
            the run stops.
        samples: validation items to be sampled as audio and picture with each checkpoint.
        vocoder_path: what makes the samples' audio, as of `generate`.
    """

    model: ModelConfig
    stages: tuple[Stage, ...]
    tokens: str
    features: FeatureConfig = dataclasses.field(default_factory=FeatureConfig)
    init: str | None = None
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    seed: int = 42
    feat_scale: float = 0.1
    ref_seconds: float = 50.0
    batch_multiple: int = 1
    accumulate: int = 1
    average: Average = "running"
    average_period: int = 200
    ema_decay: float = 0.9999
    export_window: int = 10_000
    log_every: int = 50
    save_every: int = 5000
    keep_last: int = 3
    keep_every: int | None = None
    keep_best: int = 1
    max_bad_steps: int = 10
    samples: int = 1
    vocoder_path: str | None = None

    def __post_init__(self) -> None:
        require(len(self.stages) > 0, "the config has no stages; give one or more.")
        names = [stage.name for stage in self.stages]
        require(
            len(set(names)) == len(names), f"stage names {names} repeat; give each its own name."
        )
        for name, low, high in (
            ("batch_multiple", 1, 100_000),
            ("accumulate", 1, 100_000),
            ("average_period", 1, MAX_STEPS),
            ("export_window", 0, MAX_STEPS),
            ("log_every", 1, MAX_STEPS),
            ("save_every", 1, MAX_STEPS),
            ("keep_last", 1, MAX_STEPS),
            ("keep_every", 1, MAX_STEPS),
            ("keep_best", 0, MAX_STEPS),
            ("max_bad_steps", 1, MAX_STEPS),
            ("samples", 0, 10_000),
            ("seed", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if value is not None or name != "keep_every":
                check_number(name, value, low, high, whole=True)
        check_number("feat_scale", self.feat_scale, 1e-4, 100.0)
        check_number("ref_seconds", self.ref_seconds, 1e-3, 1e6)
        check_number("ema_decay", self.ema_decay, 0.0, MAX_DECAY, above=True)
        check_choice("average", self.average, get_args(Average))
        for number, stage in enumerate(self.stages):
            self._check_stage(number, stage)
        require(
            self.features.n_mels == self.model.feat_dim,
            f"the features have {self.features.n_mels} mel bins but the model "
            f"{self.model.feat_dim}; make n_mels and feat_dim equal.",
        )

    def _check_stage(self, number: int, stage: Stage) -> None:
        prefix = f"stage {stage.name}: "
        earlier = [one.name for one in self.stages[:number]]
        require(
            stage.after is None or stage.after in earlier,
            f"stage {stage.name} comes after {stage.after!r}, which is no earlier stage; choose "
            f"one of {', '.join(earlier) or 'none: it is the first'}.",
        )
        require(
            not stage.keep_optimizer or self.optimizer.name == "scaled_adam",
            f"{prefix}keep_optimizer needs scaled_adam; choose that, or leave it out.",
        )
        before = self.stages[max(number - 1, 0)]
        parts = [OBJECTIVES[one.objective].only_part for one in (before, stage)]
        require(
            not (stage.keep_optimizer and any(parts)),
            f"{prefix}keep_optimizer has nothing to carry between the duration head "
            "alone and a whole model; leave it out.",
        )
        OBJECTIVES[stage.objective].check(self, stage)
        require(
            not self.model.looks_up_durations or self.is_aligned(stage),
            f"{prefix}alignment is {stage.alignment!r}, but a model with "
            "upsampling='durations' learns them from alignments; leave alignment out, or use "
            "upsampling='average'.",
        )
        require(
            self.model.channel_decoding == "joint" or not stage.channel_difference,
            f"{prefix}channel_difference is {stage.channel_difference:g}, but with "
            "channel_decoding='separate' no input holds two channels; leave it out.",
        )
        window, period = self.window_of(stage), self.average_period
        check_number(f"{prefix}export_window", window, 0, MAX_STEPS, whole=True)
        begin = stage.steps - window
        require(
            self.average == "ema" or window == 0 or stage.steps < period or begin <= 0
            or stage.steps // period > begin // period,
            f"{prefix}its last {window} steps hold no multiple of average_period "
            f"{period}, so there is nothing to average; give it an export_window of {period} or "
            "more.",
        )  # fmt: skip

    def alignment_of(self, stage: Stage) -> float | PiecewiseLinear:
        """The share of aligned boundaries that a stage trains on, by the model's rule if unset."""
        if stage.alignment is None:
            learns = OBJECTIVES[stage.objective].needs_alignments
            aligned = self.model.looks_up_durations or learns
            return 1.0 if aligned else 0.0
        return stage.alignment

    def is_aligned(self, stage: Stage) -> bool:
        """Whether a stage needs data with alignments."""
        return max(points(self.alignment_of(stage))) > 0.0

    def window_of(self, stage: Stage) -> int:
        """Last steps of a stage that its exported model averages over; 0 for none."""
        return self.export_window if stage.export_window is None else stage.export_window

    def source_of(self, index: int) -> int | None:
        """The stage whose model a stage starts from; None for the first stage."""
        after = self.stages[index].after
        if after is None:
            return index - 1 if index else None
        return [stage.name for stage in self.stages].index(after)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The step at which each stage begins, and the last step's end."""
        return tuple(itertools.accumulate((stage.steps for stage in self.stages), initial=0))

    @property
    def window_starts(self) -> tuple[int, ...]:
        """For each stage the step after which the average that it exports begins."""
        return tuple(
            max(begin, end - self.window_of(stage))
            for stage, (begin, end) in zip(
                self.stages, itertools.pairwise(self.boundaries), strict=True
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain JSON values, to be kept with checkpoints and compared."""
        return _plain(self)


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config)))


# Settings that change how a run works and not what comes of it.
_FREE = frozenset(
    "workers threads prefetch max_corrupt log_every keep_last keep_every keep_best max_bad_steps "
    "samples vocoder_path cache".split()
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two configs, one line each, such as `seed: 1 -> 2`.

    Settings that cannot change a result, such as the number of workers, are left out, and so are
    fields that the old config does not know, since they came after it, where they are false or
    empty or, of the model, as they are by default.
    """
    model = {**_plain(ModelConfig()), **old["model"]}
    before, after = dict(_leaves({**old, "model": model})), dict(_leaves(new))
    newer = {name for name, value in after.items() if value in (False, []) and name not in before}
    return [
        f"{name}: {json.dumps(before.get(name))} -> {json.dumps(after.get(name))}"
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
        and name not in newer
        and name.rpartition(".")[2] not in _FREE
    ]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        items = list(enumerate(value))
    else:
        yield name, value
        return
    for key, part in items:
        yield from _leaves(part, f"{name}.{key}" if name else str(key))

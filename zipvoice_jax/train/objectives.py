"""What a stage minimises: one class per objective, all found by name in `OBJECTIVES`.

A class says what a stage starts from, what is drawn at random in a step, the loss, which
parameters it reaches, and what validation watches; nothing else in training asks which
objective it is. docs/extending.md adds one.

Official: `compute_fbank_loss` in the zipvoice/bin/train_*.py scripts and `condition_time_mask`
in zipvoice/utils/common.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError, require
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.flow.losses import (
    DistillBatch,
    FlowBatch,
    distillation_loss,
    duration_loss,
    flow_matching_loss,
)
from zipvoice_jax.models.upsampling import blended_starts
from zipvoice_jax.nn.training import StepContext
from zipvoice_jax.train.schedules import points

if TYPE_CHECKING:
    from zipvoice_jax.train.config import Stage, TrainConfig

Params = dict[str, Any]
Values = Mapping[str, Array]
Losses = dict[str, Float[Array, ""]]
Loss = tuple[Float[Array, ""], Losses]
_LONGEST_STEP = 0.3  # of either teacher step in distillation
_GUIDANCE_RANGE = 2.0  # width of the guidance scales that a student learns


@flax.struct.dataclass
class SpeechBatch:
    """What the loader yields: unscaled features and tokens, padded to a bucket.

    Annotated loosely, since JAX also fills it with placeholders.

    Attributes:
        features: log-mel, channels side by side; float32 (batch, frames, channels * mels).
        features_lens: frames of each item; 0 for a row without one; int32 (batch,).
        tokens: ids, with at least one padding id after each item; int32 (batch, tokens).
        tokens_lens: lengths without padding; int32 (batch,).
        token_starts: the frame at which each token begins, where the stage trains on
            alignments; int32 (batch, tokens).
    """

    features: Any
    features_lens: Any
    tokens: Any
    tokens_lens: Any
    token_starts: Any = None


class Objective:
    """What all objectives share; a new one overrides what differs.

    Attributes:
        name: as a config writes it.
        distills: whether there is a teacher, and the model is zipvoice_distill.
        source_kind: the kind of model that a stage has to start from; None for any.
        needs_alignments: learns from the data's own alignments, whatever the model's rule.
        only_part: the one part of the parameters that is trained and has an optimiser state; None
            for all.
    """

    name: ClassVar[str]
    distills: ClassVar[bool] = False
    source_kind: ClassVar[str | None] = None
    needs_alignments: ClassVar[bool] = False
    only_part: ClassVar[str | None] = None

    def check_kind(self, stage: "Stage") -> None:
        """Refuses a kind of model that the objective does not train.

        Raises:
            UserError: says what to change.
        """
        require(
            self.distills == (stage.kind == "zipvoice_distill"),
            f"stage {stage.name}: objective {self.name} does not fit {stage.kind}; "
            "distillation trains zipvoice_distill and flow matching the others.",
        )

    def check(self, run: "TrainConfig", stage: "Stage") -> None:
        """Refuses a stage that does not fit the rest of the run.

        Raises:
            UserError: says what to change.
        """

    def check_source(self, stage: "Stage", kind: str | None, same_tokens: bool) -> None:
        """Refuses a model that a stage of this objective cannot start from.

        Args:
            stage: the stage that has the objective.
            kind: kind of that model; None for random weights.
            same_tokens: whether its token table is the stage's.

        Raises:
            UserError: says what to start from.
        """
        if self.source_kind is None:
            return
        if kind is None:
            raise UserError(
                f"stage {stage.name} distils, but there is no model to start from; set "
                "init to a zipvoice model's directory, or train one in a stage before it."
            )
        if kind != self.source_kind:
            raise UserError(
                f"stage {stage.name} ({self.name}) has a {self.source_kind} model for teacher, "
                f"but what is before it is {kind}; put it after such a model."
            )
        if not same_tokens:
            raise UserError(
                f"stage {stage.name} distils a model of another token table; give it the table "
                "of that model, since what distils learns no token."
            )

    def teacher_config(self, config: ModelConfig) -> ModelConfig | None:
        """The model config of the teacher; None without one."""
        return None

    def first_teacher(self, before: Params, params: Params) -> Params:
        """The teacher's parameters as the stage begins; empty without one.

        Args:
            before: parameters of the model that the stage starts from.
            params: the stage's parameters, grown from those.
        """
        return {}

    def next_teacher(self, teacher: Params, params: Params, decay: float) -> Params:
        """The teacher's parameters after a step, from those before it and the model's after it."""
        return teacher

    def trains(self, part: str, config: ModelConfig) -> bool:
        """Whether a part of the parameters, a key of the tree's top, is trained."""
        if self.only_part is not None:
            return part == self.only_part
        # A head that only estimates the length of the speech is trained by itself.
        return part != "duration_head" or config.looks_up_durations

    def draw(
        self, key: Key[Array, ""], batch: SpeechBatch, values: Values, feat_scale: float,
        *, even_times: bool = False,
    ) -> Any:  # fmt: skip
        """A batch with the random quantities of its step.

        Args:
            key: random key of the step.
            batch: from the loader.
            values: the scheduled numbers at the step.
            feat_scale: factor on the features.
            even_times: spreads the flow times evenly over the rows instead, as officially in
                validation.
        """
        drawn = flow_batch(key, batch, values, feat_scale)
        if even_times:
            size = batch.features.shape[0]
            times = jnp.arange(size, dtype=jnp.float32) / size
            drawn = drawn.replace(t=times)  # type: ignore[attr-defined]
        return drawn

    def loss(
        self, params: Params, teacher: Params, drawn: Any, values: Values,
        ctx: StepContext | None, *, config: ModelConfig,
    ) -> Loss:  # fmt: skip
        """The loss of a drawn batch, and its parts by name.

        Args:
            params: to be trained.
            teacher: empty without one.
            drawn: from `draw`.
            values: the scheduled numbers at the step.
            ctx: drives dropout and gradient hooks; None for neither.
            config: sizes and options of the model.
        """
        raise NotImplementedError

    def watched(self, params: Params, drawn: Any, *, config: ModelConfig) -> Losses:
        """What validation shows beside the loss, for comparison."""
        return {}


class Flow(Objective):
    """Conditional flow matching (paper, section 3.1)."""

    name = "flow"

    def loss(
        self, params: Params, teacher: Params, drawn: FlowBatch, values: Values,
        ctx: StepContext | None, *, config: ModelConfig,
    ) -> Loss:  # fmt: skip
        return flow_matching_loss(params, config, drawn, weights=values, ctx=ctx)

    def watched(self, params: Params, drawn: FlowBatch, *, config: ModelConfig) -> Losses:
        """The flow's loss without the text, and without any condition."""
        no_text = jnp.zeros_like(drawn.keep_text)
        textless = drawn.replace(keep_text=no_text)  # type: ignore[attr-defined]
        alone = flow_matching_loss(params, config, drawn, unconditional=True)
        return {
            "flow_without_text": flow_matching_loss(params, config, textless)[1]["flow"],
            "flow_unconditional": alone[1]["flow"],
        }


class Durations(Objective):
    """The duration head alone, beside a model that stays as it is."""

    name = "durations"
    needs_alignments = True
    only_part = "duration_head"

    def check_kind(self, stage: "Stage") -> None:
        pass  # any has a text encoder

    def check(self, run: "TrainConfig", stage: "Stage") -> None:
        require(
            run.model.has_durations,
            f"stage {stage.name}: objective durations trains a duration head, which the model "
            "lacks; set duration_head=True.",
        )
        require(
            min(points(run.alignment_of(stage))) == 1.0,
            f"stage {stage.name}: alignment is {stage.alignment!r}, but durations are learnt from "
            "the data's own alignments; leave alignment out.",
        )

    def check_source(self, stage: "Stage", kind: str | None, same_tokens: bool) -> None:
        if kind is None:
            raise UserError(
                f"stage {stage.name} trains the duration head of a model, but there is "
                "none to start from; set init to its directory, or train one in a stage before it."
            )
        if kind != stage.kind or not same_tokens:
            raise UserError(
                f"stage {stage.name} trains the duration head of a model that stays as it is, but "
                f"its {'kind' if kind != stage.kind else 'token table'} is not that of the model "
                "that it starts from; give it the same."
            )

    def loss(
        self, params: Params, teacher: Params, drawn: FlowBatch, values: Values,
        ctx: StepContext | None, *, config: ModelConfig,
    ) -> Loss:  # fmt: skip
        return duration_loss(params, config, drawn)


class DistillFirst(Objective):
    """A student's step against two guided steps of a ZipVoice model (train_zipvoice_distill.py)."""

    name = "distill_first"
    distills = True
    source_kind = "zipvoice"
    least_guidance: ClassVar[float] = 0.0  # of the scales drawn: officially [0, 2)

    def teacher_config(self, config: ModelConfig) -> ModelConfig:
        return dataclasses.replace(config, kind="zipvoice")

    def first_teacher(self, before: Params, params: Params) -> Params:
        if before.keys() == params.keys():
            return before
        # A duration head was added or left out.
        return {name: before.get(name, part) for name, part in params.items()}

    def trains(self, part: str, config: ModelConfig) -> bool:
        """The decoder alone, as officially ("only update the fm_decoder")."""
        return part == "fm_decoder"

    def draw(
        self, key: Key[Array, ""], batch: SpeechBatch, values: Values, feat_scale: float,
        *, even_times: bool = False,
    ) -> DistillBatch:  # fmt: skip
        return distill_batch(key, batch, values, feat_scale, self.least_guidance)

    def loss(
        self, params: Params, teacher: Params, drawn: DistillBatch, values: Values,
        ctx: StepContext | None, *, config: ModelConfig,
    ) -> Loss:  # fmt: skip
        # No gradient is worked out for what stays as it is.
        params = only_trained(self, params, jax.lax.stop_gradient(params), config)
        return distillation_loss(
            params, config, teacher, self.teacher_config(config), drawn, ctx=ctx
        )


class DistillSecond(DistillFirst):
    """A student's step against two steps of its own average."""

    name = "distill_second"
    source_kind = "zipvoice_distill"
    least_guidance = 1.0  # officially [1, 3)

    def teacher_config(self, config: ModelConfig) -> ModelConfig:
        return config

    def first_teacher(self, before: Params, params: Params) -> Params:
        return params

    def next_teacher(self, teacher: Params, params: Params, decay: float) -> Params:
        moved: Any = optax.incremental_update(params, teacher, 1.0 - decay)
        return moved


OBJECTIVES: dict[str, Objective] = {
    one.name: one for one in (Flow(), DistillFirst(), DistillSecond(), Durations())
}


def only_trained(
    objective: Objective, after: Params, before: Params, config: ModelConfig
) -> Params:
    """What the objective trains from the parameters `after`, and the rest from those `before`."""
    return {
        name: part if objective.trains(name, config) else before[name]
        for name, part in after.items()
    }


# --- what is drawn ---------------------------------------------------------------------------


def condition_mask(
    key: Key[Array, ""],
    features_lens: Int[Array, " batch"],
    frames: int,
    low: Float[Array, ""] | float,
    high: Float[Array, ""] | float,
    suffix: Float[Array, ""] | float,
) -> Bool[Array, "batch frames"]:
    """True over a random share of each item, anywhere in it or, for `suffix` 1, at its end."""
    batch = features_lens.shape
    share = jax.random.uniform(named_key(key, "size"), batch)
    lens = features_lens.astype(jnp.float32)
    size = ((low + (high - low) * share) * lens).astype(jnp.int32)
    room = (features_lens - size).astype(jnp.float32)
    position = jnp.where(suffix > 0, 1.0, jax.random.uniform(named_key(key, "start"), batch))
    start = (position * room).astype(jnp.int32)
    frame = jnp.arange(frames)[None, :]
    return (frame >= start[:, None]) & (frame < (start + size)[:, None])


def _drawn_for_all(
    key: Key[Array, ""], batch: SpeechBatch, values: Values, feat_scale: float
) -> dict[str, Any]:
    """What every objective takes: the batch scaled, noise, infilling mask and boundaries."""
    frames = batch.features.shape[1]
    low, high, suffix = (values[f"mask_{name}"] for name in ("low", "high", "suffix"))
    mask_key = named_key(key, "speech_condition_mask")
    return {
        "tokens": batch.tokens,
        "tokens_lens": batch.tokens_lens,
        "features": batch.features * feat_scale,
        "features_lens": batch.features_lens,
        "noise": jax.random.normal(named_key(key, "noise"), batch.features.shape),
        "speech_condition_mask": condition_mask(
            mask_key, batch.features_lens, frames, low, high, suffix
        ),
        "token_starts": _boundaries(named_key(key, "alignment"), batch, values),
    }


def _boundaries(
    key: Key[Array, ""], batch: SpeechBatch, values: Values
) -> Int[Array, "batch tokens"] | None:
    """The boundaries to train on: between the aligned and the average ones, or either by chance.

    `alignment` is the share of the aligned ones, or with `alignment_by_item` the share of items
    that get them whole.
    """
    if batch.token_starts is None:
        return None
    share = jnp.broadcast_to(values["alignment"], batch.tokens_lens.shape)
    chosen = (jax.random.uniform(key, share.shape) < share).astype(jnp.float32)
    share = jnp.where(values["alignment_by_item"] > 0, chosen, share)
    return blended_starts(batch.token_starts, batch.features_lens, batch.tokens_lens, share)


def flow_batch(
    key: Key[Array, ""], batch: SpeechBatch, values: Values, feat_scale: float
) -> FlowBatch:
    """Noise, times, infilling mask and dropped conditions of a step."""
    size = batch.features.shape[0]
    kept = jax.random.uniform(named_key(key, "keep_text"), (size,)) >= values["condition_drop"]
    speaker = jax.random.bernoulli(named_key(key, "speaker"), shape=(size,)).astype(jnp.int32)
    alone = jax.random.uniform(named_key(key, "only_speaker"), (size,)) < values["only_speaker"]
    t, shift = jax.random.uniform(named_key(key, "t"), (size,)), values["t_shift"]
    return FlowBatch(
        **_drawn_for_all(key, batch, values, feat_scale),
        t=shift * t / (1.0 + (shift - 1.0) * t),
        keep_text=kept.astype(jnp.float32),
        only_speaker=jnp.where(alone, speaker, -1),
    )


def distill_batch(
    key: Key[Array, ""],
    batch: SpeechBatch,
    values: Values,
    feat_scale: float,
    least_guidance: float,
) -> DistillBatch:
    """Noise, times, infilling mask and guidance of a distillation step.

    Officially the guidance scale is from [0, 2) in the first stage and [1, 3) in the second.
    """
    draws = jax.random.uniform(named_key(key, "t"), (3,))
    t = draws[0]
    middle = t + draws[1] * jnp.minimum(_LONGEST_STEP, 1.0 - t)
    end = middle + draws[2] * jnp.minimum(_LONGEST_STEP, 1.0 - middle)
    scale = jax.random.uniform(named_key(key, "guidance_scale"), batch.features_lens.shape)
    return DistillBatch(
        **_drawn_for_all(key, batch, values, feat_scale),
        guidance_scale=_GUIDANCE_RANGE * scale + least_guidance,
        t=t,
        t_middle=middle,
        t_end=end,
    )

"""What a stage's model is, and how the parameters of the stage before grow into it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Key

from zipvoice_jax.checkpoint.growth import (
    grow_to_dialog,
    grow_to_distill,
    grow_to_stereo,
    grow_vocabulary,
    new_duration_head,
)
from zipvoice_jax.checkpoint.hub import load_model, stored_table
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.checkpoint.mapping import Params
from zipvoice_jax.config import SPEAKER_STD, ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.plan import make_plan, repetition
from zipvoice_jax.data.records import open_split
from zipvoice_jax.models.zipvoice import init_params
from zipvoice_jax.text.tokens import TokenTable
from zipvoice_jax.train.config import DISTILLATION, Stage, TrainConfig

# How a model becomes another, step by step.
_ROUTES = {
    ("zipvoice", "zipvoice_dialog"): ("dialog",),
    ("zipvoice", "zipvoice_dialog_stereo"): ("dialog", "stereo"),
    ("zipvoice_dialog", "zipvoice_dialog_stereo"): ("stereo",),
    ("zipvoice", "zipvoice_distill"): ("distill",),
}
# Of how it runs rather than what it is; a model of any of these can be started from.
_RUNS = ("dtype", "remat", "unroll_layers", "speaker_turns", "speaker_prompts")
_SPEAKERS = ("speaker_tokens", "speaker_embedding")
_FROM_TABLE = ("kind", "vocab_size", "pad_id", "spk_a_id", "spk_b_id")


@dataclasses.dataclass(frozen=True)
class StageModel:
    """A stage's model config and token table."""

    config: ModelConfig
    table: TokenTable


def stage_model(run: TrainConfig, index: int) -> StageModel:
    """Model and token table of a stage.

    Raises:
        UserError: the token table is missing or lacks what the model needs.
    """
    stages = run.stages[: index + 1]
    tokens = [stage.tokens for stage in stages if stage.tokens is not None]
    path = Path(tokens[-1] if tokens else run.tokens)
    table = stored_table(path) if path.is_dir() else TokenTable.load(path)
    kind = stages[-1].kind
    ids: dict[str, Any] = {"vocab_size": table.vocab_size, "pad_id": table.pad_id}
    if kind.startswith("zipvoice_dialog"):
        if table.spk_a_id is None or table.spk_b_id is None:
            raise UserError(f"{path} lacks [S1] or [S2], which a {kind} model needs.")
        ids |= {"spk_a_id": table.spk_a_id, "spk_b_id": table.spk_b_id}
    return StageModel(dataclasses.replace(run.model, kind=kind, **ids), table)


def check_stages(run: TrainConfig, first: int = 0) -> list[StageModel]:
    """Models and token tables of all stages from one on; what cannot begin is told at once.

    Raises:
        UserError: a token table or dataset is missing, a dataset is far too small for its
            batches, or a stage's model cannot be grown from the one that it starts from.
    """
    models = [stage_model(run, index) for index in range(len(run.stages))]
    for index in range(first, len(run.stages)):
        stage, source = run.stages[index], run.source_of(index)
        for data in (stage.data, *([stage.valid] if stage.valid else [])):
            indices = [open_split(one.path, one.split)[1] for one in data.sources]
            seconds = sum(float(part.seconds.sum()) for part in indices)
            if data is stage.data and seconds < data.batch_seconds:
                aligned, multiple = run.is_aligned(stage), run.batch_multiple
                plan = make_plan(
                    data, indices, run.features, batch_multiple=multiple, alignments=aligned
                )
                repetition(plan, data, run.features)
        if source is not None:
            kind = run.stages[source].kind
            _route(kind, stage.kind)
            _check_teacher(stage, kind)
            _check_unchanged(stage, kind, models[source].table, models[index].table)
            if lost := set(models[source].table.tokens) - set(models[index].table.tokens):
                raise UserError(
                    f"the token table of stage {stage.name} lacks {len(lost)} tokens of the one "
                    f"before, such as {min(lost)!r}; keep all old tokens and add to them."
                )
    return models[first:]


def _route(old: str, new: str) -> tuple[str, ...]:
    """By which steps one kind of model becomes another."""
    if old == new:
        return ()
    if (old, new) not in _ROUTES:
        raise UserError(
            f"a {new} model cannot be grown from {old}; start from "
            "zipvoice, or from zipvoice_dialog for stereo."
        )
    return _ROUTES[old, new]


def _check_teacher(stage: Stage, kind: str) -> None:
    """Whether a model can be the teacher of a stage, if it takes one."""
    wanted = {"distill_first": "zipvoice", "distill_second": "zipvoice_distill"}
    teacher = wanted.get(stage.objective, kind)
    if kind != teacher:
        raise UserError(
            f"stage {stage.name} ({stage.objective}) has a {teacher} model for teacher, but what "
            f"is before it is {kind}; put it after such a model."
        )


def _check_unchanged(stage: Stage, kind: str, old: TokenTable, new: TokenTable) -> None:
    """Whether a stage that trains the duration head alone leaves the rest as it is."""
    if stage.objective == "durations" and (kind, old) != (stage.kind, new):
        raise UserError(
            f"stage {stage.name} trains the duration head of a model that stays as it is, but its "
            f"{'kind' if kind != stage.kind else 'token table'} is not that of the model that it "
            "starts from; give it the same."
        )


def grown(
    before: Loaded,
    wanted: StageModel,
    key: Key[Array, ""],
    *,
    speaker_std: float = SPEAKER_STD,
    channel_difference: float = 0.0,
) -> Params:
    """Parameters of one model as those of the next, by its tokens, speakers and projections.

    Args:
        before: what to start from.
        wanted: the model to get.
        key: of new rows and projections.
        speaker_std: of a dialogue model's start; see `Stage`.
        channel_difference: of a stereo model's start; see `Stage`.

    Raises:
        UserError: no way leads from one to the other, or their sizes differ.
    """
    params, config, table = before.params, before.config, before.table
    if not config.is_dialog:  # whose speakers are told apart only from here on
        config = dataclasses.replace(config, **{n: getattr(wanted.config, n) for n in _SPEAKERS})
    # No layer hangs on either rule of upsampling, but for the head.
    rule = {name: getattr(wanted.config, name) for name in ("upsampling", "duration_head")}
    config = dataclasses.replace(config, **rule)
    if not config.has_durations:  # a head that was there would soon be wrong
        params = {name: part for name, part in params.items() if name != "duration_head"}
    elif "duration_head" not in params:
        params = {**params, "duration_head": new_duration_head(config, named_key(key, "durations"))}
    fixed = {f.name for f in dataclasses.fields(ModelConfig)} - {*_RUNS, *_FROM_TABLE}
    if odd := sorted(n for n in fixed if getattr(config, n) != getattr(wanted.config, n)):
        told = ", ".join(f"{n} {getattr(config, n)} and {getattr(wanted.config, n)}" for n in odd)
        raise UserError(
            f"the model to start from and the config differ in {told}; give the config the sizes "
            "of that model."
        )
    for step in _route(config.kind, wanted.config.kind):
        if step == "dialog":
            params, config = grow_to_dialog(
                params, config, old_table=table, new_table=wanted.table, key=key,
                speaker_std=speaker_std,
            )  # fmt: skip
            table = wanted.table
        elif step == "stereo":
            params, config = grow_to_stereo(
                params, config, channel_difference=channel_difference, key=key
            )
        else:
            params, config = grow_to_distill(params, config, key=key)
    if table.fingerprint != wanted.table.fingerprint:
        params, config = grow_vocabulary(
            params, config, old_table=table, new_table=wanted.table, key=key
        )
    return params


def first_params(run: TrainConfig) -> tuple[Params, Mapping[str, Any]]:
    """Parameters in which a run starts, and those of a teacher if the first stage has one."""
    wanted = stage_model(run, 0)
    key = named_key(jax.random.key(run.seed), "init")
    if run.init is None:
        if run.stages[0].objective == "durations":
            raise UserError(
                f"stage {run.stages[0].name} trains the duration head of a model, but there is "
                "none to start from; set init to its directory, or train one in a stage before it."
            )
        if run.stages[0].objective != "flow":
            raise UserError(
                f"stage {run.stages[0].name} distils, but there is no model to start from; set "
                "init to a zipvoice model's directory, or train one in a stage before it."
            )
        return jax.device_get(init_params(wanted.config, key)), {}
    return entered(run, 0, load_model(model_dir=run.init))


def entered(run: TrainConfig, index: int, before: Loaded) -> tuple[Params, Mapping[str, Any]]:
    """Parameters in which a stage begins, and its teacher's, from the model before it.

    Raises:
        UserError: the stage cannot begin from that model.
    """
    stage = run.stages[index]
    key = named_key(jax.random.key(run.seed), "grow", stage.name)
    wanted = stage_model(run, index)
    _check_unchanged(stage, before.config.kind, before.table, wanted.table)
    starts = dict(speaker_std=stage.speaker_std, channel_difference=stage.channel_difference)
    params = grown(before, wanted, key, **starts)
    if stage.objective not in DISTILLATION:
        return params, {}
    _check_teacher(stage, before.config.kind)
    if stage.objective == "distill_second":
        return params, params
    teacher = before.params
    if teacher.keys() != params.keys():  # a duration head was added or left out
        teacher = {name: teacher.get(name, part) for name, part in params.items()}
    return params, teacher

"""What follows from a stage: its model, and the state that it begins with."""

import dataclasses
import functools
import math
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
from zipvoice_jax.checkpoint.hub import find_start, load_model, stored_table
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.checkpoint.mapping import Params
from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.loader import Loader
from zipvoice_jax.data.plan import make_plan, repetition
from zipvoice_jax.data.records import open_split
from zipvoice_jax.models.zipvoice import init_params
from zipvoice_jax.text.tokens import TokenTable
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.objectives import OBJECTIVES, Objective
from zipvoice_jax.train.scaled_adam import grow_state
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.state import TrainState, new_state
from zipvoice_jax.train.step import Recipe

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
_FROM_TABLE = ("kind", "vocab_size", "pad_id", "spk_a_id", "spk_b_id", "more_speaker_ids")


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage of a run, with its model's config and token table.

    Attributes:
        run: the config of the run.
        index: position of the stage in the run.
        config: config of its model.
        table: its tokens.
    """

    run: TrainConfig
    index: int
    config: ModelConfig
    table: TokenTable

    @property
    def stage(self) -> Stage:
        """The stage's part of the config."""
        return self.run.stages[self.index]

    @property
    def name(self) -> str:
        """Of the stage and of its folder."""
        return self.stage.name

    @property
    def begin(self) -> int:
        """Steps of the run before it."""
        return self.run.boundaries[self.index]

    @property
    def end(self) -> int:
        """Steps of the run after it."""
        return self.run.boundaries[self.index + 1]

    @property
    def objective(self) -> Objective:
        """What it minimises."""
        return OBJECTIVES[self.stage.objective]

    @property
    def recipe(self) -> Recipe:
        """What its programs depend on."""
        return Recipe.of_stage(self.config, self.run, self.stage)

    def saves(self, step: int) -> bool:
        """Whether a step of the stage ends with a checkpoint and its review."""
        run = self.run
        return step % run.save_every == 0 or step in (self.end, *run.window_starts)

    def abstract_state(self, layout: Layout) -> TrainState:
        """The shapes of its state, with their shardings."""
        return layout.abstract(self.recipe.abstract_state)

    def loader(self) -> Loader:
        """Its batches, of which this process gets its rows.

        Raises:
            UserError: the data cannot be used.
        """
        run, stage = self.run, self.stage
        return Loader(
            stage.data,
            self.table,
            run.features,
            seed=run.seed,
            stage=stage.name,
            batch_multiple=math.lcm(run.batch_multiple, jax.device_count() * run.accumulate),
            host_index=jax.process_index(),
            host_count=jax.process_count(),
            alignments=self.recipe.aligned,
        )


def plan_stage(run: TrainConfig, index: int) -> StagePlan:
    """Model and token table of a stage.

    Raises:
        UserError: there is no such stage, or the token table is missing or lacks what the model
            needs.
    """
    if index >= len(run.stages):
        raise UserError(
            f"the checkpoint is of stage {index + 1}, but the config has {len(run.stages)} "
            "stage(s); give it those that the run was begun with."
        )
    stages = run.stages[: index + 1]
    tokens = [stage.tokens for stage in stages if stage.tokens is not None]
    path = Path(tokens[-1] if tokens else run.tokens)
    table = stored_table(path) if path.is_dir() else TokenTable.load(path)
    kind = stages[-1].kind
    ids: dict[str, Any] = {"vocab_size": table.vocab_size, "pad_id": table.pad_id}
    if kind.startswith("zipvoice_dialog"):
        if table.spk_a_id is None or table.spk_b_id is None:
            raise UserError(f"{path} lacks [S1] or [S2], which a {kind} model needs.")
        ids |= table.speaker_fields
    return StagePlan(run, index, dataclasses.replace(run.model, kind=kind, **ids), table)


def plan_stages(run: TrainConfig, first: int = 0) -> list[StagePlan]:
    """The stages from one on; what a later one lacks is reported before the first step.

    Raises:
        UserError: a token table or dataset is missing, a dataset is far too small for its
            batches, or a stage's model cannot be grown from the one that it starts from.
    """
    plans = [plan_stage(run, index) for index in range(len(run.stages))]
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
            kind, tables = run.stages[source].kind, (plans[source].table, plans[index].table)
            _route(kind, stage.kind)
            plans[index].objective.check_source(stage, kind, tables[0] == tables[1])
            if lost := set(tables[0].tokens) - set(tables[1].tokens):
                raise UserError(
                    f"the token table of stage {stage.name} lacks {len(lost)} tokens of the one "
                    f"before, such as {min(lost)!r}; keep all old tokens and add to them."
                )
    return plans[first:]


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


def grown(before: Loaded, wanted: StagePlan, key: Key[Array, ""]) -> Params:
    """Parameters of one model as those of the next, by its tokens, speakers and projections.

    Args:
        before: what to start from.
        wanted: whose model to get.
        key: random key of new rows and projections.

    Raises:
        UserError: no way leads from one to the other, or their sizes differ.
    """
    params, config, table = before.params, before.config, before.table
    if not config.is_dialog:  # which has no speakers yet
        config = dataclasses.replace(config, **{n: getattr(wanted.config, n) for n in _SPEAKERS})
    if not config.is_stereo:  # nor channels
        config = dataclasses.replace(config, channel_decoding=wanted.config.channel_decoding)
    # No layer depends on the rule of upsampling, but for the head.
    free = ["upsampling", "duration_head"]
    config = dataclasses.replace(config, **{name: getattr(wanted.config, name) for name in free})
    if not config.has_durations:  # a head that was there would soon be wrong
        params = {name: part for name, part in params.items() if name != "duration_head"}
    elif "duration_head" not in params:
        params = {**params, "duration_head": new_duration_head(config, named_key(key, "durations"))}
    fixed = {f.name for f in dataclasses.fields(ModelConfig)} - {*_RUNS, *_FROM_TABLE}
    if odd := sorted(n for n in fixed if getattr(config, n) != getattr(wanted.config, n)):
        sizes = ", ".join(f"{n} {getattr(config, n)} and {getattr(wanted.config, n)}" for n in odd)
        raise UserError(
            f"the model to start from and the config differ in {sizes}; give the config the sizes "
            "of that model."
        )
    for step in _route(config.kind, wanted.config.kind):
        if step == "dialog":
            params, config = grow_to_dialog(
                params, config, old_table=table, new_table=wanted.table, key=key,
                speaker_std=wanted.stage.speaker_std,
            )  # fmt: skip
            table = wanted.table
        elif step == "stereo":
            params, config = grow_to_stereo(
                params, config, channel_difference=wanted.stage.channel_difference, key=key
            )
        else:
            params, config = grow_to_distill(params, config, key=key)
    if table.fingerprint != wanted.table.fingerprint:
        params, config = grow_vocabulary(
            params, config, old_table=table, new_table=wanted.table, key=key
        )
    return params


def first_params(run: TrainConfig) -> tuple[Params, Params]:
    """Parameters in which a run starts, and those of a teacher if the first stage has one."""
    plan = plan_stage(run, 0)
    if run.init is not None:
        return entered(plan, load_model(model_dir=find_start(run.init)))
    plan.objective.check_source(plan.stage, None, True)
    key = named_key(jax.random.key(run.seed), "init")
    return jax.device_get(init_params(plan.config, key)), {}


def entered(plan: StagePlan, before: Loaded) -> tuple[Params, Params]:
    """Parameters in which a stage begins, and its teacher's, from the model before it.

    Raises:
        UserError: the stage cannot begin from that model.
    """
    run, stage = plan.run, plan.stage
    key = named_key(jax.random.key(run.seed), "grow", stage.name)
    plan.objective.check_source(stage, before.config.kind, before.table == plan.table)
    params = grown(before, plan, key)
    return params, plan.objective.first_teacher(before.params, params)


def begin_state(
    plan: StagePlan, folder: Path, layout: Layout, before: TrainState | None
) -> TrainState:
    """The state at a stage's start: from `init` or nothing, or from the model in a run's folder.

    `before` is the last state of the stage before; None for the first.

    Raises:
        UserError: the stage cannot begin from that model.
    """
    run, source = plan.run, plan.run.source_of(plan.index)
    if source is None:
        params, teacher = first_params(run)
    else:
        params, teacher = entered(plan, load_model(model_dir=folder / run.stages[source].name))
    opt_state = None
    if plan.stage.keep_optimizer and before is not None:
        old, new = plan_stage(run, plan.index - 1).table.token2id, plan.table.tokens
        rows = {("embed", "embedding"): [old.get(token, -1) for token in new]}
        opt_state = grow_state(layout.fetch(before.opt_state), params, source_rows=rows)
    make = functools.partial(
        new_state, optimizer=plan.recipe.optimizer, seed=run.seed, step=plan.begin,
        skipped=0 if before is None else int(before.skipped),
    )  # fmt: skip
    rest = {"teacher": teacher, "opt_state": opt_state}
    shardings = layout.of_state(jax.eval_shape(make, params, **rest))
    return jax.jit(make, out_shardings=shardings)(params, **rest)

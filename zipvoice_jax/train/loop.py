"""The training loop: stage after stage, step after step, from wherever the last run stopped."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.checkpoint.hub import load_model
from zipvoice_jax.checkpoint.mapping import count_parameters
from zipvoice_jax.checkpoint.native import is_native, save_native
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.processes import is_lead, on_lead
from zipvoice_jax.data.loader import Loader
from zipvoice_jax.train import validate
from zipvoice_jax.train.checkpoints import Checkpoints
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.export import exported_params
from zipvoice_jax.train.folder import alone_in, keep_config, refuse_changes
from zipvoice_jax.train.log import RunLog
from zipvoice_jax.train.programs import Programs
from zipvoice_jax.train.review import Review, is_reviewed
from zipvoice_jax.train.scaled_adam import grow_state
from zipvoice_jax.train.stages import (
    StageModel,
    check_stages,
    entered,
    first_params,
    stage_model,
)
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import StepRecipe
from zipvoice_jax.train.watch import Watch


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        done: whether all stages are through; else it was asked to stop and can be resumed.
        step: steps done in all.
        model: directory of the last finished stage's model, None if none is finished.
    """

    done: bool
    step: int
    model: Path | None


def train(
    run: TrainConfig,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    allow_config_change: bool = False,
    checkpoints: str | None = None,
    fsdp: int = 1,
    listen: validate.Listen | None = None,
) -> Outcome:
    """Runs or resumes a training.

    The folder gets config.json, log.jsonl, tensorboard/, samples/, checkpoints/ and, for each
    finished stage, STAGE/ with its model.

    Args:
        run: the config.
        folder: of the run; what is there of an earlier attempt is continued.
        stop: asked after every step; True saves a checkpoint and returns.
        allow_config_change: goes on although the config is not that of the earlier attempt.
        checkpoints: where they go, such as gs://BUCKET/RUN; by default into the folder.
        fsdp: devices that share one copy of parameters and optimiser state.
        listen: called with the averaged model of each checkpoint after it is saved; what it
            finds, such as a word error rate, is logged beside the validation losses.

    Raises:
        UserError: data, config or folder cannot be used, or the loss stays without a value.
    """
    folder = Path(folder).absolute()
    with alone_in(folder):
        kept = _open_checkpoints(run, folder, checkpoints)
        latest = on_lead("latest", lambda: kept.steps[-1] if kept.steps else None)
        # An attempt that came to nothing binds no one.
        begun = latest is not None or any(is_native(folder / one.name) for one in run.stages)
        allowed = allow_config_change or not begun
        on_lead("config", lambda: keep_config(run, folder, allowed))
        total, values = run.boundaries[-1], run.to_dict()
        log = RunLog(folder, start=latest or 0, total=total, config=values, silent=not is_lead())
        try:
            meta = _meta(run, kept, latest, allow_config_change)
            programs = Programs(run, fsdp=fsdp)
            return _train(run, folder, programs, kept, latest, meta, log, stop, listen)
        finally:
            kept.close()
            log.close()


def _meta(
    run: TrainConfig, checkpoints: Checkpoints, latest: int | None, allow_change: bool
) -> dict[str, Any]:
    """What is kept beside the state of the latest checkpoint; empty where there is none.

    Raises:
        UserError: it is of another config or token table and that is not allowed.
    """
    if latest is None:
        return {}
    meta = checkpoints.meta(latest)
    if allow_change:
        return {"stage": meta["stage"]}
    refuse_changes(meta["config"], run.to_dict(), checkpoints.folder)
    table = stage_model(run, int(meta["stage"])).table
    if meta["fingerprint"] != table.fingerprint:
        raise UserError(
            f"{checkpoints.folder / str(latest)} was trained with another token table "
            f"(fingerprint {meta['fingerprint']}, now {table.fingerprint}); bring back the one "
            "that it was trained with, or give --allow-config-change."
        )
    return meta


def _train(
    run: TrainConfig,
    folder: Path,
    programs: Programs,
    checkpoints: Checkpoints,
    latest: int | None,
    meta: dict[str, Any],
    log: RunLog,
    stop: Callable[[], bool],
    listen: validate.Listen | None,
) -> Outcome:
    """Every stage from the latest checkpoint on.

    Args:
        run: the config.
        folder: of the run.
        programs: of the run.
        checkpoints: of the run.
        latest: step of the newest one.
        meta: what is kept beside it.
        log: of the run.
        stop: asked after every step.
        listen: called with the averaged model of each checkpoint.
    """
    first = int(meta.get("stage", 0))
    models = check_stages(run, first)
    state, model_folder = None, None
    for index, model in enumerate(models, start=first):
        place = _Stage(run, index, model, folder)
        before = functools.partial(_restore, programs, model, run, index, checkpoints)
        if index == first and latest is not None:
            state = before(latest)
            log.say(f"goes on from step {latest} in stage {place.name}")
        else:
            state = _begin(programs, place, state)
        owed = not place.is_reviewed(int(state.step), log, listen)
        if int(state.step) < place.end or owed:
            known = meta.get("data") if index == first else None
            state = _run_stage(place, state, programs, checkpoints, known, log, stop, listen, owed)
        if int(state.step) < place.end:
            return Outcome(False, int(state.step), model_folder)
        checkpoints.wait()
        model_folder = folder / place.name
        if not on_lead(f"has {place.name}", functools.partial(is_native, model_folder)):
            since = _average_since(run, index, checkpoints, log)
            params = exported_params(run, index, state, since, before, programs.fetch)
            save = functools.partial(_export, model_folder, model, run, params)
            on_lead(f"export {place.name}", save)
        log.say(f"stage {place.name} is done; its model is in {model_folder}")
    assert state is not None
    return Outcome(True, int(state.step), model_folder)


def _average_since(
    run: TrainConfig, index: int, checkpoints: Checkpoints, log: RunLog
) -> int | None:
    """The step after which a stage's exported average begins; None for no average."""
    if run.window_of(run.stages[index]) == 0:
        return None
    since, begin = run.window_starts[index], run.boundaries[index]
    if since > begin and run.average == "running" and since not in checkpoints.steps:
        # Another window than the run was begun with.
        log.say(f"there is no checkpoint of step {since}: averaging over the whole stage")
        return begin
    return since


def _export(folder: Path, model: StageModel, run: TrainConfig, params: Any) -> None:
    save_native(folder, model.config, run.features, model.table, params)


@dataclasses.dataclass(frozen=True)
class _Stage:
    """A stage and where it lies in the run."""

    run: TrainConfig
    index: int
    model: StageModel
    folder: Path

    @property
    def name(self) -> str:
        return self.run.stages[self.index].name

    @property
    def begin(self) -> int:
        return self.run.boundaries[self.index]

    @property
    def end(self) -> int:
        return self.run.boundaries[self.index + 1]

    def saves(self, step: int) -> bool:
        """Whether a step of the stage ends with a checkpoint and its review."""
        run = self.run
        return step % run.save_every == 0 or step in (self.end, *run.window_starts)

    def is_reviewed(self, step: int, log: RunLog, listen: validate.Listen | None) -> bool:
        """False for a checkpoint after which the run ended too soon for its review."""
        if step <= self.begin or not self.saves(step):
            return True
        stage = self.run.stages[self.index]
        return is_reviewed(log, stage, step, listens=listen is not None)

    @property
    def recipe(self) -> StepRecipe:
        return StepRecipe.of_stage(self.model.config, self.run, self.run.stages[self.index])


def export_step(
    run: TrainConfig,
    folder: Path,
    step: int,
    target: Path,
    *,
    average_since: int | None = None,
    checkpoints: str | None = None,
) -> None:
    """Writes the model of a checkpoint that a run has kept.

    Args:
        run: the config.
        folder: of the run.
        step: of the checkpoint.
        target: model directory to make.
        average_since: averages over the steps after this checkpoint, or after the beginning of
            the stage; None takes the parameters as they are.
        checkpoints: where they are, if not in the folder.

    Raises:
        UserError: there is no such checkpoint, or the target cannot be written.
    """
    with alone_in(folder):
        kept = _open_checkpoints(run, folder, checkpoints)
        try:
            for wanted in (step, average_since):
                if wanted not in (None, *kept.steps, *run.boundaries):
                    raise UserError(
                        f"{folder} has no checkpoint of step {wanted}; choose one of "
                        f"{', '.join(map(str, kept.steps)) or 'none'}."
                    )
            index = int(kept.meta(step)["stage"])
            model = stage_model(run, index)
            read = functools.partial(_restore, Programs(run), model, run, index, kept)
            state = read(step)
            params = exported_params(run, index, state, average_since, read)
            save_native(target, model.config, run.features, model.table, params)
        finally:
            kept.close()


def _open_checkpoints(run: TrainConfig, folder: Path, elsewhere: str | None) -> Checkpoints:
    return Checkpoints(
        elsewhere or folder / "checkpoints",
        keep_last=run.keep_last,
        keep_every=run.keep_every,
        keep_best=run.keep_best,
        keep_steps=run.window_starts,
    )


def _begin(programs: Programs, place: _Stage, before: TrainState | None) -> TrainState:
    """The state at a stage's start: from `init` or nothing, or from the model before it."""
    run, index = place.run, place.index
    source = run.source_of(index)
    if source is None:
        params, teacher = first_params(run)
    else:
        previous = place.folder / run.stages[source].name
        params, teacher = entered(run, index, load_model(model_dir=previous))
    opt_state = None
    if run.stages[index].keep_optimizer and before is not None:
        old, new = stage_model(run, index - 1).table.token2id, place.model.table.tokens
        rows = {("embed", "embedding"): [old.get(token, -1) for token in new]}
        opt_state = grow_state(programs.fetch(before.opt_state), params, source_rows=rows)
    return programs.begin(
        params,
        objective=run.stages[index].objective,
        step=place.begin,
        teacher=dict(teacher),
        opt_state=opt_state,
        skipped=0 if before is None else int(before.skipped),
    )


def _restore(
    programs: Programs,
    model: StageModel,
    run: TrainConfig,
    index: int,
    checkpoints: Checkpoints,
    step: int,
) -> TrainState:
    """The state of a checkpoint, on the devices of this run."""
    like = programs.abstract_state(model.config, run.stages[index].objective)
    return checkpoints.restore(step, like)


def _run_stage(
    place: _Stage,
    state: TrainState,
    programs: Programs,
    checkpoints: Checkpoints,
    known: dict[str, Any] | None,
    log: RunLog,
    stop: Callable[[], bool],
    listen: validate.Listen | None,
    owed: bool,
) -> TrainState:
    """Steps until the stage's end, or until asked to stop; the last step is saved either way.

    Args:
        place: the stage.
        state: to go on from.
        programs: of the run.
        checkpoints: of the run.
        known: place in the data that was saved with the state, if it was.
        log: of the run.
        stop: asked after every step.
        listen: called with the averaged model of each checkpoint.
        owed: begins with the review of the state's checkpoint, for which the run ended too soon.

    Raises:
        UserError: the data are not those of the saved place, or cannot be used.
    """
    run, stage, model, recipe = place.run, place.run.stages[place.index], place.model, place.recipe
    devices = jax.device_count()
    loader = Loader(
        stage.data,
        model.table,
        run.features,
        seed=run.seed,
        stage=stage.name,
        batch_multiple=math.lcm(run.batch_multiple, devices * run.accumulate),
        host_index=jax.process_index(),
        host_count=jax.process_count(),
        alignments=recipe.aligned,
    )
    review = Review(
        programs=programs, recipe=recipe, stage=stage, model=model, end=place.end,
        folder=place.folder, log=log, checkpoints=checkpoints, listen=listen,
    ).opened(loader)  # fmt: skip
    log.say(
        f"stage {stage.name}: {stage.kind}, {count_parameters(state.params):,} parameters, steps "
        f"{place.begin} to {place.end}, {devices} device(s)\n{loader.report()}"
    )
    step, pending = int(state.step), None
    if owed:
        review(state)
    head_alone = stage.objective == "durations"
    watch = Watch(run, stage.name, place.end, model.config, log, head_alone=head_alone)
    with loader.iterate(step - place.begin) as batches:
        if known is not None:
            batches.set_state(known)
        while step < place.end:
            batch = next(batches)
            for fault in batches.fresh:
                log.say(f"a record cannot be used: {fault}")
                log.write("corrupt", step + 1, {"record": fault})
            compiled = len(programs.compilations)
            state, metrics = programs.train(recipe, batch, state, asked=stop())
            step += 1
            for compilation in programs.compilations[compiled:]:
                log.say(f"compiled {compilation.name} in {compilation.seconds:.1f} s")
                watch.restart(step)
            # The metrics of the step before: reading those of this one would wait for it. From
            # them all processes learn at the same step that one of them is asked to stop.
            asked = pending is not None and watch.note(*pending)
            pending = (step, batch, metrics)
            due = place.saves(step)
            if due or asked:
                asked |= watch.note(*pending)
                pending = None
                meta = {
                    "stage": place.index,
                    "name": stage.name,
                    "data": batches.get_state(),
                    "fingerprint": model.table.fingerprint,
                    "config": run.to_dict(),
                }
                # What must be safe comes first, and is on disk before anything that may fail.
                last = step == place.end
                checkpoints.save(state, meta, wait=asked or last or review.is_long)
                if due and (last or not asked):
                    review(state)
                watch.restart(step)
            if asked:
                break
    if batches.corrupt:
        log.say(f"{len(batches.corrupt)} records of stage {stage.name} could not be used")
    return state

"""The training loop: stage after stage, step after step, from wherever the last run stopped."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.checkpoint.mapping import count_parameters
from zipvoice_jax.checkpoint.native import is_native
from zipvoice_jax.core.compiling import Programs
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.processes import is_lead, meet, on_lead, stop_agreed
from zipvoice_jax.data.loader import Loader
from zipvoice_jax.train.checkpoints import (
    Checkpoints,
    alone_in,
    keep_config,
    open_checkpoints,
    refuse_changes,
)
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.export import export_stage
from zipvoice_jax.train.log import RunLog, Speedometer
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.stages import StagePlan, begin_state, plan_stage, plan_stages
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import call_train_step
from zipvoice_jax.train.validate import Listen, Review


@dataclasses.dataclass(frozen=True)
class TrainResult:
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
    listen: Listen | None = None,
) -> TrainResult:
    """Runs or resumes a training.

    The folder gets config.json, log.jsonl, tensorboard/, samples/, checkpoints/ and, for each
    finished stage, STAGE/ with its model.

    Args:
        run: the config.
        folder: of the run; what is there of an earlier attempt is continued.
        stop: asked before every step; True saves a checkpoint after it and returns. Several
            processes agree on a step once any of them gets SIGTERM, and do not ask.
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
        kept = open_checkpoints(run, folder, checkpoints)
        latest = on_lead("latest", lambda: kept.steps[-1] if kept.steps else None)
        # An attempt that came to nothing binds no one.
        begun = latest is not None or any(is_native(folder / one.name) for one in run.stages)
        allowed = allow_config_change or not begun
        on_lead("config", lambda: keep_config(run, folder, allowed))
        total, values = run.boundaries[-1], run.to_dict()
        log = RunLog(folder, start=latest or 0, total=total, config=values, silent=not is_lead())
        try:
            meta = {} if latest is None else _meta_of(run, kept, latest, allow_config_change)
            layout = Layout.of(jax.devices(), fsdp)
            programs = Programs(jax.devices()[0].platform, meet)
            state, model = None, None
            first = int(meta.get("stage", 0))
            for plan in plan_stages(run, first):
                data_state = None
                if plan.index == first and latest is not None:
                    state = kept.restore(latest, plan.abstract_state(layout))
                    data_state = meta.get("data")
                    log.say(f"goes on from step {latest} in stage {plan.name}")
                else:
                    state = begin_state(plan, folder, layout, state)
                review = Review(
                    plan=plan, folder=folder, programs=programs, layout=layout, log=log,
                    checkpoints=kept, listen=listen,
                )  # fmt: skip
                state = _train_stage(plan, state, data_state, programs, layout, kept, review, stop)
                if int(state.step) < plan.end:
                    return TrainResult(False, int(state.step), model)
                model = folder / plan.name
                export_stage(plan, state, model, layout, kept, log)
            assert state is not None
            return TrainResult(True, int(state.step), model)
        finally:
            kept.close()
            log.close()


def _train_stage(
    plan: StagePlan,
    state: TrainState,
    data_state: dict[str, Any] | None,
    programs: Programs,
    layout: Layout,
    checkpoints: Checkpoints,
    review: Review,
    stop: Callable[[], bool],
) -> TrainState:
    """Steps until the stage's end, or until asked to stop; the last step is saved either way.

    Args:
        plan: the stage.
        state: to go on from.
        data_state: the loader's, saved with that state.
        programs: of the run.
        layout: of its arrays.
        checkpoints: of the run.
        review: of the stage's checkpoints.
        stop: asked before every step.

    Raises:
        UserError: the data are not those of `data_state`, or cannot be used, or too many steps in
            a row had no finite loss.
    """
    run, stage, recipe, log = plan.run, plan.stage, plan.recipe, review.log
    step, owed = int(state.step), review.is_owed(int(state.step))
    if step >= plan.end and not owed:
        return state
    loader = Loader(
        stage.data,
        plan.table,
        run.features,
        seed=run.seed,
        stage=stage.name,
        batch_multiple=math.lcm(run.batch_multiple, jax.device_count() * run.accumulate),
        host_index=jax.process_index(),
        host_count=jax.process_count(),
        alignments=recipe.aligned,
    )
    review = review.opened(loader)
    log.say(
        f"stage {stage.name}: {stage.kind}, {count_parameters(state.params):,} parameters, steps "
        f"{plan.begin} to {plan.end}, {jax.device_count()} device(s)\n{loader.report()}"
    )
    if owed:
        review(state)
    speed = Speedometer(
        plan.config, head_alone=not recipe.objective.trains("fm_decoder", plan.config)
    )

    def note(step: int, bucket: Any, metrics: dict[str, Any]) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        bad = values["bad_steps"]
        due = step % run.log_every == 0 or bad > 0 or step == plan.end
        log.step(stage.name, step, bucket, values, speed, write=due)
        if bad >= run.max_bad_steps:
            raise UserError(
                f"the loss or its gradient was not finite in {run.max_bad_steps} steps in a row, "
                f"the last of them {step}; lower the learning rate, or look for bad data."
            )

    pending = None
    with loader.iterate(step - plan.begin) as batches:
        if data_state is not None:
            batches.set_state(data_state)
        while step < plan.end:
            batch = next(batches)
            for fault in batches.fresh:
                log.say(f"a record cannot be used: {fault}")
                log.write("corrupt", step + 1, {"record": fault})
            asked, compiled = stop_agreed(step, stop), len(programs.compilations)
            state, metrics = call_train_step(programs, recipe, layout, state, batch)
            step += 1
            for compilation in programs.compilations[compiled:]:
                log.say(f"compiled {compilation.name} in {compilation.seconds:.1f} s")
                speed.reset(step)
            # The metrics of the step before: reading those of this one would wait for it.
            if pending is not None:
                note(*pending)
            pending = (step, batch.bucket, metrics)
            due = plan.saves(step)
            if due or asked:
                note(*pending)
                pending = None
                meta = {
                    "stage": plan.index,
                    "name": stage.name,
                    "data": batches.get_state(),
                    "fingerprint": plan.table.fingerprint,
                    "config": run.to_dict(),
                }
                # What must be safe comes first, and is on disk before anything that may fail.
                last = step == plan.end
                checkpoints.save(state, meta, wait=asked or last or review.computes)
                if due and (last or not asked):
                    review(state)
                speed.reset(step)
            if asked:
                break
    if batches.corrupt:
        log.say(f"{len(batches.corrupt)} records of stage {stage.name} could not be used")
    return state


def _meta_of(
    run: TrainConfig, checkpoints: Checkpoints, latest: int, allow_change: bool
) -> dict[str, Any]:
    """What is kept beside the state of the latest checkpoint.

    Raises:
        UserError: it is of another config or token table and that is not allowed.
    """
    meta = checkpoints.meta(latest)
    if allow_change:
        return {"stage": meta["stage"]}
    refuse_changes(meta["config"], run.to_dict(), checkpoints.folder)
    table = plan_stage(run, int(meta["stage"])).table
    if meta["fingerprint"] != table.fingerprint:
        raise UserError(
            f"{checkpoints.folder / str(latest)} was trained with another token table "
            f"(fingerprint {meta['fingerprint']}, now {table.fingerprint}); bring back the one "
            "that it was trained with, or give --allow-config-change."
        )
    return meta

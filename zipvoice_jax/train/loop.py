"""The training loop: stage after stage, step after step, from wherever the last run stopped."""

import collections
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.checkpoint.mapping import count_parameters
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.processes import stop_agreed
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.export import export_stage
from zipvoice_jax.train.log import Speedometer
from zipvoice_jax.train.session import Session, open_session
from zipvoice_jax.train.stages import StagePlan, begin_state
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import call_train_step
from zipvoice_jax.train.validate import Listen, is_owed, open_review


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
        folder: the run's folder; what is there of an earlier attempt is continued.
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
    opened = open_session(
        run, folder, checkpoints=checkpoints, fsdp=fsdp, allow_config_change=allow_config_change
    )
    with opened as session:
        state, model = None, None
        for plan in session.plans:
            data_state = None
            if state is None and session.latest is not None:
                wanted = plan.abstract_state(session.layout)
                state = session.checkpoints.restore(session.latest, wanted)
                data_state = session.data_state
                session.log.say(f"goes on from step {session.latest} in stage {plan.name}")
            else:
                state = begin_state(plan, session.folder, session.layout, state)
            state = _train_stage(plan, session, state, data_state, listen, stop)
            if int(state.step) < plan.end:
                return TrainResult(False, int(state.step), model)
            model = export_stage(plan, session, state)
        assert state is not None
        return TrainResult(True, int(state.step), model)


def _train_stage(
    plan: StagePlan,
    session: Session,
    state: TrainState,
    data_state: dict[str, Any] | None,
    listen: Listen | None,
    stop: Callable[[], bool],
) -> TrainState:
    """Steps until the stage's end, or until asked to stop; the last step is saved either way.

    `data_state` is the loader's, saved with the state to go on from; None begins.

    Raises:
        UserError: the data are not those of `data_state`, or cannot be used, or too many steps in
            a row had no finite loss.
    """
    run, stage, recipe = plan.run, plan.stage, plan.recipe
    log, programs, layout = session.log, session.programs, session.layout
    step = int(state.step)
    owed = is_owed(plan, session, listen, step)
    if step >= plan.end and not owed:
        return state
    loader = plan.loader()
    review = open_review(plan, session, listen, loader)
    log.say(
        f"stage {stage.name}: {stage.kind}, {count_parameters(state.params):,} parameters, steps "
        f"{plan.begin} to {plan.end}, {jax.device_count()} device(s)\n{loader.report()}"
    )
    if owed:
        review(state)
    speed = Speedometer(
        plan.config, head_alone=not recipe.objective.trains("fm_decoder", plan.config)
    )

    def note(step: int, bucket: Bucket, metrics: dict[str, Any]) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = values["bad_steps"]
        due = step % run.log_every == 0 or bad > 0 or step == plan.end
        log.step(stage.name, step, bucket, values, speed, write=due)
        if bad >= run.max_bad_steps:
            raise UserError(
                f"the loss or its gradient was not finite in {run.max_bad_steps} steps in a row, "
                f"the last of them {step}; lower the learning rate, or look for bad data."
            )

    unread: collections.deque[tuple[int, Bucket, dict[str, Any]]] = collections.deque()
    with loader.iterate(step - plan.begin) as batches:
        if data_state is not None:
            batches.set_state(data_state)
        asked = False
        while step < plan.end and not asked:
            batch = next(batches)
            for fault in batches.fresh:
                log.fault(step + 1, fault)
            asked, compiled = stop_agreed(step, stop), len(programs.compilations)
            state, metrics = call_train_step(programs, recipe, layout, state, batch)
            step += 1
            for compilation in programs.compilations[compiled:]:
                log.say(f"compiled {compilation.name} in {compilation.seconds:.1f} s")
                speed.reset(step)
            unread.append((step, batch.bucket, metrics))
            due = plan.saves(step)
            # But for a checkpoint a step late: reading those of this step would wait for it.
            while len(unread) > (0 if due or asked else 1):
                note(*unread.popleft())
            if due or asked:
                meta = {
                    "stage": plan.index,
                    "data": batches.get_state(),
                    "fingerprint": plan.table.fingerprint,
                    "config": run.to_dict(),
                }
                # What must be safe comes first, and is on disk before anything that may fail.
                last = step == plan.end
                session.checkpoints.save(state, meta, wait=asked or last or review.computes)
                if due and (last or not asked):
                    review(state)
                speed.reset(step)
    if batches.corrupt:
        log.say(f"{len(batches.corrupt)} records of stage {stage.name} could not be used")
    return state

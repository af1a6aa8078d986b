"""Models that leave a run: of its finished stages, and of checkpoints that it has kept."""

import contextlib
from pathlib import Path

import jax

from zipvoice_jax.checkpoint.mapping import Params
from zipvoice_jax.checkpoint.native import is_native, save_native
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.processes import on_lead
from zipvoice_jax.train.checkpoints import Checkpoints, open_checkpoints
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.log import read_log
from zipvoice_jax.train.objectives import only_trained
from zipvoice_jax.train.session import Session, alone_in
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.stages import StagePlan, plan_stage
from zipvoice_jax.train.state import TrainState, between


def export_stage(plan: StagePlan, session: Session, state: TrainState) -> Path:
    """Writes the model of a finished stage, unless that of its last step is there.

    Returns:
        The model's directory.

    Raises:
        UserError: it cannot be written.
    """
    run, checkpoints, log = plan.run, session.checkpoints, session.log
    model = session.folder / plan.name
    checkpoints.wait()

    def is_there() -> bool:
        """Whether the log, which forgets what a resumed run does anew, tells of this step's."""
        made = [
            entry["step"]
            for entry in read_log(log.path)
            if entry["kind"] == "model" and entry.get("stage") == plan.name
        ]
        return is_native(model) and made[-1:] == [plan.end]

    if not on_lead(f"has {plan.name}", is_there):
        since: int | None = run.window_starts[plan.index]
        if run.window_of(plan.stage) == 0:
            since = None
        elif run.average == "running" and since not in (plan.begin, *checkpoints.steps):
            # Another window than the run was begun with.
            log.say(f"there is no checkpoint of step {since}: averaging over the whole stage")
            since = plan.begin
        params = handed_on(plan, state, since, checkpoints, session.layout)
        on_lead(f"export {plan.name}", lambda: _save(plan, model, params, overwrite=True))
        log.write("model", plan.end, {"stage": plan.name})
    log.say(f"stage {plan.name} is done; its model is in {model}")
    return model


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
        folder: the run's folder.
        step: the checkpoint's step.
        target: model directory to make.
        average_since: averages over the steps after this checkpoint, or after the beginning of
            the stage; None takes the parameters as they are.
        checkpoints: where they are, if not in the folder.

    Raises:
        UserError: there is no such checkpoint, it is of a stage that the config lacks, or the
            target cannot be written.
    """
    with alone_in(folder), contextlib.closing(open_checkpoints(run, folder, checkpoints)) as kept:
        for wanted, begun in ((step, ()), (average_since, (None, *run.boundaries))):
            if wanted not in (*kept.steps, *begun):
                raise UserError(
                    f"{folder} has no checkpoint of step {wanted}; choose one of "
                    f"{', '.join(map(str, kept.steps)) or 'none'}."
                )
        plan, layout = plan_stage(run, int(kept.meta(step)["stage"])), Layout.of(jax.devices())
        state = kept.restore(step, plan.abstract_state(layout))
        _save(plan, target, handed_on(plan, state, average_since, kept, layout))


def handed_on(
    plan: StagePlan, state: TrainState, since: int | None, checkpoints: Checkpoints, layout: Layout
) -> Params:
    """The parameters that a stage hands on, averaged over the steps after `since`.

    Officially the average of the last n checkpoints is that over the steps since the n-th before
    the end, formed from the running means at both (generate_averaged_model.py). With `average`
    "ema" it is that average; where nothing has been averaged yet, since the stage is shorter
    than `average_period`, the parameters themselves. What the stage does not train stays as it is.

    Args:
        plan: the stage.
        state: after its last step.
        since: a step of the stage; None takes the parameters as they are.
        checkpoints: where that of this step is.
        layout: how arrays lie on the devices.

    Raises:
        UserError: no mean was taken between the steps.
    """
    run, begin, end = plan.run, plan.begin, int(state.step)
    if since is None or (end - begin < run.average_period and run.average == "running"):
        return layout.fetch(state.params)
    average = layout.fetch(state.average)
    if run.average == "ema" or since <= begin:
        return average
    earlier = layout.fetch(checkpoints.restore(since, plan.abstract_state(layout)).average)
    mean = between(earlier, since - begin, average, end - begin, run.average_period)
    return only_trained(plan.objective, mean, average, plan.config)


def _save(plan: StagePlan, folder: Path, params: Params, *, overwrite: bool = False) -> None:
    parts = (plan.config, plan.run.features, plan.table, params)
    save_native(folder, *parts, overwrite=overwrite)

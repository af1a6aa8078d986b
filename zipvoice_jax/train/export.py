"""Models that leave a run: of its finished stages, and of checkpoints that it has kept."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.checkpoint.mapping import Params
from zipvoice_jax.checkpoint.native import is_native, save_native
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.processes import on_lead
from zipvoice_jax.train.checkpoints import Checkpoints, alone_in, open_checkpoints
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.log import RunLog, read_log
from zipvoice_jax.train.objectives import only_trained
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.stages import StagePlan, plan_stage
from zipvoice_jax.train.state import TrainState, between


def export_stage(
    plan: StagePlan,
    state: TrainState,
    model: Path,
    layout: Layout,
    checkpoints: Checkpoints,
    log: RunLog,
) -> None:
    """Writes the model of a finished stage, unless that of its last step is there.

    Args:
        plan: the stage.
        state: after its last step.
        model: directory of the model.
        layout: of the run's arrays.
        checkpoints: of the run.
        log: of the run.
    """
    run = plan.run
    checkpoints.wait()

    def is_there() -> bool:
        """Whether it is the model of this step; a stage may have been made longer since."""
        steps = [
            entry["step"]
            for entry in read_log(log.path)
            if entry["kind"] == "model" and entry.get("stage") == plan.name
        ]
        return is_native(model) and steps[-1:] in ([], [plan.end])

    if not on_lead(f"has {plan.name}", is_there):
        since: int | None = run.window_starts[plan.index]
        if run.window_of(plan.stage) == 0:
            since = None
        elif run.average == "running" and since not in (plan.begin, *checkpoints.steps):
            # Another window than the run was begun with.
            log.say(f"there is no checkpoint of step {since}: averaging over the whole stage")
            since = plan.begin
        read = functools.partial(_state_at, plan, layout, checkpoints)
        params = handed_on(plan, state, since, read, layout.fetch)
        on_lead(f"export {plan.name}", lambda: _save(plan, model, params, overwrite=True))
        log.write("model", plan.end, {"stage": plan.name})
    log.say(f"stage {plan.name} is done; its model is in {model}")


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
        kept = open_checkpoints(run, folder, checkpoints)
        try:
            for wanted, begun in ((step, ()), (average_since, (None, *run.boundaries))):
                if wanted not in (*kept.steps, *begun):
                    raise UserError(
                        f"{folder} has no checkpoint of step {wanted}; choose one of "
                        f"{', '.join(map(str, kept.steps)) or 'none'}."
                    )
            plan = plan_stage(run, int(kept.meta(step)["stage"]))
            read = functools.partial(_state_at, plan, Layout.of(jax.devices()), kept)
            _save(plan, target, handed_on(plan, read(step), average_since, read))
        finally:
            kept.close()


def handed_on(
    plan: StagePlan,
    state: TrainState,
    since: int | None,
    read: Callable[[int], TrainState],
    fetch: Callable[[Any], Any] = jax.device_get,
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
        read: reads the state of an earlier step.
        fetch: brings arrays to the host.

    Raises:
        UserError: no mean was taken between the steps.
    """
    run, begin, end = plan.run, plan.begin, int(state.step)
    if since is None or (end - begin < run.average_period and run.average == "running"):
        return fetch(state.params)
    average = fetch(state.average)
    if run.average == "ema" or since <= begin:
        return average
    earlier = fetch(read(since).average)
    mean = between(earlier, since - begin, average, end - begin, run.average_period)
    return only_trained(plan.objective, mean, average, plan.config)


def _state_at(plan: StagePlan, layout: Layout, checkpoints: Checkpoints, step: int) -> TrainState:
    """The state of a checkpoint of a stage, on the devices of this run."""
    return checkpoints.restore(step, plan.abstract_state(layout))


def _save(
    plan: StagePlan, folder: Path, params: dict[str, Any], *, overwrite: bool = False
) -> None:
    parts = (plan.config, plan.run.features, plan.table, params)
    save_native(folder, *parts, overwrite=overwrite)

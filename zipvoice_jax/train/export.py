"""A finished model from a run's checkpoints, averaged as officially."""

from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.checkpoint.native import is_native, save_native
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.train.averaging import between
from zipvoice_jax.train.checkpoints import Checkpoints
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.stages import StageModel
from zipvoice_jax.train.state import TrainState


def exported_params(
    run: TrainConfig, index: int, checkpoints: Checkpoints, state: TrainState
) -> dict[str, Any]:
    """The parameters to hand on: averaged over the last steps of the stage.

    Officially the average of the last n checkpoints is that over the steps since the n-th
    before the end. With `average` "ema" it is that average; with an `export_window` of 0, or
    where the stage is shorter than `average_period`, the parameters themselves.
    """
    begin, end = run.boundaries[index], int(state.step)
    start, period = run.window_starts[index], run.average_period
    if run.average == "ema":
        return jax.device_get(state.average)
    if run.export_window == 0 or end - begin < period:
        return jax.device_get(state.params)
    average = jax.device_get(state.average)
    if start == begin:
        return average
    if start not in checkpoints.steps:
        raise UserError(
            f"the checkpoint of step {start} is gone, so the average over the last "
            f"{run.export_window} steps cannot be formed; lower export_window."
        )
    earlier = jax.device_get(checkpoints.restore(start, state).average)
    return between(earlier, start - begin, average, end - begin, period)


def export_stage(
    run: TrainConfig,
    index: int,
    model: StageModel,
    checkpoints: Checkpoints,
    state: TrainState,
    folder: Path,
) -> None:
    """Writes the model of a finished stage, unless it is there already.

    Raises:
        UserError: the place cannot be written.
    """
    if is_native(folder):
        return
    params = exported_params(run, index, checkpoints, state)
    save_native(folder, model.config, run.features, model.table, params)

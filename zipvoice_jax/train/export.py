"""The parameters that a stage hands on, averaged as officially."""

from collections.abc import Callable
from typing import Any

import jax

from zipvoice_jax.train.averaging import between
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.objectives import only_trained
from zipvoice_jax.train.state import TrainState


def exported_params(
    run: TrainConfig,
    index: int,
    state: TrainState,
    since: int | None,
    before: Callable[[int], TrainState],
    fetch: Callable[[Any], Any] = jax.device_get,
) -> dict[str, Any]:
    """Parameters averaged over the steps after `since`.

    Officially the average of the last n checkpoints is that over the steps since the n-th before
    the end, formed from the running means at both (generate_averaged_model.py). With `average`
    "ema" it is that average; where nothing has been averaged yet, since the stage is shorter
    than `average_period`, the parameters themselves. What the stage does not train stays as it is.

    Args:
        run: the config.
        index: of the stage.
        state: after its last step.
        since: a step of the stage; None takes the parameters as they are.
        before: reads the state of an earlier step.
        fetch: brings arrays to the host.

    Raises:
        UserError: no mean was taken between the steps.
    """
    begin, end = run.boundaries[index], int(state.step)
    if since is None or (end - begin < run.average_period and run.average == "running"):
        return fetch(state.params)
    average = fetch(state.average)
    if run.average == "ema" or since <= begin:
        return average
    earlier = fetch(before(since).average)
    mean = between(earlier, since - begin, average, end - begin, run.average_period)
    objective = run.stages[index].objective
    return only_trained(mean, average, config=run.model, objective=objective)

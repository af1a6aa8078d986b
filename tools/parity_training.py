"""Parity cases of training: the learning rate, the optimiser, and both with a model."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from parity_core import Case, relative_error

from zipvoice_jax.checkpoint import mapping
from zipvoice_jax.config import FeatureConfig, ModelConfig
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.flow.losses import FlowBatch
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.objectives import OBJECTIVES
from zipvoice_jax.train.scaled_adam import scaled_adam
from zipvoice_jax.train.schedules import eden, schedules_of, values_at
from zipvoice_jax.train.state import TrainState, new_state
from zipvoice_jax.train.step import Recipe, loss_and_gradients, update

State = dict[str, np.ndarray]  # by official name

LOSS_LIMIT = 1e-4
EARLY_LIMIT, LATE_LIMIT = 1e-5, 1e-4  # of parameters, up to and after this step:
LAST_EARLY_STEP = 10


def _part(d: Any, prefix: str) -> State:
    return {name[len(prefix) :]: d[name] for name in d.files if name.startswith(prefix)}


def _recorded_steps(d: Any) -> list[int]:
    """The steps after which parameters were recorded, in order."""
    found = {re.match(r"step(\d+)\.", name) for name in d.files}
    return sorted({int(match[1]) for match in found if match})


def eden_rates(golden: Path) -> Iterator[Case]:
    """eden.npz: the learning rate at rows of (batch, epoch, lr)."""
    d = np.load(golden / "eden.npz")
    names = ("lr_batches", "lr_epochs", "base_lr", "warmup_batches", "warmup_start")
    numbers = {name: float(d[name]) for name in names}
    for batch, epoch, rate in d["rows"]:
        schedule = eden(**numbers, epoch=lambda _, epoch=epoch: jnp.float32(epoch))
        error = relative_error(schedule(jnp.int32(batch)), rate)
        yield Case(f"batch {batch:g}, epoch {epoch:g}", error)


def scaled_adam_steps(golden: Path) -> Iterator[Case]:
    """scaled_adam.npz: every parameter after each recorded step, gradients given."""
    d = np.load(golden / "scaled_adam.npz")
    rates = jnp.asarray(d["lr"])
    optimizer = scaled_adam(lambda count: rates[count], clipping_scale=2.0)

    @jax.jit
    def trace(params: Any, grads: Any) -> Any:
        def step(carry: Any, grad: Any) -> Any:
            params, state = carry
            updates, state = optimizer.update(grad, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, state.clip_factor)

        return jax.lax.scan(step, (params, optimizer.init(params)), grads)[1]

    params, factors = trace(
        jax.tree.map(jnp.asarray, _part(d, "init.")),
        jax.tree.map(jnp.asarray, _part(d, "grads.")),
    )
    for number in _recorded_steps(d):
        for name, official in _part(d, f"step{number}.").items():
            error = relative_error(params[name][number - 1], official)
            yield Case(f"{name} after step {number}", error)
    yield Case("no step was clipped", float(jnp.all(factors == 1.0)), 0.0)


def training(golden: Path) -> Iterator[Case]:
    """training.npz: losses of every step, and parameters after some, of a small Dialog model."""
    d = np.load(golden / "training.npz")
    values = json.loads(str(d["config"]))
    model = values.pop("model")
    # Random tokens put two turns of one speaker in a row, where the official rule differs.
    config = ModelConfig.from_model_json(
        model, kind="zipvoice_dialog", speaker_turns="official", **values
    )
    losses, params_at = _trained(d, config)
    errors = np.abs(losses - d["loss"]) / np.abs(d["loss"])
    for step, error in enumerate(errors, start=1):
        yield Case(f"loss, step {step}", error, LOSS_LIMIT, detail=True)
    yield Case(f"loss, worst of {len(errors)} steps", errors.max(), LOSS_LIMIT)
    for step in _recorded_steps(d):
        limit = EARLY_LIMIT if step <= LAST_EARLY_STEP else LATE_LIMIT
        yield from _tensors(params_at(step), _part(d, f"step{step}."), f"step {step}", limit)


def _trained(d: Any, config: ModelConfig) -> tuple[np.ndarray, Callable[[int], State]]:
    """The losses of all steps, and a function from a step's number, from 1, to the parameters."""
    size, frames = d["features"].shape[:2]
    pad = np.full((size, 1), config.pad_id)
    fixed = {
        "tokens": jnp.asarray(np.concatenate([d["tokens"], pad], axis=1).astype(np.int32)),
        "tokens_lens": jnp.full(size, d["tokens"].shape[1], jnp.int32),
        "features": jnp.asarray(d["features"]),
        "features_lens": jnp.full(size, frames, jnp.int32),
        "speech_condition_mask": jnp.asarray(d["speech_condition_mask"]),
        "keep_text": jnp.ones(size, jnp.float32),
    }
    # The very step that `zipvoice-jax train` compiles, on a batch whose random numbers are given.
    data = DataConfig((SourceConfig("none"),), batch_seconds=1.0)
    stage = Stage(
        name="golden", kind=config.kind, steps=1000, data=data, learning_rate=float(d["lr"])
    )
    features = FeatureConfig(n_mels=config.feat_dim)
    run = TrainConfig(model=config, stages=(stage,), tokens="none", features=features)
    recipe = Recipe(config, OBJECTIVES["flow"], run, hooks=False)
    schedules = schedules_of(run)

    def step(state: TrainState, drawn: tuple[jax.Array, jax.Array]) -> Any:
        noise, t = drawn
        batch = FlowBatch(**fixed, noise=noise, t=t.reshape(-1))
        values = values_at(schedules, state.step)
        losses, grads = loss_and_gradients(state, batch, values, recipe)
        state, _ = update(state, losses["loss"], grads, recipe=recipe)
        return state, (losses["loss"], ravel_pytree(state.params)[0])

    # It runs for less than a second: what takes time is to compile it.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def course(params: Any, noises: jax.Array, times: jax.Array) -> Any:
        return jax.lax.scan(step, new_state(params, recipe.optimizer, seed=0), (noises, times))[1]

    init = jax.tree.map(jnp.asarray, mapping.from_official(_part(d, "init."), config))
    _, unravel = ravel_pytree(init)
    losses, vectors = map(np.asarray, course(init, jnp.asarray(d["noise"]), jnp.asarray(d["t"])))

    def params_at(number: int) -> State:
        return mapping.to_official(unravel(vectors[number - 1]), config)

    return losses.astype(np.float64), params_at


def _flat(tree: State, names: list[str]) -> np.ndarray:
    return np.concatenate([np.ravel(tree[name]) for name in names])


def _tensors(ours: State, official: State, label: str, limit: float) -> Iterator[Case]:
    """All parameters together, and each tensor whose gradient is more than rounding.

    The loss does not depend on an attention's key biases, nor on some sums of its position
    weights: their gradients are rounding noise, which Adam makes as large as any. These
    tensors count among all parameters only.
    """
    names = list(official)
    yield Case(f"tensors missing, {label}", float(len(ours.keys() ^ official.keys())), 0.0)
    whole = relative_error(_flat(ours, names), _flat(official, names))
    yield Case(f"all parameters, {label}", whole, limit)
    errors = {
        n: relative_error(ours[n], official[n]) for n in names if "self_attn_weights" not in n
    }
    for name, error in errors.items():
        yield Case(f"{name}, {label}", error, limit, detail=True)
    yield Case(f"worst of {len(errors)} tensors, {label}", max(errors.values()), limit)

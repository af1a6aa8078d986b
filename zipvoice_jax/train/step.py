"""One training step and one validation step, as pure functions to be compiled per bucket."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.flow.losses import (
    DistillBatch,
    FlowBatch,
    counted_frames,
    flow_matching_loss,
)
from zipvoice_jax.nn.training import StepContext
from zipvoice_jax.train.averaging import ema, running_average, warm_decay
from zipvoice_jax.train.config import Objective, Stage, TrainConfig
from zipvoice_jax.train.curriculum import Clock, Schedules, values_at
from zipvoice_jax.train.objectives import (
    SpeechBatch,
    draw_batch,
    objective_loss,
    only_trained,
)
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.state import TrainState

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class StepRecipe:
    """What a step's program is made of, beside its arrays' shapes.

    Stages whose recipes are equal share their programs, since what differs between them is in
    the schedules.

    Attributes:
        config: of the model.
        objective: which loss.
        run: the config of the run.
        hooks: dropout and gradient hooks; False for comparisons with numbers made without.
        aligned: batches tell where their tokens begin.
    """

    config: ModelConfig
    objective: Objective
    run: TrainConfig
    hooks: bool = True
    aligned: bool = False

    @classmethod
    def of_stage(cls, config: ModelConfig, run: TrainConfig, stage: Stage) -> "StepRecipe":
        """The recipe of a stage of a run, whose model is of this config."""
        aligned = run.is_aligned(stage)
        return cls(config, stage.objective, run, hooks=stage.hooks, aligned=aligned)


def micro_batches(batch: Any, parts: int) -> list[Array]:
    """The leaves of a tree of batched arrays with a leading axis of `parts`; numbers are repeated.

    Each part takes rows from all over the batch, hence from every device.
    """

    def split(x: Array) -> Array:
        if x.ndim == 0:
            return jnp.broadcast_to(x, (parts,))
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    return [split(leaf) for leaf in jax.tree.leaves(batch)]


def loss_and_gradients(
    state: TrainState,
    given: FlowBatch | DistillBatch,
    values: Mapping[str, Array],
    recipe: StepRecipe,
) -> tuple[Metrics, dict[str, Any]]:
    """Mean loss of a step, its parts, and the gradients.

    Noise, times and masks were drawn for the whole batch, and micro-batches count by their
    frames: but for dropout, hooks and the error of durations (a mean over each part's tokens),
    `accumulate` changes nothing.
    """
    run, objective = recipe.run, recipe.objective

    def weighted(params: dict[str, Any], given: Any, key: Key[Array, ""]) -> Any:
        ctx = StepContext(values["batch_count"], key) if recipe.hooks else None
        loss, parts = objective_loss(
            params, state.teacher, given, values, ctx, config=recipe.config, objective=objective
        )
        count = counted_frames(recipe.config, given).sum()
        sums = jax.tree.map(lambda x: x * count, {"loss": loss, **parts})
        return loss * count, {**sums, "count": count}

    gradient = jax.grad(weighted, has_aux=True)
    key = named_key(state.key, state.step, "model")
    if run.accumulate == 1:
        grads, sums = gradient(state.params, given, key)
    else:
        keys = jax.vmap(lambda i: named_key(key, i))(jnp.arange(run.accumulate))
        parts = (micro_batches(given, run.accumulate), keys)
        structure = jax.tree.structure(given)

        def of_part(part: tuple[list[Array], Key[Array, ""]]) -> Any:
            leaves, key = part
            return gradient(state.params, jax.tree.unflatten(structure, leaves), key)

        like = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        (grads, sums), _ = jax.lax.scan(
            lambda total, part: (jax.tree.map(jnp.add, total, of_part(part)), None), zeros, parts
        )
    count = jnp.maximum(sums.pop("count"), 1.0)
    means = jax.tree.map(lambda x: x / count, sums)
    return means, jax.tree.map(lambda g: g / count, grads)


def train_step(
    state: TrainState,
    batch: SpeechBatch,
    *,
    recipe: StepRecipe,
    schedules: Schedules,
    optimizer: optax.GradientTransformationExtraArgs,
    layout: Layout | None = None,
) -> tuple[TrainState, Metrics]:
    """One update on a batch from the loader, whose noise, times and masks are drawn here.

    Args:
        state: donated when compiled.
        batch: from the loader.
        recipe: what to compute.
        schedules: of the whole run.
        optimizer: takes `learning_rate` as an extra argument.
        layout: of the arrays on several devices.

    Returns:
        The next state, and what to log about this step.
    """
    values = values_at(schedules, state.step)
    given = draw_batch(
        named_key(state.key, state.step),
        batch,
        values,
        objective=recipe.objective,
        feat_scale=recipe.run.feat_scale,
    )
    after, metrics = update(state, given, values, recipe=recipe, optimizer=optimizer, layout=layout)
    frames = batch.features_lens.sum().astype(jnp.float32)
    metrics |= {
        "frames": frames,
        "padding": 1.0 - frames / float(batch.features.shape[0] * batch.features.shape[1]),
    }
    return after, metrics


def update(
    state: TrainState,
    given: FlowBatch | DistillBatch,
    values: Mapping[str, Array],
    *,
    recipe: StepRecipe,
    optimizer: optax.GradientTransformationExtraArgs,
    layout: Layout | None = None,
) -> tuple[TrainState, Metrics]:
    """One update; a loss or gradient that is not finite changes nothing but the counts.

    Args:
        state: before the step.
        given: a batch with the random quantities of the step.
        values: the scheduled numbers at this step.
        recipe: what to compute.
        optimizer: takes `learning_rate` as an extra argument.
        layout: of the arrays on several devices.

    Returns:
        The next state, and what to log about this step.
    """
    run, clock = recipe.run, Clock(recipe.run.boundaries)
    whole = state
    if layout is not None:
        params, teacher = layout.whole((state.params, state.teacher))
        whole = state.replace(params=params, teacher=teacher)  # type: ignore[attr-defined]
    metrics, grads = loss_and_gradients(whole, given, values, recipe)
    if layout is not None:
        grads = layout.apart(grads)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    # What is not trained stays bit for bit, in the averages too.
    kept = functools.partial(only_trained, config=recipe.config, objective=recipe.objective)

    def step(params: Any, opt_state: Any) -> tuple[Any, Any]:
        rate = values["learning_rate"]
        found: Any = optimizer.update(grads, opt_state, params, learning_rate=rate)
        updates, opt_state = found
        moved: Any = optax.apply_updates(params, updates)
        return kept(moved, params), opt_state

    params, opt_state = jax.lax.cond(finite, step, lambda *old: old, state.params, state.opt_state)
    done = clock.stage_step(state.step) + 1
    if run.average == "ema":
        average = ema(params, state.average, warm_decay(done, run.ema_decay))
    else:
        average = running_average(params, state.average, done, run.average_period)
    average = kept(average, state.average)
    teacher = state.teacher
    if recipe.objective == "distill_second":
        teacher = ema(params, teacher, run.ema_decay)
    bad = (~finite).astype(jnp.int32)
    after = state.replace(  # type: ignore[attr-defined]
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        average=average,
        teacher=teacher,
        bad_steps=(state.bad_steps + 1) * bad,
        skipped=state.skipped + bad,
    )
    metrics |= {
        "grad_norm": norm,
        "learning_rate": values["learning_rate"],
        "bad_steps": after.bad_steps.astype(jnp.float32),
        "skipped": after.skipped.astype(jnp.float32),
    }
    return after, metrics


def valid_step(
    params: dict[str, Any],
    teacher: dict[str, Any],
    batch: SpeechBatch,
    key: Key[Array, ""],
    values: Mapping[str, Array],
    *,
    recipe: StepRecipe,
) -> Metrics:
    """Sums of losses over a validation batch, on noise and times that depend on the key alone.

    Times are spread evenly over the rows, as officially. Beside the loss of flow matching stand
    those without the text and without any condition, for comparison.

    Returns:
        Sums over the frames that are counted, and their `count`.
    """
    config, objective = recipe.config, recipe.objective
    values = {**values, "condition_drop": jnp.zeros(())}
    scale = recipe.run.feat_scale
    given = draw_batch(key, batch, values, objective=objective, feat_scale=scale)
    size = batch.features.shape[0]
    if isinstance(given, FlowBatch):
        given = given.replace(t=jnp.arange(size, dtype=jnp.float32) / size)  # type: ignore[attr-defined]
    loss, parts = objective_loss(
        params, teacher, given, values, None, config=config, objective=objective
    )
    losses = {"loss": loss, **parts}
    if isinstance(given, FlowBatch) and objective == "flow":
        textless = given.replace(keep_text=jnp.zeros_like(given.keep_text))  # type: ignore[attr-defined]
        losses["flow_without_text"] = flow_matching_loss(params, config, textless)[1]["flow"]
        alone = flow_matching_loss(params, config, given, unconditional=True)
        losses["flow_unconditional"] = alone[1]["flow"]
    count = counted_frames(config, given).sum()
    return {**{name: value * count for name, value in losses.items()}, "count": count}

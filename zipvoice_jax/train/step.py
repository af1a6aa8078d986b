"""One training step and one validation step, as pure functions and as the programs of a run."""

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.compiling import Programs, specialised
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.flow.losses import counted_frames
from zipvoice_jax.models.zipvoice import abstract_params
from zipvoice_jax.nn.training import StepContext
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.objectives import OBJECTIVES, Objective, SpeechBatch, only_trained
from zipvoice_jax.train.optimizer import make_optimizer
from zipvoice_jax.train.schedules import schedules_of, stage_step, values_at
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.state import TrainState, new_state, running_average, warm_decay

Metrics = dict[str, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a step's program depends on, beside its arrays' shapes.

    Stages of equal recipes share their programs, since what differs between them is in the
    schedules.

    Attributes:
        config: sizes and options of the model.
        objective: what is minimised.
        run: the config of the run.
        hooks: dropout and gradient hooks; False for comparisons with numbers made without.
        aligned: batches say where their tokens begin.
    """

    config: ModelConfig
    objective: Objective
    run: TrainConfig
    hooks: bool = True
    aligned: bool = False

    @classmethod
    def of_stage(cls, config: ModelConfig, run: TrainConfig, stage: Stage) -> "Recipe":
        """The recipe of a stage of a run, with the config of its model."""
        objective = OBJECTIVES[stage.objective]
        return cls(config, objective, run, stage.hooks, run.is_aligned(stage))

    @property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The stage's optimiser."""
        return make_optimizer(self.run.optimizer, self.objective.only_part)

    @property
    def abstract_state(self) -> TrainState:
        """The shapes of the stage's state."""
        config = self.objective.teacher_config(self.config)
        teacher = {} if config is None else abstract_params(config)
        start = functools.partial(new_state, optimizer=self.optimizer, seed=self.run.seed)
        return jax.eval_shape(start, abstract_params(self.config), teacher=teacher)

    def __str__(self) -> str:
        return f"{self.config.kind} {self.objective.name}"


def train_step(
    state: TrainState, batch: SpeechBatch, *, recipe: Recipe, layout: Layout | None = None
) -> tuple[TrainState, Metrics]:
    """One update on a batch from the loader, whose noise, times and masks are drawn here.

    A run compiles the two halves apart: `update` is the same for batches of every shape.

    Returns:
        The next state, and what to log about this step.
    """
    losses, grads = gradients(state, batch, recipe=recipe, layout=layout)
    after, metrics = update(state, losses["loss"], grads, recipe=recipe)
    return after, losses | metrics


def gradients(
    state: TrainState, batch: SpeechBatch, *, recipe: Recipe, layout: Layout | None = None
) -> tuple[Metrics, dict[str, Any]]:
    """The losses of a batch, and the gradients for `update`.

    Args:
        state: before the step.
        batch: from the loader.
        recipe: what to compute.
        layout: None on one device.
    """
    values = values_at(schedules_of(recipe.run), state.step)
    key = named_key(state.key, state.step)
    drawn = recipe.objective.draw(key, batch, values, recipe.run.feat_scale)
    if layout is None:
        metrics, grads = loss_and_gradients(state, drawn, values, recipe)
    else:
        params, teacher = layout.whole((state.params, state.teacher))
        whole: Any = state.replace(params=params, teacher=teacher)  # type: ignore[attr-defined]
        metrics, grads = loss_and_gradients(whole, drawn, values, recipe)
        grads = layout.apart(grads)
    frames = batch.features_lens.sum().astype(jnp.float32)
    metrics |= {
        "frames": frames,
        "padding": 1.0 - frames / float(batch.features.shape[0] * batch.features.shape[1]),
    }
    return metrics, grads


def update(
    state: TrainState, loss: Float[Array, ""], grads: dict[str, Any], *, recipe: Recipe
) -> tuple[TrainState, Metrics]:
    """One update; a loss or gradient that is not finite changes no parameter and no moment.

    Averages, and a teacher that is one, count such a step too, with the parameters as they stay:
    else the mean over a window would lack a term.

    Args:
        state: before the step.
        loss: of the step's batch.
        grads: its gradients.
        recipe: what to compute.

    Returns:
        The next state, and what to log about the update.
    """
    run, objective = recipe.run, recipe.objective
    rate = values_at(schedules_of(run), state.step)["learning_rate"]
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    # What is not trained stays bit for bit, in the averages too.
    trained = functools.partial(only_trained, objective, config=recipe.config)

    def step(params: Any, opt_state: Any) -> tuple[Any, Any]:
        found: Any = recipe.optimizer.update(grads, opt_state, params, learning_rate=rate)
        changes, opt_state = found
        changed: Any = optax.apply_updates(params, changes)
        return trained(changed, params), opt_state

    params, opt_state = jax.lax.cond(finite, step, lambda *old: old, state.params, state.opt_state)
    done = stage_step(run.boundaries, state.step) + 1
    if run.average == "ema":
        share = 1.0 - warm_decay(done, run.ema_decay)
        average: Any = optax.incremental_update(params, state.average, share)
    else:
        average = running_average(params, state.average, done, run.average_period)
    bad = (~finite).astype(jnp.int32)
    after = state.replace(  # type: ignore[attr-defined]
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        average=trained(average, state.average),
        teacher=objective.next_teacher(state.teacher, params, run.ema_decay),
        bad_steps=(state.bad_steps + 1) * bad,
        skipped=state.skipped + bad,
    )
    return after, {
        "grad_norm": norm,
        "learning_rate": rate,
        "bad_steps": after.bad_steps.astype(jnp.float32),
        "skipped": after.skipped.astype(jnp.float32),
    }


def loss_and_gradients(
    state: TrainState, drawn: Any, values: Mapping[str, Array], recipe: Recipe
) -> tuple[Metrics, dict[str, Any]]:
    """Mean loss of a step, its parts, and the gradients.

    Noise, times and masks were drawn for the whole batch, and micro-batches count by their
    frames: but for dropout, hooks and the error of durations (a mean over each part's tokens),
    `accumulate` changes nothing.
    """
    run, objective, config = recipe.run, recipe.objective, recipe.config

    def weighted(params: dict[str, Any], drawn: Any, key: Key[Array, ""]) -> Any:
        ctx = StepContext(values["batch_count"], key) if recipe.hooks else None
        loss, parts = objective.loss(params, state.teacher, drawn, values, ctx, config=config)
        count = counted_frames(config, drawn).sum()
        sums = jax.tree.map(lambda x: x * count, {"loss": loss, **parts})
        return loss * count, {**sums, "count": count}

    n, gradient = run.accumulate, jax.grad(weighted, has_aux=True)
    key = named_key(state.key, state.step, "model")
    if n == 1:
        grads, sums = gradient(state.params, drawn, key)
    else:

        def of_part(i: Int[Array, ""]) -> Any:
            return gradient(state.params, micro_batch(drawn, i, n), named_key(key, i))

        like = jax.eval_shape(of_part, jnp.int32(0))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        grads, sums = jax.lax.fori_loop(
            0, n, lambda i, total: jax.tree.map(jnp.add, total, of_part(i)), zeros
        )
    count = jnp.maximum(sums.pop("count"), 1.0)
    means = jax.tree.map(lambda x: x / count, sums)
    return means, jax.tree.map(lambda g: g / count, grads)


def micro_batch(batch: Any, index: Int[Array, ""] | int, parts: int) -> Any:
    """One of several parts of a tree of batched arrays; numbers are in each.

    It has rows from all over the batch, hence from every device.
    """

    def rows(x: Array) -> Array:
        if x.ndim == 0:
            return x
        apart = x.reshape(-1, parts, *x.shape[1:])
        return jax.lax.dynamic_index_in_dim(apart, index, axis=1, keepdims=False)

    return jax.tree.map(rows, batch)


def valid_step(
    params: dict[str, Any],
    teacher: dict[str, Any],
    batch: SpeechBatch,
    key: Key[Array, ""],
    values: Mapping[str, Array],
    *,
    recipe: Recipe,
    layout: Layout,
) -> Metrics:
    """Sums of losses over a validation batch, on noise and times that depend on the key alone.

    Times are spread evenly over the rows, as officially.

    Returns:
        Sums over the frames that are counted, and their `count`.
    """
    config, objective = recipe.config, recipe.objective
    params, teacher = layout.whole((params, teacher))
    values = {**values, "condition_drop": jnp.zeros(())}
    drawn = objective.draw(key, batch, values, recipe.run.feat_scale, even_times=True)
    loss, parts = objective.loss(params, teacher, drawn, values, None, config=config)
    losses = {"loss": loss, **parts, **objective.watched(params, drawn, config=config)}
    count = counted_frames(config, drawn).sum()
    return {**{name: value * count for name, value in losses.items()}, "count": count}


# --- as programs -----------------------------------------------------------------------------


def call_train_step(
    programs: Programs, recipe: Recipe, layout: Layout, state: TrainState, batch: Batch
) -> tuple[TrainState, Metrics]:
    """`train_step` of this process's rows: gradients compiled for their bucket, then the update.

    The state is given up.
    """
    rows = SpeechBatch(**layout.split(batch.arrays))
    made = functools.partial(jit_gradients, recipe, layout)
    losses, grads = programs.run(*program_id("gradients", recipe, batch.bucket), made, state, rows)
    made = functools.partial(jit_update, recipe, layout)
    args = (state, losses["loss"], grads)
    after, metrics = programs.run(("update", recipe), f"update {recipe}", made, *args)
    return after, losses | metrics


def call_valid_step(
    programs: Programs, recipe: Recipe, layout: Layout, state: TrainState, batch: Batch, *rest: Any
) -> Metrics:
    """`valid_step` of a state and this process's rows, by a key and the scheduled numbers."""
    rows = SpeechBatch(**layout.split(batch.arrays))
    step = specialised(valid_step, recipe=recipe, layout=layout)
    args = (state.params, state.teacher, rows, *layout.replicate(rest))
    made = functools.partial(jax.jit, step, out_shardings=layout.everywhere)
    return programs.run(*program_id("validate", recipe, batch.bucket), made, *args)


def program_id(what: str, recipe: Recipe, bucket: Bucket) -> tuple[Hashable, str]:
    """The key of a program, which is compiled once for each bucket, and its name in the log.

    Args:
        what: the program's task, in a word.
        recipe: what else it depends on.
        bucket: the shape of its batch.
    """
    return (what, recipe, bucket), f"{what} {recipe}, {bucket}"


def jit_gradients(recipe: Recipe, layout: Layout) -> Any:
    """`gradients` of a state and a batch, split like the parameters."""
    step = specialised(gradients, recipe=recipe, layout=layout)
    like = layout.of_state(abstract_params(recipe.config))
    # All of the state lies there meanwhile, and XLA is to count it.
    return jax.jit(step, out_shardings=(layout.everywhere, like), keep_unused=True)


def jit_update(recipe: Recipe, layout: Layout) -> Any:
    """`update` of a state, losses and gradients; the state stays where it lies and is given up."""
    step, state = specialised(update, recipe=recipe), layout.of_state(recipe.abstract_state)
    return jax.jit(step, donate_argnums=(0,), out_shardings=(state, layout.everywhere))


def lower_train_step(recipe: Recipe, layout: Layout, bucket: Bucket) -> tuple[Any, Any]:
    """A step's two programs for a global batch of a bucket's shape, ready to be compiled."""
    state = layout.abstract(recipe.abstract_state)
    batch = layout.abstract_batch(abstract_batch(recipe.config, bucket, aligned=recipe.aligned))
    first = jit_gradients(recipe, layout).lower(state, batch)
    losses, grads = first.out_info
    return first, jit_update(recipe, layout).lower(state, losses["loss"], grads)


def abstract_batch(config: ModelConfig, bucket: Bucket, *, aligned: bool = False) -> SpeechBatch:
    """The shapes of a global batch in a bucket."""
    shape, size = jax.ShapeDtypeStruct, bucket.batch
    tokens = shape((size, bucket.tokens), jnp.int32)
    return SpeechBatch(
        features=shape((size, bucket.frames, bucket.channels * config.feat_dim), jnp.float32),
        features_lens=shape((size,), jnp.int32),
        tokens=tokens,
        tokens_lens=shape((size,), jnp.int32),
        token_starts=tokens if aligned else None,
    )

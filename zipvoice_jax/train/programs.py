"""Compiled programs of a run: one training and one validation program per recipe and bucket."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.compiling import Compilation, compile_lowered
from zipvoice_jax.core.supervise import beat
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.flow.sampling import SampleInputs, sample
from zipvoice_jax.models.zipvoice import abstract_params
from zipvoice_jax.train.config import DISTILLATION, Objective, OptimizerConfig, TrainConfig
from zipvoice_jax.train.curriculum import schedules_of
from zipvoice_jax.train.objectives import SpeechBatch, teacher_of
from zipvoice_jax.train.scaled_adam import adamw, scaled_adam
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.state import TrainState, new_state
from zipvoice_jax.train.step import Metrics, StepRecipe, train_step, valid_step


def make_optimizer(
    config: OptimizerConfig, objective: Objective = "flow"
) -> optax.GradientTransformationExtraArgs:
    """The optimiser that a config names; each update is given its learning rate.

    Args:
        config: of the run.
        objective: of the stage; for "durations" nothing but the head has a state.
    """
    if config.name == "adamw":
        made = adamw(weight_decay=config.weight_decay, clip_norm=config.clip_norm)
    else:
        made = scaled_adam(clipping_scale=config.clipping_scale)
    return _of_part(made, "duration_head") if objective == "durations" else made


def _of_part(
    inner: optax.GradientTransformationExtraArgs, part: str
) -> optax.GradientTransformationExtraArgs:
    """An optimiser of one part of the parameters; all else gets no update."""

    def init(params: Any) -> Any:
        return inner.init({part: params[part]})

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        own = None if params is None else {part: params[part]}
        found: Any = inner.update({part: updates[part]}, state, own, **extra)
        return {**jax.tree.map(jnp.zeros_like, updates), **found[0]}, found[1]

    return optax.GradientTransformationExtraArgs(init, update)


class Programs:
    """Everything compiled in a run, and how arrays lie on its devices.

    Args:
        run: the config.
        devices: of all processes; by default those there are. They need not exist: a TPU
            topology's serve for compiling.
        fsdp: devices that share one copy of the state.

    Attributes:
        compilations: every program compiled, in order.
        schedules: of the run.
        layout: of arrays on the devices.
    """

    def __init__(
        self, run: TrainConfig, devices: Sequence[Any] | None = None, *, fsdp: int = 1
    ) -> None:
        self.run = run
        self.devices = list(jax.devices() if devices is None else devices)
        self.compilations: list[Compilation] = []
        self.schedules = schedules_of(run)
        self.layout = Layout.of(self.devices, fsdp)
        self._programs: dict[tuple[str, StepRecipe, Bucket], Any] = {}

    # --- arrays -----------------------------------------------------------------------------

    def place(self, tree: Any) -> Any:
        """Values that every process has, on every device."""
        return jax.device_put(tree, self.layout.everywhere)

    def put(self, batch: Batch) -> SpeechBatch:
        """This process's rows as part of the global batch."""
        return SpeechBatch(
            **{
                name: jax.make_array_from_process_local_data(self.layout.over_batch, array)
                for name, array in batch.arrays.items()
            }
        )

    def fetch(self, tree: Any) -> Any:
        """The whole of arrays that lie on the devices of all processes, in host memory."""
        if jax.process_count() > 1:
            tree = jax.jit(lambda x: x, out_shardings=self.layout.everywhere)(tree)
        return jax.device_get(tree)

    def _start(self, objective: Objective) -> Callable[..., TrainState]:
        """`new_state` of a stage with this objective."""
        optimizer = make_optimizer(self.run.optimizer, objective)
        return functools.partial(new_state, optimizer=optimizer, seed=self.run.seed)

    def begin(self, params: Any, *, objective: Objective = "flow", **rest: Any) -> TrainState:
        """`new_state`, made where it is to lie."""
        start = self._start(objective)
        step = {name: rest.pop(name) for name in ("step", "skipped") if name in rest}
        made = functools.partial(start, **step)
        shardings = self.layout.of_state(jax.eval_shape(made, params, **rest))
        return jax.jit(made, out_shardings=shardings)(params, **rest)

    def abstract_state(self, config: ModelConfig, objective: Objective) -> TrainState:
        """Shapes and shardings of a stage's state."""
        start = self._start(objective)
        distills = objective in DISTILLATION
        teacher = abstract_params(teacher_of(config, objective)) if distills else {}
        shapes = jax.eval_shape(start, abstract_params(config), teacher=teacher)
        return jax.tree.map(_with_sharding, shapes, self.layout.of_state(shapes))

    # --- programs ---------------------------------------------------------------------------

    def train(
        self, recipe: StepRecipe, batch: Batch, state: TrainState, *, asked: bool = False
    ) -> tuple[TrainState, Metrics]:
        """One training step; the state that goes in is given up.

        Args:
            recipe: what to compute.
            batch: this process's rows.
            state: before the step.
            asked: whether this process has been asked to stop; the metric `asked` tells every
                process whether any has.
        """
        flags = np.full(len(self.devices) // jax.process_count(), asked, np.float32)
        told = jax.make_array_from_process_local_data(self.layout.over_batch, flags)
        args = (state, self.put(batch), told)
        return self._call(
            "train", recipe, batch.bucket, args, lambda: self._train_step(recipe, state)
        )

    def _train_step(self, recipe: StepRecipe, state: TrainState) -> Any:
        """The step, and its result's shardings."""
        optimizer = make_optimizer(self.run.optimizer, recipe.objective)

        def step(state: TrainState, batch: SpeechBatch, asked: Any) -> Any:
            after, metrics = train_step(
                state,
                batch,
                recipe=recipe,
                schedules=self.schedules,
                optimizer=optimizer,
                layout=self.layout,
            )
            return after, metrics | {"asked": jnp.max(asked)}

        shardings = (self.layout.of_state(state), self.layout.everywhere)
        return jax.jit(step, donate_argnums=(0,), out_shardings=shardings)

    def lower_train(self, recipe: StepRecipe, bucket: Bucket) -> Any:
        """A training step for a global batch of a bucket's shape, ready to be compiled."""
        state = self.abstract_state(recipe.config, recipe.objective)
        batch = _abstract_batch(recipe.config, bucket, aligned=recipe.aligned)
        batch = jax.tree.map(self._of_batch, batch)
        asked = self._of_batch(jax.ShapeDtypeStruct((len(self.devices),), jnp.float32))
        return self._train_step(recipe, state).lower(state, batch, asked)

    def validate(
        self, recipe: StepRecipe, batch: Batch, state: TrainState, key: Any, values: Any
    ) -> Metrics:
        """Sums of losses over one validation batch."""

        def step(params: Any, teacher: Any, *rest: Any) -> Metrics:
            params, teacher = self.layout.whole((params, teacher))
            return valid_step(params, teacher, *rest, recipe=recipe)

        args = (state.params, state.teacher, self.put(batch), *self.place((key, values)))
        return self._call("validate", recipe, batch.bucket, args, lambda: self._jit(step))

    def sample(
        self,
        recipe: StepRecipe,
        bucket: Bucket,
        params: dict[str, Any],
        inputs: SampleInputs,
        times: Any,
        guidance_scale: Any,
    ) -> Any:
        """Sampled features of a few items, padded to a bucket's length, on every device."""
        args = (params, *self.place((inputs, times, guidance_scale)))
        return self._call("sample", recipe, bucket, args, lambda: self._sampler(recipe))

    def _sampler(self, recipe: StepRecipe) -> Any:
        def function(params: Any, inputs: Any, times: Any, scale: Any) -> Any:
            return sample(self.layout.whole(params), recipe.config, inputs, times, scale)

        return self._jit(function)

    def lower_sample(self, recipe: StepRecipe, bucket: Bucket, num_step: int) -> Any:
        """Sampling of a batch that is split over the devices, ready to be compiled."""
        config, shape = recipe.config, jax.ShapeDtypeStruct
        size, frames = bucket.batch, bucket.frames
        given = _abstract_batch(config, bucket)
        inputs = dict(
            tokens=given.tokens,
            tokens_lens=given.tokens_lens,
            prompt_features=given.features,
            prompt_lens=given.features_lens,
            features_lens=given.features_lens,
            noise=shape((size, frames, config.channels * config.feat_dim), jnp.float32),
            prompt_tokens_lens=given.tokens_lens if config.looks_up_durations else None,
        )
        state = self.abstract_state(config, "flow")
        times = _with_sharding(shape((num_step + 1,), jnp.float32), self.layout.everywhere)
        batched = jax.tree.map(self._of_batch, (inputs, shape((size,), jnp.float32)))

        def function(params: Any, inputs: Any, times: Any, scale: Any) -> Any:
            made = SampleInputs(**inputs)
            return sample(self.layout.whole(params), config, made, times, scale)

        jitted = jax.jit(function, out_shardings=self.layout.over_batch)
        return jitted.lower(state.params, batched[0], times, batched[1])

    def _of_batch(self, x: Any) -> Any:
        return _with_sharding(x, self.layout.over_batch)

    def _jit(self, function: Any) -> Any:
        return jax.jit(function, out_shardings=self.layout.everywhere)

    def _call(
        self, name: str, recipe: StepRecipe, bucket: Bucket, args: tuple[Any, ...], make: Any
    ) -> Any:
        if (name, recipe, bucket) not in self._programs:
            compiled, seconds = compile_lowered(
                lambda: make().lower(*args), self.devices[0].platform
            )
            told = f"{name} {recipe.config.kind} {recipe.objective}, {bucket}"
            self.compilations.append(Compilation(told, seconds))
            self._programs[name, recipe, bucket] = compiled
        beat()
        return self._programs[name, recipe, bucket](*args)


def _with_sharding(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _abstract_batch(config: ModelConfig, bucket: Bucket, *, aligned: bool = False) -> SpeechBatch:
    shape, size = jax.ShapeDtypeStruct, bucket.batch
    tokens = shape((size, bucket.tokens), jnp.int32)
    return SpeechBatch(
        features=shape((size, bucket.frames, bucket.channels * config.feat_dim), jnp.float32),
        features_lens=shape((size,), jnp.int32),
        tokens=tokens,
        tokens_lens=shape((size,), jnp.int32),
        token_starts=tokens if aligned else None,
    )

"""Compiled programs of a run: one training and one validation program per recipe and bucket."""

import functools
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zipvoice_jax.core.compiling import Compilation, compile_for
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.flow.sampling import SampleInputs, sample
from zipvoice_jax.train.config import OptimizerConfig, TrainConfig
from zipvoice_jax.train.curriculum import schedules_of
from zipvoice_jax.train.objectives import SpeechBatch
from zipvoice_jax.train.scaled_adam import adamw, scaled_adam
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import Metrics, StepRecipe, train_step, valid_step


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """The optimiser that a config names; each update is given its learning rate."""
    if config.name == "adamw":
        return adamw(weight_decay=config.weight_decay, clip_norm=config.clip_norm)
    return scaled_adam(clipping_scale=config.clipping_scale)


class Programs:
    """Everything compiled in a run, and how arrays lie on its devices.

    Attributes:
        compilations: every program compiled, in order.
        schedules: of the run.
        everywhere: the sharding of what every device holds whole.
        optimizer: of the run.
    """

    def __init__(self, run: TrainConfig) -> None:
        self.run = run
        self.optimizer = make_optimizer(run.optimizer)
        self.compilations: list[Compilation] = []
        self.schedules = schedules_of(run)
        mesh = Mesh(np.array(jax.devices()), ("data",))
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        self._over_batch = NamedSharding(mesh, PartitionSpec("data"))
        self._programs: dict[tuple[str, StepRecipe, Bucket], Any] = {}

    def place(self, tree: Any) -> Any:
        """A state or parameters on every device."""
        return jax.device_put(tree, self.everywhere)

    def put(self, batch: Batch) -> SpeechBatch:
        """This process's rows as part of the global batch."""
        return SpeechBatch(
            **{
                name: jax.make_array_from_process_local_data(self._over_batch, array)
                for name, array in batch.arrays.items()
            }
        )

    def train(
        self, recipe: StepRecipe, batch: Batch, state: TrainState
    ) -> tuple[TrainState, Metrics]:
        """One training step; the state that goes in is given up."""
        step = functools.partial(
            train_step, recipe=recipe, schedules=self.schedules, optimizer=self.optimizer
        )
        return self._call(
            "train", step, recipe, batch.bucket, (state, self.put(batch)), donate=(0,)
        )

    def validate(
        self, recipe: StepRecipe, batch: Batch, state: TrainState, key: Any, values: Any
    ) -> Metrics:
        """Sums of losses over one validation batch."""
        step = functools.partial(valid_step, recipe=recipe)
        args = (state.params, state.teacher, self.put(batch), *self.place((key, values)))
        return self._call("validate", step, recipe, batch.bucket, args)

    def sample(
        self,
        recipe: StepRecipe,
        bucket: Bucket,
        params: dict[str, Any],
        inputs: SampleInputs,
        times: Any,
        guidance_scale: Any,
    ) -> Any:
        """Sampled features of a few items, padded to a bucket's length."""

        def function(params: Any, inputs: Any, times: Any, scale: Any) -> Any:
            return sample(params, recipe.config, inputs, times, scale)

        args = (params, *self.place((inputs, times, guidance_scale)))
        return self._call("sample", function, recipe, bucket, args)

    def _call(
        self,
        name: str,
        function: Any,
        recipe: StepRecipe,
        bucket: Bucket,
        args: tuple[Any, ...],
        donate: tuple[int, ...] = (),
    ) -> Any:
        if (name, recipe, bucket) not in self._programs:
            compiled, seconds = compile_for(
                function,
                jax.devices()[0].platform,
                *args,
                donate_argnums=donate,
                out_shardings=self.everywhere,
            )
            told = f"{name} {recipe.config.kind} {recipe.objective}, {bucket}"
            self.compilations.append(Compilation(told, seconds))
            self._programs[name, recipe, bucket] = compiled
        return self._programs[name, recipe, bucket](*args)

"""Measures a training step: compiling, memory by remat policy, and seconds on this machine."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.compiling import beside_arguments, compile_lowered
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.peak import matmul_flops_per_second
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.models.flops import training_flops
from zipvoice_jax.models.zipvoice import init_params
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.objectives import SpeechBatch
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.state import TrainState, new_state
from zipvoice_jax.train.step import Recipe, lower_train_step

COLUMNS = (
    ("remat", "remat", "{:>6}"),
    ("dtype", "dtype", "{:>9}"),
    ("bucket", "bucket", "{:>14}"),
    ("compile_s", "compile_s", "{:9.1f}"),
    ("state_gib", "state_gib", "{:9.2f}"),
    ("temp_gib", "temp_gib", "{:8.2f}"),
    ("step_s", "step_s", "{:8.2f}"),
    ("frames_per_second", "frames/s", "{:8.0f}"),
    ("tflops", "tflops", "{:7.3f}"),
    ("share", "share", "{:6.1%}"),
)


def step_run(model: ModelConfig) -> TrainConfig:
    """A run of one stage, for its training step; no data is read."""
    data = DataConfig((SourceConfig("none"),), batch_seconds=4000.0)
    suffix = model.is_dialog
    stage = Stage(
        name="bench",
        kind=model.kind,
        steps=1000,
        data=data,
        objective="distill_first" if model.is_distill else "flow",
        mask="suffix" if suffix else "span",
        batch_count_offset=100_000.0,
        exclusive_weight=1.0 if model.is_stereo else 0.0,
    )
    return TrainConfig(model=model, stages=(stage,), tokens="none")


def bench_train(
    model: ModelConfig,
    *,
    frames: int,
    tokens: int,
    batch: int,
    remats: Sequence[Any],
    repeats: int,
) -> Iterator[dict[str, Any]]:
    """One row per remat policy, all for the same bucket and a batch without padding.

    A distilled model is in its first stage, with a ZipVoice teacher.

    Args:
        model: kind, sizes and dtype.
        frames: frames of each item.
        tokens: tokens of each item, padding included.
        batch: number of items.
        remats: values of `ModelConfig.remat`.
        repeats: number of timed steps, of which the best counts; 0 only compiles.

    Raises:
        UserError: a number cannot be used.
    """
    if min(frames, batch) < 1 or tokens < 2 or tokens > frames or repeats < 0:
        raise UserError(
            f"a batch of {batch} items with {frames} frames and {tokens} tokens, timed {repeats} "
            "times, cannot be; give positive numbers, and no more tokens than frames."
        )
    devices = len(jax.devices())
    if batch % devices:
        raise UserError(
            f"a batch of {batch} items cannot be shared by {devices} devices; give a multiple."
        )
    for remat in remats:
        config = dataclasses.replace(model, remat=remat)
        run = step_run(config)
        layout, recipe = Layout.of(jax.devices()), Recipe.of_stage(config, run, run.stages[0])
        bucket = Bucket(frames, tokens, batch, config.channels)
        start, platform = time.perf_counter(), jax.devices()[0].platform
        lowered = lower_train_step(recipe, layout, bucket)
        gradients, update = (compile_lowered(lambda one=one: one, platform)[0] for one in lowered)
        seconds = time.perf_counter() - start
        memory = [one.memory_analysis() for one in (gradients, update)]
        row: dict[str, Any] = {
            "remat": remat,
            "dtype": config.dtype,
            "bucket": f"{batch}x{frames}x{tokens}",
            "compile_s": seconds,
            "state_gib": memory[0].argument_size_in_bytes / 2**30,
            "temp_gib": max(map(beside_arguments, memory)) / 2**30,
            "step_s": float("nan"),
            "frames_per_second": float("nan"),
            "tflops": float("nan"),
            "share": float("nan"),
        }
        if repeats:
            now, best = _state(recipe, layout), float("inf")
            rows = jax.device_put(_batch(config, frames, tokens, batch), layout.over_batch)
            for _ in range(repeats + 1):
                begin = time.perf_counter()
                losses, grads = gradients(now, rows)
                now, _ = update(now, losses["loss"], grads)
                jax.block_until_ready(now)
                best = min(best, time.perf_counter() - begin)
            flops = batch * training_flops(config, frames, tokens, channels=config.channels)
            peak = devices * matmul_flops_per_second(config.dtype)
            row |= {
                "step_s": best,
                "frames_per_second": batch * frames / best,
                "tflops": flops / best / 1e12,
                "share": flops / best / peak,
            }
        yield row


def _state(recipe: Recipe, layout: Layout) -> TrainState:
    """A state with random parameters."""
    params, teacher = init_params(recipe.config, jax.random.key(0)), {}
    if (config := recipe.objective.teacher_config(recipe.config)) is not None:
        teacher = init_params(config, jax.random.key(1))
    state = new_state(params, recipe.optimizer, seed=recipe.run.seed, teacher=teacher)
    return jax.device_put(state, layout.of_state(state))


def _batch(config: ModelConfig, frames: int, tokens: int, batch: int) -> SpeechBatch:
    rng = np.random.default_rng(0)
    dim = config.channels * config.feat_dim
    return SpeechBatch(
        features=jnp.asarray(rng.standard_normal((batch, frames, dim)), jnp.float32),
        features_lens=jnp.full((batch,), frames, jnp.int32),
        tokens=jnp.asarray(rng.integers(1, config.vocab_size - 2, (batch, tokens)), jnp.int32),
        tokens_lens=jnp.full((batch,), tokens - 1, jnp.int32),
    )

"""Runs sampling jobs on all devices: one compiled program per bucket, batch sharded."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from zipvoice_jax.config import ModelConfig, SamplingConfig
from zipvoice_jax.core.compiling import Programs, specialised
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.flow.sampling import (
    SampleInputs,
    item_noise,
    predicted_durations,
    sample,
    steering,
    time_steps,
)
from zipvoice_jax.infer.buckets import pack, padded_tokens
from zipvoice_jax.infer.prepare import Job
from zipvoice_jax.models.zipvoice import cast_params, inference_config

Mel = Float[np.ndarray, "frames channels_feat"]


def program(
    params: dict[str, Any],
    batch: dict[str, Array],
    keys: Array,
    times: Array,
    steered: dict[str, Array],
    *,
    config: ModelConfig,
    guided: bool,
) -> Array:
    """Noise and sampling of one bucket.

    `batch` has all fields of `SampleInputs` except noise, and `steered` is from `steering`.
    """
    frames, dim = batch["prompt_features"].shape[1:]
    noise = jax.vmap(lambda key: item_noise(key, frames, dim))(jax.random.wrap_key_data(keys))
    inputs = SampleInputs(noise=noise, **batch)
    return sample(params, config, inputs, times, guided=guided, **steered)


def _durations(
    params: dict[str, Any], tokens: Array, tokens_lens: Array, *, config: ModelConfig
) -> Array:
    return predicted_durations(params, config, tokens, tokens_lens)


def noise_key(seed: int, job: Job) -> Key[Array, ""]:
    """The key of a job's noise: depends on its tokens, prompt's included, and chunk, not its id."""
    return named_key(jax.random.key(seed), "noise", " ".join(map(str, job.token_ids)), job.chunk)


class Engine:
    """A model on its devices, with the programs compiled so far.

    Attributes:
        compilations: every program compiled, in order.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: dict[str, Any],
        devices: Sequence[jax.Device] | None = None,  # type: ignore[valid-type]
    ) -> None:
        self.config = inference_config(config)
        self.devices = list(devices or jax.local_devices())
        mesh = Mesh(np.array(self.devices), ("data",))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._over_batch = NamedSharding(mesh, PartitionSpec("data"))
        self.load(params)
        self._programs = Programs(self.devices[0].platform)
        self.compilations = self._programs.compilations

    def load(self, params: dict[str, Any]) -> None:
        """Loads other parameters of the same model; compiled programs are kept."""
        params = cast_params(jax.tree.map(jnp.asarray, params), self.config)
        self.params = jax.device_put(params, self._everywhere)

    def pack(
        self, jobs: Sequence[Job], sampling: SamplingConfig, fps: float
    ) -> list[tuple[Bucket, list[Job]]]:
        """Groups jobs into batches.

        Args:
            jobs: the jobs, in any order.
            sampling: gives the seconds that fit into a batch.
            fps: frames per second of the features.
        """
        most = int(sampling.max_duration * fps)
        return list(pack(jobs, max_frames=most, devices=len(self.devices)))

    def run(
        self, batches: Sequence[tuple[Bucket, Sequence[Job]]], sampling: SamplingConfig
    ) -> Iterator[tuple[Bucket, list[tuple[Job, Mel, float]]]]:
        """Samples batch by batch.

        Args:
            batches: from `pack`.
            sampling: steps, guidance, seed and so on.

        Yields:
            Each batch when it is done: its bucket and, for each job, its scaled features without
            the prompt and its share of the batch's seconds (without compilation).
        """
        for bucket, members in batches:
            compiled = self.compiled(bucket, sampling)
            start = time.perf_counter()
            features = np.asarray(compiled(*self._arguments(bucket, members, sampling)))
            seconds = time.perf_counter() - start
            total = sum(job.features_len for job in members)
            yield (
                bucket,
                [
                    (
                        job,
                        row[job.prompt_features.shape[0] : job.features_len],
                        seconds * job.features_len / total,
                    )
                    for row, job in zip(features, members, strict=False)
                ],
            )

    def durations(self, token_ids: Sequence[int]) -> Float[np.ndarray, " tokens"]:
        """Frames of each token of a text, predicted by the model."""
        size = padded_tokens(len(token_ids))
        tokens = np.full((1, size), self.config.pad_id, np.int32)
        tokens[0, : len(token_ids)] = token_ids
        inputs = jax.device_put((tokens, np.array([len(token_ids)], np.int32)), self._everywhere)

        predict, name = specialised(_durations, config=self.config), f"durations, {size} tokens"
        frames = self._programs.run(name, name, lambda: jax.jit(predict), self.params, *inputs)
        return np.asarray(frames)[0, : len(token_ids)]

    def compiled(self, bucket: Bucket, sampling: SamplingConfig) -> Any:
        """The program of a bucket, compiled on first use."""
        # A distilled model takes guidance as an input, so 0 is not special.
        guided = not self.config.is_distill and sampling.guidance_scale != 0.0
        function = specialised(program, config=self.config, guided=guided)
        name = f"batch {bucket.batch}, {bucket.frames} frames, {bucket.tokens} tokens"
        jitted = jax.jit(function, out_shardings=self._over_batch)
        return self._programs.get(
            (bucket, sampling.num_step, guided, *steering(sampling, 1)),
            f"{name}, {sampling.num_step} steps",
            lambda: jitted.lower(*self._arguments(bucket, [], sampling)),
        )

    def _arguments(
        self, bucket: Bucket, members: Sequence[Job], sampling: SamplingConfig
    ) -> tuple[Any, ...]:
        """The padded batch; rows without a job are all padding."""
        dim = self.config.channels * self.config.feat_dim
        tokens = np.full((bucket.batch, bucket.tokens), self.config.pad_id, np.int32)
        prompt = np.zeros((bucket.batch, bucket.frames, dim), np.float32)
        lens = np.zeros((4, bucket.batch), np.int32)
        parts = np.zeros((bucket.batch, max(self.config.num_speakers - 1, 1), 2), np.int32)
        keys = [noise_key(sampling.seed, job) for job in members]
        keys += [jax.random.key(sampling.seed)] * (bucket.batch - len(members))
        for row, job in enumerate(members):
            tokens[row, : len(job.token_ids)] = job.token_ids
            prompt[row, : job.prompt_features.shape[0]] = job.prompt_features
            frames = job.prompt_features.shape[0], job.features_len
            lens[:, row] = len(job.token_ids), *frames, job.prompt_tokens
            if job.prompt_parts:
                parts[row, -len(job.prompt_parts) :] = job.prompt_parts
        inputs = dict(
            tokens=tokens,
            tokens_lens=lens[0],
            prompt_features=prompt,
            prompt_lens=lens[1],
            features_lens=lens[2],
        )
        if self.config.looks_up_durations:
            inputs |= {"prompt_tokens_lens": lens[3], "prompt_parts": parts}
        key_data = np.stack([np.asarray(jax.random.key_data(key)) for key in keys])
        steered = steering(sampling, bucket.batch)
        over_batch = jax.device_put((inputs, key_data, steered), self._over_batch)
        times = time_steps(sampling.num_step, sampling.t_shift, sampling.schedule)
        times = jax.device_put(times, self._everywhere)
        return self.params, over_batch[0], over_batch[1], times, over_batch[2]

"""Times loading: audio per core with and without features, on host and device, by workers."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from zipvoice_jax.audio.mel import log_mel_batch
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.config import DataConfig
from zipvoice_jax.data.loader import Loader
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.text.tokens import TokenTable

# Seconds of audio that a v5e-8 trains on per second: an assumption, not a measurement. A training
# step of the base model takes 47e9 operations per second of audio (three times the forward pass
# by models/flops.py, items of 20 s); 30 % of 8 x 197e12 operations per second is 10,054.
V5E8_AUDIO_SECONDS = 10_000.0

Measurement = dict[str, Any]


def bench_data(
    config: DataConfig,
    table: TokenTable,
    features: FeatureConfig,
    *,
    audio_seconds: float,
    workers: Sequence[int],
) -> Iterator[Measurement]:
    """Rates of each part of loading, one row each.

    A row has `part`, `audio_s_per_core_s` (audio per second of core time, cores of other processes
    included) and `audio_s_per_s` (audio per second of wall time).

    Args:
        config: the data config; `workers` is replaced, and no record may be unusable.
        table: vocabulary.
        features: settings of the features.
        audio_seconds: seconds of audio on which to time each part.
        workers: numbers of processes to time the whole loader with; 0: threads of this process.

    Raises:
        UserError: the data or a number cannot be used.
    """
    if not 0.0 < audio_seconds < math.inf:
        raise UserError(f"the audio to time is {audio_seconds} s; give seconds above 0.")
    config = dataclasses.replace(config, max_corrupt=0)
    loader = Loader(dataclasses.replace(config, workers=0), table, features, seed=0, stage="bench")
    assembler = loader.assembler
    steps, audio = _steps(loader, features, audio_seconds)
    rows = [
        (row, assembler.order.bucket(step).channels)
        for step in steps
        for row in assembler.order.rows(step, 0, assembler.order.bucket(step).batch)
        if row is not None
    ]
    reader = assembler.reader
    with threadpoolctl.threadpool_limits(1):
        reader.read(*rows[0][0], rows[0][1])
        yield _timed(
            "read, decode, resample, tokens", audio, lambda: [reader.decode(*r) for r, _ in rows]
        )
        yield _timed(
            "the same and features on the host",
            audio,
            lambda: [reader.read(*row, channels) for row, channels in rows],
        )
        yield _timed("whole batches", audio, lambda: [assembler(step) for step in steps])
    yield _on_device(loader, features, assembler.order.bucket(steps[0]))
    for count in workers:
        yield _with_workers(
            Loader(
                dataclasses.replace(config, workers=count), table, features, seed=0, stage="bench"
            ),
            len(steps),
            features,
        )


def cores_needed(rows: Sequence[Measurement], audio_seconds_per_second: float) -> dict[str, int]:
    """Number of host cores that keep up with training, with features on the host and without.

    Args:
        rows: rows of `bench_data`.
        audio_seconds_per_second: audio on which the accelerators of the host train.
    """
    names = {"without features": rows[0], "with features": rows[2]}
    return {
        name: math.ceil(audio_seconds_per_second / row["audio_s_per_core_s"])
        for name, row in names.items()
    }


def table_of(rows: Sequence[Measurement], *, header: bool = True) -> str:
    """Rows as fixed-width text."""
    lines = [f"{'part':40} {'audio_s/core_s':>14} {'audio_s/s':>10}"] if header else []
    for row in rows:
        per_core = row["audio_s_per_core_s"]
        shown = "" if per_core is None else f"{per_core:.0f}"
        lines.append(f"{row['part']:40} {shown:>14} {row['audio_s_per_s']:10.0f}")
    return "\n".join(lines)


def _steps(
    loader: Loader, features: FeatureConfig, audio_seconds: float
) -> tuple[list[int], float]:
    """The first steps with at least `audio_seconds` of audio, and their seconds of audio."""
    fps = features.sampling_rate / features.hop_length
    steps, audio = [], 0.0
    with loader.iterate(0) as batches:
        while audio < audio_seconds:
            batch = next(batches)
            steps.append(batch.step)
            audio += int(batch.arrays["features_lens"].sum()) / fps
    return steps, audio


def _timed(part: str, audio: float, work: Callable[[], object]) -> Measurement:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"part": part, "audio_s_per_core_s": audio / cpu, "audio_s_per_s": audio / wall}


def _on_device(
    loader: Loader, features: FeatureConfig, bucket: Bucket, repeats: int = 3
) -> Measurement:
    """Features of one padded batch by the jitted jax.numpy version, padding not counted."""
    samples = bucket.frames * features.hop_length
    waves = np.zeros((bucket.batch, bucket.channels, samples), np.float32)
    lens = np.full(bucket.batch, samples, np.int32)
    reader, order = loader.assembler.reader, loader.assembler.order
    for index, row in enumerate(order.rows(0, 0, bucket.batch)):
        if row is not None:
            wave = reader.decode(*row)[2]
            wave = wave if bucket.channels == 2 else wave.mean(axis=0, keepdims=True)
            waves[index, :, : wave.shape[1]] = wave
            lens[index] = wave.shape[1]
    compute = jax.jit(lambda x, n: log_mel_batch(x, n, features, channels=bucket.channels))
    inputs = jnp.asarray(waves), jnp.asarray(lens)
    jax.block_until_ready(compute(*inputs))
    audio = repeats * int(lens.sum()) / features.sampling_rate
    row = _timed(
        f"features alone on {jax.default_backend()} (jit)",
        audio,
        lambda: [jax.block_until_ready(compute(*inputs)) for _ in range(repeats)],
    )
    return row if jax.default_backend() == "cpu" else row | {"audio_s_per_core_s": None}


def _with_workers(loader: Loader, count: int, features: FeatureConfig) -> Measurement:
    """Times the whole loader in steady state; batches that it has read ahead do not count."""
    fps = features.sampling_rate / features.hop_length
    config = loader.config
    ahead = max(config.prefetch, config.threads) + config.prefetch
    warm = max(1, config.workers) * ahead
    with loader.iterate(0) as batches:
        for _ in range(warm):
            next(batches)
        start = time.perf_counter()
        frames = sum(
            int(next(batches).arrays["features_lens"].sum()) for _ in range(max(count, 2 * warm))
        )
        rate = frames / fps / (time.perf_counter() - start)
    part = f"loader, {config.workers} workers of {config.threads} threads"
    return {"part": part, "audio_s_per_core_s": None, "audio_s_per_s": rate}

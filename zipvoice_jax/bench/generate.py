"""Times sampling and vocoding by length, and a matrix product on the same machine."""

import os
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.peak import matmul_flops_per_second
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.infer.buckets import shape_of
from zipvoice_jax.infer.engine import Engine
from zipvoice_jax.infer.prepare import MAX_FRAMES, Job
from zipvoice_jax.models.flops import sampling_flops
from zipvoice_jax.vocoder.base import Vocoder

# An assumed rate of tokens; the text encoder costs little beside the decoder.
TOKENS_PER_SECOND = 14
COLUMNS = (
    ("seconds", "speech_s", "{:8.1f}"),
    ("bucket", "bucket", "{:>14}"),
    ("compile_s", "compile_s", "{:9.1f}"),
    ("sample_s", "sample_s", "{:9.3f}"),
    ("rtf", "rtf_no_vocoder", "{:7.3f}"),
    ("vocoder_s", "vocoder_s", "{:9.3f}"),
    ("rtf_all", "rtf", "{:7.3f}"),
    ("peak_MiB", "peak_mib", "{:8.0f}"),
    ("TFLOP/s", "tflops", "{:8.3f}"),
    ("matmul", "matmul_tflops", "{:7.3f}"),
    ("share", "share", "{:6.1%}"),
)


def machine() -> str:
    """A description of the machine and versions."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            name = next(line.split(":")[1].strip() for line in lines if "model name" in line)
        except (OSError, StopIteration):
            name = platform.processor()
    return (
        f"{name}, {len(jax.devices())} {device.platform} device(s), {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, jax {jax.__version__}"
    )


def peak_bytes() -> int:
    """Peak memory of the device if it is known, else of this process, in bytes."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bench_generate(
    loaded: Loaded,
    vocoder: Vocoder,
    sampling: SamplingConfig,
    *,
    lengths: Sequence[float],
    prompt_seconds: float,
    repeats: int,
    devices: Sequence[jax.Device] | None = None,  # type: ignore[valid-type]
) -> Iterator[dict[str, Any]]:
    """One row per length; one item per batch and device.

    Args:
        loaded: the model.
        vocoder: the vocoder, which is timed too.
        sampling: settings of the ODE solver.
        lengths: seconds of speech.
        prompt_seconds: seconds of prompt.
        repeats: runs after the first; the best counts.
        devices: devices to run on; None: all local ones.

    Raises:
        UserError: a length is out of range.
    """
    fps = loaded.features.sampling_rate / loaded.features.hop_length
    if repeats < 1:
        raise UserError(f"repeats is {repeats}; give 1 or more.")
    engine = Engine(loaded.config, loaded.params, devices=devices)
    guided = sampling.guidance_scale != 0.0
    count = len(engine.devices)
    rng = np.random.default_rng(0)
    for seconds in lengths:
        if not (prompt_seconds * fps >= 1 <= seconds * fps <= MAX_FRAMES - prompt_seconds * fps):
            raise UserError(
                f"prompt and speech of {prompt_seconds:g} and {seconds:g} s do not fit; give "
                f"lengths above 0 and at most {MAX_FRAMES / fps:.0f} s together."
            )
        prompt, new = round(prompt_seconds * fps), round(seconds * fps)
        dim = loaded.config.channels * loaded.config.feat_dim
        mel = (0.1 * rng.standard_normal((prompt, dim))).astype(np.float32)
        tokens = max(2, round((prompt_seconds + seconds) * TOKENS_PER_SECOND))
        ids = tuple(int(i) for i in rng.integers(1, loaded.config.vocab_size - 2, tokens))
        jobs = [Job(f"bench{i}", 0, ids, (), mel, prompt + new) for i in range(count)]
        bucket = Bucket(*shape_of(jobs[0]), batch=count)
        start = time.perf_counter()
        engine.compiled(bucket, sampling)
        compile_seconds = time.perf_counter() - start
        best, batches = float("inf"), []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            batches = list(engine.run(engine.pack(jobs, sampling, fps), sampling))
            best = min(best, time.perf_counter() - start)
        peak = peak_bytes()
        features = [mel for _, batch in batches for _, mel, _ in batch]
        channels = loaded.config.channels
        mels = [m / sampling.feat_scale for x in features for m in np.split(x, channels, axis=1)]
        vocoder(mels)
        start = time.perf_counter()
        vocoder(mels)
        vocoder_seconds = time.perf_counter() - start
        flops = count * sampling_flops(
            loaded.config, prompt + new, tokens, sampling.num_step, guided=guided
        )
        matmul = len(engine.devices) * matmul_flops_per_second(loaded.config.dtype)
        spoken = seconds * count
        yield {
            "seconds": seconds,
            "bucket": f"{bucket.batch}x{bucket.frames}x{bucket.tokens}",
            "compile_s": compile_seconds,
            "sample_s": best,
            "rtf": best / spoken,
            "vocoder_s": vocoder_seconds,
            "rtf_all": (best + vocoder_seconds) / spoken,
            "peak_MiB": peak / 2**20,
            "TFLOP/s": flops / best / 1e12,
            "matmul": matmul / 1e12,
            "share": flops / best / matmul,
            "vocoder": vocoder.name,
            "dtype": loaded.config.dtype,
            "num_step": sampling.num_step,
            "schedule": sampling.schedule,
            "guided": guided,
        }


def table(
    rows: Sequence[dict[str, Any]],
    columns: Sequence[tuple[str, str, str]] = COLUMNS,
    *,
    header: bool = True,
) -> str:
    """Rows as fixed-width text; a column is a key, a title and a format."""
    lines = []
    if header:
        widths = [len(form.format(0 if ">" not in form else "")) for _, _, form in columns]
        titles = [title for _, title, _ in columns]
        lines.append(" ".join(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True)))
    for row in rows:
        lines.append(" ".join(form.format(row[key]) for key, _, form in columns))
    return "\n".join(lines)

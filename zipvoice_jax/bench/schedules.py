"""The error of features from few sampling steps, by schedule and number of steps.

Every row speaks the same items, from the same noise and in the same batches, so that only the
times at which the ODE is evaluated differ.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.config import EPSS_TIMES, SamplingConfig
from zipvoice_jax.infer.engine import Engine
from zipvoice_jax.infer.prepare import Job
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.infer.synthesizer import Synthesizer
from zipvoice_jax.vocoder.base import GriffinLim

STEPS = (5, 6, 7, 8, 10, 12, 16)
COLUMNS = (
    ("schedule", "schedule", "{:>8}"),
    ("num_step", "steps", "{:5d}"),
    ("t_shift", "t_shift", "{:7.2f}"),
    ("error", "error", "{:8.2%}"),
    ("worst", "worst", "{:8.2%}"),
    ("rms", "rms", "{:7.4f}"),
    ("closer", "closer", "{:>9}"),
    ("seconds", "model_s", "{:8.2f}"),
)

Mel = Float[np.ndarray, "frames channels_feat"]


def bench_schedules(
    loaded: Loaded,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    *,
    steps: Sequence[int] = STEPS,
    t_shifts: Sequence[float] = (),
    tokenizer: str | None = None,
    lang: str = "en-us",
) -> Iterator[dict[str, Any]]:
    """A row for each schedule, number of steps and time shift; no wave is made.

    Args:
        loaded: the model.
        requests: the items.
        sampling: settings of the reference, with which the others are compared.
        steps: numbers of steps of the uniform schedule; EPSS takes those with a table.
        t_shifts: time shifts to try; empty takes that of the reference.
        tokenizer: name of the tokenizer, as for `Synthesizer`.
        lang: language of the tokenizer, as for `Synthesizer`.

    Yields:
        `error`: mean over items of the 2-norm of the difference of log-mels, relative to the norm
        of the reference; `worst`: the largest of them; `rms`: root mean square of the differences
        in nats, mean over items; `closer`: the items on which EPSS has a smaller error than
        uniform steps of the same number and shift; `seconds` of the model, without compilation.

    Raises:
        UserError: an item, a number of steps or a shift cannot be used.
    """
    settings = [
        dataclasses.replace(sampling, schedule=name, num_step=count, t_shift=shift)
        for shift in (t_shifts or (sampling.t_shift,))
        for count in steps
        for name in ("uniform", "epss")
        if name == "uniform" or count in EPSS_TIMES
    ]
    synthesizer = Synthesizer(
        loaded, vocoder=GriffinLim(loaded.features), tokenizer=tokenizer, lang=lang
    )
    prepare, jobs = synthesizer.preparation(sampling), []
    for request in requests:
        jobs += prepare(request).jobs
    fps = loaded.features.sampling_rate / loaded.features.hop_length
    truth, _ = _sampled(synthesizer.engine, jobs, sampling, fps)
    uniform: dict[tuple[int, float], list[float]] = {}
    for setting in settings:
        made, seconds = _sampled(synthesizer.engine, jobs, setting, fps)
        apart = [np.linalg.norm(made[name] - true) for name, true in truth.items()]
        norms = [np.linalg.norm(true) for true in truth.values()]
        errors = [float(a / b) for a, b in zip(apart, norms, strict=True)]
        rms = [a / np.sqrt(true.size) for a, true in zip(apart, truth.values(), strict=True)]
        key = setting.num_step, setting.t_shift
        less = [a < b for a, b in zip(errors, uniform.get(key, ()), strict=False)]
        uniform.setdefault(key, errors)
        yield {
            "schedule": setting.schedule,
            "num_step": setting.num_step,
            "t_shift": setting.t_shift,
            "error": float(np.mean(errors)),
            "worst": max(errors),
            "rms": float(np.mean(rms)),
            "closer": f"{sum(less)} of {len(less)}" if less else "",
            "seconds": seconds,
            "errors": dict(zip(truth, errors, strict=True)),
        }


def _sampled(
    engine: Engine, jobs: Sequence[Job], sampling: SamplingConfig, fps: float
) -> tuple[dict[str, Mel], float]:
    """Unscaled features of each item, in float64, and the seconds that the model took."""
    parts: dict[str, dict[int, Mel]] = {job.item_id: {} for job in jobs}
    spent = 0.0
    for _, batch in engine.run(engine.pack(jobs, sampling, fps), sampling):
        for job, mel, seconds in batch:
            parts[job.item_id][job.chunk] = mel.astype(np.float64) / sampling.feat_scale
            spent += seconds
    return {
        name: np.concatenate([of[chunk] for chunk in sorted(of)]) for name, of in parts.items()
    }, spent

"""Stages as schedules: every number that a stage sets, joined over the run by optax."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import SourceConfig
from zipvoice_jax.train.config import Eden, Rate, Stage, TrainConfig
from zipvoice_jax.train.schedules import adjusted_batch_count

# What a training step reads.
SCHEDULES = (
    "learning_rate",
    "mask_low",
    "mask_high",
    "mask_suffix",
    "condition_drop",
    "t_shift",
    "only_speaker",
    "exclusive_weight",
    "duration_weight",
    "alignment",
    "alignment_by_item",
    "batch_count",
)
Schedules = dict[str, optax.Schedule]


def _rate(rate: Rate, batch_seconds: float) -> optax.Schedule:
    """A rate as a schedule over a stage's own steps, from 0."""
    if isinstance(rate, Eden):
        # Officially the schedule is stepped before the optimiser, so the first update is 1.
        inner = rate.schedule(batch_seconds)
        return lambda step: inner(step + 1)
    if isinstance(rate, PiecewiseLinear):
        return lambda step: rate(jnp.asarray(step, jnp.float32))
    return optax.constant_schedule(rate)


def _stage_schedules(config: TrainConfig, stage: Stage) -> Schedules:
    seconds = stage.data.batch_seconds
    stage = dataclasses.replace(stage, alignment=config.alignment_of(stage))
    schedules = {
        name: _rate(getattr(stage, name), seconds)
        for name in SCHEDULES
        if name not in ("mask_suffix", "alignment_by_item", "batch_count")
    }
    schedules["mask_suffix"] = optax.constant_schedule(float(stage.mask == "suffix"))
    by_item = float(stage.alignment_rule == "items")
    schedules["alignment_by_item"] = optax.constant_schedule(by_item)
    schedules["batch_count"] = lambda step: adjusted_batch_count(
        jnp.asarray(step), seconds, config.ref_seconds, offset=stage.batch_count_offset
    )
    return schedules


def schedules_of(config: TrainConfig) -> Schedules:
    """Each scheduled number as a function of the run's step, joined at the stage boundaries."""
    parts = [_stage_schedules(config, stage) for stage in config.stages]
    inner = list(config.boundaries[1:-1])
    return {name: optax.join_schedules([part[name] for part in parts], inner) for name in SCHEDULES}


@dataclasses.dataclass(frozen=True)
class Clock:
    """Where a step lies in the run; pure functions of a traced step."""

    boundaries: tuple[int, ...]

    def stage_step(self, step: Int[Array, ""]) -> Int[Array, ""]:
        """Steps since the beginning of the step's stage."""
        starts = jnp.asarray(self.boundaries[:-1], jnp.int32)
        return step - jnp.max(jnp.where(starts <= step, starts, 0))


def values_at(schedules: Schedules, step: Int[Array, ""]) -> dict[str, Float[Array, ""]]:
    """All scheduled numbers at a step, float32."""
    return {name: jnp.asarray(schedule(step), jnp.float32) for name, schedule in schedules.items()}


def show_schedules(config: TrainConfig, path: Path) -> None:
    """Draws every schedule over the whole run, with the stages, into one picture."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    bounds = np.asarray(config.boundaries)
    # Stages differ in length by orders of magnitude: each gets the same width.
    parts = [np.unique(np.linspace(a, b - 1, 400).round()) for a, b in itertools.pairwise(bounds)]
    steps = np.concatenate(parts).astype(np.int64)
    stage = np.array([config.stage_at(int(step)) for step in steps])
    place = stage + (steps - bounds[stage]) / np.diff(bounds)[stage]
    lines = {
        name: np.asarray(jax.vmap(schedule)(jnp.asarray(steps, jnp.int32)))
        for name, schedule in (schedules_of(config) | data_schedules(config)).items()
    }
    figure, axes = plt.subplots(
        len(lines), 1, figsize=(10, 1.2 * len(lines)), sharex=True, squeeze=False
    )
    for axis, (name, values) in zip(axes[:, 0], lines.items(), strict=True):
        axis.step(place, values, where="post", color="#2a6f97")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.grid(alpha=0.3)
        for edge in range(1, len(config.stages)):
            axis.axvline(edge, color="#c1121f", linestyle="--", linewidth=0.8)
    for i, one in enumerate(config.stages):
        where = axes[0, 0].get_xaxis_transform()
        name = f"{one.name} ({one.kind})"
        axes[0, 0].text(i + 0.5, 1.08, name, ha="center", va="bottom", fontsize=8, transform=where)
    axes[-1, 0].set_xticks(range(len(bounds)), [f"{step:,}" for step in bounds])
    axes[-1, 0].set_xlabel("step (each stage at the same width)")
    figure.tight_layout()
    try:
        save_picture(figure, path, dpi=100)
    finally:
        plt.close(figure)


def data_schedules(config: TrainConfig) -> Schedules:
    """What the loader does at each step: share of two-channel batches, weights of sources.

    These are constant within a stage: batch n of a stage hangs on its config, seed and n alone.
    """
    share = {"mono": 0.0, "alternate": 0.5, "stereo": 1.0}
    parts = [
        {"two_channels": share[stage.data.channels]}
        | {_source_name(source): source.weight or source.repeats for source in stage.data.sources}
        for stage in config.stages
    ]
    names = dict.fromkeys(name for part in parts for name in part)
    inner = list(config.boundaries[1:-1])
    return {
        name: optax.join_schedules(
            [optax.constant_schedule(part.get(name, 0.0)) for part in parts], inner
        )
        for name in names
    }


def _source_name(source: SourceConfig) -> str:
    languages = f" {'+'.join(source.languages)}" if source.languages else ""
    return f"{'weight' if source.weight else 'repeats'} of {Path(source.path).name}{languages}"

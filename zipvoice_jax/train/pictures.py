"""Pictures of a run: its schedules, its losses, and a sampled item beside the recording."""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.log import read_log
from zipvoice_jax.train.schedules import data_schedules, schedules_of


def show_schedules(run: TrainConfig, path: Path) -> None:
    """Draws every schedule over the whole run, with the stages, into one picture."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    bounds = np.asarray(run.boundaries)
    # Stages differ in length by orders of magnitude: each gets the same width.
    parts = [np.unique(np.linspace(a, b - 1, 400).round()) for a, b in itertools.pairwise(bounds)]
    steps = np.concatenate(parts).astype(np.int64)
    stage = np.array([run.stage_at(int(step)) for step in steps])
    position = stage + (steps - bounds[stage]) / np.diff(bounds)[stage]
    lines = {
        name: np.asarray(jax.vmap(schedule)(jnp.asarray(steps, jnp.int32)))
        for name, schedule in (schedules_of(run) | data_schedules(run)).items()
    }
    figure, axes = plt.subplots(
        len(lines), 1, figsize=(10, 1.2 * len(lines)), sharex=True, squeeze=False
    )
    for axis, (name, values) in zip(axes[:, 0], lines.items(), strict=True):
        axis.step(position, values, where="post", color="#2a6f97")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.grid(alpha=0.3)
        for edge in range(1, len(run.stages)):
            axis.axvline(edge, color="#c1121f", linestyle="--", linewidth=0.8)
    for i, one in enumerate(run.stages):
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


def draw_losses(log: Path, picture: Path) -> None:
    """Draws training and validation losses of a log over its steps, stage by stage.

    Args:
        log: written by `RunLog`.
        picture: PNG to write.

    Raises:
        UserError: the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    found = read_log(log)
    train = [entry for entry in found if entry["kind"] == "train"]
    valid = [entry for entry in found if entry["kind"] == "valid"]
    figure, axis = plt.subplots(figsize=(9, 4))
    # Losses of one and of two channels are of different size.
    for stage, channels in dict.fromkeys((e["stage"], e["bucket"][-1]) for e in train):
        part = [e for e in train if (e["stage"], e["bucket"][-1]) == (stage, channels)]
        name = f"{stage}, {channels} channel{'s' if channels == '2' else ''}"
        axis.plot([e["step"] for e in part], [e["loss"] for e in part], lw=0.7, label=name)
    stages = dict.fromkeys(e.get("stage") for e in valid)
    for name, style in (("flow", "k.-"), ("flow_unconditional", "k.:"), ("distill", "k.-")):
        for stage in stages:
            shown = [e for e in valid if name in e and e.get("stage") == stage]
            steps, losses = [e["step"] for e in shown], [e[name] for e in shown]
            axis.plot(steps, losses, style)
        if any(name in e for e in valid):
            axis.plot([], [], style, label=f"valid {name}")
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    try:
        figure.tight_layout()
        save_picture(figure, picture, dpi=90)
    finally:
        plt.close(figure)


def draw_sample(
    true: Float[np.ndarray, "frames channels_feat"],
    made: Float[np.ndarray, "frames channels_feat"],
    prompt: int,
    fps: float,
    name: str,
    step: int,
) -> Any:
    """An item as recorded and as sampled, as a figure of matplotlib.

    Args:
        true: features of the recording.
        made: sampled features, which begin with the prompt.
        prompt: frames of the prompt.
        fps: frames per second.
        name: of the item.
        step: of the training.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 5), sharex=True)
    low, high = float(true.min()), float(true.max())
    for axis, mel, title in ((axes[0], true, "recording"), (axes[1], made, f"step {step}")):
        extent = (0.0, len(mel) / fps, 0.0, float(mel.shape[1]))
        axis.imshow(
            mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high
        )
        axis.axvline(prompt / fps, color="white", linestyle="--", linewidth=0.8)
        axis.set_ylabel("mel bin")
        axis.set_title(f"{name}: {title}", fontsize=9, loc="left", parse_math=False)
    axes[-1].set_xlabel("seconds (before the line: prompt)")
    figure.tight_layout()
    plt.close(figure)
    return figure

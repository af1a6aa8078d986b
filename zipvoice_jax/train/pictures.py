"""Pictures of a run: its schedules, its losses, and a sampled item beside the recording."""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.data.config import SourceConfig
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.log import read_log
from zipvoice_jax.train.schedules import schedules_of


def show_schedules(run: TrainConfig, path: Path) -> None:
    """Draws every schedule over the whole run, with the stages, into one picture."""
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    bounds = np.asarray(run.boundaries)
    # Stages differ in length by orders of magnitude: each gets the same width.
    parts = [np.unique(np.linspace(a, b - 1, 400).round()) for a, b in itertools.pairwise(bounds)]
    steps = np.concatenate(parts).astype(np.int64)
    stage = np.searchsorted(bounds, steps, side="right") - 1
    position = stage + (steps - bounds[stage]) / np.diff(bounds)[stage]
    lines = {
        name: np.asarray(jax.vmap(schedule)(jnp.asarray(steps, jnp.int32)))
        for name, schedule in schedules_of(run).items()
    }
    lines |= {name: np.asarray(values)[stage] for name, values in data_of_stages(run).items()}
    figure = Figure(figsize=(10, 1.2 * len(lines)))
    axes = figure.subplots(len(lines), 1, sharex=True, squeeze=False)
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
    save_picture(figure, path, dpi=100)


def data_of_stages(run: TrainConfig) -> dict[str, list[float]]:
    """What the loader does in each stage: share of two-channel batches, weights of sources."""
    share = {"mono": 0.0, "alternate": 0.5, "stereo": 1.0}
    parts = [
        {"two_channels": share[stage.data.channels]}
        | {_source_name(source): source.weight or source.repeats for source in stage.data.sources}
        for stage in run.stages
    ]
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [part.get(name, 0.0) for part in parts] for name in names}


def _source_name(source: SourceConfig) -> str:
    languages = f" {'+'.join(source.languages)}" if source.languages else ""
    return f"{'weight' if source.weight else 'repeats'} of {source.name}{languages}"


def draw_losses(log: Path, picture: Path) -> None:
    """Draws training and validation losses of a `RunLog` over its steps, stage by stage.

    Word errors that were heard have an axis of their own.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed
    from matplotlib.ticker import LogFormatter

    found = read_log(log)
    train = [entry for entry in found if entry["kind"] == "train"]
    valid = [entry for entry in found if entry["kind"] == "valid"]
    heard = [entry for entry in found if entry["kind"] == "heard" and "wer" in entry]
    figure = Figure(figsize=(9, 4))
    axis = figure.subplots()
    # Losses of one and of two channels are of different size.
    for stage, channels in dict.fromkeys((e["stage"], e["bucket"][-1]) for e in train):
        part = [e for e in train if (e["stage"], e["bucket"][-1]) == (stage, channels)]
        name = f"{stage}, {channels} channel{'s' if channels == '2' else ''}"
        axis.plot([e["step"] for e in part], [e["loss"] for e in part], lw=0.7, label=name)

    def over_steps(where: Any, entries: list[dict[str, Any]], name: str, style: str) -> None:
        for stage in dict.fromkeys(e.get("stage") for e in entries):
            shown = [e for e in entries if name in e and e.get("stage") == stage]
            where.plot([e["step"] for e in shown], [e[name] for e in shown], style)

    for name, style in (
        ("loss", "k.-"),
        ("flow_without_text", "k.--"),
        ("flow_unconditional", "k.:"),
    ):
        over_steps(axis, valid, name, style)
        if any(name in e for e in valid):
            axis.plot([], [], style, label=f"valid {name}")
    if heard:
        words = axis.twinx()
        over_steps(words, heard, "wer", "rs-")
        words.set_ylim(bottom=0.0)
        words.set_ylabel("word errors heard, %", color="r")
        axis.plot([], [], "rs-", label="word errors")
    axis.set_yscale("log")
    # It is drawn at every checkpoint, while devices wait: powers in mathematical type and a layout
    # that is found by drawing twice would take most of the time.
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.4)))
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.subplots_adjust(left=0.1, right=0.93, top=0.97, bottom=0.12)
    save_picture(figure, picture, dpi=90)


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
        name: name of the item.
        step: training step.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    figure = Figure(figsize=(9, 5))
    axes = figure.subplots(2, 1, sharex=True)
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
    return figure

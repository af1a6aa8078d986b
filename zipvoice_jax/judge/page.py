"""Pictures of a report: its numbers with intervals, and a sortable page with the recordings."""

import html
import io
import itertools
import json
import os
import string
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_bytes, write_text
from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.judge.config import ALL_METRICS
from zipvoice_jax.judge.summary import Estimate, ItemRecords, summarise

_COLOURS = ("#3b6fb6", "#c8553d", "#5b8c5a", "#8a5a9c", "#666666")

PAGE = "index.html"
ESTIMATES, OFFSETS = "summary.png", "turns.png"  # pictures of a report
_STAMP = "Source"  # of what a picture shows, in its PNG's text
_TEMPLATE = Path(__file__).with_name("page.html")


def draw_estimates(systems: Mapping[str, Mapping[str, Estimate]], path: Path) -> None:
    """Draws every metric of the first system with its interval, beside those of the others.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    names = list(next(iter(systems.values())))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.0 * columns, (1.2 + 0.3 * len(systems)) * rows), dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        metric = ALL_METRICS[name]
        for i, estimates in enumerate(systems.values()):
            if name in estimates:
                estimate = estimates[name]
                colour = _COLOURS[i % len(_COLOURS)]
                axis.plot([estimate.low, estimate.high], [i, i], color=colour, linewidth=2)
                axis.plot([estimate.value], [i], "o", color=colour)
        axis.set_yticks(range(len(systems)), list(systems))
        axis.set_ylim(len(systems) - 0.5, -0.5)
        better = f" ({metric.better} is better)" if metric.better else ""
        axis.set_title(f"{metric.title}{better}", fontsize=9)
        axis.set_xlabel(metric.unit, fontsize=8)
        axis.tick_params(labelsize=8)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    _save(figure, path)


def draw_offsets(systems: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draws a histogram of the offsets between turns, as shares of all changes of speaker.

    Args:
        systems: seconds between turns by system, negative for overlaps.
        path: PNG to write.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 2.6), dpi=110)
    axis = figure.subplots()
    edges = np.arange(-2.0, 3.01, 0.1)
    for (name, seconds), colour in zip(systems.items(), itertools.cycle(_COLOURS), strict=False):
        counts, _ = np.histogram(np.clip(seconds, edges[0], edges[-1]), edges)
        label = f"{name}: {len(seconds)} changes, median {np.median(seconds):.2f} s"
        axis.stairs(100.0 * counts / len(seconds), edges, color=colour, label=label)
    axis.axvline(0.0, color="#999999", linewidth=0.8, linestyle="--")
    axis.set_xlabel("seconds between turns (below 0: overlap)", fontsize=8)
    axis.set_ylabel("% of changes", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    save_picture(figure, path)


def write_page(
    to: Path, records: ItemRecords, summary: str, description: Mapping[str, Any]
) -> None:
    """Writes index.html, and pictures of the recordings into mels/.

    Raises:
        UserError: a file cannot be written.
    """
    names = list(summarise(records))
    heads = ["item", "sound", "words", *(ALL_METRICS[name].title for name in names)]
    page = string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"Report on {len(records)} items"),
        summary=html.escape(summary),
        pictures="".join(
            f'<img src="{name}" alt="{alt}">'
            for name, alt in ((ESTIMATES, "metrics"), (OFFSETS, "turn-taking"))
            if (to / name).is_file()
        ),
        description=html.escape(json.dumps(description, indent=1)),
        heads="".join(f'<th tabindex="0">{html.escape(head)}</th>' for head in heads),
        rows="\n".join(_row(to, record, names) for record in records),
    )
    write_text(to / PAGE, page)


def _row(to: Path, record: Mapping[str, Any], names: list[str]) -> str:
    item = html.escape(record["id"])
    sound = urllib.parse.quote(os.fsencode(os.path.relpath(record["wav"], to)))
    picture = urllib.parse.quote(_picture(to, record))
    seen = f'<img class="mel" loading="lazy" alt="mel" src="{picture}">' if picture else ""
    seconds = record["seconds"]
    cells = [
        f'<td data-value="{item}">{item}<br><span class="who">{seconds:.1f} s</span></td>',
        f'<td data-value="{seconds}"><audio controls preload="none" src="{sound}"></audio>'
        f"{seen}</td>",
        f"<td>{_words(record)}</td>",
    ]
    for name in names:
        above, below = record["metrics"].get(name, (0.0, 0.0))
        if below > 0:
            value = ALL_METRICS[name].scale * above / below
            cells.append(f'<td class="n" data-value="{value:.6f}">{value:.2f}</td>')
        else:
            cells.append('<td class="n"></td>')
    return f"<tr>{''.join(cells)}</tr>"


def _words(record: Mapping[str, Any]) -> str:
    parts = []
    for kind, reference, hypothesis in record.get("alignment", ()):
        if kind == "equal":
            parts.append(html.escape(reference))
            continue
        if reference:
            parts.append(f"<del>{html.escape(reference)}</del>")
        if hypothesis:
            parts.append(f"<ins>{html.escape(hypothesis)}</ins>")
    text = " ".join(parts) or html.escape(record["text"])
    for name, speaker in record.get("speakers", {}).items():
        heard = html.escape(speaker["heard"]) if speaker["label"] else "nobody"
        text += f'<br><span class="who">{name} ({record["attribution"]["words"]}): {heard}</span>'
    return text


def _picture(to: Path, record: Mapping[str, Any]) -> str:
    """Draws a recording's log-mel unless it is up to date; returns its path from the page.

    Empty for what is too short to be drawn. The record's stamp is in the picture, so that one of
    another recording is not taken for it.
    """
    name, stamp = f"mels/{record['id']}.png", record.get("stamp", "")
    if stamp and _stamp_of(to / name) == stamp:
        return name
    from matplotlib.image import imsave

    features, drawn = FeatureConfig(), io.BytesIO()
    try:
        wave = read_audio(Path(record["wav"]), features.sampling_rate, max_duration=None)
        mels = [log_mel_host(channel[None], features) for channel in wave[::-1]]
    except UserError:  # it could be judged, and the rest of the page does not depend on it
        return ""
    mel = np.concatenate(mels, axis=1)
    imsave(drawn, mel.T[::-1], cmap="magma", format="png", metadata={_STAMP: stamp})
    write_bytes(to / name, drawn.getvalue())
    return name


def _stamp_of(picture: Path) -> str | None:
    """The stamp in a picture; None without one."""
    from PIL import Image

    try:
        with Image.open(picture) as image:
            return image.info.get(_STAMP)
    except (OSError, ValueError):
        return None

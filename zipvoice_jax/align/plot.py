"""A picture of alignments over the log-mel of their utterances."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.data.records import decode_audio, open_split

PICTURED = 4  # utterances
MOST_SECONDS = 12.0  # of each


def plot_alignments(directory: Path, splits: Sequence[str], path: Path) -> None:
    """Draws some utterances of the splits: log-mel, starts of tokens, tokens.

    Args:
        directory: directory of the dataset, with alignments.
        splits: splits whose utterances are drawn, at regular intervals.
        path: file of the picture.

    Raises:
        UserError: no utterance is aligned, or the file cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    features = FeatureConfig()
    opened = {split: open_split(directory, split) for split in splits}
    known = [
        (split, record)
        for split, (_, index) in opened.items()
        for record in np.flatnonzero(index.aligned).tolist()
    ]
    if not known:
        raise UserError(f"no utterance of {directory} is aligned; there is nothing to draw.")
    chosen = dict.fromkeys(
        known[i] for i in np.linspace(0, len(known) - 1, PICTURED).round().astype(int)
    )
    figure = Figure(figsize=(16.0, 2.6 * len(chosen)))
    rows = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    for axes, (split, record) in zip(rows, chosen, strict=True):
        utterance = opened[split][0][record]
        wave = decode_audio(utterance, features.sampling_rate, name=utterance.id)
        wave = wave[:, : round(MOST_SECONDS * features.sampling_rate)]
        seconds = wave.shape[1] / features.sampling_rate
        mel = log_mel_host(wave, features)
        axes.imshow(
            mel.T, origin="lower", aspect="auto", extent=(0.0, seconds, 0.0, 1.0), cmap="magma"
        )
        ends = (*utterance.token_starts[1:], utterance.duration)
        for token, start, end in zip(utterance.tokens, utterance.token_starts, ends, strict=True):
            if start < seconds:
                axes.axvline(start, color="white", linewidth=0.6)
                axes.text(
                    (start + min(end, seconds)) / 2, 1.02, token, ha="center", va="bottom",
                    fontsize=8,
                )  # fmt: skip
        axes.set_yticks([])
        axes.set_xlim(0.0, seconds)
        title = f"{utterance.id} ({split})"
        axes.set_title(title, loc="left", fontsize=8, pad=16, parse_math=False)
    rows[-1].set_xlabel("seconds")
    figure.tight_layout()
    save_picture(figure, path, dpi=90)

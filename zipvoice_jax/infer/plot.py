"""A picture of generated speech: log-mel and waveform, with speaker turns."""

import io
from pathlib import Path

import numpy as np

from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.files import write_bytes
from zipvoice_jax.infer.synthesizer import Speech

COLOURS = ("#3b6fb6", "#c8553d", "#5a9a5a", "#8a63a8", "#b8892b")  # of speakers, in turn


def plot_speech(speech: Speech, path: Path) -> None:
    """Draws a PNG.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    channels = speech.wave.shape[0]
    figure = Figure(figsize=(max(8.0, min(24.0, speech.duration)), 3.0 * channels + 1.0))
    axes = figure.subplots(2 * channels, 1, sharex=True, squeeze=False)[:, 0]
    seconds = np.arange(speech.wave.shape[1]) / speech.sampling_rate
    # Of the wave, not of the chunks: silence has been cut from it, and pauses put in.
    features = FeatureConfig(sampling_rate=speech.sampling_rate)
    wave = np.pad(speech.wave, ((0, 0), (0, max(features.n_fft - speech.wave.shape[1], 0))))
    mels = np.split(log_mel_host(wave, features, channels=channels), channels, axis=1)
    shown = wave.shape[1] / speech.sampling_rate
    for channel in range(channels):
        top, bottom = axes[2 * channel], axes[2 * channel + 1]
        extent = (0.0, shown, 0.0, float(mels[channel].shape[1]))
        top.imshow(mels[channel].T, origin="lower", aspect="auto", extent=extent, cmap="magma")
        top.set_ylabel("mel bin")
        bottom.plot(seconds, speech.wave[channel], linewidth=0.4, color="#333333")
        bottom.set_ylim(-1.0, 1.0)
        name = ("left", "right")[channel] if channels == 2 else "amplitude"
        bottom.set_ylabel(name)
        for turn in speech.turns:
            number = int(turn.speaker[1:]) - 1 if turn.speaker else -1
            colour = "#666666" if number < 0 else COLOURS[number % len(COLOURS)]
            bottom.axvspan(turn.start, turn.end, color=colour, alpha=0.15, linewidth=0)
            if turn.speaker:
                top.axvline(turn.start, color="white", linewidth=0.8, linestyle="--")
                top.text(turn.start, extent[3], f" {turn.speaker}", color=colour, va="bottom")
    axes[-1].set_xlabel("seconds (turns estimated from durations of tokens)")
    title = f"{speech.item_id}  ({speech.duration:.2f} s)"
    axes[0].set_title(title, loc="right", fontsize=9, parse_math=False)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, format="png")
    write_bytes(path, picture.getvalue())

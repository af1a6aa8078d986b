"""Copy-synthesis: recordings to features and back to waves; the cost of a vocoder alone."""

import collections
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.io import read_audio, write_audio
from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.vocoder.base import Vocoder

QUIET = -5.0  # log-mel to which `mel_error` raises quieter values
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
COLUMNS = (
    ("vocoder", "vocoder", "{:>12}"),
    ("files", "files", "{:5d}"),
    ("audio_s", "audio_s", "{:8.1f}"),
    ("seconds", "seconds", "{:8.2f}"),
    ("cpu_s", "cpu_s", "{:8.2f}"),
    ("rtf", "rtf", "{:7.3f}"),
    ("compile_s", "compile_s", "{:9.1f}"),
    ("mel_error", "mel_error", "{:9.3f}"),
)


def find_recordings(folder: Path, limit: int | None = None) -> list[Path]:
    """Audio files in a folder and its subfolders, sorted by path.

    Raises:
        UserError: there are none, or two differ in nothing but their suffix.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"--wav-dir {folder} holds no audio ({', '.join(SUFFIXES)}).")
    names = collections.Counter(path.with_suffix("") for path in paths)
    if twice := [str(name) for name, count in names.items() if count > 1]:
        raise UserError(
            f"--wav-dir {folder} holds {len(twice)} recordings in two formats, such as "
            f"{twice[0]}; keep one of each."
        )
    return paths[:limit]


def resynthesise(
    paths: Sequence[Path],
    folder: Path,
    to: Path | None,
    vocoder: Vocoder | None,
    features: FeatureConfig,
) -> Iterator[dict[str, Any]]:
    """Resynthesises each file, channel by channel; the first pass over a shape only compiles.

    Args:
        paths: paths of the recordings in `folder`.
        folder: folder of the recordings; results keep their relative paths, with suffix .wav.
        to: folder of the results; None keeps none.
        vocoder: the vocoder; None writes the recordings unchanged, at the features' rate.
        features: settings of the features.

    Yields:
        Seconds of audio (of all channels) and of the vocoder, seconds of all CPU cores, and
        `mel_error`: the mean absolute difference of the log-mels of result and recording, with
        values below `QUIET` raised to it.

    Raises:
        UserError: a file cannot be read or written.
    """
    for path in paths:
        wave = read_audio(path, features.sampling_rate)
        row: dict[str, Any] = {"path": str(path), "audio_s": wave.size / features.sampling_rate}
        row |= {"seconds": 0.0, "cpu_s": 0.0, "mel_error": 0.0}
        if vocoder is not None:
            mels = [log_mel_host(channel[None], features) for channel in wave]
            compiled = len(vocoder.compilations)
            start, cpu = time.perf_counter(), time.process_time()
            made = vocoder(mels)
            if len(vocoder.compilations) > compiled:
                start, cpu = time.perf_counter(), time.process_time()
                made = vocoder(mels)
            row["seconds"] = time.perf_counter() - start
            row["cpu_s"] = time.process_time() - cpu
            wave = np.stack(made)
            row["mel_error"] = _distance(wave, mels, features)
        if to is not None:
            target = to / path.relative_to(folder).with_suffix(".wav")
            write_audio(target, wave, features.sampling_rate)
        yield row


def _distance(
    wave: Float[np.ndarray, "channels samples"],
    mels: Sequence[Float[np.ndarray, "frames mel"]],
    features: FeatureConfig,
) -> float:
    """`mel_error` of one recording, over its channels."""
    errors = []
    for channel, true in zip(wave, mels, strict=True):
        again = np.maximum(log_mel_host(channel[None], features), QUIET)
        # The result ends in the middle of the last frame.
        errors.append(np.abs(again - np.maximum(true, QUIET)[: len(again)]).mean())
    return float(np.mean(errors))


def summary(rows: Sequence[dict[str, Any]], vocoder: Vocoder | None) -> dict[str, Any]:
    """One row of `COLUMNS`."""
    audio, seconds, cpu = (sum(row[key] for row in rows) for key in ("audio_s", "seconds", "cpu_s"))
    compilations = [] if vocoder is None else vocoder.compilations
    return {
        "vocoder": "none" if vocoder is None else vocoder.name,
        "files": len(rows),
        "audio_s": audio,
        "seconds": seconds,
        "cpu_s": cpu,
        "rtf": seconds / audio,
        "compile_s": sum(compilation.seconds for compilation in compilations),
        "mel_error": float(np.mean([row["mel_error"] for row in rows])),
    }

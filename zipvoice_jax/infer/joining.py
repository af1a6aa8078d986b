"""Joins the waves of an item's chunks: cross-fades, silence, pauses, times of turns.

Official: the end of generate_sentence in zipvoice/bin/infer_*.py, for a text without pauses.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.ops import close_cut, cross_fade_concat, leading_silence, remove_silence
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.infer.lengths import FADE_SECONDS, with_length
from zipvoice_jax.infer.prepare import Item, Job
from zipvoice_jax.infer.turns import Turn, turns_of

Wave = Float[np.ndarray, "channels _"]


def join(
    item: Item,
    waves: Sequence[Wave],
    features: FeatureConfig,
    *,
    raw: bool,
    remove_long_sil: bool,
) -> tuple[Wave, tuple[Turn, ...]]:
    """The speech of an item, and its turns.

    Between two pauses chunks are cross-faded and silence is cut as in the official code, but
    closer to the speech at a pause. If the item's length is fixed, nothing is cut. Pauses are
    inserted afterwards, as zeros, so that nothing can shorten them.

    Args:
        item: the item, with one job per wave.
        waves: waves of its chunks, at their final volume.
        features: feature settings, which give the sampling rate.
        raw: cut nothing.
        remove_long_sil: shorten long silences too; the times of turns are then unknown.
    """
    rate = features.sampling_rate
    cuts = not raw and item.samples is None
    passages = _passages(item.jobs, waves)
    silences = [round(rate * jobs[0].pause) for jobs, _ in passages]
    silences.append(round(rate * item.ending))
    spoken: list[Wave] = []
    begins: list[float] = []  # seconds cut from the beginning of each passage
    for number, (_, chunks) in enumerate(passages):
        wave, begin = chunks[0], 0.0
        if not raw:
            wave = cross_fade_concat(chunks, fade_duration=FADE_SECONDS, sampling_rate=rate)
        if cuts:
            begin = leading_silence(wave, rate)
            wave = remove_silence(wave, rate, only_edge=not remove_long_sil)
        before, after = silences[number] > 0, silences[number + 1] > 0
        if before or after:
            wave, more = close_cut(wave, rate, start=before, end=after, only_fade=not cuts)
            begin += more
        spoken.append(wave)
        begins.append(begin)
    if item.samples is not None:
        others = sum(silences) + sum(wave.shape[1] for wave in spoken[:-1])
        spoken[-1] = with_length(spoken[-1], max(item.samples - others, 1))
    turns: list[Turn] = []
    parts: list[Wave] = []
    at = 0
    for (jobs, _), wave, begin, silence in zip(passages, spoken, begins, silences, strict=False):
        at += silence
        for turn in turns_of(jobs, features, FADE_SECONDS, begin, wave.shape[1] / rate):
            moved = {"start": turn.start + at / rate, "end": turn.end + at / rate}
            turns.append(dataclasses.replace(turn, **moved))
        parts += [np.zeros((wave.shape[0], silence), np.float32), wave]
        at += wave.shape[1]
    parts.append(np.zeros((parts[-1].shape[0], silences[-1]), np.float32))
    whole = np.concatenate(parts, axis=1)
    if item.samples is not None:
        whole = with_length(whole, item.samples)
    timed = not cuts or not remove_long_sil
    return whole, tuple(turns) if timed else ()


def _passages(jobs: Sequence[Job], waves: Sequence[Wave]) -> list[tuple[list[Job], list[Wave]]]:
    """Jobs and their waves, grouped between pauses."""
    passages: list[tuple[list[Job], list[Wave]]] = []
    for job, wave in zip(jobs, waves, strict=True):
        if not passages or job.pause > 0.0:
            passages.append(([], []))
        passages[-1][0].append(job)
        passages[-1][1].append(wave)
    return passages

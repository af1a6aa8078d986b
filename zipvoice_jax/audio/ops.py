"""Preparing prompts and joining generated waves (zipvoice/utils/infer.py).

The official code removes silence with pydub, which works on 16-bit samples and whole
milliseconds; `remove_silence` reproduces its samples exactly, from cumulative sums of squares.
Waves are (channels, samples), float32, full scale at 1.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Int16

from zipvoice_jax.core.errors import UserError

SILENCE_DBFS = -50.0
_FULL_SCALE = 32768
# pydub compares integer RMS values, of which this is the largest that counts as silent.
_SILENT_RMS = int(10 ** (SILENCE_DBFS / 20) * _FULL_SCALE)
_EDGE_CHUNK = 10  # ms: resolution of the search for speech from the edges
_EDGE_KEPT = 100  # ms of silence left at each edge
_PAUSE_KEPT, _PAUSE_FADE = 30, 10  # ms left, and faded, at an edge beside a pause
_WINDOW = 1000  # ms: a shorter silence is not found inside
_WINDOW_STEP = 10  # ms
_KEPT = 1000  # ms of a long silence left on either side of it
# Level of the mixed channels divided by their own level: 0.7 for uncorrelated channels.
_CANCELLED, _WEAKENED = 0.05, 0.3
_OVERSHOOT = 1.25  # resampling adds a little to full scale
_PYDUB_SILENCE_RATE = 11_025  # Hz at which pydub makes silence before resampling it

Pcm = Int16[np.ndarray, "channels _"]


def remove_silence(
    wave: Float[np.ndarray, "channels samples"],
    sampling_rate: int,
    *,
    only_edge: bool = False,
    trail_ms: float | int = 0.0,
) -> Float[np.ndarray, "channels kept"]:
    """Shortens inner silences to 2 s and those at the edges to 0.1 s.

    Silence is at or below -50 dBFS (RMS over all channels). Equal to the official function
    sample for sample, with its rounding to 16 bits and to milliseconds (which can cut or add
    less than 1 ms at the end), for rates of 11025 Hz or more.

    Args:
        wave: 1 or 2 channels.
        sampling_rate: Hz.
        only_edge: leave inner silences alone.
        trail_ms: digital silence to append, in milliseconds; prompts take 200, so that
            their last sound does not run into the speech.

    Returns:
        float32 samples. Of a silent wave of at least 1 s only the trailing silence is left,
        unless `only_edge`; see `check_prompt`.

    Raises:
        UserError: the wave holds NaN or infinite samples.
    """
    pcm = _to_pcm(wave)
    if not only_edge:
        spans = _speech_spans(pcm, sampling_rate)
        parts = [_slice_ms(pcm, start, end, sampling_rate) for start, end in spans]
        pcm = np.concatenate(parts, axis=1) if parts else pcm[:, :0]
    for _ in range(2):  # the leading edge, then the trailing one on the reversed wave
        start = max(0, _leading_silence(pcm, sampling_rate) - _EDGE_KEPT)
        pcm = _slice_ms(pcm, start, _length_ms(pcm, sampling_rate), sampling_rate)[:, ::-1]
    trail = np.zeros((pcm.shape[0], _trail_samples(trail_ms, sampling_rate)), np.int16)
    pcm = np.concatenate([pcm, trail], axis=1)
    return pcm.astype(np.float32) / np.float32(_FULL_SCALE)


def leading_silence(wave: Float[np.ndarray, "channels samples"], sampling_rate: int) -> float:
    """Seconds that `remove_silence` cuts from the beginning of a wave."""
    return max(0, _leading_silence(_to_pcm(wave), sampling_rate) - _EDGE_KEPT) / 1000.0


def close_cut(
    wave: Float[np.ndarray, "channels samples"],
    sampling_rate: int,
    *,
    start: bool,
    end: bool,
    only_fade: bool = False,
) -> tuple[Float[np.ndarray, "channels _"], float]:
    """Leaves 30 ms of silence, without zeros, at edges beside a pause, and fades these edges.

    Args:
        wave: speech up to a pause, or from one on.
        sampling_rate: Hz.
        start: a pause comes before the wave.
        end: a pause comes after the wave.
        only_fade: cut nothing.

    Returns:
        The wave, whose fades do not reach zero, and the seconds cut from its beginning.
    """
    pcm = _to_pcm(wave)
    first, last = 0, wave.shape[1]
    if start and not only_fade:
        quiet = max(0, _leading_silence(pcm, sampling_rate) - _PAUSE_KEPT)
        first = int(quiet * sampling_rate / 1000)
    if end and not only_fade:
        quiet = max(0, _leading_silence(pcm[:, ::-1], sampling_rate) - _PAUSE_KEPT)
        last = max(last - int(quiet * sampling_rate / 1000), first)
    if not only_fade:
        sounding = np.flatnonzero(wave[:, first:last].any(axis=0))
        begin, stop = (first + sounding[0], first + sounding[-1] + 1) if sounding.size else (0, 0)
        first, last = int(begin) if start else first, int(stop) if end else last
    wave = wave[:, first:last].copy()
    size = min(_PAUSE_FADE * sampling_rate // 1000, wave.shape[1] // 2)
    ramp = np.linspace(0.0, 1.0, size + 2, dtype=np.float32)[None, 1:-1]
    if start and size:
        wave[:, :size] *= ramp
    if end and size:
        wave[:, -size:] *= ramp[:, ::-1]
    return wave, first / sampling_rate


def check_prompt(
    wave: Float[np.ndarray, "channels samples"], name: str, sampling_rate: int = 24_000
) -> None:
    """Makes sure that a prompt has sound in it.

    Args:
        wave: the prompt.
        name: what messages call it (its path).
        sampling_rate: Hz.

    Raises:
        UserError: no samples, NaN or infinite samples, or no 10 ms above -50 dBFS.
    """
    if wave.size == 0:
        raise UserError(f"{name} holds no samples; give a prompt with a few seconds of speech.")
    if not np.isfinite(wave).all():
        raise UserError(f"{name} holds NaN or infinite samples; export it again.")
    if is_silent(wave, sampling_rate):
        raise UserError(
            f"{name} is silent (nothing above {SILENCE_DBFS:g} dBFS); give a prompt with a few "
            "seconds of speech, recorded louder."
        )


def is_silent(wave: Float[np.ndarray, "channels samples"], sampling_rate: int) -> bool:
    """Whether no 10 ms chunk of a wave is above -50 dBFS."""
    pcm = _to_pcm(wave)
    return _leading_silence(pcm, sampling_rate) >= _length_ms(pcm, sampling_rate)


def mix_prompt(wave: Float[np.ndarray, "_ samples"], name: str) -> Float[np.ndarray, "1 samples"]:
    """The mean of a prompt's channels, the input of a one-channel model.

    Args:
        wave: the prompt.
        name: what messages call it (its path).

    Raises:
        UserError: the channels cancel out.
    """
    mixed = to_mono(wave)
    if _level(mixed) < _CANCELLED * _level(wave):
        raise UserError(
            f"the two channels of {name} cancel out when they are mixed to one, since one is the "
            "other upside down; give one of the channels alone as the prompt."
        )
    return mixed


def prompt_doubts(
    wave: Float[np.ndarray, "channels samples"], name: str, *, mixed: bool
) -> list[str]:
    """Possible problems of a usable prompt, one clause each.

    Args:
        wave: the prompt.
        name: what messages call it.
        mixed: the model gets the mean of the channels.
    """
    doubts = []
    peak = float(np.abs(wave).max())
    if peak > _OVERSHOOT:
        doubts.append(f"{name} goes to {peak:.1f} times full scale and is clipped there")
    if mixed and _level(to_mono(wave)) < _WEAKENED * _level(wave):
        doubts.append(
            f"the two channels of {name} nearly cancel out when they are mixed to one; one of "
            "them alone may be better"
        )
    return doubts


def _level(wave: Float[np.ndarray, "channels samples"]) -> float:
    """Root mean square over all channels."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def rms_norm(
    wave: Float[np.ndarray, "channels samples"], target_rms: float | int
) -> tuple[Float[np.ndarray, "channels samples"], float]:
    """Scales a wave that is quieter than `target_rms` up to it; leaves a louder one unchanged.

    Args:
        wave: the prompt.
        target_rms: root mean square over all channels and samples.

    Returns:
        The wave, and its original RMS (to restore the prompt's level in generated speech). A
        wave of zeros is returned unchanged, with 0.
    """
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) if wave.size else 0.0
    if 0.0 < rms < target_rms:
        wave = (wave * np.float32(target_rms) / np.float32(rms)).astype(np.float32)
    return wave, rms


def cross_fade_concat(
    chunks: Sequence[Float[np.ndarray, "channels _"]],
    *,
    fade_duration: float | int = 0.1,
    sampling_rate: int = 24_000,
) -> Float[np.ndarray, "channels samples"]:
    """Joins waves, each overlapping the one before by a linear cross-fade.

    Args:
        chunks: at least one wave, all of the same channel count.
        fade_duration: overlap in seconds, less where a wave is shorter; 0: none.
        sampling_rate: Hz.

    Raises:
        UserError: there is no chunk.
    """
    if not chunks:
        raise UserError("there are no waves to join; the text gave no speech.")
    fade_samples = max(0, int(fade_duration * sampling_rate))
    joined = chunks[0]
    for chunk in chunks[1:]:
        overlap = min(fade_samples, joined.shape[1], chunk.shape[1])
        kept = joined.shape[1] - overlap
        fade = np.linspace(1.0, 0.0, overlap, dtype=np.float32)[None, :]
        mixed = joined[:, kept:] * fade + chunk[:, :overlap] * (1.0 - fade)
        joined = np.concatenate([joined[:, :kept], mixed, chunk[:, overlap:]], axis=1)
    return joined


def to_mono(wave: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, "1 samples"]:
    """The mean of the channels."""
    return wave.mean(axis=0, keepdims=True, dtype=np.float32)


def stereo_prompt(
    waves: Sequence[Float[np.ndarray, "_ _"]],
) -> Float[np.ndarray, "2 samples"]:
    """The two-channel prompt of a stereo dialogue: speaker 1 left, speaker 2 right.

    Args:
        waves: one stereo wave, used unchanged; two stereo waves, joined in time; or two mono
            waves, one after the other, each on its own channel. While the other speaker speaks
            a channel is digital silence, whose features are the floor `log(1e-7)`. (The official
            code takes this background from a recording of near silence; our golden numbers use
            zeros, which need no file and are always the same.)

    Raises:
        UserError: any other combination.
    """
    channels = [wave.shape[0] for wave in waves]
    if channels in ([2], [2, 2]):
        return np.concatenate(list(waves), axis=1)
    if channels == [1, 1]:
        first, second = waves[0].shape[1], waves[1].shape[1]
        prompt = np.zeros((2, first + second), np.float32)
        prompt[0, :first] = waves[0][0]
        prompt[1, first:] = waves[1][0]
        return prompt
    raise UserError(
        "a stereo dialogue takes one stereo prompt, or one prompt for each of the two speakers "
        f"(both mono or both stereo); given were prompts of {channels} channels."
    )


def _to_pcm(wave: Float[np.ndarray, "channels samples"]) -> Pcm:
    """16-bit samples, truncated towards zero as in the official code."""
    if not np.isfinite(wave).all():
        raise UserError("the audio holds NaN or infinite samples; check where it comes from.")
    scaled = np.asarray(wave, np.float32) * np.float32(_FULL_SCALE)
    return scaled.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def _length_ms(pcm: Pcm, rate: int) -> int:
    """Length in milliseconds, rounded (halves to even)."""
    return round(1000 * (pcm.shape[1] / rate))


def _position(ms: Int[np.ndarray, " n"], rate: int) -> Int[np.ndarray, " n"]:
    """Samples at which milliseconds begin, rounded down."""
    return np.floor(ms * (rate / 1000.0)).astype(np.int64)


def _slice_ms(pcm: Pcm, start: int, end: int, rate: int) -> Pcm:
    """Samples of [start, end) ms; what is missing at the end (under 1 ms) becomes silence."""
    first, last = _position(np.array([start, end]), rate).tolist()
    part = pcm[:, first:last]
    missing = last - first - part.shape[1] if part.shape[1] else 0
    return np.pad(part, ((0, 0), (0, missing))) if missing else part


def _silent(
    pcm: Pcm, starts: Int[np.ndarray, " n"], ends: Int[np.ndarray, " n"], rate: int
) -> Bool[np.ndarray, " n"]:
    """Whether each [start, end) ms has an RMS of at most -50 dBFS.

    The root is truncated to an integer, as in audioop.rms; 64-bit sums of squares are exact.
    """
    energy = np.square(pcm, dtype=np.int64).sum(axis=0)
    total = np.concatenate([[0], np.cumsum(energy)])
    first, last = _position(starts, rate), _position(ends, rate)
    size = pcm.shape[1]
    squares = total[np.minimum(last, size)] - total[np.minimum(first, size)]
    count = (last - first) * pcm.shape[0]
    rms = np.floor(np.sqrt(squares / np.maximum(count, 1)))
    return rms <= _SILENT_RMS


def _leading_silence(pcm: Pcm, rate: int) -> int:
    """Milliseconds before the first 10 ms chunk that is not silent, or the whole length."""
    length = _length_ms(pcm, rate)
    starts = np.arange(0, length, _EDGE_CHUNK)
    loud = ~_silent(pcm, starts, np.minimum(starts + _EDGE_CHUNK, length), rate)
    return int(starts[np.argmax(loud)]) if loud.any() else length


def _silences(pcm: Pcm, rate: int) -> list[list[int]]:
    """[start, end] in ms of the silences of a second or more."""
    last_start = _length_ms(pcm, rate) - _WINDOW
    if last_start < 0:
        return []
    starts = np.unique(np.append(np.arange(0, last_start + 1, _WINDOW_STEP), last_start))
    silent = starts[_silent(pcm, starts, starts + _WINDOW, rate)]
    spans: list[list[int]] = []
    for start in silent.tolist():
        if spans and start <= spans[-1][1]:  # windows that touch are one silence
            spans[-1][1] = start + _WINDOW
        else:
            spans.append([start, start + _WINDOW])
    return spans


def _speech_spans(pcm: Pcm, rate: int) -> list[list[int]]:
    """[start, end] in ms of the speech between long silences, with 1 s of them on each side.

    A silence that is too short for 1 s on both sides is divided in its middle, so that none of it
    is lost.
    """
    length = _length_ms(pcm, rate)
    silences = _silences(pcm, rate)
    if silences == [[0, length]]:
        return []
    cuts = [0, *(ms for silence in silences for ms in silence), length]
    spans = [[cuts[i], cuts[i + 1]] for i in range(0, len(cuts), 2)]
    if silences and silences[0][0] == 0:
        spans = spans[1:]
    if silences and silences[-1][1] == length:
        spans = spans[:-1]
    spans = [[start - _KEPT, end + _KEPT] for start, end in spans]
    for before, after in itertools.pairwise(spans):
        if after[0] < before[1]:
            before[1] = after[0] = (before[1] + after[0]) // 2
    return [[max(start, 0), min(end, length)] for start, end in spans]


def _trail_samples(trail_ms: float | int, rate: int) -> int:
    """Samples of trailing silence: pydub makes it at 11025 Hz and resamples it."""
    made = int(_PYDUB_SILENCE_RATE * (trail_ms / 1000.0))
    return (made - 1) * rate // _PYDUB_SILENCE_RATE + 1 if made > 0 else 0

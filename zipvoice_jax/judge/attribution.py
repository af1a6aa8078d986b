"""Attributes words to speakers: by channel, by voice, or by a recogniser's tags."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from zipvoice_jax.judge.backends import RATE, Recogniser, SpeakerEncoder, Wave, Word, text_of
from zipvoice_jax.judge.speakers import unit
from zipvoice_jax.judge.timing import HeardTurn, Region, heard_turns, speech_regions
from zipvoice_jax.judge.words import by_speaker, speaker_names

_PAUSE = 0.3  # seconds between words that separate phrases
_SHORTEST = 0.8  # least seconds of speech for a voice vector
_STARTS = 24  # longest phrases, any of which may start a group
_MOST_FITS = 3000  # of groups, beyond which fewer of the longest phrases start any
_ENDS = tuple(".?!\u3002\uff1f\uff01")


@dataclasses.dataclass(frozen=True)
class Voices:
    """The words and the speech of each speaker of a recording.

    Attributes:
        by: how words and voices were attributed to speakers; "nothing": they were not.
        words: recognised words of each speaker.
        turns: turns of all speakers, in order.
        sound: speech of each speaker alone, at 16 kHz.
    """

    by: dict[str, str]
    words: dict[str, str]
    turns: list[HeardTurn]
    sound: dict[str, Wave]


def phrases(words: Sequence[Word]) -> list[Word]:
    """Joins words up to a pause or the end of a sentence, where speakers may change."""
    groups: list[list[Word]] = []
    for word in words:
        ended = groups and (
            word.start - groups[-1][-1].end > _PAUSE or groups[-1][-1].text.rstrip().endswith(_ENDS)
        )
        if not groups or ended:
            groups.append([word])
        else:
            groups[-1].append(word)
    return [Word(text_of(part), part[0].start, part[-1].end) for part in groups]


def by_channel(stereo: Float[np.ndarray, "2 samples"], recogniser: Recogniser, lang: str) -> Voices:
    """Speaker 1 is the left channel, speaker 2 the right."""
    channels = dict(zip(("S1", "S2"), stereo, strict=True))
    regions = {name: speech_regions(wave) for name, wave in channels.items()}
    return Voices(
        {"words": "channel", "voices": "channel"},
        {name: text_of(recogniser.words(wave, lang)) for name, wave in channels.items()},
        heard_turns(regions),
        {name: _join(wave, regions[name]) for name, wave in channels.items()},
    )


def by_tags(
    wave: Wave, words: Sequence[Word], encoder: SpeakerEncoder, *, speakers: int = 2
) -> Voices:
    """Attributes words by the recogniser's tags; turns and sound, lacking times, by voice."""
    voices = by_voice(wave, [], encoder, speakers=speakers, timed=False)
    by = {"words": "tags", "voices": "cluster"}
    return dataclasses.replace(voices, by=by, words=by_speaker(text_of(words)))


def by_voice(
    wave: Wave,
    words: Sequence[Word],
    encoder: SpeakerEncoder,
    prompts: Mapping[str, Float[np.ndarray, " dim"]] | None = None,
    *,
    speakers: int = 2,
    timed: bool = True,
) -> Voices:
    """Attributes phrases to the most similar prompt, or without prompts to groups of voices.

    Args:
        wave: recording of all speakers.
        words: recognised words with their times.
        encoder: the speaker encoder.
        prompts: vectors of the speakers' prompts, by name.
        speakers: number of groups, where there are no prompts; they are named S1, S2 and so on, in
            the order in which they are heard.
        timed: whether times are known; otherwise regions of speech serve as phrases, and words
            are not attributed.
    """
    how = "cluster" if prompts is None else "prompt"
    if not timed:
        words = [Word("", region.start, region.end) for region in speech_regions(wave)]
    parts = phrases(words)
    vectors = [encoder.embed(_around(wave, part)) for part in parts]
    if prompts is not None:
        names = list(prompts)
        labels = [int((np.stack([*prompts.values()]) @ vector).argmax()) for vector in vectors]
    else:
        names = speaker_names(speakers)
        labels = voice_groups(vectors, [part.end - part.start for part in parts], speakers)
    phrases_of: dict[str, list[Word]] = {name: [] for name in names}
    for part, label in zip(parts, labels, strict=True):
        phrases_of[names[label]].append(part)
    regions = {name: [Region(p.start, p.end) for p in own] for name, own in phrases_of.items()}
    return Voices(
        {"words": how if timed else "nothing", "voices": how},
        {name: " ".join(part.text for part in own) for name, own in phrases_of.items()},
        heard_turns(regions),
        {name: _join(wave, own) for name, own in regions.items()},
    )


def voice_groups(
    vectors: Sequence[Float[np.ndarray, " dim"]], weights: Sequence[float], count: int = 2
) -> list[int]:
    """Labels of unit vectors by spherical k-means, from 0 on in the order of first appearance.

    Takes the best of the starts from any `count` of the longest phrases, so that a short and odd
    one does not form a group against all others. Fewer vectors than groups have one each.

    Args:
        vectors: unit vectors.
        weights: weight of each vector, such as seconds.
        count: number of groups.
    """
    count = min(count, len(vectors))
    if count < 2:
        return [0] * len(vectors)
    x, w = np.stack(vectors), np.asarray(weights, np.float64)
    starts = max(
        (n for n in range(count, _STARTS + 1) if math.comb(n, count) <= _MOST_FITS), default=count
    )
    longest = np.argsort(-w, kind="stable")[:starts]
    fits = [_means(x, w, x[list(chosen)]) for chosen in itertools.combinations(longest, count)]
    labels = max(fits, key=lambda fit: fit[0])[1].tolist()
    order = list(dict.fromkeys(labels))
    return [order.index(label) for label in labels]


def _means(
    x: Float[np.ndarray, "n dim"],
    w: Float[np.ndarray, " n"],
    centres: Float[np.ndarray, "groups dim"],
) -> tuple[float, Int[np.ndarray, " n"]]:
    """Weighted sum of similarities to the own centre, and labels."""
    labels = np.full(len(x), -1)
    for _ in range(100):
        nearest = (x @ centres.T).argmax(axis=1)
        if (nearest == labels).all():
            break
        labels = nearest
        own = labels == np.arange(len(centres))[:, None]
        centres = np.stack([unit((x * w[:, None])[mine].sum(axis=0)) for mine in own])
    return float((w * (x @ centres.T).max(axis=1)).sum()), labels


def _around(wave: Wave, part: Word) -> Wave:
    more = max(_SHORTEST - (part.end - part.start), 0.0) / 2.0
    begin = max(min(part.start - more, len(wave) / RATE - _SHORTEST), 0.0)
    return wave[round(begin * RATE) : round(max(part.end + more, begin + _SHORTEST) * RATE)]


def _join(wave: Wave, regions: Sequence[Region]) -> Wave:
    parts = [wave[round(r.start * RATE) : round(r.end * RATE)] for r in regions]
    return np.concatenate(parts) if parts else wave[:0]

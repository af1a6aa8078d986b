"""What make_speech.py is to say, and by which voices: a plan that depends on its seed alone.

Every item is drawn by its kind and number, so that a plan of more items begins with the same ones.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from kokoro import VOICES
from speech_texts import drawn, expand, split_of

from zipvoice_jax.core.errors import UserError

HELD_OUT_VOICES = ("af_sky", "am_echo", "bf_emma", "bm_lewis")
BASES = tuple(name for name in VOICES if name not in HELD_OUT_VOICES)
SPEEDS = (0.9, 1.15)  # of voices; items vary by 5 % more
KINDS = ("voices", "texts", "single", "single_dev", "dialogue", "dialogue_dev", "test_single",
         "test_dialogue", "prompt", "recombined", "joined",
         "shifts")  # fmt: skip
SHIFTS = (0.8, 1.22)  # of voices that are not spoken at Kokoro's own pitch
FROM_WORDNET = 0.65  # of single utterances


@dataclasses.dataclass(frozen=True)
class Voice:
    """A blend of Kokoro's voices, by their weights, and how fast it speaks.

    `shift` times as high as Kokoro makes it, formants included: a larger or smaller person.
    """

    name: str
    weights: Mapping[str, float]
    speed: float = 1.0
    shift: float = 1.0


@dataclasses.dataclass(frozen=True)
class Speech:
    """A clip that is to be made."""

    id: str
    text: str
    voice: str
    speed: float
    shift: float = 1.0


def rng_of(seed: int, kind: str, number: int = 0) -> np.random.Generator:
    """The random numbers of an item."""
    return np.random.default_rng([seed, KINDS.index(kind), number])


def voices(count: int, seed: int, shifted: float = 0.0) -> dict[str, Voice]:
    """The voices of training: Kokoro's own but those held out, then blends of two or three.

    Args:
        count: how many.
        seed: of the corpus.
        shifted: share of the blends that are higher or lower than Kokoro makes them.
    """
    rng = rng_of(seed, "voices")
    made = {name: Voice(name, {name: 1.0}) for name in BASES[:count]}
    for number in range(len(made), count):
        parts = 3 if rng.random() < 0.25 else 2
        first = BASES[rng.integers(len(BASES))]
        # Mostly of one sex, of whatever accent.
        others = [b for b in BASES if b != first and (b[1] == first[1] or rng.random() < 0.08)]
        chosen = [first, *rng.permutation(others)[: parts - 1].tolist()]
        shares = rng.dirichlet(np.full(parts, 4.0))
        name = f"blend{number:03d}"
        weights = {base: round(float(w), 3) for base, w in zip(chosen, shares, strict=True)}
        other = rng_of(seed, "shifts", number)
        shift = float(np.exp(other.uniform(*np.log(SHIFTS)))) if other.random() < shifted else 1.0
        made[name] = Voice(name, weights, shift=round(shift, 3))
    return {
        voice.name: dataclasses.replace(voice, speed=round(float(rng.uniform(*SPEEDS)), 3))
        for voice in made.values()
    }


def held_out_voices() -> dict[str, Voice]:
    """The voices that nothing is trained on."""
    return {name: Voice(name, {name: 1.0}) for name in HELD_OUT_VOICES}


def style_of(voice: Voice, styles: Mapping[str, np.ndarray]) -> np.ndarray:
    """The style of a voice, (symbols, 256): the mean of its parts by their weights."""
    total = sum(voice.weights.values())
    blend = sum(np.float32(w / total) * styles[base] for base, w in voice.weights.items())
    return np.asarray(blend, np.float32)


def speed_of(voice: Voice, rng: np.random.Generator) -> float:
    """The speed of one clip of a voice."""
    return round(voice.speed * float(rng.uniform(0.95, 1.05)), 3)


def in_turn(names: Sequence[str], seed: int, number: int) -> str:
    """The voice of an item: all voices in random order, then in another, and so on."""
    cycle, position = divmod(number, len(names))
    order = np.random.default_rng([seed, 8, cycle]).permutation(len(names))
    return names[int(order[position])]


def by_voice(speeches: Iterable[Speech]) -> dict[str, list[Speech]]:
    """Clips by the voice that says them, in their order."""
    found: dict[str, list[Speech]] = {}
    for speech in speeches:
        found.setdefault(speech.voice, []).append(speech)
    return found


def singles(
    examples: Sequence[str],
    templates: Mapping[str, list[str]],
    cast: Mapping[str, Voice],
    *,
    count: int,
    seed: int,
    split: str = "train",
    kind: str = "single",
    share: float = FROM_WORDNET,
) -> list[Speech]:
    """Single utterances of one split, each text once.

    Args:
        examples: sentences that are said once each, in random order.
        templates: what others are made of, by the list "single".
        cast: the voices that speak.
        count: how many utterances.
        seed: of the corpus.
        split: of the texts.
        kind: names the items and their random numbers.
        share: of the examples.

    Raises:
        UserError: there are not enough texts.
    """
    supply = [text for text in examples if split_of(text) == split]
    order = iter(rng_of(seed, "texts").permutation(len(supply)))
    names, said, made = list(cast), set(), []
    for number in range(count):
        rng = rng_of(seed, kind, number)
        text = None
        if rng.random() < share:
            text = next((supply[i] for i in order), None)

        def compose(rng: np.random.Generator = rng) -> str | None:
            template = templates["single"][rng.integers(len(templates["single"]))]
            text = expand(template, templates, rng)
            return None if text in said else text

        text = text or (drawn(compose, split) if templates else None)
        if text is None:
            raise UserError(f"there are no more than {number} texts for {kind}; ask for fewer.")
        said.add(text)
        voice = cast[in_turn(names, seed, number)]
        speed = speed_of(voice, rng)
        made.append(Speech(f"{kind}_{number:05d}", text, voice.name, speed, voice.shift))
    return made

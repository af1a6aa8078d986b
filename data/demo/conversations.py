"""Conversations for the corpus of make_speech.py: who says what in them, when, and the mixture."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from kokoro import RATE
from speech_plan import Speech, Voice, by_voice, in_turn, rng_of, speed_of
from speech_texts import expand, split_of

from zipvoice_jax.core.errors import UserError

PARTS = Path(__file__).with_name("conversations.txt")
TAGS = ("[S1]", "[S2]")
TURNS = {2: 0.24, 3: 0.2, 4: 0.26, 5: 0.15, 6: 0.15}  # how often a conversation has so many
WORDS = 52  # of a conversation at most
GAP = (0.3, 0.5)  # seconds between turns: median, and deviation of the logarithm
GAPS = (0.1, 0.8)  # seconds at least and at most
OVERLAPS = 0.15  # of the changes of speaker, in two channels
OVERLAP = (0.08, 0.4)  # seconds
OVERLAP_SHARE = 0.3  # of the shorter turn at most
FLOORS = (-85.0, -65.0)  # dB below full scale: the noise of each channel
CLEAN = 0.35  # of the conversations are silent to the last bit where nobody speaks
RECOMBINED = (3, 7)  # turns of a conversation of single utterances, the second not included
_PLAIN = re.compile(r"([A-Z][A-Za-z', ]*[.?] ?)+")


# Examples that one tells somebody.
_TOLD = re.compile(r"(He|She|They|We|I|The|My|It|This|His|Her|Our) .* .* .*\.$")
# How questions begin, and what looks like one.
_QUESTION = re.compile(
    r"((and |but )?(who|what|when|where|why|how|which|is|are|was|do|does|did|can|could|would|shall|"
    r"should|may|have you|has|any|anything|will) (?!a pity\b|a surprise\b|nice\b|strange\b|"
    r"interesting\b|a small world\b))|.*, (but |only )?(can|could|do|is|shall) (we|i|you|there) ",
    re.IGNORECASE,
)
_NO_QUESTION = re.compile(r"(it's|it is|the|i|we'll|we|my|in|at|call|bring|that's) ", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation that is to be made.

    Attributes:
        id: its name.
        turns: clips of speaker 1 and speaker 2 in alternation.
        gaps: seconds between turns in one channel.
        overlaps: seconds by which the next turn comes early in two channels; 0 mostly.
        floor: level of each channel's noise in dB below full scale; None for none.
    """

    id: str
    turns: tuple[Speech, ...]
    gaps: tuple[float, ...]
    overlaps: tuple[float, ...]
    floor: float | None = None

    @property
    def text(self) -> str:
        """The turns with their tags."""
        return " ".join(f"{TAGS[i % 2]} {turn.text}" for i, turn in enumerate(self.turns))


@dataclasses.dataclass(frozen=True)
class Part:
    """Some turns of a conversation, as templates."""

    lines: tuple[str, ...]
    closing: bool


def read_parts(path: Path = PARTS) -> list[Part]:
    """The parts of a file: lines between blank lines; below `# closing` each line is one."""
    parts: list[Part] = []
    body, _, closing = path.read_text(encoding="utf-8").partition("# closing\n")
    for block in body.split("\n\n"):
        lines = [line for line in block.splitlines() if line.strip() and line[0] != "#"]
        if lines:
            parts.append(Part(tuple(lines), closing=False))
    return parts + [Part((line,), closing=True) for line in closing.splitlines() if line.strip()]


def fitting(text: str, split: str) -> bool:
    """Whether a turn may be said in a split; short ones may be in all."""
    return bool(_PLAIN.fullmatch(text)) and (split_of(text) == split or len(text.split()) <= 3)


def asked(text: str) -> str:
    """The text with question marks after its questions, and after nothing else that is plain."""
    sentences = re.findall(r"[^.?]+[.?]", text)
    for i, sentence in enumerate(sentences):
        words = sentence.strip()
        if _QUESTION.match(words):
            sentences[i] = sentence[:-1] + "?"
        elif _NO_QUESTION.match(words):
            sentences[i] = sentence[:-1] + "."
    return "".join(sentences)


def write_turns(
    parts: Sequence[Part],
    lists: Mapping[str, list[str]],
    examples: Sequence[str],
    split: str,
    rng: np.random.Generator,
) -> list[str]:
    """The turns of a conversation, all of which belong to a split.

    Args:
        parts: what it is made of.
        lists: for the slots of the parts.
        examples: sentences of the split.
        split: of each turn.
        rng: random numbers.

    Raises:
        UserError: none could be written.
    """
    wanted = int(rng.choice(list(TURNS), p=list(TURNS.values())))
    for _ in range(4000):
        turns: list[str] = []
        while len(turns) < wanted:
            left = wanted - len(turns)
            # A part may be cut after a question's answer, never right after its first turn.
            part = parts[int(rng.integers(len(parts)))]
            if part.closing != (left == 1) or (part.closing and not turns):
                continue
            count = min(len(part.lines), left)
            if count < left == count + 1 and rng.random() < 0.5:
                continue
            said = _say(part.lines[:count], lists, examples, split, rng)
            if said is None:
                break
            turns += said
        long = sum(len(turn.split()) > 3 for turn in turns)
        words = sum(len(turn.split()) for turn in turns)
        if len(turns) == wanted and words <= WORDS and 2 * long >= wanted:
            return turns
    raise UserError(f"no conversation of {wanted} turns for {split}; write more {PARTS.name}.")


def _say(
    lines: Sequence[str],
    lists: Mapping[str, list[str]],
    examples: Sequence[str],
    split: str,
    rng: np.random.Generator,
) -> list[str] | None:
    slots: dict[str, str] = {}
    for name in dict.fromkeys(re.findall(r"\$([a-z]+\d?)", "\n".join(lines))):
        entries = [e for e in lists[name.rstrip("2")] if e not in slots.values()]
        slots[name] = entries[rng.integers(len(entries))]
    said = []
    for line in lines:
        filled = re.sub(r"\$([a-z]+\d?)", lambda found: slots[found[1]], line)
        for _ in range(60):
            if filled == "<example>":
                text = examples[int(rng.integers(len(examples)))]
            else:
                text = asked(expand(filled, lists, rng))
            if fitting(text, split):
                said.append(text)
                break
        else:
            return None
    return said


def conversations(
    parts: Sequence[Part],
    lists: Mapping[str, list[str]],
    examples: Sequence[str],
    cast: Mapping[str, Voice],
    *,
    count: int,
    seed: int,
    split: str = "train",
    kind: str = "dialogue",
) -> list[Conversation]:
    """Conversations of two voices each, on texts of one split."""
    supply = [text for text in examples if split_of(text) == split and _TOLD.match(text)]
    names, made = list(cast), []
    for number in range(count):
        rng = rng_of(seed, kind, number)
        first = in_turn(names, seed, number)
        rest = [n for n in names if n != first and _main(cast[n]) != _main(cast[first])]
        pair = (first, rest[rng.integers(len(rest))])
        turns = write_turns(parts, lists, supply, split, rng)
        name = f"{kind}_{number:05d}"
        gaps, overlaps = _changes(len(turns) - 1, rng)
        voices = [cast[one] for one in pair]
        speeches = tuple(
            Speech(f"{name}_{i}", text, voice.name, speed_of(voice, rng), voice.shift)
            for i, (text, voice) in enumerate(zip(turns, itertools.cycle(voices), strict=False))
        )
        made.append(Conversation(name, speeches, gaps, overlaps, _floor(rng)))
    return made


def recombined(singles: Sequence[Speech], *, count: int, seed: int) -> list[Conversation]:
    """Conversations of single utterances that exist: they make little sense and cost no time."""
    of_voice = by_voice(singles)
    names, made = list(of_voice), []
    for number in range(count if len(names) > 1 else 0):
        rng = rng_of(seed, "recombined", number)
        pair = (in_turn(names, seed, number), names[rng.integers(len(names))])
        while pair[0] == pair[1]:
            pair = (pair[0], names[rng.integers(len(names))])
        turns = tuple(
            of_voice[pair[i % 2]][rng.integers(len(of_voice[pair[i % 2]]))]
            for i in range(int(rng.integers(*RECOMBINED)))
        )
        gaps, overlaps = _changes(len(turns) - 1, rng)
        made.append(Conversation(f"recombined_{number:05d}", turns, gaps, overlaps, _floor(rng)))
    return made


def _changes(count: int, rng: np.random.Generator) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gaps and overlaps of the changes of speaker, in seconds."""
    gaps = np.clip(GAP[0] * np.exp(GAP[1] * rng.standard_normal(count)), *GAPS)
    overlaps = rng.uniform(*OVERLAP, count) * (rng.random(count) < OVERLAPS)
    return tuple(np.round(gaps, 3).tolist()), tuple(np.round(overlaps, 3).tolist())


def _floor(rng: np.random.Generator) -> float | None:
    """What no microphone is without; a model of two channels hardly learns digital silence."""
    floor = round(float(rng.uniform(*FLOORS)), 1)
    return None if rng.random() < CLEAN else floor


def _main(voice: Voice) -> str:
    return max(voice.weights, key=lambda base: voice.weights[base])


@dataclasses.dataclass(frozen=True)
class Clip:
    """A turn that was made: its samples, and its tokens' beginnings in seconds."""

    samples: int
    token_starts: tuple[float, ...]
    onset: float


def places(conversation: Conversation, clips: Sequence[Clip], overlap: bool) -> list[int]:
    """Where each turn begins, in samples; turns may overlap or not."""
    begins = [0]
    for i, gap in enumerate(conversation.gaps):
        shorter = min(clips[i].samples, clips[i + 1].samples)
        early = min(round(conversation.overlaps[i] * RATE), int(OVERLAP_SHARE * shorter))
        change = -early if overlap and early else round(gap * RATE)
        begins.append(begins[-1] + clips[i].samples + change)
    return begins


def mix(
    waves: Sequence[np.ndarray], begins: Sequence[int], floor: float | None, name: str
) -> np.ndarray:
    """The turns at their places as (samples, 2), each speaker in a channel, over faint noise.

    Args:
        waves: of the turns.
        begins: where each begins, in samples.
        floor: level of the noise in dB below full scale; None for none.
        name: of the conversation; it tells the noise.
    """
    length = max(b + len(wave) for wave, b in zip(waves, begins, strict=True))
    mixture = np.zeros((length, 2), np.float32)
    for i, (wave, begin) in enumerate(zip(waves, begins, strict=True)):
        mixture[begin : begin + len(wave), i % 2] += wave
    if floor is not None:
        rng = np.random.default_rng(list(name.encode()))
        mixture += 10 ** (floor / 20) * rng.standard_normal(mixture.shape, np.float32)
    return mixture


def starts_of(clips: Sequence[Clip], begins: Sequence[int]) -> tuple[float, ...]:
    """Where each token begins, in seconds: of each turn its tag, then its tokens.

    A tag begins where the turn before ends. Where turns overlap, the tag stands in the middle of
    the overlap; what comes after it in the turn before, or before it in the next, is moved there.
    """
    starts: list[float] = []
    switch = 0.0
    for i, (clip, begin) in enumerate(zip(clips, begins, strict=True)):
        end = (begin + clip.samples) / RATE
        until = end
        if i + 1 < len(begins) and begins[i + 1] / RATE < end:
            until = (begins[i + 1] / RATE + end) / 2
        own = [clip.onset, *clip.token_starts[1:]]
        starts.append(switch)
        starts += [min(max(begin / RATE + start, switch), until) for start in own]
        switch = until
    return tuple(round(start, 4) for start in starts)

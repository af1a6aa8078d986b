"""Makes three small corpora from the clips of two real speakers in recordings/.

    python data/demo/make_corpus.py --to DIR

writes DIR/single.tsv (the clips), DIR/dialogue.tsv (turns of the two in one channel) and
DIR/stereo.tsv (the same dialogues with each speaker on a channel), for `zipvoice-jax prepare
--format tsv`. The same seed gives the same files.
"""

import argparse
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

CORPUS = Path(__file__).resolve().with_name("recordings")
RATE = 16000  # Hz, of all clips
LEVEL = 0.08  # root mean square of each turn; full scale is 1
PAUSE = (0.15, 0.45)  # seconds between turns
TAGS = ("[S1]", "[S2]")


@dataclasses.dataclass(frozen=True)
class Clip:
    """One sentence of one speaker."""

    id: str
    text: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """Turns in alternation, with the seconds of silence after each."""

    id: str
    turns: tuple[Clip, ...]
    pauses: tuple[float, ...]

    @property
    def text(self) -> str:
        """The turns with their tags."""
        return " ".join(f"{TAGS[i % 2]} {turn.text}" for i, turn in enumerate(self.turns))


def read_clips(corpus: Path) -> list[Clip]:
    """The clips of single.tsv."""
    lines = (corpus / "single.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return [Clip(id, text, corpus / path) for id, text, path in rows]


def pair(clips: list[Clip], count: int, seed: int) -> list[Dialogue]:
    """Puts the clips of the two speakers into dialogues of 2 to 4 turns; either may begin."""
    rng = np.random.default_rng(seed)
    voices = sorted({clip.id.split("_")[0] for clip in clips})
    supply = [shuffled([c for c in clips if c.id.startswith(voice)], rng) for voice in voices]
    dialogues = []
    for number in range(count):
        turns = 2 + number % 3
        first = int(rng.integers(2))
        dialogues.append(
            Dialogue(
                id=f"dialogue_{number:03d}",
                turns=tuple(next(supply[(first + turn) % 2]) for turn in range(turns)),
                pauses=tuple(rng.uniform(*PAUSE, size=turns - 1)),
            )
        )
    return dialogues


def shuffled(clips: list[Clip], rng: np.random.Generator) -> Iterator[Clip]:
    """All clips in random order, then again in another, and so on."""
    while True:
        for i in rng.permutation(len(clips)):
            yield clips[i]


def render(dialogue: Dialogue, wanted: int = RATE) -> np.ndarray:
    """The dialogue as (samples, 2): speakers on channels of their own.

    Args:
        dialogue: what to join.
        wanted: rate of all clips in Hz.
    """
    parts = []
    for i, turn in enumerate(dialogue.turns):
        wave, rate = soundfile.read(turn.path, dtype="float32")
        if rate != wanted or wave.ndim != 1:
            raise SystemExit(f"{turn.path} is not mono at {wanted} Hz; take the corpus as it is.")
        pause = dialogue.pauses[i] if i < len(dialogue.pauses) else 0.0
        part = np.zeros((len(wave) + round(pause * wanted), 2), np.float32)
        part[: len(wave), i % 2] = wave * (LEVEL / np.sqrt(np.mean(wave**2)))
        parts.append(part)
    return np.clip(np.concatenate(parts), -1.0, 1.0)


def write_list(path: Path, rows: list[tuple[str, str, str]]) -> None:
    """Writes id, text and audio, tab-separated."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def make_corpus(corpus: Path, to: Path, count: int, seed: int) -> float:
    """Writes the three corpora; gives the seconds of dialogue."""
    clips = read_clips(corpus)
    for folder in ("single", "dialogue", "stereo"):
        (to / folder).mkdir(parents=True, exist_ok=True)
    for clip in clips:
        shutil.copyfile(clip.path, to / "single" / clip.path.name)
    write_list(to / "single.tsv", [(c.id, c.text, f"single/{c.path.name}") for c in clips])
    dialogues = pair(clips, count, seed)
    seconds = 0.0
    for dialogue in dialogues:
        wave = render(dialogue)
        seconds += len(wave) / RATE
        for folder, samples in (("dialogue", wave.sum(axis=1)), ("stereo", wave)):
            soundfile.write(to / folder / f"{dialogue.id}.flac", samples, RATE, subtype="PCM_16")
    for folder in ("dialogue", "stereo"):
        rows = [(d.id, d.text, f"{folder}/{d.id}.flac") for d in dialogues]
        write_list(to / f"{folder}.tsv", rows)
    return seconds


def main() -> None:
    """Reads the options and writes the corpora."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="with single.tsv")
    parser.add_argument("--dialogues", type=int, default=48, help="how many (default: 48)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.corpus / "single.tsv").is_file():
        parser.error(f"{args.corpus} has no single.tsv")
    seconds = make_corpus(args.corpus, args.to, args.dialogues, args.seed)
    print(f"{args.to}: {args.dialogues} dialogues, {seconds:.0f} s, in one and in two channels")


if __name__ == "__main__":
    main()

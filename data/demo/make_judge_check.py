"""Makes dialogues of two real speakers on which a judge can be judged, and damages them.

    python data/demo/make_judge_check.py --to DIR

writes DIR/mono and DIR/stereo (the dialogues) and a test list for each way in which what is heard
may differ from what was to be said:

    right.tsv    nothing: the dialogues say what the list says
    swapped.tsv  half of the turns were to be the other speaker's
    dropped.tsv  a turn more was to be said than is
    words.tsv    every fifth word was to be another one
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_corpus import CORPUS, RATE, TAGS, Clip, pair, read_clips, render


def damaged(way: str, turns: list[tuple[int, str]], more: Clip, speaker: int) -> str:
    """The text that was to be said; turns are speakers (0 or 1) and what they say."""
    if way == "swapped":
        turns = [(1 - who if i % 4 in (2, 3) else who, said) for i, (who, said) in enumerate(turns)]
    elif way == "dropped":
        turns = [*turns, (speaker, more.text)]
    elif way == "words":
        turns = [
            (who, " ".join("banana" if i % 5 == 4 else w for i, w in enumerate(said.split())))
            for who, said in turns
        ]
    return " ".join(f"{TAGS[who]} {said}" for who, said in turns)


def make(corpus: Path, to: Path, count: int, seed: int) -> None:
    """Writes recordings and lists."""
    clips = read_clips(corpus)
    voices = sorted({clip.id.split("_")[0] for clip in clips})
    # The clips that serve as prompts are not said in a dialogue.
    prompts = [max((c for c in clips if c.id.startswith(v)), key=lambda c: c.path.stat().st_size)
               for v in voices]  # fmt: skip
    rest = [clip for clip in clips if clip not in prompts]
    lists: dict[str, list[str]] = {way: [] for way in ("right", "swapped", "dropped", "words")}
    rng = np.random.default_rng(seed)
    for folder in ("mono", "stereo"):
        (to / folder).mkdir(parents=True, exist_ok=True)
    # Four turns each: two of each speaker.
    for number, dialogue in enumerate(d for d in pair(rest, 3 * count, seed) if len(d.turns) == 4):
        wave = render(dialogue)
        first = voices.index(dialogue.turns[0].id.split("_")[0])
        if first == 1:  # so that speaker 1 has the first voice in all of them
            wave = wave[:, ::-1]
        turns = [((first + i) % 2, turn.text) for i, turn in enumerate(dialogue.turns)]
        name = f"item{number:02d}"
        soundfile.write(to / "mono" / f"{name}.wav", wave.sum(axis=1), RATE, subtype="PCM_16")
        soundfile.write(to / "stereo" / f"{name}.wav", wave, RATE, subtype="PCM_16")
        more = rest[int(rng.integers(len(rest)))]
        columns = [name, *(p.text for p in prompts), *(str(p.path.resolve()) for p in prompts)]
        for way, lines in lists.items():
            lines.append("\t".join([*columns, damaged(way, turns, more, first)]) + "\n")
    for way, lines in lists.items():
        (to / f"{way}.tsv").write_text("".join(lines), encoding="utf-8")
    print(f"{to}: {len(lists['right'])} dialogues of 4 turns, {', '.join(lists)}")


def main() -> None:
    """Reads the options and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="with single.tsv")
    parser.add_argument("--dialogues", type=int, default=12, help="how many (default: 12)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.corpus / "single.tsv").is_file():
        parser.error(f"{args.corpus} has no single.tsv")
    make(args.corpus, args.to, args.dialogues, args.seed)


if __name__ == "__main__":
    main()

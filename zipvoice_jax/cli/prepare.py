"""`zipvoice-jax prepare`: turns a speech corpus into records that training reads."""

import argparse
import re
from pathlib import Path

from zipvoice_jax.core.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `prepare` command."""
    parser = subparsers.add_parser(
        "prepare",
        help="turn a speech corpus into records for training",
        description="Reads a corpus, checks every utterance, tokenizes its text, and writes "
        "sharded ArrayRecord files (a TFDS data directory) with an index of lengths and a report "
        "of what was left out. A run that was stopped goes on when it is started again.",
    )
    add = parser.add_argument
    add(
        "--format", required=True, metavar="LAYOUT",
        help="of the corpus: opendialog, emilia, jsonl, libritts, tsv or lhotse",
    )  # fmt: skip
    add("--from", dest="source", type=Path, required=True, metavar="PATH", help="the corpus")
    add("--to", dest="target", type=Path, required=True, metavar="DIR", help="dataset to write")
    add("--dev-from", type=Path, metavar="PATH", help="another corpus, all for the split dev")
    add("--name", help="of the dataset (default: the name of --to)")
    add("--language", default="", help="of utterances that do not name theirs, such as en")
    add("--tokenizer", default="dialog", help="dialog (the default) wants turns with [S1], [S2]")
    add("--tokens", type=Path, metavar="FILE", help="token table; unknown tokens are left out")
    add("--lang", default="en-us", help="of the espeak tokenizer (default: en-us)")
    add("--token-type", help="of the libritts tokenizer: char, phone or bpe")
    add("--bpe-model", type=Path, metavar="FILE", help="of the libritts tokenizer's type bpe")
    add(
        "--alignments", type=Path, metavar="DIR",
        help="Praat TextGrids by the names of the recordings; those beside them need no option",
    )  # fmt: skip
    add(
        "--text-repair",
        action="store_true",
        help="tokens of texts as people read them, as `generate` makes them (docs/text.md); "
        "without it they are those of the official code",
    )
    add(
        "--split",
        choices=("official", "hash"),
        help="official: OpenDialog's first 1,000 of each language and LibriTTS' folders are "
        "dev (the default there); hash: a share of all ids, chosen by the id alone",
    )
    add("--dev-share", type=float, default=0.01, help="of --split hash (default: 0.01)")
    add("--min-seconds", type=float, default=1.0, help="shorter ones are left out (default: 1)")
    add("--max-seconds", type=float, default=60.0, help="longer ones are left out (default: 60)")
    add(
        "--words-per-minute",
        type=float,
        nargs=2,
        default=(20.0, 600.0),
        metavar=("MIN", "MAX"),
        help="utterances outside this range of speaking rates are left out (default: 20 600)",
    )
    add("--unit-size", type=int, default=1000, help="utterances per shard (default: 1000)")
    add("--workers", type=int, default=0, help="processes (default: one per core)")
    add("--examples", type=int, default=5, help="named per reason in the report (default: 5)")
    add("--overwrite", action="store_true", help="replace a dataset or other unfinished work")
    add(
        "--beam-runner",
        choices=("Direct", "Flink", "Spark", "Dataflow"),
        help="run on Apache Beam (not installed by default) instead of processes",
    )
    add(
        "--beam-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of Beam's pipeline; may be given again",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax prepare` and prints its report.

    Raises:
        UserError: an option or the corpus cannot be used, or the target cannot be written.
    """
    from zipvoice_jax.core.outputs import check_folder
    from zipvoice_jax.data.checks import Limits
    from zipvoice_jax.data.prepare import prepare
    from zipvoice_jax.data.prepare_config import PrepareConfig, TokenizerSettings
    from zipvoice_jax.data.prepare_report import lines
    from zipvoice_jax.data.prepare_run import Beam
    from zipvoice_jax.data.sources import Source
    from zipvoice_jax.text.tokens import TokenTable

    check_folder(args.target)

    def source(path: Path) -> Source:
        return Source(
            args.format,
            path,
            language=args.language,
            unit_size=args.unit_size,
            alignments=args.alignments,
        )

    if args.beam_option and not args.beam_runner:
        raise UserError("--beam-option needs --beam-runner; name the runner that it is for.")
    corpus = source(args.source)
    config = PrepareConfig(
        name=args.name or _name(args.target),
        source=corpus,
        dev_source=None if args.dev_from is None else source(args.dev_from),
        tokenizer=TokenizerSettings(
            name=args.tokenizer,
            table=None if args.tokens is None else TokenTable.load(args.tokens),
            lang=args.lang,
            token_type=args.token_type,
            bpe_model=args.bpe_model,
            text_repair=args.text_repair,
        ),
        limits=Limits(args.min_seconds, args.max_seconds, *args.words_per_minute),
        split=args.split or ("official" if corpus.has_official_split else "hash"),
        dev_share=args.dev_share,
        examples=args.examples,
    )
    beam = Beam(args.beam_runner, tuple(args.beam_option)) if args.beam_runner else None
    report = prepare(config, args.target, workers=args.workers, beam=beam, overwrite=args.overwrite)
    print("\n".join([*lines(report), f"{args.target}: the dataset and its report.json"]))
    return 0


def _name(target: Path) -> str:
    """A dataset name made from the name of its directory."""
    name = re.sub(r"[^a-z0-9]+", "_", target.resolve().name.lower()).strip("_")
    return name if name[:1].isalpha() else f"speech_{name}".rstrip("_")

"""`zipvoice-jax align`: learns when the tokens of a prepared dataset are spoken."""

import argparse
from pathlib import Path

from zipvoice_jax.core.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `align` command."""
    parser = subparsers.add_parser(
        "align",
        help="learn when the tokens of a prepared dataset are spoken",
        description="Trains a small network on a prepared dataset, of any tokenizer and language, "
        "and writes where each token begins beside the records, as alignment-SPLIT.npz. A run "
        "that was stopped goes on when it is started again.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="a prepared dataset")
    add("--tokens", type=Path, metavar="FILE", help="token table (default: the data's own tokens)")
    add(
        "--split", nargs="+", default=[], metavar="NAME",
        help="splits whose alignments to write (default: all)",
    )  # fmt: skip
    add("--steps", type=int, default=400, metavar="N", help="training steps (default: 400)")
    add("--seed", type=int, default=0, help="of the training (default: 0)")
    add("--plot", type=Path, metavar="FILE", help="a picture (PNG) of some alignments")
    add(
        "--compare", action="store_true",
        help="report the error against the alignments that the records carry",
    )  # fmt: skip
    add("--overwrite", action="store_true", help="learn again, and replace what was learned")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax align`.

    Raises:
        UserError: an option or the dataset cannot be used, or a file not be written.
    """
    from zipvoice_jax.align.config import AlignConfig
    from zipvoice_jax.align.run import align
    from zipvoice_jax.core.outputs import check_file, check_folder
    from zipvoice_jax.text.tokens import TokenTable

    if args.plot is not None and args.plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {args.plot} is no name of a picture; let it end in .png.")
    check_file(args.plot)
    if args.data.is_dir():  # else `align` reports the missing dataset
        check_folder(args.data)
    config = AlignConfig(steps=args.steps, seed=args.seed)
    table = None if args.tokens is None else TokenTable.load(args.tokens)
    splits = align(args.data, config, splits=args.split, table=table, overwrite=args.overwrite)
    if args.compare:
        from zipvoice_jax.align.compare import compare

        print(compare(args.data, splits).line())
    if args.plot is not None:
        from zipvoice_jax.align.plot import plot_alignments

        plot_alignments(args.data, splits, args.plot)
        print(args.plot)
    return 0

"""`zipvoice-jax ablate`: trains, speaks and judges the variants of a config, into one table."""

import argparse
from pathlib import Path

from zipvoice_jax.cli.options import add_config
from zipvoice_jax.core.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `ablate` command."""
    parser = subparsers.add_parser(
        "ablate",
        help="train variants of a config and compare what they say",
        description="Trains each row of an ablation with each seed, has it speak the test list, "
        "judges that, and writes one table with intervals, a picture and the commands. Running "
        "again does what is missing.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="of the config's get_ablations, such as turns")
    add_config(parser)
    add("--test-list", type=Path, required=True, metavar="FILE", help="as of `generate`")
    add("--to", type=Path, required=True, metavar="DIR", help="folder of everything")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    add("--jobs", type=int, default=1, metavar="N", help="commands at a time (default: 1)")
    add("--vocoder-path", metavar="DIR", help="as of `generate`")
    add("--recogniser", default="whisper-tiny", metavar="NAME", help="as of `evaluate`")
    add("--language", default="en", help="as of `evaluate` (default: en)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax ablate`.

    Raises:
        UserError: the config or an option cannot be used, or a command failed.
    """
    from zipvoice_jax.bench.ablation import Setup, read_ablations, run_ablation

    ablations = read_ablations(args.config)
    if args.name not in ablations:
        raise UserError(
            f"{args.config} has no ablation {args.name}; it has {', '.join(ablations)}."
        )
    if len(set(args.seeds)) != len(args.seeds) or args.jobs < 1:
        raise UserError("--seeds must differ, and --jobs be 1 or more.")
    if not args.test_list.is_file():
        raise UserError(f"the list {args.test_list} does not exist.")
    vocoder = ("--vocoder-path", args.vocoder_path) if args.vocoder_path else ()
    setup = Setup(
        config=args.config,
        settings=tuple(args.settings),
        test_list=args.test_list,
        seeds=tuple(args.seeds),
        generate=vocoder,
        evaluate=("--recogniser", args.recogniser, "--language", args.language),
        to=args.to,
    )
    print(run_ablation(ablations[args.name], setup, jobs=args.jobs))
    print(f"{args.to}: table.txt, table.json, table.png, commands.sh")
    return 0

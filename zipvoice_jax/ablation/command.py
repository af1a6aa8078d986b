"""`zipvoice-jax ablate`: trains, speaks and judges variants of a config, and tabulates them."""

import argparse
import functools
import sys
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.options import add_config


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `ablate` command."""
    from zipvoice_jax.judge.config import JUDGES, ROLES
    from zipvoice_jax.judge.words import LANGUAGES

    parser = subparsers.add_parser(
        "ablate",
        help="train variants of a config and compare what they say",
        description="Trains each row of an ablation with each seed, has it speak the test list, "
        "judges the speech, and writes one table with intervals, a picture and the commands. "
        "Another run only does what is missing or was made from other inputs.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="of the config's get_ablations, such as turns")
    add_config(parser)
    add("--test-list", type=Path, required=True, metavar="FILE", help="as for `generate`")
    add("--to", type=Path, required=True, metavar="DIR", help="folder for all output")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    add("--jobs", type=int, default=1, metavar="N",
        help="commands at a time, each on an accelerator of its own, or with its share of the "
        "cores (default: 1, with all of them)")  # fmt: skip
    add("--per-gpu", type=int, default=1, metavar="N",
        help="commands of --jobs that may share a GPU (default: 1)")  # fmt: skip
    add("--so-far", action="store_true",
        help="train and speak nothing more: judge and tabulate what the rows have spoken until "
        "now, by the items that all of them have")  # fmt: skip
    add("--vocoder-path", metavar="DIR", help="as for `generate`")
    add("--language", choices=LANGUAGES, default="en", help="of the speech (default: en)")
    add("--judges", choices=JUDGES, default="offline", help="as for `evaluate` (default: offline)")
    for name in ROLES:
        add(f"--{name.replace('_', '-')}", metavar="NAME", help="instead, as for `evaluate`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax ablate`.

    Raises:
        UserError: the config, the list, a judge or an option cannot be used, or a command failed.
    """
    import jax

    from zipvoice_jax.ablation.study import Setup, read_ablations, run_ablation
    from zipvoice_jax.core.outputs import check_folder
    from zipvoice_jax.infer.requests import Request, read_requests
    from zipvoice_jax.judge.config import ROLES, JudgeConfig
    from zipvoice_jax.judge.judge import Judge, is_dialogue
    from zipvoice_jax.train.load import load_config
    from zipvoice_jax.vocoder.find import choose_vocoder, find_vocoder

    check_folder(args.to)
    ablations = read_ablations(args.config)
    if args.name not in ablations:
        raise UserError(
            f"{args.config} has no ablation {args.name}; it has {', '.join(ablations)}."
        )
    ablation = ablations[args.name]
    if len(set(args.seeds)) != len(args.seeds) or args.jobs < 1 or args.per_gpu < 1:
        raise UserError("--seeds must differ, and --jobs and --per-gpu be 1 or more.")
    # The commands need the accelerators, so this process must not hold any.
    jax.config.update("jax_platforms", "cpu")
    items = [request for request in read_requests(args.test_list) if isinstance(request, Request)]
    chosen = {name: value for name in ROLES if (value := getattr(args, name)) is not None}
    config = JudgeConfig.by_name(
        args.judges, args.language, dialogue=any(map(is_dialogue, items)), metrics=ablation.metrics,
        **chosen,
    )  # fmt: skip
    # Also shows before any training that the weights are there.
    judge = Judge.open(config).describe()
    load = functools.partial(load_config, args.config)
    # Chosen once, for all rows: what is there may change between their commands.
    vocoder, note = choose_vocoder(args.vocoder_path)
    if note:
        print(f"note: {note}", file=sys.stderr)
    find_vocoder(vocoder, load(args.settings).features)
    options = {"judges": args.judges, "language": args.language, **chosen}
    setup = Setup(
        config=args.config,
        settings=tuple(args.settings),
        test_list=args.test_list,
        seeds=tuple(args.seeds),
        generate=("--vocoder-path", vocoder),
        evaluate=tuple(
            word
            for name, value in options.items()
            for word in (f"--{name.replace('_', '-')}", value)
        ),
        judge=judge,
        to=args.to,
    )
    table = run_ablation(
        ablation, setup, load, jobs=args.jobs, per_gpu=args.per_gpu, so_far=args.so_far
    )
    print(table)
    print(f"{args.to}: table.txt, table.json, table.png{'' if args.so_far else ', commands.sh'}")
    return 0

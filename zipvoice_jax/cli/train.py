"""`zipvoice-jax train`: runs or resumes the training that a config file describes."""

import argparse
import sys
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.supervise import STOPPED
from zipvoice_jax.options import (
    add_config,
    add_fsdp,
    add_idle,
    add_processes,
    tell_idle,
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `train` command."""
    parser = subparsers.add_parser(
        "train",
        help="train a model through the stages of a config",
        description="Trains through the stages of a config file, such as configs/tiny.py. The "
        "same command goes on where an earlier one stopped. On SIGTERM it saves and exits with "
        f"status {STOPPED}, for a launcher to start it again.",
    )
    add = parser.add_argument
    add_config(parser)
    add("--to", dest="folder", type=Path, metavar="DIR", help="folder of the run")
    add("--allow-config-change", action="store_true", help="resume with another config")
    add(
        "--show-schedule", type=Path, metavar="PNG",
        help="only draw every schedule over the run as a picture",
    )  # fmt: skip
    add("--export", type=Path, metavar="DIR", help="only write the model of a checkpoint")
    add("--step", type=int, metavar="N", help="step of the checkpoint to --export")
    add(
        "--average-since", type=int, metavar="M",
        help="--export the average over the steps after this one",
    )  # fmt: skip
    add("--checkpoints", metavar="DIR", help="where to keep them, also gs://... (default: in --to)")
    add(
        "--listen", type=Path, nargs="+", metavar="LIST",
        help="at each checkpoint, speak items of these lists (as of generate --test-list) and "
        "count the word errors that a recogniser hears",
    )  # fmt: skip
    add(
        "--listen-items",
        type=int,
        default=24,
        metavar="N",
        help="items of either kind (default: 24)",
    )
    add("--recogniser", default="whisper-tiny", help="for --listen (default: whisper-tiny)")
    add_idle(parser, "--model-config")
    add_fsdp(parser)
    add_processes(parser)
    parser.set_defaults(
        run=run,
        memory_advice="raise accumulate, lower batch_seconds or max_seconds, or set remat to dots "
        "or full in the config",
    )


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax train`.

    Raises:
        UserError: the config, the data or the folder cannot be used.
    """
    from zipvoice_jax.checkpoint.loaded import check_new_directory
    from zipvoice_jax.core.outputs import PICTURES, check_file, check_folder
    from zipvoice_jax.train.load import load_config

    if args.export is None and (args.step is not None or args.average_since is not None):
        raise UserError("--step and --average-since say what to export; give --export DIR too.")
    config = load_config(args.config, args.settings)
    tell_idle(args)
    if args.show_schedule is not None:
        check_file(args.show_schedule, PICTURES)
        from zipvoice_jax.train.pictures import show_schedules

        show_schedules(config, args.show_schedule)
        print(f"{args.show_schedule}: the schedules of {', '.join(s.name for s in config.stages)}")
        return 0
    if args.folder is None:
        raise UserError("train has no folder for the run; give --to DIR.")
    check_folder(args.folder)
    if args.export is not None:
        check_new_directory(args.export, overwrite=False)
    from zipvoice_jax.core.processes import sigterm_noted
    from zipvoice_jax.train.export import export_step
    from zipvoice_jax.train.loop import train

    if args.export is not None:
        if args.step is None:
            raise UserError("--export needs the checkpoint; give --step N.")
        export_step(
            config, args.folder, args.step, args.export,
            average_since=args.average_since, checkpoints=args.checkpoints,
        )  # fmt: skip
        print(f"{args.export}: the model of step {args.step}")
        return 0
    listen = None
    if args.listen:
        from zipvoice_jax.judge.word_judge import WordJudge

        listen = WordJudge(args.listen, items=args.listen_items, recogniser=args.recogniser)
    with sigterm_noted() as asked:
        result = train(
            config,
            args.folder,
            stop=asked,
            allow_config_change=args.allow_config_change,
            checkpoints=args.checkpoints,
            fsdp=args.fsdp,
            listen=listen,
        )
    if not result.done:
        print(
            f"{args.folder}: stopped at step {result.step}; the same command goes on",
            file=sys.stderr,
        )
        return STOPPED
    print(f"{result.model}: the trained model, after {result.step} steps")
    return 0

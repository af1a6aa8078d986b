"""`zipvoice-jax compile`: compiles steps ahead of time, for chips that need not be present."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_json
from zipvoice_jax.options import add_config, add_fsdp

if TYPE_CHECKING:
    from zipvoice_jax.train.config import TrainConfig

# For libtpu, which otherwise looks for the chips of a cloud machine, complains that there are none,
# and lets one process compile at a time.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `compile` command."""
    parser = subparsers.add_parser(
        "compile",
        help="compile ahead of time: does it fit, how fast will it be",
        description="Compiles the training and sampling steps of a config for TPUs that need not "
        "be present (or for this machine) and reports for each: memory of a chip, operations, "
        "bytes, collectives, XLA's estimate of its time, the roofline, the predicted time and MFU. "
        "Reads neither data nor weights. Exits with 1 if a case does not fit.",
    )
    add = parser.add_argument
    add_config(parser)
    add(
        "--topology", nargs="+", required=True, metavar="NAME",
        help="v5e:2x4 ... v6e:16x16, v5p:8x8x16, or cpu or gpu for the devices of this machine",
    )  # fmt: skip
    add("--stage", nargs="+", metavar="NAME", help="stages of the config (default: all)")
    add("--program", nargs="+", choices=("train", "sample"), default=["train", "sample"])
    add(
        "--bucket", nargs="+", default=[], metavar="BATCHxFRAMESxTOKENS",
        help="shape of a global batch",
    )  # fmt: skip
    add(
        "--batch-per-chip", type=int, nargs="+", default=[], metavar="N",
        help="a batch that grows with the chips: items of --seconds on each (default: 1, if "
        "neither --bucket nor --step-seconds is given)",
    )  # fmt: skip
    add(
        "--step-seconds", type=float, nargs="+", default=[], metavar="S",
        help="a batch of this much audio, for any number of chips; items are shorter than "
        "--seconds if each chip would get less than one",
    )  # fmt: skip
    add(
        "--seconds", type=float, default=30.0, metavar="S",
        help="length of an item (default: 30); it has 0.18 tokens per frame, rounded up to 64",
    )  # fmt: skip
    add_fsdp(parser)
    add(
        "--parts",
        type=int,
        default=0,
        metavar="N",
        help="report the N costliest parts of the model",
    )
    add("--json", type=Path, metavar="FILE", help="write the rows here, after each")
    add("--plot", type=Path, metavar="PNG", help="draw the scaling of the training steps")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax compile`; 1 if a case does not fit.

    Raises:
        UserError: the config, a topology or a size cannot be used, or a file cannot be written.
    """
    _choose_platform(args.topology)
    from zipvoice_jax.core.outputs import PICTURES, check_file
    from zipvoice_jax.forecast.ahead import Sizes, compile_ahead, plan_cases
    from zipvoice_jax.forecast.report import details, line, plot_scaling, too_much
    from zipvoice_jax.train.load import load_config

    check_file(args.json)
    check_file(args.plot, PICTURES)
    config = load_config(args.config, args.settings)
    per_chip = args.batch_per_chip
    if not (args.bucket or per_chip or args.step_seconds):
        per_chip = [1]
    for name, values in (
        ("--batch-per-chip", per_chip),
        ("--step-seconds", args.step_seconds),
        ("--seconds", [args.seconds]),
    ):
        for value in values:
            if not 0 < value < 1e9:
                raise UserError(f"{name} is {value}; give a number above 0.")
    sizes = Sizes(
        buckets=[_bucket(text) for text in args.bucket],
        batch_per_chip=per_chip,
        step_seconds=args.step_seconds,
        seconds=args.seconds,
    )
    cases = plan_cases(config, args.topology, _stages(config, args.stage), args.program, sizes)
    rows: list[dict[str, Any]] = []
    for row in compile_ahead(config, cases, fsdp=args.fsdp, tell=_tell):
        if not rows:
            print(line(row, header=True))
        rows.append(row)
        print("\n  ".join([line(row), *details(row, args.parts)]), flush=True)
        if args.json is not None:
            write_json(
                args.json, {"config": str(args.config), "settings": args.settings, "rows": rows}
            )
    if args.plot is not None:
        plot_scaling(rows, args.plot)
        print(f"{args.plot}: the picture")
    bad = [(case, row) for case, row in zip(cases, rows, strict=True) if not row["fits"]]
    if bad:
        case, row = bad[0]
        raise UserError(
            f"{len(bad)} of {len(rows)} cases do not fit; {case.name_in(config)}: {too_much(row)}."
        )
    return 0


def _choose_platform(topologies: list[str]) -> None:
    """Keeps JAX off chips that are only compiled for; call it before JAX's backends start."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "gpu" not in topologies:
        import jax

        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")  # JAX may have read the variable before


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _stages(config: "TrainConfig", names: list[str] | None) -> list[int]:
    known = [stage.name for stage in config.stages]
    for name in names or ():
        if name not in known:
            raise UserError(f"there is no stage {name!r}; the config has {', '.join(known)}.")
    return [known.index(name) for name in names or known]


def _bucket(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"\d{1,9}x\d{1,9}x\d{1,9}", text):
        raise UserError(f"the bucket {text!r} is not BATCHxFRAMESxTOKENS, such as 16x1024x192.")
    batch, frames, tokens = map(int, text.split("x"))
    return batch, frames, tokens

"""`zipvoice-jax bench schedules`: the error of fewer sampling steps, by schedule."""

import argparse
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_json
from zipvoice_jax.core.numbers import check_number
from zipvoice_jax.core.outputs import check_file
from zipvoice_jax.options import add_model


def add_parser(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `schedules` to the kinds of `bench`."""
    parser = kinds.add_parser(
        "schedules",
        help="errors of features by schedule and number of steps",
        description="Differences of log-mels from those of many uniform Euler steps, item by item, "
        "from the same noise: relative (2-norm; mean and worst item) and as a root mean square in "
        "nats; on how many items epss errs less than equal steps of the same number; seconds of "
        "the model.",
    )
    add_model(parser, vocoder=False)
    add = parser.add_argument
    add("--test-list", type=Path, required=True, metavar="FILE", help="list, as for generate")
    add("--limit", type=int, default=16, metavar="N",
        help="only the first N items of the list (default: 16)")  # fmt: skip
    add("--steps", type=int, nargs="+", metavar="N",
        help="numbers of steps; epss has some of them (default: 5 6 7 8 10 12 16)")  # fmt: skip
    add("--t-shifts", type=float, nargs="+", default=[], metavar="T",
        help="time shifts to try; the reference has the first (default: 0.5)")  # fmt: skip
    add("--reference-steps", type=int, default=32, metavar="N",
        help="uniform steps to compare with (default: 32)")  # fmt: skip
    add("--guidance-scale", type=float, help="as for generate")
    add("--max-duration", type=float, help="seconds in one batch (default: 100)")
    add("--seed", type=int, help="of the noise (default: 666)")
    add("--json", type=Path, metavar="FILE", help="write the rows, with every item's error, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax bench schedules`.

    Raises:
        UserError: the model, the list, a number or --json cannot be used.
    """
    from zipvoice_jax.bench.generate import machine, table
    from zipvoice_jax.bench.schedules import COLUMNS, STEPS, bench_schedules
    from zipvoice_jax.checkpoint.hub import load_model
    from zipvoice_jax.config import SamplingConfig
    from zipvoice_jax.infer.requests import read_usable

    check_number("--limit", args.limit, 1, 1_000_000, whole=True)
    for count in (args.reference_steps, *(args.steps or ())):
        check_number("a number of steps", count, 1, 1000, whole=True)
    check_file(args.json)
    requests = read_usable(args.test_list, args.limit)
    if args.model_dir is None and args.model_name is None:
        raise UserError("give --model-dir, or --model-name to take a model from the hub.")
    loaded = load_model(
        args.model_name, args.model_dir, checkpoint_name=args.checkpoint_name, dtype=args.dtype
    )
    sampling = SamplingConfig.for_model(
        loaded.config,
        num_step=args.reference_steps,
        guidance_scale=args.guidance_scale,
        t_shift=args.t_shifts[0] if args.t_shifts else None,
        max_duration=args.max_duration,
        seed=args.seed,
    )
    description = (
        f"{machine()}; {loaded.config.kind}, {args.dtype}, {len(requests)} items, guidance "
        f"{sampling.guidance_scale:g}, beside {sampling.num_step} uniform steps with t_shift "
        f"{sampling.t_shift:g}"
    )
    print(description, flush=True)
    rows = []
    for row in bench_schedules(
        loaded, requests, sampling, steps=args.steps or STEPS, t_shifts=args.t_shifts,
        tokenizer=args.tokenizer, lang=args.lang,
    ):  # fmt: skip
        rows.append(row)
        print(table([row], COLUMNS, header=len(rows) == 1), flush=True)
    if args.json is not None:
        write_json(args.json, {"machine": description, "rows": rows})
    return 0

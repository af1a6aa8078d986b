"""`zipvoice-jax bench`: measurements, on this machine and nowhere else."""

import argparse
import json
from pathlib import Path

from zipvoice_jax.cli.options import add_model, add_sampling, sampling_values
from zipvoice_jax.core.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `bench` command."""
    parser = subparsers.add_parser("bench", help="measure speed", description=__doc__)
    kinds = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    generate = kinds.add_parser(
        "generate",
        help="sampling and vocoder by length of speech",
        description="Steady-state seconds, real-time factor, compile seconds, peak memory, and "
        "model FLOP/s as a share of a matrix product measured in the same run.",
    )
    add_model(generate)
    add_sampling(generate)
    generate.add_argument(
        "--lengths",
        type=float,
        nargs="+",
        default=[3.0, 10.0, 30.0, 60.0],
        metavar="SECONDS",
        help="of generated speech (default: 3 10 30 60)",
    )
    generate.add_argument(
        "--prompt-seconds", type=float, default=6.0, help="length of the prompt (default: 6)"
    )
    generate.add_argument("--repeats", type=int, default=3, help="the best counts (default: 3)")
    generate.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    generate.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax bench generate`.

    Raises:
        UserError: the model or a length cannot be used, or --json not be written.
    """
    from zipvoice_jax.bench.generate import bench_generate, machine, table
    from zipvoice_jax.checkpoint.hub import load_model
    from zipvoice_jax.config import SamplingConfig
    from zipvoice_jax.infer import vocoder as vocoders

    loaded = load_model(
        args.model_name, args.model_dir, checkpoint_name=args.checkpoint_name, dtype=args.dtype
    )
    sampling = SamplingConfig.for_kind(loaded.config.kind, **sampling_values(args))
    vocoder, told = vocoders.find(args.vocoder_path, loaded.features)
    about = machine()
    print(f"{about}; {loaded.config.kind}, {args.dtype}, {sampling.num_step} steps")
    if told:
        print(f"note: {told}")
    rows = []
    for row in bench_generate(
        loaded,
        vocoder,
        sampling,
        lengths=args.lengths,
        prompt_seconds=args.prompt_seconds,
        repeats=args.repeats,
    ):
        rows.append(row)
        print(table([row], header=len(rows) == 1), flush=True)
    if args.json is not None:
        text = json.dumps({"machine": about, "rows": rows}, indent=2) + "\n"
        try:
            args.json.write_text(text, encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{args.json} cannot be written ({reason}).") from None
    return 0

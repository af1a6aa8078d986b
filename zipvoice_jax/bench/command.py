"""`zipvoice-jax bench`: measurements on this machine."""

import argparse
import os
import sys
from pathlib import Path

from zipvoice_jax.bench import command_lengths, command_schedules, command_vocoder
from zipvoice_jax.config import MODEL_KINDS
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_json
from zipvoice_jax.core.outputs import check_file
from zipvoice_jax.options import add_model, add_sampling, sampling_values
from zipvoice_jax.text.tokenizer import TOKENIZERS


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `bench` command."""
    parser = subparsers.add_parser("bench", help="measure speed, and lengths", description=__doc__)
    kinds = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    generate = kinds.add_parser(
        "generate",
        help="sampling and vocoder by length of speech",
        description="Steady-state seconds, real-time factor, compile seconds, peak memory, and "
        "model FLOP/s as a share of a matrix product measured in the same run.",
    )
    add_model(generate, text=False)
    add_sampling(generate, text=False)
    generate.add_argument(
        "--lengths",
        type=float,
        nargs="+",
        default=[3.0, 10.0, 30.0, 60.0],
        metavar="SECONDS",
        help="lengths of generated speech (default: 3 10 30 60)",
    )
    generate.add_argument(
        "--prompt-seconds", type=float, default=6.0, help="length of the prompt (default: 6)"
    )
    generate.add_argument("--repeats", type=int, default=3, help="the best counts (default: 3)")
    generate.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    generate.set_defaults(run=run)
    _add_data(kinds)
    _add_train(kinds)
    _add_compare(kinds)
    command_vocoder.add_parser(kinds)
    command_schedules.add_parser(kinds)
    command_lengths.add_parser(kinds)


def _add_data(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    data = kinds.add_parser(
        "data",
        help="loading of a prepared dataset",
        description="Audio seconds per second of one core with and without features, by worker "
        "processes, and the cores that the host of a TPU v5e-8 needs.",
    )
    add = data.add_argument
    add("--data", nargs="+", required=True, metavar="DIR", help="prepared datasets")
    add("--split", default="train", help="of the datasets (default: train)")
    add("--tokens", required=True, metavar="FILE", help="token table of the model")
    add("--tokenizer", choices=TOKENIZERS, help="for records without stored tokens")
    add("--channels", choices=("mono", "stereo", "alternate"), default="mono")
    add("--batch-seconds", type=float, default=120.0, help="in a batch (default: 120)")
    add("--min-seconds", type=float, default=1.0, help="of an utterance (default: 1)")
    add("--max-seconds", type=float, default=30.0, help="of an utterance (default: 30)")
    add("--audio", type=float, default=600.0, help="seconds of audio to time (default: 600)")
    add("--workers", type=int, nargs="*", default=[0, 2], help="processes (default: 0 2)")
    add(
        "--consumption",
        type=float,
        metavar="RATE",
        help="audio seconds per second that a v5e-8 trains on (default: 10000, an assumption: "
        "30 %% of its bfloat16 peak, base model)",
    )
    add("--json", type=Path, metavar="FILE", help="write the rows here too")
    data.set_defaults(run=run_data)


def _add_train(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = kinds.add_parser(
        "train",
        help="a training step: compiling, memory, seconds",
        description="Compile seconds, memory by remat policy, and seconds of a training step of "
        "the base model with random weights, on a batch without padding.",
    )
    add = train.add_argument
    add("--kind", choices=MODEL_KINDS, default="zipvoice_dialog")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    add("--frames", type=int, default=1024, help="of each item (default: 1024, 10.9 s)")
    add("--tokens", type=int, default=192, help="of each item (default: 192)")
    add("--batch", type=int, default=4, help="items (default: 4)")
    add("--remat", nargs="+", choices=("none", "dots", "full"), default=["none", "dots", "full"])
    add("--repeats", type=int, default=1, help="timed steps, 0 only compiles (default: 1)")
    add("--json", type=Path, metavar="FILE", help="write the rows here too")
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax bench train`.

    Raises:
        UserError: a number cannot be used, or --json cannot be written.
    """
    from zipvoice_jax.bench.generate import machine, table
    from zipvoice_jax.bench.train import COLUMNS, bench_train
    from zipvoice_jax.config import ModelConfig

    check_file(args.json)
    description = machine()
    print(f"{description}; {args.kind}, base size")
    rows = []
    for row in bench_train(
        ModelConfig(kind=args.kind, dtype=args.dtype),
        frames=args.frames,
        tokens=args.tokens,
        batch=args.batch,
        remats=args.remat,
        repeats=args.repeats,
    ):
        rows.append(row)
        print(table([row], COLUMNS, header=len(rows) == 1), flush=True)
    if args.json is not None:
        # What was only compiled has no times, for which JSON knows no NaN.
        timed = [{k: None if v != v else v for k, v in row.items()} for row in rows]
        write_json(args.json, {"machine": description, "rows": timed})
    return 0


def _add_compare(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    compare = kinds.add_parser(
        "compare",
        help="sampling beside autoregressive models of dialogue",
        description="Time per second of audio of our models, and of Dia and of a language model of "
        "MoonCast's size in PyTorch, all with random weights, in turn on this machine.",
    )
    add = compare.add_argument
    add(
        "--tokens", type=Path, required=True, metavar="FILE", help="token table of a dialogue model"
    )
    add("--torch-python", type=Path, default=Path(sys.executable), metavar="PYTHON",
        help="a Python with torch and transformers (default: this one)")  # fmt: skip
    add("--torch-device", metavar="NAME", help="such as cuda:1 (default: where JAX runs)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--seconds", type=float, default=10.0, help="of speech (default: 10)")
    add("--steps", type=int, default=24, help="tokens that the others are timed on (default: 24)")
    add("--repeats", type=int, default=1, help="runs of each; the best counts (default: 1)")
    add("--layers", type=int, metavar="N", help="of every stack, for a quick look")
    add("--json", type=Path, metavar="FILE", help="write the rows here too")
    compare.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax bench compare`.

    Raises:
        UserError: a model cannot be run, or --json cannot be written.
    """
    from zipvoice_jax.bench.compare import (
        COLUMNS,
        PEERS,
        base_model,
        notes,
        ours,
        peer,
        torch_device,
        with_times,
    )
    from zipvoice_jax.bench.generate import machine, table
    from zipvoice_jax.text.tokens import TokenTable

    # Before JAX starts: the others need the memory of the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    check_file(args.json)
    for name, low in (("steps", 8), ("repeats", 1), ("seconds", 1), ("layers", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise UserError(f"--{name} is {value}; give {low} or more.")
    tokens, device = TokenTable.load(args.tokens), torch_device(args.torch_device)
    description = f"{machine()}; {args.dtype}, {args.seconds:g} s of speech"
    print(description)
    rows = list(
        ours(
            tokens, base_model(args.dtype, args.layers), seconds=args.seconds,
            repeats=args.repeats, layers=args.layers,
        )
    )  # fmt: skip
    for name in PEERS:
        rows.append(
            peer(
                name, args.torch_python, device=device, dtype=args.dtype, steps=args.steps,
                repeats=args.repeats, layers=args.layers,
            )
        )  # fmt: skip
    rows, remarks = with_times(rows), notes(args.layers)
    print(table(rows, COLUMNS))
    for note in remarks:
        print(note)
    if args.json is not None:
        write_json(args.json, {"machine": description, "notes": remarks, "rows": rows})
    return 0


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax bench generate`.

    Raises:
        UserError: the model or a length cannot be used, or --json cannot be written.
    """
    from zipvoice_jax.bench.generate import bench_generate, machine, table
    from zipvoice_jax.checkpoint.hub import load_model
    from zipvoice_jax.config import SamplingConfig
    from zipvoice_jax.vocoder.find import find_vocoder

    check_file(args.json)
    loaded = load_model(
        args.model_name, args.model_dir, checkpoint_name=args.checkpoint_name, dtype=args.dtype
    )
    sampling = SamplingConfig.for_model(loaded.config, **sampling_values(args))
    vocoder, note = find_vocoder(args.vocoder_path, loaded.features)
    description = machine()
    print(f"{description}; {loaded.config.kind}, {args.dtype}, {sampling.steps_in_words}")
    if note:
        print(f"note: {note}")
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
        write_json(args.json, {"machine": description, "rows": rows})
    return 0


def run_data(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax bench data`.

    Raises:
        UserError: a dataset, the token table, a number or --json cannot be used.
    """
    from zipvoice_jax.bench.data import V5E8_AUDIO_SECONDS, bench_data, cores_needed, table_of
    from zipvoice_jax.bench.generate import machine
    from zipvoice_jax.config import FeatureConfig
    from zipvoice_jax.data.config import DataConfig, SourceConfig
    from zipvoice_jax.text.tokens import TokenTable

    check_file(args.json)
    consumption = V5E8_AUDIO_SECONDS if args.consumption is None else args.consumption
    if not 0.0 < consumption < float("inf"):
        raise UserError(f"--consumption is {consumption}; give audio seconds per second above 0.")
    config = DataConfig(
        sources=tuple(SourceConfig(path, args.split) for path in args.data),
        batch_seconds=args.batch_seconds,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        channels=args.channels,
        tokenizer=args.tokenizer,
    )
    description = machine()
    print(description)
    rows = []
    for row in bench_data(
        config,
        TokenTable.load(args.tokens),
        FeatureConfig(),
        audio_seconds=args.audio,
        workers=args.workers,
    ):
        rows.append(row)
        print(table_of([row], header=len(rows) == 1), flush=True)
    cores = cores_needed(rows, consumption)
    needed = ", ".join(f"{count} cores {name}" for name, count in cores.items())
    print(f"a v5e-8 that trains on {consumption:g} audio seconds per second needs {needed}")
    report = {"machine": description, "rows": rows, "consumption": consumption, "cores": cores}
    if args.json is not None:
        write_json(args.json, report)
    return 0

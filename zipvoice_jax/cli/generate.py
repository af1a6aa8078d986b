"""`zipvoice-jax generate`: speech for one text, or for a list."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zipvoice_jax.core.compiling import Compilation
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import check_number
from zipvoice_jax.infer.requests import DURATIONS
from zipvoice_jax.options import (
    add_flag,
    add_idle,
    add_model,
    add_processes,
    add_sampling,
    sampling_values,
    tell_idle,
)

if TYPE_CHECKING:
    from zipvoice_jax.infer.synthesizer import Speech


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `generate` command."""
    parser = subparsers.add_parser(
        "generate",
        help="speak a text or a list of texts",
        description="Speaks a text with the voices of its prompts, or a list of texts: TSV "
        "lines `name, transcript, wav, text` or, with a prompt per speaker, `name, transcript 1, "
        "transcript 2, wav 1, wav 2, text`, or JSONL objects with id, text, prompt_text and "
        "prompt_wav, and perhaps speed or duration.",
    )
    add_model(parser)
    add = parser.add_argument
    add(
        "--text",
        help="what to say; a dialogue has [S1], [S2] and so on before its "
        "turns, and [pause 0.5s] is silence",
    )
    add(
        "--prompt-wav", nargs="+", type=Path, metavar="WAV",
        help="a recording, or one per speaker; or files that `zipvoice-jax voice` wrote",
    )  # fmt: skip
    add("--prompt-text", nargs="+", metavar="TEXT", help="what each recording says")
    add(
        "--res-wav-path",
        type=Path,
        default=Path("result.wav"),
        help="file to write (default: result.wav)",
    )
    add("--test-list", type=Path, metavar="FILE", help="list of texts, instead of --text")
    add(
        "--res-dir", type=Path, default=Path("results"), help="folder for a list (default: results)"
    )
    add_sampling(parser)
    add(
        "--min-duration",
        type=float,
        help="least seconds for each chunk of a text, at speed 1 (default: 1.0, or 0.2 if the "
        "model predicts durations)",
    )
    add(
        "--duration",
        type=float,
        metavar="SECONDS",
        help="length of the whole speech, exact to the sample; replaces --speed and "
        "--min-duration, and no silence is cut",
    )
    add_flag(parser, "--remove-long-sil", "shorten long silences within the speech")
    add_flag(parser, "--raw-evaluation", "feed prompts and texts to the model as they are")
    add(
        "--no-text-repair",
        dest="text_repair",
        action="store_false",
        help="tokens exactly as in the official code: markup is spoken, and dates, money and the "
        "like are read as it reads them (docs/text.md); --raw-evaluation implies it",
    )
    add("--subtitles", choices=("srt", "vtt"), help="write who says what, and when, beside waves")
    add(
        "--tracks",
        action="store_true",
        help="for dialogues, each speaker alone too, as name.s1.wav, name.s2.wav and so on",
    )
    add_flag(parser, "--plot", "draw mel, wave and turns beside each wave")
    add_flag(parser, "--overwrite", "generate finished items of a list again")
    add_idle(parser, "--num-thread", "--silence-wav", "--trt-engine-path")
    add_processes(parser)
    parser.set_defaults(
        check=_check,
        run=run,
        memory_advice="lower --max-duration, or shorten the prompt or the text",
    )


def _check(args: argparse.Namespace) -> None:
    from zipvoice_jax.audio.voice import is_voice

    if args.prompt_text is None and args.prompt_wav and all(map(is_voice, args.prompt_wav)):
        args.prompt_text = []
    single = [args.text, args.prompt_wav, args.prompt_text]
    if args.test_list is not None:
        if any(value is not None for value in single):
            raise UserError("give --test-list, or --text with --prompt-wav and --prompt-text.")
    elif any(value is None for value in single):
        raise UserError("give --text, --prompt-wav and --prompt-text, or a --test-list.")
    if args.test_list is None and (args.num_processes or 1) > 1:
        raise UserError("--num-processes shares out a list; give --test-list.")
    if args.subtitles is not None and args.remove_long_sil:
        raise UserError("--subtitles needs the times of turns, which --remove-long-sil changes.")
    if args.tracks and args.remove_long_sil:
        raise UserError("--tracks needs the times of turns, which --remove-long-sil changes.")
    if args.duration is not None:
        check_number("--duration", args.duration, *DURATIONS)
        if args.remove_long_sil:
            raise UserError("--duration sets the length, which --remove-long-sil changes.")
    if args.raw_evaluation and args.remove_long_sil:
        raise UserError("--raw-evaluation cuts no silence; leave --remove-long-sil out.")
    if args.model_dir is None and args.model_name is None:
        raise UserError("give --model-dir, or --model-name to take a model from the hub.")


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax generate`; 1 if an item failed.

    Raises:
        UserError: the model, the list or the one text cannot be used.
    """
    import jax

    from zipvoice_jax.checkpoint.hub import find_model, load_model, may_be_dialog
    from zipvoice_jax.config import SamplingConfig
    from zipvoice_jax.core.outputs import check_folder
    from zipvoice_jax.core.processes import alone_on_lead, is_lead
    from zipvoice_jax.infer.requests import read_requests
    from zipvoice_jax.infer.run import RunOptions, request_digest, run_list, stamps_of
    from zipvoice_jax.infer.synthesizer import Synthesizer
    from zipvoice_jax.vocoder.find import find_vocoder

    # What costs nothing to check comes before what takes time to load.
    if args.test_list is None:
        requests = []
        _check_one(args)
    else:
        check_folder(args.res_dir)
        requests = read_requests(args.test_list)
    tell_idle(args)
    if args.tracks:
        _check_dialog(may_be_dialog(args.model_name, None))
    model_dir = find_model(args.model_name, args.model_dir)
    if args.tracks:
        _check_dialog(may_be_dialog(args.model_name, model_dir))
    loaded = load_model(
        args.model_name, model_dir, checkpoint_name=args.checkpoint_name, dtype=args.dtype
    )
    if args.tracks:
        _check_dialog(loaded.config.is_dialog)
    sampling = SamplingConfig.for_model(loaded.config, **sampling_values(args))
    vocoder, notice = find_vocoder(args.vocoder_path, loaded.features)
    if notice:
        print(f"note: {notice}", file=sys.stderr)
    synthesizer = Synthesizer(loaded, vocoder=vocoder, tokenizer=args.tokenizer, lang=args.lang)
    devices = synthesizer.engine.devices
    say = functools.partial(print, file=sys.stderr)
    if not is_lead():
        say = functools.partial(print, f"process {jax.process_index()}:", file=sys.stderr)
    say(
        f"{loaded.config.kind} on {len(devices)} {devices[0].platform} device(s), "
        f"{loaded.config.dtype}, {sampling.steps_in_words}, guidance "
        f"{sampling.guidance_scale:g}, vocoder {vocoder.name}"
    )
    if args.test_list is None:
        speech = synthesizer.generate(
            args.text,
            prompt_wav=args.prompt_wav,
            prompt_text=args.prompt_text,
            item_id=args.res_wav_path.stem,
            min_duration=args.min_duration,
            duration=args.duration,
            raw_evaluation=args.raw_evaluation,
            text_repair=args.text_repair,
            remove_long_sil=args.remove_long_sil,
            **sampling_values(args),
        )
        _write(speech, args)
        _tell_compilations(synthesizer.compilations)
        return 0
    options = RunOptions(
        min_duration=args.min_duration,
        duration=args.duration,
        raw_evaluation=args.raw_evaluation,
        text_repair=args.text_repair,
        remove_long_sil=args.remove_long_sil,
        plot=args.plot,
        subtitles=args.subtitles,
        tracks=args.tracks,
        overwrite=args.overwrite,
    )
    model_id = request_digest(
        args.model_name, stamps_of(model_dir), args.checkpoint_name, args.tokenizer, args.lang
    )
    busy = f"another process speaks into {args.res_dir}; wait for it, or give another --res-dir."
    with alone_on_lead(args.res_dir / ".lock", busy):
        totals = run_list(synthesizer, requests, args.res_dir, sampling, options, model_id, say)
    spent = totals.model_seconds + totals.vocoder_seconds
    if is_lead():
        print(
            f"{args.res_dir}: {totals.done} done, {totals.skipped} skipped, {totals.failed} "
            f"failed; {totals.wave_seconds:.1f} s of speech in {spent:.1f} s (RTF "
            f"{totals.rtf:.3f}, without vocoder {totals.rtf_no_vocoder:.3f})"
        )
    _tell_compilations(synthesizer.compilations)
    return 1 if totals.failed else 0


def _check_one(args: argparse.Namespace) -> None:
    """Checks one text, its prompts' names and that all of its files can be written."""
    from zipvoice_jax.audio.io import EXTENSIONS
    from zipvoice_jax.core.outputs import check_apart, check_file, file_ids
    from zipvoice_jax.infer.requests import Request
    from zipvoice_jax.infer.tracks import speakers_of, track_paths
    from zipvoice_jax.infer.voice_requests import transcripts_for

    transcripts = transcripts_for(args.prompt_wav, args.prompt_text)
    Request(args.res_wav_path.stem, args.text, transcripts, tuple(args.prompt_wav))
    check_file(args.res_wav_path, EXTENSIONS)
    beside = [args.res_wav_path.with_suffix(".png")] if args.plot else []
    if args.subtitles is not None:
        beside.append(args.res_wav_path.with_suffix(f".{args.subtitles}"))
    if args.tracks:
        beside += track_paths(args.res_wav_path, speakers_of(args.text))
    for path in beside:
        check_file(path)
    check_apart([args.res_wav_path, *beside], file_ids(args.prompt_wav))


def _write(speech: "Speech", args: argparse.Namespace) -> None:
    """Writes the speech of one text, the wave first, and prints what lies where."""
    from zipvoice_jax.infer.plot import plot_speech
    from zipvoice_jax.infer.run import rescue, write_speech, write_subtitles, write_tracks
    from zipvoice_jax.infer.tracks import track_paths

    try:
        write_speech(speech, args.res_wav_path, with_plot=False)
    except UserError as error:
        raise UserError(f"{error} {rescue(speech, args.res_wav_path)}") from None
    for note in speech.notes:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{args.res_wav_path}: {speech.duration:.2f} s of speech in {speech.seconds:.2f} s "
        f"(RTF {speech.rtf:.3f}, without vocoder {speech.rtf_no_vocoder:.3f})"
    )
    write_subtitles(speech, args.text, args.res_wav_path, args.subtitles)
    if args.subtitles is not None:
        print(f"{args.res_wav_path.with_suffix(f'.{args.subtitles}')}: its subtitles")
    if args.tracks:
        write_tracks(speech, args.res_wav_path)
        tracks = track_paths(args.res_wav_path, speech.speakers)
        print(f"{', '.join(map(str, tracks))}: its speakers")
    if args.plot:
        plot_speech(speech, args.res_wav_path.with_suffix(".png"))
        print(f"{args.res_wav_path.with_suffix('.png')}: its picture")


def _check_dialog(is_dialog: bool) -> None:
    """Refuses --tracks for a model of one speaker."""
    if not is_dialog:
        raise UserError(
            "--tracks has a file for each speaker of a dialogue, and this model has one speaker; "
            "leave it out, or give a zipvoice_dialog or zipvoice_dialog_stereo model."
        )


def _tell_compilations(compilations: Sequence[Compilation]) -> None:
    seconds = sum(compilation.seconds for compilation in compilations)
    if compilations:
        print(f"compiled {len(compilations)} programs in {seconds:.1f} s", file=sys.stderr)

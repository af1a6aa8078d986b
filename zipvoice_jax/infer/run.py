"""Generates a list of requests into a folder, with one or more processes; restartable any time."""

import contextlib
import dataclasses
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.audio.io import write_audio
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import stamp_of, write_text
from zipvoice_jax.core.outputs import check_apart, check_file, file_ids
from zipvoice_jax.core.processes import exchange, is_lead, on_lead
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.core.supervise import beat
from zipvoice_jax.infer.plot import plot_speech
from zipvoice_jax.infer.prepare import Item
from zipvoice_jax.infer.report import Report
from zipvoice_jax.infer.requests import BadLine, Request, wave_path
from zipvoice_jax.infer.subtitles import subtitles
from zipvoice_jax.infer.synthesizer import Speech, Synthesizer
from zipvoice_jax.infer.tracks import speakers_of, track_paths
from zipvoice_jax.text.tokens import quote

# Requests that one process prepares and packs together: enough to fill batches, few enough that
# finished waves appear early. Windows are cut from the whole list, so that neither the number of
# processes nor finished items change which items are batched together.
WINDOW = 32


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a run besides those of sampling."""

    min_duration: float | None = None
    duration: float | int | None = None
    raw_evaluation: bool = False
    text_repair: bool = True
    remove_long_sil: bool = False
    plot: bool = False
    subtitles: str | None = None
    tracks: bool = False
    overwrite: bool = False


@dataclasses.dataclass
class Totals:
    """Counts and seconds of a run."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    wave_seconds: float = 0.0
    model_seconds: float = 0.0
    vocoder_seconds: float = 0.0

    def add(self, speech: Speech) -> None:
        """Counts an item that is done."""
        self.done += 1
        self.wave_seconds += speech.duration
        self.model_seconds += speech.seconds_model
        self.vocoder_seconds += speech.seconds_vocoder

    @property
    def rtf(self) -> float:
        """Seconds spent per second of speech."""
        return (self.model_seconds + self.vocoder_seconds) / max(self.wave_seconds, 1e-9)

    @property
    def rtf_no_vocoder(self) -> float:
        """The same without the vocoder."""
        return self.model_seconds / max(self.wave_seconds, 1e-9)


def request_digest(*parts: Any) -> str:
    """A short hash of what determines a result."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamps_of(model_dir: Path) -> list[Any]:
    """Stamps of the files of a model directory, to detect changes without reading them."""
    return [stamp_of(path) for path in sorted(model_dir.resolve().iterdir()) if path.is_file()]


def _remove_strays(waves: set[Path]) -> None:
    """Removes half-written waves that a killed run left beside the outputs."""
    for folder in {wave.parent for wave in waves}:
        for path in folder.glob(".*.partial"):
            match = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.partial", path.name, re.DOTALL)
            if match and folder / match[1] in waves:
                with contextlib.suppress(OSError):
                    path.unlink()


def write_subtitles(speech: Speech, text: str, path: Path, form: str | None) -> None:
    """Writes the subtitles of a wave beside it; `form` is "srt", "vtt" or None for none."""
    if form is not None:
        write_text(path.with_suffix(f".{form}"), subtitles(text, speech.turns, form))


def write_tracks(speech: Speech, path: Path) -> None:
    """Writes each speaker's track beside the wave."""
    tracks = speech.tracks()
    for track, own in zip(tracks, track_paths(path, len(tracks)), strict=True):
        write_audio(own, track, speech.sampling_rate)


def write_speech(speech: Speech, path: Path, *, with_plot: bool) -> None:
    """Writes a wave and, with `with_plot`, its picture beside it."""
    write_audio(path, speech.wave, speech.sampling_rate)
    if with_plot:
        plot_speech(speech, path.with_suffix(".png"))


def rescue(speech: Speech, path: Path) -> str:
    """Saves speech that could not be written to `path` to a temporary folder; says where."""
    try:
        kept = Path(tempfile.mkdtemp(prefix="zipvoice_jax_")) / path.name
        write_audio(kept, speech.wave, speech.sampling_rate)
    except (OSError, UserError):
        return "There is no room for it in the folder for temporary files either."
    return f"It is kept as {kept}."


def record_of(speech: Speech, path: Path, sampling: SamplingConfig, vocoder: str) -> dict[str, Any]:
    """The report line of a finished item."""
    return {
        "id": speech.item_id,
        "wav": str(path),
        "wav_seconds": round(speech.duration, 4),
        "seconds_model": round(speech.seconds_model, 4),
        "seconds_vocoder": round(speech.seconds_vocoder, 4),
        "rtf": round(speech.rtf, 4),
        "rtf_no_vocoder": round(speech.rtf_no_vocoder, 4),
        "vocoder": vocoder,
        "buckets": [
            {"frames": one.frames, "tokens": one.tokens, "batch": one.batch}
            for one in speech.buckets
        ],
        "seed": sampling.seed,
        "num_step": sampling.num_step,
        "schedule": sampling.schedule,
        "guidance_scale": sampling.guidance_scale,
        "speaker_guidance": sampling.speaker_guidance,
        "voice_matching": sampling.voice_matching,
        "voice_contrast": sampling.voice_contrast,
        "turns": [dataclasses.asdict(turn) for turn in speech.turns],
        "notes": list(speech.notes),
    }


def run_list(
    synthesizer: Synthesizer,
    requests: Sequence[Request | BadLine],
    res_dir: Path,
    sampling: SamplingConfig,
    options: RunOptions,
    model_id: str,
    say: Callable[[str], None],
) -> Totals:
    """Generates a list; a bad line does not affect the others, and finished items are skipped.

    Of n processes, each takes every n-th window of the list; all share one `res_dir`.

    Args:
        synthesizer: the model.
        requests: from `read_requests`.
        res_dir: folder for waves, pictures and report.jsonl.
        sampling: settings of the ODE solver.
        options: settings of the run.
        model_id: identifies the model; items of another model are generated again.
        say: prints a line for the user.

    Returns:
        Totals over all processes.

    Raises:
        UserError: `res_dir` cannot be written.
    """
    index, count = jax.process_index(), jax.process_count()
    report = Report(res_dir, [request.item_id for request in requests], index, count)
    paths = {r.item_id: wave_path(res_dir, r.item_id) for r in requests if isinstance(r, Request)}
    texts = {r.item_id: r.text for r in requests if isinstance(r, Request)}
    its_tracks = {i: track_paths(path, speakers_of(texts[i])) for i, path in paths.items()}
    tracks = {
        t: i for i, paths_of_item in its_tracks.items() for t in paths_of_item if options.tracks
    }
    for name, path in paths.items():
        if path in tracks:
            raise UserError(
                f"the item {quote(name)} would be where a track of {quote(tracks[path])} goes; "
                "rename one of them."
            )

    def begin() -> None:
        _make(res_dir)
        report.gather()  # a kill may have left parts, or half a line at the end
        _remove_strays({*paths.values(), *tracks})

    prompts = file_ids(path for r in requests if isinstance(r, Request) for path in r.prompt_wavs)
    on_lead("report before", begin)
    records = report.read()
    common = request_digest(
        model_id, dataclasses.asdict(sampling), options.min_duration, options.duration,
        options.raw_evaluation, options.text_repair, options.remove_long_sil,
        synthesizer.vocoder.name, synthesizer.vocoder.weights, synthesizer.config.to_dict(),
    )  # fmt: skip
    keys = {}
    for request in requests:
        if isinstance(request, Request):
            stamps = [stamp_of(path) for path in request.prompt_wavs]
            keys[request.item_id] = request_digest(common, dataclasses.asdict(request), stamps)

    suffixes = [".png"] if options.plot else []
    suffixes += [f".{options.subtitles}"] if options.subtitles is not None else []

    def beside(item_id: str) -> set[Path]:
        path = paths[item_id]
        return {path.with_suffix(s) for s in (".png", ".srt", ".vtt")} | set(its_tracks[item_id])

    def outputs(item_id: str) -> set[Path]:
        path = paths[item_id]
        wanted = {path, *(path.with_suffix(suffix) for suffix in suffixes)}
        return wanted | (set(its_tracks[item_id]) if options.tracks else set())

    def finished(request: Request | BadLine) -> bool:
        old = records.get(request.item_id, {})
        if options.overwrite or request.item_id not in keys or "error" in old:
            return False
        its = outputs(request.item_id)
        made = all(one.is_file() for one in its) and not file_ids(its) & prompts
        return made and old.get("key") == keys[request.item_id]

    # Before any process writes, so that all see the same.
    windows = [requests[i : i + WINDOW] for i in range(0, len(requests), WINDOW)][index::count]
    todo = {r.item_id for window in windows for r in window if not finished(r)}
    exchange("begun", None)
    totals = Totals(skipped=sum(len(window) for window in windows) - len(todo))
    if totals.skipped:
        say(f"{totals.skipped} items were finished before and are skipped")
    prepare = synthesizer.preparation(
        sampling,
        min_duration=options.min_duration,
        duration=options.duration,
        raw_evaluation=options.raw_evaluation,
        text_repair=options.text_repair,
    )
    bar = progress_bar(
        total=len(todo), unit="item", file=sys.stderr, mininterval=0.5, dynamic_ncols=True,
        disable=not is_lead(),
    )  # fmt: skip

    def fail(item_id: str, error: str) -> None:
        if item_id not in todo:
            return
        totals.failed += 1
        bar.update()
        bar.clear()
        say(f"{item_id}: {error}")
        with contextlib.suppress(UserError):  # without a record the next run tries it again
            report.add({"id": item_id, "error": error})

    def write(speech: Speech) -> None:
        path = paths[speech.item_id]
        try:
            # Of an older wave, which this folder's report knows; what else lies there is not ours.
            old = beside(speech.item_id) if speech.item_id in records else set()
            for stale in old - {*paths.values()}:
                if not file_ids([stale]) & prompts:
                    with contextlib.suppress(OSError):
                        stale.unlink(missing_ok=True)
            write_speech(speech, path, with_plot=options.plot)
            write_subtitles(speech, texts[speech.item_id], path, options.subtitles)
            if options.tracks:
                write_tracks(speech, path)
            record = record_of(speech, path, sampling, synthesizer.vocoder.name)
            report.add({**record, "key": keys[speech.item_id]})
        except UserError as error:
            fail(speech.item_id, str(error))
            return
        for note in speech.notes:
            bar.clear()
            say(f"{speech.item_id}: note: {note}")
        totals.add(speech)
        bar.set_postfix_str(f"RTF {totals.rtf:.3f}", refresh=False)
        bar.update()

    with bar:
        for window in windows:
            if todo.isdisjoint(request.item_id for request in window):
                continue
            items: list[Item] = []
            for request in window:
                if isinstance(request, BadLine):
                    fail(request.item_id, request.error)
                    continue
                try:
                    if request.item_id in todo:
                        check_file(paths[request.item_id])
                        check_apart(outputs(request.item_id), prompts)
                        if request.duration is not None and options.remove_long_sil:
                            raise UserError(
                                "its duration sets the length, which --remove-long-sil changes; "
                                "give one of them."
                            )
                    items.append(prepare(request))
                except UserError as error:
                    fail(request.item_id, str(error))
            for speech in synthesizer.speak(
                items,
                sampling,
                prepare,
                wanted=todo,
                remove_long_sil=options.remove_long_sil,
                failed=lambda item, error: fail(item.request.item_id, str(error)),
            ):
                write(speech)
                beat()
    shares = exchange("totals", dataclasses.asdict(totals))

    def end() -> None:
        try:
            report.gather()
        except UserError as error:  # the parts remain, and the next run merges them
            say(str(error))

    on_lead("report after", end)
    return Totals(**{name: sum(share[name] for share in shares) for name in shares[0]})


def _make(res_dir: Path) -> None:
    try:
        res_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the folder {res_dir} cannot be made ({reason}); choose a writable place."
        ) from None

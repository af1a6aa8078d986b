"""The Python API, what each option of generation does, and models made by `convert` and `init`."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import numpy as np
import pytest
import soundfile
from generation import (
    DIALOGUE,
    RELEASE,
    TEXT1,
    TEXT2,
    WAV1,
    WAV2,
    command,
    distance,
    made,
    prompt_flags,
    read_report,
    read_wav,
    run_main,
    write_list,
    write_vocos,
)

import zipvoice_jax
from zipvoice_jax.core.compiling import Compilation
from zipvoice_jax.infer import prepare as preparing
from zipvoice_jax.infer.engine import noise_key
from zipvoice_jax.infer.requests import BadLine, Request
from zipvoice_jax.infer.run import RunOptions, run_list, stamps_of
from zipvoice_jax.infer.synthesizer import Synthesizer

SINGLE = dict(prompt_wav=WAV1, prompt_text=TEXT1)
TWO = dict(prompt_wav=[WAV1, str(WAV2)], prompt_text=[TEXT1, TEXT2])
FPS = 24_000 / 256


@pytest.fixture(scope="module")
def single() -> Synthesizer:
    return zipvoice_jax.load(RELEASE / "zipvoice", vocoder_path="griffin-lim")


@pytest.fixture(scope="module")
def dialog() -> Synthesizer:
    return zipvoice_jax.load(RELEASE / "zipvoice_dialog", vocoder_path="griffin-lim")


def test_the_api_gives_what_the_command_gives(dialog: Synthesizer, tmp_path: Path) -> None:
    speech = dialog.generate(DIALOGUE, **TWO, item_id="said", num_step=2, seed=3)
    assert speech.wave.dtype == np.float32 and speech.wave.shape[0] == 1
    assert speech.duration == speech.wave.shape[1] / 24_000
    assert speech.mel.shape[1] == 100
    assert [turn.speaker for turn in speech.turns] == ["S1", "S2"]
    assert speech.turns[0].start >= 0 and speech.turns[-1].end <= speech.duration
    speech.save(tmp_path / "api.wav")
    flags = [*prompt_flags("zipvoice_dialog"), "--text", DIALOGUE, "--seed", "3"]
    # Neither the item's name nor that of the file changes the speech.
    cli = command(RELEASE / "zipvoice_dialog", *flags, "--res-wav-path", tmp_path / "cli.wav")
    made(*cli)
    np.testing.assert_array_equal(read_wav(tmp_path / "api.wav"), read_wav(tmp_path / "cli.wav"))
    again = dialog.generate(DIALOGUE, **TWO, item_id="said", num_step=2, seed=3)
    np.testing.assert_array_equal(again.wave, speech.wave)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(steps=3), "no option steps"),
        (dict(num_step=0), "num_step is 0"),
        (dict(num_step=2.5), "num_step is 2.5"),
        (dict(seed="x"), "seed is 'x'"),
        (dict(speed=float("nan")), "speed is nan"),
        (dict(min_duration=-1.0), "min_duration is -1"),
        (dict(prompt_wav=[WAV1, WAV2]), "2 prompt recordings and 1 transcripts"),
        (dict(prompt_wav=WAV1.parent), "is a directory"),
        (dict(item_id="../x"), "cannot name a file"),
        (dict(raw_evaluation=True, remove_long_sil=True), "cuts no silence"),
        (dict(raw_evaluation=True, min_duration=2.0), "leave min_duration out"),
        (dict(voice_matching=1.0, voice_contrast=0.5), "dialogue in one channel"),
    ],
)
def test_bad_arguments_are_user_errors(
    single: Synthesizer, arguments: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests' type checker would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(zipvoice_jax.UserError, match=said):
        single.generate("Hello.", **{**SINGLE, **arguments})


def test_prompts_are_checked_as_the_model_hears_them(single: Synthesizer, tmp_path: Path) -> None:
    wave, rate = soundfile.read(WAV1, dtype="float32")
    path = tmp_path / "odd.wav"
    prepare = single.preparation(zipvoice_jax.config.SamplingConfig.for_kind("zipvoice"))
    request = Request("a", "Yes.", (TEXT1,), (path,))
    soundfile.write(path, np.stack([wave, -wave], axis=1), rate, subtype="PCM_16")
    with pytest.raises(zipvoice_jax.UserError, match=r"odd\.wav cancel out"):
        prepare(request)
    soundfile.write(path, np.stack([wave, 0 * wave], axis=1), rate, subtype="PCM_16")
    assert prepare(request).notes == ()
    soundfile.write(path, 4.0 * wave / np.abs(wave).max(), rate, subtype="FLOAT")
    assert "4.0 times full scale" in "".join(prepare(request).notes)


def test_noise_depends_on_the_texts_and_the_seed_alone(single: Synthesizer) -> None:
    prepare = single.preparation(zipvoice_jax.config.SamplingConfig.for_kind("zipvoice"))

    def key(name: str, text: str, said: str = TEXT1, seed: int = 0) -> tuple[int, ...]:
        (job,) = prepare(Request(name, text, (said,), (WAV1,))).jobs
        return tuple(jax.random.key_data(noise_key(seed, job)).tolist())

    first = key("a", "Yes.")
    assert first == key("b/c.wav", "Yes.")
    others = {key("a", "No."), key("a", "Yes.", TEXT1 + " Yes."), key("a", "Yes.", seed=1)}
    assert len({first, *others}) == 4


def test_guidance_of_zero_equals_the_limit_of_small_guidance(single: Synthesizer) -> None:
    mels = [
        single.generate("Hello.", **SINGLE, num_step=2, guidance_scale=scale).mel
        for scale in (0.0, 1e-7, 2.0)
    ]
    assert distance(mels[1], mels[0]) < 1e-5 < distance(mels[2], mels[0])


def test_very_short_texts_get_the_duration_floor(single: Synthesizer) -> None:
    def frames(text: str, **settings: float) -> int:
        return single.generate(text, **SINGLE, num_step=2, **settings).mel.shape[0]

    floor = int(np.ceil(FPS))
    assert frames("Yes.") == floor
    assert frames("Yes.", speed=2.0) == int(np.ceil(FPS / 2))
    assert frames("Yes.", min_duration=2.0) == int(np.ceil(2 * FPS))
    bare = frames("Yes.", min_duration=0.0)
    assert 0 < bare < floor
    long = "This sentence is long enough to need no floor at all."
    assert frames(long) == frames(long, min_duration=0.0) > floor
    assert frames(long) / frames(long, speed=2.0) == pytest.approx(2.0, abs=0.02)


def test_raw_evaluation_takes_prompt_and_text_as_they_are(single: Synthesizer) -> None:
    def item(text: str, raw: bool) -> preparing.Item:
        sampling = zipvoice_jax.config.SamplingConfig.for_kind("zipvoice")
        prepare = single.preparation(sampling, raw_evaluation=raw)
        return prepare(Request("a", text, (TEXT1,), (WAV1,)))

    (cooked,), (raw,) = item("Yes", False).jobs, item("Yes", True).jobs
    assert cooked.tokens[-1] == "." and raw.tokens[-1] != "."
    # The recording has 52,004 samples at 16 kHz; without trimming all of them are features.
    assert raw.prompt_features.shape[0] == pytest.approx(52_004 / 16_000 * FPS, abs=1)
    assert cooked.prompt_features.shape[0] != raw.prompt_features.shape[0]
    assert raw.new_frames < cooked.new_frames == int(np.ceil(FPS))
    text = "A sentence of some length. " * 40
    assert len(item(text, False).jobs) > 1 and len(item(text, True).jobs) == 1
    speech = single.generate("Yes", **SINGLE, raw_evaluation=True, num_step=2)
    assert speech.wave.shape[1] == (speech.mel.shape[0] - 1) * 256


def test_long_dialogue_is_cut_at_turns_and_cross_faded(
    dialog: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "DIALOG_CHUNK_SECONDS", 12.0)
    text = "[S1] How are you doing these days? [S2] Quite well, thank you. " * 3
    sampling = zipvoice_jax.config.SamplingConfig.for_kind("zipvoice_dialog", num_step=2)
    prepare = dialog.preparation(sampling)
    item = prepare(Request("long", text, (TEXT1, TEXT2), (WAV1, WAV2)))
    assert len(item.jobs) > 1
    assert [job.chunk for job in item.jobs] == list(range(len(item.jobs)))
    assert all(job.tokens[0] == "[S1]" for job in item.jobs)
    assert sum(job.tokens.count("[S2]") for job in item.jobs) == 3
    speech = dialog.generate(text, **TWO, item_id="long", num_step=2)
    assert len(speech.buckets) == len(item.jobs)
    frames = [job.new_frames for job in item.jobs]
    assert speech.mel.shape[0] == sum(frames)
    overlaps = 0.1 * (len(frames) - 1)
    most = sum(256 * (n - 1) for n in frames) / 24_000 - overlaps
    # Silence at the edges may have been cut off, never more than that.
    assert most - 1.0 < speech.duration <= most + 0.01
    assert [turn.speaker for turn in speech.turns] == ["S1", "S2"] * 3
    for before, after in zip(speech.turns, speech.turns[1:], strict=False):
        assert after.start == pytest.approx(before.end, abs=0.11)


def test_chunks_are_the_same_alone_and_with_other_items(
    single: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "CHUNK_SECONDS", {"zipvoice": 6.0})
    sampling = zipvoice_jax.config.SamplingConfig.for_kind("zipvoice", num_step=2)
    prepare = single.preparation(sampling)
    texts = ["It is late, so let us go home. " * 3, "Yes.", "The rain has stopped at last."]
    items = [prepare(Request(f"i{n}", t, (TEXT1,), (WAV1,))) for n, t in enumerate(texts)]
    assert len(items[0].jobs) > 1
    together = {speech.item_id: speech for speech in single.speak(items, sampling, prepare)}
    (alone,) = single.speak(items[:1], sampling, prepare)
    assert sorted(together) == ["i0", "i1", "i2"]
    assert distance(alone.mel, together["i0"].mel) <= 1e-5


def test_items_appear_while_others_are_still_to_be_sampled(
    single: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = zipvoice_jax.config.SamplingConfig.for_kind("zipvoice", num_step=2)
    prepare = single.preparation(sampling)
    texts = {"short": "Yes.", "long": "It is late, so let us go home. " * 4}
    items = [prepare(Request(n, t, (TEXT1,), (WAV1,))) for n, t in texts.items()]
    batches = 0
    run = single.engine.run

    def counted(*args: Any) -> Iterator[Any]:
        nonlocal batches
        for batch in run(*args):
            batches += 1
            yield batch

    monkeypatch.setattr(single.engine, "run", counted)
    order = [(speech.item_id, batches) for speech in single.speak(items, sampling, prepare)]
    assert order == [("long", 1), ("short", 2)]


def test_compiling_the_vocoder_is_not_counted_as_its_time(
    single: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder = single.vocoder

    class Slow:
        name = "slow"
        weights = ""

        def __init__(self) -> None:
            self.compilations: list[Compilation] = []

        def __call__(self, mels: list[np.ndarray]) -> list[np.ndarray]:
            if not self.compilations:
                time.sleep(1.5)
                self.compilations.append(Compilation("slow", 1.5))
            return vocoder(mels)

    monkeypatch.setattr(single, "vocoder", Slow())
    first = single.generate("Yes.", **SINGLE, num_step=2)
    second = single.generate("Yes.", **SINGLE, num_step=2)
    assert np.array_equal(first.wave, second.wave)
    assert first.seconds_vocoder < 1.5


def test_one_speaker_may_have_two_turns_in_a_row(dialog: Synthesizer) -> None:
    text = "[S2] Hello there. [S2] It is me again. [S1] So it is."
    speech = dialog.generate(text, **TWO, num_step=2)
    assert [turn.speaker for turn in speech.turns] == ["S2", "S1"]


def test_what_is_left_out_is_reported(dialog: Synthesizer, tmp_path: Path) -> None:
    text = "[S1] Hello [laughter] there, мир. [S2] Yes."
    speech = dialog.generate(text, **TWO, num_step=2)
    assert any("'[laughter]'" in note and "does not know" in note for note in speech.notes)
    listed = write_list(tmp_path / "l.tsv", [("a", TEXT1, TEXT2, WAV1, WAV2, text)])
    run = command(RELEASE / "zipvoice_dialog", "--test-list", listed, "--res-dir", tmp_path)
    assert "[laughter]" in made(*run)
    assert read_report(tmp_path)["a"]["notes"] == list(speech.notes)


def test_an_item_without_a_usable_wave_costs_itself_only(
    single: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder = single.vocoder

    class Broken:
        name = "broken"
        weights = ""
        compilations: tuple = ()

        def __call__(self, mels: list[np.ndarray]) -> list[np.ndarray]:
            waves = vocoder(mels)
            return [w * np.nan if len(m) == 188 else w for w, m in zip(waves, mels, strict=True)]

    monkeypatch.setattr(single, "vocoder", Broken())
    sampling = zipvoice_jax.config.SamplingConfig.for_kind("zipvoice", num_step=2)
    slow = single.preparation(sampling, min_duration=2.0)
    quick = single.preparation(sampling)
    bad, good = (p(Request(n, "Yes.", (TEXT1,), (WAV1,))) for n, p in (("b", slow), ("g", quick)))
    failed = []
    speeches = single.speak(
        [bad, good], sampling, quick, failed=lambda item, e: failed.append((item, str(e)))
    )
    assert [speech.item_id for speech in speeches] == ["g"]
    assert [item for item, _ in failed] == [bad] and "NaN" in failed[0][1]
    with pytest.raises(zipvoice_jax.UserError, match="NaN"):
        list(single.speak([bad], sampling, quick))


def test_remove_long_sil_and_target_rms(single: Synthesizer) -> None:
    loud = single.generate("Hello.", **SINGLE, num_step=2, target_rms=0.5)
    soft = single.generate("Hello.", **SINGLE, num_step=2, target_rms=0.0)
    assert distance(loud.mel, soft.mel) > 1e-3
    cut = single.generate("Hello.", **SINGLE, num_step=2, remove_long_sil=True)
    assert cut.wave.size and cut.turns == ()


# --- vocoder and models from other commands --------------------------------------------------


@pytest.mark.parametrize("kind", ["zipvoice", "zipvoice_dialog_stereo"])
def test_vocos_directory(kind: str, tmp_path: Path) -> None:
    vocos = write_vocos(tmp_path / "vocos")
    text = DIALOGUE if "dialog" in kind else "Good morning."
    run = command(RELEASE / kind, *prompt_flags(kind), "--text", text, "--vocoder-path", vocos)
    err = made(*run, "--res-wav-path", tmp_path / "a.wav")
    assert "vocoder vocos" in err and "Griffin-Lim" not in err
    assert "compiled 2 programs" in err
    assert read_wav(tmp_path / "a.wav").shape[0] == (2 if "stereo" in kind else 1)


def test_without_vocos_griffin_lim_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["generate", "--model-dir", RELEASE / "zipvoice", *prompt_flags("zipvoice")]
    out = ["--res-wav-path", tmp_path / "a.wav"]
    err = made(*run, "--text", "Yes.", "--num-step", "2", *out)
    assert "note: no Vocos weights, so Griffin-Lim" in err and "vocoder griffin-lim" in err


# tests/test_checkpoint.py converts all kinds.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zipvoice_distill", "zipvoice_dialog_stereo"])
def test_converted_models_say_the_same(kind: str, tmp_path: Path) -> None:
    text = DIALOGUE if "dialog" in kind else "Good morning."
    waves = []
    for form in ("official", "safetensors", "native", "pt"):
        model = RELEASE / kind
        if form != "official":
            source = tmp_path / "native" if form == "pt" else model
            model = tmp_path / form
            made("convert", "--from", source, "--to", model, "--format", form)
        wav = tmp_path / f"wav_{form}" / "a.wav"
        flags = [*prompt_flags(kind), "--text", text, "--res-wav-path", wav]
        made(*command(model, *flags))
        waves.append(wav.read_bytes())
    assert len(set(waves)) == 1


def test_init_then_generate(tmp_path: Path) -> None:
    model = tmp_path / "model"
    source = RELEASE / "zipvoice_dialog"
    made(
        *("init", "--kind", "zipvoice_dialog", "--tokens", source / "tokens.txt"),
        *("--model-json", source / "model.json", "--to", model, "--format", "pt"),
    )
    assert json.loads((model / "model.json").read_text())["model"]["fm_decoder_dim"] == 32
    run = command(model, *prompt_flags("zipvoice_dialog"), "--text", DIALOGUE)
    made(*run, "--res-wav-path", tmp_path / "a.wav", "--dtype", "bfloat16")
    read_wav(tmp_path / "a.wav")


@pytest.mark.slow
def test_base_size_model_speaks(run_cli, tmp_path: Path) -> None:
    tokens = RELEASE / "zipvoice_dialog" / "tokens.txt"
    model = tmp_path / "base"
    init = ["init", "--kind", "zipvoice_dialog", "--tokens", tokens, "--to", model]
    status, out, err = run_main(*init)
    assert status == 0, err
    assert 120e6 < int(out.split()[2].replace(",", "")) < 126e6, out
    run = command(model, *prompt_flags("zipvoice_dialog"), "--text", "[S1] Yes. [S2] No.")
    done = run_cli(*run, "--res-wav-path", tmp_path / "a.wav", timeout=600)
    assert done.returncode == 0, done.stderr
    read_wav(tmp_path / "a.wav")


def test_bench_prints_a_row_per_length(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    bench = ["bench", "generate", "--model-dir", RELEASE / "zipvoice", "--num-step", 2]
    bench += ["--vocoder-path", "griffin-lim", "--prompt-seconds", 1]
    status, out, err = run_main(*bench, "--lengths", 1, 2, "--repeats", 1, "--json", rows)
    assert status == 0, err
    assert len(out.splitlines()) == 4 and "rtf" in out
    (one, two) = json.loads(rows.read_text())["rows"]
    assert (one["seconds"], two["seconds"]) == (1, 2)
    assert min(one["sample_s"], one["compile_s"], one["TFLOP/s"], one["peak_MiB"]) > 0
    for bad in (["--lengths", "nan"], ["--lengths", "1e9"], ["--repeats", 0]):
        status, _, err = run_main(*bench, *bad)
        assert status == 1 and err.count("error:") == 1, err


def test_other_weights_in_the_same_directory_are_noticed(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"1234")
    before = stamps_of(tmp_path)
    assert stamps_of(tmp_path) == before
    weights.write_bytes(b"12345")
    assert stamps_of(tmp_path) != before


def test_a_report_that_cannot_be_written_ends_no_list(
    single: Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise zipvoice_jax.UserError("report.jsonl cannot be written (No space left on device).")

    monkeypatch.setattr("zipvoice_jax.infer.report.append_record", full)
    sampling = zipvoice_jax.config.SamplingConfig.for_kind("zipvoice", num_step=2)
    requests = [Request("a", "Yes.", (TEXT1,), (WAV1,)), BadLine("line 2", "it is bad.")]
    lines: list[str] = []
    totals = run_list(single, requests, tmp_path, sampling, RunOptions(), "model", lines.append)
    assert (totals.done, totals.failed) == (0, 2) and (tmp_path / "a.wav").is_file()
    assert sorted(line.split(":")[0] for line in lines) == ["a", "line 2"]


def test_half_written_waves_of_a_killed_run_are_removed(
    single: Synthesizer, tmp_path: Path
) -> None:
    stray, foreign = tmp_path / ".a.wav.0123abcd.partial", tmp_path / ".b.wav.0123abcd.partial"
    stray.touch()
    foreign.touch()
    sampling = zipvoice_jax.config.SamplingConfig.for_kind("zipvoice", num_step=2)
    request = Request("a", "Yes.", (TEXT1,), (WAV1,))
    totals = run_list(single, [request], tmp_path, sampling, RunOptions(), "model", print)
    assert (totals.done, totals.failed) == (1, 0) and (tmp_path / "a.wav").is_file()
    assert not stray.exists() and foreign.exists()

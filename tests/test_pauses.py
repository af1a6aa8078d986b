"""Pauses in texts: what is one, exact silence, and what tokens, times and other texts see of it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from complaints import user_error
from fakes import LEVELS, fake_models
from generation import RELEASE, TEXT1, TEXT2, WAV1, WAV2, command, one_line, prompt_flags, run_main

import zipvoice_jax
from zipvoice_jax.audio.ops import (
    close_cut,
    cross_fade_concat,
    leading_silence,
    remove_silence,
)
from zipvoice_jax.config import FeatureConfig, SamplingConfig
from zipvoice_jax.infer import prepare as preparing
from zipvoice_jax.infer.joining import join
from zipvoice_jax.infer.prepare import Item, Job
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.infer.subtitles import subtitles
from zipvoice_jax.infer.synthesizer import Synthesizer
from zipvoice_jax.infer.turns import turns_of
from zipvoice_jax.infer.voices import make_voice
from zipvoice_jax.judge.words import by_speaker, without_tags
from zipvoice_jax.text.pauses import split_pauses, without_pauses

SINGLE: dict[str, Any] = dict(prompt_wav=WAV1, prompt_text=TEXT1)
TWO: dict[str, Any] = dict(prompt_wav=[WAV1, WAV2], prompt_text=[TEXT1, TEXT2])
SENTENCE = "It is late, so let us go home."
FEATURES = FeatureConfig()
RATE = 24_000


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Synthesizer]]:
    kinds = ("zipvoice", "zipvoice_dialog", "zipvoice_dialog_stereo")
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake_models(monkeypatch)
        yield {kind: zipvoice_jax.load(RELEASE / kind) for kind in kinds}


def said(text: str) -> list[tuple[float, str]]:
    passages, ending = split_pauses(text)
    return [*((one.pause, one.text.strip()) for one in passages), (ending, "")]


def silences(wave: np.ndarray) -> list[tuple[int, int]]:
    """Begin and length, in samples, of each run of zeros in all channels."""
    silent = np.concatenate([[False], (wave == 0).all(axis=0), [False]]).astype(int)
    begins, ends = np.flatnonzero(np.diff(silent) == 1), np.flatnonzero(np.diff(silent) == -1)
    return [(int(begin), int(end - begin)) for begin, end in zip(begins, ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "passages"),
    [
        ("A. [pause 0.5s] B.", [(0.0, "A."), (0.5, "B."), (0.0, "")]),
        ("[pause 1s]A[ PAUSE .25 s ] B [pause 500ms]", [(1.0, "A"), (0.25, "B"), (0.5, "")]),
        ("A [pause 1s] [pause 2s]. B", [(0.0, "A."), (3.0, "B"), (0.0, "")]),
        (
            "[S1] A. [pause 1s] B. [pause 2s] [S2] C.",
            [(0.0, "[S1] A."), (1.0, "[S1] B."), (2.0, "[S2] C."), (0.0, "")],
        ),
        ("[S1] A. [S2] [pause 1s] B.", [(0.0, "[S1] A."), (1.0, "[S2]  B."), (0.0, "")]),
    ],
)
def test_texts_are_cut_at_pauses(text: str, passages: list[tuple[float, str]]) -> None:
    assert said(text) == passages


@pytest.mark.parametrize("text", ["A. ", "[S1] A. [S2] [laughter]", "[pause](x.org) A", "[paused]"])
def test_texts_without_pauses_stay_as_they_are(text: str) -> None:
    ((passage,), ending) = split_pauses(text)
    assert (passage.pause, passage.text, ending) == (0.0, text, 0.0)
    assert without_pauses(text) == text


@pytest.mark.parametrize(
    "tag",
    [
        *("[pause]", "[pause 1]", "[pause 1 sec]", "[pause:1s]", "[pause1s]", "[pause 0,5s]"),
        *("[pause -1s]", "[pause 0s]", "[pause 30.1s]", "[pause 31000ms]", "[pause nans]"),
        *("[pause 1s", "【pause 1s】", "[pause 1e1s]", "[pause 20s] [pause 20s]"),
    ],
)
def test_other_forms_and_lengths_are_refused(tag: str) -> None:
    with user_error(tag[:6], "30 s"):
        Request("a", f"A. {tag} B.", (TEXT1,), (WAV1,))


def test_only_what_is_to_be_spoken_has_pauses(models: dict[str, Synthesizer]) -> None:
    with user_error("a prompt transcript of a", "'[pause 1s]'"):
        Request("a", "A.", ("B [pause 1s] C",), (WAV1,))
    with user_error(f"the transcript of {WAV1}", "'[pause]'"):
        make_voice(WAV1, "B [pause] C", RATE)
    with user_error("the text of a is empty"):
        Request("a", " [pause 1s] ", (TEXT1,), (WAV1,))
    with user_error("raw evaluation", "[pause]"):
        models["zipvoice"].generate("A [pause 1s] B", **SINGLE, raw_evaluation=True)
    run = command(RELEASE / "zipvoice", *prompt_flags("zipvoice"), "--text", "A [pause] B")
    status, _, err = run_main(*run)
    one_line(status, err, "'[pause]' is no pause")


def test_tokens_never_see_a_pause(models: dict[str, Synthesizer]) -> None:
    model = models["zipvoice_dialog"]
    prepare = model.preparation(SamplingConfig.for_kind("zipvoice_dialog"))

    def jobs(text: str) -> tuple[Job, ...]:
        item = prepare(Request("a", text, (TEXT1, TEXT2), (WAV1, WAV2)))
        assert item.notes == ()
        return item.jobs

    cut = jobs(f"[S1] {SENTENCE} [pause 1s] and 42 [pause 2s] [S2] {SENTENCE}")
    assert [job.pause for job in cut] == [0.0, 1.0, 2.0]
    whole = [f"[S1] {SENTENCE}", "[S1] and 42.", f"[S2] {SENTENCE}"]
    assert [job.tokens for job in cut] == [jobs(text)[0].tokens for text in whole]
    (going_on, _) = jobs("[S1] Well [pause 1s] let us go.")
    assert going_on.tokens == jobs("[S1] Well,")[0].tokens


def test_turns_without_words_are_reported_by_their_part(models: dict[str, Synthesizer]) -> None:
    with user_error("the text's part 2 '[S2] <xx9>.' has no words"):
        models["zipvoice_dialog"].generate("[S1] Yes. [pause 1s] [S2] <xx9>", **TWO)


@pytest.mark.parametrize("kind", ["zipvoice", "zipvoice_dialog", "zipvoice_dialog_stereo"])
@pytest.mark.parametrize("long", [False, True])
def test_pauses_are_exact_silence(models: dict[str, Synthesizer], kind: str, long: bool) -> None:
    one, two, prompts = ("[S1] ", "[S2] ", TWO) if "dialog" in kind else ("", "", SINGLE)
    text = f"[pause 0.3s] {one}{SENTENCE} [pause 2.5s] {two}{SENTENCE} [pause 500ms]"
    speech = models[kind].generate(text, **prompts, remove_long_sil=long)
    found = silences(speech.wave)
    assert [length for _, length in found] == [7_200, 60_000, 12_000]
    assert speech.wave.shape[0] == len(LEVELS if "stereo" in kind else LEVELS[:1])
    (_, _), (first, _), (last, _) = found
    if long:
        assert speech.turns == ()
        return
    times = [round(RATE * time) for turn in speech.turns for time in (turn.start, turn.end)]
    assert times == pytest.approx([7_200, first, first + 60_000, last], abs=300)


def test_chunks_are_faded_into_each_other_and_not_into_pauses(
    models: dict[str, Synthesizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "CHUNK_SECONDS", {"zipvoice": 8.0})
    text = f"{f'{SENTENCE} ' * 4}[pause 1s] {f'{SENTENCE} ' * 4}"
    speech = models["zipvoice"].generate(text, **SINGLE)
    assert len(speech.buckets) > 3
    ((begin, length),) = silences(speech.wave)
    assert length == RATE
    assert [turn.speaker for turn in speech.turns] == ["", ""]
    assert RATE * speech.turns[1].start == pytest.approx(begin + length)


def test_a_length_holds_pauses_too(models: dict[str, Synthesizer]) -> None:
    text = f"{SENTENCE} [pause 1s] {SENTENCE} [pause 0.5s]"
    speech = models["zipvoice"].generate(text, **SINGLE, duration=5.5)
    assert speech.duration == 5.5
    assert [length for _, length in silences(speech.wave)] == [24_000, 12_000]
    assert speech.turns[0].end == pytest.approx(2.0, abs=0.05)
    with user_error("pauses of result last 1.5 s"):
        models["zipvoice"].generate(text, **SINGLE, duration=1.5)


@pytest.mark.parametrize("remove_long_sil", [False, True])
def test_without_pauses_speech_is_joined_as_ever(remove_long_sil: bool) -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.1, (2, 1, 48_000)).astype(np.float32)
    noise[0, :, :9_000] = noise[1, :, 40_000:] = 0.0
    jobs = [
        Job("a", i, (1, 2), ("[S1]", "a"), np.zeros((1, 100), np.float32), 189) for i in range(2)
    ]
    item = Item(Request("a", "[S1] A", (TEXT1,), (WAV1,)), tuple(jobs), 1.0, ())
    wave, turns = join(item, list(noise), FEATURES, raw=False, remove_long_sil=remove_long_sil)
    joined = cross_fade_concat(list(noise), fade_duration=0.1, sampling_rate=RATE)
    cut = remove_silence(joined, RATE, only_edge=not remove_long_sil)
    np.testing.assert_array_equal(wave, cut)
    trimmed = leading_silence(joined, RATE)
    timed = turns_of(jobs, FEATURES, 0.1, trimmed, wave.shape[1] / RATE)
    assert turns == (() if remove_long_sil else timed) and trimmed > 0.2
    raw, _ = join(item, list(noise), FEATURES, raw=True, remove_long_sil=remove_long_sil)
    np.testing.assert_array_equal(raw, noise[0])


def test_turns_keep_time_over_many_chunks() -> None:
    # 20 chunks of (51 - 1) frames of samples each, that overlap by 0.1 s.
    jobs = [
        Job("a", i, (1, 2), ("[S1]" if i % 2 else "[S2]", "a"), np.zeros((1, 100), np.float32), 52)
        for i in range(20)
    ]
    chunk = 50 * 256
    waves = [np.ones((1, chunk), np.float32)] * 20
    lasting = cross_fade_concat(waves, fade_duration=0.1, sampling_rate=RATE).shape[1] / RATE
    turns = turns_of(jobs, FEATURES, 0.1, 0.0, lasting)
    begins = [i * (chunk / RATE - 0.1) for i in range(20)]
    np.testing.assert_allclose([turn.start for turn in turns], begins, atol=1e-3)
    assert turns[-1].end == pytest.approx(lasting, abs=0.011)


@pytest.mark.parametrize(("hiss", "extra"), [(0.001, 2 * 720), (0.0, 0)])
def test_silence_of_the_model_is_cut_beside_a_pause(hiss: float, extra: int) -> None:
    def job(chunk: int, pause: float) -> Job:
        return Job("a", chunk, (1,), ("a",), np.zeros((1, 100), np.float32), 95, pause=pause)

    quiet = np.concatenate([np.full(6000, hiss), np.full(12_000, 0.5), np.full(6000, hiss)])[None]
    request = Request("a", "A [pause 1s] B", (TEXT1,), (WAV1,))
    item = Item(request, (job(0, 0.0), job(1, 1.0)), 1.0, ())
    wave, turns = join(
        item, [quiet.astype(np.float32)] * 2, FEATURES, raw=False, remove_long_sil=False
    )
    loud = np.flatnonzero(np.abs(wave[0]) > 0.4)
    assert loud[0] == pytest.approx(2400, abs=240), "0.1 s at the edge, as without pauses"
    assert np.abs(wave[0, loud[0] :][:12_000]).min() > 0.0
    ((first, last),) = [(a, b) for a, b in itertools.pairwise(loud) if b > a + 1]
    assert last - first == pytest.approx(RATE + extra, abs=400), "fades count"
    assert turns[1].start - turns[0].end == pytest.approx(1.0)
    cut, _ = close_cut(np.zeros((1, 2400), np.float32), RATE, start=True, end=True)
    assert cut.shape == (1, 0)


def test_subtitles_show_no_pause(models: dict[str, Synthesizer]) -> None:
    text = f"[S1] {SENTENCE} [pause 1s] Yes. [pause 2s] [S2] {SENTENCE}"
    speech = models["zipvoice_dialog"].generate(text, **TWO)
    assert [turn.speaker for turn in speech.turns] == ["S1", "S1", "S2"]
    cues = subtitles(text, speech.turns, "srt").strip().split("\n\n")
    shown = [cue.splitlines()[2] for cue in cues]
    assert shown == [f"S1: {SENTENCE}", "S1: Yes.", f"S2: {SENTENCE}"]
    assert "pause" not in subtitles(text, speech.turns[:1], "srt")
    assert without_tags(text).count("pause") == 0
    assert " ".join(by_speaker(text)["S1"].split()) == f"{SENTENCE} Yes."


def test_a_rule_that_counts_tags_starts_no_passage_with_the_second_speaker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_models(monkeypatch)
    model = zipvoice_jax.load(RELEASE / "zipvoice_dialog", speaker_turns="official")
    with user_error("[S2]", "speaker_turns"):
        model.generate("[S1] Yes. [pause 1s] [S2] No.", **TWO)


def test_a_list_with_a_bad_pause_loses_one_line(tmp_path: Path) -> None:
    from zipvoice_jax.infer.requests import BadLine, read_requests

    rows = [f"{name}\t{TEXT1}\t{WAV1}\t{text}" for name, text in (("a", "A [pause] B"), ("b", "B"))]
    (tmp_path / "l.tsv").write_text("\n".join(rows))
    bad, good = read_requests(tmp_path / "l.tsv")
    assert isinstance(bad, BadLine) and "'[pause]'" in bad.error and isinstance(good, Request)

"""Speech of a given length: shares of its chunks, limits, and what else the length decides."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from complaints import user_error
from fakes import HOP, fake_models
from generation import (
    RELEASE,
    TEXT1,
    WAV1,
    command,
    made,
    one_line,
    prompt_flags,
    read_report,
    read_wav,
    run_main,
    write_list,
)

import zipvoice_jax
from zipvoice_jax.config import FeatureConfig, SamplingConfig
from zipvoice_jax.infer import prepare as preparing
from zipvoice_jax.infer.lengths import shared_frames
from zipvoice_jax.infer.requests import BadLine, Request, read_requests
from zipvoice_jax.infer.synthesizer import Synthesizer

SINGLE: dict[str, Any] = dict(prompt_wav=WAV1, prompt_text=TEXT1)
SENTENCE = "It is late, so let us go home. "


@pytest.fixture(scope="module")
def single() -> Iterator[Synthesizer]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake_models(monkeypatch)
        yield zipvoice_jax.load(RELEASE / "zipvoice")


@pytest.mark.parametrize("seconds", [0.7, 3, 4.321])
@pytest.mark.parametrize("raw", [False, True])
def test_speech_lasts_as_long_as_it_is_told_to(
    single: Synthesizer, seconds: float, raw: bool
) -> None:
    speech = single.generate(SENTENCE, **SINGLE, duration=seconds, raw_evaluation=raw)
    assert speech.wave.shape == (1, round(24_000 * seconds))
    assert (speech.wave > 0).all(), "silence in place of speech"
    assert speech.turns[-1].end == pytest.approx(seconds, abs=0.02)


def test_chunks_share_a_length_by_what_they_would_last(
    single: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "CHUNK_SECONDS", {"zipvoice": 8.0})
    text = f"{SENTENCE * 3}The rain has stopped at last. {SENTENCE}"
    sampling = SamplingConfig.for_kind("zipvoice")
    item = single.preparation(sampling, duration=9.5)(Request("a", text, (TEXT1,), (WAV1,)))
    assert len(item.jobs) > 1
    of_tokens = [job.new_frames / len(job.tokens) for job in item.jobs]
    assert max(of_tokens) < 1.05 * min(of_tokens)
    speech = single.generate(text, **SINGLE, duration=9.5)
    assert speech.wave.shape[1] == 9.5 * 24_000
    assert len(speech.buckets) == len(item.jobs)


def test_frames_are_shared_to_the_last() -> None:
    features = FeatureConfig()
    for samples in (100_000, 123_457, 400_000):
        frames = shared_frames([100, 300, 201], samples, features, joints=2, name="a")
        wave = sum(HOP * (n - 1) for n in frames) - 2 * 2400
        assert samples <= wave < samples + HOP
        assert frames[1] / frames[0] == pytest.approx(3.0, abs=0.05)
        assert frames[2] / frames[0] == pytest.approx(2.01, abs=0.05)


def test_models_of_predicted_durations_take_a_length(single: Synthesizer) -> None:
    prepare = dataclasses.replace(
        single.preparation(SamplingConfig.for_kind("zipvoice"), duration=2.5),
        model=dataclasses.replace(single.config, upsampling="durations"),
        durations=lambda ids: np.linspace(1.0, 9.0, len(ids), dtype=np.float32),
    )
    (job,) = prepare(Request("a", SENTENCE, (TEXT1,), (WAV1,))).jobs
    assert job.durations is not None and len(job.durations) == len(job.tokens)
    assert 60_000 <= HOP * (job.new_frames - 1) < 60_000 + HOP


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 1e9, 0.05, True, "5"])
def test_lengths_that_none_can_be(
    single: Synthesizer, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with user_error(f"duration is {value!r}", "0.1 to 3,600"):
        single.generate("Hello.", **SINGLE, duration=value)


@pytest.mark.parametrize("value", [0.2, 300])
def test_lengths_that_no_text_can_be_spoken_in(single: Synthesizer, value: float) -> None:
    with user_error("said cannot last", "give it 0."):
        single.generate(SENTENCE, **SINGLE, duration=value, item_id="said")
    with user_error("remove_long_sil"):
        single.generate(SENTENCE, **SINGLE, duration=3.0, remove_long_sil=True)


def test_a_length_comes_before_speed_and_floor(single: Synthesizer) -> None:
    plain = single.generate("Yes.", **SINGLE, duration=0.5)
    quick = single.generate("Yes.", **SINGLE, duration=0.5, speed=3.0, min_duration=5.0)
    assert plain.wave.shape == quick.wave.shape == (1, 12_000)
    assert "the duration of 0.5 s takes the place of the speed 3" in quick.notes
    assert not plain.notes


def test_lists_take_a_length_for_all_and_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_models(monkeypatch)
    common = {"prompt_text": TEXT1, "prompt_wav": str(WAV1), "text": SENTENCE}
    rows = [{"id": "a", **common}, {"id": "b", **common, "duration": 4}]
    rows += [{"id": "c", **common, "duration": 1e6}, {"id": "d", **common, "duration": "4"}]
    listed = write_list(tmp_path / "l.jsonl", rows)
    *_, bad, worse = read_requests(listed)
    assert isinstance(bad, BadLine) and "the duration of c is 1000000.0" in bad.error
    assert isinstance(worse, BadLine) and "duration is '4'" in worse.error
    write_list(listed, rows[:2])
    run = command(RELEASE / "zipvoice", "--test-list", listed, "--res-dir", tmp_path)
    made(*run, "--duration", "2.5")
    assert [read_wav(tmp_path / f"{name}.wav").shape[1] for name in "ab"] == [60_000, 96_000]
    assert read_report(tmp_path)["a"]["wav_seconds"] == 2.5
    assert "1 items were finished" not in made(*run, "--duration", "3")
    assert read_wav(tmp_path / "a.wav").shape[1] == 72_000


def test_the_command_refuses_impossible_lengths_before_loading(tmp_path: Path) -> None:
    run = command(tmp_path / "none", *prompt_flags("zipvoice"), "--text", "Yes.")
    for value, said in (("nan", "--duration is nan"), ("2", "--remove-long-sil")):
        status, _, err = run_main(*run, "--duration", value, "--remove-long-sil")
        one_line(status, err, said)

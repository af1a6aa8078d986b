"""Lengths of speech by the ratio of tokens and by predicted durations, beside recordings."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from generation import RELEASE, TEXT1, TEXT2, WAV1, WAV2, run_main

from zipvoice_jax.bench.lengths import lengths, summary
from zipvoice_jax.checkpoint.hub import load_model
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.infer.prepare import Preparation
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.text.tokenizer import make_tokenizer

HOP = 256 / 24_000  # seconds


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    wave, rate = soundfile.read(WAV2)
    soundfile.write(folder / "one.wav", wave, rate)
    return folder


def preparation(*, head: bool) -> Preparation:
    """With a head that takes every token for 5 frames, and the prompt's last for 10 more."""
    loaded = load_model("zipvoice", RELEASE / "zipvoice")
    tokenizer = make_tokenizer("emilia", loaded.table)
    prompt = len(tokenizer.encode(TEXT1).ids)

    def durations(ids: tuple[int, ...]) -> np.ndarray:
        return np.where(np.arange(len(ids)) == prompt - 1, 15.0, 5.0).astype(np.float32)

    return Preparation(
        model=dataclasses.replace(loaded.config, duration_head=head),
        features=loaded.features,
        sampling=SamplingConfig.for_kind("zipvoice"),
        tokenizer=tokenizer,
        raw_evaluation=True,
        durations=durations if head else None,
    )


def test_a_head_tells_the_length_and_nothing_else(truth: Path) -> None:
    prepare = preparation(head=True)
    request = Request("one", TEXT2, (TEXT1,), (WAV1,))
    (job,) = prepare(request).jobs
    tokens = len(job.token_ids) - job.prompt_tokens
    frames = job.prompt_features.shape[0]
    predicted = 5.0 * job.prompt_tokens + 10.0
    assert job.new_frames == math.ceil(frames / predicted * 5.0 * tokens)
    assert job.durations is None  # tokens are looked up by the average rule
    (row,) = lengths(prepare, [request], truth)
    assert row["true"] == pytest.approx(soundfile.info(truth / "one.wav").duration, abs=1e-3)
    assert row["durations"] == pytest.approx(job.new_frames * HOP)
    assert row["tokens"] == pytest.approx(math.ceil(frames / job.prompt_tokens * tokens) * HOP)
    (row,) = lengths(preparation(head=False), [request], truth)
    assert set(row) == {"id", "true", "tokens"}


def test_errors_are_of_the_logarithm() -> None:
    rows = [{"id": str(i), "true": 2.0, "tokens": 2.0 * math.exp(e)} for i, e in enumerate((1, -2))]
    (found,) = summary(rows)
    assert found["rule"] == "tokens" and found["items"] == 2
    assert (found["mean"], found["absolute"]) == (pytest.approx(-0.5), pytest.approx(1.5))
    assert (found["p90"], found["worst"]) == (pytest.approx(1.9), pytest.approx(2.0))


def test_the_command_measures_a_model_without_a_head(truth: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.tsv"
    listed.write_text(f"one\t{TEXT1}\t{WAV1}\t{TEXT2}\n", encoding="utf-8")
    words = ("bench", "lengths", "--model-dir", RELEASE / "zipvoice", "--test-list", listed)
    status, out, err = run_main(*words, "--wav-dir", truth)
    assert status == 0, err
    assert "tokens     1" in out and "predicts no durations" in out
    status, _, err = run_main(*words, "--wav-dir", tmp_path)
    assert status == 1 and "one.wav does not exist" in err and "Traceback" not in err

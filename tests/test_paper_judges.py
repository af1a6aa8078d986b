"""The judges of the paper: WavLM with ECAPA-TDNN and UTMOS equal to the official code, whatever the
padding, and found where they are to be placed.

The golden numbers are of small networks with random weights (tools/make_golden_judges.py).
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from generation import VOICES
from judging import random_weights

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.checkpoint.torch_file import write_torch_file
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.judge.backends import RATE
from zipvoice_jax.judge.config import JudgeConfig
from zipvoice_jax.judge.ecapa import embed, read_ecapa
from zipvoice_jax.judge.layers import Weights, read_weights
from zipvoice_jax.judge.quality import open_quality_predictor
from zipvoice_jax.judge.recognisers import open_recogniser
from zipvoice_jax.judge.speakers import open_speaker_encoder
from zipvoice_jax.judge.utmos import opinion, read_utmos
from zipvoice_jax.judge.wav2vec import distance_classes, padded


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    with np.load(ROOT / "tests" / "golden" / "judges.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def waves(truth: dict[str, Any]) -> list[np.ndarray]:
    wave = read_audio(VOICES[0][0], RATE)[0]
    return [np.asarray(wave[: round(float(s) * RATE)]) for s in truth["seconds"]]


def weights_of(truth: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    return random_weights(json.loads(str(truth[f"{name}_shapes"])))


def test_the_speaker_encoder_computes_what_the_official_one_does(
    truth: dict[str, Any], waves: list[np.ndarray]
) -> None:
    tree = read_ecapa(Weights(weights_of(truth, "ecapa"), "golden"))
    for wave, expected in zip(waves, truth["ecapa_embedding"], strict=True):
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-5)
        one = jax.jit(embed)(tree, *padded(wave))
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)
        longer = np.pad(wave, (0, 2 * RATE)).astype(np.float32)
        other = jax.jit(embed)(tree, longer, jnp.asarray(len(wave)))
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


def test_utmos_computes_what_the_official_one_does(
    truth: dict[str, Any], waves: list[np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "utmos.pt"
    write_torch_file(path, weights_of(truth, "utmos"))
    judge = open_quality_predictor(f"utmos:{path}")
    scores = [judge.score(wave) for wave in waves]
    np.testing.assert_allclose(scores, truth["utmos_score"], atol=1e-4)
    tree = read_utmos(read_weights(path))
    longer = np.pad(waves[1], (0, RATE)).astype(np.float32)
    other = float(jax.jit(opinion)(tree, longer, jnp.asarray(len(waves[1]))))
    assert other == pytest.approx(scores[1], abs=1e-4)


def test_distances_have_the_classes_of_wavlm(truth: dict[str, Any]) -> None:
    np.testing.assert_array_equal(distance_classes(6001, 320), truth["ecapa_distance_classes"])
    inner = distance_classes(50, 320)
    np.testing.assert_array_equal(inner, truth["ecapa_distance_classes"][6000 - 49 : 6000 + 50])


def test_recordings_are_padded_to_few_lengths() -> None:
    rng = np.random.default_rng(0)
    sizes = set()
    for length in (0, 1, 399, *rng.integers(400, 120 * RATE, 200)):
        wave, samples = padded(np.ones(length, np.float32))
        assert len(wave) >= max(length, 400) and int(samples) == max(length, 400)
        assert wave[:length].all() and not wave[length:].any()
        assert len(wave) <= max(1.26 * length, RATE)
        sizes.add(len(wave))
    assert len(sizes) < 25


@pytest.mark.parametrize(
    ("opened", "name", "path"),
    [
        (open_speaker_encoder, "wavlm-ecapa", "speaker_similarity/wavlm_large_finetune.pth"),
        (open_quality_predictor, "utmos", "mos/utmos22_strong_step7459_v1.pt"),
        (open_recogniser, "whisper-d", "wer/whisper-d-v1a"),
        (open_recogniser, "whisper-large-v3", "wer/whisper-large-v3"),
        (open_recogniser, "paraformer", "wer/paraformer-zh"),
    ],
)
def test_what_is_missing_is_reported_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Any, name: str, path: str
) -> None:
    monkeypatch.setenv("ZIPVOICE_JAX_JUDGES", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path / path}; place {path} of"):
        opened(name)


def test_another_file_is_named_with_what_it_lacks(tmp_path: Path, truth: dict[str, Any]) -> None:
    path = tmp_path / "other.pth"
    write_torch_file(path, {"linear.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match="has no weights feature_extractor"):
        open_speaker_encoder(f"wavlm-ecapa:{path}")
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        open_quality_predictor(f"utmos:{path}")


def test_judges_are_chosen_by_name_and_language() -> None:
    alone = JudgeConfig.by_name("paper", "en", dialogue=False)
    assert (alone.recogniser, alone.attribution) == ("whisper-large-v3", "auto")
    paper = JudgeConfig.by_name("paper", "en", dialogue=True)
    assert (paper.recogniser, paper.attribution, paper.normaliser) == (
        "whisper-d", "tags", "official",
    )  # fmt: skip
    own = JudgeConfig.by_name("paper", "zh", dialogue=True, recogniser="whisper-base")
    assert own.recogniser == "whisper-base" and own.speaker_encoder == "wavlm-ecapa"
    for dialogue in (False, True):
        offline = JudgeConfig.by_name("offline", "zh", dialogue=dialogue)
        assert offline.recogniser == "whisper-base"
        assert JudgeConfig.by_name("offline", "en", dialogue=dialogue) == JudgeConfig()
    with pytest.raises(UserError, match="choose offline or paper"):
        JudgeConfig.by_name("mine", "en", dialogue=False)

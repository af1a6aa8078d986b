"""Model and vocoder directories that are broken or mean harm, for test_fuzz.py.

Each case makes a directory and gives the flags that name it, and a word of the error.
"""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from generation import RELEASE, write_vocos

from zipvoice_jax.checkpoint.official import read_state_dict
from zipvoice_jax.checkpoint.torch_file import write_torch_file

SOURCE = RELEASE / "zipvoice"
NOISE = np.random.default_rng(1).bytes(4000)
Make = Callable[[Path], list[str]]
HUGE = 2**40


def copy(folder: Path, *without: str) -> Path:
    model = folder / "model"
    model.mkdir()
    for name in ("model.pt", "model.json", "tokens.txt"):
        if name not in without:
            shutil.copy(SOURCE / name, model)
    return model


def files(**content: bytes | None) -> Make:
    """A model directory with some files replaced (`model_pt=...`), or left out by None."""

    def make(folder: Path) -> list[str]:
        model = copy(folder)
        for key, data in content.items():
            path = model / key.replace("_", ".")
            path.unlink()
            if data is not None:
                path.write_bytes(data)
        return ["--model-dir", str(model)]

    return make


def settings(**changed: Any) -> Make:
    """model.json with changed model settings; "DROP" leaves one out."""

    def make(folder: Path) -> list[str]:
        content = json.loads((SOURCE / "model.json").read_text())
        model = {**content["model"], **changed}
        content["model"] = {k: v for k, v in model.items() if v != "DROP"}
        return files(model_json=json.dumps(content).encode())(folder)

    return make


def feature(**changed: Any) -> Make:
    def make(folder: Path) -> list[str]:
        content = json.loads((SOURCE / "model.json").read_text())
        content["feature"] |= changed
        return files(model_json=json.dumps(content).encode())(folder)

    return make


def named(kind: str, make: Make) -> Make:
    """The same directory, taken for a model of one kind."""
    return lambda folder: [*make(folder), "--model-name", kind]


def tensors(change: Callable[[dict[str, np.ndarray]], Any], *, safe: bool = False) -> Make:
    """Weights after a change of the dict of tensors."""

    def make(folder: Path) -> list[str]:
        model = copy(folder, "model.pt")
        state = read_state_dict(SOURCE / "model.pt")
        change(state)
        if safe:
            safetensors.numpy.save_file(state, model / "model.safetensors")
        else:
            write_torch_file(model / "model.pt", state)
        return ["--model-dir", str(model)]

    return make


def tokens(change: Callable[[list[str]], list[str]]) -> Make:
    lines = (SOURCE / "tokens.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return files(tokens_txt="".join(f"{line}\n" for line in change(lines)).encode())


class Hostile:
    """Runs a command when unpickled by something that executes pickles."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/zipvoice_jax_was_here",)


def archived(pickled: bytes) -> Make:
    def make(folder: Path) -> list[str]:
        model = copy(folder, "model.pt")
        with zipfile.ZipFile(model / "model.pt", "w") as archive:
            archive.writestr("model/data.pkl", pickled)
            archive.writestr("model/version", "3\n")
        return ["--model-dir", str(model)]

    return make


def vocoder(**content: bytes | None) -> Make:
    def make(folder: Path) -> list[str]:
        path = write_vocos(folder / "vocos")
        for key, data in content.items():
            name = {"config": "config.yaml", "weights": "pytorch_model.bin"}[key]
            (path / name).unlink()
            if data is not None:
                (path / name).write_bytes(data)
        return ["--vocoder-path", str(path)]

    return make


def vocoder_yaml(old: str, new: str) -> Make:
    def make(folder: Path) -> list[str]:
        flags = vocoder()(folder)
        path = Path(flags[1]) / "config.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return flags

    return make


def empty(folder: Path) -> list[str]:
    (folder / "model").mkdir()
    return ["--model-dir", str(folder / "model")]


def native(folder: Path) -> list[str]:
    (folder / "model").mkdir()
    (folder / "model" / "zipvoice_jax.json").write_text('{"format": "zipvoice_jax", "version": 1}')
    return ["--model-dir", str(folder / "model")]


WEIGHTS = (SOURCE / "model.pt").read_bytes()
EMBED = "embed.weight"
MODELS: dict[str, tuple[Make, str]] = {
    # directories
    "missing": (lambda d: ["--model-dir", str(d / "none")], "does not exist"),
    "a_file": (lambda d: ["--model-dir", str(SOURCE / "model.pt")], "does not exist"),
    "nul": (lambda d: ["--model-dir", "a\0b"], "does not exist"),
    "empty": (empty, "lacks"),
    "native_without_parts": (native, "lacks"),
    "no_json": (files(model_json=None), "model.json"),
    "no_tokens": (files(tokens_txt=None), "tokens.txt"),
    "no_weights": (files(model_pt=None), "model.pt"),
    # model.json
    "json_empty": (files(model_json=b""), "JSON"),
    "json_noise": (files(model_json=NOISE), "JSON"),
    "json_cut": (files(model_json=b'{"model": {'), "JSON"),
    "json_nested": (files(model_json=b"[" * 200_000), ""),
    "json_list": (files(model_json=b"[]"), "objects"),
    "json_number": (files(model_json=b"1e999"), "objects"),
    "json_without_feature": (files(model_json=b'{"model": {}}'), "objects"),
    "json_unknown_key": (settings(colour=1), "colour"),
    "json_missing_key": (settings(pos_dim="DROP"), "pos_dim"),
    "json_text_for_number": (settings(fm_decoder_dim="32"), "fm_decoder_dim"),
    "json_null": (settings(fm_decoder_dim=None), "fm_decoder_dim"),
    "json_float": (settings(fm_decoder_dim=32.5), "fm_decoder_dim"),
    "json_bool": (settings(pos_dim=True), "pos_dim"),
    "json_object": (settings(pos_dim={}), "pos_dim"),
    "json_list_for_number": (settings(pos_dim=[16]), "pos_dim"),
    "json_number_for_list": (settings(fm_decoder_num_layers=1), "fm_decoder_num_layers"),
    "json_list_of_text": (settings(fm_decoder_num_layers=["1"] * 3), "fm_decoder_num_layers"),
    "json_nested_list": (settings(fm_decoder_num_layers=[[1], 1, 1]), "fm_decoder_num_layers"),
    "json_short_list": (settings(fm_decoder_num_layers=[1, 1]), "fm_decoder_num_layers"),
    "json_empty_list": (settings(fm_decoder_downsampling_factor=[]), "downsampling"),
    "json_factor_3": (settings(fm_decoder_downsampling_factor=[1, 3, 1]), "downsampling"),
    "json_negative": (settings(fm_decoder_dim=-32), "fm_decoder_dim"),
    "json_zero": (settings(query_head_dim=0), "query_head_dim"),
    "json_even_kernel": (settings(text_encoder_cnn_module_kernel=8), "kernel"),
    "json_other_dim": (settings(fm_decoder_dim=64), "fm_decoder"),
    "json_huge_dim": (settings(fm_decoder_dim=HUGE), "fm_decoder"),
    "json_huge_pos_dim": (settings(pos_dim=HUGE), "pos"),
    "json_huge_layers": (settings(text_encoder_num_layers=10**9), "text_encoder"),
    "json_huge_heads": (settings(fm_decoder_num_heads=HUGE), "fm_decoder"),
    "json_other_feat_dim": (settings(feat_dim=80), "model"),
    "feature_type": (feature(type="fbank"), "fbank"),
    "feature_type_list": (feature(type=[]), "type"),
    "feature_rate_text": (feature(sampling_rate="24k"), "sampling_rate"),
    "feature_rate_negative": (feature(sampling_rate=-1), "sampling_rate"),
    "feature_rate_bool": (feature(sampling_rate=True), "sampling_rate"),
    "feature_rate_float": (feature(sampling_rate=24e3), "sampling_rate"),
    "feature_unknown": (feature(loudness=1), "loudness"),
    "feature_rate_huge": (feature(sampling_rate=10**9), "sampling_rate"),
    "feature_n_fft_huge": (feature(n_fft=HUGE), "n_fft"),
    "feature_hop_huge": (feature(hop_length=HUGE), "hop_length"),
    "feature_hop_zero": (feature(hop_length=0), "hop_length"),
    "feature_other_n_mels": (feature(n_mels=80), "n_mels"),
    # tokens.txt
    "tokens_empty": (files(tokens_txt=b""), "empty"),
    "tokens_noise": (files(tokens_txt=NOISE), "tokens.txt"),
    "tokens_utf16": (files(tokens_txt="_\t0\n".encode("utf-16")), "UTF-8"),
    "tokens_short": (tokens(lambda x: x[:-1]), "rows"),
    "tokens_long": (tokens(lambda x: [*x, f"more\t{len(x)}"]), "rows"),
    "tokens_twice": (tokens(lambda x: [*x[:-1], f"_\t{len(x) - 1}"]), "already"),
    "tokens_id_twice": (tokens(lambda x: [*x, "more\t0"]), "already"),
    "tokens_gap": (tokens(lambda x: [*x[:-1], "more\t999"]), "too high"),
    "tokens_no_id": (tokens(lambda x: ["_", *x[1:]]), "column"),
    "tokens_text_id": (tokens(lambda x: ["_\tzero", *x[1:]]), "zero"),
    "tokens_negative_id": (tokens(lambda x: ["_\t-1", *x[1:]]), "-1"),
    "tokens_no_pad": (tokens(lambda x: [y.replace("_\t", "pad\t") for y in x]), "padding"),
    # weights
    "weights_empty": (files(model_pt=b""), "empty"),
    "weights_noise": (files(model_pt=NOISE), "not a torch checkpoint"),
    "weights_cut": (files(model_pt=WEIGHTS[: len(WEIGHTS) // 2]), "damaged"),
    "weights_zip_noise": (files(model_pt=b"PK\x03\x04" + NOISE), "damaged"),
    "weights_lfs": (files(model_pt=b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
    "weights_old": (files(model_pt=bytes.fromhex("80028a0a6cfc9c46f920") + NOISE), "1.6"),
    "weights_bare_pickle": (files(model_pt=pickle.dumps(Hostile())), "not a torch checkpoint"),
    "weights_hostile": (archived(pickle.dumps({"model": Hostile()})), "system"),
    "weights_hostile_0": (archived(pickle.dumps(Hostile(), protocol=0)), "system"),
    "weights_eval": (archived(b"cbuiltins\neval\n(S'1'\ntR."), "eval"),
    "weights_no_tensors": (archived(pickle.dumps({"model": {"a": 1}})), "holds no"),
    "weights_cut_pickle": (archived(b"\x80\x02}"), "damaged"),
    "weights_none": (archived(pickle.dumps(None, protocol=2)), "state_dict"),
    "weights_missing_tensor": (tensors(lambda s: s.pop("fm_decoder.in_proj.bias")), "in_proj.bias"),
    "weights_extra_tensor": (tensors(lambda s: s.update(extra=s[EMBED])), "extra"),
    "weights_other_shape": (tensors(lambda s: s.update({EMBED: s[EMBED][:, :5]})), EMBED),
    "weights_one_dimension": (tensors(lambda s: s.update({EMBED: s[EMBED][0]})), EMBED),
    "weights_integers": (
        tensors(lambda s: s.update({EMBED: s[EMBED].astype(np.int64)})),
        EMBED,
    ),
    "weights_nan": (tensors(lambda s: s.update({EMBED: s[EMBED] * np.nan})), "NaN"),
    "weights_of_distill": (
        named("zipvoice", files(model_pt=(RELEASE / "zipvoice_distill/model.pt").read_bytes())),
        "not of zipvoice",
    ),
    "weights_of_dialog": (
        files(model_pt=(RELEASE / "zipvoice_dialog" / "model.pt").read_bytes()),
        "rows",
    ),
    "safetensors_missing": (
        tensors(lambda s: s.pop("fm_decoder.in_proj.bias"), safe=True),
        "in_proj.bias",
    ),
    # vocoders
    "vocoder_missing": (lambda d: ["--vocoder-path", str(d / "none")], "lacks"),
    "vocoder_file": (lambda d: ["--vocoder-path", str(SOURCE / "model.pt")], "lacks"),
    "vocoder_no_config": (vocoder(config=None), "config.yaml"),
    "vocoder_no_weights": (vocoder(weights=None), "pytorch_model.bin"),
    "vocoder_config_noise": (vocoder(config=NOISE), "config.yaml"),
    "vocoder_config_empty": (vocoder(config=b""), "config.yaml"),
    "vocoder_config_list": (vocoder(config=b"- 1\n"), "config.yaml"),
    "vocoder_config_python": (
        vocoder(config=b"!!python/object/apply:os.system ['true']"),
        "config.yaml",
    ),
    "vocoder_config_nested": (vocoder(config=b"[" * 20_000), ""),
    "vocoder_weights_noise": (vocoder(weights=NOISE), "pytorch_model.bin"),
    "vocoder_weights_of_a_model": (vocoder(weights=WEIGHTS), "vocoder"),
    "vocoder_other_hop": (vocoder_yaml("hop_length: 256", "hop_length: 512"), "512"),
    "vocoder_other_layers": (vocoder_yaml("num_layers: 3", "num_layers: 4"), "convnext.3"),
    "vocoder_huge_layers": (vocoder_yaml("num_layers: 3", "num_layers: 999999999"), "convnext.3"),
    "vocoder_text_dim": (vocoder_yaml("dim: 32", "dim: wide"), "dim"),
    "vocoder_negative": (vocoder_yaml("num_layers: 3", "num_layers: -3"), "num_layers"),
}

"""Checkpoints: official and own formats, growth, the hub and conversion."""

import argparse
import dataclasses
import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from complaints import user_error
from flax.traverse_util import flatten_dict

from zipvoice_jax.checkpoint import growth, hub, mapping, native, official
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.cli import convert
from zipvoice_jax.config import MODEL_KINDS, ModelConfig
from zipvoice_jax.text.tokens import TokenTable

GOLDEN = Path(__file__).parent / "golden"
RELEASE = GOLDEN / "release"


def assert_same(a: Loaded, b: Loaded) -> None:
    left, right = flatten_dict(a.params), flatten_dict(b.params)
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        assert leaf.dtype == right[path].dtype == np.float32
        np.testing.assert_array_equal(leaf, right[path], err_msg="/".join(path))
    assert (a.config, a.features, a.table) == (b.config, b.features, b.table)


def parts(model: Loaded) -> tuple:
    return model.config, model.features, model.table, model.params


@pytest.fixture(scope="module")
def released() -> dict[str, Loaded]:
    return {kind: official.read_official(RELEASE / kind) for kind in MODEL_KINDS}


# --- mapping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_mapping_is_the_official_state_dict(kind: str) -> None:
    settings = json.loads((GOLDEN / f"models/{kind}.config.json").read_text())
    config = ModelConfig.from_model_json(settings.pop("model"), kind=kind, **settings)
    with np.load(GOLDEN / f"models/{kind}.params.npz") as archive:
        state = dict(archive)
    specs = mapping.tensor_specs(config)
    assert [(s.name, s.shape) for s in specs] == [(n, a.shape) for n, a in state.items()]
    params = mapping.from_official(state, config)
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params).items()}
    assert shapes == mapping.param_shapes(config)
    back = mapping.to_official(params, config)
    assert list(back) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    layers = params["fm_decoder"]["encoders_2"]["layers"]
    name = "fm_decoder.encoders.2.encoder.layers.1.conv_module1"
    np.testing.assert_array_equal(
        layers["conv_module1"]["depthwise_conv"]["kernel"][1],
        state[f"{name}.depthwise_conv.weight"][:, 0].T,
    )
    np.testing.assert_array_equal(
        layers["conv_module1"]["in_proj"]["kernel"][1], state[f"{name}.in_proj.weight"].T
    )


def test_mapping_names_all_that_does_not_fit(released: dict[str, Loaded]) -> None:
    model = released["zipvoice"]
    state = mapping.to_official(model.params, model.config)
    state["embed.weight"] = state["embed.weight"].T
    state["fm_decoder.in_proj.bias"] = state["fm_decoder.in_proj.bias"].astype(np.int64)
    state["intruder\n.weight"] = state.pop("text_encoder.in_proj.bias")
    expected = ("text_encoder.in_proj.bias", "1 extra (intruder\\n.weight)", "(24, 360)", "int64")
    with user_error("1 missing", *expected):
        mapping.from_official(state, model.config)
    with user_error("193 missing", "and 173 more"):
        mapping.from_official({}, model.config)
    with user_error("embed/embedding"):
        mapping.to_official({k: v for k, v in model.params.items() if k != "embed"}, model.config)


# --- the official format ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_round_trips(kind: str, released: dict[str, Loaded], tmp_path: Path) -> None:
    model = released[kind]
    assert model.config.kind == kind
    for form in ("pt", "safetensors"):
        official.write_official(tmp_path / form, *parts(model), format=form)
        assert_same(model, official.read_official(tmp_path / form, kind))
        assert json.loads((tmp_path / form / "model.json").read_text()) == json.loads(
            (RELEASE / kind / "model.json").read_text()
        )
        assert (tmp_path / form / "tokens.txt").read_bytes() == (
            RELEASE / kind / "tokens.txt"
        ).read_bytes()
    native.save_native(tmp_path / "native", *parts(model))
    assert_same(model, native.read_native(tmp_path / "native", table=model.table))


def copy_release(kind: str, target: Path) -> Path:
    return Path(shutil.copytree(RELEASE / kind, target))


def test_official_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    model_dir = copy_release("zipvoice_dialog", tmp_path / "m")
    with user_error("zipvoice_dialog", "not of zipvoice_distill"):
        official.read_official(model_dir, "zipvoice_distill")
    with user_error("nosuch.pt"):
        official.read_official(model_dir, checkpoint_name="nosuch.pt")
    with user_error("model_avg"):
        official.read_official(model_dir, which="model_avg")
    assert official.read_official(model_dir, dtype="bfloat16").config.dtype == "bfloat16"
    shutil.copy(RELEASE / "zipvoice" / "tokens.txt", model_dir)
    with user_error("360 tokens", "362 rows"):
        official.read_official(model_dir)
    (model_dir / "model.json").write_text('{"model": 3}')
    with user_error("model.json"):
        official.read_official(model_dir)
    (model_dir / "model.pt").unlink()
    with user_error("model.pt or model.safetensors"):
        official.read_official(model_dir)
    (model_dir / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with user_error("model.safetensors"):
        official.read_state_dict(model_dir / "model.safetensors")
    with user_error("does not exist"):
        official.read_official(tmp_path / "none")


def test_write_is_all_or_nothing(released: dict[str, Loaded], tmp_path: Path) -> None:
    model, target = released["zipvoice"], tmp_path / "out"
    official.write_official(target, *parts(model))
    before = (target / "model.pt").read_bytes()
    with user_error("not empty"):
        native.save_native(target, *parts(model))
    with user_error("embed/embedding"):
        broken = {k: v for k, v in model.params.items() if k != "embed"}
        official.write_official(
            target, model.config, model.features, model.table, broken, overwrite=True
        )
    assert (target / "model.pt").read_bytes() == before
    native.save_native(target, *parts(model), overwrite=True)
    assert native.is_native(target) and not (target / "model.pt").exists()
    (target / "thesis.tex").write_text("precious")
    with user_error("thesis.tex"):
        official.write_official(target, *parts(model), overwrite=True)
    assert (target / "thesis.tex").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no temporary left


# --- our format ------------------------------------------------------------------------------


def test_native_refuses(released: dict[str, Loaded], tmp_path: Path) -> None:
    model, path = released["zipvoice"], tmp_path / "m"
    native.save_native(path, *parts(model))
    other = released["zipvoice_dialog"].table
    with user_error(other.fingerprint, model.table.fingerprint):
        native.read_native(path, table=other)
    meta = json.loads((path / "zipvoice_jax.json").read_text())
    wrong = {**meta, "config": {**meta["config"], "pos_dim": 18, "kind": "zipvoice_distill"}}
    (path / "zipvoice_jax.json").write_text(json.dumps(wrong))
    expected = ("1 missing (fm_decoder/guidance_scale_embed/kernel)", "misshapen", "linear_pos")
    with user_error(*expected):
        native.read_native(path)
    for key, value in (("version", 9), ("files", 3), ("tokens", "_\t0\n"), ("format", None)):
        (path / "zipvoice_jax.json").write_text(json.dumps({**meta, key: value}))
        with user_error("zipvoice_jax.json"):
            native.read_native(path)
    (path / "zipvoice_jax.json").write_text(json.dumps(meta))
    largest = max((path / "params").rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with user_error(largest.name, "damaged"):
        native.read_native(path)
    largest.unlink()
    with user_error("cannot be read"):
        native.read_native(path)


# --- growth ----------------------------------------------------------------------------------


def test_stereo_is_the_official_start(released: dict[str, Loaded]) -> None:
    model = released["zipvoice_dialog"]
    before = mapping.to_official(model.params, model.config)
    state = mapping.to_official(*growth.grow_to_stereo(model.params, model.config))
    with np.load(RELEASE / "stereo_init.npz") as expected:
        assert len(expected.files) == 8
        for name in expected.files:
            np.testing.assert_array_equal(state.pop(name), expected[name], err_msg=name)
    for name, array in state.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    with user_error("zipvoice_dialog", "not from zipvoice_distill"):
        distill = released["zipvoice_distill"]
        growth.grow_to_stereo(distill.params, distill.config)


def test_a_difference_of_channels_is_none_to_equal_ones(released: dict[str, Loaded]) -> None:
    model = released["zipvoice_dialog"]
    grow = functools.partial(growth.grow_to_stereo, model.params, model.config)
    official_start, _ = grow()
    apart, config = grow(channel_difference=0.5, key=jax.random.key(1))
    mapping.check_params(apart, config, source="grown")
    mono = model.params["fm_decoder"]["in_proj"]["kernel"]
    before, after = (p["fm_decoder"].pop("in_proj_0")["kernel"] for p in (official_start, apart))
    feat = config.feat_dim
    for begin, of_mono in ((0, mono[:feat]), (3 * feat, mono[2 * feat :])):  # noisy, condition
        left, right = after[begin : begin + feat], after[begin + feat : begin + 2 * feat]
        np.testing.assert_allclose(left + right, of_mono, rtol=0, atol=1e-6)
        assert 0.45 < ((left - right) / 2).std() / of_mono.std() < 0.55
    text = slice(2 * feat, 3 * feat)
    np.testing.assert_array_equal(after[text], before[text])
    rest = flatten_dict(official_start)
    for path, leaf in flatten_dict(apart).items():
        np.testing.assert_array_equal(leaf, rest[path], err_msg="/".join(path))
    again = grow(channel_difference=0.5, key=jax.random.key(1))[0]["fm_decoder"]["in_proj_0"]
    other = grow(channel_difference=0.5, key=jax.random.key(2))[0]["fm_decoder"]["in_proj_0"]
    np.testing.assert_array_equal(again["kernel"], after)
    assert not np.array_equal(other["kernel"], after)
    with pytest.raises(ValueError, match="key"):
        grow(channel_difference=0.5)


def test_dialog_keeps_rows_by_token(released: dict[str, Loaded]) -> None:
    model = released["zipvoice"]
    old = model.table
    new = TokenTable(("[S2]", *reversed(old.tokens), "[S1]", "novel"))
    grow = dict(old_table=old, new_table=new)
    params, config = growth.grow_to_dialog(
        model.params, model.config, key=jax.random.key(1), **grow
    )
    mapping.check_params(params, config, source="grown")
    assert (config.kind, config.vocab_size) == ("zipvoice_dialog", 363)
    assert (config.spk_a_id, config.spk_b_id) == (361, 0)
    assert config.pad_id == new.token2id["_"]
    rows, kept = params["embed"]["embedding"], model.params["embed"]["embedding"]
    np.testing.assert_array_equal(rows[1:-2], kept[::-1])
    assert 0.5 < rows[[0, -2, -1]].std() < 1.5
    assert 0.07 < params["spk_embed"]["embedding"].std() < 0.13
    again, _ = growth.grow_to_dialog(model.params, model.config, key=jax.random.key(1), **grow)
    other, _ = growth.grow_to_dialog(model.params, model.config, key=jax.random.key(2), **grow)
    np.testing.assert_array_equal(again["embed"]["embedding"], rows)
    assert (other["embed"]["embedding"][-1] != rows[-1]).all()
    louder, _ = growth.grow_to_dialog(
        model.params, model.config, key=jax.random.key(1), speaker_std=0.5, **grow
    )
    np.testing.assert_allclose(
        louder["spk_embed"]["embedding"], 5 * params["spk_embed"]["embedding"], rtol=1e-6
    )
    assert "spk_embed" not in model.params
    with user_error("lacks 1 tokens", "'!'"):
        fewer = TokenTable(tuple(t for t in growth.dialog_table(old).tokens if t != "!"))
        growth.grow_vocabulary(
            model.params, model.config, old_table=old, new_table=fewer, key=jax.random.key(0)
        )
    with user_error("[S1]"):
        growth.grow_to_dialog(
            model.params, model.config, old_table=old, new_table=old, key=jax.random.key(0)
        )


def test_average(released: dict[str, Loaded]) -> None:
    params = released["zipvoice"].params
    tripled = jax.tree.map(lambda x: 3 * x, params)
    for mean, scale in (
        (growth.average([params, tripled]), 2.0),
        (growth.average([params, tripled], [-1, 2]), 5.0),
    ):
        jax.tree.map(lambda m, x, s=scale: np.testing.assert_allclose(m, s * x, 1e-6), mean, params)
    with user_error("spk_embed/embedding"):
        growth.average([params, {**params, "spk_embed": {"embedding": np.zeros(2)}}])
    for models, weights in (([], None), ([params], [0.0]), ([params], [1.0, 2.0])):
        with user_error("weight"):
            growth.average(models, weights)


# --- hub -------------------------------------------------------------------------------------


def test_find_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # loopback is not the network
    with user_error("model.pt, model.json, tokens.txt", "--model-dir"):
        hub.find_model("zipvoice")
    path, reason = hub.find_vocos()
    assert path is None and "pytorch_model.bin" in reason and "--vocoder-path" in reason
    with user_error("config.yaml and pytorch_model.bin"):
        hub.find_vocos(tmp_path)
    for name, directory in ((None, None), ("tacotron", None), ("zipvoice", tmp_path / "no")):
        with user_error():
            hub.find_model(name, directory)
    with user_error("model.json and tokens.txt"):
        hub.find_model(None, tmp_path)
    assert hub.find_model(None, RELEASE / "zipvoice") == RELEASE / "zipvoice"
    with user_error("not of zipvoice_distill"):
        hub.load_model("zipvoice_distill", RELEASE / "zipvoice")


class _Hub(http.server.BaseHTTPRequestHandler):
    """Serves RELEASE as revision main of any repository."""

    def do_GET(self) -> None:
        body = b""
        if "/resolve/" in self.path:
            body = (RELEASE / self.path.split("/resolve/")[1].split("/", 1)[1]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{len(body)}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_download_then_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # loopback is not the network
    model = hub.load_model("zipvoice")
    server.shutdown()
    server.server_close()
    assert_same(model, hub.load_model("zipvoice"))  # from the cache
    assert_same(model, hub.load_model(None, RELEASE / "zipvoice"))


# --- the command -----------------------------------------------------------------------------


def run_convert(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", *map(str, arguments)])
    return args.run(args)


def test_convert(
    tmp_path: Path, released: dict[str, Loaded], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert run_convert("--from", RELEASE / "zipvoice", "--to", a, "--grow", "dialog") == 0
    line = capsys.readouterr().out
    expected = ("zipvoice_dialog grown from zipvoice, native", "194 arrays", "362 tokens")
    assert line.count("\n") == 1 and all(word in line for word in expected)
    assert run_convert("--from", a, "--to", b, "--grow", "stereo") == 0
    assert official.read_official(b).config.kind == "zipvoice_dialog_stereo"
    assert run_convert("--from", RELEASE / "zipvoice", "--to", c, "--format", "safetensors") == 0
    assert_same(released["zipvoice"], hub.load_model("zipvoice", c))
    table = TokenTable((*released["zipvoice"].table.tokens, "é"))
    (tmp_path / "new.txt").write_text(table.dumps(), encoding="utf-8")
    assert run_convert("--from", c, "--to", d, "--tokens", tmp_path / "new.txt") == 0
    assert hub.load_model("zipvoice", d).table == table
    with user_error("not empty"):
        run_convert("--from", c, "--to", d)
    assert run_convert("--from", d, "--to", d, "--overwrite", "--format", "pt") == 0
    assert official.read_official(d).table == table
    # A model of ours stays in our format unless told otherwise.
    ours = released["zipvoice"]
    config = dataclasses.replace(ours.config, speaker_embedding="none")
    native.save_native(tmp_path / "ours", config, ours.features, ours.table, ours.params)
    assert run_convert("--from", tmp_path / "ours", "--to", tmp_path / "f") == 0
    assert hub.load_model(None, tmp_path / "f").config == config
    with user_error("grows from zipvoice_dialog"):
        run_convert("--from", c, "--to", tmp_path / "e", "--grow", "stereo")

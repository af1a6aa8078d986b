"""Parity cases of single parts: modules and their gradients, a layer, text, audio, vocoder."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from parity_core import GRADIENT_LIMIT, Case, mismatches, relative_error

from zipvoice_jax.audio.mel import log_mel, log_mel_host
from zipvoice_jax.audio.ops import cross_fade_concat, remove_silence, rms_norm
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.flow.sampling import time_steps
from zipvoice_jax.models.upsampling import token_index
from zipvoice_jax.models.vocos import (
    Vocos,
    decode,
    vocos_config_from_official,
    vocos_params_from_official,
)
from zipvoice_jax.nn import hooks
from zipvoice_jax.nn.activations import swoosh_l, swoosh_r
from zipvoice_jax.nn.attention import AttentionWeights, NonlinAttention, SelfAttention
from zipvoice_jax.nn.embedding import relative_positions, timestep_embedding
from zipvoice_jax.nn.layers import BiasNorm, Convolution, FeedForward
from zipvoice_jax.nn.zipformer import Downsample, Layer, LayerSkip, ZipformerConfig, upsample
from zipvoice_jax.text.chunking import (
    batchify_tokens,
    chunk_tokens_dialog,
    chunk_tokens_punctuation,
)
from zipvoice_jax.text.normalizer import normalize_chinese, normalize_english
from zipvoice_jax.text.tokenizer import make_tokenizer
from zipvoice_jax.text.tokens import TokenTable

ON = jnp.float32(1.0)
# Arguments of the official modules that modules.npz does not record.
WHITEN_GRAD_SCALE = 0.01
PENALTY_LIMIT, PENALTY = 25.0, 1e-4


def _vjp(function: Callable[..., Any], dy: np.ndarray, *args: Any) -> tuple[Any, ...]:
    y, pull = jax.vjp(function, *map(jnp.asarray, args))
    return (y, *pull(jnp.asarray(dy)))


def _numbered(data: Any, pattern: str) -> list[str]:
    """Names such as balancer0 for which the file holds `pattern` filled with a number."""
    return sorted(m[1] for name in data.files if (m := re.fullmatch(pattern, name)))


def modules(golden: Path) -> Iterator[Case]:
    """Every row of modules.npz but the layer's."""
    d = np.load(golden / "modules.npz")
    for name, function in (("swoosh_l", swoosh_l), ("swoosh_r", swoosh_r)):
        y, dx = _vjp(function, d[f"{name}_dy"], d[f"{name}_x"])
        yield Case(f"{name} value", relative_error(y, d[f"{name}_y"]))
        yield Case(f"{name} gradient", relative_error(dx, d[f"{name}_dx"]), GRADIENT_LIMIT)

    def bias_norm(x: jax.Array, bias: jax.Array, log_scale: jax.Array) -> jax.Array:
        return BiasNorm().apply({"params": {"bias": bias, "log_scale": log_scale}}, x, None)  # type: ignore[return-value]

    arguments = (d["bias_norm_x"], d["bias_norm_bias"], d["bias_norm_log_scale"])
    y, *gradients = _vjp(bias_norm, d["bias_norm_dy"], *arguments)
    yield Case("bias_norm value", relative_error(y, d["bias_norm_y"]))
    for name, gradient in zip(("x", "bias", "log_scale"), gradients, strict=True):
        error = relative_error(gradient, d[f"bias_norm_d{name}"])
        yield Case(f"bias_norm gradient of {name}", error, GRADIENT_LIMIT)

    yield from _hooks(d)
    schedule = PiecewiseLinear(tuple(map(tuple, d["scheduled_float_points"].tolist())))
    values = [schedule(jnp.float32(step)) for step in d["scheduled_float_batch"]]
    yield Case("scheduled_float", relative_error(np.stack(values), d["scheduled_float_value"]))
    for name in _numbered(d, r"(rel_pos_\d+_\d+)"):
        dim, frames = map(int, name.split("_")[2:])
        ours = relative_positions(frames, dim)
        stride = -(-ours.shape[0] // d[name].shape[0])
        yield Case(name, relative_error(ours[::stride], d[name]))
    for name in _numbered(d, r"(time_embed_\d+)"):
        ours = timestep_embedding(jnp.asarray(d["time_embed_t"]), int(name.split("_")[2]))
        yield Case(name, relative_error(ours, d[name]))
    for name in _numbered(d, r"(time_steps_.*)"):
        num_step, t_shift = name.split("_")[2:]
        yield Case(name, relative_error(time_steps(int(num_step), float(t_shift)), d[name]))
    for name in _numbered(d, r"downsample_(\d+_\d+)_x"):
        factor = int(name.split("_")[0])
        x = jnp.asarray(d[f"downsample_{name}_x"].swapaxes(0, 1))
        params = {"params": {"bias": d[f"downsample_{name}_bias"]}}
        y, _ = Downsample(factor).apply(params, x, None)  # type: ignore[misc]
        yield Case(f"downsample_{name}", relative_error(_time_first(y), d[f"downsample_{name}_y"]))
        again = upsample(y, factor, y.shape[1] * factor)
        yield Case(f"upsample_{name}", relative_error(_time_first(again), d[f"upsample_{name}_y"]))


def _time_first(x: Any) -> np.ndarray:
    return np.asarray(x).swapaxes(0, 1)


def _hooks(d: Any) -> Iterator[Case]:
    """The training-only gradient hooks, always acting."""
    step = jnp.float32(0.0)
    for name in _numbered(d, r"(balancer\d+)_x"):
        limits = hooks.BalancerLimits(*d[f"{name}_limits"].tolist())
        y, dx = _vjp(
            lambda x, limits=limits: hooks.balancer(x, None, step, ON, limits),
            d[f"{name}_dy"],
            d[f"{name}_x"],
        )
        yield Case(f"{name} value", relative_error(y, d[f"{name}_x"]))
        yield Case(f"{name} gradient", relative_error(dx, d[f"{name}_dx"]), GRADIENT_LIMIT)
    for name in _numbered(d, r"(whiten\d+)_x"):
        x, groups = jnp.asarray(d[f"{name}_x"]), int(d[f"{name}_groups"])
        metric = hooks.whitening_metric(x, jnp.ones((x.shape[0], 1), bool), groups)
        yield Case(f"{name} metric", relative_error(metric, d[f"{name}_metric"]))
        whitened = hooks.WhitenLimits(float(d[f"{name}_limit"]), groups, WHITEN_GRAD_SCALE)
        y, dx = _vjp(
            lambda x, limits=whitened: hooks.whiten(x, None, step, ON, limits),
            d[f"{name}_dy"],
            d[f"{name}_x"],
        )
        yield Case(f"{name} value", relative_error(y, d[f"{name}_x"]))
        yield Case(f"{name} gradient", relative_error(dx, d[f"{name}_dx"]), GRADIENT_LIMIT)
    low, high = d["limit_param_bounds"].tolist()
    y, dx = _vjp(
        lambda x: hooks.limit_param_value(x, step, ON, low, high),
        d["limit_param_dy"],
        d["limit_param_x"],
    )
    yield Case("limit_param_value value", relative_error(y, d["limit_param_x"]))
    yield Case(
        "limit_param_value gradient", relative_error(dx, d["limit_param_dx"]), GRADIENT_LIMIT
    )
    x = jnp.asarray(d["penalize_x"])
    dx = d["penalize_dy"] + hooks.push_back(x, PENALTY_LIMIT, PENALTY)
    yield Case(
        "penalize_abs_values_gt gradient", relative_error(dx, d["penalize_dx"]), GRADIENT_LIMIT
    )


def layer(golden: Path) -> Iterator[Case]:
    """One Zipformer layer in parts, sizes taken from its parameters."""
    d = np.load(golden / "modules.npz")
    params = _layer_params(d)
    shape = {name: d[f"layer_param.{name}.weight"].shape for name in (
        "self_attn_weights.in_proj", "self_attn_weights.linear_pos", "self_attn1.in_proj",
        "feed_forward2.in_proj", "conv_module1.depthwise_conv",
    )}  # fmt: skip
    heads = d["layer_attn_weights"].shape[0]
    total, dim = shape["self_attn_weights.in_proj"]
    pos_total, pos_dim = shape["self_attn_weights.linear_pos"]
    kernel = shape["conv_module1.depthwise_conv"][-1]
    pos_head_dim = pos_total // heads
    config = ZipformerConfig(
        in_dims=(dim,),
        out_dims=(dim,),
        dim=dim,
        downsampling_factor=(1,),
        num_layers=(1,),
        kernel_size=(kernel,),
        feedforward_dim=shape["feed_forward2.in_proj"][0],
        num_heads=heads,
        query_head_dim=(total // heads - pos_head_dim) // 2,
        pos_head_dim=pos_head_dim,
        value_head_dim=shape["self_attn1.in_proj"][0] // heads,
        pos_dim=pos_dim,
    )
    x = jnp.asarray(d["layer_x"].swapaxes(0, 1))
    mask, time_emb = jnp.asarray(d["layer_padding_mask"]), jnp.asarray(d["layer_time_emb"])
    encoding = relative_positions(x.shape[1], pos_dim)

    def part(name: str, module: Any, *args: Any) -> Any:
        return module.apply({"params": params[name]}, *args)

    weights = part(
        "self_attn_weights",
        AttentionWeights(
            num_heads=heads,
            query_head_dim=config.query_head_dim,
            pos_head_dim=pos_head_dim,
            pos_dim=pos_dim,
            dtype=jnp.float32,
        ),
        *(x, encoding, None, mask, None),
    )
    official = d["layer_attn_weights"]
    yield Case("attention weights", relative_error(jnp.swapaxes(weights, 0, 1), official))
    official_weights = jnp.swapaxes(jnp.asarray(official), 0, 1)
    f32 = jnp.float32
    hidden = config.feedforward_dim
    values = {
        "conv1": part("conv_module1", Convolution(kernel, f32), x, mask, None),
        "ff1": part("feed_forward1", FeedForward(hidden * 3 // 4, f32), x, mask, None),
        "nonlin": part(
            "nonlin_attention", NonlinAttention(f32), x, official_weights[:, :1], mask, None
        ),
        "attn1": part(
            "self_attn1",
            SelfAttention(heads, config.value_head_dim, f32),
            *(x, official_weights, mask, None),
        ),
    }
    skip = LayerSkip(warmup_begin=0.0, warmup_end=1.0, num_layers=1, final_rate=0.0)
    values["y"], _ = Layer(config, kernel, skip).apply(
        {"params": params}, x, jnp.int32(0), None, None, encoding, time_emb[:, None, :], mask, None
    )
    for name, ours in values.items():
        yield Case(f"layer {name}", relative_error(_time_first(ours), d[f"layer_{name}"]))


def _layer_params(d: Any) -> dict[str, Any]:
    leaves = {}
    for name in d.files:
        if name.startswith("layer_param."):
            *path, last = name.removeprefix("layer_param.").split(".")
            array = d[name]
            if last == "weight":
                last = "kernel"
                array = array.T if array.ndim == 2 else array[:, 0].T
            leaves[(*path, last)] = jnp.asarray(array)
    return unflatten_dict(leaves)


def text(golden: Path) -> Iterator[Case]:
    """Tokenizers, normalisers, chunking and the frames' token positions."""
    tables = {n: TokenTable.load(golden / f"tokens_{n}.txt") for n in ("emilia", "dialog")}
    for i, row in enumerate(_rows(golden / "tokenizer.jsonl")):
        name, _, lang = row["tokenizer"].partition("-")
        table = tables["dialog" if name == "dialog" else "emilia"]
        tokenizer = make_tokenizer(name, table, **({"lang": lang} if lang else {}))
        label = f"tokenizer row {i} ({row['tokenizer']})"
        try:
            done = tokenizer.encode(row["text"])
        except UserError:
            # Ours is an error where nothing can be said; the official code gives no ids there.
            yield Case(label, 0.0 if "error" in row or not row["ids"] else float("inf"), 0.0)
            continue
        if "error" in row:
            yield Case(f"{label} must be an error", float("inf"), 0.0)
            continue
        error = mismatches(done.tokens, row["tokens"]) + mismatches(done.ids, row["ids"])
        yield Case(label, error, 0.0, detail=True)
    for i, row in enumerate(_rows(golden / "normalizer.jsonl")):
        for name, function in (("en", normalize_english), ("zh", normalize_chinese)):
            if name in row:
                error = float(function(row["text"]) != row[name])
                yield Case(f"normalizer row {i} ({name})", error, 0.0, detail=True)
    for i, row in enumerate(json.loads((golden / "chunking.json").read_text("utf-8"))):
        if row["kind"] == "batchify":
            limits = (row["max_duration"], row["prompt_duration"], row["token_duration"])
            batches, index = batchify_tokens([[0] * n for n in row["lengths"]], *limits)
            error = mismatches([[len(c) for c in b] for b in batches], row["batches"])
            error += mismatches(index, row["index"])
        else:
            split = chunk_tokens_dialog if row["kind"] == "dialog" else chunk_tokens_punctuation
            chunks = [list(c) for c in split(row["tokens"], row["max_tokens"])]
            error = mismatches(chunks, row["chunks"])
        yield Case(f"chunking row {i} ({row['kind']})", error, 0.0)
    for row in json.loads((golden / "token_index.json").read_text("utf-8")):
        frames, tokens = row["features_len"], row["tokens_len"]
        ours = token_index(jnp.array([frames]), jnp.array([tokens]), frames)[0]
        label = f"token_index {frames} frames, {tokens} tokens"
        yield Case(label, mismatches(ours.tolist(), row["index"]), 0.0)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def audio(golden: Path) -> Iterator[Case]:
    """Features on host and device, and operations on waveforms."""
    features = FeatureConfig()
    d = np.load(golden / "features.npz")
    for name in _numbered(d, r"(.*)_wave"):
        wave, channels = d[f"{name}_wave"], int(d[f"{name}_channels"])
        host = log_mel_host(wave, features, channels=channels)
        yield Case(f"features {name} on host", relative_error(host, d[f"{name}_logmel"]))
        device = log_mel(jnp.asarray(wave), features, channels=channels)
        yield Case(f"features {name} on device", relative_error(device, d[f"{name}_logmel"]))
    d = np.load(golden / "waveform_ops.npz")
    rate = features.sampling_rate
    silence = {
        "silence_edge_only": remove_silence(d["wave"], rate, only_edge=True),
        "silence_all_trail200": remove_silence(d["wave"], rate, trail_ms=200.0),
        "silence_stereo_all_trail200": remove_silence(d["wave_stereo"], rate, trail_ms=200.0),
    }
    for name, ours in silence.items():
        yield Case(name, relative_error(ours, d[name]))
    wave, rms = rms_norm(d["rms_in"], 0.1)
    yield Case("rms_norm wave", relative_error(wave, d["rms_out"]))
    yield Case("rms_norm value", relative_error(rms, d["rms_value"]))
    chunks = [d[f"fade_in{i}"] for i in range(len(_numbered(d, r"(fade_in\d+)")))]
    faded = cross_fade_concat(chunks, sampling_rate=rate)
    yield Case("cross_fade_concat", relative_error(faded, d["fade_out"]))


def vocos(golden: Path) -> Iterator[Case]:
    """The vocoder's hidden states and waveform."""
    d = np.load(golden / "vocos.npz")
    state = {n.removeprefix("param."): d[n] for n in d.files if n.startswith("param.")}
    config = vocos_config_from_official(state)
    params = vocos_params_from_official(state, config)
    mel = jnp.asarray(d["mel"].transpose(0, 2, 1))
    hidden = Vocos(config).apply({"params": params}, mel, method=Vocos.hidden)
    yield Case("vocos hidden", relative_error(hidden, d["hidden"]))
    yield Case("vocos wave", relative_error(decode(config, params, mel), d["wave"]))

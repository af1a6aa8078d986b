"""The encoder of wav2vec 2.0 and WavLM in JAX, from the names and shapes of fairseq's weights.

Two published variants: "base" (group norm after the first convolution, post-norm layers) and
"large" (layer norm after every convolution, pre-norm layers). WavLM adds a gated relative position
bias to the attention. Sources: fairseq/models/wav2vec/wav2vec2.py and WavLM.py of microsoft/unilm,
as in s3prl/upstream/wavlm.

A recording is padded to one of a few lengths and masked, so that a few programs serve recordings
of all lengths; the result does not depend on the padding.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.judge.layers import (
    EPS,
    Tree,
    Weights,
    affine,
    convolve,
    dense,
    gelu,
    layer_norm,
    masked_moments,
)

STRIDES = (5, 2, 2, 2, 2, 2, 2)
_MAX_DISTANCE = 800  # frames; larger distances share a class in WavLM
_GROWTH = 1.25  # ratio of successive padded lengths
_SHORTEST = 16_000  # samples
_LEAST = 400  # samples of one frame


def padded(
    wave: Float[np.ndarray, " samples"],
) -> tuple[Float[np.ndarray, " padded"], Int[np.ndarray, ""]]:
    """Pads a recording with zeros to one of a few lengths; also returns its own length."""
    steps = math.ceil(math.log(max(len(wave), 1) / _SHORTEST, _GROWTH) - 1e-9)
    size = math.ceil(_SHORTEST * _GROWTH ** max(steps, 0))
    length = max(len(wave), _LEAST)
    return np.pad(wave, (0, size - len(wave))).astype(np.float32), np.asarray(length, np.int32)


def read_encoder(weights: Weights) -> Tree:
    """The parameters of `encode`, from the weights of a model of fairseq or WavLM.

    Raises:
        UserError: a weight is missing.
    """
    convolutions = []
    for i in range(len(STRIDES)):
        name = f"feature_extractor.conv_layers.{i}"
        layer: Tree = {"w": weights[f"{name}.0.weight"]}
        for norm in (f"{name}.2", f"{name}.2.1"):
            if f"{norm}.weight" in weights:
                layer["norm"] = weights.tree(norm)[norm]
        convolutions.append(layer)
    count = 0
    while f"encoder.layers.{count}.fc1.weight" in weights:
        count += 1
    layers = [_read_layer(weights.under(f"encoder.layers.{i}.")) for i in range(max(count, 1))]
    g, v = weights["encoder.pos_conv.0.weight_g"], weights["encoder.pos_conv.0.weight_v"]
    tree = {
        "convolutions": convolutions,
        **weights.tree("layer_norm", "post_extract_proj", "encoder.layer_norm"),
        # Weight norm over all axes except the last.
        "pos_conv": {
            "w": g * v / np.linalg.norm(v, axis=(0, 1), keepdims=True),
            "b": weights["encoder.pos_conv.0.bias"],
        },
        "layers": jax.tree.map(lambda *parts: np.stack(parts), *layers),
    }
    bias = "encoder.layers.0.self_attn.relative_attention_bias.weight"
    if bias in weights:
        tree["relative_attention_bias"] = weights[bias]
    return tree


def _read_layer(weights: Weights) -> Tree:
    attention = [f"self_attn.{name}_proj" for name in "qkv"]
    norms = ("self_attn_layer_norm", "final_layer_norm")
    tree = weights.tree(*attention, "self_attn.out_proj", "fc1", "fc2", *norms)
    if "self_attn.grep_a" in weights:
        tree |= weights.tree("self_attn.grep_linear")
        tree["self_attn.grep_a"] = weights["self_attn.grep_a"].reshape(-1)
    return tree


def is_large(tree: Tree) -> bool:
    """Whether the variant is "large"."""
    return "norm" in tree["convolutions"][-1]


def encode(
    tree: Tree,
    wave: Float[Array, " samples"],
    length: Int[Array, ""],
    mix: Float[Array, " states"],
    *,
    heads: int,
) -> tuple[Float[Array, "frames dim"], Bool[Array, " frames"]]:
    """A weighted sum of the states before each layer and after the last.

    Args:
        tree: output of `read_encoder`.
        wave: samples at 16 kHz, padded with zeros.
        length: number of samples without padding.
        mix: weights of the sum, one more than there are layers.
        heads: number of attention heads.

    Returns:
        The sum, one frame per 20 ms, and a mask that is True for frames that are not padding.
    """
    x, keep = _convolve(tree, wave, length)
    x = dense(tree["post_extract_proj"], layer_norm(tree["layer_norm"], x))
    x = jnp.where(keep[:, None], x, 0.0)
    x = x + _positions(tree["pos_conv"], x)
    large = is_large(tree)
    if not large:
        x = layer_norm(tree["encoder.layer_norm"], x)
    bias = None
    if "relative_attention_bias" in tree:
        by_class = tree["relative_attention_bias"]
        bias = by_class[distance_classes(len(x), len(by_class))].T

    def layer(carry: tuple[Array, Array], inputs: tuple[Tree, Array]) -> Any:
        (x, total), (weights, weight) = carry, inputs
        total = total + weight * x
        y = layer_norm(weights["self_attn_layer_norm"], x) if large else x
        x = x + _attend(weights, y, keep, heads, bias)
        if not large:
            x = layer_norm(weights["self_attn_layer_norm"], x)
        y = layer_norm(weights["final_layer_norm"], x) if large else x
        x = x + dense(weights["fc2"], gelu(dense(weights["fc1"], y)))
        if not large:
            x = layer_norm(weights["final_layer_norm"], x)
        return (x, total), None

    (x, total), _ = jax.lax.scan(layer, (x, jnp.zeros_like(x)), (tree["layers"], mix[:-1]))
    if large:
        x = layer_norm(tree["encoder.layer_norm"], x)
    return total + mix[-1] * x, keep


def _convolve(
    tree: Tree, wave: Float[Array, " samples"], length: Int[Array, ""]
) -> tuple[Float[Array, "frames n"], Bool[Array, " frames"]]:
    x = wave[:, None]
    for layer, stride in zip(tree["convolutions"], STRIDES, strict=True):
        length = (length - layer["w"].shape[2]) // stride + 1
        x = convolve(layer, x, stride=stride)
        if "norm" in layer and is_large(tree):
            x = layer_norm(layer["norm"], x)
        elif "norm" in layer:  # a group for each channel, hence over time
            mean, variance = masked_moments(x, jnp.arange(len(x)) < length)
            x = (x - mean[None]) * jax.lax.rsqrt(variance + EPS)[None]
            x = affine(layer["norm"], x)
        x = gelu(x)
    return x, jnp.arange(len(x)) < length


def _positions(layer: Tree, x: Float[Array, "frames dim"]) -> Float[Array, "frames dim"]:
    kernel = layer["w"].shape[2]
    return gelu(convolve(layer, x, padding=kernel // 2)[: len(x)])


def distance_classes(frames: int, count: int) -> Int[np.ndarray, " distances"]:
    """The class of each distance from -(frames - 1) to frames - 1; logarithmic for far ones."""
    half = count // 2
    exact = half // 2
    distance = np.arange(1 - frames, frames)
    size = np.abs(distance)
    ratio = np.log(np.maximum(size, exact).astype(np.float32) / np.float32(exact))
    far = exact + ratio / np.float32(math.log(_MAX_DISTANCE / exact)) * np.float32(half - exact)
    far = np.minimum(far.astype(np.int32), half - 1)
    return (distance > 0) * half + np.where(size < exact, size, far)


def _attend(
    layer: Tree,
    x: Float[Array, "frames dim"],
    keep: Bool[Array, " frames"],
    heads: int,
    bias: Float[Array, "heads distances"] | None,
) -> Float[Array, "frames dim"]:
    """Self-attention, head by head: the scores of all heads would not fit for minutes of speech."""

    def apart(y: Float[Array, "frames dim"]) -> Float[Array, "heads frames part"]:
        return y.reshape(len(y), heads, -1).swapaxes(0, 1)

    q, k, v = (apart(dense(layer[f"self_attn.{name}_proj"], x)) for name in "qkv")
    inputs: Tree = {"q": q * q.shape[-1] ** -0.5, "k": k, "v": v}
    if bias is not None:
        gates = dense(layer["self_attn.grep_linear"], apart(x))
        gates = jax.nn.sigmoid(gates.reshape(*gates.shape[:2], 2, 4).sum(axis=-1))
        a = layer["self_attn.grep_a"][:, None]
        gate = gates[..., 0] * (gates[..., 1] * a - 1.0) + 2.0
        inputs |= {"gate": gate, "bias": bias}

    frame = jnp.arange(len(x))
    distance = frame[None, :] - frame[:, None] + len(x) - 1

    def head(part: Tree) -> Float[Array, "frames part"]:
        scores = part["q"] @ part["k"].T
        if "bias" in part:
            scores = scores + part["gate"][:, None] * part["bias"][distance]
        weights = jax.nn.softmax(jnp.where(keep[None], scores, -jnp.inf), axis=-1)
        return weights @ part["v"]

    y = jax.lax.map(head, inputs).swapaxes(0, 1).reshape(x.shape)
    return dense(layer["self_attn.out_proj"], y)

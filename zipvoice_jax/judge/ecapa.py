"""The speaker encoder of the paper in JAX: ECAPA-TDNN on a mixture of WavLM-large's layers.

Source: zipvoice/eval/models/ecapa_tdnn_wavlm.py of the official code, which is from UniSpeech.
The weights are wavlm_large_finetune.pth.
"""

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
    masked_moments,
)
from zipvoice_jax.judge.wav2vec import encode, read_encoder

_DILATIONS = (2, 3, 4)


def read_ecapa(weights: Weights) -> Tree:
    """The parameters of `embed`, from the entry "model" of the file.

    Raises:
        UserError: a weight is missing.
    """
    encoder = read_encoder(weights.under("feature_extract.model."))
    mix = weights["feature_weight"]
    mix = np.exp(mix - mix.max())
    tree: Tree = {
        "encoder": encoder,
        "mix": mix / mix.sum(),
        "layer1": _read_normed(weights, "layer1.conv", "layer1.bn"),
        **weights.tree("conv", "pooling.linear1", "pooling.linear2", "linear"),
        "bn": _read_norm(weights, "bn"),
    }
    for i in range(len(_DILATIONS)):
        name = f"layer{i + 2}"
        tree[name] = _read_block(weights.under(f"{name}."))
    return tree


def heads_of(tree: Tree) -> int:
    """Number of heads of the encoder's attention."""
    return tree["encoder"]["relative_attention_bias"].shape[1]


def _read_norm(weights: Weights, name: str) -> Tree:
    """Batch norm in evaluation mode, as a scale and an offset."""
    w = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + EPS)
    return {"w": w, "b": weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * w}


def _read_normed(weights: Weights, conv: str, norm: str) -> Tree:
    return {"conv": weights.tree(conv)[conv], "bn": _read_norm(weights, norm)}


def _read_block(weights: Weights) -> Tree:
    parts = []
    while f"Res2Conv1dReluBn.convs.{len(parts)}.weight" in weights:
        i, name = len(parts), "Res2Conv1dReluBn"
        parts.append(_read_normed(weights, f"{name}.convs.{i}", f"{name}.bns.{i}"))
    first, last = (
        _read_normed(weights, f"Conv1dReluBn{i}.conv", f"Conv1dReluBn{i}.bn") for i in (1, 2)
    )
    squeeze = weights.tree("SE_Connect.linear1", "SE_Connect.linear2")
    block = {"first": first, "parts": parts, "last": last, **squeeze}
    return block | (weights.tree("shortcut") if "shortcut.weight" in weights else {})


def embed(
    tree: Tree, wave: Float[Array, " samples"], length: Int[Array, ""]
) -> Float[Array, " dim"]:
    """The vector of a voice, not normalised.

    Args:
        tree: output of `read_ecapa`.
        wave: samples at 16 kHz with mean 0 and variance 1, padded with zeros.
        length: number of samples without padding.
    """
    x, keep = encode(tree["encoder"], wave, length, tree["mix"], heads=heads_of(tree))
    x = x + 1e-6
    mean, variance = masked_moments(x, keep)
    x = (x - mean[None]) * jax.lax.rsqrt(variance + EPS)[None]

    def masked(y: Float[Array, "frames n"]) -> Float[Array, "frames n"]:
        return jnp.where(keep[:, None], y, 0.0)

    kernel = tree["layer1"]["conv"]["w"].shape[2]
    x = masked(_normed(tree["layer1"], masked(x), padding=kernel // 2))
    outs = []
    for i, dilation in enumerate(_DILATIONS):
        x = masked(_block(tree[f"layer{i + 2}"], x, keep, dilation))
        outs.append(x)
    x = jax.nn.relu(convolve(tree["conv"], jnp.concatenate(outs, axis=1)))
    x = _pool(tree, x, keep)
    return dense(tree["linear"], affine(tree["bn"], x))


def _normed(layer: Tree, x: Float[Array, "frames n"], **options: Any) -> Float[Array, "frames m"]:
    return affine(layer["bn"], jax.nn.relu(convolve(layer["conv"], x, **options)))


def _block(
    block: Tree, x: Float[Array, "frames n"], keep: Bool[Array, " frames"], dilation: int
) -> Float[Array, "frames m"]:
    """Res2Net with squeeze and excitation."""
    residual = convolve(block["shortcut"], x) if "shortcut" in block else x
    parts = jnp.split(_normed(block["first"], x), len(block["parts"]) + 1, axis=1)
    done: list[Array] = []
    for layer, part in zip(block["parts"], parts[:-1], strict=True):
        inputs = part + done[-1] if done else part
        # Convolutions see zeros beyond the end, whatever the padding.
        inputs = jnp.where(keep[:, None], inputs, 0.0)
        done.append(_normed(layer, inputs, padding=dilation, dilation=dilation))
    x = _normed(block["last"], jnp.concatenate([*done, parts[-1]], axis=1))
    mean, _ = masked_moments(x, keep)
    gate = dense(block["SE_Connect.linear2"], jax.nn.relu(dense(block["SE_Connect.linear1"], mean)))
    return x * jax.nn.sigmoid(gate)[None] + residual


def _pool(
    tree: Tree, x: Float[Array, "frames n"], keep: Bool[Array, " frames"]
) -> Float[Array, " twice_n"]:
    """Mean and standard deviation under channel-wise attention."""
    scores = convolve(tree["pooling.linear2"], jnp.tanh(convolve(tree["pooling.linear1"], x)))
    share = jax.nn.softmax(jnp.where(keep[:, None], scores, -jnp.inf), axis=0)
    mean = (share * x).sum(axis=0)
    variance = (share * jnp.square(x)).sum(axis=0) - jnp.square(mean)
    return jnp.concatenate([mean, jnp.sqrt(jnp.maximum(variance, 1e-9))])

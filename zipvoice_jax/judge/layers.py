"""Layers of judges' networks as functions of weights in torch's layout, for a single recording."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from zipvoice_jax.checkpoint.torch_file import read_torch_file
from zipvoice_jax.checkpoint.torch_legacy import is_legacy, read_legacy
from zipvoice_jax.core.errors import UserError

Tree = dict[str, Any]

EPS = 1e-5  # of all normalisation layers


class Weights:
    """Weights of a file, by name.

    Args:
        arrays: content of the file.
        source: path of the file, for messages.
    """

    def __init__(self, arrays: Mapping[str, Any], source: str) -> None:
        self._arrays, self._source = arrays, source

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> Float[np.ndarray, "..."]:
        array = self._arrays.get(name)
        if not isinstance(array, np.ndarray):
            raise UserError(f"{self._source} has no weights {name}; it is another model's file.")
        return array.astype(np.float32)

    def under(self, prefix: str) -> "Weights":
        """The weights whose names begin with a prefix, without the prefix."""
        arrays = {k[len(prefix) :]: v for k, v in self._arrays.items() if k.startswith(prefix)}
        return Weights(arrays, self._source)

    def tree(self, *prefixes: str) -> Tree:
        """Weights and biases of layers, by layer name."""
        return {name: {"w": self[f"{name}.weight"], "b": self[f"{name}.bias"]} for name in prefixes}


def read_weights(path: Path) -> Weights:
    """Reads the weights of a file that torch.save wrote, in either of its formats.

    Raises:
        UserError: it is missing or damaged.
    """

    def select(tree: Any) -> Any:
        tree = tree if isinstance(tree, dict) else {}
        return tree.get("model", tree)

    arrays = select(read_legacy(path)) if is_legacy(path) else read_torch_file(path, select)
    return Weights(arrays, str(path))


def read_lstm(weights: Weights, pattern: str) -> Tree:
    """The parameters of `lstm`.

    Args:
        weights: weights of a file.
        pattern: name of the weights, with {} for weight_ih, weight_hh, bias_ih or bias_hh.
    """
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {name: weights[pattern.format(name)] for name in names}


gelu = functools.partial(jax.nn.gelu, approximate=False)


def dense(layer: Tree, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
    """A linear layer."""
    return x @ layer["w"].T + _last(layer["b"], x)


def _last(vector: Float[Array, " n"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """A vector along the last axis of x."""
    return jnp.expand_dims(vector, tuple(range(x.ndim - 1)))


def affine(layer: Tree, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """A scale and an offset for each channel."""
    return x * _last(layer["w"], x) + _last(layer["b"], x)


def layer_norm(layer: Tree, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """Layer norm over the last axis."""
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + EPS)
    return affine(layer, x)


def convolve(
    layer: Tree,
    x: Float[Array, "frames n"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Array, "_ m"]:
    """A convolution over frames; the shape of the weights determines the groups."""
    w = layer["w"]
    y = jax.lax.conv_general_dilated(
        x[None], w, (stride,), [(padding, padding)], rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "OIW", "NWC"), feature_group_count=x.shape[1] // w.shape[1],
    )[0]  # fmt: skip
    return y + layer["b"][None] if "b" in layer else y


def masked_moments(
    x: Float[Array, "frames n"], keep: Bool[Array, " frames"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Mean and variance over the frames where `keep` is True."""
    kept = keep.astype(jnp.float32)
    share = (kept / jnp.maximum(kept.sum(), 1.0))[:, None]
    mean = (x * share).sum(axis=0)
    return mean, (jnp.square(x - mean[None]) * share).sum(axis=0)


def lstm(
    weights: Tree, x: Float[Array, "frames n"], keep: Bool[Array, " frames"]
) -> Float[Array, "frames m"]:
    """One layer in one direction, with torch's order of gates; padding keeps the state."""
    w_h, bias = weights["weight_hh"], weights["bias_ih"] + weights["bias_hh"]

    def step(carry: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple, Array]:
        (h, c), (now, kept) = carry, inputs
        i, f, g, o = jnp.split(now + w_h @ h, 4)
        c_new = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h_new = jax.nn.sigmoid(o) * jnp.tanh(c_new)
        h, c = jnp.where(kept, h_new, h), jnp.where(kept, c_new, c)
        return (h, c), h

    nothing = jnp.zeros(w_h.shape[1])
    projected = x @ weights["weight_ih"].T + bias[None]
    _, hs = jax.lax.scan(step, (nothing, nothing), (projected, keep))
    return hs

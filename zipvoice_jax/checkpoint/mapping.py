"""What ties official tensor names to our parameter tree, and both to a config.

The shapes are those of `init` (models/zipvoice.py: `abstract_params`). From them `tensor_specs`
derives the official state_dict by renaming alone. Our tree holds Linear weights as (in, out) and
depthwise kernels as (kernel, channel), and stacks the layers of one Zipformer stack on axis 0.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.models.zipvoice import abstract_params

Shape = tuple[int, ...]
TreePath = tuple[str, ...]
Params = dict[str, Any]

# From the path of a leaf, joined by dots, to the official name.
_RENAMES = (
    (re.compile(r"_(\d+)\b"), r".\1"),  # members of a list
    (re.compile(r"\.time_emb\."), ".time_emb.1."),  # after an activation, which has no tensors
    (re.compile(r"\b(kernel|embedding)$"), "weight"),
)
# Every part of an official name, in the order in which the official modules define them.
_ORDER = {
    part: index
    for index, part in enumerate(
        """
        fm_decoder text_encoder embed spk_embed
        bypass bypass_mid self_attn_weights self_attn1 self_attn2
        feed_forward1 feed_forward2 feed_forward3 nonlin_attention conv_module1 conv_module2 norm
        in_proj linear_pos depthwise_conv out_proj
        downsample encoders encoder time_emb layers out_combiner time_embed guidance_scale_embed
        bypass_scale weight log_scale bias
        """.split()
    )
}
_MAX_NAMED = 20
_MAX_LAYERS = 4096


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One official tensor and the leaf of our tree that holds it.

    Attributes:
        name: the official state_dict name.
        shape: the official shape.
        path: keys of the leaf in our tree.
        layer: index into the leaf's stacked axis 0; None where nothing is stacked.
    """

    name: str
    shape: Shape
    path: TreePath
    layer: int | None


def _to_official(path: TreePath, array: np.ndarray) -> np.ndarray:
    """A leaf in our layout, one layer, in the official one."""
    if path[-1] != "kernel":
        return array
    return array.T[:, None, :] if path[-2] == "depthwise_conv" else array.T


def _to_ours(path: TreePath, array: np.ndarray) -> np.ndarray:
    """Inverse of `_to_official`."""
    if path[-1] != "kernel":
        return array
    return array[:, 0, :].T if path[-2] == "depthwise_conv" else array.T


def _spec(path: TreePath, shape: Shape, layer: int | None, *, downsampled: bool) -> TensorSpec:
    """The official tensor of a leaf, or of one layer in it.

    Args:
        path: keys of the leaf.
        shape: the leaf's shape, without the axis of layers.
        layer: index into that axis, if there is one.
        downsampled: whether the leaf is of a stack below full rate, which officially wraps one of
            full rate.
    """
    parts = list(path)
    if downsampled and parts[2] in ("layers", "time_emb"):
        parts.insert(2, "encoder")
    if layer is not None:
        parts.insert(parts.index("layers") + 1, str(layer))
    name = ".".join(parts)
    for pattern, official in _RENAMES:
        name = pattern.sub(official, name)
    like = np.broadcast_to(np.float32(0.0), shape)
    return TensorSpec(name, _to_official(path, like).shape, path, layer)


def _official_order(spec: TensorSpec) -> list[int]:
    return [int(part) if part.isdigit() else _ORDER[part] for part in spec.name.split(".")]


@functools.lru_cache(maxsize=16)
def param_shapes(config: ModelConfig) -> Mapping[TreePath, Shape]:
    """Shape of every leaf of our tree, stacked layers included.

    Raises:
        UserError: the config asks for an absurd number of layers.
    """
    layers = sum(config.fm_decoder_num_layers) + config.text_encoder_num_layers
    if layers > _MAX_LAYERS:
        raise UserError(
            f"the model config asks for {layers} layers, more than {_MAX_LAYERS}; "
            "correct fm_decoder_num_layers or text_encoder_num_layers."
        )
    leaves: dict[TreePath, Any] = flatten_dict(abstract_params(config))
    return MappingProxyType({path: leaf.shape for path, leaf in leaves.items()})


def tensor_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Every official tensor of a model, in the order of the official state_dict.

    Raises:
        UserError: the config asks for an absurd number of layers.
    """
    shapes = param_shapes(config)
    specs = []
    for path, shape in shapes.items():
        if path[0] == "duration_head":  # which no official model has
            continue
        downsampled = (*path[:2], "downsample", "bias") in shapes
        if "layers" in path:
            specs += [
                _spec(path, shape[1:], layer, downsampled=downsampled) for layer in range(shape[0])
            ]
        else:
            specs.append(_spec(path, shape, None, downsampled=downsampled))
    return tuple(sorted(specs, key=_official_order))


def _named(label: str, names: list[str]) -> str:
    if not names:
        return ""
    # A checkpoint's own names are data: keep them on one line and of bearable length.
    shown = ", ".join(ascii(name[:200])[1:-1] for name in names[:_MAX_NAMED])
    more = f", and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{len(names)} {label} ({shown}{more})"


def _check(found: Mapping[str, Any], wanted: Mapping[str, Shape], source: str) -> None:
    """Compares named arrays with the shapes they must have.

    Raises:
        UserError: names every missing, extra and misshapen one, in one line.
    """
    missing = [name for name in wanted if name not in found]
    extra = sorted(str(name) for name in found if name not in wanted)
    wrong = []
    for name, shape in wanted.items():
        if name not in found:
            continue
        array = found[name]
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            wrong.append(f"{name} is no array")
        elif tuple(array.shape) != shape:
            wrong.append(f"{name} has shape {tuple(array.shape)}, not {shape}")
        elif not np.issubdtype(array.dtype, np.floating) and "float" not in str(array.dtype):
            wrong.append(f"{name} has dtype {array.dtype}, not a floating one")
    parts = [_named("missing", missing), _named("extra", extra), _named("misshapen", wrong)]
    if misfits := "; ".join(part for part in parts if part):
        raise UserError(
            f"{source} does not fit the model config: {misfits}; "
            "check that the weights, model.json and the model kind belong together."
        )


def check_params(params: Params, config: ModelConfig, *, source: str) -> None:
    """Checks our tree against a config.

    Args:
        params: nested dicts of arrays.
        config: the model they should be of.
        source: what to call them in a message.

    Raises:
        UserError: naming every missing, extra or misshapen array.
    """
    shapes = {"/".join(path): shape for path, shape in param_shapes(config).items()}
    _check(flatten_dict(params, sep="/"), shapes, source)


def from_official(
    state: Mapping[str, Any], config: ModelConfig, *, source: str = "the checkpoint"
) -> Params:
    """An official state_dict as our parameter tree of float32 numpy arrays.

    Args:
        state: official name to array.
        config: the model that the weights are of.
        source: what to call the weights in a message.

    Raises:
        UserError: naming every missing, extra or misshapen tensor.
    """
    specs, shapes = tensor_specs(config), param_shapes(config)
    _check(state, {spec.name: spec.shape for spec in specs}, source)
    leaves = {spec.path: np.empty(shapes[spec.path], np.float32) for spec in specs}
    for spec in specs:
        array = _to_ours(spec.path, np.asarray(state[spec.name]))
        leaves[spec.path][... if spec.layer is None else spec.layer] = array
    return unflatten_dict(leaves)


def to_official(params: Params, config: ModelConfig) -> dict[str, np.ndarray]:
    """Our parameter tree as an official state_dict of float32 arrays, in official order.

    Raises:
        UserError: naming every missing, extra or misshapen array.
    """
    check_params(params, config, source="the parameter tree")
    leaves = {path: np.asarray(leaf) for path, leaf in flatten_dict(params).items()}
    state = {}
    for spec in tensor_specs(config):
        leaf = leaves[spec.path]
        array = _to_official(spec.path, leaf if spec.layer is None else leaf[spec.layer, ...])
        state[spec.name] = np.asarray(array, np.float32, order="C")
    return state


def count_parameters(params: Params) -> int:
    """Numbers in all arrays of a tree."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))

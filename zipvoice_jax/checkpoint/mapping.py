"""The one table that ties official tensor names to our parameter tree.

`tensor_specs` derives it from a `ModelConfig`: names and shapes follow the official
modules (zipvoice/models/modules/zipformer.py, zipformer_two_stream.py, zipvoice.py,
zipvoice_dialog.py). Our tree holds Linear weights as (in, out), depthwise kernels as
(kernel, channel), and stacks the layers of one Zipformer stack on axis 0.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from zipvoice_jax.config import DURATION_HEAD_DIM, GUIDANCE_SCALE_EMBED_DIM, ModelConfig
from zipvoice_jax.core.errors import UserError

Shape = tuple[int, ...]
TreePath = tuple[str, ...]
Params = dict[str, Any]
Transform = Literal["same", "transpose", "depthwise"]

_MAX_NAMED = 20
_MAX_LAYERS = 4096


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One official tensor and its place in our tree.

    Attributes:
        name: the official state_dict name.
        shape: the official shape.
        path: keys of the leaf in our tree.
        layer: index into the leaf's stacked axis 0; None where nothing is stacked.
        transform: how the official layout becomes ours.
    """

    name: str
    shape: Shape
    path: TreePath
    layer: int | None
    transform: Transform

    @property
    def our_shape(self) -> Shape:
        """Shape in our layout, without the stacked layer axis."""
        if self.transform == "transpose":
            return self.shape[::-1]
        if self.transform == "depthwise":
            channels, _, kernel = self.shape
            return (kernel, channels)
        return self.shape

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Official layout to ours, one layer."""
        if self.transform == "transpose":
            return array.T
        return array[:, 0, :].T if self.transform == "depthwise" else array

    def to_official(self, array: np.ndarray) -> np.ndarray:
        """Our layout, one layer, to the official one."""
        if self.transform == "transpose":
            return array.T
        return array.T[:, None, :] if self.transform == "depthwise" else array


_Entry = tuple[str, Shape, str, Transform]  # official name, shape, our path, both relative


def _linear(name: str, n_in: int, n_out: int, *, bias: bool = True, ours: str = "") -> list[_Entry]:
    path = ours or name.replace(".", "/")
    entries: list[_Entry] = [(f"{name}.weight", (n_out, n_in), f"{path}/kernel", "transpose")]
    if bias:
        entries.append((f"{name}.bias", (n_out,), f"{path}/bias", "same"))
    return entries


def _layer(
    dim: int, kernel: int, heads: int, feedforward: int, config: ModelConfig
) -> Iterator[_Entry]:
    """One Zipformer2EncoderLayer."""
    for name in ("bypass", "bypass_mid"):
        yield f"{name}.bypass_scale", (dim,), f"{name}/bypass_scale", "same"
    attention = heads * (2 * config.query_head_dim + config.pos_head_dim)
    yield from _linear("self_attn_weights.in_proj", dim, attention)
    yield from _linear(
        "self_attn_weights.linear_pos", config.pos_dim, heads * config.pos_head_dim, bias=False
    )
    for name in ("self_attn1", "self_attn2"):
        value = heads * config.value_head_dim
        yield from _linear(f"{name}.in_proj", dim, value)
        yield from _linear(f"{name}.out_proj", value, dim)
    for name, hidden in (
        ("feed_forward1", feedforward * 3 // 4),
        ("feed_forward2", feedforward),
        ("feed_forward3", feedforward * 5 // 4),
    ):
        yield from _linear(f"{name}.in_proj", dim, hidden)
        yield from _linear(f"{name}.out_proj", hidden, dim)
    hidden = 3 * dim // 4
    yield from _linear("nonlin_attention.in_proj", dim, 3 * hidden)
    yield from _linear("nonlin_attention.out_proj", hidden, dim)
    for name in ("conv_module1", "conv_module2"):
        yield from _linear(f"{name}.in_proj", dim, 2 * dim)
        conv = f"{name}.depthwise_conv"
        yield f"{conv}.weight", (dim, 1, kernel), f"{name}/depthwise_conv/kernel", "depthwise"
        yield f"{conv}.bias", (dim,), f"{name}/depthwise_conv/bias", "same"
        yield from _linear(f"{name}.out_proj", dim, dim)
    yield "norm.log_scale", (), "norm/log_scale", "same"
    yield "norm.bias", (dim,), "norm/bias", "same"


def _spec(entry: _Entry, name: str, path: str, layer: int | None = None) -> TensorSpec:
    official, shape, ours, transform = entry
    return TensorSpec(name + official, shape, tuple((path + ours).split("/")), layer, transform)


def _stack(config: ModelConfig, part: str, index: int) -> Iterator[TensorSpec]:
    """One entry of `encoders`: a Zipformer2Encoder, downsampled or not."""
    is_decoder = part == "fm_decoder"
    dim = getattr(config, f"{part}_dim")
    factor = config.fm_decoder_downsampling_factor[index] if is_decoder else 1
    kernel = (
        config.fm_decoder_cnn_module_kernel[index]
        if is_decoder
        else config.text_encoder_cnn_module_kernel
    )
    layers = config.fm_decoder_num_layers[index] if is_decoder else config.text_encoder_num_layers
    outer, path = f"{part}.encoders.{index}.", f"{part}/encoders_{index}/"
    inner = outer
    if factor > 1:
        inner = f"{outer}encoder."
        yield _spec(("downsample.bias", (factor,), "downsample/bias", "same"), outer, path)
    if is_decoder:
        for entry in _linear("time_emb.1", config.time_embed_dim, dim, ours="time_emb"):
            yield _spec(entry, inner, path)
    heads = getattr(config, f"{part}_num_heads")
    feedforward = getattr(config, f"{part}_feedforward_dim")
    for layer in range(layers):
        for entry in _layer(dim, kernel, heads, feedforward, config):
            yield _spec(entry, f"{inner}layers.{layer}.", f"{path}layers/", layer)
    if factor > 1:
        entry = ("out_combiner.bypass_scale", (dim,), "out_combiner/bypass_scale", "same")
        yield _spec(entry, outer, path)


def _part(config: ModelConfig, part: str) -> Iterator[TensorSpec]:
    """One TTSZipformer (or TTSZipformerTwoStream)."""
    dim, feat = getattr(config, f"{part}_dim"), config.feat_dim
    entries: list[_Entry] = []
    if part == "text_encoder":
        entries += _linear("in_proj", config.text_embed_dim, dim)
        entries += _linear("out_proj", dim, feat)
    elif config.is_stereo:
        # Two channels of noisy speech and of speech condition around one text condition.
        for stream, n_in in enumerate((5 * feat, 3 * feat)):
            entries += _linear(f"in_proj.{stream}", n_in, dim, ours=f"in_proj_{stream}")
        for stream, n_out in enumerate((2 * feat, feat)):
            entries += _linear(f"out_proj.{stream}", dim, n_out, ours=f"out_proj_{stream}")
    else:
        entries += _linear("in_proj", 3 * feat, dim)
        entries += _linear("out_proj", dim, feat)
    yield from (_spec(entry, f"{part}.", f"{part}/") for entry in entries)
    stacks = len(config.fm_decoder_downsampling_factor) if part == "fm_decoder" else 1
    for index in range(stacks):
        yield from _stack(config, part, index)
    if part == "fm_decoder":
        time = config.time_embed_dim
        entries = _linear("time_embed.0", time, 2 * time, ours="time_embed_0")
        entries += _linear("time_embed.2", 2 * time, time, ours="time_embed_2")
        if config.is_distill:
            entries += _linear("guidance_scale_embed", GUIDANCE_SCALE_EMBED_DIM, time, bias=False)
        yield from (_spec(entry, f"{part}.", f"{part}/") for entry in entries)


def tensor_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Every official tensor of a model, in the order of the official state_dict.

    Raises:
        UserError: the config asks for an absurd number of layers.
    """
    layers = sum(config.fm_decoder_num_layers) + config.text_encoder_num_layers
    if layers > _MAX_LAYERS:
        raise UserError(
            f"the model config asks for {layers} layers, more than {_MAX_LAYERS}; "
            "correct fm_decoder_num_layers or text_encoder_num_layers."
        )
    specs = [*_part(config, "fm_decoder"), *_part(config, "text_encoder")]
    tables = [("embed", config.vocab_size, config.text_embed_dim)]
    if config.speaker_embed_dim:
        tables.append(("spk_embed", 2, config.speaker_embed_dim))
    specs += [
        TensorSpec(f"{name}.weight", (rows, dim), (name, "embedding"), None, "same")
        for name, rows, dim in tables
    ]
    return tuple(specs)


def param_shapes(config: ModelConfig) -> dict[TreePath, Shape]:
    """Shape of every leaf of our tree, stacked layers included."""
    shapes: dict[TreePath, Shape] = {}
    for spec in tensor_specs(config):
        # Layers come in rising order, so the last one leaves the right length.
        stacked = () if spec.layer is None else (spec.layer + 1,)
        shapes[spec.path] = (*stacked, *spec.our_shape)
    return shapes | (duration_head_shapes(config) if config.has_durations else {})


def duration_head_shapes(config: ModelConfig) -> dict[TreePath, Shape]:
    """Leaves of the duration head, which no official model has."""
    sizes = {"hidden": (3 * config.feat_dim, DURATION_HEAD_DIM), "out": (DURATION_HEAD_DIM, 1)}
    return {
        ("duration_head", layer, name): shape
        for layer, kernel in sizes.items()
        for name, shape in (("kernel", kernel), ("bias", kernel[1:]))
    }


def flatten(params: Mapping[str, Any]) -> dict[TreePath, Any]:
    """Leaves of a nested dict by their keys; a level may be a dict or any mapping."""
    leaves: dict[TreePath, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            leaves.update({(str(key), *path): leaf for path, leaf in flatten(value).items()})
        else:
            leaves[(str(key),)] = value
    return leaves


def unflatten(leaves: Mapping[TreePath, Any]) -> Params:
    """Inverse of `flatten`."""
    params: Params = {}
    for path, leaf in leaves.items():
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return params


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
    if told := "; ".join(part for part in parts if part):
        raise UserError(
            f"{source} does not fit the model config: {told}; "
            "check that the weights, model.json and the model kind belong together."
        )


def check_params(params: Mapping[str, Any], config: ModelConfig, *, source: str) -> None:
    """Checks our tree against a config.

    Args:
        params: nested dicts of arrays.
        config: the model they should be of.
        source: what to call them in a message.

    Raises:
        UserError: naming every missing, extra or misshapen array.
    """
    _check(
        {"/".join(path): leaf for path, leaf in flatten(params).items()},
        {"/".join(path): shape for path, shape in param_shapes(config).items()},
        source,
    )


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
    specs = tensor_specs(config)
    _check(state, {spec.name: spec.shape for spec in specs}, source)
    leaves = {path: np.empty(shape, np.float32) for path, shape in param_shapes(config).items()}
    for spec in specs:
        array = spec.to_ours(np.asarray(state[spec.name]))
        leaves[spec.path][... if spec.layer is None else spec.layer] = array
    return unflatten(leaves)


def to_official(params: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """Our parameter tree as an official state_dict of float32 arrays, in official order.

    Raises:
        UserError: naming every missing, extra or misshapen array.
    """
    check_params(params, config, source="the parameter tree")
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    state = {}
    for spec in tensor_specs(config):
        leaf = leaves[spec.path]
        array = spec.to_official(leaf if spec.layer is None else leaf[spec.layer, ...])
        state[spec.name] = np.asarray(array, np.float32, order="C")
    return state


def count_parameters(params: Mapping[str, Any]) -> int:
    """Numbers in all arrays of a tree."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in flatten(params).values())

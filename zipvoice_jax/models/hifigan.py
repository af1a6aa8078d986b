"""HiFi-GAN, a vocoder for where no Vocos weights are: log-mel features to a waveform.

The generator of Kong, Kim and Bae, "HiFi-GAN" (2020): transposed convolutions up to the rate of
samples, behind each the mean of residual blocks of several kernel sizes and dilations. Our
100-bin HTK features are first turned into its 80-bin Slaney ones (`hifigan_mel`) on the same FFT
bins. A model of 22.05 kHz thus hears speech slowed by 22.05 / 24 and makes it so; played at
24 kHz, it is right again, frame by frame.

A padded batch, or a piece of a longer item, gives each sample what the whole item alone gives:
what lies outside an item is zeroed before every convolution, and `context_frames` tells how far
the generator looks. float32 throughout.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.audio.griffin_lim import mel_to_linear
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError, require

Params = dict[str, Any]
EDGE_KERNEL = 7  # of the first and the last convolution
_SLOPE, _LAST_SLOPE = 0.1, 0.01  # of leaky ReLU: in general, and before the last convolution
_POWER_FLOOR, _MEL_FLOOR = 1e-9, 1e-5  # of its features (meldataset.py of the official code)
# On accelerators the default precision of float32 products is below float32.
_EXACT = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True, kw_only=True)
class HifiganConfig:
    """Sizes of a generator and its features; the names are those of the official config.json.

    Defaults are the universal V1 model.

    Raises:
        UserError: a value that cannot work.
    """

    upsample_rates: tuple[int, ...] = (8, 8, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    upsample_initial_channel: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    num_mels: int = 80
    n_fft: int = 1024  # samples
    hop_size: int = 256  # samples
    win_size: int = 1024  # samples
    sampling_rate: int = 22_050  # Hz
    fmin: float = 0.0  # Hz
    fmax: float | None = 8000.0  # Hz; None: half of sampling_rate

    def __post_init__(self) -> None:
        for name in ("upsample_initial_channel", "num_mels", "n_fft", "hop_size", "win_size"):
            _check_counts(name, (getattr(self, name),))
        _check_counts("sampling_rate", (self.sampling_rate,))
        for name in ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes"):
            _check_counts(name, getattr(self, name))
        for dilations in self.resblock_dilation_sizes:
            _check_counts("resblock_dilation_sizes", dilations)
        rates, kernels = self.upsample_rates, self.upsample_kernel_sizes
        require(
            len(rates) == len(kernels)
            and all(k >= u and (k - u) % 2 == 0 for u, k in zip(rates, kernels, strict=True)),
            f"the vocoder's upsample_kernel_sizes {kernels} must be its upsample_rates {rates} or "
            "an even number more, one for each.",
        )
        require(
            len(self.resblock_kernel_sizes) == len(self.resblock_dilation_sizes)
            and all(k % 2 for k in self.resblock_kernel_sizes),
            f"the vocoder's resblock_kernel_sizes {self.resblock_kernel_sizes} must be odd, with "
            "one list of resblock_dilation_sizes for each.",
        )
        require(
            self.upsample_initial_channel % 2 ** len(rates) == 0,
            f"the vocoder's upsample_initial_channel {self.upsample_initial_channel} cannot be "
            f"halved {len(rates)} times.",
        )
        require(
            math.prod(rates) == self.hop_size and self.win_size == self.n_fft,
            f"the vocoder's hop_size {self.hop_size} must be the product of upsample_rates {rates},"
            f" and its win_size {self.win_size} its n_fft {self.n_fft}.",
        )
        top = self.sampling_rate / 2.0 if self.fmax is None else self.fmax
        require(
            _is_number(self.fmin) and _is_number(top) and 0.0 <= self.fmin < top,
            f"the vocoder's fmin {self.fmin!r} and fmax {self.fmax!r} are no range of Hz.",
        )
        require(top <= self.sampling_rate / 2.0, f"the vocoder's fmax {top} is above Nyquist.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_counts(name: str, values: tuple[int, ...]) -> None:
    if not (1 <= len(values) <= 16 and all(0 < value <= 1 << 20 for value in values)):
        raise UserError(f"the vocoder's {name} is {values!r}; it takes whole numbers above 0.")


def context_frames(config: HifiganConfig) -> int:
    """Frames on either side that can change the samples of a frame."""
    reach = EDGE_KERNEL // 2
    blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    block = max(kernel // 2 * (sum(dilations) + len(dilations)) for kernel, dilations in blocks)
    ups = zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)
    for rate, kernel in reversed(list(ups)):
        reach = math.ceil((reach + block) / rate) + math.ceil(kernel / rate)
    return reach + EDGE_KERNEL // 2


def _conv(features: int, kernel: int, dilation: int, name: str) -> nn.Conv:
    half = kernel // 2 * dilation
    return nn.Conv(
        features,
        (kernel,),
        padding=[(half, half)],
        kernel_dilation=(dilation,),
        precision=_EXACT,
        name=name,
    )


class TransposedConv(nn.Module):
    """torch's ConvTranspose1d with padding (kernel - rate) / 2, as one dense convolution.

    Step t of the input with taps j gives samples t * rate + j, so the rate's phases are the
    channels of a convolution over kernel / rate neighbours, without zeros in between.
    """

    features: int
    rate: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch steps dim"]) -> Float[Array, "batch longer features"]:
        """Gives steps * rate steps."""
        rate, size = self.rate, self.kernel_size
        batch, steps, dim = x.shape
        init = nn.initializers.normal(0.01)
        kernel = self.param("kernel", init, (size, dim, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        taps = math.ceil(size / rate)
        phases = jnp.pad(kernel, ((0, taps * rate - size), (0, 0), (0, 0)))
        phases = phases.reshape(taps, rate, dim, self.features)[::-1].transpose(0, 2, 1, 3)
        y = jax.lax.conv_general_dilated(
            x,
            phases.reshape(taps, dim, rate * self.features),
            window_strides=(1,),
            padding=[(taps - 1, taps - 1)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            precision=_EXACT,
        )
        y = y.reshape(batch, (steps + taps - 1) * rate, self.features)
        cut = (size - rate) // 2
        return y[:, cut : cut + steps * rate] + bias[None, None]


class Generator(nn.Module):
    """The whole generator; parameters are named as in the official state_dict."""

    config: HifiganConfig

    @nn.compact
    def __call__(
        self,
        mel: Float[Array, "batch frames mel"],
        spans: Int[Array, "batch 2"] | None = None,
    ) -> Float[Array, "batch samples"]:
        """See `decode`."""
        config, count = self.config, len(self.config.resblock_kernel_sizes)
        channels = config.upsample_initial_channel
        own = own_steps(mel.shape[1], spans, 1)
        x = jnp.where(own, mel.astype(jnp.float32), 0.0)
        x = _conv(channels, EDGE_KERNEL, 1, "conv_pre")(x)
        scale = 1
        for i, rate in enumerate(config.upsample_rates):
            channels, scale = channels // 2, scale * rate
            x = jnp.where(own, nn.leaky_relu(x, _SLOPE), 0.0)
            x = TransposedConv(channels, rate, config.upsample_kernel_sizes[i], name=f"ups_{i}")(x)
            own = own_steps(x.shape[1], spans, scale)
            blocks = [self._block(x, own, i * count + j, j) for j in range(count)]
            x = functools.reduce(jnp.add, blocks) / count
        x = jnp.where(own, nn.leaky_relu(x, _LAST_SLOPE), 0.0)
        x = _conv(1, EDGE_KERNEL, 1, "conv_post")(x)[..., 0]
        return jnp.where(own[..., 0], jnp.tanh(x), 0.0)

    def _block(
        self, x: Float[Array, "batch steps dim"], own: Bool[Array, "rows steps 1"], i: int, j: int
    ) -> Float[Array, "batch steps dim"]:
        """Residual block `i` of the model, the `j`-th at its rate."""
        size = self.config.resblock_kernel_sizes[j]
        for k, dilation in enumerate(self.config.resblock_dilation_sizes[j]):
            y = jnp.where(own, nn.leaky_relu(x, _SLOPE), 0.0)
            y = _conv(x.shape[-1], size, dilation, f"resblocks_{i}_convs1_{k}")(y)
            y = jnp.where(own, nn.leaky_relu(y, _SLOPE), 0.0)
            x = x + _conv(x.shape[-1], size, 1, f"resblocks_{i}_convs2_{k}")(y)
        return x


def own_steps(
    steps: int, spans: Int[Array, "batch 2"] | None, scale: int
) -> Bool[Array, "rows steps 1"]:
    """True where a step lies in its item; `scale` steps make a frame of `spans`."""
    if spans is None:
        return jnp.ones((1, steps, 1), bool)
    at = jnp.arange(steps, dtype=jnp.int32)[None]
    return ((at >= spans[:, :1] * scale) & (at < spans[:, 1:] * scale))[..., None]


def decode(
    config: HifiganConfig,
    params: Params,
    mel: Float[Array, "batch frames mel"],
    spans: Int[Array, "batch 2"] | None = None,
) -> Float[Array, "batch samples"]:
    """HiFi-GAN's own features to waveforms; jit-able with `config` static.

    Args:
        config: sizes and options of the model.
        params: from `params_from_official` or `Generator(config).init(...)["params"]`.
        mel: features by `hifigan_mel`.
        spans: first frame of each item, and the frame behind its last; None: all are its own.
            What lies outside has no effect on an item.

    Returns:
        (batch, frames * hop_size) samples within [-1, 1]; zero outside the item. The middle of
        a frame's samples is the middle of its window.
    """
    return Generator(config).apply({"params": params}, mel, spans)  # type: ignore[return-value]


@functools.lru_cache(maxsize=8)
def _filters(config: HifiganConfig) -> Float[np.ndarray, "mels bins"]:
    import librosa.filters  # imported here since it takes half a second

    weights = librosa.filters.mel(
        sr=config.sampling_rate,
        n_fft=config.n_fft,
        n_mels=config.num_mels,
        fmin=config.fmin,
        fmax=config.fmax,
    )
    weights.flags.writeable = False  # the array is shared by all callers
    return weights


def hifigan_mel(
    log_mel: Float[np.ndarray, "frames n_mels"], features: FeatureConfig, config: HifiganConfig
) -> Float[np.ndarray, "frames num_mels"]:
    """The features that HiFi-GAN takes, from ours; on the host, frame by frame.

    Magnitudes by FFT bin are found as for Griffin-Lim. Bins keep their numbers, not their Hz.

    Args:
        log_mel: natural-logarithm mel features, unscaled.
        features: their settings, with the n_fft and hop of `config`.
        config: the generator's config.

    Returns:
        log(max(Slaney mel of magnitudes, 1e-5)), float32.

    Raises:
        UserError: features of another width, or NaN or infinite ones.
    """
    log_mel = np.asarray(log_mel, np.float32)
    require(
        log_mel.ndim == 2 and log_mel.shape[1] == features.n_mels,
        f"features of shape {log_mel.shape} cannot be turned into audio; "
        f"they must be (frames, {features.n_mels}).",
    )
    require(
        bool(np.isfinite(log_mel).all()),
        "the features hold NaN or infinite values; check the model's weights.",
    )
    linear = mel_to_linear(log_mel, features)
    mel = np.sqrt(np.square(linear) + np.float32(_POWER_FLOOR)) @ _filters(config).T
    return np.log(np.maximum(mel, np.float32(_MEL_FLOOR)))


_KEYS = {field.name for field in dataclasses.fields(HifiganConfig)}


def config_from_json(text: str, name: str = "config.json") -> HifiganConfig:
    """Reads an official HiFi-GAN config.json; settings of its training are passed over.

    Args:
        text: the file's contents.
        name: how to call it in a message.

    Raises:
        UserError: not JSON, a setting is missing or cannot work, or another kind of block.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        lacking = sorted(_KEYS - content.keys()) if isinstance(content, dict) else ["everything"]
        raise UserError(f"{name} is no HiFi-GAN configuration: it lacks {', '.join(lacking[:3])}.")
    if str(content.get("resblock", "1")) != "1":
        raise UserError(
            f"{name} has resblock {content['resblock']!r}; only 1 is known (V1 and V2)."
        )
    values = {key: _tuples(content[key]) for key in _KEYS}
    for field in dataclasses.fields(HifiganConfig):
        value = values[field.name]
        if not (_is_like(value, field.default) or (field.name == "fmax" and value is None)):
            raise UserError(
                f"{name} has {field.name} {value!r}; it takes a value such as {field.default}."
            )
    return HifiganConfig(**values)


def _tuples(value: Any, depth: int = 0) -> Any:
    if isinstance(value, list) and depth < 2:
        return tuple(_tuples(one, depth + 1) for one in value)
    return value


def _is_like(value: object, example: object) -> bool:
    """Whether a value of JSON is of an example's type, lists in full."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and all(_is_like(one, example[0]) for one in value)
    return _is_number(value) if isinstance(example, float) else type(value) is int


def params_from_official(state: Mapping[str, np.ndarray], config: HifiganConfig) -> Params:
    """Official generator weights as parameters of `Generator`, float32.

    Args:
        state: arrays by official name. Weight normalisation is folded in (weight_g * weight_v /
            norm of weight_v over all but the first axis), whether or not it was removed before.
        config: what the shapes must agree with.

    Raises:
        UserError: an array is missing, unknown or of another shape.
    """
    left = {key: np.asarray(value, np.float32) for key, value in state.items()}

    def take(name: str, *shape: int) -> np.ndarray:
        if name not in left:
            raise UserError(f"the vocoder's weights lack {name}; use a HiFi-GAN generator.")
        value = left.pop(name)
        if value.shape != shape:
            raise UserError(
                f"the vocoder's {name} has shape {value.shape} where its configuration "
                f"needs {shape}; use weights and config.json of one release."
            )
        return value

    def weight(name: str, *shape: int) -> np.ndarray:
        for g, v in (("weight_g", "weight_v"), _PARAMETRISED):
            if f"{name}.{g}" in left:
                size = take(f"{name}.{g}", shape[0], 1, 1)
                direction = take(f"{name}.{v}", *shape)
                norm = np.sqrt(np.square(direction, dtype=np.float64).sum((1, 2), keepdims=True))
                return (size * direction / np.maximum(norm, 1e-30)).astype(np.float32)
        return take(f"{name}.weight", *shape)

    def conv(name: str, inputs: int, outputs: int, size: int) -> Params:
        kernel = weight(name, outputs, inputs, size).transpose(2, 1, 0)
        return {"kernel": np.ascontiguousarray(kernel), "bias": take(f"{name}.bias", outputs)}

    channels, count = config.upsample_initial_channel, len(config.resblock_kernel_sizes)
    params = {"conv_pre": conv("conv_pre", config.num_mels, channels, EDGE_KERNEL)}
    for i, size in enumerate(config.upsample_kernel_sizes):
        kernel = weight(f"ups.{i}", channels, channels // 2, size).transpose(2, 0, 1)
        channels //= 2
        bias = take(f"ups.{i}.bias", channels)
        params[f"ups_{i}"] = {"kernel": np.ascontiguousarray(kernel), "bias": bias}
        for j, width in enumerate(config.resblock_kernel_sizes):
            for k in range(len(config.resblock_dilation_sizes[j])):
                for part in ("convs1", "convs2"):
                    block = f"resblocks.{i * count + j}.{part}.{k}"
                    params[block.replace(".", "_")] = conv(block, channels, channels, width)
    params["conv_post"] = conv("conv_post", channels, 1, EDGE_KERNEL)
    if left:
        raise UserError(
            f"the vocoder's weights have unknown arrays {', '.join(sorted(left)[:3])}; "
            "use a HiFi-GAN generator."
        )
    return params


# How torch names the two since version 2.0.
_PARAMETRISED = ("parametrizations.weight.original0", "parametrizations.weight.original1")

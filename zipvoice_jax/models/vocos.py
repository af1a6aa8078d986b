"""Vocos, the vocoder of ZipVoice: log-mel features to a waveform.

A ConvNeXt backbone over frames and a head that predicts magnitude and phase for an inverse
STFT (Siuzdak, "Vocos", 2023; official checkpoint charactr/vocos-mel-24khz). Everything
runs in float32: phases don't bear less.

A padded batch gives each item what it gives alone, since what lies behind an item's last
frame is zeroed before every convolution and left out of the overlap-add.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.audio.mel import hann_window
from zipvoice_jax.core.errors import UserError

Params = dict[str, Any]
KERNEL = 7  # frames that a convolution sees
MAX_MAGNITUDE = 1e2  # ISTFTHead: "safeguard to prevent excessively large magnitudes"
# On accelerators the default precision of float32 products is below float32.
_EXACT = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocosConfig:
    """Sizes of a Vocos model; defaults are charactr/vocos-mel-24khz.

    Raises:
        UserError: a value that cannot work.
    """

    input_channels: int = 100  # mel bins
    dim: int = 512
    intermediate_dim: int = 1536
    num_layers: int = 8
    n_fft: int = 1024  # samples
    hop_length: int = 256  # samples
    sampling_rate: int = 24_000  # Hz
    padding: str = "center"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and not (type(value) is int and value > 0):
                raise UserError(
                    f"the vocoder's {field.name} is {value!r}; it takes a whole number above 0."
                )
        if self.padding != "center":
            raise UserError(
                f"the vocoder's padding is {self.padding!r}; ZipVoice's features need 'center'."
            )
        if self.n_fft % self.hop_length or self.n_fft < 2 * self.hop_length:
            raise UserError(
                f"the vocoder's n_fft {self.n_fft} must be 2 or more times its hop_length "
                f"{self.hop_length}, without remainder."
            )


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over frames, then a pointwise feed-forward; residual."""

    config: VocosConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames dim"], own: Bool[Array, "batch frames 1"]
    ) -> tuple[Float[Array, "batch frames dim"], None]:
        """Returns (output, None), as a scan over layers takes it."""
        dim = self.config.dim
        kernel = self.param("dwconv_kernel", nn.initializers.normal(0.02), (KERNEL, dim))
        bias = self.param("dwconv_bias", nn.initializers.zeros, (dim,))
        half = KERNEL // 2
        padded = jnp.pad(jnp.where(own, x, 0.0), ((0, 0), (half, half), (0, 0)))
        # Shifted products: XLA fuses them, and its grouped convolution is slow on CPUs.
        y = sum(padded[:, k : k + x.shape[1]] * kernel[k][None, None] for k in range(KERNEL))
        y = nn.LayerNorm(epsilon=1e-6, name="norm")(y + bias[None, None])
        y = nn.Dense(self.config.intermediate_dim, precision=_EXACT, name="pwconv1")(y)
        y = nn.gelu(y, approximate=False)
        y = nn.Dense(dim, precision=_EXACT, name="pwconv2")(y)
        scale = 1.0 / self.config.num_layers
        gamma = self.param("gamma", nn.initializers.constant(scale), (dim,))
        return x + y * gamma[None, None], None


class Vocos(nn.Module):
    """The whole vocoder; `hidden` and `head` are its two halves."""

    config: VocosConfig

    def setup(self) -> None:
        """Names the parts as the official state_dict does."""
        config = self.config
        self.embed = nn.Conv(config.dim, (KERNEL,), padding="SAME", precision=_EXACT)
        self.norm = nn.LayerNorm(epsilon=1e-6)
        self.convnext = nn.scan(
            ConvNeXtBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # type: ignore[arg-type]
            length=config.num_layers,
        )(config)
        self.final_layer_norm = nn.LayerNorm(epsilon=1e-6)
        self.out = nn.Dense(config.n_fft + 2, precision=_EXACT)

    def hidden(
        self,
        mel: Float[Array, "batch frames mel"],
        lengths: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch frames dim"]:
        """Output of the backbone; meaningless behind an item's own frames."""
        own = own_frames(mel, lengths)[:, :, None]
        x = self.norm(self.embed(jnp.where(own, mel, 0.0).astype(jnp.float32)))
        x, _ = self.convnext(x, own)
        return self.final_layer_norm(x)

    def __call__(
        self,
        mel: Float[Array, "batch frames mel"],
        lengths: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch samples"]:
        """See `decode`."""
        coefficients = self.out(self.hidden(mel, lengths))
        log_magnitude, phase = jnp.split(coefficients, 2, axis=-1)
        magnitude = jnp.minimum(jnp.exp(log_magnitude), MAX_MAGNITUDE)
        spectrum = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
        return inverse_stft(spectrum, own_frames(mel, lengths), self.config)


def own_frames(
    mel: Float[Array, "batch frames mel"], lengths: Int[Array, " batch"] | None
) -> Bool[Array, "batch frames"]:
    """True where a frame belongs to its item; everywhere if `lengths` is None."""
    batch, frames = mel.shape[:2]
    if lengths is None:
        return jnp.ones((batch, frames), bool)
    return jnp.arange(frames)[None, :] < lengths[:, None]


def inverse_stft(
    spectrum: Array, own: Bool[Array, "batch frames"], config: VocosConfig
) -> Float[Array, "batch samples"]:
    """Centred inverse STFT with a Hann window (torch.istft with center=True).

    Args:
        spectrum: complex, (batch, frames, n_fft // 2 + 1).
        own: the frames of each item, from its start.
        config: n_fft, which is a multiple of hop_length.

    Returns:
        (frames - 1) * hop_length samples; zero behind (item's frames - 1) * hop_length.
    """
    n_fft, hop = config.n_fft, config.hop_length
    overlaps = n_fft // hop
    batch, frames = own.shape
    window = jnp.asarray(hann_window(n_fft))[None, None]
    weight = own[:, :, None].astype(jnp.float32)
    segments = jnp.fft.irfft(spectrum, n=n_fft, axis=-1) * window
    segments = jnp.where(own[:, :, None], segments, 0.0)

    def overlap_add(x: Float[Array, "batch frames n_fft"]) -> Float[Array, "batch samples"]:
        # The k-th part of every frame, each hop samples long, falls k hops behind its start.
        parts = x.reshape(batch, frames, overlaps, hop)
        total = sum(
            jnp.pad(parts[:, :, k], ((0, 0), (k, overlaps - 1 - k), (0, 0)))
            for k in range(overlaps)
        )
        return jnp.reshape(total, (batch, -1))  # type: ignore[arg-type]

    wave = overlap_add(segments)
    envelope = overlap_add(jnp.square(window) * weight)
    start = n_fft // 2
    samples = max(frames - 1, 0) * hop
    wave, envelope = (x[:, start : start + samples] for x in (wave, envelope))
    wave = wave / jnp.maximum(envelope, 1e-11)
    ends = jnp.maximum(own.sum(axis=1) - 1, 0) * hop
    return jnp.where(jnp.arange(samples)[None] < ends[:, None], wave, 0.0)


def decode(
    config: VocosConfig,
    params: Params,
    mel: Float[Array, "batch frames mel"],
    lengths: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch samples"]:
    """Log-mel features to waveforms; jit-able with `config` static.

    Args:
        config: sizes and options of the model.
        params: from `vocos_params_from_official` or `Vocos(config).init(...)["params"]`.
        mel: natural-logarithm mel features, unscaled (features of the model / feat_scale).
        lengths: frames of each item; None: all. Padding has no effect on an item.

    Returns:
        (batch, (frames - 1) * hop_length) samples, not clipped; item i has
        (lengths[i] - 1) * hop_length of them and zeros behind.
    """
    return Vocos(config).apply({"params": params}, mel, lengths)  # type: ignore[return-value]


def vocos_config_from_yaml(text: str, name: str = "config.yaml") -> VocosConfig:
    """Reads an official Vocos config.yaml.

    Args:
        text: the file's contents.
        name: how to call it in a message.

    Raises:
        UserError: not YAML, or a class, key or value that this vocoder doesn't have.
    """
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        config = None
    if not isinstance(config, Mapping):
        raise UserError(f"{name} is not a Vocos configuration; take it from the vocoder's release.")
    extra = sorted(map(str, set(config) - {"feature_extractor", "backbone", "head"}))
    if extra:
        raise UserError(f"{name} has unknown parts {', '.join(extra)}; use a Vocos mel release.")
    mel = _section(config, "feature_extractor", name)
    backbone = _section(config, "backbone", name)
    head = _section(config, "head", name)
    if backbone.get("adanorm_num_embeddings") is not None:
        raise UserError(f"{name} is of an EnCodec Vocos (adanorm); use a Vocos mel release.")
    for key, value, wanted in (
        ("head dim", head["dim"], backbone["dim"]),
        ("feature_extractor n_fft", mel["n_fft"], head["n_fft"]),
        ("feature_extractor hop_length", mel["hop_length"], head["hop_length"]),
        ("feature_extractor n_mels", mel["n_mels"], backbone["input_channels"]),
        ("feature_extractor padding", mel["padding"], "center"),
    ):
        if value != wanted:
            raise UserError(f"{name} has {key} {value!r} where {wanted!r} is needed.")
    return VocosConfig(
        input_channels=backbone["input_channels"],
        dim=backbone["dim"],
        intermediate_dim=backbone["intermediate_dim"],
        num_layers=backbone["num_layers"],
        n_fft=head["n_fft"],
        hop_length=head["hop_length"],
        sampling_rate=mel["sample_rate"],
        padding=head["padding"],
    )


# Of each part: its class, the settings that it must have, those that it may have.
_PARTS: dict[str, tuple[str, set[str], set[str]]] = {
    "feature_extractor": (
        "vocos.feature_extractors.MelSpectrogramFeatures",
        {"sample_rate", "n_fft", "hop_length", "n_mels", "padding"},
        set(),
    ),
    "backbone": (
        "vocos.models.VocosBackbone",
        {"input_channels", "dim", "intermediate_dim", "num_layers"},
        {"layer_scale_init_value", "adanorm_num_embeddings"},
    ),
    "head": ("vocos.heads.ISTFTHead", {"dim", "n_fft", "hop_length", "padding"}, set()),
}


def _section(config: Mapping[str, Any], part: str, name: str) -> Mapping[str, Any]:
    """The init_args of a part, after checking its class and keys."""
    class_path, needed, allowed = _PARTS[part]
    section = config.get(part)
    section = section if isinstance(section, Mapping) else {}
    if section.get("class_path") != class_path:
        raise UserError(
            f"{name} has {part} {section.get('class_path')!r}; only {class_path} is known."
        )
    values = section.get("init_args")
    values = values if isinstance(values, Mapping) else {}
    unknown = set(values) - needed - allowed | set(section) - {"class_path", "init_args"}
    missing = needed - set(values)
    for word, keys in (("unknown", unknown), ("no", missing)):
        if keys:
            listed = ", ".join(sorted(map(str, keys)))
            raise UserError(
                f"{name} has {word} {part} settings {listed}; take it from a Vocos mel release."
            )
    for key in sorted(needed - {"padding"}):
        if type(values[key]) is not int:
            raise UserError(f"{name} has {part} {key} {values[key]!r}; it takes a whole number.")
    return values


def vocos_config_from_official(
    state: Mapping[str, np.ndarray], *, hop_length: int = 256, sampling_rate: int = 24_000
) -> VocosConfig:
    """The sizes that an official state_dict shows; hop and rate leave no trace in it.

    Raises:
        UserError: the arrays are not those of a Vocos.
    """
    try:
        dim, input_channels, _ = state["backbone.embed.weight"].shape
        layers = {key.split(".")[2] for key in state if key.startswith("backbone.convnext.")}
        return VocosConfig(
            input_channels=int(input_channels),
            dim=int(dim),
            intermediate_dim=int(state["backbone.convnext.0.pwconv1.weight"].shape[0]),
            num_layers=len(layers),
            n_fft=int(state["head.out.weight"].shape[0]) - 2,
            hop_length=hop_length,
            sampling_rate=sampling_rate,
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the vocoder's weights are not those of a Vocos ({error}); use a Vocos mel release."
        ) from None


def vocos_params_from_official(
    state: Mapping[str, np.ndarray], config: VocosConfig | None = None
) -> Params:
    """Official Vocos weights as parameters of `Vocos`, float32.

    Args:
        state: arrays by official name, such as "backbone.embed.weight"; buffers
            ("feature_extractor.*", "head.istft.window") are ignored.
        config: what the shapes must agree with; None: inferred from `state`.

    Raises:
        UserError: an array is missing, unknown or of another shape.
    """
    config = config or vocos_config_from_official(state)
    left = {
        key: np.asarray(value, np.float32)
        for key, value in state.items()
        if not key.startswith("feature_extractor.") and key != "head.istft.window"
    }

    def take(name: str, *shape: int) -> np.ndarray:
        if name not in left:
            raise UserError(f"the vocoder's weights lack {name}; use a Vocos mel release.")
        value = left.pop(name)
        if value.shape != shape:
            raise UserError(
                f"the vocoder's {name} has shape {value.shape} where its configuration "
                f"needs {shape}; use weights and config.yaml of one release."
            )
        return value

    def norm(name: str) -> Params:
        return {"scale": take(f"{name}.weight", dim), "bias": take(f"{name}.bias", dim)}

    def dense(name: str, inputs: int, outputs: int) -> Params:
        weight = take(f"{name}.weight", outputs, inputs)
        return {"kernel": weight.T, "bias": take(f"{name}.bias", outputs)}

    def block(name: str) -> Params:
        return {
            "gamma": take(f"{name}.gamma", dim),
            "dwconv_kernel": take(f"{name}.dwconv.weight", dim, 1, KERNEL)[:, 0].T,
            "dwconv_bias": take(f"{name}.dwconv.bias", dim),
            "norm": norm(f"{name}.norm"),
            "pwconv1": dense(f"{name}.pwconv1", dim, wide),
            "pwconv2": dense(f"{name}.pwconv2", wide, dim),
        }

    dim, wide = config.dim, config.intermediate_dim
    embed = take("backbone.embed.weight", dim, config.input_channels, KERNEL)
    blocks = [block(f"backbone.convnext.{i}") for i in range(config.num_layers)]
    params = {
        "embed": {"kernel": embed.transpose(2, 1, 0), "bias": take("backbone.embed.bias", dim)},
        "norm": norm("backbone.norm"),
        "convnext": jax.tree.map(lambda *layers: np.stack(layers), *blocks),
        "final_layer_norm": norm("backbone.final_layer_norm"),
        "out": dense("head.out", dim, config.n_fft + 2),
    }
    if left:
        raise UserError(
            f"the vocoder's weights have unknown arrays {', '.join(sorted(left)[:3])}; "
            "use a Vocos mel release."
        )
    return params


def load_vocos(
    directory: str | Path, read_state: Callable[[Path], Mapping[str, np.ndarray]]
) -> tuple[VocosConfig, Params]:
    """Loads an official release directory: config.yaml and pytorch_model.bin.

    Args:
        directory: where the two files are.
        read_state: reads a torch file as arrays by name (zipvoice_jax.checkpoint).

    Raises:
        UserError: a file is missing or is not what it should be.
    """
    directory = Path(directory)
    for name in ("config.yaml", "pytorch_model.bin"):
        if not (directory / name).is_file():
            raise UserError(
                f"{directory / name} does not exist; give the directory of a Vocos release, "
                "such as charactr/vocos-mel-24khz."
            )
    path = directory / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from None
    config = vocos_config_from_yaml(text, str(path))
    return config, vocos_params_from_official(read_state(directory / "pytorch_model.bin"), config)

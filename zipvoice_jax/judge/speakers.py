"""Speaker encoders: Resemblyzer and WavLM with ECAPA-TDNN in JAX, or models of torch."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zipvoice_jax.checkpoint.torch_legacy import read_legacy
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.judge import packages
from zipvoice_jax.judge.backends import (
    RATE,
    SpeakerEncoder,
    Wave,
    brief,
    choose,
    fingerprint_of,
    library,
    needs,
    placed,
    versions,
)
from zipvoice_jax.judge.ecapa import embed, read_ecapa
from zipvoice_jax.judge.layers import Tree, Weights, dense, lstm, read_lstm, read_weights
from zipvoice_jax.judge.timing import speech_regions
from zipvoice_jax.judge.wav2vec import padded

_FRAMES, _STEP, _HOP = 160, 77, 160  # frames of a window and between windows, samples of a frame
_BATCH = 16  # windows
_SHORTEST = RATE // 2  # least samples for an X-vector
_LONGEST = 120  # seconds of a recording that WavLM takes
_LEVEL = 10.0 ** (-30.0 / 20.0)  # root mean square to which quiet speech is raised


def spoken(wave: Wave) -> Wave:
    """The parts with speech, joined; the whole wave if none is found."""
    parts = [wave[round(r.start * RATE) : round(r.end * RATE)] for r in speech_regions(wave)]
    return np.concatenate(parts) if parts else wave


def unit(vector: np.ndarray) -> Float[np.ndarray, " dim"]:
    """The vector scaled to length 1."""
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


@jax.jit
def _ge2e(tree: Tree, x: Float[Array, "windows frames mels"]) -> Float[Array, "windows dim"]:
    """The network of Resemblyzer. Official: resemblyzer/voice_encoder.py."""
    keep = jnp.ones(x.shape[1], bool)
    for layer in tree["layers"]:
        x = jax.vmap(lstm, in_axes=(None, 0, None))(layer, x, keep)
    y = jax.nn.relu(dense(tree["linear"], x[:, -1]))
    return y / jnp.maximum(jnp.linalg.norm(y, axis=1, keepdims=True), 1e-12)


class Resemblyzer:
    """The encoder of Resemblyzer (GE2E): three LSTMs over windows of 1.6 s, averaged."""

    def __init__(self, path: Path) -> None:
        self.description = {
            "name": "resemblyzer",
            "library": versions("jax", "librosa", "faster-whisper"),
            "weights": packages.sha256_of_files(path),
            "options": "in JAX, speech parts by Silero's detector",
        }
        tree = read_legacy(path)
        if not isinstance(tree, Mapping) or "model_state" not in tree:
            raise UserError(f"{path} holds no speaker encoder of Resemblyzer.")
        weights = Weights(tree["model_state"], str(path))
        layers = [read_lstm(weights, f"lstm.{{}}_l{i}") for i in range(3)]
        self._tree: Tree = {"layers": layers, **weights.tree("linear")}

    def embed(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """A vector of length 1 in 256 dimensions."""
        wave = spoken(wave)
        level = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
        wave = wave * max(_LEVEL / max(level, 1e-9), 1.0)
        return unit(self._windows(wave).mean(axis=0))

    def _windows(self, wave: Wave) -> Float[np.ndarray, "windows dim"]:
        import librosa

        frames = -(-(len(wave) + 1) // _HOP)
        begins = list(range(0, max(1, frames - _FRAMES + _STEP + 1), _STEP))
        # The last window counts if speech fills most of it.
        if len(begins) > 1 and (len(wave) - begins[-1] * _HOP) / (_FRAMES * _HOP) < 0.75:
            begins.pop()
        wave = np.pad(wave, (0, max(0, (begins[-1] + _FRAMES) * _HOP - len(wave))))
        mel = librosa.feature.melspectrogram(
            y=wave.astype(np.float32), sr=RATE, n_fft=400, hop_length=_HOP, n_mels=40
        ).T
        return self.forward(np.stack([mel[b : b + _FRAMES] for b in begins]))

    def forward(
        self, x: Float[np.ndarray, "windows frames mels"]
    ) -> Float[np.ndarray, "windows dim"]:
        """A vector of length 1 for each window."""
        vectors = []
        for begin in range(0, len(x), _BATCH):  # one shape, hence one program
            part = x[begin : begin + _BATCH]
            padded = np.pad(part, ((0, _BATCH - len(part)), (0, 0), (0, 0)))
            vectors.append(np.asarray(_ge2e(self._tree, padded))[: len(part)])
        return np.concatenate(vectors)


class WavlmEcapa:
    """ECAPA-TDNN on WavLM-large: the encoder of SIM and cpSIM in the paper."""

    def __init__(self, path: Path) -> None:
        self.description = {
            "name": "wavlm-ecapa",
            "library": versions("jax"),
            "weights": packages.sha256_of_files(path),
            "options": f"in JAX, the first {_LONGEST} s, silence included, as officially",
        }
        self._tree = jax.device_put(read_ecapa(read_weights(path)))
        self._embed = jax.jit(embed)

    def embed(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """A vector of length 1 in 256 dimensions."""
        wave = np.asarray(wave, np.float32)[: _LONGEST * RATE]
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-5)
        with jax.default_matmul_precision("highest"):
            return unit(np.asarray(self._embed(self._tree, *padded(wave))))


class XVector:
    """A model of transformers that returns embeddings, such as WavLM with an X-vector head."""

    def __init__(self, path: Path) -> None:
        self.description = {
            "name": f"transformers:{path}",
            "library": versions("transformers", "torch", "faster-whisper"),
            "weights": fingerprint_of(path, "*.safetensors", "*.bin"),
            "options": "AutoModelForAudioXVector",
        }
        make = library("transformers").AutoModelForAudioXVector.from_pretrained
        try:
            model, info = make(path, output_loading_info=True)
        except Exception as error:  # what is no such model can fail in any way
            raise UserError(
                f"{path} is no speaker encoder of transformers ({brief(error)})."
            ) from None
        if missing := sorted(info["missing_keys"]):
            raise UserError(f"{path} is no speaker encoder: it has no weights {missing[0]}.")
        self._model = model.float().eval()

    def embed(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """A vector of length 1."""
        torch = library("torch")

        part = spoken(wave)
        part = np.resize(part, max(len(part), _SHORTEST))  # repeats short speech
        with torch.no_grad():
            vectors = self._model(torch.from_numpy(part)[None]).embeddings
        return unit(vectors[0].numpy())


class Scripted:
    """A TorchScript file that takes (1, samples), such as WavLM with ECAPA-TDNN or UTMOS."""

    def __init__(self, path: Path) -> None:
        self.description = {
            "name": f"torchscript:{path}",
            "library": versions("torch", "faster-whisper"),
            "weights": packages.sha256_of_files(path),
            "options": "16 kHz",
        }
        self._path = path
        torch = library("torch")

        try:
            self._model = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{path} is no file of TorchScript ({brief(error)}).") from None

    def _vector(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """The output of the file: (1, dim), or any other shape of a single vector.

        Raises:
            UserError: it fails, or returns something else.
        """
        torch = library("torch")

        try:
            with torch.no_grad():
                output = self._model(torch.from_numpy(np.array(wave, np.float32))[None])
        except Exception as error:  # whatever it does
            raise UserError(f"{self._path} fails on (1, samples): {brief(error)}.") from None
        if not isinstance(output, torch.Tensor) or output.numel() != max((1, *output.shape)):
            shape = f" {tuple(output.shape)}" if isinstance(output, torch.Tensor) else ""
            raise UserError(
                f"{self._path} gives a {type(output).__name__}{shape}; export one that gives a "
                "vector for a voice, or a number for an opinion."
            )
        if not output.isfinite().all():
            raise UserError(f"{self._path} gives NaN or infinite numbers.")
        return output.detach().float().numpy().ravel()

    def embed(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """A vector of length 1.

        Raises:
            UserError: the file returns none.
        """
        return unit(self._vector(spoken(wave)))

    def score(self, wave: Wave) -> float:
        """The number that the file returns.

        Raises:
            UserError: it returns none.
        """
        values = self._vector(wave)
        if len(values) != 1:
            raise UserError(f"{self._path} gives {len(values)} numbers; an opinion is one.")
        return float(values[0])


def open_speaker_encoder(name: str) -> SpeakerEncoder:
    """A speaker encoder by its name.

    Raises:
        UserError: it is unknown, or its library or weights are missing.
    """
    role = "speaker encoder"
    return choose(
        role,
        name,
        {
            "resemblyzer": lambda path: Resemblyzer(
                path or packages.find_package("resemblyzer") / "pretrained.pt"
            ),
            "transformers": lambda path: XVector(needs(role, "transformers", path)),
            "wavlm-ecapa": lambda path: WavlmEcapa(placed("wavlm-ecapa", path)),
            "torchscript": lambda path: Scripted(needs(role, "torchscript", path)),
        },
    )

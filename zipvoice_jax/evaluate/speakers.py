"""Speaker encoders: Resemblyzer without torch, or models of transformers or TorchScript."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zipvoice_jax.checkpoint.torch_legacy import read_legacy
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.evaluate import packages
from zipvoice_jax.evaluate.backends import (
    RATE,
    SpeakerEncoder,
    Wave,
    choose,
    library,
    needs,
    versions,
)
from zipvoice_jax.evaluate.timing import speech_regions

_FRAMES, _STEP, _HOP = 160, 77, 160  # frames of a window and between windows, samples of a frame
_BATCH = 16  # windows
_LEVEL = 10.0 ** (-30.0 / 20.0)  # root mean square that quiet speech is raised to


def spoken(wave: Wave) -> Wave:
    """The parts with speech, joined; all of it where none is found."""
    parts = [wave[round(r.start * RATE) : round(r.end * RATE)] for r in speech_regions(wave)]
    return np.concatenate(parts) if parts else wave


def unit(vector: np.ndarray) -> Float[np.ndarray, " dim"]:
    """The vector at length 1."""
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


@jax.jit
def _lstms(
    state: dict[str, Float[Array, "..."]], x: Float[Array, "windows frames mels"]
) -> Float[Array, "windows dim"]:
    """The network of Resemblyzer. Official: resemblyzer/voice_encoder.py."""
    x = jnp.swapaxes(x, 0, 1)
    for layer in range(3):
        w_x, w_h, b_x, b_h = (
            state[f"lstm.{name}_l{layer}"]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )

        def step(carry: tuple[Array, Array], given: Array, w_h: Array = w_h) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(given + h @ w_h.T, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        nothing = jnp.zeros((x.shape[1], w_h.shape[1]), jnp.float32)
        _, x = jax.lax.scan(step, (nothing, nothing), x @ w_x.T + (b_x + b_h)[None, None])
    y = jax.nn.relu(x[-1] @ state["linear.weight"].T + state["linear.bias"][None])
    return y / jnp.maximum(jnp.linalg.norm(y, axis=1, keepdims=True), 1e-12)


class Resemblyzer:
    """The encoder of Resemblyzer (GE2E): three LSTMs over windows of 1.6 s, averaged."""

    def __init__(self, path: Path) -> None:
        self.about = {
            "name": "resemblyzer",
            "library": versions("librosa", "faster-whisper"),
            "weights": packages.fingerprint(path),
            "options": "in JAX, speech parts by Silero's detector",
        }
        self._state: dict[str, np.ndarray] = dict(read_legacy(path)["model_state"])

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
        # The last one counts when speech fills most of it.
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
        found = []
        for begin in range(0, len(x), _BATCH):  # one shape, hence one program
            part = x[begin : begin + _BATCH]
            padded = np.pad(part, ((0, _BATCH - len(part)), (0, 0), (0, 0)))
            found.append(np.asarray(_lstms(self._state, padded))[: len(part)])
        return np.concatenate(found)


class XVector:
    """A model of transformers that gives embeddings, such as WavLM with an X-vector head."""

    def __init__(self, path: Path) -> None:
        self.about = {
            "name": f"transformers:{path}",
            "library": versions("transformers", "torch"),
            "weights": packages.fingerprint(*sorted(path.glob("*.safetensors"))),
            "options": "AutoModelForAudioXVector",
        }
        transformers = library("transformers")

        try:
            self._model = transformers.AutoModelForAudioXVector.from_pretrained(path).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{path} is no speaker encoder of transformers ({error}).") from None

    def embed(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """A vector of length 1."""
        torch = library("torch")

        with torch.no_grad():
            found = self._model(torch.from_numpy(np.array(spoken(wave)))[None]).embeddings
        return unit(found[0].numpy())


class Scripted:
    """A TorchScript file that takes (1, samples), such as WavLM with ECAPA-TDNN or UTMOS."""

    def __init__(self, path: Path) -> None:
        self.about = {
            "name": f"torchscript:{path}",
            "library": versions("torch"),
            "weights": packages.fingerprint(path),
            "options": "16 kHz",
        }
        torch = library("torch")

        try:
            self._model = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise UserError(f"{path} is no file of TorchScript ({said}).") from None

    def __call__(self, wave: Wave) -> np.ndarray:
        """What the file computes, flat."""
        torch = library("torch")

        with torch.no_grad():
            return self._model(torch.from_numpy(np.array(wave, np.float32))[None]).numpy().ravel()

    def embed(self, wave: Wave) -> Float[np.ndarray, " dim"]:
        """A vector of length 1."""
        return unit(self(spoken(wave)))

    def score(self, wave: Wave) -> float:
        """The first number that it gives."""
        return float(self(wave)[0])


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
                path or packages.find("resemblyzer") / "pretrained.pt"
            ),
            "transformers": lambda path: XVector(needs(role, "transformers", path)),
            "torchscript": lambda path: Scripted(needs(role, "torchscript", path)),
        },
    )

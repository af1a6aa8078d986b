"""Quality predictors: DNSMOS from its ONNX files, UTMOS, DistillMOS, or a TorchScript file."""

import contextlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.judge import packages
from zipvoice_jax.judge.backends import (
    RATE,
    QualityPredictor,
    Wave,
    choose,
    library,
    needs,
    placed,
    versions,
)
from zipvoice_jax.judge.layers import read_weights
from zipvoice_jax.judge.speakers import Scripted
from zipvoice_jax.judge.utmos import opinion, read_utmos
from zipvoice_jax.judge.wav2vec import padded

_SECONDS = 9.01  # of one window
_SAMPLES = int(_SECONDS * RATE)
# Polynomial from the network's output to the scale of listeners (speechmos/dnsmos.py).
_TO_OVERALL = (-0.06766283, 1.11546468, 0.04602535)


class Dnsmos:
    """DNSMOS P.835: the overall score, averaged over windows of 9 s, one each second."""

    def __init__(self, path: Path) -> None:
        model = path / "sig_bak_ovr.onnx"
        self.description = {
            "name": "dnsmos",
            "library": versions("onnxruntime"),
            "weights": packages.sha256_of_files(model),
            "options": "P.835 overall",
        }
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class of its own for each damage
            reason = str(error).splitlines()[0]
            raise UserError(f"{model} is no model that onnxruntime reads ({reason}).") from None

    def score(self, wave: Wave) -> float:
        """The score; speech shorter than 9 s is repeated, as in the official code."""
        while len(wave) < _SAMPLES:
            wave = np.tile(wave, 2)
        begins = range(0, int(len(wave) // RATE - _SECONDS + 1) * RATE, RATE)
        parts = [wave[begin : begin + _SAMPLES] for begin in begins or [0]]
        windows = [np.clip(part, -1.0, 1.0).astype(np.float32) for part in parts]
        raw = [np.asarray(self._session.run(None, {"input_1": w[None]})[0])[0, 2] for w in windows]
        return float(np.mean(np.polyval(_TO_OVERALL, np.asarray(raw, np.float64))))


class Utmos:
    """UTMOS (strong learner): the predictor of the paper."""

    def __init__(self, path: Path) -> None:
        self.description = {
            "name": "utmos",
            "library": versions("jax"),
            "weights": packages.sha256_of_files(path),
            "options": "in JAX, strong learner",
        }
        self._tree = jax.device_put(read_utmos(read_weights(path)))
        self._opinion = jax.jit(opinion)

    def score(self, wave: Wave) -> float:
        """The score."""
        with jax.default_matmul_precision("highest"):
            return float(self._opinion(self._tree, *padded(wave)))


class DistillMos:
    """DistillMOS (`pip install --no-deps distillmos xls-r-sqa`, and torch)."""

    def __init__(self) -> None:
        libraries = versions("distillmos", "xls-r-sqa", "torch")
        distillmos = _distillmos()
        self.description = {
            "name": "distillmos",
            "library": libraries,
            "weights": packages.sha256_of_files(Path(distillmos.sqa.DEFAULT_WEIGHTS_CHKPT)),
            "options": "",
        }
        with contextlib.redirect_stdout(sys.stderr):  # it prints the path of its weights
            self._model = distillmos.ConvTransformerSQAModel().eval()

    def score(self, wave: Wave) -> float:
        """The score."""
        torch = library("torch")

        with torch.no_grad():
            return float(self._model(torch.from_numpy(np.array(wave, np.float32))[None]).ravel()[0])


def _distillmos() -> Any:
    """The package; it imports torchaudio, which only its own command needs."""
    name = "torchaudio"
    if importlib.util.find_spec(name) is not None:
        return library("distillmos")
    sys.modules[name] = types.ModuleType(name)
    try:
        return library("distillmos")
    finally:
        del sys.modules[name]


def open_quality_predictor(name: str) -> QualityPredictor:
    """A quality predictor by its name.

    Raises:
        UserError: it is unknown, or its library or weights are missing.
    """
    role = "quality predictor"
    return choose(
        role,
        name,
        {
            "dnsmos": lambda path: Dnsmos(path or packages.find_package("dnsmos")),
            "distillmos": lambda _: DistillMos(),
            "utmos": lambda path: Utmos(placed("utmos", path)),
            "torchscript": lambda path: Scripted(needs(role, "torchscript", path)),
        },
    )

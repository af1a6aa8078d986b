"""ZipVoice and ZipVoice-Dialog in JAX: zero-shot speech and dialogue by flow matching.

speech = zipvoice_jax.load("model_dir").generate(text, prompt_wav=..., prompt_text=...)
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["UserError", "Voice", "__version__", "load"]  # pyright: ignore[reportUnsupportedDunderAll]

# Loaded on first use, so that importing the package stays quick.
_LAZY = {
    "load": "zipvoice_jax.infer.synthesizer",
    "UserError": "zipvoice_jax.core.errors",
    "Voice": "zipvoice_jax.audio.voice",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

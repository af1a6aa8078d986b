"""Reads torch's format from before version 1.6, without torch: pickles, then the storages.

For weights whose origin is pinned; models come by `torch_file`.
"""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from zipvoice_jax.checkpoint.restricted_pickle import MalformedError, Symbol, load_pickle
from zipvoice_jax.checkpoint.torch_file import (
    LEGACY_MAGIC,
    Storage,
    is_count,
    make_tensor,
    resolve,
)
from zipvoice_jax.core.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C


def is_legacy(path: Path) -> bool:
    """Whether a file begins as this format does; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC
    except OSError:
        return False


def read_legacy(path: Path) -> Any:
    """The content of a file, its float32 tensors as numpy arrays.

    Raises:
        UserError: it is missing, damaged, of another format, or holds other tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        return _content(data, str(path))
    except (MalformedError, ValueError, KeyError, IndexError, struct.error, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); get it again.") from None


def _content(data: bytes, source: str) -> Any:
    file = io.BytesIO(data)
    sizes: dict[str, int] = {}
    arrays: dict[str, np.ndarray] = {}

    def load_storage(saved: tuple[Any, ...]) -> Storage:
        _, kind, key, _, numel, *_ = saved
        if not isinstance(kind, Symbol) or kind.name != "torch.FloatStorage":
            raise MalformedError("a storage that is no float32")
        if not isinstance(key, str) or not is_count(numel) or sizes.setdefault(key, numel) != numel:
            raise MalformedError("a storage of unknown key or size")
        return Storage(key, np.dtype(np.float32), numel)

    magic, _, _, tree, keys = (
        load_pickle(file, source=source, load_storage=load_storage, make_tensor=make_tensor)
        for _ in range(5)
    )
    if magic != _MAGIC:
        raise MalformedError("another format")
    for key in keys:
        (numel,) = struct.unpack("<q", file.read(8))
        if not isinstance(key, str) or numel != sizes[key]:
            raise MalformedError(f"a storage of {numel} numbers that should be of another size")
        arrays[key] = np.frombuffer(file.read(4 * numel), "<f4", numel)
    return resolve(tree, lambda storage: arrays[storage.key], len(data))

"""Reads torch's format from before version 1.6, without torch: pickles, then the storages.

For weights whose origin is pinned; models come by `torch_file`.
"""

import io
import pickletools
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zipvoice_jax.checkpoint.pickle_vm import MalformedError, Symbol, load_pickle
from zipvoice_jax.core.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f920")  # pickled by protocol 2


def is_legacy(path: Path) -> bool:
    """Whether a file begins as this format does; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC
    except OSError:
        return False


def read_legacy(path: Path) -> Any:
    """The content of a file, its contiguous float32 tensors as numpy arrays.

    Raises:
        UserError: it is missing, damaged, of another format, or holds other tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    try:
        return _content(data, str(path))
    except (MalformedError, ValueError, KeyError, IndexError, struct.error) as error:
        raise UserError(f"{path} is damaged ({error}); get it again.") from None


def _content(data: bytes, source: str) -> Any:
    file = io.BytesIO(data)
    sizes: dict[str, int] = {}
    arrays: dict[str, np.ndarray] = {}

    def storage(saved: tuple[Any, ...]) -> str:
        _, kind, key, _, numel, *_ = saved
        if not isinstance(kind, Symbol) or kind.name != "torch.FloatStorage":
            raise MalformedError("a storage that is no float32")
        sizes[key] = numel
        return key

    def tensor(args: tuple[Any, ...]) -> tuple[str, int, tuple[int, ...]]:
        key, offset, shape, stride = args[:4]
        dense = np.zeros(shape, np.int8).strides
        if dense != stride and 0 not in shape:
            raise MalformedError("a tensor that is not contiguous")
        return key, offset, shape

    def read(pickled: bytes) -> Any:
        return load_pickle(pickled, source=source, load_storage=storage, make_tensor=tensor)

    magic, _, _, tree, keys = (read(pickled) for pickled in _pickles(file, 5))
    if magic != _MAGIC:
        raise MalformedError("another format")
    for key in keys:
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != sizes[key]:
            raise MalformedError(f"a storage of {numel} numbers where {sizes[key]} should be")
        arrays[key] = np.frombuffer(file.read(4 * numel), "<f4", numel)
    return _filled(tree, arrays)


def _pickles(file: io.BytesIO, count: int) -> Iterator[bytes]:
    for _ in range(count):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        end = file.tell()
        file.seek(start)
        yield file.read(end - start)


def _filled(node: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, arrays) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, arrays) for value in node]
    if isinstance(node, tuple) and len(node) == 3 and node[0] in arrays:
        key, offset, shape = node
        size = int(np.prod(shape))
        return arrays[key][offset : offset + size].reshape(shape)
    return node

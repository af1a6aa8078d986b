"""Reads and writes `model.pt` (the zip format of torch.save) without torch.

Layout of the archive `<root>/`: `data.pkl` (structure), `byteorder`, `version` and one
uncompressed file `data/<key>` per storage. Nothing in the file is executed: see
`restricted_pickle`. Sizes that the pickle claims are held against the archive before any memory is
taken, so that no file makes us allocate much more than its own size.
"""

import dataclasses
import io
import math
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from zipvoice_jax.checkpoint.restricted_pickle import (
    MalformedError,
    Opaque,
    Sealed,
    Symbol,
    load_pickle,
    shown,
)
from zipvoice_jax.core.errors import UserError

_DTYPES: dict[str, np.dtype] = {
    "Double": np.dtype(np.float64),
    "Float": np.dtype(np.float32),
    "Half": np.dtype(np.float16),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype(np.int64),
    "Int": np.dtype(np.int32),
    "Short": np.dtype(np.int16),
    "Char": np.dtype(np.int8),
    "Byte": np.dtype(np.uint8),
    "Bool": np.dtype(np.bool_),
}
_STORAGES = {dtype: f"{name}Storage" for name, dtype in _DTYPES.items()}
_MAX_PICKLE = 1 << 28  # bytes; a large training checkpoint needs some 10 MB
_MAX_ENTRIES = 1_000_000
_MAX_DEPTH = 64
# Tensors may share or repeat a storage (tied or expanded weights), within reason.
_MAX_EXPANSION = 8
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f920")  # how `torch_legacy`'s format begins
_ALIGNMENT = 64  # bytes, as torch aligns storages


@dataclasses.dataclass(frozen=True)
class Storage(Sealed):
    """A storage whose numbers are still in the file."""

    key: str
    dtype: np.dtype
    numel: int


@dataclasses.dataclass(frozen=True)
class TorchTensor(Sealed):
    """A tensor whose numbers are still in the file."""

    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements

    @property
    def dtype(self) -> np.dtype:
        """Type of one element."""
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_count(value: object) -> bool:
    """Whether a value from a pickle can be a size or an offset."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def make_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    _metadata: Any = None,
) -> TorchTensor:
    """Handle of a tensor, called in place of torch._utils._rebuild_tensor_v2.

    Raises:
        MalformedError: the tensor reaches out of its storage, or is none.
    """
    if not isinstance(storage, Storage):
        raise MalformedError("a tensor without its storage")
    counts = (shape, stride)
    if not all(isinstance(c, tuple) and all(map(is_count, c)) for c in counts):
        raise MalformedError("a tensor whose shape or stride are not counts")
    if not is_count(offset) or len(shape) != len(stride) or len(shape) > 32:
        raise MalformedError("a tensor whose offset, shape and stride do not fit together")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.numel:
        raise MalformedError(
            f"a tensor that reaches past the {storage.numel} elements of its storage"
        )
    return TorchTensor(storage, offset, shape, stride)


class _Archive:
    """The zip file with its sizes checked."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, size: int) -> None:
        self.archive = archive
        self.size = size
        entries = archive.infolist()
        if len(entries) > _MAX_ENTRIES:
            raise MalformedError(f"{len(entries)} entries in the archive")
        self.entries = {entry.filename: entry for entry in entries}
        if len(self.entries) != len(entries):
            raise MalformedError("two entries of one name")
        for entry in entries:
            # torch never compresses; stored data cannot expand.
            stored = entry.compress_type == zipfile.ZIP_STORED
            if not stored or entry.file_size != entry.compress_size or entry.flag_bits & 1:
                raise MalformedError(
                    f"the entry {shown(entry.filename)}, which is not plainly stored"
                )
        if sum(entry.file_size for entry in entries) > size:
            raise MalformedError("entries that claim more bytes than the file has")
        pickles = [name for name in self.entries if name.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].count("/") != 1:
            raise MalformedError("no data.pkl, or several")
        self.root = pickles[0].removesuffix("data.pkl")
        if f"{self.root}constants.pkl" in self.entries:
            raise UserError(
                f"{path} is a TorchScript archive; give the checkpoint of the model's weights."
            )
        byteorder = b"little"
        if f"{self.root}byteorder" in self.entries:
            byteorder = self.read("byteorder", limit=16)
        if byteorder not in (b"little", b"big"):
            raise MalformedError(f"the byte order {shown(byteorder)}")
        self.swap = byteorder.decode() != sys.byteorder
        self.uses: Counter[str] = Counter()  # tensors per storage
        self.shared: dict[str, bytes] = {}  # bytes of storages that several tensors use

    def read(self, name: str, *, limit: int) -> bytes:
        """One small file of the archive."""
        entry = self.entries[self.root + name]
        if entry.file_size > limit:
            raise MalformedError(f"{entry.file_size} bytes in {name}")
        return self.archive.read(entry)

    def load_storage(self, saved: tuple[Any, ...]) -> Storage:
        """Handle of ("storage", type, key, location, numel)."""
        if len(saved) != 5 or saved[0] != "storage" or not isinstance(saved[1], Symbol):
            raise MalformedError("a reference that is no storage")
        _, kind, key, _, numel = saved
        dtype = _DTYPES.get(kind.name.removeprefix("torch.").removesuffix("Storage"))
        if dtype is None or not isinstance(key, str) or not is_count(numel):
            raise MalformedError("a storage of unknown type, key or size")
        entry = self.entries.get(f"{self.root}data/{key}")
        if entry is None:
            raise MalformedError(f"no storage {shown(key)}")
        if entry.file_size != numel * dtype.itemsize:
            raise MalformedError(
                f"a storage of {numel} {dtype.name} that has {entry.file_size} bytes in the file"
            )
        self.uses[key] += 1
        return Storage(key, dtype, numel)

    def read_storage(self, storage: Storage) -> np.ndarray:
        """All elements of a storage, in this machine's byte order."""
        key = storage.key
        data = self.shared.get(key)
        if data is None:
            data = self.archive.read(self.entries[f"{self.root}data/{key}"])
            if self.uses[key] > 1:
                self.shared[key] = data
        if storage.dtype == np.bool_:
            # Any other byte in a bool array is undefined behaviour.
            return np.frombuffer(data, np.uint8) != 0
        raw = np.frombuffer(data, np.dtype(f"u{storage.dtype.itemsize}"))
        return (raw.byteswap() if self.swap else raw).view(storage.dtype)


def _dense(flat: Shaped[np.ndarray, " n"], tensor: TorchTensor) -> Shaped[np.ndarray, "..."]:
    """A dense copy of a tensor from all elements of its storage."""
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, tensor.dtype)
    strides = tuple(step * flat.itemsize for step in tensor.stride)
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    return np.array(view, order="C")


def resolve(tree: Any, read_storage: Callable[[Storage], np.ndarray], size: int) -> Any:
    """What a pickle described, as plain containers with arrays for the handles of tensors.

    Args:
        tree: what `load_pickle` returned, or a part of it.
        read_storage: all elements of a storage.
        size: the file's size in bytes, which bounds the size of the arrays.

    Raises:
        MalformedError: containers are too deep, or tensors far larger than the file.
    """
    done: dict[int, Any] = {}  # by id: a tree may name one container many times
    budget = _MAX_EXPANSION * size

    def visit(node: Any, depth: int) -> Any:
        nonlocal budget
        if not isinstance(node, dict | list | tuple | TorchTensor):
            return node
        if id(node) in done:
            return done[id(node)]
        if depth > _MAX_DEPTH:
            raise MalformedError(f"containers more than {_MAX_DEPTH} deep")
        if isinstance(node, TorchTensor):
            budget -= node.nbytes
            if budget < 0:
                raise MalformedError("tensors that repeat their storages too often")
            result: Any = _dense(read_storage(node.storage), node)
        elif isinstance(node, dict):
            result = {key: visit(value, depth + 1) for key, value in node.items()}
        else:
            result = type(node)([visit(value, depth + 1) for value in node])
        done[id(node)] = result
        return result

    return visit(tree, 0)


def _refuse_other_formats(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    if head.startswith(b"PK\x03\x04"):
        return
    if not head:
        raise UserError(f"{path} is empty; download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull` for it.")
    if head.startswith(LEGACY_MAGIC) or head[257:262] == b"ustar":
        raise UserError(
            f"{path} is in torch's format from before version 1.6; re-save it with "
            "torch.save(torch.load(path), path) in a current torch."
        )
    raise UserError(f"{path} is not a torch checkpoint; give a file that torch.save wrote.")


def read_torch_file(path: Path, select: Callable[[Any], Any] = lambda tree: tree) -> Any:
    """The content of a torch checkpoint, tensors as numpy arrays.

    Args:
        path: a file in the zip format of torch.save.
        select: gets the whole content, tensors as `TorchTensor` handles, and returns the
            part to read; numbers outside it are left in the file.

    Returns:
        what `select` returned, as plain containers. Objects without numbers that matter
        (paths, devices, numpy values) come as `Opaque`.

    Raises:
        UserError: the file is missing, damaged, of another format, or asks for imports
            that loading weights does not need.
    """
    path = Path(path)
    _refuse_other_formats(path)
    try:
        with zipfile.ZipFile(path) as opened:
            archive = _Archive(path, opened, path.stat().st_size)
            tree = load_pickle(
                io.BytesIO(archive.read("data.pkl", limit=_MAX_PICKLE)),
                source=str(path),
                load_storage=archive.load_storage,
                make_tensor=make_tensor,
            )
            return resolve(select(tree), archive.read_storage, archive.size)
    except MalformedError as error:
        raise UserError(f"{path} is damaged: it has {error}; download it again.") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error, ValueError) as error:
        # zipfile reports broken archives by many types; UserError is none of them.
        raise UserError(
            f"{path} is damaged or cut off ({shown(error)}); download it again."
        ) from None
    except (OSError, MemoryError, RuntimeError, KeyError, IndexError, OverflowError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {shown(error)}); download it again."
        ) from None


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(8, "little")
    return b"\x8a" + bytes([len(data)]) + data


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _tensor(array: np.ndarray, key: str) -> bytes:
    storage = _tuple(
        _text("storage"),
        f"ctorch\n{_STORAGES[array.dtype]}\n".encode(),
        _text(key),
        _text("cpu"),
        _int(array.size),
    )
    strides = [step // array.itemsize for step in array.strides]
    arguments = _tuple(
        storage + b"Q",
        _int(0),
        _tuple(*map(_int, array.shape)),
        _tuple(*map(_int, strides)),
        b"\x89",  # requires_grad: False
        b"ccollections\nOrderedDict\n)R",  # no backward hooks
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def _add(archive: zipfile.ZipFile, name: str, data: bytes, offset: int) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980: the same weights give the same file
    # A local header is 30 bytes, the name and the extra field, whose own header is 4 bytes.
    padding = -(offset + 30 + len(name) + 4) % _ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(entry, data)


def write_torch_file(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes {"model": state} so that torch.load(path, weights_only=True) reads it.

    Args:
        path: the file to write.
        state: official name to array, each of a dtype that torch has.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    items = [_text(name) + _tensor(array, str(i)) for i, (name, array) in enumerate(arrays.items())]
    model = b"ccollections\nOrderedDict\n)R(" + b"".join(items) + b"u"
    pickled = b"\x80\x02}" + _text("model") + model + b"s."
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, "model/data.pkl", pickled, file.tell())
        _add(archive, "model/byteorder", sys.byteorder.encode(), file.tell())
        for i, array in enumerate(arrays.values()):
            _add(archive, f"model/data/{i}", array.tobytes(), file.tell())
        _add(archive, "model/version", b"3\n", file.tell())


__all__ = ["Opaque", "TorchTensor", "read_torch_file", "write_torch_file"]

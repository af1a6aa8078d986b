"""Torch files whose pickles are written opcode by opcode.

So no case depends on what a pickler would emit.
"""

import io
import struct
import zipfile

import numpy as np


def text(value: str) -> bytes:
    """Pushes a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def glob(module: str, name: str) -> bytes:
    """Pushes what a module calls by a name."""
    return f"c{module}\n{name}\n".encode()


def integer(value: int) -> bytes:
    """Pushes a number of any size."""
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tup(*items: bytes) -> bytes:
    """Pushes a tuple of what the items push."""
    return b"(" + b"".join(items) + b"t"


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage") -> bytes:
    """Pushes a storage, by its persistent id."""
    inner = (text("storage"), glob("torch", kind), text(key), text("cpu"), integer(numel))
    return tup(*inner) + b"Q"


HOOKS = glob("collections", "OrderedDict") + b")R"


def tensor(
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    stored: bytes | None = None,
) -> bytes:
    """Pushes a tensor, as torch rebuilds one from its storage."""
    return (
        glob("torch._utils", "_rebuild_tensor_v2")
        + tup(
            storage() if stored is None else stored,
            integer(offset),
            tup(*map(integer, shape)),
            tup(*map(integer, stride)),
            b"\x89",
            HOOKS,
        )
        + b"R"
    )


def model(*items: bytes) -> bytes:
    """A pickle of weights: keys and values in turn."""
    return b"\x80\x02}" + text("model") + b"}(" + b"".join(items) + b"us."


def archive(pickled: bytes | None, extra: dict[str, bytes] | None = None, **options: int) -> bytes:
    """A torch file around a pickle, whose one storage holds 0 to 3."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as made:
        if pickled is not None:
            made.writestr("m/data.pkl", pickled)
        made.writestr("m/data/0", np.arange(4, dtype="<f4").tobytes())
        for name, data in (extra or {}).items():
            made.writestr(name, data)
    return buffer.getvalue()


def state_of(payload: bytes) -> bytes:
    """A sound state_dict with `payload` as one more value."""
    return archive(model(text("w"), tensor(), text("x"), payload))


SHELL = tup(text("touch pwned"))
SYSTEM = glob("os", "system")
ODICT = glob("collections", "OrderedDict")
DTYPE = glob("numpy", "dtype") + tup(text("f4")) + b"R"
NEST = b"".join(b"\x85" for _ in range(100_000))  # TUPLE1 again and again
GOOD = model(text("w"), tensor())


def slots(name: str, value: bytes) -> bytes:
    """State that sets an attribute by setattr."""
    return tup(b"N", b"}" + text(name) + value + b"s") + b"b"


def state(name: str, value: bytes) -> bytes:
    """State that sets an attribute by `__dict__`."""
    return b"}" + text(name) + value + b"sb"

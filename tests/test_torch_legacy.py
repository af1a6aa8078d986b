"""Torch files of the format from before torch 1.6: what is read, and what means harm."""

import struct
from pathlib import Path

import numpy as np
import pytest
from complaints import user_error
from pickles import NEST, ODICT, SHELL, SYSTEM, glob, integer, tensor, text, tup

from zipvoice_jax.checkpoint.torch_legacy import is_legacy, read_legacy


def legacy(tree: bytes, keys: bytes = b"](" + text("0") + b"e", numbers: int = 4) -> bytes:
    """A file of the format from before torch 1.6."""
    pickles = (integer(0x1950A86A20F9469CFC6C), b"M\xe9\x03", b"}", tree, keys)
    stored = np.arange(numbers, dtype="<f4").tobytes()
    return b"".join(b"\x80\x02" + p + b"." for p in pickles) + struct.pack("<q", numbers) + stored


def old_tensor(shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)) -> bytes:
    inner = (text("storage"), glob("torch", "FloatStorage"), text("0"), text("cpu"))
    return tensor(shape, stride, stored=tup(*inner, integer(4), b"N") + b"Q")


def test_reads_the_legacy_format(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    flat = text("w") + old_tensor() + text("v") + old_tensor((2, 2), (2, 1))
    path.write_bytes(legacy(ODICT + b")R(" + flat + text("t") + old_tensor((2, 2), (1, 2)) + b"u"))
    assert is_legacy(path)
    read = read_legacy(path)
    assert {array.dtype for array in read.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(read["w"], [0, 1, 2, 3])
    np.testing.assert_array_equal(read["v"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(read["t"], [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    "data",
    {
        "import": legacy(SYSTEM + SHELL + b"R"),
        "storage of another size": legacy(old_tensor(), numbers=3),
        "shape huge": legacy(old_tensor((2**40,))),
        "expanded": legacy(old_tensor((2**40,), (0,))),
        "key no text": legacy(tensor(stored=tup(*[b"N"] * 5) + b"Q")),
        "keys no list": legacy(old_tensor(), b"K\x01"),
        "keys nested": legacy(old_tensor(), b"])" + NEST + b"a"),
        "nested": legacy(b")" + NEST),
        "cut": legacy(old_tensor())[:-1],
        "another magic": b"\x80\x02K\x01." * 5,
    }.items(),
    ids=lambda item: item[0],
)
def test_hostile_legacy_file_is_refused_in_one_line(
    tmp_path: Path, data: tuple[str, bytes]
) -> None:
    path = tmp_path / "old.pt"
    path.write_bytes(data[1])
    with user_error(str(path)):
        read_legacy(path)

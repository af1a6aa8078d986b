"""The torch file reader and writer: what torch writes, oddities that do no harm, our own files."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from complaints import user_error
from pickles import (
    DTYPE,
    GOOD,
    HOOKS,
    ODICT,
    archive,
    glob,
    integer,
    slots,
    state,
    state_of,
    storage,
    tensor,
    text,
    tup,
)

from zipvoice_jax.checkpoint import official
from zipvoice_jax.checkpoint.torch_file import Opaque, read_torch_file, write_torch_file


def test_reads_what_torch_can_write(tmp_path: Path) -> None:
    """Views, dtypes, parameters, wrapped names, and the company weights keep in training."""
    parameter = glob("torch._utils", "_rebuild_parameter") + tup(tensor(), b"\x88", HOOKS) + b"R"
    wrapped = [text("module.model"), tensor((2, 2), (1, 2)), text("module.u"), tensor((), (), 3)]
    halves = tensor((8,), stored=storage(kind="BFloat16Storage", numel=8))
    state = ODICT + b")R(" + b"".join([*wrapped, text("module.p"), parameter]) + b"u"
    company = {
        "exp_dir": glob("pathlib", "PosixPath") + tup(text("/a")) + b"R",
        "device": glob("torch", "device") + tup(text("cuda"), b"K\x00") + b"R",
        "best": glob("numpy._core.multiarray", "scalar") + tup(b"N", b"N") + b"R",
        "model_avg": b"}(" + text("module.p") + tensor((2, 3), (0, 1), 1) + text("module.h"),
        "optimizer": b"}" + integer(0) + b"}" + text("step") + tup(b"G" + bytes(8)) + b"ss",
    }
    company["model_avg"] += halves + b"u"
    pickled = b"\x80\x02}(" + text("model") + state + b"}" + text("_metadata") + b"}sb"
    pickled += b"".join(text(key) + value for key, value in company.items()) + b"u."
    path = tmp_path / "model.pt"
    numbers = np.arange(4, dtype=np.float32)
    for order, dtype in ((b"little", "<f4"), (b"big", ">f4")):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as made:
            made.writestr("x/data.pkl", pickled)
            made.writestr("x/byteorder", order)
            made.writestr("x/data/0", numbers.astype(dtype).tobytes())
        path.write_bytes(buffer.getvalue())
        read = official.read_state_dict(path)
        assert set(read) == {"model", "u", "p"}  # only the prefix "module." is dropped
        np.testing.assert_array_equal(read["model"], [[0, 2], [1, 3]])
        assert read["u"].shape == () and read["u"] == 3
        np.testing.assert_array_equal(read["p"], numbers)
        mean = official.read_state_dict(path, which="model_avg")
        np.testing.assert_array_equal(mean["p"], [[1, 2, 3], [1, 2, 3]])
        assert mean["h"].shape == (8,) and mean["h"].dtype.name == "bfloat16"
    assert mean["h"][2] != mean["h"][3]
    with user_error("model_ema"):
        official.read_state_dict(path, which="model_ema")


def test_containers_of_later_protocols(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(
        state_of(
            tup(
                b"\x8f(K\x01K\x02\x90",
                b"(K\x03\x91",
                glob("zipvoice.utils.common", "AttributeDict") + b")\x81" + text("a") + b"Ns",
                glob("collections", "defaultdict") + tup(glob("builtins", "list")) + b"R",
            )
        )
    )
    assert read_torch_file(path)["model"]["x"] == ([1, 2], (3,), {"a": None}, {})


def test_state_of_inert_objects_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    states = (state("name", text("a")), slots("name", text("a")), state("__class__", ODICT), b"Nb")
    for built in states:
        path.write_bytes(state_of(DTYPE + built))
        read = read_torch_file(path)["model"]
        assert read["x"] == Opaque("numpy.dtype") and vars(read["x"]) == {"name": "numpy.dtype"}
    for built in (state("items", ODICT), slots("items", ODICT), slots("get", ODICT)):
        path.write_bytes(state_of(ODICT + b")R" + text("a") + b"K\x01s" + built))
        assert read_torch_file(path)["model"]["x"] == {"a": 1}


@pytest.mark.parametrize("length", [*range(0, len(GOOD), 9), 2**40, 2**64 - 1])
def test_false_frame_changes_nothing(tmp_path: Path, length: int) -> None:
    """In one, Python's unpickler would skip bytes and run others than were checked."""
    path = tmp_path / "model.pt"
    path.write_bytes(archive(b"\x80\x04\x95" + struct.pack("<Q", length) + GOOD[2:]))
    np.testing.assert_array_equal(official.read_state_dict(path)["w"], [0, 1, 2, 3])


def test_written_archive_is_what_torch_expects(tmp_path: Path) -> None:
    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.float32(2.5).reshape(())}
    path = tmp_path / "model.pt"
    write_torch_file(path, state)
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [entry.filename for entry in archive.infolist()]
        assert names == [
            f"model/{n}" for n in ("data.pkl", "byteorder", "data/0", "data/1", "version")
        ]
        assert archive.read("model/version") == b"3\n"
        assert archive.read("model/byteorder") == b"little"
        for entry in archive.infolist():
            name, extra = struct.unpack("<HH", raw[entry.header_offset + 26 :][:4])
            assert entry.compress_type == zipfile.ZIP_STORED
            assert (entry.header_offset + 30 + name + extra) % 64 == 0
        assert archive.read("model/data/0") == state["a"].tobytes()
    read = read_torch_file(path)["model"]
    assert read["s"].shape == () and read["s"] == 2.5
    np.testing.assert_array_equal(read["a"], state["a"])
    write_torch_file(tmp_path / "again.pt", state)
    assert (tmp_path / "again.pt").read_bytes() == raw

"""The torch file reader and writer: what torch writes, and files that mean harm.

Pickles are written opcode by opcode, so that no case depends on what a pickler would emit.
"""

import copyreg
import io
import itertools
import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from complaints import user_error

from zipvoice_jax.checkpoint import official
from zipvoice_jax.checkpoint.torch_file import Opaque, read_torch_file, write_torch_file
from zipvoice_jax.checkpoint.torch_legacy import is_legacy, read_legacy


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def integer(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tup(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage") -> bytes:
    inner = (text("storage"), glob("torch", kind), text(key), text("cpu"), integer(numel))
    return tup(*inner) + b"Q"


HOOKS = glob("collections", "OrderedDict") + b")R"


def tensor(
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    stored: bytes | None = None,
) -> bytes:
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
    return b"\x80\x02}" + text("model") + b"}(" + b"".join(items) + b"us."


def archive(pickled: bytes | None, extra: dict[str, bytes] | None = None, **options: int) -> bytes:
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
GETATTR = glob("builtins", "getattr")
ODICT = glob("collections", "OrderedDict")
TENSOR = glob("torch._utils", "_rebuild_tensor_v2")
PARAMETER = glob("torch._utils", "_rebuild_parameter")
FROM_TYPE = glob("torch._tensor", "_rebuild_from_type_v2")
DTYPE = glob("numpy", "dtype") + tup(text("f4")) + b"R"
NEST = b"".join(b"\x85" for _ in range(100_000))  # TUPLE1 again and again
BILLION = b"2\x86" * 64  # DUP, TUPLE2: twice as large with each, in two bytes
GOOD = model(text("w"), tensor())


def slots(name: str, value: bytes) -> bytes:
    """State that sets an attribute by setattr."""
    return tup(b"N", b"}" + text(name) + value + b"s") + b"b"


def state(name: str, value: bytes) -> bytes:
    """State that sets an attribute by `__dict__`."""
    return b"}" + text(name) + value + b"sb"


HOSTILE: dict[str, bytes] = {
    "global os.system": state_of(SYSTEM + SHELL + b"R"),
    "global posix.system": state_of(glob("posix", "system") + SHELL + b"R"),
    "global builtins.eval": state_of(glob("builtins", "eval") + SHELL + b"R"),
    "global builtins.getattr": state_of(glob("builtins", "getattr")),
    "global not called": state_of(glob("subprocess", "Popen")),
    "global of torch": state_of(glob("torch", "load") + SHELL + b"R"),
    "global torch.hub.load": state_of(glob("torch.hub", "load") + SHELL + b"R"),
    "global dotted": state_of(glob("collections", "OrderedDict.__init__.__globals__")),
    "global numpy load": state_of(glob("numpy", "load") + SHELL + b"R"),
    "global like pathlib": state_of(glob("pathlib", "os.system") + SHELL + b"R"),
    "global with a line break": state_of(text("os\nx") + text("system") + b"\x93"),
    "stack global": state_of(text("os") + text("system") + b"\x93" + SHELL + b"R"),
    "stack global of numbers": state_of(b"K\x01K\x02\x93"),
    "inst": state_of(b"(" + text("touch pwned") + b"ios\nsystem\n"),
    "obj": state_of(b"(" + ODICT + text("touch pwned") + b"o"),
    "obj of os.system": state_of(b"(" + SYSTEM + text("touch pwned") + b"o"),
    "ext1": state_of(b"\x82\x01"),
    "ext2": state_of(b"\x83\x01\x00"),
    "ext4": state_of(b"\x84\x01\x00\x00\x00"),
    "newobj": state_of(SYSTEM + SHELL + b"\x81"),
    "newobj_ex": state_of(SYSTEM + SHELL + b"}\x92"),
    "build on a class": state_of(ODICT + b"}" + text("__setstate__") + SYSTEM + b"sb"),
    "build on a symbol": state_of(ODICT + b"}b"),
    "build on a tuple": state_of(b")}b"),
    "reduce of a string": state_of(text("os.system") + SHELL + b"R"),
    "reduce of a storage": state_of(storage() + b")R"),
    "reduce without a tuple": state_of(ODICT + b"]R"),
    "dict from arguments": state_of(ODICT + tup(b"]") + b"R"),
    "persistent id as text": state_of(b"Pstorage\n"),
    "persistent id no tuple": state_of(text("storage") + b"Q"),
    "storage type unknown": state_of(tensor(stored=storage(kind="ComplexFloatStorage"))),
    "storage missing": state_of(tensor(stored=storage(key="7"))),
    "storage outside": state_of(tensor(stored=storage(key="../../../../etc/passwd"))),
    "storage says more": state_of(tensor(stored=storage(numel=5))),
    "storage says less": state_of(tensor(stored=storage(numel=3))),
    "storage of huge size": state_of(tensor(stored=storage(numel=2**200))),
    "storage of negative size": state_of(tensor(stored=storage(numel=-4))),
    "shape past the storage": state_of(tensor(shape=(5,))),
    "offset past the storage": state_of(tensor(offset=1)),
    "offset negative": state_of(tensor(offset=-1)),
    "shape negative": state_of(tensor(shape=(-1,))),
    "shape huge": state_of(tensor(shape=(2**500,))),
    "stride negative": state_of(tensor(shape=(2,), stride=(-1,))),
    "stride missing": state_of(tensor(stride=())),
    "expanded beyond reason": state_of(tensor(shape=(2**40,), stride=(0,))),
    "empty but too large": state_of(tensor(shape=(0, 2**61), stride=(1, 1))),
    "dimensions beyond reason": state_of(tensor(shape=(1,) * 60, stride=(0,) * 60)),
    "tensor of a number": state_of(glob("torch._utils", "_rebuild_tensor_v2") + tup(b"N") + b"R"),
    "tensor subclass": state_of(
        glob("torch._tensor", "_rebuild_from_type_v2") + tup(SYSTEM, ODICT, SHELL, b"N") + b"R"
    ),
    "key deeply nested": archive(b"\x80\x02})" + NEST + b"Ns."),
    "key unhashable": archive(b"\x80\x02}]Ns."),
    "value deeply nested": state_of(b")" + NEST),
    "value holds itself": state_of(b"]q\x01h\x01a"),
    "memo missing": state_of(b"j\xff\xff\xff\xff"),
    "integer of a million digits": state_of(b"I" + b"9" * 1_000_000 + b"\n"),
    "text longer than the file": archive(b"\x80\x04\x8d" + b"\xff" * 8 + b"."),
    "bytearray longer than the file": archive(b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f."),
    "stack underflow": archive(b"\x80\x02\x86."),
    "mark as value": archive(b"\x80\x02(."),
    "no mark": archive(b"\x80\x02t."),
    "no stop": archive(GOOD[:-1]),
    "pickle empty": archive(b""),
    "pickle of noise": archive(bytes(range(256))),
    "protocol of the future": archive(b"\x80\xffN."),
    "content a number": archive(b"\x80\x02K\x01."),
    "content without weights": archive(b"\x80\x02}" + text("a") + b"Ns."),
    "no data.pkl": archive(None),
    "two data.pkl": archive(GOOD, {"n/data.pkl": GOOD}),
    "data.pkl deeper": archive(None, {"m/m/data.pkl": GOOD}),
    "nested zip": archive(None, {"m/data.pkl/model.pt": archive(GOOD)}),
    "zip as pickle": archive(archive(GOOD)),
    "compressed": archive(GOOD + bytes(10_000_000), compression=zipfile.ZIP_DEFLATED),
    "torchscript": archive(GOOD, {"m/constants.pkl": b"N."}),
    "byte order unknown": archive(GOOD, {"m/byteorder": b"middle"}),
    "entry twice": archive(GOOD).replace(b"m/data/0", b"m/data.p").replace(b"data.pkl", b"data.p"),
    # What Python's own unpickler would do, were it not for its bounds.
    "global not loaded": state_of(glob("this", "s")),
    "global of ours": state_of(glob("zipvoice_jax.checkpoint.restricted_pickle", "Symbol")),
    "getattr called": state_of(GETATTR + tup(ODICT, text("__init__")) + b"R"),
    "stack global dotted": state_of(
        text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93"
    ),
    "stack global dotted in torch": state_of(
        text("torch") + text("Tensor.__init__.__globals__") + b"\x93"
    ),
    "stack global dotted in builtins": state_of(
        text("builtins") + text("dict.__class__.__subclasses__") + b"\x93)R"
    ),
    "next buffer": state_of(b"\x97"),
    "read-only buffer": state_of(b"C\x01x\x98"),
    "newobj of a tensor": state_of(TENSOR + tup(b"N") + b"\x81"),
    "newobj of a type": state_of(glob("torch", "Tensor") + b")\x81"),
    "newobj of a storage type": state_of(glob("torch", "FloatStorage") + b")\x81"),
    "newobj without a tuple": state_of(ODICT + b"]\x81"),
    "newobj of a dict from arguments": state_of(ODICT + tup(b"]") + b"\x81"),
    "newobj_ex of a dict": state_of(ODICT + b")}\x92"),
    "newobj_ex with keywords": state_of(ODICT + b")" + state("a", b"N")[:-1] + b"\x92"),
    "reduce of a dict": state_of(b"})R"),
    "reduce of a tensor": state_of(tensor() + b")R"),
    "reduce of an inert object": state_of(DTYPE + b")R"),
    "reduce of a type": state_of(glob("torch", "Tensor") + b")R"),
    "parameter of nothing": state_of(PARAMETER + b")R"),
    "tensor of too many": state_of(TENSOR + tup(storage(), *[b"N"] * 9) + b"R"),
    "tensor of texts": state_of(TENSOR + tup(storage(), *[text("a")] * 5) + b"R"),
    "tensor of itself": state_of(TENSOR + tup(tensor(), *[b"K\x00"] * 5) + b"R"),
    "subclass of a call": state_of(
        FROM_TYPE + tup(TENSOR, glob("torch", "Tensor"), text("abcdef"), b"N") + b"R"
    ),
    "subclass of subclasses": state_of(
        FROM_TYPE + tup(FROM_TYPE, glob("torch", "Tensor"), b")", b"N") + b"R"
    ),
    "build on a tensor": state_of(
        tensor() + tup(storage(), integer(1), tup(integer(4)), tup(integer(1))) + b"b"
    ),
    "build on a storage": state_of(
        tensor(stored=storage() + tup(text("0"), DTYPE, integer(2**30)) + b"b")
    ),
    "build by dict on a tensor": state_of(tensor() + state("shape", tup(integer(2**30)))),
    "build by dict on a storage": state_of(
        tensor(stored=storage() + state("numel", integer(2**30)))
    ),
    "build by slots on a tensor": state_of(tensor() + slots("shape", tup(integer(2**30)))),
    "build by slots on a class": state_of(ODICT + slots("__setitem__", ODICT)),
    "build by dict on a function": state_of(TENSOR + state("make", ODICT)),
    "build by slots on a function": state_of(TENSOR + slots("__code__", ODICT)),
    "build by slots on a list": state_of(b"]" + slots("append", ODICT)),
    "append to a class": state_of(ODICT + b"Na"),
    "append to an inert object": state_of(DTYPE + b"Na"),
    "append to a dict": state_of(b"}Na"),
    "item of a class": state_of(ODICT + b"NNs"),
    "key deeply nested in a class": state_of(ODICT + b")R)" + NEST + b"Ns"),
    "key deeply nested in a batch": state_of(b"}()" + NEST + b"Nu"),
    "key of exponential size": state_of(b"})" + BILLION + b"Ns"),
    "set of a deeply nested value": state_of(b"\x8f()" + NEST + b"\x90"),
    "frozen set of a deeply nested value": state_of(b"()" + NEST + b"\x91"),
    "lists deeply nested": state_of(b"]" * 100_000 + b"a" * 99_999),
    "dicts deeply nested": state_of(b"}K\x00" * 100_000 + b"}" + b"s" * 100_000),
    "memo of many gigabytes": state_of(b"Nr\xff\xff\xff\x7f"),
    "integer longer than the file": state_of(b"\x8b\xff\xff\xff\x7f"),
    "bytes longer than the file": archive(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f."),
    "flipped number": archive(GOOD).replace(b"\0\0\x40\x40", b"\0\0\x41\x40"),
    "text of a bad escape": archive(b"S'\\ '\n."),
    "empty file": b"",
    "text file": b"hello\n",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "legacy torch": bytes.fromhex("80028a0a6cfc9c46f920") + b"j\xa8P\x19.",
    "legacy tar": b"x".ljust(257, b"\0") + b"ustar" + bytes(300),
    "bare pickle": b"\x80\x02" + SYSTEM + SHELL + b"R.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    path.write_bytes(HOSTILE[name])
    with user_error(str(path)):
        official.read_state_dict(path)
    assert os.listdir(tmp_path) == ["model.pt"]  # nothing ran


def test_hostile_cases_differ_from_a_sound_file_only_by_their_payload(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(archive(GOOD))
    np.testing.assert_array_equal(official.read_state_dict(path)["w"], [0, 1, 2, 3])
    path.write_bytes(state_of(SYSTEM + SHELL + b"R"))
    with user_error("os.system"):
        official.read_state_dict(path)
    for cut in itertools.chain(range(0, 200, 7), range(200, len(archive(GOOD)), 31)):
        path.write_bytes(archive(GOOD)[:cut])
        with user_error(str(path)):
            official.read_state_dict(path)


def test_hostile_files_leave_nothing_behind(tmp_path: Path) -> None:
    """None changes what a later file is read with, nor imports a module."""
    path = tmp_path / "model.pt"
    for data in HOSTILE.values():
        path.write_bytes(data)
        with user_error(str(path)):
            official.read_state_dict(path)
    assert "this" not in sys.modules
    test_reads_what_torch_can_write(tmp_path)


def test_memo_index_is_held_against_the_file(tmp_path: Path) -> None:
    """Python's unpickler would allocate 16 bytes times the index."""
    path = tmp_path / "model.pt"
    path.write_bytes(HOSTILE["memo of many gigabytes"])
    with user_error("memo index"):
        official.read_state_dict(path)


@pytest.mark.parametrize("code", [7, 0x107, 0x10007])
def test_registered_extension_is_refused(tmp_path: Path, code: int) -> None:
    """The opcodes that import by number and, once it was done, without asking `find_class`."""
    path = tmp_path / "model.pt"
    width = {7: 1, 0x107: 2, 0x10007: 4}[code]
    opcode = {1: b"\x82", 2: b"\x83", 4: b"\x84"}[width] + code.to_bytes(width, "little")
    path.write_bytes(state_of(opcode + tup(text("x")) + b"R"))
    copyreg.add_extension("os", "mkdir", code)
    try:
        with user_error(f"EXT{width}", str(path)):
            official.read_state_dict(path)
    finally:
        copyreg.remove_extension("os", "mkdir", code)


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


@pytest.mark.parametrize("length", [*range(0, len(GOOD), 9), 2**40, 2**64 - 1])
def test_false_frame_changes_nothing(tmp_path: Path, length: int) -> None:
    """In one, Python's unpickler would skip bytes and run others than were checked."""
    path = tmp_path / "model.pt"
    path.write_bytes(archive(b"\x80\x04\x95" + struct.pack("<Q", length) + GOOD[2:]))
    np.testing.assert_array_equal(official.read_state_dict(path)["w"], [0, 1, 2, 3])


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

"""Torch files that mean harm or are broken: each is refused in one line, and nothing of it runs."""

import copyreg
import itertools
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import test_torch_file
from complaints import user_error
from pickles import (
    DTYPE,
    GOOD,
    NEST,
    ODICT,
    SHELL,
    SYSTEM,
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

GETATTR = glob("builtins", "getattr")
TENSOR = glob("torch._utils", "_rebuild_tensor_v2")
PARAMETER = glob("torch._utils", "_rebuild_parameter")
FROM_TYPE = glob("torch._tensor", "_rebuild_from_type_v2")
BILLION = b"2\x86" * 64  # DUP, TUPLE2: twice as large with each, in two bytes

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
    test_torch_file.test_reads_what_torch_can_write(tmp_path)


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

"""Reads the pickle inside a torch file without ever running what it asks for.

A pickle is a program. Instead of the interpreter's own machine, which imports and calls,
this one knows only the opcodes that torch.save emits, keeps every imported name as an inert
`Symbol`, and turns a call into plain data. Names outside the lists below are refused.
"""

import dataclasses
import pickletools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from zipvoice_jax.core.errors import UserError

# Containers that are dicts once their class is forgotten.
_DICTS = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "zipvoice.utils.common.AttributeDict",
        "icefall.utils.AttributeDict",
    }
)
_BUILTINS = (
    "set frozenset slice complex bytearray int long float bool str unicode bytes list tuple dict"
).split()
# What training checkpoints hold beside weights: kept as `Opaque`, never built.
_INERT = frozenset(
    {
        "_codecs.encode",
        # Protocols below 3 call the module by its Python 2 name.
        *(f"{m}.{t}" for m in ("builtins", "__builtin__") for t in _BUILTINS),
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "torch.device",
        "torch.Size",
    }
)
_INERT_PATTERN = re.compile(
    r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path"
    r"|torch\.(float|bfloat|complex|int|uint)\d+|torch\.bool"
    r"|numpy\.dtypes\.\w+DType"
)
TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
PARAMETER_WITH_STATE = "torch._utils._rebuild_parameter_with_state"
FROM_TYPE_V2 = "torch._tensor._rebuild_from_type_v2"
_TENSOR_TYPES = frozenset(
    {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
)
_REBUILDS = frozenset({TENSOR_V2, PARAMETER, PARAMETER_WITH_STATE, FROM_TYPE_V2})
_STORAGE_PATTERN = re.compile(
    r"torch\.(Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Symbol:
    """A name that the pickle imports; nothing is imported."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Opaque:
    """An object of an allowed class that is left unbuilt."""

    name: str


class MalformedError(Exception):
    """The pickle is not one that torch.save writes; the message says why."""


_MARK = object()
_PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    """BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8""".split()
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def shown(name: object) -> str:
    """Untrusted text on one line and of bearable length."""
    text = str(name)
    return ascii(text[:120] + ("..." if len(text) > 120 else ""))[1:-1]


def _is_allowed(name: str) -> bool:
    return (
        name in _DICTS
        or name in _INERT
        or name in _REBUILDS
        or name in _TENSOR_TYPES
        or _STORAGE_PATTERN.fullmatch(name) is not None
        or _INERT_PATTERN.fullmatch(name) is not None
    )


class _Machine:
    def __init__(
        self,
        source: str,
        load_storage: Callable[[tuple[Any, ...]], Any],
        make_tensor: Callable[[tuple[Any, ...]], Any],
    ) -> None:
        self.source = source
        self.load_storage = load_storage
        self.make_tensor = make_tensor
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise MalformedError("a mark where a value belongs")
        return value

    def pop_to_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                values = self.stack[start + 1 :]
                del self.stack[start:]
                return values
        raise MalformedError("no mark to collect from")

    def top(self, kind: type) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise MalformedError(f"a {type(value).__name__} where a {kind.__name__} belongs")
        return value

    def symbol(self, module: object, name: object) -> Symbol:
        if not isinstance(module, str) or not isinstance(name, str):
            raise MalformedError("an import whose name is no text")
        full = f"{module}.{name}"
        if not _is_allowed(full):
            raise UserError(
                f"{self.source} asks to import {shown(full)}, which loading weights does not "
                "need, so it is refused; take a checkpoint that holds tensors and plain values, "
                "or re-save it as torch.save({'model': model.state_dict()}, 'model.pt')."
            )
        return Symbol(full)

    def call(self, function: object, args: object) -> Any:
        """What REDUCE and NEWOBJ give: plain data for the names we know."""
        if not isinstance(function, Symbol) or not isinstance(args, tuple):
            raise MalformedError("a call of something that is no known function")
        name = function.name
        if name == TENSOR_V2:
            return self.make_tensor(args)
        if name in (PARAMETER, PARAMETER_WITH_STATE):
            if not args:
                raise MalformedError("a parameter without its tensor")
            return args[0]
        if name == FROM_TYPE_V2:
            if len(args) != 4 or not isinstance(args[1], Symbol):
                raise MalformedError("a tensor subclass that is not one of torch's own")
            if args[1].name not in _TENSOR_TYPES or args[0] == function:
                raise MalformedError("a tensor subclass that is not one of torch's own")
            return self.call(args[0], args[2])
        if name in _DICTS:
            if any(not isinstance(arg, Symbol) for arg in args):
                raise MalformedError(f"{name} built from arguments")
            return {}
        if name in _INERT or _INERT_PATTERN.fullmatch(name):
            return Opaque(name)
        raise MalformedError(f"a call of {name}")

    def set_items(self, pairs: list[Any]) -> None:
        if isinstance(self.stack[-1], Opaque):
            return
        target = self.top(dict)
        if len(pairs) % 2:
            raise MalformedError("a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Deeply nested keys could exhaust the C stack when hashed.
            if not isinstance(key, str | int | float | bytes | None | Symbol | Opaque):
                raise MalformedError(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def step(self, op: str, arg: Any) -> None:
        """Runs one opcode; `arg` is what pickletools decoded."""
        stack = self.stack
        if op in _LITERALS:
            stack.append(arg)
        elif op in ("BINPUT", "LONG_BINPUT"):
            self.put(arg)
        elif op == "MEMOIZE":
            self.put(len(self.memo))
        elif op in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[arg])
        elif op in _PLAIN:
            stack.append(_PLAIN[op])
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op == "MARK":
            stack.append(_MARK)
        elif op in _TUPLES:
            values = [self.pop() for _ in range(_TUPLES[op])]
            stack.append(tuple(reversed(values)))
        elif op in ("TUPLE", "LIST", "FROZENSET"):
            values = self.pop_to_mark()
            stack.append(values if op == "LIST" else tuple(values))
        elif op == "SETITEM":
            value, key = self.pop(), self.pop()
            self.set_items([key, value])
        elif op == "SETITEMS":
            self.set_items(self.pop_to_mark())
        elif op == "APPEND":
            value = self.pop()
            self.top(list).append(value)
        elif op in ("APPENDS", "ADDITEMS"):
            values = self.pop_to_mark()
            self.top(list).extend(values)
        elif op == "GLOBAL":
            module, _, name = arg.partition(" ")
            stack.append(self.symbol(module, name))
        elif op == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            stack.append(self.symbol(module, name))
        elif op in ("REDUCE", "NEWOBJ"):
            args, function = self.pop(), self.pop()
            stack.append(self.call(function, args))
        elif op == "NEWOBJ_EX":
            self.pop()
            args, function = self.pop(), self.pop()
            stack.append(self.call(function, args))
        elif op == "BUILD":
            # State of a dict subclass (state_dict keeps `_metadata` there) or of an object
            # that stays unbuilt: nothing that the weights need.
            self.pop()
            if not isinstance(stack[-1], Opaque):
                self.top(dict)
        elif op == "BINPERSID":
            saved = self.pop()
            if not isinstance(saved, tuple):
                raise MalformedError("a storage reference that is no tuple")
            stack.append(self.load_storage(saved))
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            self.pop_to_mark()
        elif op == "DUP":
            stack.append(stack[-1])
        elif op not in ("PROTO", "FRAME"):
            raise UserError(
                f"{self.source} uses the pickle instruction {op}, which torch.save never "
                "writes, so it is refused; take the checkpoint from a source you trust."
            )


def load_pickle(
    data: bytes,
    *,
    source: str,
    load_storage: Callable[[tuple[Any, ...]], Any],
    make_tensor: Callable[[tuple[Any, ...]], Any],
) -> Any:
    """The plain data that a torch pickle describes.

    Args:
        data: the pickle (data.pkl of the archive).
        source: what to call the file in a message.
        load_storage: handle of a storage, from torch's persistent id.
        make_tensor: handle of a tensor, from the arguments of `_rebuild_tensor_v2`.

    Returns:
        dicts, lists, tuples and scalars with the handles inside; `Opaque` for other objects
        that torch checkpoints commonly hold. Sets come as lists.

    Raises:
        UserError: it names an import or an instruction that is refused.
        MalformedError: anything else that is wrong with it.
    """
    machine = _Machine(source, load_storage, make_tensor)
    try:
        for op, arg in _instructions(data):
            if op == "STOP":
                result = machine.pop()
                if machine.stack:
                    raise MalformedError("values left over at its end")
                return result
            machine.step(op, arg)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        # pickletools and the stack report broken data by many types.
        raise MalformedError(f"a broken pickle ({type(error).__name__}: {shown(error)})") from None
    raise MalformedError("it ends early")


def _instructions(data: bytes) -> Iterator[tuple[str, Any]]:
    """Names and arguments, as far as there are."""
    operations = pickletools.genops(data)
    while True:
        # Of broken text in it, Python warns before it raises; a warning is no answer to a user.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            found = next(operations, None)
        if found is None:
            return
        yield found[0].name, found[1]

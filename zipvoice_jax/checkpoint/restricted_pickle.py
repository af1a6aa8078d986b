"""Reads the pickle inside a torch file without ever running what it asks for.

A pickle is a program. Python's own unpickler runs this one, but within bounds: every name that
it imports becomes an inert `Symbol` or is refused, a call makes plain data or a handle, and
instructions that torch.save never writes, or that would let a file harm the unpickler itself,
are refused or replaced before it starts.
"""

import dataclasses
import io
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable
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
_TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_FROM_TYPE_V2 = "torch._tensor._rebuild_from_type_v2"
_TENSOR_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_STORAGE_PATTERN = re.compile(
    r"torch\.(Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
_INSTRUCTIONS = frozenset(
    """PROTO STOP MARK POP POP_MARK DUP BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE
    BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE
    TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS SETITEM SETITEMS GLOBAL STACK_GLOBAL
    REDUCE BUILD BINPERSID""".split()
)
# Instructions and what is run instead, of equal length. Python hashes nested tuples by recursion
# in C, without a limit, so no set is built, and every dict is a `_Dict`, which NEXT_BUFFER takes
# from the unpickler's `buffers`. NEWOBJ would need a class, and a `Symbol` is not one. In a frame
# of false length the unpickler would skip bytes, and so run others than were checked: frames
# become instructions without effect.
_REPLACED = {
    "FRAME": 3 * (pickle.MARK + pickle.NONE + pickle.POP_MARK),
    "EMPTY_DICT": pickle.NEXT_BUFFER,
    "EMPTY_SET": pickle.EMPTY_LIST,
    "ADDITEMS": pickle.APPENDS,
    "FROZENSET": pickle.TUPLE,
    "NEWOBJ": pickle.REDUCE,
}


class MalformedError(Exception):
    """The pickle is not one that torch.save writes; the message says why."""


class Sealed:
    """A base for what may lie on the unpickler's stack: no pickle sets its attributes.

    A dataclass of it must not be one of `slots`, which would bring a `__setstate__` of its own.
    """

    def __setstate__(self, state: object) -> None:
        raise MalformedError(f"state for a {type(self).__name__}")


@dataclasses.dataclass(frozen=True)
class Symbol(Sealed):
    """A name that the pickle imports; nothing is imported, and a call runs `make`."""

    name: str
    make: Callable[..., Any] = dataclasses.field(compare=False, repr=False)

    def __call__(self, *args: Any) -> Any:
        """What the pickle gets for a call of the name."""
        return self.make(*args)


@dataclasses.dataclass(frozen=True)
class Opaque(Sealed):
    """An object of an allowed class that is left unbuilt."""

    name: str

    def __setstate__(self, state: object) -> None:
        """Drops the state: it is nothing that the weights need."""


class _Dict(dict[Any, Any]):
    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | int | float | bytes | None | Symbol | Opaque):
            raise MalformedError(f"a dict key of type {type(key).__name__}")
        super().__setitem__(key, value)

    def __setstate__(self, state: object) -> None:
        """Drops the state, which is where a state_dict keeps its `_metadata`."""


def shown(name: object) -> str:
    """Untrusted text on one line and of bearable length."""
    text = str(name)
    return ascii(text[:120] + ("..." if len(text) > 120 else ""))[1:-1]


def _make_dict(*args: object) -> _Dict:
    if not all(isinstance(arg, Symbol) for arg in args):  # of a defaultdict, its factory
        raise MalformedError("a dict built from arguments")
    return _Dict()


def _make_from_type(function: object, kind: object, args: object, _: object) -> Any:
    if (
        not (isinstance(function, Symbol) and function.name in (_TENSOR_V2, *_PARAMETERS))
        or not (isinstance(kind, Symbol) and kind.name in _TENSOR_TYPES)
        or not isinstance(args, tuple)
    ):
        raise MalformedError("a tensor subclass that is not one of torch's own")
    return function(*args)


def _refuse_call(*_: object) -> Any:
    raise MalformedError("a call of a type of tensor or storage")


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        file: io.BytesIO,
        source: str,
        load_storage: Callable[[tuple[Any, ...]], Any],
        make_tensor: Callable[..., Any],
    ) -> None:
        self._source = source
        self._load_storage = load_storage
        self._makers: dict[str, Callable[..., Any]] = {
            _TENSOR_V2: make_tensor,
            _FROM_TYPE_V2: _make_from_type,
            **dict.fromkeys(_PARAMETERS, lambda tensor, *_: tensor),
            **dict.fromkeys(_TENSOR_TYPES, _refuse_call),
            **dict.fromkeys(_DICTS, _make_dict),
        }
        # `iter` of these is an endless supply of dicts for NEXT_BUFFER.
        super().__init__(self._checked(file), encoding="latin-1", buffers=iter(_Dict, None))

    def _checked(self, file: io.BytesIO) -> io.BytesIO:
        """The next pickle of the file, with instructions refused and replaced."""
        start = file.tell()
        replaced: list[tuple[int, bytes]] = []
        arg: Any  # pickletools declares both optional
        at: Any
        # Of broken text Python warns before it raises; a warning is no answer to a user.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            for op, arg, at in pickletools.genops(file):
                if op.name in _REPLACED:
                    replaced.append((at - start, _REPLACED[op.name]))
                elif op.name not in _INSTRUCTIONS:
                    raise UserError(
                        f"{self._source} uses the pickle instruction {op.name}, which torch.save "
                        "never writes, so it is refused; take the checkpoint from a source you "
                        "trust."
                    )
                elif op.name == "GLOBAL":  # so that the message is about what comes first
                    self.find_class(*arg.split(" ", 1))
                elif op.name == "LONG_BINPUT" and arg > at:
                    # The unpickler would allocate a memo of that many entries.
                    raise MalformedError(f"the memo index {arg}")
        end = file.tell()
        file.seek(start)
        checked = io.BytesIO(file.read(end - start))
        with checked.getbuffer() as codes:
            for at, code in replaced:
                codes[at : at + len(code)] = code
        return checked

    def find_class(self, module_name: str, global_name: str, /) -> Symbol:
        name = f"{module_name}.{global_name}"
        if name in self._makers:
            return Symbol(name, self._makers[name])
        if name in _INERT or _INERT_PATTERN.fullmatch(name):
            return Symbol(name, lambda *_: Opaque(name))
        if _STORAGE_PATTERN.fullmatch(name):
            return Symbol(name, _refuse_call)
        raise UserError(
            f"{self._source} asks to import {shown(name)}, which loading weights does not "
            "need, so it is refused; take a checkpoint that holds tensors and plain values, "
            "or re-save it as torch.save({'model': model.state_dict()}, 'model.pt')."
        )

    def persistent_load(self, pid: Any, /) -> Any:
        if not isinstance(pid, tuple):
            raise MalformedError("a storage reference that is no tuple")
        return self._load_storage(pid)


def load_pickle(
    file: io.BytesIO,
    *,
    source: str,
    load_storage: Callable[[tuple[Any, ...]], Any],
    make_tensor: Callable[..., Any],
) -> Any:
    """The plain data that a torch pickle describes.

    Args:
        file: at the begin of the pickle; afterwards at its end.
        source: what to call the file in a message.
        load_storage: handle of a storage, from torch's persistent id.
        make_tensor: handle of a tensor, called like `_rebuild_tensor_v2`.

    Returns:
        dicts, lists, tuples and scalars with the handles inside; `Opaque` for other objects
        that torch checkpoints commonly hold. Sets come as lists.

    Raises:
        UserError: it names an import or an instruction that is refused.
        MalformedError: anything else that is wrong with it.
    """
    try:
        return _Unpickler(file, source, load_storage, make_tensor).load()
    except (
        *(pickle.UnpicklingError, EOFError, AttributeError, ValueError, IndexError),
        *(KeyError, TypeError, OverflowError, RecursionError),
    ) as error:
        # Python reports broken pickles by many types.
        raise MalformedError(f"a broken pickle ({type(error).__name__}: {shown(error)})") from None

"""Names the largest arrays in a program's memory, by the module that makes them."""

import collections
import dataclasses
import re
from collections.abc import Collection

from zipvoice_jax.forecast.hlo.cost import part_of
from zipvoice_jax.forecast.hlo.text import Computation, Instruction, Program, Shape

_SKIPPED = frozenset("parameter constant tuple get-tuple-element while conditional bitcast".split())
_SIZE = re.compile(r"Size: ([\d.]+)([KMGT]?)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Array:
    """Arrays of one shape in one part of the model; `bytes` are those of all of them."""

    part: str
    shape: str
    times: int
    bytes: float

    def __str__(self) -> str:
        times = f"{self.times} x " if self.times > 1 else ""
        return f"{amount(self.bytes)} {times}{self.shape} of {self.part}"


def amount(size: float) -> str:
    """Bytes as text, in GiB or MiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"


def largest(
    program: Program, count: int = 5, *, sizes: Collection[int] = (), parts: int = 1
) -> tuple[Array, ...]:
    """The largest arrays of a program, before or after compilation.

    Arrays that a loop stacks (for the backward pass, say) stay in memory, so that all stacks of
    one shape and part are summed; of other arrays, which are freed again, one counts.

    Args:
        program: the program of one device; before compilation, of all devices.
        count: number of arrays to return.
        sizes: an axis of one of these sizes is split over the devices.
        parts: number of devices.
    """
    inner = {  # of fusions and reductions: these never lie in memory
        name
        for inside in program.computations.values()
        for one in inside.values()
        if one.opcode not in ("call", "while", "conditional")
        for name in one.called
    }
    arrays_of: dict[tuple[str, str], tuple[int, float]] = {}
    for name, inside in program.computations.items():
        seen: collections.Counter[tuple[str, str]] = collections.Counter()
        for one in inside.values() if name not in inner else ():
            if one.opcode in _SKIPPED or len(one.shapes) != 1 or not one.shapes[0].in_hbm:
                continue
            path, stacks = _origin(one, inside)
            if "/" not in path:
                continue
            shape, size = _split(one.shapes[0], sizes, parts)
            key = (part_of(path), shape)
            seen[key] += stacks
            times = max(seen[key], 1)
            arrays_of[key] = max(arrays_of.get(key, (0, 0.0)), (times, size * times))
    arrays = [
        Array(part, shape, *value)
        for (part, shape), value in arrays_of.items()
        if not any(s == shape and _is_inner(p, part) for p, s in arrays_of)
    ]
    return tuple(sorted(arrays, key=lambda a: (-a.bytes, a.part, a.shape))[:count])


def _is_inner(part: str, whole: str) -> bool:
    """Whether a part, such as `decoder/conv (forward)`, lies within `decoder (forward)`."""
    (inner, _, way), (outer, _, other) = part.partition(" "), whole.partition(" ")
    return inner.startswith(f"{outer}/") and way == other


def _split(shape: Shape, sizes: Collection[int], parts: int) -> tuple[str, float]:
    """One device's part of an array as text, and its bytes."""
    axis = next((i for i, size in enumerate(shape.dims) if size in sizes), -1)
    if axis < 0:
        return str(shape), float(shape.padded)
    dims = (*shape.dims[:axis], shape.dims[axis] // parts, *shape.dims[axis + 1 :])
    return str(dataclasses.replace(shape, dims=dims)), shape.padded / parts


def _origin(one: Instruction, inside: Computation) -> tuple[str, bool]:
    """The op_name of an array, or of its parts if a loop stacks them; and whether one does."""
    path = one.op_name
    stacks = "dynamic_update" in path or one.opcode == "dynamic-update-slice"
    if stacks and len(one.operands) > 1:
        source = inside[one.operands[1]]
        while source.opcode in ("reshape", "broadcast", "get-tuple-element", "bitcast", "copy"):
            if source.op_name and part_of(source.op_name) != part_of(path):
                break
            source = inside[source.operands[0]]
        # Its own path ends in the loop; the stacked parts come from within.
        path = source.op_name if "/" in source.op_name else path
    return path, stacks


def refused(message: str, count: int = 5) -> tuple[Array, ...]:
    """The largest arrays that the compiler names when a program does not fit; often none.

    Args:
        message: the compiler's error message.
        count: number of arrays to return.
    """
    arrays = []
    for entry in re.split(r"\n\s+\d+\. ", message)[1:]:
        size = _SIZE.search(entry)
        shape = re.search(r"Shape: (\w+\[[\d,]*\])", entry)
        name = re.search(r'op_name="([^"]*)"', entry)
        if size and shape:
            total = float(size[1]) * _UNITS[size[2]]
            arrays.append(Array(part_of(name[1]) if name else "other", shape[1], 1, total))
    return tuple(arrays[:count])

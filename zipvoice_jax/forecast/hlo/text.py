"""Reads the text of a program: computations, instructions, shapes with their layouts.

It takes compiled programs (`compiled.as_text()`) and lowered ones
(`lowered.as_text(dialect="hlo", debug_info=True)`), where names have no `%`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

_BITS = {"token": 0, "opaque": 0, "pred": 8}
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([^\]]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_BARE_NAME = re.compile(r"(?:^|, )(?:/\*[^*]*\*/)?([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|true_computation|false_computation|branch_computations|"
    r"called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: its type, sizes, bytes with and without padding, and memory space (0 is HBM)."""

    dtype: str
    dims: tuple[int, ...]
    bytes: int
    padded: int
    space: int

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in HBM, the chip's main memory."""
        return self.space == 0

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation; `rest` holds its attributes, `shapes` a tuple's leaves."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str
    rest: str

    @property
    def op_name(self) -> str:
        """The path of the operation in the model, from JAX's metadata."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs, without a loop's condition."""
        groups = [many or one for many, one in _CALLED.findall(self.rest)]
        return tuple(name.strip().lstrip("%") for part in groups for name in part.split(","))

    def number(self, pattern: str) -> int | None:
        """The first number that a pattern finds among the attributes."""
        match = re.search(pattern, self.rest)
        return int(match[1]) if match else None


Computation = dict[str, Instruction]  # the root is last


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations by name, and the name of the entry."""

    computations: Mapping[str, Computation]
    entry: str


# --- reading ------------------------------------------------------------------------------------


def parse(text: str) -> Program:
    """Reads the text of a module; lines that are not instructions are skipped."""
    computations: dict[str, Computation] = {}
    current: Computation = {}
    entry = ""
    for line in text.splitlines():
        if line[-1:] == "{" and (match := _COMPUTATION.match(line)):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif match := _INSTRUCTION.match(line):
            current[match[2]] = _instruction(match[2], line, match.end())
            if match[1]:  # the root goes last
                root = current.pop(match[2])
                current[match[2]] = root
    return Program(computations, entry)


def _instruction(name: str, line: str, start: int) -> Instruction:
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    brace = line.index("(", end)
    close = _closing(line, brace)
    inside = line[brace + 1 : close - 1]
    opcode = line[end:brace].strip()
    is_literal = opcode in ("constant", "parameter")
    return Instruction(
        name,
        opcode,
        _shapes(line[start:end]),
        ()
        if is_literal or not inside
        else tuple((_NAME if "%" in inside else _BARE_NAME).findall(inside)),
        inside if is_literal else "",
        line[close:],
    )


def _closing(line: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for bracket in re.compile(r"[()]").finditer(line, start):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.end()
    return len(line)


@functools.cache
def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(_shape(*match.groups()) for match in _ARRAY.finditer(text))


def _shape(dtype: str, sizes: str, layout: str | None) -> Shape:
    dims = tuple(int(size.strip("<= ")) for size in sizes.split(",") if size.strip())
    digits = re.search(r"\d+", dtype)
    bits = _BITS.get(dtype, int(digits[0]) if digits else 8)
    order, _, marks = (layout or "").partition(":")
    space = re.search(r"S\((\d+)\)", marks)
    real = math.prod(dims) * bits / 8
    padded = _padded(dims, order, marks) * bits / 8
    return Shape(dtype, dims, math.ceil(real), math.ceil(padded), int(space[1]) if space else 0)


def _padded(dims: Sequence[int], order: str, marks: str) -> int:
    """Elements of an array whose most minor sizes are rounded up to its first tile."""
    tile = re.search(r"T\(([\d,]+)\)", marks)
    if tile is None:
        return math.prod(dims)
    minor = [int(axis) for axis in order.split(",") if axis]
    sizes = [dims[axis] for axis in minor]
    steps = [int(step) for step in reversed(tile[1].split(","))]
    sizes += [1] * (len(steps) - len(sizes))
    steps += [1] * (len(sizes) - len(steps))
    return math.prod(-(-size // step) * step for size, step in zip(sizes, steps, strict=True))


def flops_of(one: Instruction, inside: Computation) -> float:
    """Operations of a dot or convolution, 2 per multiply-add; 0 of anything else."""
    # Matrix products of a GPU are library calls, which name the axes in their own format.
    if one.opcode == "dot" or (one.opcode == "custom-call" and "lhs_contracting" in one.rest):
        left = inside[one.operands[0]].shapes[0].dims
        axes = re.search(r'lhs_contracting_dim\w*"?[=:][{\[]([\d,"]*)', one.rest)
        depth = math.prod(left[int(axis)] for axis in re.findall(r"\d+", axes[1])) if axes else 1
        return 2.0 * math.prod(one.shapes[0].dims) * depth
    if one.opcode == "convolution":
        return _convolution_flops(one, inside)
    return 0.0


def _convolution_flops(one: Instruction, inside: Computation) -> float:
    """Products of a convolution that meet neither padding nor the holes of a dilation.

    A TPU computes batched matrix products as convolutions that are mostly holes.
    """
    left, right = (inside[name].shapes[0].dims for name in one.operands[:2])
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    assert labels, one.rest
    source, kernel, out = labels[1], labels[2], labels[3]
    window = re.search(r"window=\{([^}]*)\}", one.rest)
    attributes = dict(item.split("=") for item in window[1].split()) if window else {}
    rank = len(source) - 2

    def numbers(name: str, default: int) -> list[int]:
        return (
            [int(n) for n in attributes[name].split("x")]
            if name in attributes
            else [default] * rank
        )

    pads = [int(low) for low in re.findall(r"(-?\d+)_", attributes.get("pad", ""))] or [0] * rank
    pairs = 1
    for axis in range(rank):
        pairs *= _valid_pairs(
            left[source.index(str(axis))],
            right[kernel.index(str(axis))],
            one.shapes[0].dims[out.index(str(axis))],
            numbers("stride", 1)[axis],
            pads[axis],
            numbers("lhs_dilate", 1)[axis],
            numbers("rhs_dilate", 1)[axis],
        )
    groups = one.number(r"batch_group_count=(\d+)") or 1
    # The kernel's inputs are those of one group of features.
    features = right[kernel.index("i")] * right[kernel.index("o")]
    return 2.0 * features * left[source.index("b")] / groups * pairs


@functools.cache
def _valid_pairs(
    size: int, kernel: int, out: int, stride: int, pad: int, dilate: int, spread: int
) -> int:
    """Pairs of output and kernel positions along an axis that meet an element of the input."""
    count = 0
    for k in range(kernel):
        # Positions o * stride + shift that are multiples of `dilate` and within the input.
        shift = k * spread - pad
        if stride == 1 and dilate == 1:
            count += max(0, min(out, size - shift) - max(0, -shift))
            continue
        positions = (o * stride + shift for o in range(out))
        count += sum(0 <= p < size * dilate and p % dilate == 0 for p in positions)
    return count


def group_size(one: Instruction) -> int:
    """Number of devices that take part together in a collective; 0: all of the program's."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", one.rest):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", match[2]))
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=", one.rest):
        return int(match[1].split(",")[-1])
    match = re.search(r"replica_groups=\{\{([\d,]*)\}", one.rest)
    return len(match[1].split(",")) if match else 0

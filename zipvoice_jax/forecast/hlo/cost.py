"""Counts what one run of a compiled program does, from the text of its HLO.

`compiled.cost_analysis()` counts the body of a loop once, but most of a training step is in loops.
Here a walk from the entry counts a loop's body as often as it runs. The numbers are XLA's or ours:

- cycles: XLA's. The TPU compiler writes `estimated_cycles` beside most operations, from its cost
  model of the scheduled program; they are summed over what runs. Operations without an estimate
  add none; the bytes that they move are counted in `unestimated_bytes`.
- flops: ours, 2 per multiply-add of every dot and convolution that runs, without those that meet
  only padding or holes; elementwise operations are not counted.
- bytes: ours, the operands and outputs in HBM, padding included, of every operation outside
  fusions. On-chip memory of a TPU (memory space 1 of a layout) does not count, and of an operand
  that is only sliced, or updated in place, only the slice counts. Copies between HBM and on-chip
  memory count; they run beside the computation and have no cycles of their own.
- collectives: ours, bytes and how often each runs.

A conditional counts its costlier branch in full; a gradient hook, which is a conditional whose
`op_name` has a part `hook` (`jax.named_scope("hook")`), counts HOOK_SHARE of it. A loop whose
count cannot be read counts once and is reported in `unknown`.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from zipvoice_jax.forecast.hlo.loops import Frame, Loops, source_of
from zipvoice_jax.forecast.hlo.text import Computation, Instruction, flops_of, group_size, parse

# Hooks act with a probability of 0.125 (Balancer, after its first steps) to 0.25 (Whiten).
HOOK_SHARE = 0.2

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# libtpu writes the largest int64 beside an operation that it has no estimate for.
_NO_ESTIMATE = 2**62
_HOOK = re.compile(r"(?:^|[/(])hook(?:[/)]|$)")
# Operations that move no data by themselves.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id "
    "opt-barrier add-dependency".split()
)
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
_SLICES = ("dynamic-slice", "slice", "gather")
# Parts of an operation's path that are no modules: JAX's transformations, and layers of a stack.
_NO_MODULE = re.compile(
    r".*[(.\[,].*|while|body|cond|eval_jaxpr|checkpoint|rematted_computation|closed_call|layers|"
    r"branch_\d+_fun|encoders_\d+|hook"
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind, size and group.

    Attributes:
        kind: one of KINDS.
        group: number of devices that take part together; 0: all.
        bytes: bytes of the whole array, after gathering or before scattering, on one device.
        overlaps: whether it overlaps with computation.
        times: how often it runs.
    """

    kind: str
    group: int
    bytes: int
    overlaps: bool
    times: float


@dataclasses.dataclass(frozen=True)
class PartCost:
    """The cost of one part of the model, in the forward pass, the backward pass, remat or hooks."""

    name: str
    cycles: float
    flops: float
    bytes: float
    collective_bytes: float


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """The cost of one run of a program, or of several in a row, on one device.

    Attributes:
        flops: operations of dots and convolutions.
        cycles: XLA's estimate; None if the backend has none.
        bytes: bytes to and from HBM, padding included.
        padding: share of these bytes that is padding.
        unestimated_bytes: bytes of operations without an estimate of cycles.
        collectives: collectives by kind, size and group.
        parts: cost by part of the model, costliest first.
        unknown: sentences about what could not be counted.
    """

    flops: float
    cycles: float | None
    bytes: float
    padding: float
    unestimated_bytes: float
    collectives: tuple[Collective, ...]
    parts: tuple[PartCost, ...]
    unknown: tuple[str, ...]

    @property
    def collective_bytes(self) -> dict[str, float]:
        """Bytes by kind of collective."""
        total: dict[str, float] = collections.defaultdict(float)
        for collective in self.collectives:
            total[collective.kind] += collective.bytes * collective.times
        return dict(total)

    @property
    def collective_times(self) -> dict[str, float]:
        """How many collectives of each kind run."""
        total: dict[str, float] = collections.defaultdict(float)
        for collective in self.collectives:
            total[collective.kind] += collective.times
        return dict(total)


def program_cost(*texts: str) -> ProgramCost:
    """The cost of programs that run one after the other, from their HLO texts."""
    total, unknown = _Total(), set[str]()
    for program in map(parse, texts):
        walk = _Walk(program.computations)
        total.add(walk.run(Frame(program.entry)))
        unknown |= walk.unknown
    parts = [PartCost(name, *values) for name, values in total.parts.items()]
    moved = sum(part.bytes for part in parts)
    cycles = sum(part.cycles for part in parts) if "estimated_cycles" in "".join(texts) else None
    order = sorted(parts, key=lambda p: (p.cycles, p.bytes, p.flops, p.name), reverse=True)
    return ProgramCost(
        flops=sum(part.flops for part in parts),
        cycles=cycles,
        bytes=moved,
        padding=1.0 - total.real / moved if moved else 0.0,
        unestimated_bytes=total.unestimated,
        collectives=tuple(Collective(*key, times) for key, times in sorted(total.sent.items())),
        parts=tuple(order),
        unknown=tuple(sorted(unknown)),
    )


def part_of(op_name: str) -> str:
    """The module that an operation belongs to and its pass, such as `decoder/conv (backward)`."""
    if _HOOK.search(op_name):
        way = "hook"
    elif "rematted_computation" in op_name:
        way = "remat"
    else:
        way = "backward" if "transpose(" in op_name else "forward"
    names = [name for name in op_name.split("/")[:-1] if not _NO_MODULE.fullmatch(name)]
    return f"{'/'.join(names[:2])} ({way})" if names else "other"


def report(cost: ProgramCost, *, clock: float | None = None, rows: int = 40) -> str:
    """A program's cost as text: totals, collectives, and where its cycles go.

    Args:
        cost: cost of the program.
        clock: cycles per second; None reports cycles only.
        rows: most parts to report.
    """
    cycles = cost.cycles or 0.0
    time = "-" if not cycles else f"{cycles:.3g} cycles"
    time += f" = {1e3 * cycles / clock:.1f} ms" if clock and cycles else ""
    lines = [
        f"flops {cost.flops / 1e12:.3f} T, compute {time}, HBM {cost.bytes / 1e9:.2f} GB "
        f"({cost.padding:.0%} padding), without estimate {cost.unestimated_bytes / 1e9:.2f} GB"
    ]
    for kind, times in cost.collective_times.items():
        lines.append(f"{kind}: {times:.0f} times, {cost.collective_bytes[kind] / 1e6:.1f} MB")
    lines += list(cost.unknown)
    lines.append(f"{'ms' if clock else 'kcycles':>9} share  GFLOP HBM MB sent MB  part")
    for part in cost.parts[:rows]:
        amount = part.cycles / clock * 1e3 if clock else part.cycles / 1e3
        lines.append(
            f"{amount:9.2f} {part.cycles / max(cycles, 1.0):5.1%} {part.flops / 1e9:6.0f} "
            f"{part.bytes / 1e6:6.0f} {part.collective_bytes / 1e6:7.1f}  {part.name}"
        )
    return "\n".join(lines)


class _Total:
    """Sums over what runs; parts are [cycles, flops, bytes, bytes sent] by name."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = collections.defaultdict(lambda: [0.0] * 4)
        self.sent: dict[tuple[str, int, int, bool], float] = collections.defaultdict(float)
        self.real = self.unestimated = 0.0

    def add(self, other: "_Total", times: float = 1.0, *, overlaps: bool = False) -> None:
        for name, values in other.parts.items():
            self.parts[name] = [
                a + b * times for a, b in zip(self.parts[name], values, strict=True)
            ]
        for (kind, group, size, beside), count in other.sent.items():
            self.sent[kind, group, size, beside or overlaps] += count * times
        self.real += other.real * times
        self.unestimated += other.unestimated * times

    def weight(self) -> tuple[float, ...]:
        """Key by which branches are compared: cycles, bytes sent, bytes, flops."""
        return tuple(sum(v[i] for v in self.parts.values()) for i in (0, 3, 2, 1))


class _Fused(NamedTuple):
    """Flops of a fusion, and bytes of operands and outputs that are only partly moved."""

    flops: float
    read: dict[int, int]
    written: dict[int, int]


class _Walk:
    def __init__(self, computations: Mapping[str, Computation]) -> None:
        self.computations = computations
        self.loops = Loops(computations)
        self.unknown: set[str] = set()
        self.fused: dict[str, _Fused] = {}

    def run(self, frame: Frame) -> _Total:
        """The cost of one call of a computation."""
        total = _Total()
        inside = self.computations[frame.computation]
        for one in inside.values():
            if one.opcode in _FREE or one.opcode.endswith(("-done", "-update")):
                continue
            if one.opcode == "conditional":
                acts = bool(_HOOK.search(one.op_name)) and not frame.in_hook
                branches = [
                    self.run(Frame(name, one, frame, i, acts or frame.in_hook))
                    for i, name in enumerate(one.called)
                ]
                total.add(max(branches, key=_Total.weight), HOOK_SHARE if acts else 1.0)
            elif one.opcode in ("while", "call", "async-start"):
                times = self._times(one, frame)
                for name in one.called:
                    body = self.run(Frame(name, one, frame, in_hook=frame.in_hook))
                    total.add(body, times, overlaps=one.opcode == "async-start")
            else:
                self.count(one, frame, total)
        return total

    def _times(self, one: Instruction, frame: Frame) -> int:
        times = self.loops.trips(one, frame) if one.opcode == "while" else 1
        if times is None:
            where = part_of(one.op_name)
            self.unknown.add(f"a loop of {where} has no count that can be read; counted once")
        return 1 if times is None else times

    def count(self, one: Instruction, frame: Frame, total: _Total) -> None:
        """Adds an instruction other than control flow."""
        inside = self.computations[frame.computation]
        part = total.parts[part_of(self._op_name(one, frame))]
        fused = self._fused(one, inside)
        moved, real = self._moved(one, inside, fused)
        cycles = one.number(r'"estimated_cycles":"(\d+)"')
        sent = self._collective(one, inside)
        if sent:
            total.sent[sent] += 1.0
            part[3] += sent[2]
        elif cycles is not None and cycles < _NO_ESTIMATE:
            part[0] += cycles
        elif not one.opcode.endswith("-start"):
            total.unestimated += moved
        part[1] += fused.flops
        part[2] += moved
        total.real += real

    def _op_name(self, one: Instruction, frame: Frame) -> str:
        """The instruction's op_name, else that of what it fuses, of an operand or of the loop.

        Instructions that the compiler adds, such as changes of layout, often have none.
        """
        inside = self.computations[frame.computation]
        bodies = [self.computations.get(called, {}) for called in one.called]
        fused = [i for body in bodies for i in reversed(body.values())]
        sources = [inside[name] for name in one.operands if name in inside]
        around: list[Instruction] = []
        outer: Frame | None = frame
        while outer and outer.caller:
            around.append(outer.caller)
            outer = outer.parent
        known = (one, *fused, *sources, *around)
        return next((name for i in known if "/" in (name := i.op_name)), "")

    def _collective(
        self, one: Instruction, inside: Computation
    ) -> tuple[str, int, int, bool] | None:
        if one.opcode == "fusion":  # such as an all-reduce with the slice of its result
            fused = self.computations[one.called[0]]
            for part in fused.values():
                if found := self._collective(part, fused):
                    scatters = "reduce-scatter" in one.name or "all-reduce-scatter" in one.rest
                    return ("reduce-scatter", *found[1:]) if scatters else found
            return None
        kind = one.opcode.removesuffix("-start")
        if kind not in KINDS:
            return None
        group = group_size(one)
        size = sum(s.bytes for name in one.operands for s in inside[name].shapes)
        size *= max(group, 1) if kind == "all-gather" else 1
        return kind, group, size, one.opcode.endswith("-start")

    def _moved(self, one: Instruction, inside: Computation, fused: _Fused) -> tuple[float, float]:
        """Bytes to and from HBM, with padding and without."""
        if any(f'"{name}"' in one.rest for name in _FREE_CALLS):
            return 0.0, 0.0
        out = one.shapes
        if one.opcode == "copy-start":  # destination, source, context
            out = out[:1]
        elif one.opcode.endswith("-start"):  # sources, destination, context
            out = out[len(one.operands) :][:1]
        moved = real = 0.0
        sources = [inside[name].shapes[0] for name in one.operands if inside[name].shapes]
        for shapes, partly in ((sources, fused.read), (out, fused.written)):
            for i, shape in enumerate(shapes):
                if shape.in_hbm and shape.padded:
                    share = min(1.0, partly[i] / shape.padded) if i in partly else 1.0
                    moved += shape.padded * share
                    real += shape.bytes * share
        return moved, real

    # --- fusions ----------------------------------------------------------------------------

    def _fused(self, one: Instruction, inside: Computation) -> _Fused:
        if one.opcode in _SLICES or one.opcode == "slice-start":
            return _Fused(0.0, {0: one.shapes[one.opcode == "slice-start"].padded}, {})
        if one.opcode == "dynamic-update-slice":
            return _Fused(0.0, {0: 0}, {0: inside[one.operands[1]].shapes[0].padded})
        if one.opcode != "fusion":
            return _Fused(flops_of(one, inside), {}, {})
        name = one.called[0]
        if name not in self.fused:
            self.fused[name] = self._inside_fusion(self.computations[name])
        return self.fused[name]

    def _inside_fusion(self, inside: Computation) -> _Fused:
        users: dict[str, list[Instruction]] = collections.defaultdict(list)
        for one in inside.values():
            for name in one.operands:
                users[name].append(one)
        last = list(inside.values())[-1]
        roots = [inside[name] for name in last.operands] if last.opcode == "tuple" else [last]
        roots = [source_of(root, inside) for root in roots]
        read: dict[int, int] = {}
        for one in inside.values():
            if one.opcode != "parameter":
                continue
            sizes = [
                self._read_by(user, source, inside, roots)
                for user, source in _uses(one, users)
                if user.opcode != "tuple"
            ]
            known = [size for size in sizes if size is not None]
            if sizes and len(known) == len(sizes):
                read[int(one.literal)] = sum(known)
        written = {
            i: inside[root.operands[1]].shapes[0].padded
            for i, root in enumerate(roots)
            if root.opcode == "dynamic-update-slice"
        }
        return _Fused(sum(self._fused(i, inside).flops for i in inside.values()), read, written)

    def _read_by(
        self, user: Instruction, source: str, inside: Computation, roots: list[Instruction]
    ) -> int | None:
        """Bytes that an instruction in a fusion reads of a parameter; None for all of it."""
        if user.opcode in _SLICES and user.operands[0] == source:
            return user.shapes[0].padded
        if user.opcode == "dynamic-update-slice" and user.operands[0] == source and user in roots:
            return 0
        if user.opcode == "fusion":
            return self._fused(user, inside).read.get(user.operands.index(source))
        return None


def _uses(
    one: Instruction, users: Mapping[str, list[Instruction]]
) -> list[tuple[Instruction, str]]:
    """The instructions that use a value, through bitcasts, and the name that each uses."""
    uses: list[tuple[Instruction, str]] = []
    for user in users[one.name]:
        uses += _uses(user, users) if user.opcode == "bitcast" else [(user, one.name)]
    return uses

"""The trip counts of the loops of a compiled program.

Some backends write the count beside the loop. The TPU backend does not: there it is the number that
the loop's condition compares its counter with, which may come through copies, fusions, tuples and
enclosing loops.
"""

import dataclasses
import re
from collections.abc import Mapping

from zipvoice_jax.forecast.hlo.text import Computation, Instruction

_SAME = ("bitcast", "copy", "convert", "reshape", "copy-start", "copy-done", "transpose")


@dataclasses.dataclass(frozen=True)
class Frame:
    """A call of a computation: by which instruction of which frame."""

    computation: str
    caller: Instruction | None = None
    parent: "Frame | None" = None
    branch: int = 0
    in_hook: bool = False


class Loops:
    """Reads the counts of the loops of a program's computations."""

    def __init__(self, computations: Mapping[str, Computation]) -> None:
        self.computations = computations

    def trips(self, loop: Instruction, frame: Frame) -> int | None:
        """How often a loop of a frame runs; None if that cannot be read."""
        if (known := loop.number(r'"known_trip_count":\{"n":"(\d+)"')) is not None:
            return known
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        return self._counted(loop, Frame(condition[1], loop, frame), frame) if condition else None

    def _counted(self, loop: Instruction, test: Frame, frame: Frame) -> int | None:
        """The count of a loop from one number to another in equal steps."""
        compare, at = self._follow(self._root(test), test)
        way = re.search(r"direction=(\w+)", compare.rest)
        if compare.opcode != "compare" or way is None:
            return None
        inside = self.computations[at.computation]
        left, right = (self._follow(inside[name], at)[0] for name in compare.operands)
        for counter, limit in ((left, right), (right, left)):
            index = counter.number(r"index=(\d+)")
            if counter.opcode != "get-tuple-element" or index is None:
                continue
            step = self._step(Frame(loop.called[0], loop, frame), index)
            start = self._number(*self._initial(loop, index, frame))
            if limit.opcode == "get-tuple-element":
                carried = limit.number(r"index=(\d+)") or 0
                end = self._number(*self._initial(loop, carried, frame))
            else:
                end = self._number(limit, at)
            if step and start is not None and end is not None:
                span = abs(end - start) + (way[1] in ("LE", "GE"))
                return -(-span // abs(step))
        return None

    def _step(self, body: Frame, index: int) -> int | None:
        """What one iteration of a loop adds to an element that it carries."""
        root = self._root(body)
        if root.opcode != "tuple":
            return None
        change, at = self._follow(self.computations[body.computation][root.operands[index]], body)
        if change.opcode not in ("add", "subtract"):
            return None
        inside = self.computations[at.computation]
        sides = [self._follow(inside[name], at)[0] for name in change.operands]
        numbers = [int(side.literal) for side in sides if side.opcode == "constant"]
        carried = [side for side in sides if side.number(r"index=(\d+)") == index]
        if len(numbers) != 1 or len(carried) != 1:
            return None
        return numbers[0] if change.opcode == "add" else -numbers[0]

    def _number(self, one: Instruction, frame: Frame) -> int | None:
        one, _ = self._follow(one, frame)
        is_number = one.opcode == "constant" and re.fullmatch(r"-?\d+", one.literal)
        return int(one.literal) if is_number else None

    def _root(self, frame: Frame) -> Instruction:
        return list(self.computations[frame.computation].values())[-1]

    def _initial(self, loop: Instruction, index: int, frame: Frame) -> tuple[Instruction, Frame]:
        """The initial value of an element of a loop; the loop itself if that cannot be read."""
        initial, at = self._follow(self.computations[frame.computation][loop.operands[0]], frame)
        if initial.opcode != "tuple":
            return loop, frame
        return self.computations[at.computation][initial.operands[index]], at

    def _keeps(self, loop: Instruction, index: int) -> bool:
        """Whether a loop's body passes an element on unchanged."""
        inside = self.computations[loop.called[0]]
        root = list(inside.values())[-1]
        kept = source_of(inside[root.operands[index]], inside) if root.opcode == "tuple" else root
        return (
            kept.opcode == "get-tuple-element"
            and kept.number(r"index=(\d+)") == index
            and inside[kept.operands[0]].opcode == "parameter"
        )

    def _follow(self, one: Instruction, frame: Frame) -> tuple[Instruction, Frame]:
        """Where a value comes from, through copies, fusions, tuples and callers."""
        inside, caller, parent = self.computations[frame.computation], frame.caller, frame.parent
        if one.opcode in _SAME:
            return self._follow(inside[one.operands[0]], frame)
        if one.opcode == "fusion":
            return self._follow(self._root(fused := Frame(one.called[0], one, frame)), fused)
        if one.opcode == "parameter" and caller and parent and caller.opcode != "while":
            position = 1 + frame.branch if caller.opcode == "conditional" else int(one.literal)
            argument = self.computations[parent.computation][caller.operands[position]]
            return self._follow(argument, parent)
        if one.opcode == "get-tuple-element":
            index = one.number(r"index=(\d+)") or 0
            source, at = self._follow(inside[one.operands[0]], frame)
            if source.opcode == "tuple":
                element = self.computations[at.computation][source.operands[index]]
                return self._follow(element, at)
            loop, outer = source, at
            if source.opcode == "parameter" and at.caller and at.parent:
                # In a loop's condition its elements matter, not their initial values.
                if at.computation != at.caller.called[0]:
                    return one, frame
                loop, outer = at.caller, at.parent
            if loop.opcode == "while" and self._keeps(loop, index):
                return self._follow(*self._initial(loop, index, outer))
        return one, frame


def source_of(one: Instruction, inside: Computation) -> Instruction:
    """The source of an instruction, through copies, bitcasts and the like."""
    while one.opcode in _SAME:
        one = inside[one.operands[0]]
    return one

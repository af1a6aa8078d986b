"""The peaks of TPU chips, and a model of the time of their collectives.

Peak, HBM bandwidth and links are those of Google's pages (docs.cloud.google.com/tpu/docs, v5e, v5p
and v6e): 400, 1200 and 800 GB/s of interconnect per chip in both directions over 4, 6 and 4 ports.
`hbm_bytes` is what the compiler (libtpu 0.0.50) grants a program, from its message on refusing one.

The clock turns XLA's cycles into seconds; it is not published. It is the peak divided by the
operations per cycle, which are 2 for each cell of the matrix units: 4 and 8 of 128x128 in a v5e and
a v5p, whose two cores work as one device, and 4 of 256x256 in a v6e, since with the 2 units that
Google states XLA's estimates would exceed the peak. With these clocks XLA expects 88, 90 and 70 %
of the peak for a bfloat16 product of 8192^3, and 81, 72 and 81 % of the HBM bandwidth for scaling
an array.

The times of collectives are our own model, not a measurement: rings over the axes of the torus, all
links busy, and HOP_SECONDS for every chip that the data has to pass in sequence. A slice whose axis
does not close into a ring has half the bandwidth on it, and longer paths.
"""

import dataclasses
import math
import re

from zipvoice_jax.core.errors import UserError

# Approximate time of a hop (1 us in the JAX team's book "How to Scale Your Model").
HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
        name: its name in a topology.
        flops: peak FLOP/s in bfloat16.
        hbm_bytes: bytes of HBM that a program may use.
        hbm_bandwidth: bytes per second.
        link_bandwidth: bytes per second of one link in one direction.
        clock: cycles per second of XLA's estimates; both cores of a v5p work as one device.
        axes: number of axes of its torus.
        closes: an axis whose length is a multiple of this is a ring.
        most: most chips in a slice.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    clock: float
    axes: int
    closes: int
    most: int


def _chip(
    name: str, tera: float, gib: float, hbm: float, link: float, cycle_flops: int, *torus: int
) -> Chip:
    flops = tera * 1e12
    size = round(gib * 2**30)
    return Chip(name, flops, size, hbm * 1e9, link * 1e9, flops / cycle_flops, *torus)


CHIPS = {
    chip.name: chip
    for chip in (
        _chip("v5e", 197.0, 15.75, 819.0, 50.0, 4 * 128 * 128 * 2, 2, 16, 256),
        _chip("v5p", 459.0, 95.73, 2765.0, 100.0, 8 * 128 * 128 * 2, 3, 4, 6144),
        _chip("v6e", 918.0, 31.24, 1638.0, 100.0, 4 * 256 * 256 * 2, 2, 16, 256),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: chips of one kind on a grid."""

    chip: Chip
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """The topology of a name such as v5e:2x4.

        Raises:
            UserError: there is no such slice.
        """
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
        chip = CHIPS.get(match[1]) if match else None
        if match is None or chip is None:
            raise UserError(
                f"the topology {name!r} is unknown; give cpu, gpu, or {', '.join(CHIPS)} with its "
                "chips, such as v5e:2x4 or v5p:4x4x4."
            )
        shape = tuple(map(int, match[2].split("x")))
        if len(shape) != chip.axes or not 1 <= math.prod(shape) <= chip.most:
            raise UserError(
                f"the topology {name} cannot be; {chip.name} has {chip.axes} axes and at most "
                f"{chip.most} chips."
            )
        return cls(chip, shape)

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def collective_seconds(self, kind: str, group: int, size: float) -> float:
        """The modelled time of a collective.

        An all-gather or reduce-scatter of a whole array passes each chip's links once, an
        all-reduce twice. In an all-to-all, data travels a quarter of a ring on average.

        Args:
            kind: name of the collective in HLO.
            group: number of chips that take part together; 0: all. A smaller group is assumed to
                be neighbours along one axis.
            size: bytes of the whole array; for an all-to-all or a permutation, of one chip's part.
        """
        part = group or self.chips
        if part <= 1:
            return 0.0
        axes = self._axes(part)
        link = self.chip.link_bandwidth
        if kind == "collective-permute":
            return size / link + HOP_SECONDS
        lanes = sum(2 if closed else 1 for _, closed in axes)
        hops = sum(n // 2 if closed else n - 1 for n, closed in axes)
        if kind == "all-to-all":
            longest, closed = max(axes)
            return size * longest / 4 / (link * (2 if closed else 1)) + hops * HOP_SECONDS
        times = 2 if kind == "all-reduce" else 1
        return times * ((part - 1) / part * size / (link * lanes) + hops * HOP_SECONDS)

    def _axes(self, part: int) -> list[tuple[int, bool]]:
        """Sizes of the axes that a collective runs over, and whether each is a ring."""
        # A v5p slice below 4x4x4 is a mesh throughout.
        cube = self.chip.axes == 2 or all(n % self.chip.closes == 0 for n in self.shape)
        if part == self.chips:
            return [(n, cube and n % self.chip.closes == 0) for n in self.shape if n > 1]
        return [(part, cube and part in self.shape and part % self.chip.closes == 0)]

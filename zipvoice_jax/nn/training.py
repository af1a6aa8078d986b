"""What a training step hands to the modules: its step and key, and the hooks they drive.

Modules take a `StepContext` or None; None means evaluation: no dropout, no hooks. Each
random choice has a name. Where the same names recur layer after layer, they are collected from one
layer (`Choices`) and their numbers are drawn for all layers at once (`draw`), since a draw of its
own for each makes programs slow to compile.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from zipvoice_jax.core.rng import Name, named_key
from zipvoice_jax.core.schedule import PiecewiseLinear, Schedule, value_at
from zipvoice_jax.nn import hooks


class Choices(dict[str, tuple[int, ...]]):
    """Shapes of random choices by name; collected by standing as `StepContext.draws`."""

    def in_order(self, order: Sequence[str]) -> "Choices":
        """The same by the first of these words that their names begin with; the others are last."""

        def rank(item: tuple[str, tuple[int, ...]]) -> int:
            return next((i for i, word in enumerate(order) if item[0].startswith(word)), len(order))

        return Choices(sorted(self.items(), key=rank))


@flax.struct.dataclass
class StepContext:
    """The training step and where the numbers of its random choices come from.

    Attributes:
        step: adjusted batch count, float32.
        key: random key of the choices whose numbers are not drawn beforehand.
        draws: numbers drawn beforehand, by name; or what collects the names.
        path: what the names in `draws` begin with.
    """

    step: Float[Array, ""]
    key: Key[Array, ""]
    draws: Mapping[str, Any] | None = None
    path: str = flax.struct.field(pytree_node=False, default="")

    def at(self, *names: Name) -> "StepContext":
        """The context of a part: its names go into the key, or into the names of drawn numbers."""
        if self.draws is not None:
            return self.replace(path=self.path + "".join(f"{name}/" for name in names))  # type: ignore[attr-defined]
        return self.replace(key=named_key(self.key, *names))  # type: ignore[attr-defined]

    def uniform(self, name: str, shape: tuple[int, ...] = ()) -> Array:
        """The numbers from [0, 1) that belong to a name.

        Raises:
            KeyError: the numbers were drawn beforehand and this name was left out.
        """
        if self.draws is None:
            return jax.random.uniform(named_key(self.key, name), shape)
        if isinstance(self.draws, Choices):
            self.draws[self.path + name] = shape
            return jnp.zeros(shape)
        return self.draws[self.path + name]

    def value(self, schedule: Schedule) -> Float[Array, ""]:
        """A schedule's value at this step."""
        return value_at(schedule, self.step)

    def chance(self, name: str, probability: Schedule) -> Float[Array, ""]:
        """1.0 with this probability, else 0.0; one draw for the whole batch."""
        return (self.uniform(name) < self.value(probability)).astype(jnp.float32)

    def keep(self, name: str, drop_rate: Schedule | Array, shape: tuple[int, ...]) -> Array:
        """A mask of ones and zeros, each zero with probability `drop_rate`."""
        rate = drop_rate if isinstance(drop_rate, jax.Array) else self.value(drop_rate)
        return (self.uniform(name, shape) >= rate).astype(jnp.float32)


def draw(key: Key[Array, ""], choices: Choices, layers: int) -> dict[str, Array]:
    """Uniform numbers for the random choices of layers, with an axis of layers before their shapes.

    There is one draw for all choices of one number, one for all of a number per item, and one for
    each that takes more.

    Args:
        key: random key of all choices.
        choices: those of one layer.
        layers: how many there are.
    """
    kinds: dict[str, list[str]] = {}
    for name, shape in choices.items():
        kind = "chances" if not shape else "rows" if shape[1:] == (1, 1) else name
        kinds.setdefault(kind, []).append(name)
    draws = {}
    for kind, names in kinds.items():
        shape = (layers, len(names), *choices[names[0]])
        numbers = jax.random.uniform(named_key(key, kind), shape)
        draws |= {name: numbers[:, i] for i, name in enumerate(names)}
    return draws


@dataclasses.dataclass(frozen=True)
class Balancer(hooks.BalancerLimits):
    """A `hooks.balancer` and the probability with which it acts in a step, officially the same."""

    prob: Schedule = PiecewiseLinear(((0.0, 0.5), (8000.0, 0.125)))

    def __call__(
        self, x: Array, ctx: StepContext | None, name: str, mask: Bool[Array, "..."] | None
    ) -> Array:
        """The hook on `x`, acting with probability `prob`; the identity without a context."""
        if ctx is None:
            return x
        return hooks.balancer(x, mask, ctx.step, ctx.chance(name, self.prob), self)


@dataclasses.dataclass(frozen=True)
class Whiten:
    """A `hooks.whiten` whose limit rises over the first 20,000 steps.

    The official module looks rarely (probability 0.025) until it has once seen the limit
    broken and then acts with probability 0.25. That memory would be hidden state; here it
    always looks with 0.25, which acts equally often wherever the limit stays broken.
    """

    limit: float
    ratio: float = 2.0
    groups: int = 1
    grad_scale: float = 0.01
    prob: float = 0.25

    def __call__(
        self, x: Array, ctx: StepContext | None, name: str, mask: Bool[Array, "..."] | None
    ) -> Array:
        """The hook on `x`, acting with probability `prob`; the identity without a context."""
        if ctx is None:
            return x
        limit = PiecewiseLinear(((0.0, self.limit), (20000.0, self.ratio * self.limit)))
        limits = hooks.WhitenLimits(limit, self.groups, self.grad_scale)
        return hooks.whiten(x, mask, ctx.step, ctx.chance(name, self.prob), limits)


def limit_param(
    x: Array, ctx: StepContext | None, name: str, minimum: Schedule, maximum: Schedule
) -> Array:
    """`hooks.limit_param_value` with the official probability of 0.6."""
    if ctx is None:
        return x
    return hooks.limit_param_value(x, ctx.step, ctx.chance(name, 0.6), minimum, maximum)

"""The official tensors within our leaves: a layer of a stacked leaf is one of its own.

Numbers per tensor are held in one vector for a whole tree, in the order of its leaves and,
within a stacked leaf, of its layers. That keeps programs small: most work of ScaledAdam is on
such numbers, and a model has hundreds of leaves.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

KeyPath = tuple[Any, ...]  # as jax.tree_util gives them


def in_layers(path: KeyPath) -> bool:
    """Whether a leaf holds the layers of a stack on axis 0: its path has the key `layers`."""
    return any(getattr(entry, "key", None) == "layers" for entry in path)


def leads(params: Any, stacked: Callable[[KeyPath], bool]) -> list[int]:
    """For each leaf how many of its axes, 0 or 1, count official tensors."""
    return [int(stacked(path)) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def dots(
    xs: Sequence[Array], ys: Sequence[Array], leads: Sequence[int]
) -> Float[Array, " tensors"]:
    """The inner product of each tensor of one tree with that of another."""

    def dot(x: Array, y: Array, lead: int) -> Array:
        within, across = tuple(range(lead, x.ndim)), tuple(range(lead))
        dimensions = (within, within), (across, across)
        return jax.lax.dot_general(x, y, dimensions, precision="highest").reshape(-1)

    return jnp.concatenate([dot(*row) for row in zip(xs, ys, leads, strict=True)])


def root_mean_squares(xs: Sequence[Array], leads: Sequence[int]) -> Float[Array, " tensors"]:
    """The root mean square of each tensor."""
    sizes = [
        math.prod(x.shape[lead:])
        for x, lead in zip(xs, leads, strict=True)
        for _ in range(math.prod(x.shape[:lead]))
    ]
    return jnp.sqrt(dots(xs, xs, leads) / np.array(sizes, np.float32))


def split(
    vector: Float[Array, " tensors"], leaves: Sequence[Array], leads: Sequence[int]
) -> list[Array]:
    """Numbers per tensor, apart again: each leaf's own, of shape () or (layers,)."""
    shapes = [x.shape[:lead] for x, lead in zip(leaves, leads, strict=True)]
    bounds = np.cumsum([math.prod(shape) for shape in shapes])[:-1].tolist()
    parts = jnp.split(vector, bounds)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def scalars(leaves: Sequence[Array], leads: Sequence[int]) -> np.ndarray:
    """For each tensor whether it is a single number, which has no scale of its own."""
    found = []
    for x, lead in zip(leaves, leads, strict=True):
        count = math.prod(x.shape[:lead])
        found += [x.size == count] * count
    return np.array(found)


def spread(numbers: Array, x: Array) -> Array:
    """One number per tensor, or per row, shaped to be multiplied with a leaf."""
    return numbers.reshape(numbers.shape + (1,) * (x.ndim - numbers.ndim))

"""Where the arrays of a run lie: one mesh of devices and one rule.

The batch is split over every device. Parameters, averages and moments are split over the axis
`fsdp` alone and come together once a step: the whole family is small (the base model has 0.5 GB of
parameters), so each device holds them whole while it computes, and an axis `tensor`, which would
split the products of 512 channels, has nothing to gain.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.train.scaled_adam import in_layers

_SPLIT = ("kernel", "embedding")  # matrices, whose last axis is split; all other leaves are small


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh with the axes `data` and `fsdp`, and the shardings on it."""

    mesh: Mesh

    @classmethod
    def of(cls, devices: Sequence[Any], fsdp: int = 1) -> "Layout":
        """The layout of a run.

        Args:
            devices: those of all processes.
            fsdp: devices that share one copy of the state.

        Raises:
            UserError: the devices cannot be grouped like that.
        """
        if fsdp < 1 or len(devices) % fsdp:
            raise UserError(
                f"--fsdp {fsdp} does not divide the {len(devices)} devices; give a divisor."
            )
        shape = (len(devices) // fsdp, fsdp)
        if devices[0].platform == "tpu":  # neighbours in the mesh are neighbours on the torus
            grid = mesh_utils.create_device_mesh(shape, devices)
        else:
            grid = np.array(devices).reshape(shape)
        return cls(Mesh(grid, ("data", "fsdp")))

    @property
    def everywhere(self) -> NamedSharding:
        """Of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def over_batch(self) -> NamedSharding:
        """Of arrays whose first axis is the batch."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    def of_state(self, tree: Any) -> Any:
        """The shardings of parameters, or of a state that holds several trees like them."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(self.mesh, self._spec(path, leaf.shape)), tree
        )

    def _spec(self, path: tuple[Any, ...], shape: tuple[int, ...]) -> PartitionSpec:
        name = getattr(path[-1], "key", None)
        rank = len(shape) - int(in_layers(path))
        if name in _SPLIT and rank == 2 and shape[-1] % self.mesh.shape["fsdp"] == 0:
            return PartitionSpec(*[None] * (len(shape) - 1), "fsdp")
        return PartitionSpec()

    # --- arrays from the host and back ------------------------------------------------------

    def replicate(self, tree: Any) -> Any:
        """Values that every process has, on every device."""
        return jax.device_put(tree, self.everywhere)

    def split(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """This process's rows as part of global arrays, by name."""
        return {
            name: jax.make_array_from_process_local_data(self.over_batch, array)
            for name, array in arrays.items()
        }

    def fetch(self, tree: Any) -> Any:
        """The whole of arrays that lie on the devices of all processes, in host memory."""
        if jax.process_count() > 1:
            tree = jax.jit(lambda x: x, out_shardings=self.everywhere)(tree)
        return jax.device_get(tree)

    # --- shapes, for what is compiled before there are arrays --------------------------------

    def abstract(self, shapes: Any) -> Any:
        """Shapes of a state with their shardings."""
        return jax.tree.map(_with_sharding, shapes, self.of_state(shapes))

    def abstract_batch(self, shapes: Any) -> Any:
        """Shapes of a batch with their shardings."""
        return jax.tree.map(lambda x: _with_sharding(x, self.over_batch), shapes)

    # --- within a program ----------------------------------------------------------------------

    def whole(self, params: Any) -> Any:
        """Parameters brought together on every device."""
        return jax.lax.with_sharding_constraint(params, self.everywhere)

    def apart(self, grads: Any) -> Any:
        """Gradients split like the parameters they belong to."""
        return jax.lax.with_sharding_constraint(grads, self.of_state(grads))


def _with_sharding(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

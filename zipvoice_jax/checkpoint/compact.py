"""Parameters in bfloat16, in one safetensors file: half the size, for models that are passed on.

Its numbers are those of float32 rounded to the nearest that bfloat16 has, and reading gives just
these, as float32. What else a model directory holds is `native`'s.
"""

from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from zipvoice_jax.checkpoint.mapping import Params
from zipvoice_jax.checkpoint.restricted_pickle import shown
from zipvoice_jax.core.errors import UserError


def write_arrays(path: Path, params: Params) -> None:
    """Writes a parameter tree.

    Args:
        path: the file to make.
        params: nested dicts of arrays.

    Raises:
        UserError: a number is none that bfloat16 can hold.
        OSError, safetensors.SafetensorError: the file cannot be written.
    """
    arrays = {}
    for name, leaf in flatten_dict(params, sep="/").items():
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(np.asarray(leaf, np.float32).astype(ml_dtypes.bfloat16))
        if not np.isfinite(rounded.astype(np.float32)).all():
            raise UserError(
                f"{name} has numbers that bfloat16 cannot hold; keep the model in the "
                "native format."
            )
        arrays[name] = rounded
    path.write_bytes(safetensors.numpy.save(arrays))  # save_file's are for their owner alone


def read_arrays(path: Path) -> Params:
    """Reads what `write_arrays` wrote.

    Args:
        path: the file.

    Returns:
        nested dicts of float32 numpy arrays.

    Raises:
        UserError: the file is missing, damaged or holds numbers of another type.
    """
    try:
        # Not safetensors.numpy's reader, which has no bfloat16.
        held = safetensors.deserialize(path.read_bytes())
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({shown(error)}); copy or convert the model again."
        ) from None
    leaves = {}
    for name, array in held:
        if array["dtype"] != "BF16":
            raise UserError(
                f"{path} holds {shown(name)} in {array['dtype']}, not in bfloat16; convert the "
                "model again."
            )
        numbers = np.frombuffer(array["data"], ml_dtypes.bfloat16).astype(np.float32)
        leaves[name] = numbers.reshape(array["shape"])
    return unflatten_dict(leaves, sep="/")

"""Random keys by name: every random number is drawn with a `named_key` of an explicit key."""

import zlib

import jax
from jaxtyping import Array, Key

# A name such as "noise" or an integer such as an item's index or a step.
Name = str | int | jax.Array


def named_key(key: Key[Array, ""], *names: Name) -> Key[Array, ""]:
    """Folds names into a key, in order.

    Args:
        key: a typed key (`jax.random.key`).
        *names: strings (folded in by their CRC-32) or integers, traced ones included.

    Returns:
        A key that depends only on `key` and the names.
    """
    for name in names:
        data = zlib.crc32(name.encode("utf-8")) if isinstance(name, str) else name
        key = jax.random.fold_in(key, data)
    return key

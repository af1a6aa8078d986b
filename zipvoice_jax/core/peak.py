"""What a device can do: the peak that a model's operations per second are compared with."""

import functools
import time

import jax
import jax.numpy as jnp


@functools.lru_cache(maxsize=4)
def matmul_flops_per_second(dtype: str, size: int = 2048, repeats: int = 5) -> float:
    """Operations per second of a square matrix product on one device, the best of a few.

    Measured once in a process.

    Args:
        dtype: type of the matrices, such as "bfloat16".
        size: rows and columns of each matrix.
        repeats: number of timed products.
    """
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    best = float("inf")
    for _ in range(repeats + 1):  # the first compiles
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best

"""Ahead-of-time compilation: options by backend, the cache on disk, a record of programs."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.core.files import cache_folder
from zipvoice_jax.core.supervise import beat


@dataclasses.dataclass(frozen=True)
class Compilation:
    """One compiled program: its name, and the seconds that tracing and compiling took."""

    name: str
    seconds: float


def compiler_options(platform: str) -> dict[str, Any]:
    """XLA options that pay on a backend.

    On CPUs with AVX-512 XLA still prefers 256-bit vectors; 512 bits serve the exponentials and
    logarithms of Swoosh and softmax better.
    """
    if platform == "cpu" and "avx512f" in _cpu_flags():
        return {"xla_cpu_prefer_vector_width": 512}
    return {}


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def compile_lowered(lower: Callable[[], Any], platform: str) -> tuple[Any, float]:
    """Lowers and compiles; returns the program and the seconds that both took."""
    start = time.perf_counter()
    compiled = lower().compile(compiler_options=compiler_options(platform))
    return compiled, time.perf_counter() - start


def beside_arguments(memory: Any) -> int:
    """Bytes that a program needs beside its arguments, from `compiled.memory_analysis()`."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return results + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes


@functools.lru_cache(maxsize=32)
def specialised(
    function: Callable[..., Any], *first: Hashable, **settings: Hashable
) -> Callable[..., Any]:
    """`functools.partial`, as one object for equal settings.

    JAX traces, lowers and compiles the same object once for the same shapes, so that a second
    model of the same sizes in a process costs no more than its parameters.
    """
    return functools.partial(function, *first, **settings)


def use_persistent_cache() -> None:
    """Keeps compiled programs on disk between runs.

    They lie in $JAX_COMPILATION_CACHE_DIR if it is set, else in zipvoice_jax/xla in the user's
    cache folder.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))


class Programs:
    """Programs compiled once for each key, and a record of them.

    Args:
        platform: backend that they run on ("cpu", "gpu", "tpu").
        meet: called with a name of its own after each compilation, before the program runs. Where
            several processes run the same programs, it is to wait for all of them.

    Attributes:
        compilations: every program compiled, in order.
    """

    def __init__(self, platform: str, meet: Callable[[str], object] = lambda name: None) -> None:
        self.platform = platform
        self.compilations: list[Compilation] = []
        self._meet = meet
        self._compiled: dict[Hashable, Any] = {}

    def get(self, key: Hashable, name: str, lower: Callable[[], Any]) -> Any:
        """A program, which is compiled if there is none of this key.

        Args:
            key: identifies the computation and the shapes of its arguments.
            name: for the record.
            lower: makes what is compiled, the result of `jax.jit(...).lower(...)`.
        """
        if key not in self._compiled:
            program, seconds = compile_lowered(lower, self.platform)
            self.compilations.append(Compilation(name, seconds))
            self._compiled[key] = program
            self._meet(f"compiled {len(self.compilations)}")
        return self._compiled[key]

    def run(self, key: Hashable, name: str, function: Callable[[], Any], *args: Any) -> Any:
        """Calls a program with the arguments that it is compiled for.

        Args:
            key: as of `get`.
            name: as of `get`.
            function: makes what is compiled, the result of `jax.jit(...)`.
            *args: of the program.
        """
        program = self.get(key, name, lambda: function().lower(*args))
        beat()
        return program(*args)

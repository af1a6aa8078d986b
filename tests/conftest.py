"""Strictness for every test, set before any test imports the package, and shared fixtures.

- JAX on the CPU; broadcasting between ranks and between dtypes must be asked for.
- Arrays are checked against their jaxtyping annotations by beartype
  (`ZIPVOICE_JAX_TYPECHECK=0` turns that off, to time something).
- Programs are compiled fast rather than to be fast: most of the time goes into compiling.
- Compiled programs are kept in pytest's cache folder, so that a second run, and the commands
  that tests start as processes of their own, need not compile again.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
os.environ.setdefault("ZIPVOICE_JAX_JUDGES", str(ROOT / ".pytest_cache" / "judges"))
os.environ.setdefault("ZIPVOICE_JAX_VOCODERS", str(ROOT / ".pytest_cache" / "no_vocoders"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the network must fail
os.environ.setdefault("MPLBACKEND", "agg")

# What LLVM does for speed does not change what XLA computes.
_XLA_FLAGS = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ["XLA_FLAGS"] = _XLA_FLAGS

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

if os.environ.get("ZIPVOICE_JAX_TYPECHECK", "1") != "0":
    import jaxtyping

    jaxtyping.install_import_hook("zipvoice_jax", "typechecking.check")

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def devices(count: int) -> dict[str, str]:
    """Environment of a command that shall see several devices."""
    return {"XLA_FLAGS": f"{_XLA_FLAGS} --xla_force_host_platform_device_count={count}"}


def free_port() -> int:
    """A port of this machine that nothing listens to."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


# Those that take minutes come first, so that no process of pytest is left with one at the end.
_LONGEST = (
    "test_curriculum", "test_parity", "test_processes", "test_train_command", "test_generate_api",
    "test_train_step", "test_generate", "test_model_training", "test_model", "test_compile",
    "test_judge", "test_launch",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first."""
    order = {name: position for position, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers computed by the official code (see its README.md)."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real recordings (see its prompts.json)."""
    return ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """Runs `zipvoice-jax ARGS...` as a process, the way a person does.

    `run_cli(*args, cwd=None, env=None, timeout=300)` gives the finished process with its exit
    status and what it wrote; `env` is added to this process's environment. It does not raise
    when the command fails.
    """

    def run(
        *args: str | os.PathLike[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300.0,
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **(env or {})}
        # The tree these tests stand in, not another one that happens to be installed.
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        )
        return subprocess.run(
            [sys.executable, "-m", "zipvoice_jax.cli.main", *map(os.fspath, args)],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run

"""Commands as processes of their own, for the tests that kill them or run several as one."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from conftest import ROOT, free_port

Ended = tuple[int, str, str]  # status, stdout, stderr


def start(command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts `zipvoice-jax COMMAND`; `env` is added to this process's environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "zipvoice_jax.cli.main", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_several(
    command: Sequence[str], count: int, env: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Starts a command as several processes that act as one."""
    joined = [*command, "--coordinator", f"localhost:{free_port()}", "--num-processes", str(count)]
    return [start([*joined, "--process-id", str(index)], env) for index in range(count)]


def finish(*processes: subprocess.Popen[str]) -> list[Ended]:
    """Waits for their ends; none is left behind."""
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]

"""`zipvoice-jax`: parses the command line and turns bad input into one line and an exit status."""

import argparse
import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from zipvoice_jax import __version__
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.supervise import (
    STOPPED,
    end_with_parent,
    is_in_cluster,
    is_supervised,
    supervise,
)

# In the order of --help, each with the module of its `add_parser`.
COMMANDS = {
    "generate": "cli.generate",
    "voice": "cli.voice",
    "convert": "cli.convert",
    "init": "cli.init",
    "bench": "bench.command",
    "demo": "cli.demo",
    "prepare": "cli.prepare",
    "align": "cli.align",
    "train": "cli.train",
    "compile": "forecast.command",
    "evaluate": "judge.command",
    "ablate": "ablation.command",
}

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WAY = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS)
_LESS = "give it less at a time, or a machine with more"


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="zipvoice-jax",
        description="ZipVoice and ZipVoice-Dialog in JAX: zero-shot speech and dialogue.",
    )
    top.add_argument("--version", action="version", version=f"zipvoice-jax {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS.values():
        importlib.import_module(f"zipvoice_jax.{module}").add_parser(subparsers)
    return top


def _fail(message: str, status: int = 1) -> int:
    print(f"zipvoice-jax: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0 if done, 1 for bad input, 2 for bad usage, 75 to be restarted."""
    with _ended_by_interrupts():
        args = parser().parse_args(argv)
    coordinator = _coordinator(args)
    if hasattr(args, "coordinator"):
        if not coordinator and (args.num_processes is not None or args.process_id is not None):
            return _fail(
                "--num-processes and --process-id say nothing without --coordinator HOST:PORT."
            )
        if not 1.0 <= args.peer_timeout <= 1e6:  # no number is not, either
            return _fail(f"--peer-timeout is {args.peer_timeout:g}; give 1 to 1,000,000 seconds.")
    if coordinator and not is_supervised():
        who = "this process" if args.process_id is None else f"process {args.process_id}"
        return supervise(who, args.peer_timeout)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold any bytes
            stream.reconfigure(errors="backslashreplace")
    if not coordinator:
        return _run(args)
    end_with_parent()
    try:
        return _run(args, coordinator)
    except Exception:
        traceback.print_exc()
        _leave(1)


@contextlib.contextmanager
def _ended_by_interrupts() -> Iterator[None]:
    """Lets Ctrl-C end the process at once while libraries are imported, which it would break."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if before is not None:  # as of a handler that is not Python's
            signal.signal(signal.SIGINT, before)


def _close_stdout() -> None:
    """Keeps Python from complaining at exit about what it could not write."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(status: int) -> NoReturn:
    """Ends a process that has failed; the usual exit would wait for peers that may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _coordinator(args: argparse.Namespace) -> str | None:
    """The coordinator of a command that several processes run; None for a single process."""
    if not hasattr(args, "coordinator") or args.coordinator == "none":
        return None
    return args.coordinator or ("auto" if is_in_cluster() else None)


def _run(args: argparse.Namespace, coordinator: str | None = None) -> int:
    """Runs a command; as one of several processes, it returns only if the command has not failed.

    If the command ends normally, every process returns, with whatever status.
    """
    with _ended_by_interrupts():
        import jax

        from zipvoice_jax.cli.allocator import keep_memory
        from zipvoice_jax.core.compiling import use_persistent_cache
        from zipvoice_jax.core.processes import hush_tracker, join_processes

        hush_tracker()
        keep_memory()
    try:
        use_persistent_cache()
        if hasattr(args, "check"):  # what no peer need wait for
            args.check(args)
        if coordinator:
            join_processes(
                coordinator, args.num_processes, args.process_id, timeout=args.peer_timeout
            )
        status = args.run(args)
        sys.stdout.flush()  # here, where a full disk can still be reported
        return status
    except UserError as error:
        status = _fail(str(error))
    except KeyboardInterrupt:
        status = _fail("stopped; what was finished is kept, run the command again to go on", 130)
    except BrokenPipeError:
        _close_stdout()  # the reader has gone
        status = 141
    except OSError as error:
        if error.errno in _NO_ROOM:
            _close_stdout()
            target = error.filename or "a file or the standard output"
            status = _fail(
                f"{target} cannot be written ({error.strerror}); make room, and run the command "
                "again"
            )
        elif error.errno in _NO_WAY and error.filename:
            status = _fail(f"{error.filename} cannot be used ({error.strerror}); check the path.")
        else:
            raise
    except RecursionError:
        status = _fail("an input file is nested too deeply to be read; check its JSON or YAML")
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
            status = _fail(f"out of memory; {getattr(args, 'memory_advice', _LESS)}")
        elif not coordinator:
            raise
        else:
            status = _fail(
                f"the peers of process {jax.process_index()} are gone ({text}); start every "
                "process again, and the run goes on from its last checkpoint",
                STOPPED,
            )
    if coordinator:
        _leave(status)
    return status


if __name__ == "__main__":
    sys.exit(main())

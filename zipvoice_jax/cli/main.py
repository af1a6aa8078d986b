"""`zipvoice-jax`: parses the command and turns bad input into one line and an exit status."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from zipvoice_jax import __version__
from zipvoice_jax.core.errors import UserError

COMMANDS = ("generate", "convert", "init", "bench", "demo", "prepare", "train")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="zipvoice-jax",
        description="ZipVoice and ZipVoice-Dialog in JAX: zero-shot speech and dialogue.",
    )
    top.add_argument("--version", action="version", version=f"zipvoice-jax {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"zipvoice_jax.cli.{name}").add_parser(subparsers)
    return top


def _fail(message: str, status: int = 1) -> int:
    print(f"zipvoice-jax: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0 done, 1 bad input, 2 bad usage."""
    args = parser().parse_args(argv)
    import jax

    from zipvoice_jax.core.compiling import use_persistent_cache

    use_persistent_cache()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold any bytes
            stream.reconfigure(errors="backslashreplace")
    try:
        return args.run(args)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("stopped; what was finished is kept, run the command again to go on", 130)
    except BrokenPipeError:
        # The reader has gone; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except RecursionError:
        return _fail("an input file is nested too deeply to be read; check its JSON or YAML")
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text and not isinstance(error, MemoryError):
            raise
        return _fail("out of memory; lower --max-duration, or shorten the prompt or the text")


if __name__ == "__main__":
    sys.exit(main())

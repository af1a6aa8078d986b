"""Output paths, checked before the work starts, so that no result is lost at the end."""

import contextlib
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from zipvoice_jax.core.errors import UserError

PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")


def partial_name(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def check_file(path: Path | None, extensions: Sequence[str] = ()) -> None:
    """Makes sure that a file can be written, without leaving anything there.

    Args:
        path: the file; None: nothing is to be written.
        extensions: allowed extensions, in lower case; empty: any name will do.

    Raises:
        UserError: another extension, a directory or a device, or a path that cannot be written.
    """
    if path is None:
        return
    if extensions and path.suffix.lower() not in extensions:
        problem = f"{path.suffix} is no known one" if path.suffix else "it has none"
        *others, last = extensions
        raise UserError(
            f"{path} needs the extension of its format, and {problem}; let it end in "
            f"{', '.join(others)}{' or ' if others else ''}{last}."
        )
    try:
        if path.is_dir():
            raise UserError(f"{path} is a directory; give the name of a file.")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is a device or a pipe; give the name of a file.")
        _look_up(partial_name(path))
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    _probe(path, path.parent)


def check_folder(path: Path | None) -> None:
    """Makes sure that files can be written into a folder, which may not exist yet.

    Args:
        path: the folder; None: nothing is to be written.

    Raises:
        UserError: it is a file, or cannot be written to.
    """
    if path is None:
        return
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; give a folder, or a new name for one.")
        _look_up(path)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    _probe(path, path)


def check_apart(outputs: Iterable[Path], inputs: set[tuple[int, int]]) -> None:
    """Makes sure that no output would take the place of an input, which would be lost.

    Args:
        outputs: files to be written.
        inputs: from `file_ids`.

    Raises:
        UserError: one of the outputs is such a file.
    """
    for path in outputs:
        if file_ids([path]) & inputs:
            raise UserError(
                f"{path} is one of the recordings that are read, and would be lost; write to "
                "another place."
            )


def file_ids(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """What identifies the files that exist, whatever names or links lead to them."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            stat = path.stat()
            found.add((stat.st_dev, stat.st_ino))
    return found


def _look_up(path: Path) -> None:
    """Fails if a name is too long or invalid; a missing file is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.lstat()


def _probe(path: Path, folder: Path) -> None:
    """Writes a byte to an unnamed file in the folder, or in its nearest parent that exists."""
    try:
        existing = next(
            parent for parent in (folder, *folder.absolute().parents) if parent.exists()
        )
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0")
            file.flush()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: Exception) -> UserError:
    """The error for a path that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, FileExistsError | NotADirectoryError):
        reason = "a parent of it is a file"
    return UserError(f"{path} cannot be written ({reason}); choose a writable place.")

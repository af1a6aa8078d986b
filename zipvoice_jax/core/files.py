"""Small files written atomically, and reports with one line of JSON per item."""

import contextlib
import errno
import fcntl
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.outputs import file_ids, partial_name

# File names may hold bytes that are not valid Unicode; JSON has the same escapes for them.
_SURROGATES = "backslashreplace"

Records = dict[str, dict[str, Any]]

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

# What reading a damaged .npz raises, by which of its bytes are wrong.
DAMAGED_NPZ = (
    OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def cache_folder(name: str, variable: str | None = None) -> Path:
    """The folder for what is fetched or compiled once: zipvoice_jax/NAME in the user's cache.

    The cache is $XDG_CACHE_HOME, else ~/.cache.

    Args:
        name: name of the folder.
        variable: environment variable that names another folder.

    Raises:
        UserError: this user has no home folder.
    """
    if variable is not None and (setting := os.environ.get(variable)):
        return Path(setting)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise UserError("there is no home folder for the cache; set XDG_CACHE_HOME.") from None
    return Path(home) / "zipvoice_jax" / name


@contextlib.contextmanager
def alone(lock: Path, message: str) -> Iterator[None]:
    """Holds an exclusive lock among the processes of this machine.

    Where the filesystem has no locks, as some network filesystems, there is none to hold.

    Args:
        lock: file that is locked, made if missing, and removed at the end.
        message: text of the error if another process holds the lock.

    Raises:
        UserError: another process holds the lock, or the file cannot be written.
    """
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("w")
        except OSError as error:
            raise UserError(f"{lock.parent} cannot be written ({error.strerror}).") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(message) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            # Another process may have removed it between our opening and locking it.
            held = os.fstat(file.fileno())
            if file_ids([lock]) != {(held.st_dev, held.st_ino)}:
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()
            return


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically, by rename; parent directories are made.

    Raises:
        UserError: it cannot be written.
    """
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise UserError(f"{path} is a directory; give the name of a file.")
        with partial.open("wb") as file:
            file.write(content)
        partial.replace(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "a parent of it is a file"
        raise UserError(
            f"{path} cannot be written ({reason}); choose a writable place with free space."
        ) from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text atomically, by rename: a concurrent reader never sees half of it.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", errors=_SURROGATES)
        partial.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written ({reason}).") from None


def write_json(path: Path, content: object) -> None:
    """Writes indented JSON atomically, by rename.

    Raises:
        UserError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=1) + "\n")


def stamp_of(path: Path) -> list[Any]:
    """Path, size and time of a file, to detect changes without reading it."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return [str(path)]
    return [str(path), stat.st_size, stat.st_mtime_ns]


def json_line(record: dict[str, Any]) -> str:
    """A record as one line of a report."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Appends a record to a report; the whole line or nothing.

    Raises:
        UserError: it cannot be written.
    """
    line = json_line(record).encode("utf-8", _SURROGATES)
    try:
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[file.write(line) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)  # else the next record would continue half a line
                raise
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from None


def read_records(path: Path) -> Records:
    """The last record of each id; a line cut short by a kill is dropped, a missing file is empty.

    Raises:
        UserError: it cannot be read.
    """
    records: Records = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return records
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("id"), str):
            records[record["id"]] = record
    return records

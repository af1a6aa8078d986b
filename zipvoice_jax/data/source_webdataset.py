"""WebDataset tars, the format of Emilia on the hub: NAME.json and NAME.mp3 side by side.

The audio stays in the tar until its bytes are read.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Reject
from zipvoice_jax.data.sources import AUDIO_SUFFIXES, CorpusItem

_MAX_JSON = 1 << 20  # bytes; the object of one utterance has a few hundred
_PACKED = (".tar.gz", ".tgz")

# Makes an item: position for messages, JSON object, tar, and offset and size of the audio in it.
MakeItem = Callable[[str, Mapping[str, Any], Path, tuple[int, int]], CorpusItem | Reject]


def find_tars(folder: Path) -> list[Path]:
    """The tar file itself, or all below a directory.

    Raises:
        UserError: one is compressed, so that its members cannot be read at random.
    """
    paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*.t*"))
    for path in paths:
        if path.name.lower().endswith(_PACKED):
            raise UserError(
                f"{path} is a compressed tar file; unpack it with `gunzip` (it stays a .tar)."
            )
    return [path for path in paths if path.suffix.lower() == ".tar"]


def tar_items(tar: Path, make: MakeItem) -> Iterator[CorpusItem | Reject]:
    """The items of a tar, in its order; JSON without audio and audio without JSON come last."""
    objects: dict[str, Any] = {}
    audio: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isfile() or not path.stem:
                    continue
                name, suffix = str(path.with_suffix("")), path.suffix.lower()
                if suffix == ".json":
                    objects[name] = _read_json(archive, member)
                elif suffix in AUDIO_SUFFIXES:
                    audio[name] = (member.offset_data, member.size)
                if name in objects and name in audio:
                    where = f"{tar.name}, {name}.json"
                    row, span = objects.pop(name), audio.pop(name)
                    if isinstance(row, dict):
                        yield make(where, {"id": path.stem, **row}, tar, span)
                    else:
                        yield Reject("bad entry", where, "is not a JSON object")
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Reject("unreadable", str(tar), f"the tar file is damaged ({error})")
    for name in objects:
        yield Reject("unreadable", f"{tar.name}, {name}.json", "has no audio beside it")
    for name in audio:
        yield Reject("bad entry", f"{tar.name}, {name}", "has no JSON beside it")


def _read_json(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    """The content of a member; None if it is not JSON."""
    file = archive.extractfile(member) if member.size <= _MAX_JSON else None
    try:
        return None if file is None else json.loads(file.read())
    except (ValueError, RecursionError):
        return None

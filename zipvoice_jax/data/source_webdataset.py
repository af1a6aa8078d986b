"""WebDataset tars, as Emilia is on the hub: NAME.json and NAME.mp3 side by side.

The audio stays where it is until its bytes are read.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Reject
from zipvoice_jax.data.sources import AUDIO_SUFFIXES, Item

_MAX_JSON = 1 << 20  # bytes; what is said of one utterance has some hundred
_PACKED = (".tar.gz", ".tgz")

# What becomes of a JSON object and its audio: where it is, the object, the tar, its bytes in it.
MakeItem = Callable[[str, Mapping[str, Any], Path, tuple[int, int]], Item | Reject]


def find_tars(place: Path) -> list[Path]:
    """The tar file itself, or all below a directory.

    Raises:
        UserError: one is compressed, so that nothing in it has a place.
    """
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*.t*"))
    for path in found:
        if path.name.lower().endswith(_PACKED):
            raise UserError(
                f"{path} is a compressed tar file; unpack it with `gunzip` (it stays a .tar)."
            )
    return [path for path in found if path.suffix.lower() == ".tar"]


def tar_items(tar: Path, make: MakeItem) -> Iterator[Item | Reject]:
    """The items of a tar, in its order; what lacks its other half comes last."""
    about: dict[str, Any] = {}
    audio: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                name, suffix = str(path.with_suffix("")), path.suffix.lower()
                if not member.isfile() or not path.stem:
                    continue
                if suffix == ".json":
                    about[name] = _read_json(archive, member)
                elif suffix in AUDIO_SUFFIXES:
                    audio[name] = (member.offset_data, member.size)
                if name in about and name in audio:
                    where = f"{tar.name}, {name}.json"
                    row, place = about.pop(name), audio.pop(name)
                    if isinstance(row, dict):
                        yield make(where, {"id": path.stem, **row}, tar, place)
                    else:
                        yield Reject("bad entry", where, "is no JSON object")
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Reject("unreadable", str(tar), f"the tar file is damaged ({error})")
    for name in about:
        yield Reject("unreadable", f"{tar.name}, {name}.json", "has no audio beside it")
    for name in audio:
        yield Reject("bad entry", f"{tar.name}, {name}", "has no JSON beside it")


def _read_json(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    """What a member says; None where it is no JSON."""
    file = archive.extractfile(member) if member.size <= _MAX_JSON else None
    try:
        return None if file is None else json.loads(file.read())
    except (ValueError, RecursionError):
        return None

"""OpenDialog as released: tar files of MP3 beside `manifest.LANG.jsonl`, or the tars unpacked.

    ROOT/manifest.en.jsonl, ROOT/manifest.zh.jsonl   one {"id", "text", "path"} per line
    ROOT/audio/en/*.tar (or anywhere below ROOT), or the files at the manifest's paths

A tar's members are looked up by name without extension, within the language that the tar's path
names; they stay in the tar until their bytes are read.
"""

import dataclasses
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Reject
from zipvoice_jax.data.source_lists import read_jsonl
from zipvoice_jax.data.sources import AUDIO_SUFFIXES, CorpusItem, Format, Source, Unit, sliced

OFFICIAL_DEV_CUTS = 1000  # per language (official: local/prepare_opendialog.py)


def inputs(source: Source) -> list[Path]:
    """Manifests and tars; raises a UserError if there is no manifest."""
    return [*_manifests(source.path).values(), *_tars(source.path)]


def official_dev(source: Source) -> frozenset[tuple[str, str]]:
    """(language, recording) of the first 1,000 recordings of each language, sorted by id."""
    return frozenset(
        (language, recording)
        for language, path in _manifests(source.path).items()
        for recording in sorted(
            one.recording for one in _read_manifest(path, language) if isinstance(one, CorpusItem)
        )[:OFFICIAL_DEV_CUTS]
    )


def units(source: Source) -> Iterator[Unit]:
    """A unit per tar, then slices of the unpacked files; items without audio are rejected last."""
    manifests = _manifests(source.path)
    tars = {tar: _languages(tar, source.path, set(manifests)) for tar in _tars(source.path)}
    for language, manifest in manifests.items():
        entries: dict[str, list[CorpusItem]] = {}
        rejects: Unit = []
        for entry in _read_manifest(manifest, language):
            if isinstance(entry, Reject):
                rejects.append(entry)
            else:
                entries.setdefault(entry.recording, []).append(entry)
        for tar in (tar for tar in tars if language in tars[tar]):
            yield list(_tar_items(tar, entries))
        yield from sliced(_unpacked_items(entries), source.unit_size)
        if rejects:
            yield rejects


def _manifests(root: Path) -> dict[str, Path]:
    manifests = sorted(root.glob("manifest.*.jsonl")) if root.is_dir() else []
    if not manifests:
        raise UserError(
            f"{root} has no manifest.en.jsonl or manifest.zh.jsonl; give the directory into "
            "which OpenDialog was downloaded."
        )
    return {path.name.split(".")[1]: path for path in manifests}


def _tars(root: Path) -> list[Path]:
    packed = sorted([*root.rglob("*.tar.gz"), *root.rglob("*.tgz")])
    if packed:
        raise UserError(
            f"{packed[0]} is a compressed tar file; unpack it with `gunzip` (it stays a .tar)."
        )
    return sorted(root.rglob("*.tar"))


def _languages(tar: Path, root: Path, known: set[str]) -> set[str]:
    """Languages that a tar may belong to: those in its path, or else all."""
    relative = tar.relative_to(root)
    parts = {*relative.parts[:-1], *relative.stem.replace("-", "_").replace(".", "_").split("_")}
    return (parts & known) or known


def _read_manifest(path: Path, language: str) -> Iterator[CorpusItem | Reject]:
    for where, row in read_jsonl(path):
        if isinstance(row, Reject):
            yield row
            continue
        values = [row.get(key) for key in ("id", "text", "path")]
        if not all(isinstance(value, str) and value for value in values):
            yield Reject("bad entry", where, "needs the strings id, text and path")
            continue
        item_id, text, audio = map(str, values)
        yield CorpusItem(
            id=item_id,
            text=text,
            path=str(path.parent / audio),
            language=language,
            recording=PurePosixPath(audio).stem,
        )


def _tar_items(tar: Path, entries: dict[str, list[CorpusItem]]) -> Iterator[CorpusItem | Reject]:
    """Items whose audio is in a tar, in its order; removes them from `entries`."""
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.suffix.lower() not in AUDIO_SUFFIXES:
                    continue
                items = entries.pop(name.stem, None)
                if items is None:
                    yield Reject("bad entry", f"{tar.name}:{member.name}", "is in no manifest")
                for item in items or ():
                    yield dataclasses.replace(
                        item, path=str(tar), offset=member.offset_data, size=member.size
                    )
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Reject("unreadable", str(tar), f"the tar file is damaged ({error})")


def _unpacked_items(entries: dict[str, list[CorpusItem]]) -> Iterator[CorpusItem | Reject]:
    for items in entries.values():
        for item in items:
            if os.path.isfile(item.path):
                yield item
            else:
                yield Reject("unreadable", item.id, f"{item.path} is neither there nor in a tar")


FORMATS = {"opendialog": Format(inputs, units, official_dev)}

"""The plan of a preparation: which items go into which shard, kept on disk.

Planning only reads manifests and headers. The plan is one file of items per shard and a
`plan.json` that identifies its inputs, so that a run can continue after a crash.
"""

import collections
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.data.checks import Reject
from zipvoice_jax.data.prepare_config import PrepareConfig
from zipvoice_jax.data.sources import CorpusItem, Source, hashed_split
from zipvoice_jax.data.timing import Timing

_FORMAT = 2  # of a plan's files; another number makes old plans unusable
_PLAN = "plan.json"
_ITEM_FIELDS = tuple(field.name for field in dataclasses.fields(CorpusItem))


@dataclasses.dataclass(frozen=True)
class PreparePlan:
    """The shards to make.

    Attributes:
        folder: folder of the plan's files.
        sizes: for each split, the number of items in each shard.
        rejects: items that are rejected before their audio is read.
    """

    folder: Path
    sizes: dict[str, list[int]]
    rejects: list[Reject]

    def unit(self, split: str, number: int) -> Path:
        """The file of a shard's items."""
        return self.folder / f"{split}-{number:05d}.jsonl"


def plan_preparation(
    config: PrepareConfig, folder: Path, *, discard_other: bool = False
) -> PreparePlan:
    """Makes the plan, or reads that of an earlier run of the same preparation.

    Args:
        config: settings of the preparation.
        folder: folder for all files of the run.
        discard_other: delete the work of another run instead of raising.

    Raises:
        UserError: the corpus cannot be read or has no items, or the folder holds the work of
            another run.
    """
    fingerprint = _fingerprint(config)
    earlier = _read_plan(folder)
    if earlier is not None and earlier["fingerprint"] == fingerprint:
        return PreparePlan(folder, earlier["sizes"], [Reject(*one) for one in earlier["rejects"]])
    if earlier is not None and not discard_other:
        raise UserError(
            f"{folder} holds the unfinished work of a run with other options or another state "
            "of the corpus; give the same ones, or start anew with --overwrite."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plan = _write_units(config, folder)
    if not plan.sizes:
        first = f" (the first reason: {plan.rejects[0].detail})" if plan.rejects else ""
        raise UserError(f"{config.source.path} has no items to prepare{first}.")
    content = {
        "fingerprint": fingerprint,
        "sizes": plan.sizes,
        "rejects": [dataclasses.astuple(one) for one in plan.rejects],
    }
    write_atomically(folder / _PLAN, json.dumps(content))
    return plan


def read_items(path: Path) -> list[CorpusItem]:
    """The items of a shard, from the plan's file."""
    rows = map(json.loads, path.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    return [_item(dict(zip(_ITEM_FIELDS, row, strict=True))) for row in rows]


def _item(values: dict[str, Any]) -> CorpusItem:
    """An item from its fields in JSON."""
    timing = values.pop("timing")
    return CorpusItem(
        **{**values, "channels": tuple(values["channels"])},
        timing=None if timing is None else Timing(timing[0], *map(tuple, timing[1:])),
    )


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file by rename; it appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of an earlier run; a damaged one counts as that of another run."""
    try:
        content = json.loads((folder / _PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        content = None
    fits = isinstance(content, dict) and {"fingerprint", "sizes", "rejects"} <= set(content)
    return content if fits else {"fingerprint": ""}


def _write_units(config: PrepareConfig, folder: Path) -> PreparePlan:
    """Sorts the items into splits and writes each shard's list.

    A unit of the corpus becomes a shard of "train". The other splits have few items, which are
    collected over several units.
    """
    plan = PreparePlan(folder, {}, [])
    waiting: dict[str, list[CorpusItem]] = collections.defaultdict(list)
    seen: set[bytes] = set()

    def close(split: str) -> None:
        items = waiting.pop(split, [])
        if items:
            sizes = plan.sizes.setdefault(split, [])
            lines = [json.dumps(dataclasses.astuple(item), ensure_ascii=False) for item in items]
            plan.unit(split, len(sizes)).write_text("\n".join(lines) + "\n", encoding="utf-8")
            sizes.append(len(items))

    bar = progress_bar(desc="plan", unit="item")
    for source, split_of in _sources(config):
        for unit in source.units():
            bar.update(len(unit))
            for item in unit:
                fault = item if isinstance(item, Reject) else _fault(item, seen)
                if fault is not None:
                    plan.rejects.append(fault)
                elif isinstance(item, CorpusItem):
                    waiting[split_of(item)].append(item)
            close("train")
            for split in [name for name in waiting if len(waiting[name]) >= source.unit_size]:
                close(split)
    bar.close()
    for split in sorted(waiting):
        close(split)
    return plan


def _sources(config: PrepareConfig) -> Iterator[tuple[Source, Callable[[CorpusItem], str]]]:
    """The corpora to read, each with its rule for splits."""
    if config.dev_source is not None:
        yield config.source, lambda _: "train"
        yield config.dev_source, lambda _: "dev"
    elif config.split == "hash":
        yield config.source, lambda item: hashed_split(item.id, config.dev_share)
    else:
        dev = config.source.official_dev()
        yield (
            config.source,
            lambda item: (
                item.split or ("dev" if (item.language, item.recording) in dev else "train")
            ),
        )


def _fault(item: CorpusItem, seen: set[bytes]) -> Reject | None:
    """What is wrong with an item's strings or id, if anything; adds the id to `seen`."""
    try:
        key = hashlib.blake2b(item.id.encode(), digest_size=8).digest()
        item.path.encode()
        item.text.encode()
    except UnicodeEncodeError:
        name = item.id.encode(errors="backslashreplace").decode()
        return Reject("bad entry", name, "holds characters that are not valid Unicode")
    if key in seen:
        return Reject("duplicate id", item.id, f"comes again with {item.path}")
    seen.add(key)
    return None


def _fingerprint(config: PrepareConfig) -> str:
    """A hash of the options, and of the names, sizes and times of the corpus' files."""
    sources = [config.source, *([config.dev_source] if config.dev_source else [])]
    stats = [(path, path.stat()) for source in sources for path in source.inputs()]
    files = [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    description = json.dumps([_FORMAT, dataclasses.asdict(config), files], default=str)
    return hashlib.sha256(description.encode("utf-8", "backslashreplace")).hexdigest()

"""Small datasets written from memory, for tests that load or train."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.index import Index, index_name
from zipvoice_jax.data.records import VERSION, shard_name, write_shard
from zipvoice_jax.data.utterance import Utterance, features


def write_dataset(
    directory: str | Path,
    name: str,
    splits: Mapping[str, Sequence[Utterance]],
    *,
    shards: int = 1,
) -> None:
    """Writes a small dataset from memory, in the same layout as `zipvoice-jax prepare`.

    Args:
        directory: output directory; created if missing.
        name: name of the dataset, in lower-case letters, digits and underscores.
        splits: utterances of each split, in the order of their records.
        shards: number of files per split.

    Raises:
        UserError: an id is used twice.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    ids = [one.id for utterances in splits.values() for one in utterances]
    if len(set(ids)) != len(ids):
        raise UserError(f"the utterances for {directory} share ids; give each its own.")
    lengths: dict[str, list[int]] = {}
    report: dict[str, Any] = {"name": name, "splits": {}}
    for split, utterances in splits.items():
        bounds = np.linspace(0, len(utterances), shards + 1).round().astype(int)
        parts = [utterances[a:b] for a, b in itertools.pairwise(bounds)]
        for i, part in enumerate(parts):
            write_shard(directory / shard_name(name, split, i, shards), part)
        lengths[split] = [len(part) for part in parts]
        index = Index.of(utterances)
        index.save(directory / index_name(split))
        hours = round(float(index.seconds.sum()) / 3600, 6)
        report["splits"][split] = {"utterances": len(index), "hours": hours}
    _write_info(directory, name, lengths)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (directory / "report.json").write_text(text, encoding="utf-8")


def _write_info(directory: str | Path, name: str, lengths: Mapping[str, Sequence[int]]) -> None:
    """Writes `dataset_info.json` and `features.json` for the shards in a directory.

    Args:
        directory: directory of the shards.
        name: name of the dataset.
        lengths: for each split, the number of records in each shard.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(directory), dataset_name=name, filetype_suffix="array_record"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features(),
        version=VERSION,
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=list(counts),
                num_bytes=sum(
                    (Path(directory) / shard_name(name, split, i, len(counts))).stat().st_size
                    for i in range(len(counts))
                ),
                filename_template=template.replace(split=split),
            )
            for split, counts in lengths.items()
        ],
        check_data=False,
    )

"""Records of a dataset: read as they were written, audio decoded, and damage told by name."""

import contextlib
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from complaints import user_error
from datasets import write_dataset
from preparing import encoded

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data import records
from zipvoice_jax.data.records import Index, decode_audio, open_split
from zipvoice_jax.data.utterance import Utterance, features, make_record


def utterance(name: str = "a", **changes: Any) -> Utterance:
    values = dict(
        id=name,
        text="Hëllo",
        tokens=("h", "ə", "l"),
        language="en",
        duration=1 / 3,
        channels=1,
        audio=encoded("FLAC", 1.0),
    )
    return Utterance(**{**values, **changes})


def test_a_dataset_reads_as_it_was_written_by_us_and_by_tfds(tmp_path: Path):
    written = [utterance("a"), utterance("b", tokens=(), channels=2), utterance("c")]
    write_dataset(tmp_path, "toy", {"train": written, "dev": written[:0]}, shards=2)
    source, index = open_split(tmp_path, "train")
    source = pickle.loads(pickle.dumps(source))
    assert [one.id for one in (source[i] for i in range(len(source)))] == ["a", "b", "c"]
    assert dataclasses.replace(source[0], duration=1 / 3) == written[0]
    assert index.tokens.tolist() == [3, -1, 3]
    assert index.channels.tolist() == [1, 2, 1]
    assert index.seconds.tolist() == [source[i].duration for i in range(3)]
    theirs = tfds.builder_from_directory(tmp_path).as_data_source("train")
    assert theirs[0]["text"].decode() == "Hëllo"
    assert [token.decode() for token in theirs[0]["tokens"]] == ["h", "ə", "l"]
    assert theirs[2]["audio"] == written[2].audio
    assert len(open_split(tmp_path, "dev")[0]) == 0


def test_a_record_is_the_same_bytes_in_every_process_and_tfds_decodes_it():
    record = make_record(utterance())
    keys = [record.index(f"\n\x0e\n{chr(len(k))}{k}".encode()[3:]) for k in ("audio", "text")]
    assert keys == sorted(keys)
    assert features().deserialize_example_np(record)["id"] == b"a"


def test_stored_audio_is_decoded_and_resampled():
    wave = decode_audio(utterance(), 24000, name="toy a")
    assert wave.shape == (1, 24000)
    assert wave.dtype == np.float32
    assert np.abs(wave).max() > 0.05
    with user_error("toy a", "decoded"):
        decode_audio(utterance(audio=b"no audio"), 24000, name="toy a")
    with user_error("toy a", "channel"):
        decode_audio(utterance(channels=2), 24000, name="toy a")


def test_damaged_datasets_are_reported_by_name(tmp_path: Path):
    with user_error("nowhere", "no dataset"):
        open_split(tmp_path / "nowhere", "train")
    write_dataset(tmp_path, "toy", {"train": [utterance("a"), utterance("b")]})
    with user_error("no split 'dev'", "train"):
        open_split(tmp_path, "dev")
    shard = tmp_path / records.shard_name("toy", "train", 0, 1)
    whole = shard.read_bytes()
    source, _ = open_split(tmp_path, "train")
    shard.write_bytes(whole[:40000] + bytes(1000) + whole[41000:])
    with user_error("record", "damaged", str(tmp_path)):
        [source[i] for i in range(2)]
    shard.write_bytes(whole[:-100])
    with user_error("bytes", "complete copy"):
        open_split(tmp_path, "train")
    shard.write_bytes(whole)
    Index.of([utterance("a")]).save(tmp_path / "index-train.npz")
    with user_error("index-train.npz", "1 lines for 2 records"):
        open_split(tmp_path, "train")
    index = tmp_path / "index-train.npz"
    content = bytearray(index.read_bytes())
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        index.write_bytes(flipped)
        with contextlib.suppress(UserError):  # of no other kind
            open_split(tmp_path, "train")
    (tmp_path / "index-train.npz").write_bytes(b"junk")
    with user_error("index-train.npz"):
        open_split(tmp_path, "train")
    shard.unlink()
    with user_error(shard.name):
        open_split(tmp_path, "train")


@pytest.mark.parametrize("changes", [{"id": ""}, {"channels": 3}, {"duration": 0.0}])
def test_an_impossible_utterance_is_refused(changes: dict[str, Any]):
    with user_error("give"):
        utterance(**changes)

"""Alignments of records: stored, taken in by `prepare`, laid beside a dataset, handed out."""

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from datasets import write_dataset
from loading import TABLE, utterance
from preparing import TEXT, config, encoded, write_jsonl

from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data import utterance as utterances
from zipvoice_jax.data.alignment import alignment_name, save_alignments
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.examples import Example, collate, start_frames
from zipvoice_jax.data.loader import Loader, validation_batches
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.data.prepare import prepare
from zipvoice_jax.data.prepare_report import lines
from zipvoice_jax.data.records import Index, open_split
from zipvoice_jax.data.sources import Source
from zipvoice_jax.data.utterance import Utterance, make_record, parse_record

FEATURES = FeatureConfig()
STARTS = (0.0, 0.25, 0.5)


def aligned(name: str, seconds: float = 1.0, starts: tuple[float, ...] = STARTS) -> Utterance:
    return dataclasses.replace(utterance(name, seconds), token_starts=starts)


def half_aligned(directory: Path) -> Path:
    """u0 to u7, the even ones with an alignment."""
    all_ = [aligned(f"u{i}", 1 + i / 10, STARTS if i % 2 == 0 else ()) for i in range(8)]
    write_dataset(directory, "toy", {"train": all_})
    return directory


def data_config(path: Path) -> DataConfig:
    return DataConfig((SourceConfig(str(path)),), batch_seconds=8.0, buckets=2)


def loader_of(path: Path, **rest: Any) -> Loader:
    return Loader(data_config(path), TABLE, FEATURES, seed=0, stage="s", **rest)


def first(loader: Loader) -> Batch:
    with loader.iterate(0) as batches:
        return next(batches)


# Records


@pytest.mark.parametrize(
    ("starts", "words"),
    [
        ((0.0, 0.5), "2 times for 3 tokens"),
        ((0.0, 0.1, 0.2, 0.3), "4 times for 3 tokens"),
        ((0.0, 0.5, 0.4), "goes back"),
        ((-0.1, 0.5, 0.6), "before the audio"),
        ((0.0, 0.5, 1.2), "past the end"),
        ((0.0, math.nan, 0.6), "nan"),
        ((0.0, 0.5, math.inf), "inf"),
    ],
)
def test_an_impossible_alignment_is_refused(starts: tuple[float, ...], words: str):
    with pytest.raises(UserError, match=words):
        aligned("u", starts=starts)


def test_records_keep_alignments_and_old_records_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    both = [aligned("a"), utterance("b", 1.0)]
    write_dataset(tmp_path, "toy", {"train": both})
    source, index = open_split(tmp_path, "train")
    assert [source[i].token_starts for i in range(2)] == [STARTS, ()]
    assert index.aligned.tolist() == [True, False]
    builder: Any = tfds.builder_from_directory(tmp_path)
    theirs = builder.as_data_source("train")
    assert list(theirs[0]["token_starts"]) == list(STARTS)
    # As it was before: no such feature, and no such column.
    before = utterances.features()
    kept = {name: one for name, one in before.items() if name != "token_starts"}
    monkeypatch.setattr(utterances, "features", lambda: tfds.features.FeaturesDict(kept))
    monkeypatch.setattr(utterances, "_FIELDS", tuple(kept))
    utterances._serializer.cache_clear()
    monkeypatch.setattr(utterances, "_LISTS", ("tokens",))
    old = make_record(both[1])
    utterances._serializer.cache_clear()
    assert b"token_starts" not in old
    assert parse_record(old) == dataclasses.replace(both[1])


def test_an_index_of_before_says_that_nothing_is_aligned(tmp_path: Path):
    index = Index.of([aligned("a"), aligned("b")])
    columns = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    del columns["aligned"]
    np.savez(tmp_path / "old.npz", **columns)
    assert Index.load(tmp_path / "old.npz").aligned.tolist() == [False, False]
    index.save(tmp_path / "new.npz")
    assert Index.load(tmp_path / "new.npz").aligned.tolist() == [True, True]


# Beside the records


def test_alignments_beside_the_records_take_the_place_of_their_own(tmp_path: Path):
    half_aligned(tmp_path)
    _, index = open_split(tmp_path, "train")
    other = (0.0, 0.125, 0.75)
    save_alignments(tmp_path, "train", index, [other if i in (0, 1) else () for i in range(8)])
    source, index = open_split(tmp_path, "train")
    source = pickle.loads(pickle.dumps(source))
    found = [source[i].token_starts for i in range(8)]
    assert found == [other, other, STARTS, (), STARTS, (), STARTS, ()]
    assert index.aligned.tolist() == [bool(one) for one in found]
    own, index = open_split(tmp_path, "train", learned=False)
    assert own[0].token_starts == STARTS
    assert index.aligned.tolist() == [True, False] * 4
    write_dataset(tmp_path, "toy", {"train": [aligned(f"v{i}") for i in range(8)]})
    with pytest.raises(UserError, match=r"alignment-train\.npz belongs to other records"):
        open_split(tmp_path, "train")
    path = tmp_path / alignment_name("train")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="no file of alignments"):
        open_split(tmp_path, "train")


def test_impossible_alignments_are_neither_saved_nor_read(tmp_path: Path):
    write_dataset(tmp_path, "toy", {"train": [utterance("a", 1.0), utterance("b", 1.0)]})
    _, index = open_split(tmp_path, "train")
    for starts in ([STARTS, (0.0, 2.0, 3.0)], [STARTS, (0.0,)], [STARTS]):
        with pytest.raises(UserError, match="alignment"):
            save_alignments(tmp_path, "train", index, starts)
    path = save_alignments(tmp_path, "train", index, [STARTS, (0.25, 0.25, 0.9)])
    assert open_split(tmp_path, "train")[1].aligned.all()
    good = dict(np.load(path))
    for name, position, value in (
        ("starts", 1, 0.75),  # goes back
        ("starts", 3, -1.0),
        ("starts", 5, 9.0),  # past the end
        ("starts", 0, math.nan),
        ("offsets", 1, 2),  # too few
        ("offsets", 2, 7),
    ):
        bad = {key: array.copy() for key, array in good.items()}
        bad[name][position] = value
        np.savez(path, **bad)
        with pytest.raises(UserError, match="impossible alignments"):
            open_split(tmp_path, "train")


# Batches


def test_frames_of_starts_are_rounded_and_stay_inside():
    second = FEATURES.sampling_rate / FEATURES.hop_length
    found = start_frames((0.0, 0.4 / second, 0.6 / second, 1.0, 1.04), 93, FEATURES)
    assert found.tolist() == [0, 0, 1, 93, 93]
    assert found.dtype == np.int32


def test_padding_tokens_begin_at_the_end_and_empty_rows_at_zero():
    mel = np.zeros((20, FEATURES.n_mels), np.float32)
    one = Example("a", mel, np.array([1, 2, 3], np.int32), np.array([0, 4, 9], np.int32))
    arrays = collate(
        [one, None], Bucket(32, 5, 2, 1), n_mels=FEATURES.n_mels, pad_id=0, alignments=True
    )
    assert arrays["token_starts"].tolist() == [[0, 4, 9, 20, 20], [0] * 5]
    assert arrays["token_starts"].dtype == np.int32


def test_batches_say_where_tokens_begin_only_where_asked(tmp_path: Path):
    loader = loader_of(half_aligned(tmp_path), alignments=True)
    expected = (
        f"  left out: 4 without alignment (`zipvoice-jax align --data {tmp_path}` learns them)"
    )
    assert expected in loader.report().splitlines()
    batch = first(loader)
    starts, lens = batch.arrays["token_starts"], batch.arrays["features_lens"]
    assert starts.shape == batch.arrays["tokens"].shape
    assert set(batch.ids) <= {"u0", "u2", "u4", "u6"}
    assert starts[:, :3].tolist() == [[0, 23, 47]] * len(lens)
    assert (starts[:, 3:] == lens[:, None]).all()
    plain = loader_of(tmp_path)
    assert "token_starts" not in first(plain).arrays
    assert plain.iterate(0).get_state()["order"] != loader.iterate(0).get_state()["order"]
    passed = validation_batches(data_config(tmp_path), TABLE, FEATURES, alignments=True)
    with iter(passed) as batches:
        ids = [one for batch in batches for one in batch.ids if one]
    assert sorted(ids) == ["u0", "u2", "u4", "u6"]


def test_the_order_is_the_same_where_all_records_have_an_alignment(tmp_path: Path):
    write_dataset(tmp_path, "toy", {"train": [aligned(f"u{i}") for i in range(4)]})
    states = [loader_of(tmp_path, alignments=on).iterate(0).get_state() for on in (True, False)]
    assert states[0] == states[1]


def test_needed_alignments_that_are_missing_name_the_command(tmp_path: Path):
    write_dataset(tmp_path, "toy", {"train": [utterance("a", 1.0)]})
    with pytest.raises(UserError) as caught:
        loader_of(tmp_path, alignments=True)
    assert str(caught.value) == (
        f"{tmp_path} (train) has no alignments, which this training needs; run "
        f"`zipvoice-jax align --data {tmp_path}`."
    )


# Preparation


def test_jsonl_brings_alignments_and_names_bad_ones(tmp_path: Path):
    from zipvoice_jax.text.tokenizer import make_tokenizer

    count = len(make_tokenizer("emilia").tokens(TEXT))
    good = [round(0.01 * i, 2) for i in range(count)]
    (tmp_path / "a.wav").write_bytes(encoded("WAV", 3.0))
    changes: dict[str, Any] = {
        "good": good,
        "still": [0.5] * count,
        "late": [*good[:-1], 3.02],  # rounded up by its maker; kept, at the end
        "none": None,
        "empty": [],
        "backwards": [*good[:-1], 0.0],
        "few": good[:-1],
        "many": [*good, 2.9],
        "past": [*good[:-1], 3.5],
        "before": [-0.5, *good[1:]],
        "word": [*good[:-1], "x"],
        "flag": [*good[:-1], True],
        "nan": [*good[:-1], math.nan],
        "huge": [*good[:-1], 10**400],
        "number": 0.5,
    }
    rows = [
        {"id": name, "text": TEXT, "wav": "a.wav", "language": "en", "token_starts": starts}
        for name, starts in changes.items()
    ]
    write_jsonl(tmp_path / "list.jsonl", [*rows, {"id": "plain", "text": TEXT, "wav": "a.wav"}])
    report = prepare(
        config(Source("jsonl", tmp_path / "list.jsonl"), dev_share=0.0, examples=20),
        tmp_path / "out",
        workers=1,
    )
    source, index = open_split(tmp_path / "out", "train")
    kept = {source[i].id: source[i].token_starts for i in range(len(source))}
    assert set(kept) == {"good", "still", "late", "none", "empty", "plain"}
    np.testing.assert_allclose(kept["good"], good, atol=1e-6)
    assert kept["late"][-1] == 3.0
    assert kept["none"] == kept["empty"] == kept["plain"] == ()
    assert index.aligned.sum() == 3
    assert report["splits"]["train"]["aligned"] == 3
    assert "3 with an alignment" in lines(report)[0]
    bad = report["rejects"].pop("bad alignment")
    assert report["rejects"] == {}
    assert bad["count"] == 10
    details = {one["id"]: one["detail"] for one in bad["examples"]}
    assert set(details) == set(changes) - set(kept)
    assert f"{count - 1} times for {count} tokens" in details["few"]
    assert "tokenizer" in details["many"]
    assert "back" in details["backwards"]
    assert "past the end" in details["past"]


def test_a_corpus_without_alignments_is_reported_as_ever(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(encoded("WAV", 3.0))
    write_jsonl(tmp_path / "list.jsonl", [{"id": "a", "text": TEXT, "wav": "a.wav"}])
    source = Source("jsonl", tmp_path / "list.jsonl")
    report = prepare(config(source, dev_share=0.0), tmp_path / "out", workers=1)
    assert "aligned" not in json.dumps(report)
    assert "alignment" not in "".join(lines(report))


def test_a_new_dataset_does_not_keep_alignments_of_the_old_one(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(encoded("WAV", 3.0))
    write_jsonl(tmp_path / "list.jsonl", [{"id": "a", "text": TEXT, "wav": "a.wav"}])
    settings = config(Source("jsonl", tmp_path / "list.jsonl"), dev_share=0.0)
    prepare(settings, tmp_path / "out", workers=1)
    _, index = open_split(tmp_path / "out", "train")
    save_alignments(tmp_path / "out", "train", index, [()])
    prepare(settings, tmp_path / "out", workers=1, overwrite=True)
    assert not (tmp_path / "out" / alignment_name("train")).exists()

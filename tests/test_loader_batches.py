"""What batches hold, and that workers, hosts and restarts change nothing of it."""

import dataclasses
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import write_dataset
from loading import TABLE, dataset, utterance

from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.cli.main import main
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.batches import Batch, BatchIterator
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.examples import ExampleReader
from zipvoice_jax.data.loader import Loader, validation_batches
from zipvoice_jax.data.records import Index, decode_audio, open_split
from zipvoice_jax.text.tokens import TokenTable

FEATURES = FeatureConfig()


@pytest.fixture(scope="module")
def mono(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("mono"), 40)


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("stereo"), 12, channels=2, low=1.0)


def config_of(path: Path, **rest: object) -> DataConfig:
    values = {"batch_seconds": 16.0, "buckets": 3, "min_seconds": 0.7, "threads": 1} | rest
    return DataConfig((SourceConfig(str(path)),), **values)  # pyright: ignore[reportArgumentType]


def loader_of(config: DataConfig, **rest: object) -> Loader:
    values = {"seed": 3, "stage": "dialog", "batch_multiple": 4} | rest
    return Loader(config, TABLE, FEATURES, **values)  # pyright: ignore[reportArgumentType]


def take(loader: Loader, count: int, start: int = 0) -> list[Batch]:
    with loader.iterate(start) as batches:
        return [next(batches) for _ in range(count)]


def joined(parts: list[Batch]) -> Batch:
    """The global batch from those of all hosts, as make_array_from_process_local_data does it."""
    arrays = {
        name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays
    }
    ids = sum((part.ids for part in parts), ())
    return dataclasses.replace(parts[0], arrays=arrays, ids=ids)


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert (a.step, a.bucket, a.ids) == (b.step, b.bucket, b.ids)
        assert a.arrays.keys() == b.arrays.keys()
        for name in a.arrays:
            np.testing.assert_array_equal(a.arrays[name], b.arrays[name])


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_kept_changes_nothing_and_is_read_once(
    mono: Path, threads: int, monkeypatch: pytest.MonkeyPatch
):
    wanted = take(loader_of(config_of(mono)), 30)
    reads = Counter()

    def counted(reader: ExampleReader, source: int, record: int) -> Any:
        reads[record] += 1
        return decode(reader, source, record)

    decode = ExampleReader.decode
    monkeypatch.setattr(ExampleReader, "decode", counted)
    loader = loader_of(config_of(mono, cache=True, threads=threads))
    assert_same(take(loader, 30), wanted)
    assert_same(take(loader, 8, start=4), wanted[4:12])
    # Threads that come to a record at the same time may each read it.
    assert len(reads) > 10
    assert sum(reads.values()) <= (threads + 1) * len(reads)
    items = sum(sum(map(bool, batch.ids)) for batch in wanted)
    assert items > 4 * len(reads)  # so many reads without it
    sent = pickle.loads(pickle.dumps(loader.assembler.reader))
    assert sent.cache and len(pickle.dumps(sent)) < 10_000


@pytest.mark.parametrize(
    ("hosts", "workers"),
    [
        (4, 0),
        pytest.param(2, 1, marks=pytest.mark.slow),
        (1, 2),
        pytest.param(1, 4, marks=pytest.mark.slow),
    ],
)
def test_hosts_and_workers_change_nothing(mono: Path, hosts: int, workers: int):
    wanted = take(loader_of(config_of(mono)), 6)
    config = config_of(mono, workers=workers, threads=workers % 3)
    parts = [take(loader_of(config, host_index=host, host_count=hosts), 6) for host in range(hosts)]
    assert {len({batch.bucket for batch in step}) for step in zip(*parts, strict=True)} == {1}
    assert_same([joined(list(step)) for step in zip(*parts, strict=True)], wanted)


def test_resuming_anywhere_gives_what_was_to_come(mono: Path):
    loader = loader_of(config_of(mono))
    wanted = take(loader, 8)
    with loader.iterate() as batches:
        for step in range(7):
            state = json.loads(json.dumps(batches.get_state()))
            assert state["step"] == step
            with loader.iterate() as resumed:
                resumed.set_state(state)
                assert_same([next(resumed)], [wanted[step]])
            next(batches)
        batches.set_state({**state, "step": 2})
        assert_same([next(batches), next(batches)], wanted[2:4])
    halves = [
        loader_of(config_of(mono, prefetch=1), host_index=host, host_count=2) for host in range(2)
    ]
    parts = [take(half, 3, start=5) for half in halves]
    assert_same([joined(list(step)) for step in zip(*parts, strict=True)], wanted[5:])
    with halves[0].iterate(5) as batches:
        assert next(batches).step == 5


def test_resuming_reads_nothing_before_its_step(mono: Path):
    loader = loader_of(config_of(mono))
    made = []

    def assemble(step: int) -> dict:
        made.append(step)
        return loader.assembler(step)

    with BatchIterator(assemble, loader.config, start=9, stop=12, fingerprint="f") as batches:
        assert [batch.step for batch in batches] == [9, 10, 11]
    assert sorted(made) == [9, 10, 11]


def test_a_state_of_another_order_is_refused(mono: Path):
    state = loader_of(config_of(mono)).iterate().get_state()
    for other in (
        loader_of(config_of(mono), seed=4),
        loader_of(config_of(mono, batch_seconds=20.0)),
    ):
        with pytest.raises(UserError, match="another order"):
            other.iterate().set_state(state)
    loader_of(config_of(mono, workers=3, prefetch=5)).iterate().set_state(state)


def test_a_batch_holds_features_and_tokens(mono: Path):
    source, index = open_split(mono, "train")
    batches = take(loader_of(config_of(mono)), 4)
    for batch in batches:
        bucket, arrays = batch.bucket, batch.arrays
        rows = bucket.batch
        assert {name: (a.shape, a.dtype.name) for name, a in arrays.items()} == {
            "features": ((rows, bucket.frames, 100), "float32"),
            "features_lens": ((rows,), "int32"),
            "tokens": ((rows, bucket.tokens), "int32"),
            "tokens_lens": ((rows,), "int32"),
        }
        for row, name in enumerate(batch.ids):
            one = source[index.ids.tolist().index(name)]
            mel = log_mel_host(decode_audio(one, 24_000, name=name), FEATURES)
            assert arrays["features_lens"][row] == len(mel)
            np.testing.assert_array_equal(arrays["features"][row, : len(mel)], mel)
            assert not arrays["features"][row, len(mel) :].any()
            assert arrays["tokens"][row].tolist() == [1, 2, 3] + [0] * (bucket.tokens - 3)
            assert arrays["tokens_lens"][row] == 3
        real = sum(int(n) for n in arrays["features_lens"])
        assert batch.padding == pytest.approx(1 - real / arrays["features"][..., 0].size)


def test_stereo_and_alternating_batches(stereo: Path):
    source, index = open_split(stereo, "train")
    loader = loader_of(config_of(stereo, channels="alternate", batch_seconds=14.0))
    assert {bucket.channels for bucket in loader.buckets} == {1, 2}
    assert len(loader.buckets) == 2 * len(loader.plan.buckets)
    batches = take(loader, 4)
    assert [batch.bucket.channels for batch in batches] == [1, 2, 1, 2]
    for batch in batches:
        assert batch.bucket in loader.buckets
        wave = decode_audio(source[index.ids.tolist().index(batch.ids[0])], 24_000, name="it")
        mel = log_mel_host(wave, FEATURES, channels=batch.bucket.channels)
        assert mel.shape[1] == 100 * batch.bucket.channels
        np.testing.assert_array_equal(batch.arrays["features"][0, : len(mel)], mel)
    two = take(loader_of(config_of(stereo, channels="stereo", batch_seconds=14.0)), 2)
    assert {batch.bucket.channels for batch in two} == {2}


def test_real_recordings_are_tokenized_on_the_fly(tmp_path: Path, data: Path):
    prompts = json.loads((data / "prompts.json").read_text(encoding="utf-8"))
    recorded = [
        dataclasses.replace(
            utterance(one["file"], 1.0),
            text=one["text"],
            tokens=(),
            duration=one["samples"] / one["sampling_rate"],
            channels=one["channels"],
            audio=(data / one["file"]).read_bytes(),
        )
        for one in prompts
    ]
    write_dataset(tmp_path, "prompts", {"train": recorded})
    letters = sorted(set("".join(one["text"] for one in prompts)))
    table = TokenTable(("_", *letters, "[S1]", "[S2]"))
    config = config_of(tmp_path, tokenizer="simple", tokens_per_second=30.0, buckets=2)
    batches = validation_batches(config, table, FEATURES)
    with iter(batches) as found:
        rows = {
            name: "".join(table.tokens[i] for i in batch.arrays["tokens"][row] if i)
            for batch in found
            for row, name in enumerate(batch.ids)
            if name
        }
    assert rows == {one["file"]: one["text"] for one in prompts}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Twelve utterances, of which four cannot be used; the index does not tell."""
    good = [utterance(f"u{i}", 1.0 + 0.1 * i) for i in range(8)]
    flac = utterance("x", 1.0).audio
    bad = [
        dataclasses.replace(utterance("cut", 1.0), audio=flac[: len(flac) // 2]),
        dataclasses.replace(utterance("noise", 1.0), audio=b"no audio at all"),
        utterance("unknown", 1.0, tokens="abq"),
        utterance("long", 6.0),
    ]
    write_dataset(tmp_path, "damaged", {"train": [*good, *bad]})
    path = tmp_path / "index-train.npz"
    index = Index.load(path)
    dataclasses.replace(index, seconds=np.minimum(index.seconds, 1.5)).save(path)
    return tmp_path


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_corrupt_records_are_empty_rows_with_names(damaged: Path, workers: int):
    config = config_of(damaged, workers=workers, buckets=1, batch_seconds=20.0)
    with iter(validation_batches(config, TABLE, FEATURES)) as batches:
        (batch,) = batches
    reasons = " ".join(batch.corrupt)
    for part in ("noise in", "cut in", "unknown in", "'q'", "long has 563 frames", str(damaged)):
        assert part in reasons
    assert sorted(name for name in batch.ids if name) == sorted(f"u{i}" for i in range(6))
    for row, name in enumerate(batch.ids):
        if not name:
            assert batch.arrays["features_lens"][row] == batch.arrays["tokens_lens"][row] == 0
            assert not batch.arrays["features"][row].any()
            assert not batch.arrays["tokens"][row].any()


def test_too_many_corrupt_records_end_the_run(damaged: Path):
    config = config_of(damaged, buckets=1, batch_seconds=20.0, max_corrupt=6)
    loader = loader_of(config)
    with loader.iterate() as batches:
        for _ in range(6):  # the same records again and again are no new ones
            next(batches)
        assert len(batches.corrupt) == 6
    strict = loader_of(dataclasses.replace(config, max_corrupt=2))
    with pytest.raises(UserError, match="max_corrupt allows 2") as caught:
        take(strict, 6)
    assert str(damaged) in str(caught.value)
    other_table = TokenTable(("_", "x"))
    nothing_usable = Loader(config, other_table, FEATURES, seed=0, stage="s")
    with pytest.raises(UserError, match="the token 'a', which the token table lacks"):
        take(nothing_usable, 9)
    assert "\n" not in str(caught.value)


def test_validation_has_every_utterance_once_in_the_shapes_of_training(mono: Path):
    loader = loader_of(config_of(mono))
    whole = validation_batches(config_of(mono), TABLE, FEATURES, buckets=loader.buckets)
    with iter(whole) as batches:
        found = list(batches)
    assert len(found) == len(whole)
    assert {batch.bucket for batch in found} <= set(loader.buckets)
    _, index = open_split(mono, "train")
    wanted = index.ids[index.seconds >= 0.7].tolist()
    ids = [name for batch in found for name in batch.ids if name]
    assert sorted(ids) == sorted(wanted)
    halves = [
        list(
            iter(
                validation_batches(
                    config_of(mono),
                    TABLE,
                    FEATURES,
                    buckets=loader.buckets,
                    host_index=host,
                    host_count=2,
                )
            )
        )
        for host in range(2)
    ]
    assert_same([joined(list(step)) for step in zip(*halves, strict=True)], found)
    assert "batches in all" in whole.report()
    shortest = min(loader.buckets, key=lambda bucket: bucket.frames)
    tiny = dataclasses.replace(shortest, frames=10)
    with pytest.raises(UserError, match="fits the buckets of training"):
        validation_batches(config_of(mono), TABLE, FEATURES, buckets=[tiny])


def test_the_report_names_sources_buckets_and_padding(mono: Path):
    loader = loader_of(config_of(mono))
    report = loader.report()
    assert f"{mono} (train): " in report
    assert "shorter than 0.7 s" in report
    assert f"padding {loader.padding_share:.1%}" in report
    assert f"{loader.steps_per_epoch:.1f} steps an epoch" in report
    assert all(f" {bucket.frames} " in report for bucket in loader.buckets)


def test_hosts_that_cannot_share_a_batch(mono: Path):
    with pytest.raises(UserError, match="shared by 3 hosts"):
        loader_of(config_of(mono), batch_multiple=1, host_count=3)
    with pytest.raises(UserError, match="host 2 of 2"):
        loader_of(config_of(mono), host_index=2, host_count=2)


@pytest.mark.slow
def test_bench_data(mono: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tokens, report = tmp_path / "tokens.txt", tmp_path / "rows.json"
    tokens.write_text(TABLE.dumps(), encoding="utf-8")
    options = ["--tokens", str(tokens), "--batch-seconds", "16", "--audio", "30", "--workers", "0"]
    status = main(["bench", "data", "--data", str(mono), *options, "--json", str(report)])
    out = capsys.readouterr().out
    assert status == 0
    assert "a v5e-8 that trains on 10000 audio seconds per second needs" in out
    written = json.loads(report.read_text(encoding="utf-8"))
    assert len(written["rows"]) == 5
    assert written["cores"]["with features"] >= written["cores"]["without features"] > 0
    assert main(["bench", "data", "--data", str(tmp_path), *options]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1

"""Preparing corpora: every format, every reason to leave an item out, what is stored."""

import contextlib
import dataclasses
import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import preparing
import pytest
import soundfile
import tensorflow_datasets as tfds
from complaints import user_error
from datasets import write_dataset
from hypothesis import given
from hypothesis import strategies as st
from preparing import TEXT, config, encoded

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data import checks, prepare_shards, records
from zipvoice_jax.data.checks import Limits, Rejected
from zipvoice_jax.data.prepare import prepare
from zipvoice_jax.data.prepare_report import lines
from zipvoice_jax.data.records import Index, decode_audio, open_split
from zipvoice_jax.data.sources import CorpusItem, Source, hashed_split
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


def run(to: Path, source: Source, **settings: Any) -> dict[str, Any]:
    return prepare(config(source, **settings), to, workers=1)


def left_out(report: dict[str, Any]) -> dict[str, list[str]]:
    return {
        reason: [one["id"] for one in entry["examples"]]
        for reason, entry in report["rejects"].items()
    }


# Records


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


def test_damaged_datasets_are_told_by_name(tmp_path: Path):
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
    for place in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
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


# Formats


@pytest.mark.parametrize("packed", [True, False])
def test_opendialog_by_the_official_rule(tmp_path: Path, packed: bool, monkeypatch: Any):
    monkeypatch.setattr("zipvoice_jax.data.sources.OFFICIAL_DEV_CUTS", 3)
    root = preparing.opendialog(tmp_path / "od", tars=2, per_tar=3, packed=packed)
    preparing.write_jsonl(
        root / "manifest.zh.jsonl",
        [
            {"id": "zh_9", "text": "[S1] 你好。 [S2] 你 好_吗。", "path": "audio/zh/zh_9.mp3"},
            {"id": "zh_8", "text": "[S1] 你好。", "path": "audio/zh/zh_8.mp3"},
        ],
    )
    preparing.write_tar(
        root / "audio/zh/zh_0.tar", {"zh_9.mp3": encoded("MP3", 1.5), "x.json": b""}
    )
    report = run(tmp_path / "out", Source("opendialog", root), tokenizer="dialog", split="official")
    dev, index = open_split(tmp_path / "out", "dev")
    assert index.ids.tolist() == ["en_0_0", "en_0_1", "en_0_2", "zh_9"]
    assert index.languages.tolist() == ["en", "en", "en", "zh"]
    assert dev[3].text == "[S1] 你好。 [S2] 你 好 吗。"
    assert dev[3].tokens[0] == "[S1]"
    assert dev[0].audio == encoded("MP3")
    assert open_split(tmp_path / "out", "train")[1].ids.tolist() == ["en_1_0", "en_1_1", "en_1_2"]
    assert report["splits"]["dev"]["turns"] == 8
    assert left_out(report) == {"unreadable": ["zh_8"]}


def test_emilia_and_audio_that_is_no_audio(tmp_path: Path):
    rows = [
        {"id": "a", "text": TEXT, "wav": "mp3/a.mp3", "language": "en", "dnsmos": 3.1},
        {"id": "b", "text": TEXT, "wav": "mp3/b.mp3", "language": "en"},
        {"id": "c", "text": TEXT},
        {"id": "\ud800", "text": TEXT, "wav": "mp3/a.mp3"},
    ]
    preparing.write_jsonl(tmp_path / "corpus/EN_B0.jsonl", rows)
    with (tmp_path / "corpus/EN_B0.jsonl").open("a") as file:
        file.write("not JSON\n")
    (tmp_path / "corpus/mp3").mkdir()
    (tmp_path / "corpus/mp3/a.mp3").write_bytes(encoded("MP3"))
    (tmp_path / "corpus/mp3/b.mp3").write_bytes(b"\0" * 5000)
    report = run(tmp_path / "out", Source("emilia", tmp_path / "corpus"), dev_share=0.0)
    source, index = open_split(tmp_path / "out", "train")
    assert index.ids.tolist() == ["a"]
    assert source[0].language == "en"
    assert left_out(report) == {
        "bad entry": ["EN_B0.jsonl, line 3", "\\ud800", "EN_B0.jsonl, line 5"],
        "unreadable": ["b"],
    }


def test_emilia_in_tars_as_on_the_hub(tmp_path: Path):
    mp3 = encoded("MP3")

    def about(name: str, **rest: Any) -> bytes:
        row = {"id": name, "wav": f"EN_B0/{name}.mp3", "text": TEXT, "language": "en", **rest}
        return json.dumps(row).encode()

    members = {
        "EN_0.mp3": mp3,
        "EN_0.json": about("EN_0", duration=3.0, speaker="EN_S", dnsmos=3.2),
        "EN_1.json": about("EN_1"),
        "EN_1.mp3": mp3,
        "EN_2.json": about("EN_2"),
        "EN_3.mp3": mp3,
        "EN_4.json": b"\xff",
        "EN_4.mp3": mp3,
        "notes.txt": b"nothing",
    }
    tar = tmp_path / "hub/EN/EN-B000000.tar"
    preparing.write_tar(tar, members)
    for place in (tar, tmp_path / "hub"):
        report = run(tmp_path / "out" / place.name, Source("emilia", place), dev_share=0.0)
        source, index = open_split(tmp_path / "out" / place.name, "train")
        assert index.ids.tolist() == ["EN_0", "EN_1"] and source[0].audio == mp3
        assert left_out(report) == {
            "unreadable": ["EN-B000000.tar, EN_2.json"],
            "bad entry": ["EN-B000000.tar, EN_4.json", "EN-B000000.tar, EN_3"],
        }
    with tarfile.open(tar, "a") as archive:  # as of `tar -cf x.tar .`
        archive.addfile(tarfile.TarInfo("."))
    assert left_out(run(tmp_path / "dot", Source("emilia", tar), dev_share=0.0))
    packed = tar.rename(tar.with_suffix(".tar.gz"))
    for place in (packed, packed.parent):
        with user_error("compressed tar", "gunzip"):
            run(tmp_path / "none", Source("emilia", place))


def test_tables_may_end_their_lines_with_tabs(tmp_path: Path):
    manifest = preparing.tsv(tmp_path / "in", 1)
    manifest.write_text(
        f"one\t{TEXT}\t0.wav\t\ntwo\t{TEXT}\t0.wav\t\t\t\nspan\tThere is one.\t0.wav\t0.5\t1.75\t\n"
        f"none\t{TEXT}\t\t\t\nswapped\t0.wav\t{TEXT * 30}\n",
        encoding="utf-8",
    )
    report = run(tmp_path / "out", Source("tsv", manifest), dev_share=0.0)
    _, index = open_split(tmp_path / "out", "train")
    assert index.ids.tolist() == ["one", "two", "span"]
    assert left_out(report) == {"bad entry": ["none"], "unreadable": ["swapped"]}


def test_libritts_folders_say_the_split(tmp_path: Path):
    for subset, name in (("train-clean-100", "1_2_3"), ("dev-clean", "4_5_6"), ("test-other", "7")):
        folder = tmp_path / "dev-disk" / "LibriTTS" / subset / "1" / "2"
        folder.mkdir(parents=True)
        (folder / f"{name}.wav").write_bytes(encoded("WAV"))
        (folder / f"{name}.normalized.txt").write_text(TEXT)
        (folder / f"{name}.original.txt").write_text("other")
    source = Source("libritts", tmp_path / "dev-disk" / "LibriTTS")
    report = run(tmp_path / "out", source, tokenizer="libritts", split="official")
    assert {split: one["utterances"] for split, one in report["splits"].items()} == {
        "train": 1,
        "dev": 1,
        "test": 1,
    }
    train, _ = open_split(tmp_path / "out", "train")
    assert (train[0].id, train[0].language) == ("1_2_3", "en")
    assert "".join(train[0].tokens) == TEXT.upper()


def test_tsv_with_spans_two_channels_and_a_dev_list(tmp_path: Path):
    manifest = preparing.tsv(tmp_path / "in", 1)
    (tmp_path / "in/two.wav").write_bytes(encoded("WAV", channels=2))
    manifest.write_text(
        f"whole\t{TEXT}\t0.wav\nspan\tThere is one other.\t0.wav\t0.5\t1.75\n"
        f"two\t{TEXT}\ttwo.wav\nlate\t{TEXT}\t0.wav\t2\t9\n"
        f"odd\t{TEXT}\t0.wav\t2\n\n back\t{TEXT}\t0.wav\t2\t1\n",
        encoding="utf-8",
    )
    dev = tmp_path / "in" / "dev.tsv"
    dev.write_text(f"held\t{TEXT}\t0.wav\n")
    report = run(
        tmp_path / "out", Source("tsv", manifest, language="en"), dev_source=Source("tsv", dev)
    )
    source, index = open_split(tmp_path / "out", "train")
    assert index.ids.tolist() == ["whole", "span", "two"]
    assert index.channels.tolist() == [1, 1, 2]
    assert source[0].audio == (tmp_path / "in/0.wav").read_bytes()
    assert source[1].audio[:4] == b"fLaC"
    cut, _ = soundfile.read(io.BytesIO(source[1].audio), dtype="int16")
    assert (cut == preparing.speech()[8000:28000, 0]).all()
    assert open_split(tmp_path / "out", "dev")[1].ids.tolist() == ["held"]
    assert left_out(report) == {"bad entry": ["odd", "back"], "unreadable": ["late"]}


def test_lhotse_cuts_without_lhotse(tmp_path: Path):
    mono, two = tmp_path / "mono.flac", tmp_path / "two.wav"
    mono.write_bytes(encoded("FLAC"))
    stereo = preparing.speech(channels=2)
    stereo[:, 1] = 0
    soundfile.write(two, stereo, 16000, format="WAV")
    cut = preparing.lhotse_cut
    both = {**cut(two, "x")["recording"]}
    both["sources"] = [{"type": "file", "channels": [0, 1], "source": str(two)}]
    part = [{"id": "s", "start": 0.0, "duration": 1.0, "text": "There is one.", "language": "en"}]
    more = [{**part[0], "start": 1.0, "text": "And another."}, *part]
    rows = [
        cut(mono, "whole"),
        cut(mono, "part", start=0.5, duration=1.5, supervisions=part),
        cut(two, "both", type="MultiCut", channel=[0, 1], recording=both, supervisions=more),
        cut(two, "left", recording=both),
        cut(mono, "mixed", type="MixedCut"),
        cut(
            mono,
            "fast",
            recording={**cut(mono, "")["recording"], "transforms": [{"name": "Speed"}]},
        ),
        {"id": "features only"},
    ]
    path = preparing.write_gzip_jsonl(tmp_path / "cuts.jsonl.gz", rows)
    report = run(tmp_path / "out", Source("lhotse", path), dev_share=0.0)
    source, index = open_split(tmp_path / "out", "train")
    assert index.ids.tolist() == ["whole", "part", "both", "left"]
    assert index.channels.tolist() == [1, 1, 2, 1]
    assert index.seconds.tolist() == [3.0, 1.5, 3.0, 3.0]
    assert source[0].audio == mono.read_bytes()
    assert source[2].text == "There is one. And another."
    left, _ = soundfile.read(io.BytesIO(source[3].audio), dtype="int16")
    assert (left == stereo[:, 0]).all()
    assert left_out(report) == {"bad entry": ["mixed", "fast", "features only"]}


# Checks


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[S1] Good morning. [S2] Hello.", None),
        ("[S2] Hello.[S1]Well.", None),
        ("Hello. [S2] Well.", "broken turn tags"),
        ("No tags at all", "broken turn tags"),
        ("[S1] Hello. [S3] Well.", "broken turn tags"),
        ("[S1] Hello. [laughs] Well.", "broken turn tags"),
        ("[S1] Hello. [S2", "broken turn tags"),
        ("[S1] Hello. [s2] Well.", "broken turn tags"),
        ("[S1] [S2] Well.", "broken turn tags"),
        ("[S1] ... [S2] !", "empty text"),
        ("", "empty text"),
    ],
)
def test_turn_tags(text: str, reason: str | None):
    if reason is None:
        checks.check_text(text, dialogue=True)
        return
    with pytest.raises(Rejected) as caught:
        checks.check_text(text, dialogue=True)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "seconds", "reason"),
    [
        ("one two three four five", 0.5, None),  # 600 a minute
        ("one two three four five", 0.49, "out of proportion"),
        ("one", 3.0, None),  # 20 a minute
        ("one", 3.01, "out of proportion"),
        ("[S1] 你好世界 [S2] hello", 0.5, None),  # four characters and a word
        ("[S1] 你好世界 [S2] hello", 0.49, "out of proportion"),
        ("1234", 1.0, "out of proportion"),  # no letters: officially no valid characters
        ("no " * 11, 5.0, "repeated words"),
        ("no " * 10, 5.0, None),  # officially too
        ("été à côté", 0.3, None),
    ],
)
def test_text_and_audio_in_proportion(text: str, seconds: float, reason: str | None):
    if reason is None:
        checks.check_proportion(text, seconds, Limits())
        return
    with pytest.raises(Rejected) as caught:
        checks.check_proportion(text, seconds, Limits())
    assert caught.value.reason == reason


def test_every_reason_is_counted_and_named(tmp_path: Path):
    manifest = preparing.tsv(tmp_path / "in", 1)
    (tmp_path / "in/short.wav").write_bytes(encoded("WAV", 0.5))
    (tmp_path / "in/long.wav").write_bytes(encoded("WAV", 6.0))
    wav = encoded("WAV")
    (tmp_path / "in/cut.wav").write_bytes(wav[: len(wav) // 2])
    (tmp_path / "in/empty.wav").write_bytes(b"")
    good = "[S1] This is one, is it not? [S2] It is."
    rows = [
        ("good", good, "0.wav"),
        ("good", good, "0.wav"),
        ("short", good, "short.wav"),
        ("long", good, "long.wav"),
        ("cut", good, "cut.wav"),
        ("empty", good, "empty.wav"),
        ("gone", good, "gone.wav"),
        ("words", "[S1] Word [S2] word " * 20, "0.wav"),
        ("repeats", "[S1]" + " no" * 11, "0.wav"),
        ("script", "[S1] Привет, мой друг.", "0.wav"),
        ("tags", "No tags.", "0.wav"),
        ("blank", "[S1] _ [S2] -", "0.wav"),
        ("columns",),
    ]
    manifest.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    report = run(
        tmp_path / "out",
        Source("tsv", manifest, unit_size=3),
        tokenizer="dialog",
        dev_share=0.0,
        limits=Limits(max_seconds=5.0),
        examples=2,
    )
    assert left_out(report) == {
        "bad entry": ["columns"],
        "duplicate id": ["good"],
        "unreadable": ["cut", "empty"],
        "empty text": ["blank"],
        "broken turn tags": ["tags"],
        "too short": ["short"],
        "too long": ["long"],
        "out of proportion": ["words"],
        "repeated words": ["repeats"],
        "unknown tokens": ["script"],
    }
    assert report["rejects"]["unreadable"]["count"] == 3
    assert report == json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    told = "\n".join(lines(report))
    assert "1 utterances" in told and "unreadable: 3" in told and "gone" not in told
    source, _ = open_split(tmp_path / "out", "train")
    assert [source[i].id for i in range(len(source))] == ["good"]


def test_tokens_that_the_table_lacks(tmp_path: Path):
    manifest = preparing.tsv(tmp_path / "in", 1, text="[S1] Nice. [laugh] Indeed.")
    report = run(tmp_path / "out", Source("tsv", manifest), dev_share=0.0)
    assert left_out(report) == {"unknown tokens": ["id000"]}
    assert "[laugh]" in report["rejects"]["unknown tokens"]["examples"][0]["detail"]


@given(st.text(min_size=1), st.floats(0.0, 0.99))
def test_the_split_of_an_id_is_fixed_and_grows_with_the_share(name: str, share: float):
    assert hashed_split(name, share) == hashed_split(name, share)
    if hashed_split(name, share) == "dev":
        assert hashed_split(name, 0.999) == "dev"


def test_the_share_of_dev_is_as_asked():
    dev = [hashed_split(f"utterance {i}", 0.1) == "dev" for i in range(5000)]
    assert 0.08 < np.mean(dev) < 0.12


# Complaints


def test_bad_sources_and_targets_give_one_line(tmp_path: Path):
    good = Source("tsv", preparing.tsv(tmp_path / "in", 1))
    for source, word in (
        (Source("tsv", tmp_path / "no.tsv"), "no.tsv"),
        (Source("opendialog", tmp_path), "manifest"),
        (Source("emilia", tmp_path / "in" / "sub"), ".jsonl"),
        (Source("libritts", tmp_path), "normalized"),
    ):
        with user_error(word):
            run(tmp_path / "out", source)
    with user_error("official"):
        run(tmp_path / "out", good, split="official")
    (tmp_path / "file").write_text("")
    with user_error("is a file"):
        run(tmp_path / "file", good)
    with user_error("holds"):
        run(tmp_path / "in", good)
    empty = tmp_path / "empty.tsv"
    empty.write_text("a\tb\n")
    with user_error("no items", "columns"):
        run(tmp_path / "out", Source("tsv", empty))
    packed = preparing.opendialog(tmp_path / "od", tars=1, per_tar=1)
    (packed / "audio/en/more.tar.gz").write_bytes(b"")
    with user_error("more.tar.gz", "gunzip"):
        run(tmp_path / "out", Source("opendialog", packed))
    shutil.rmtree(tmp_path / "out")
    assert run(tmp_path / "out", good)["splits"]
    with user_error("dataset already", "--overwrite"):
        run(tmp_path / "out", good)
    assert prepare(config(good), tmp_path / "out", workers=1, overwrite=True)["splits"]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"name": "Bad name"}, "Bad name"),
        ({"dev_share": 1.0}, "dev_share"),
        ({"examples": -1}, "examples"),
        ({"tokenizer": "no"}, "tokenizer"),
    ],
)
def test_bad_settings_give_one_line(tmp_path: Path, settings: dict[str, Any], word: str):
    with user_error(word):
        run(tmp_path / "out", Source("tsv", preparing.tsv(tmp_path / "in", 1)), **settings)


def test_bad_limits_give_one_line():
    with user_error("min_seconds"):
        Limits(min_seconds=5, max_seconds=2)
    with user_error("unit_size"):
        Source("tsv", Path("x"), unit_size=0)


def test_an_item_that_breaks_a_library_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = prepare_shards.make_utterance

    def break_one(item: CorpusItem, *args: Any) -> Utterance:
        if item.id == "id001":
            raise ZeroDivisionError("deep inside")
        return original(item, *args)

    monkeypatch.setattr(prepare_shards, "make_utterance", break_one)
    report = run(tmp_path / "out", Source("tsv", preparing.tsv(tmp_path / "in", 3)), dev_share=0.0)
    assert report["splits"]["train"]["utterances"] == 2
    assert left_out(report) == {"bad entry": ["id001"]}

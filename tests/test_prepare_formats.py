"""The formats of corpora that `prepare` reads: OpenDialog, Emilia, LibriTTS, TSV, Lhotse's cuts."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import preparing
import pytest
import soundfile
from complaints import user_error
from preparing import TEXT, encoded, left_out, run

from zipvoice_jax.data.records import open_split
from zipvoice_jax.data.sources import Source


@pytest.mark.parametrize("packed", [True, False])
def test_opendialog_by_the_official_rule(tmp_path: Path, packed: bool, monkeypatch: Any):
    monkeypatch.setattr("zipvoice_jax.data.source_opendialog.OFFICIAL_DEV_CUTS", 3)
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


def test_nothing_is_published_of_a_corpus_without_a_usable_item(tmp_path: Path):
    table = tmp_path / "list.tsv"
    table.write_text(f"a\t{TEXT}\t{tmp_path / 'a.wav'}\n", encoding="utf-8")
    source = Source("tsv", table)
    with user_error("nothing of the corpus can be used", "unreadable: 1 (a: ", "a.wav"):
        run(tmp_path / "out", source)
    assert not list((tmp_path / "out").glob("*"))
    # Once it can be read, the same preparation is made.
    (tmp_path / "a.wav").write_bytes(encoded("WAV"))
    run(tmp_path / "out", source)
    assert len(open_split(tmp_path / "out", "train")[1]) == 1


def test_what_cannot_be_read_of_a_corpus_is_named(tmp_path: Path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/EN_B0.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with user_error("EN_B0.jsonl cannot be read"):
        run(tmp_path / "out", Source("emilia", tmp_path / "corpus"))


def test_emilia_in_tars_as_on_the_hub(tmp_path: Path):
    mp3 = encoded("MP3")

    def metadata(name: str, **rest: Any) -> bytes:
        row = {"id": name, "wav": f"EN_B0/{name}.mp3", "text": TEXT, "language": "en", **rest}
        return json.dumps(row).encode()

    members = {
        "EN_0.mp3": mp3,
        "EN_0.json": metadata("EN_0", duration=3.0, speaker="EN_S", dnsmos=3.2),
        "EN_1.json": metadata("EN_1"),
        "EN_1.mp3": mp3,
        "EN_2.json": metadata("EN_2"),
        "EN_3.mp3": mp3,
        "EN_4.json": b"\xff",
        "EN_4.mp3": mp3,
        "notes.txt": b"nothing",
    }
    tar = tmp_path / "hub/EN/EN-B000000.tar"
    preparing.write_tar(tar, members)
    for path in (tar, tmp_path / "hub"):
        report = run(tmp_path / "out" / path.name, Source("emilia", path), dev_share=0.0)
        source, index = open_split(tmp_path / "out" / path.name, "train")
        assert index.ids.tolist() == ["EN_0", "EN_1"] and source[0].audio == mp3
        assert left_out(report) == {
            "unreadable": ["EN-B000000.tar, EN_2.json"],
            "bad entry": ["EN-B000000.tar, EN_4.json", "EN-B000000.tar, EN_3"],
        }
    with tarfile.open(tar, "a") as archive:  # as of `tar -cf x.tar .`
        archive.addfile(tarfile.TarInfo("."))
    assert left_out(run(tmp_path / "dot", Source("emilia", tar), dev_share=0.0))
    packed = tar.rename(tar.with_suffix(".tar.gz"))
    for path in (packed, packed.parent):
        with user_error("compressed tar", "gunzip"):
            run(tmp_path / "none", Source("emilia", path))


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

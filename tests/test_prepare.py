"""What `prepare` leaves out and for which reason, how it splits, and what it refuses as a whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import preparing
import pytest
from complaints import user_error
from hypothesis import given
from hypothesis import strategies as st
from preparing import config, encoded, left_out, run

from zipvoice_jax.data import checks, prepare_shards
from zipvoice_jax.data.checks import Limits, Rejected
from zipvoice_jax.data.prepare import prepare
from zipvoice_jax.data.prepare_report import lines
from zipvoice_jax.data.records import open_split
from zipvoice_jax.data.sources import CorpusItem, Source, hashed_split
from zipvoice_jax.data.utterance import Utterance


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
    summary = "\n".join(lines(report))
    assert "1 utterances" in summary and "unreadable: 3" in summary and "gone" not in summary
    source, _ = open_split(tmp_path / "out", "train")
    assert [source[i].id for i in range(len(source))] == ["good"]


def test_tokens_that_the_table_lacks(tmp_path: Path):
    manifest = preparing.tsv(tmp_path / "in", 1, text="[S1] Nice. [laugh] Indeed.")
    with user_error("unknown tokens: 1 (id000: '[laugh]')"):
        run(tmp_path / "out", Source("tsv", manifest), dev_share=0.0)
    with manifest.open("a", encoding="utf-8") as file:  # an item beside it that can be used
        file.write("other\t[S1] Nice. [S2] Indeed.\t0.wav\n")
    report = run(tmp_path / "out", Source("tsv", manifest), dev_share=0.0)
    assert left_out(report) == {"unknown tokens": ["id000"]}
    assert "[laugh]" in report["rejects"]["unknown tokens"]["examples"][0]["detail"]


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


@given(st.text(min_size=1), st.floats(0.0, 0.99))
def test_the_split_of_an_id_is_fixed_and_grows_with_the_share(name: str, share: float):
    assert hashed_split(name, share) == hashed_split(name, share)
    if hashed_split(name, share) == "dev":
        assert hashed_split(name, 0.999) == "dev"


def test_the_share_of_dev_is_as_asked():
    dev = [hashed_split(f"utterance {i}", 0.1) == "dev" for i in range(5000)]
    assert 0.08 < np.mean(dev) < 0.12


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

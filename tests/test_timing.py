"""Alignments from sources that know: words with times, Lhotse's field, Praat TextGrids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparing import TEXT, config, encoded, lhotse_cut, write_gzip_jsonl, write_jsonl

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Rejected
from zipvoice_jax.data.prepare import prepare
from zipvoice_jax.data.records import open_split
from zipvoice_jax.data.sources import Source
from zipvoice_jax.data.textgrid import TextGrids, read_textgrid, timing_of_textgrid
from zipvoice_jax.data.timing import (
    Timing,
    joined,
    timing_of_lhotse,
    timing_of_words,
    token_starts,
)
from zipvoice_jax.text.tokenizer import make_tokenizer

WORDS = [("ab", 0.2, 0.6), ("", 0.6, 1.0), ("cde", 1.0, 1.6)]


def starts_of(
    words: list[tuple[str, float, float]], text: str, duration: float = 2.0
) -> list[float]:
    timing = timing_of_words(words)
    assert timing is not None
    return list(token_starts(timing, list(text), duration, list))


# Words to tokens


def test_words_that_map_one_to_one_give_exact_starts():
    words = [("a", 0.25, 0.5), ("b", 0.5, 0.75), ("c", 1.0, 1.5)]
    assert starts_of(words, "abc") == [0.25, 0.5, 1.0]


def test_tokens_share_their_word_and_the_rest_shares_the_gaps():
    found = starts_of(WORDS, "Ab, cde.")
    np.testing.assert_allclose(found, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6])
    timing = Timing("words", ("ab", "cde"), (0.2, 1.0), (0.6, 1.6))
    with_tag = token_starts(timing, ["[S1]", *"ab", "[S2]", *"cde"], 2.0, list)
    np.testing.assert_allclose(with_tag, [0, 0.2, 0.4, 0.6, 1.0, 1.2, 1.4])


def test_words_that_sound_otherwise_and_words_without_times_are_bridged():
    words = [("abcd", 0.0, 0.4), ("x", 0.4, 0.6), ("efgh", 0.6, 1.0), ("ijkl", 1.4, 1.8)]
    found = starts_of(words, "abcdyzefghmijkl")  # x is spoken as yz, m has no time
    np.testing.assert_allclose(found[4:6], [0.4, 0.5])
    np.testing.assert_allclose(found[6], 0.6)
    np.testing.assert_allclose(found[10:12], [1.0, 1.4])
    assert found == sorted(found)


@pytest.mark.parametrize("seed", range(20))
def test_starts_never_go_back_and_stay_inside(seed: int):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdef"), rng.integers(1, 6))) for _ in range(12)]
    cuts = np.sort(rng.uniform(0, 3.0, 13))
    times = [
        (w, a, b + 0.01 * rng.random()) for w, a, b in zip(words, cuts, cuts[1:], strict=False)
    ]
    heard = [w if rng.random() > 0.15 else "xyz" for w in words]
    text = ", ".join(heard) + "."
    try:
        found = starts_of(times, text, 3.0)
    except Rejected as rejected:
        assert "shares" in str(rejected)
        return
    assert len(found) == len(text)
    assert found == sorted(found)
    assert found[0] >= 0
    assert found[-1] <= 3.0


def test_another_text_is_rejected():
    with pytest.raises(Rejected, match=r"shares .* of its tokens with the text"):
        starts_of(WORDS, "xyz uvw")
    with pytest.raises(Rejected, match="past the end of the audio"):
        starts_of(WORDS, "ab cde", 0.8)
    with pytest.raises(Rejected, match="past the end of the audio"):
        starts_of(WORDS, "ab cde", 1.4)
    with pytest.raises(Rejected, match="before the audio"):
        starts_of([("ab", -0.1, 0.3)], "ab")


def test_real_tokenizers_are_matched_word_by_word():
    text = "Currently one other participant, conference calls."
    words = text.replace(",", "").rstrip(".").split()
    times = [(word, 0.3 * i, 0.3 * i + 0.25) for i, word in enumerate(words)]
    tokenizer = make_tokenizer("emilia")
    tokens = tokenizer.tokens(text)
    timing = timing_of_words(times)
    assert timing is not None
    found = token_starts(timing, tokens, 3.0, tokenizer.tokens)
    firsts = [0, *(i + 1 for i, token in enumerate(tokens) if token == " ")]
    assert len(firsts) == len(words)
    np.testing.assert_allclose([found[i] for i in firsts], [start for _, start, _ in times])


# Lhotse's field


def test_lhotse_alignments_are_words_before_phones():
    rows = {"phone": [["a", 0.0, 0.1]], "word": [["ab", 0.5, 0.25, 0.9], ["", 0.75, 0.25]]}
    assert timing_of_lhotse(rows) == Timing("words", ("ab",), (0.5,), (0.75,))
    assert timing_of_lhotse({"phone": [["a", 0.0, 0.5]]}) == Timing("words", ("a",), (0.0,), (0.5,))
    for nothing in (None, {}, {"word": []}, {"word": [["", 0.0, 1.0]]}):
        assert timing_of_lhotse(nothing) is None


@pytest.mark.parametrize(
    ("alignment", "words"),
    [
        ([["a", 0.0, 1.0]], "no object of lists"),
        ({"word": [["a", 0.0]]}, "not .symbol, start, duration"),
        ({"word": [["a", "0", 1.0]]}, "not .symbol, start, duration"),
        ({"word": [["a", 0.0, float("nan")]]}, "not .symbol, start, duration"),
        ({"word": [["a", 1.0, 0.5], ["b", 0.5, 0.5]]}, "goes back from 1.000 s to 0.500 s at 'b'"),
        ({"word": [["a", 1.0, -0.5]]}, "before its beginning"),
        ({"score": 0.97}, "score is 0.97, not a list"),
    ],
)
def test_bad_lhotse_alignments_are_named(alignment: Any, words: str):
    with pytest.raises(Rejected, match=words):
        timing_of_lhotse(alignment)


def test_supervisions_that_overlap_are_put_in_order():
    first = Timing("words", ("a", "b"), (0.0, 1.0), (0.5, 2.0))
    second = Timing("words", ("c", "d"), (0.75, 1.5), (1.25, 1.75))
    both = joined([first, second])
    assert both is not None
    assert both.labels == ("a", "b", "c", "d")
    assert both.starts == (0.0, 1.0, 1.0, 1.5)
    assert joined([first, None]) is None
    assert joined([]) is None


# TextGrids


def grid(words: list[tuple[str, float, float]], *, long: bool = True, name: str = "words") -> str:
    """A TextGrid as Praat writes it, with a tier of points before the words."""
    end = words[-1][2]
    quoted = [(label.replace('"', '""'), low, high) for label, low, high in words]
    if not long:
        rows = "".join(f'{low}\n{high}\n"{label}"\n' for label, low, high in quoted)
        return (
            f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n{end}\n<exists>\n2\n'
            f'"TextTier"\n"points"\n0\n{end}\n1\n0.5\n"12 [3]"\n'
            f'"IntervalTier"\n"{name}"\n0\n{end}\n{len(words)}\n{rows}'
        )
    rows = "".join(
        f"        intervals [{i}]:\n            xmin = {low} \n            xmax = {high} \n"
        f'            text = "{label}" \n'
        for i, (label, low, high) in enumerate(quoted, 1)
    )
    return (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        f"xmin = 0 \nxmax = {end} \ntiers? <exists> \nsize = 2 \nitem []: \n"
        f'    item [1]:\n        class = "TextTier" \n        name = "points" \n'
        f"        xmin = 0 \n        xmax = {end} \n        points: size = 1 \n"
        f'        points [1]:\n            number = 0.5 \n            mark = "12 [3]" \n'
        f'    item [2]:\n        class = "IntervalTier" \n        name = "{name}" \n'
        f"        xmin = 0 \n        xmax = {end} \n        intervals: size = {len(words)} \n{rows}"
    )


@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_both_formats_of_textgrids_are_read(tmp_path: Path, long: bool, encoding: str):
    words = [("", 0.0, 0.25), ('say "é" 2', 0.25, 0.5), ("b", 0.5, 1e0)]
    path = tmp_path / "a.TextGrid"
    path.write_text(grid(words, long=long), encoding=encoding)
    assert read_textgrid(path) == {"words": words}
    expected = Timing("words", ('say "é" 2', "b"), (0.25, 0.5), (0.5, 1.0))
    assert timing_of_textgrid(path, 0.0, None) == expected
    part = timing_of_textgrid(path, 0.4, 0.9)
    assert part is not None
    assert part.labels == ("b",)
    np.testing.assert_allclose([part.starts, part.ends], [[0.1], [0.5]])


def test_textgrids_that_cannot_be_used_are_named(tmp_path: Path):
    path = tmp_path / "a.TextGrid"
    for text in ("", "x", grid(WORDS)[:-60], grid(WORDS, name="notes"), grid(WORDS[::-1])):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(Rejected):
            timing_of_textgrid(path, 0.0, None)
    path.write_text(grid(WORDS, name="anna - words"), encoding="utf-8")
    assert timing_of_textgrid(path, 0.0, None) is not None


def test_words_of_several_speakers_are_one_sequence(tmp_path: Path):
    path = tmp_path / "a.TextGrid"
    anna = grid([("hello", 0.0, 0.5), ("", 0.5, 1.5)], long=False, name="anna - words")
    ben = grid([("", 0.0, 0.5), ("there", 0.5, 1.5)], long=False, name="ben - words")
    tier = ben[ben.index('"IntervalTier"') :]
    path.write_text(anna.replace("<exists>\n2", "<exists>\n3") + tier, encoding="utf-8")
    found = timing_of_textgrid(path, 0.0, None)
    assert found is not None
    assert (found.labels, found.starts) == (("hello", "there"), (0.0, 0.5))
    head, _, points = grid(WORDS, long=False).partition('"TextTier"')
    points = points[: points.index('"IntervalTier"')]
    path.write_text(head.replace("<exists>\n2", "<exists>\n1") + '"TextTier"' + points)
    assert timing_of_textgrid(path, 0.0, None) is None  # which tells nothing of words


def test_textgrids_are_found_by_the_names_of_recordings(tmp_path: Path):
    for name in ("audio/p/a", "grids/p/b", "grids/q/b", "grids/c"):
        path = tmp_path / f"{name}.TextGrid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(grid(WORDS), encoding="utf-8")
    grids = TextGrids(tmp_path / "grids")
    audio = tmp_path / "audio"
    assert grids.find(audio / "p" / "a.wav") == audio / "p" / "a.TextGrid"
    assert grids.find(audio / "p" / "b.wav") == tmp_path / "grids/p/b.TextGrid"
    assert grids.find(audio / "r" / "b.wav") is None
    assert grids.find(audio / "r" / "c.wav") == tmp_path / "grids/c.TextGrid"
    with pytest.raises(UserError, match=r"has no \.TextGrid file"):
        TextGrids(audio / "r")


# Preparation


def test_prepare_takes_alignments_from_all_sources_and_counts_bad_ones(tmp_path: Path):
    words = TEXT.rstrip(".").split()
    rows = [[word, round(0.3 * i, 2), 0.25] for i, word in enumerate(words)]
    times = [(word, low, low + length) for word, low, length in rows]
    for name in ("field", "back", "past", "few", "beside", "under", "broken", "none"):
        (tmp_path / f"{name}.wav").write_bytes(encoded("WAV", 3.0))
    (tmp_path / "beside.TextGrid").write_text(grid(times), encoding="utf-8")
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "under.TextGrid").write_text(grid(times, long=False), encoding="utf-8")
    (tmp_path / "grids" / "broken.TextGrid").write_text(grid(times)[:300], encoding="utf-8")
    changes = {
        "field": rows,
        "back": [*rows[:-1], [words[-1], 0.0, 0.1]],
        "past": [*rows[:-1], [words[-1], 3.5, 0.1]],
        "few": rows[:4],
    }
    write_jsonl(
        tmp_path / "list.jsonl",
        [
            {"id": name, "text": TEXT, "wav": f"{name}.wav", "language": "en"}
            | ({"alignment": {"word": changes[name]}} if name in changes else {})
            for name in ("field", "back", "past", "few", "beside", "under", "broken", "none")
        ],
    )
    source = Source("jsonl", tmp_path / "list.jsonl", alignments=tmp_path / "grids")
    report = prepare(config(source, dev_share=0.0, examples=20), tmp_path / "out", workers=1)
    records, _ = open_split(tmp_path / "out", "train")
    kept = {records[i].id: records[i].token_starts for i in range(len(records))}
    assert set(kept) == {"field", "beside", "under", "none"}
    assert kept["none"] == ()
    assert len(kept["field"]) == len(records[0].tokens)
    assert kept["field"] == pytest.approx(kept["beside"])
    assert kept["field"] == pytest.approx(kept["under"])
    bad = report["rejects"]["bad alignment"]
    assert bad["count"] == 4
    details = {one["id"]: one["detail"] for one in bad["examples"]}
    assert set(details) == {"back", "past", "few", "broken"}
    assert "goes back" in details["back"]
    assert "past the end" in details["past"]
    assert "shares" in details["few"]
    assert "no whole TextGrid" in details["broken"]


def test_lhotse_cuts_bring_the_alignments_of_their_supervisions(tmp_path: Path):
    wav = tmp_path / "a.wav"
    wav.write_bytes(encoded("WAV", 3.0))
    words = TEXT.rstrip(".").split()
    rows = [[word, round(0.3 * i, 2), 0.25, 1.0] for i, word in enumerate(words)]
    cuts = [lhotse_cut(wav, "good"), lhotse_cut(wav, "bad"), lhotse_cut(wav, "none")]
    cuts[0]["supervisions"][0]["alignment"] = {"word": rows}
    cuts[1]["supervisions"][0]["alignment"] = {"word": rows[::-1]}
    manifest = write_gzip_jsonl(tmp_path / "cuts.jsonl.gz", cuts)
    report = prepare(config(Source("lhotse", manifest), dev_share=0.0), tmp_path / "out", workers=1)
    records, index = open_split(tmp_path / "out", "train")
    assert [records[i].id for i in range(len(records))] == ["good", "none"]
    assert index.aligned.tolist() == [True, False]
    assert records[0].token_starts[0] == 0.0
    assert report["rejects"]["bad alignment"]["count"] == 1
    assert "goes back" in report["rejects"]["bad alignment"]["examples"][0]["detail"]

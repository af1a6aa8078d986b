"""Text: token tables, normalisers and chunking against golden results."""

# ruff: noqa: RUF001 - punctuation of other scripts

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.chunking import (
    add_punctuation,
    batchify_tokens,
    chunk_tokens_dialog,
    chunk_tokens_punctuation,
    validate_dialog,
)
from zipvoice_jax.text.normalizer import (
    clean_libritts,
    map_punctuation,
    normalize_chinese,
    normalize_english,
    single_line,
)
from zipvoice_jax.text.tokens import TokenTable

GOLDEN = Path(__file__).parent / "golden"
EMILIA = TokenTable.load(GOLDEN / "tokens_emilia.txt")
DIALOG = TokenTable.load(GOLDEN / "tokens_dialog.txt")
NORMALIZER_ROWS = [
    json.loads(line) for line in (GOLDEN / "normalizer.jsonl").read_text("utf-8").splitlines()
]
CHUNKING_ROWS = json.loads((GOLDEN / "chunking.json").read_text("utf-8"))


# --- token tables -------------------------------------------------------------------------


def test_official_tables_read() -> None:
    assert (EMILIA.vocab_size, EMILIA.pad_id, EMILIA.spk_a_id, EMILIA.spk_b_id) == (
        360,
        0,
        None,
        None,
    )
    assert (DIALOG.vocab_size, DIALOG.spk_a_id, DIALOG.spk_b_id) == (362, 360, 361)
    assert EMILIA.token2id[" "] == 3
    assert EMILIA.fingerprint != DIALOG.fingerprint
    for name, table in (("tokens_emilia.txt", EMILIA), ("tokens_dialog.txt", DIALOG)):
        assert table.dumps() == (GOLDEN / name).read_text("utf-8")


def test_table_does_not_depend_on_order_line_ends_or_bom(tmp_path: Path) -> None:
    lines = EMILIA.dumps().splitlines()
    path = tmp_path / "tokens.txt"
    path.write_bytes(("\ufeff" + "\r\n".join(reversed(lines)) + "\r\n\r\n").encode())
    table = TokenTable.load(path)
    assert table == EMILIA
    assert table.fingerprint == EMILIA.fingerprint
    assert pickle.loads(pickle.dumps(table)).token2id == EMILIA.token2id


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True))
@settings(max_examples=60, deadline=None)
def test_table_round_trip(tokens: list[str]) -> None:
    tokens = [t for t in tokens if not set(t) & set("\t\n\r\0") and t != "_"]
    table = TokenTable((*tokens, "_"))
    assert TokenTable.loads(table.dumps()) == table


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"_\t0\na\t1\na\t2\n", r"line 3.*'a'.*line 2"),
        (b"_\t0\na\t0\n", "line 2.*id 0.*'_'"),
        (b"_\t0\na\tx\n", "line 2.*'x'"),
        (b"_\t0\na\t-1\n", "line 2.*'-1'"),
        (b"_\t0\na\t1_0\n", "line 2.*'1_0'"),
        ("_\t0\na\t\u0663\n".encode(), "line 2"),
        (b"_\t0\na\n", "line 2.*column"),
        (b"_\t0\n\na\t1\n", "line 2"),
        (b"_\t0\na\t1\t2\n", "line 2.*3 column"),
        (b"_\t0\n\t1\n", "line 2.*empty token"),
        (b"_\t0\na\t2\n", "line 2.*too high"),
        (b"a\t0\nb\t1\n", "padding token"),
        (b"_\t0\na\0\t1\n", "line 2.*binary"),
        (b"PK\x03\x04\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_bad_table(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "tokens.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        TokenTable.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_table_that_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        TokenTable.load(tmp_path / "none.txt")
    with pytest.raises(UserError, match="not readable"):
        TokenTable.load(tmp_path)


@pytest.mark.parametrize("tokens", [(), ("a",), ("_", "_"), ("_", ""), ("_", "a\tb")])
def test_bad_table_of_tokens(tokens: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        TokenTable(tokens)


# --- normalisers --------------------------------------------------------------------------


@pytest.mark.parametrize("row", NORMALIZER_ROWS, ids=lambda row: row["text"][:20] or "empty")
def test_golden_normalizer(row: dict[str, Any]) -> None:
    assert normalize_english(row["text"]) == row["en"]
    assert normalize_chinese(row["text"]) == row["zh"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Mr. King & Dr. No paid $3.50; e-mail (me): \"now\"",
         "MISTER KING AND DOCTOR NO PAID THREE DOLLARS, FIFTY CENTS, E MAIL ME, NOW"),
        ("The 3rd of 1,234 in 1999,\n 45% or 1/2.",
         "THE THIRD OF TWELVE THIRTY FOUR IN NINETEEN NINETY NINE, FORTY FIVE% OR ONE/TWO."),
        ("In 2005, 2000 and 1900; 3.14 [or] <so>",
         "IN TWO THOUSAND FIVE, TWO THOUSAND AND NINETEEN HUNDRED, "
         "THREE POINT FOURTEEN OR SO"),
        ("$1.01 $0 $1.2.3", "ONE DOLLAR, ONE CENT ZERO DOLLARS ONE POINT TWO.THREE DOLLARS"),
    ],
)  # fmt: skip
def test_libritts_cleaner(text: str, cleaned: str) -> None:
    # Expected strings: custom_english_cleaners of espnet_tts_frontend 0.0.4.
    assert clean_libritts(text) == cleaned


def test_libritts_cleaner_beyond_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="unidecode"):
        clean_libritts("naïve café")


def test_libritts_transliterates() -> None:
    pytest.importorskip("unidecode")
    assert clean_libritts("naïve café — “so”") == "NAIVE CAFE SO"


@pytest.mark.parametrize("text", ["9" * 60, "9" * 5000, "$,5"])
def test_number_without_words(text: str) -> None:
    with pytest.raises(UserError, match="no words"):
        normalize_english(text)


def test_long_digit_string_is_quick() -> None:
    with pytest.raises(UserError):
        normalize_english("1." * 2000 + "9" * 4000)


def test_punctuation_and_lines() -> None:
    assert map_punctuation("好，是。。。“a”、‘b’⋯···・・・！？；：") == "好,是…\"a\",'b'………!?;:"
    assert single_line(" one \r\n\n two\n三 ") == "one two 三"
    assert single_line("a  b") == "a  b"


# --- chunking -----------------------------------------------------------------------------


@pytest.mark.parametrize("row", CHUNKING_ROWS, ids=lambda row: row["kind"])
def test_golden_chunking(row: dict[str, Any]) -> None:
    if row["kind"] == "batchify":
        sequences = [[i] * length for i, length in enumerate(row["lengths"])]
        batches, index = batchify_tokens(
            sequences, row["max_duration"], row["prompt_duration"], row["token_duration"]
        )
        assert [[len(s) for s in batch] for batch in batches] == row["batches"]
        assert index == row["index"]
        assert [s for batch in batches for s in batch] == [sequences[i] for i in index]
        return
    chunk = {"dialog": chunk_tokens_dialog, "punctuation": chunk_tokens_punctuation}[row["kind"]]
    tokens = tuple(row["tokens"])
    assert chunk(tokens, row["max_tokens"]) == row["chunks"]


_TOKENS = st.lists(st.sampled_from(["[S1]", "[S2]", "a", "b", " ", ",", "。"]), max_size=40)


@given(_TOKENS, st.integers(1, 30))
def test_chunks_are_whole_and_never_empty(tokens: list[str], max_tokens: int) -> None:
    given_tokens = list(tokens)
    for chunk in (chunk_tokens_punctuation, chunk_tokens_dialog):
        chunks = chunk(tokens, max_tokens)
        assert [t for c in chunks for t in c] == tokens == given_tokens
        assert all(chunks)
        for left, right in pairwise(chunks):
            assert len(left) + len(right) > max_tokens


@given(_TOKENS, st.integers(1, 30))
def test_split_long_keeps_words_and_speakers(tokens: list[str], max_tokens: int) -> None:
    def spoken(sequence: list[str]) -> list[tuple[str, str]]:
        speaker, words = "", []
        for token in sequence:
            if token in ("[S1]", "[S2]"):
                speaker = token
            else:
                words.append((speaker, token))
        return words

    chunks = chunk_tokens_dialog(tokens, max_tokens, split_long=True)
    assert all(chunks)
    assert spoken([t for c in chunks for t in c]) == spoken(tokens)
    if tokens and tokens[0] == "[S1]":
        assert all(c[0] in ("[S1]", "[S2]") for c in chunks)


def test_split_long_splits_at_punctuation() -> None:
    tokens = ["[S1]", *"one,two.", "[S2]", *"three.four.", "[S1]", "x"]
    assert chunk_tokens_dialog(tokens, 10) == [tokens[:-2], ["[S1]", "x"]]
    assert [" ".join(c) for c in chunk_tokens_dialog(tokens, 10, split_long=True)] == [
        "[S1] o n e , t w o .",
        "[S2] t h r e e .",
        "[S2] f o u r . [S1] x",
    ]
    assert chunk_tokens_dialog(tokens, 100, split_long=True) == [tokens]


@pytest.mark.parametrize("chunk", [chunk_tokens_punctuation, chunk_tokens_dialog])
def test_bad_budget(chunk: Any) -> None:
    with pytest.raises(UserError, match="max_tokens is 0"):
        chunk(["a"], 0)


def test_add_punctuation() -> None:
    assert add_punctuation(" hello ") == "hello."
    assert add_punctuation("你好。") == "你好。"
    assert add_punctuation("what?") == "what?"
    for text in ("", " \n"):
        with pytest.raises(UserError, match="empty"):
            add_punctuation(text)


@pytest.mark.parametrize(
    "text", ["[S1] hi", " [S2] hi [S1] <ma1>", "[S1]a[S1]b[S2]c", "[S1] 好 [laughter] [S2] 5"]
)
def test_valid_dialog(text: str) -> None:
    validate_dialog(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not start"),
        ("hello", "does not start"),
        ("hello [S1] there", "does not start"),
        ("[S1]", "turn 1"),
        ("[S1] a [S2] ... [S1] b", "turn 2"),
        ("[S1] a [S2] [laughter]", "turn 2"),
    ],
)
def test_invalid_dialog(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        validate_dialog(text)

"""Phonemes and tokenizers against golden results, and on text of any kind."""

# ruff: noqa: RUF001 - punctuation of other scripts

import json
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text import phonemes
from zipvoice_jax.text.chunking import (
    chunk_tokens_dialog,
    validate_dialog,
)
from zipvoice_jax.text.normalizer import (
    clean_libritts,
    normalize_chinese,
    normalize_english,
)
from zipvoice_jax.text.tags import language_of, turns_without_words
from zipvoice_jax.text.tokenizer import TOKENIZERS, Tokenizer, make_tokenizer
from zipvoice_jax.text.tokens import TokenTable

GOLDEN = Path(__file__).parent / "golden"
EMILIA = TokenTable.load(GOLDEN / "tokens_emilia.txt")
DIALOG = TokenTable.load(GOLDEN / "tokens_dialog.txt")
TOKENIZER_ROWS = [
    json.loads(line) for line in (GOLDEN / "tokenizer.jsonl").read_text("utf-8").splitlines()
]


# --- phonemes -----------------------------------------------------------------------------


def test_phonemes_do_not_depend_on_the_text_before() -> None:
    # eSpeak carries a "dot" from a text that ends in ".." into the next one.
    expected = phonemes.phonemize("hello")
    phonemes.phonemize("saint..")
    assert phonemes.phonemize("hello") == expected == tuple("həlˈoʊ")
    assert phonemes.phonemize("hello", "EN-US") == expected
    assert phonemes.phonemize("") == ()


def test_phonemes_from_threads() -> None:
    texts = {"en-us": "Hello, how are you?", "de": "Guten Morgen.", "fr": "Bonjour à tous.."}
    expected = {lang: phonemes.phonemize(text, lang) for lang, text in texts.items()}
    wrong: list[str] = []

    def check(lang: str) -> None:
        for _ in range(20):
            if phonemes.phonemize(texts[lang], lang) != expected[lang]:
                wrong.append(lang)

    threads = [threading.Thread(target=check, args=(lang,)) for lang in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "lang", ["", "xx", "en_US", "en-us+f1", "en+xx", "de\0x", "../en", "!v/f1", "gmw/en-US", "zh"]
)
def test_unknown_language(lang: str) -> None:
    with pytest.raises(UserError, match="eSpeak has no language"):
        phonemes.phonemize("hello", lang)
    with pytest.raises(UserError, match="eSpeak has no language"):
        make_tokenizer("espeak", EMILIA, lang=lang)


def test_every_language_has_its_voice() -> None:
    for lang in phonemes._backend().voices:
        assert phonemes.phonemize("a 1", lang), lang


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_espeak_cannot_take(text: str) -> None:
    with pytest.raises(UserError):
        phonemes.phonemize(text)


def test_missing_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"phontab.*piper-phonemize-fix"):
        phonemes._open(lambda *_: [], tmp_path)
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    for name in ("phontab", "phonindex", "phondata", "lang"):
        (deep / "espeak-ng-data" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="shorter name"):
        phonemes._open(lambda *_: [], deep)
    phonemes._backend.cache_clear()
    monkeypatch.setitem(sys.modules, "piper_phonemize", None)
    try:
        # Neither may the tokenizer take it for a passage to drop.
        for name in ("emilia", "espeak"):
            with pytest.raises(UserError, match="piper-phonemize-fix"):
                make_tokenizer(name, EMILIA).encode("hello")
    finally:
        phonemes._backend.cache_clear()


# --- tokenizers ---------------------------------------------------------------------------


def _golden_tokenizer(name: str) -> Tokenizer:
    if name.startswith("espeak-"):
        return make_tokenizer("espeak", EMILIA, lang=name.removeprefix("espeak-"))
    return make_tokenizer(name, DIALOG if name == "dialog" else EMILIA)


@pytest.mark.parametrize(
    "row", TOKENIZER_ROWS, ids=lambda row: f"{row['tokenizer']}-{row['text'][:20]}"
)
def test_golden_tokenizer(row: dict[str, Any]) -> None:
    tokenizer = _golden_tokenizer(row["tokenizer"])
    if "error" in row or not row["ids"]:
        with pytest.raises(UserError) as caught:
            tokenizer.encode(row["text"])
        assert repr(row["text"])[:10] in str(caught.value)
        return
    done = tokenizer.encode(row["text"])
    assert list(done.tokens) == row["tokens"]
    assert list(done.ids) == row["ids"]
    known = set(tokenizer.table.token2id) if tokenizer.table else set()
    assert set(done.unknown) == set(row["tokens"]) - known
    assert len(done.unknown) == len(set(done.unknown))


def test_nothing_is_lost_in_silence() -> None:
    emilia = make_tokenizer("emilia", EMILIA)
    done = emilia.encode("Hi <xx9> there[laugh] 好<le5>[laugh]")
    assert (done.unknown, done.dropped) == (("[laugh]",), ("<xx9>",))
    assert done.tokens[-3:] == ("l0", "e5", "[laugh]")
    # A number too long for either language: dropped in English, an unknown token in Chinese.
    number = "9" * 60
    assert emilia.encode(f"你好a{number}").dropped == (f"a{number}",)
    assert emilia.encode(f"你好{number}").unknown == (number,)
    # An unknown script without a word of a known one.
    with pytest.raises(UserError, match=r"Привет.*English or Chinese"):
        emilia.encode("Привет!")
    assert emilia.split("Привет![x]") == (("[x]",), ("Привет!",))


def test_ids_without_table_and_with_unknown_tokens() -> None:
    tokenizer = make_tokenizer("simple")
    assert tokenizer.tokens("ab") == ("a", "b")
    with pytest.raises(UserError, match=r"tokens\.txt"):
        tokenizer.encode("ab")
    ids, unknown = make_tokenizer("simple", EMILIA).ids(["a", "Q", "b", "Q", "Z"])
    assert ids == (EMILIA.token2id["a"], EMILIA.token2id["b"])
    assert unknown == ("Q", "Z")


@pytest.mark.parametrize(
    "tag", ["[S3]", "[s1]", "[S 1]", "[S12]", "[spk1]", "[S1", "S2]", "【S1】"]
)
def test_malformed_speaker_tag(tag: str) -> None:
    text = f"[S1] hello {tag} there."
    with pytest.raises(UserError, match=re.escape(tag)):
        make_tokenizer("dialog", DIALOG).encode(text)
    with pytest.raises(UserError, match=re.escape(tag)):
        validate_dialog(text)


def test_other_tags_pass_in_a_dialogue() -> None:
    done = make_tokenizer("dialog", DIALOG).encode("[S1] ha [laughter] [sigh][S2] so")
    assert done.unknown == ("[laughter]", "[sigh]")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "bert"}, "'bert'"),
        ({"name": "dialog", "table": EMILIA}, "dialogue model"),
        ({"name": "emilia", "token_type": "char"}, "'char'"),
        ({"name": "simple", "token_type": "char"}, "takes none"),
        ({"name": "libritts", "token_type": "word"}, "'word'"),
        ({"name": "libritts", "token_type": "bpe"}, "bpe_model"),
        ({"name": "emilia", "lang": "de"}, "use espeak"),
    ],
)
def test_bad_tokenizer(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_tokenizer(**arguments)


def test_libritts() -> None:
    text = "Mr. King said: is it 5 o'clock? Go!"
    char = make_tokenizer("libritts", EMILIA)
    assert "".join(char.tokens(text)) == "MISTER KING SAID, IS IT FIVE O'CLOCK? GO!"
    phone = make_tokenizer("libritts", EMILIA, token_type="phone").encode(text)
    # Flat over sentences, unlike the official code.
    assert "".join(phone.tokens) == "mˈɪstɚ kˈɪŋ sˈɛd, ɪz ɪt fˈaɪv əklˈɑːk?ɡˈoʊ!"
    assert not phone.unknown


def test_libritts_bpe(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = tmp_path / "bpe.model"
    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["HELLO THERE", "HOW ARE YOU, THERE"]),
            model_writer=stream,
            vocab_size=24,
            model_type="bpe",
            minloglevel=2,
        )
    done = make_tokenizer("libritts", token_type="bpe", bpe_model=path).encode("hello Zoë")
    assert "".join(done.tokens).replace("\u2581", " ") == " HELLO ZOE"
    assert len(done.ids) == len(done.tokens)
    assert done.unknown == ("Z",)
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        make_tokenizer("libritts", token_type="bpe", bpe_model=broken)


def test_libritts_bpe_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match="package sentencepiece"):
        make_tokenizer("libritts", token_type="bpe", bpe_model=tmp_path / "no.model")


def test_tokenizers_pickle() -> None:
    for name in TOKENIZERS:
        tokenizer = make_tokenizer(name, DIALOG)
        assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer


def test_chinese_is_silent_and_leaves_no_files(tmp_path: Path) -> None:
    # A fresh process whose temporary folder is ours; warnings there are errors.
    script = (
        "from zipvoice_jax.text.tokenizer import make_tokenizer\n"
        "print(*make_tokenizer('emilia').tokens('重庆'))\n"
        "import sys; assert not {'jax', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=Path(__file__).parents[1],
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["ch0", "ong2", "q0", "ing4"]
    assert not list(tmp_path.iterdir())


_TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            "[S1] [S2] [S3 [x] <ma1> <1> <> < [ ] $,5 $1.2.3 £ 1/0 99% 3rd 2024年 3月 25.5度 "
            "1e9 99999999999999999999 "
            "你好 好 Mr. a .. … 。 é Привет ½ \n \x00 \t".split(" ")
        ),
        max_size=8,
    ).map("".join),
)  # fmt: skip


@given(_TEXTS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_gives_tokens_or_a_user_error(text: str) -> None:
    for name in TOKENIZERS:
        tokenizer = make_tokenizer(name, DIALOG)
        try:
            done = tokenizer.encode(text)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            continue
        known = [token for token in done.tokens if token not in done.unknown]
        assert tuple(DIALOG.tokens[i] for i in done.ids) == tuple(known)
        assert "".join(chunk_tokens_dialog(done.tokens, 5)[0])
    for function in (normalize_english, normalize_chinese, clean_libritts, validate_dialog):
        try:
            function(text)
        except UserError as error:
            assert len(str(error).splitlines()) == 1


# --- speaker tags, turns and scripts --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lang", "text", "turns"),
    [
        ("espeak", "de", "[S1] Guten Morgen. [S2] Danke!", ("Guten Morgen.", "Danke!")),
        ("espeak", "fr", "[S2]Bonjour[S1] à tous", ("Bonjour", "à tous")),
        ("espeak", "ru", "[S1] Привет [S2] мир", ("Привет", "мир")),
        ("simple", "en-us", "[S1] hi, [S2]  you", (" hi, ", "  you")),
        ("libritts", "en-us", "[S1] Mr. King. [S2] Go!", ("Mr. King.", "Go!")),
    ],
)
def test_speaker_tags_are_tokens_in_every_tokenizer(
    name: str, lang: str, text: str, turns: tuple[str, ...]
) -> None:
    tokenizer = make_tokenizer(name, DIALOG, lang=lang)
    expected: list[str] = []
    for tag, turn in zip(re.findall(r"\[S[12]\]", text), turns, strict=True):
        expected += [tag, *tokenizer.tokens(turn)]
    done = tokenizer.encode(text)
    assert list(done.tokens) == expected
    assert not {"[S1]", "[S2]"} & set(done.unknown)
    with pytest.raises(UserError, match=re.escape("[S 2]")):
        tokenizer.encode("[S1] hi [S 2] you")


def test_libritts_phones_keep_tags() -> None:
    tokens = make_tokenizer("libritts", DIALOG, token_type="phone").tokens("[S1] Go! [S2] No.")
    assert tokens[0] == "[S1]" and "[S2]" in tokens and "S" not in tokens


@pytest.mark.parametrize(
    ("name", "text", "dropped"),
    [
        ("emilia", "Hello Привет, мир there", ("Привет", "мир")),
        ("emilia", "こんにちは カタカナ means hello", ("こんにちは カタカナ",)),
        ("emilia", "Say 안녕 and שלום and नमस्ते now", ("안녕", "שלום", "नमस्ते")),
        ("emilia", "你好こんにちは", ("こんにちは",)),
        ("emilia", "你好γειά好", ("γειά",)),
        ("dialog", "[S1] Hello สวัสดี [S2] so ok", ("สวัสดี",)),
        ("espeak", "Hello 你好 there", ("你好",)),
    ],
)
def test_unknown_script_is_reported_within_known_text(
    name: str, text: str, dropped: tuple[str, ...]
) -> None:
    tokenizer = make_tokenizer(name, DIALOG)
    tokens, unknown = tokenizer.split(text)
    assert unknown == dropped
    # What is left is said as if nothing had stood there; no "japanese letter".
    without = text
    for passage in dropped:
        without = without.replace(passage, " ")
    assert [t for t in tokens if t != " "] == [t for t in tokenizer.tokens(without) if t != " "]


@pytest.mark.parametrize("text", ["naïve Łódź", "an α-particle of 5 µm", "第〇章㐀", "ﬁne Ⅳ ½"])
def test_known_letters_are_not_foreign(text: str) -> None:
    assert make_tokenizer("emilia", EMILIA).split(text)[1] == ()


def test_script_of_an_espeak_language() -> None:
    assert make_tokenizer("espeak", DIALOG, lang="ru").split("Привет мир")[1] == ()
    assert make_tokenizer("espeak", DIALOG, lang="de").split("Gruß Привет")[1] == ("Привет",)


def test_digits_alone_are_read_where_a_language_is_set() -> None:
    emilia, dialog = make_tokenizer("emilia", EMILIA), make_tokenizer("dialog", DIALOG)
    assert emilia.tokens("42.", language="en") == emilia.tokens("forty-two.")
    assert emilia.tokens("42.", language="zh") == emilia.tokens("四十二.")
    assert dialog.split("[S1] 42 [S2] 7", language="zh") == dialog.split("[S1]四十二[S2]七")
    # Text with a letter in is read as ever, and so is a text of no language.
    assert emilia.tokens("42 cats", language="zh") == emilia.tokens("42 cats")
    with pytest.raises(UserError, match="no words that this tokenizer can speak"):
        emilia.tokens("42.")


@pytest.mark.parametrize(
    ("tokens", "without"),
    [
        (["h", "i"], []),
        (["!", "[laugh]"], [1]),
        (["[S1]", "a", "[S2]", ".", "[S1]", "[x]"], [2, 3]),
        (["[S1]", "[S2]", "b"], [1]),
        (["[S1]", "a", "[S2]", "Q"], [2]),
    ],
)
def test_turns_without_words(tokens: list[str], without: list[int]) -> None:
    assert turns_without_words(tokens, ["Q"]) == without


def test_language_of() -> None:
    assert language_of("[S1] hello [S2] <ma1>") == "en"
    assert language_of("我用Python写字") == "zh"
    assert language_of("[S1] 42!") == ""

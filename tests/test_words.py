"""Counting words: normalised texts, errors, the better assignment of speakers."""

import hypothesis
import pytest
from hypothesis import strategies as st

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.judge.words import (
    Errors,
    by_speaker,
    count_cp_errors,
    count_errors,
    edits,
    normaliser,
    without_tags,
)

WORDS = st.lists(st.sampled_from("a b c d e".split()), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("name", "language", "text", "words"),
    [
        ("whisper", "en", "Mr. Brown's colour, twenty-one!", "mister brown is color 21"),
        ("whisper", "en", "I don't [laughs] know (sighs)", "i do not know"),
        ("whisper", "zh", "漢語,你好 OK!", "汉 语 你 好 ok"),
        ("official", "en", "I don't [laughs] know, Mr. Brown!", "i don't know mr brown"),
        ("official", "zh", "漢語\uff0c你好。OK", "汉 语 你 好 O K"),
        ("official", "en", "“Well” \u2013 he said…", "well he said"),
    ],
)
def test_texts_are_normalised(name: str, language: str, text: str, words: str) -> None:
    assert normaliser(name, language)(text) == words


def test_unknown_names_are_reported() -> None:
    for name, language in (("nltk", "en"), ("whisper", "fr")):
        with pytest.raises(UserError, match=f"{name}|{language}"):
            normaliser(name, language)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors"),
    [
        ("a b c d", "a b c d", Errors(0, 0, 0, 4)),
        ("a b c d", "a x c d e", Errors(1, 0, 1, 4)),
        ("a b c d", "", Errors(0, 4, 0, 4)),
        ("", "a b", Errors(0, 0, 2, 0)),
        ("", "", Errors(0, 0, 0, 0)),
    ],
)
def test_errors_are_counted(reference: str, hypothesis: str, errors: Errors) -> None:
    assert count_errors(reference, hypothesis) == errors


@hypothesis.given(WORDS, WORDS)
def test_an_alignment_has_all_words_and_all_errors(reference: str, hypothesis: str) -> None:
    pieces = edits(reference, hypothesis)
    assert " ".join(p.reference for p in pieces if p.reference) == reference
    assert " ".join(p.hypothesis for p in pieces if p.hypothesis) == hypothesis
    errors = count_errors(reference, hypothesis)
    sizes = [
        (p.kind, max(len(p.reference.split()), len(p.hypothesis.split())))
        for p in pieces
        if p.kind != "equal"
    ]
    assert sum(size for _, size in sizes) == errors.total


def test_speakers_of_a_text() -> None:
    text = "Ahem. [S1] Good morning. [S2] Hello. [S2] Well? [S1] Yes."
    said = {name: " ".join(words.split()) for name, words in by_speaker(text).items()}
    assert said == {"S1": "Ahem. Good morning. Yes.", "S2": "Hello. Well?"}
    assert without_tags(text) == "Ahem. Good morning. Hello. Well? Yes."


def test_labels_of_speakers_mean_nothing_but_their_words_do() -> None:
    reference = {"S1": "a b c", "S2": "d e"}
    errors, assigned = count_cp_errors(reference, {"S1": "d e", "S2": "a x c"})
    assert errors == Errors(1, 0, 0, 5)
    assert assigned == {"S1": "S2", "S2": "S1"}
    # What one says for the other counts as missing there and too much here.
    errors, _ = count_cp_errors(reference, {"S1": "a b c d e", "S2": ""})
    assert errors.total == 4 and errors.words == 5
    errors, _ = count_cp_errors(reference, {"S1": "", "S2": ""})
    assert errors == Errors(0, 5, 0, 5)


@hypothesis.given(WORDS, WORDS, WORDS, WORDS)
def test_exchanged_labels_change_no_count(a: str, b: str, x: str, y: str) -> None:
    if not (a or b):
        return
    reference = {"S1": a, "S2": b}
    straight, _ = count_cp_errors(reference, {"S1": x, "S2": y})
    crossed, _ = count_cp_errors(reference, {"S1": y, "S2": x})
    assert straight.total == crossed.total
    best = min(
        count_errors(a, x).total + count_errors(b, y).total,
        count_errors(a, y).total + count_errors(b, x).total,
    )
    assert straight.total == best

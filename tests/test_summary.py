"""Intervals of a report, differences between reports, and when somebody speaks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from complaints import user_error

from zipvoice_jax.core.files import append_record, read_records
from zipvoice_jax.judge.attribution import phrases, voice_groups
from zipvoice_jax.judge.backends import RATE, Word, text_of
from zipvoice_jax.judge.config import ALL_METRICS
from zipvoice_jax.judge.summary import (
    difference,
    estimate,
    over_items,
    summarise,
    summary_table,
)
from zipvoice_jax.judge.timing import HeardTurn, Region, changes, heard_turns, leakage
from zipvoice_jax.judge.words import by_speaker, count_cp_errors, without_tags


def records(pairs: list[tuple[float, float]], name: str = "wer") -> list[dict[str, Any]]:
    return [{"id": f"item{i}", "metrics": {name: list(pair)}} for i, pair in enumerate(pairs)]


def test_a_number_is_a_sum_by_a_sum() -> None:
    found = estimate([records([(1, 10), (0, 30)])], "wer")
    assert found is not None
    assert found.value == pytest.approx(2.5)
    # Two items tell little, but that errors are no fewer than none.
    assert found.low == 0.0 and found.high > 10.0
    assert found.items == 2
    one = estimate([records([(1, 10)])], "wer")
    assert one is not None and np.isnan(one.low)
    assert one.formatted(ALL_METRICS["wer"]) == "10.0"
    assert one.as_json() == {"value": 10.0, "low": None, "high": None, "items": 1}


@pytest.mark.parametrize(
    ("seeds", "items", "spreads", "draws"),
    [
        (1, 40, (0.0, 1.0, 0.0), 200),
        (1, 10, (0.0, 1.0, 0.0), 300),
        (1, 6, (0.0, 1.0, 0.0), 1000),
        (3, 6, (1.0, 0.1, 0.1), 1000),
        (3, 6, (0.1, 1.0, 0.1), 1000),
        (3, 40, (0.3, 0.3, 1.0), 1000),
    ],
)
@pytest.mark.parametrize("paired", [False, True])
def test_an_interval_covers_as_often_as_it_says(
    seeds: int, items: int, spreads: tuple[float, float, float], draws: int, paired: bool
) -> None:
    """Scores of 5 with deviations of seeds, of items, and of each item with each seed."""
    rng = np.random.default_rng(seeds * items)

    def side() -> np.ndarray:
        shapes = ((seeds, 1), (1, items), (seeds, items))
        scores = sum(s * rng.standard_normal(n) for s, n in zip(spreads, shapes, strict=True))
        return np.stack([5.0 + scores + np.zeros((seeds, items)), np.ones((seeds, items))], axis=2)

    hits = 0
    for _ in range(draws):
        found = over_items(*(side() for _ in range(1 + paired)))
        assert found is not None
        hits += found.low <= (0.0 if paired else 5.0) <= found.high
    assert 0.92 <= hits / draws <= 0.98


def test_an_interval_of_words_covers_too() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        words = rng.integers(5, 30, size=6)
        sums = np.stack([rng.binomial(words, 0.1), words], axis=1).astype(float)
        found = over_items(sums[None])
        assert found is not None
        hits += found.low <= 0.1 <= found.high
    assert 0.90 <= hits / 1000 <= 0.99


def test_seeds_widen_an_interval() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(3.0, 0.5, size=60)
    runs = [records([(float(x) + shift, 1.0) for x in scores], "mos") for shift in (-1, 0, 1)]
    one, three = estimate(runs[1:2], "mos"), estimate(runs, "mos")
    assert one is not None and three is not None
    assert three.value == pytest.approx(one.value)
    assert three.high - three.low > 3.0 * (one.high - one.low)


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(3.0, 1.0, size=50)
    ours = records([(float(x) + 0.1, 1.0) for x in base], "mos")
    theirs = records([(float(x), 1.0) for x in base], "mos")
    delta = difference([ours], [theirs], "mos")
    assert delta is not None
    # Each item is better by the same, however much items differ among themselves.
    assert delta.value == pytest.approx(0.1)
    assert delta.high - delta.low < 1e-9
    only = difference([ours[:7]], [theirs], "mos")
    assert only is not None and only.items == 7
    assert difference([ours], [records([(1, 1)], "wer")], "mos") is None


def test_what_no_item_has_is_left_out() -> None:
    assert estimate([[]], "wer") is None
    assert estimate([records([(0, 0)])], "wer") is None
    assert list(summarise(records([(1, 4)]))) == ["wer"]
    table = summary_table(records([(1, 4), (3, 4)]), {"other": records([(2, 4), (3, 4)])})
    assert "less other" in table and "50.0" in table and "-12.5" in table


def test_turns_change_and_overlap() -> None:
    speech = {
        "S1": [Region(0.0, 1.0), Region(1.1, 2.0), Region(4.0, 5.0)],
        # Within the first turn a word of the listener, which is no turn.
        "S2": [Region(0.5, 0.7), Region(2.5, 4.2)],
    }
    turns = heard_turns(speech)
    assert turns == [
        HeardTurn("S1", 0.0, 2.0),
        HeardTurn("S2", 2.5, 4.2),
        HeardTurn("S1", 4.0, 5.0),
    ]
    assert changes(turns) == pytest.approx([0.5, -0.2])


def test_leakage_is_what_a_channel_has_of_the_other() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 2 * RATE)).astype(np.float32)
    left[RATE:] = 0
    right[:RATE] = 0
    first, second = Region(0.0, 1.0), Region(1.0, 2.0)
    assert leakage(np.stack([left, right]), [[first], [second]]) == [-100.0, -100.0]
    # The second is heard on the channel of the first, the first not on that of the second.
    mixed = np.stack([left + 0.1 * right, right])
    heard = leakage(mixed, [[first, second], [second]])
    assert heard == pytest.approx([-100.0, -20.0], abs=0.1)
    assert leakage(mixed, [[first], []]) == [-100.0]
    # The worst: on both channels all of it.
    same = np.stack([left + right] * 2)
    assert leakage(same, [[first, second]] * 2) == [0.0, 0.0]
    assert leakage(same, [[], []]) == []


def test_what_two_say_at_once_is_no_leakage() -> None:
    rng = np.random.default_rng(0)
    loudness = np.repeat(rng.uniform(-4.0, 0.0, (2, 30)), RATE // 10, axis=1)
    stereo = (10.0**loudness * rng.standard_normal(loudness.shape)).astype(np.float32)
    stereo[1, :RATE] = stereo[0, 2 * RATE :] = 0
    speech = [[Region(0.0, 2.0)], [Region(1.0, 3.0)]]
    assert max(leakage(stereo, speech)) < -40.0
    found = leakage(stereo + 0.5 * stereo[::-1], [[Region(0.0, 3.0)]] * 2)
    assert found == pytest.approx([-6.0, -6.0], abs=1.0)


def test_phrases_end_at_pauses_and_sentences() -> None:
    words = [
        Word(" Good", 0.0, 0.3), Word(" morning.", 0.3, 0.6), Word(" Hello", 0.65, 0.9),
        Word(" you", 1.4, 1.6), Word(" there", 1.7, 2.0),
    ]  # fmt: skip
    assert [phrase.text.strip() for phrase in phrases(words)] == [
        "Good morning.", "Hello", "you there"
    ]  # fmt: skip
    assert phrases([]) == []


def test_words_are_joined_as_the_recogniser_puts_spaces() -> None:
    words = [Word(" well", 0.0, 0.3), Word("-known", 0.3, 0.6), Word(" voices", 0.6, 0.9)]
    assert text_of(words) == "well-known voices"
    assert [phrase.text for phrase in phrases(words)] == [text_of(words)]


def test_voice_groups_are_found_in_spite_of_an_odd_one() -> None:
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.standard_normal((32, 3)))[0].T
    truth = [0, 1, 1, 0, 1, 0, 0, 1]
    vectors = [centres[k] + 0.1 * rng.standard_normal(32) for k in truth]
    vectors.append(centres[2])  # short, and like nobody
    vectors = [v / np.linalg.norm(v) for v in vectors]
    labels = voice_groups(vectors, [1.0] * 8 + [0.05])
    assert labels[:8] == truth
    assert voice_groups(vectors[:1], [1.0]) == [0]
    assert voice_groups(vectors, [1.0] * 9, 3) == [*truth, 2]
    assert voice_groups(vectors[:2], [1.0] * 2, 4) == [0, 1]
    assert voice_groups([], [], 3) == []


def test_tags_of_two_digits_are_tags() -> None:
    assert by_speaker("[S9] hi [S10] you")["S10"].strip() == "you"
    assert without_tags("[S10] a [S2] b") == "a b"
    many = {f"S{number}": "word" for number in range(1, 22)}
    with user_error("21 speakers", "20 or fewer"):
        count_cp_errors(many, many)


def test_records_with_odd_line_separators_are_read_back(tmp_path: Path) -> None:
    record = {"id": "a\u2028b", "text": "one\u2029two\u0085three"}
    append_record(tmp_path / "x.jsonl", record)
    assert read_records(tmp_path / "x.jsonl") == {"a\u2028b": record}

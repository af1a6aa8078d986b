"""Which records are used, in which shapes and in which order."""

import dataclasses
import itertools
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.order import Interleaving, PassOrder, TrainingOrder
from zipvoice_jax.data.plan import Bucket, Plan, choose_bounds, fit_plan, make_plan, repetition
from zipvoice_jax.data.records import Index

FEATURES = FeatureConfig()


def index_of(seconds: np.ndarray, *, channels: int = 1, language: str = "en") -> Index:
    count = len(seconds)
    return Index(
        ids=np.array([f"u{i}" for i in range(count)]),
        seconds=np.asarray(seconds, np.float64),
        tokens=np.maximum(1, 14 * np.asarray(seconds)).astype(np.int32),
        channels=np.full(count, channels, np.int8),
        languages=np.array([language] * count),
    )


def config_of(*sources: SourceConfig, **rest: object) -> DataConfig:
    values = {"batch_seconds": 120.0, "buckets": 4} | rest
    return DataConfig(sources or (SourceConfig("d"),), **values)  # pyright: ignore[reportArgumentType]


def opendialog_like(count: int = 20_000) -> np.ndarray:
    """docs/loading.md: half log-normal around 12 s, half uniform, from 1 to 30 s."""
    rng = np.random.default_rng(0)
    around = rng.lognormal(np.log(12.0), 0.6, count)
    return np.clip(np.where(rng.random(count) < 0.5, around, rng.uniform(1, 30, count)), 1, 30)


def records_of(order: TrainingOrder, steps: range) -> list[tuple[int, int]]:
    found = []
    for step in steps:
        found += [row for row in order.rows(step, 0, order.bucket(step).batch) if row is not None]
    return found


MIXES = {
    "opendialog-like": opendialog_like(),
    "uniform": np.random.default_rng(1).uniform(1, 30, 20_000),
    "emilia-like": np.clip(np.random.default_rng(2).lognormal(np.log(8), 0.5, 20_000), 1, 30),
    "exponential": np.clip(np.random.default_rng(3).exponential(8, 20_000), 1, 30),
}


@pytest.mark.parametrize(
    ("mix", "limit"),
    [("opendialog-like", 0.12), ("uniform", 0.12), ("emilia-like", 0.12), ("exponential", 0.14)],
)
def test_padding_of_ten_buckets(mix: str, limit: float):
    plan = make_plan(config_of(buckets=10, batch_seconds=4000.0), [index_of(MIXES[mix])], FEATURES)
    assert len(plan.buckets) == 10
    assert plan.padding_share < limit
    order = TrainingOrder(plan, "mono", seed=0, stage="s")
    frames = np.zeros(len(MIXES[mix]), np.int64)
    frames[plan.selections[0].records] = plan.selections[0].frames
    real = padded = 0
    for step in range(80):
        bucket = order.bucket(step)
        rows = order.rows(step, 0, bucket.batch)
        real += sum(frames[row[1]] for row in rows if row is not None)
        padded += bucket.batch * bucket.frames
    assert 1 - real / padded == pytest.approx(plan.padding_share, abs=0.01)


def test_bounds_waste_as_little_as_any():
    rng = np.random.default_rng(0)
    for _ in range(20):
        frames = rng.integers(1, 200, 30)
        weights = rng.uniform(0.5, 3.0, 30)

        def waste(bounds: tuple[int, ...], frames=frames, weights=weights) -> float:
            ends = np.array(bounds)[np.searchsorted(bounds, frames)]
            return float(((ends - frames) * weights).sum())

        bounds = choose_bounds(frames, weights, 3)
        last = -(-frames.max() // 16) * 16
        inner = itertools.combinations(range(16, last, 16), 2)
        best = min(waste((*pair, int(last))) for pair in inner)
        assert waste(bounds) == pytest.approx(best)
        assert bounds == tuple(sorted(set(bounds)))


def test_shapes_are_few_and_hold_their_items():
    plan = make_plan(
        config_of(buckets=5), [index_of(opendialog_like(500))], FEATURES, batch_multiple=2
    )
    (selection,) = plan.selections
    frames = dict(zip(selection.records.tolist(), selection.frames.tolist(), strict=True))
    tokens = dict(zip(selection.records.tolist(), selection.tokens.tolist(), strict=True))
    assert len(set(plan.buckets)) == 5
    for bucket, (records,) in zip(plan.buckets, plan.records, strict=True):
        assert bucket.frames % 16 == bucket.tokens % 16 == bucket.batch % 2 == 0
        assert 0 < bucket.batch * bucket.frames <= 120 * 93.75 < (bucket.batch + 2) * bucket.frames
        assert max(frames[r] for r in records.tolist()) < bucket.frames
        assert max(tokens[r] for r in records.tolist()) < bucket.tokens
    assert sorted(itertools.chain(*(r[0].tolist() for r in plan.records))) == list(range(500))


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(0, 500),
    st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_interleaving_is_fair_and_random_access(
    weights: list[int], block: int, start: int, count: int
):
    shares = tuple(Fraction(w, sum(weights)) for w in weights)
    interleaving = Interleaving(shares, block, (1, 2))
    choices, ranks = interleaving.take(0, start + count)
    part = interleaving.take(start, start + count)
    assert (part[0] == choices[start:]).all()
    assert (part[1] == ranks[start:]).all()
    pairs = sorted(zip(choices.tolist(), ranks.tolist(), strict=True))
    assert len(set(pairs)) == start + count
    for choice, share in enumerate(shares):
        assert abs((choices == choice).sum() - share * (start + count)) <= share * block + 1


def test_every_record_comes_once_in_an_epoch():
    seconds = np.random.default_rng(0).uniform(1, 4, 96)
    plan = make_plan(config_of(buckets=1, batch_seconds=33.0), [index_of(seconds)], FEATURES)
    order = TrainingOrder(plan, "mono", seed=0, stage="s")
    steps = float(sum(plan.steps))
    assert steps == 96 / plan.buckets[0].batch == 12
    epochs = [records_of(order, range(e * 12, e * 12 + 12)) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == [(0, i) for i in range(96)]
    assert epochs[0] != epochs[1] != epochs[2]


def test_every_record_comes_equally_often_over_many_buckets():
    seconds = np.random.default_rng(0).uniform(1, 29, 300)
    plan = make_plan(config_of(), [index_of(seconds)], FEATURES)
    order = TrainingOrder(plan, "mono", seed=0, stage="s")
    epochs = 5
    found = Counter(records_of(order, range(round(epochs * sum(plan.steps)))))
    assert len(found) == 300
    assert set(found.values()) <= {epochs - 1, epochs, epochs + 1}


def test_the_order_depends_on_seed_and_stage():
    plan = make_plan(config_of(), [index_of(opendialog_like(300))], FEATURES)
    orders = [
        records_of(TrainingOrder(plan, "mono", seed=seed, stage=stage), range(10))
        for seed, stage in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def shares(config: DataConfig, indices: list[Index]) -> tuple[Plan, list[float]]:
    plan = make_plan(config, indices, FEATURES)
    order = TrainingOrder(plan, "mono", seed=0, stage="s")
    found = records_of(order, range(round(3 * sum(plan.steps))))
    audio = [sum(i.seconds[r] for s, r in found if s == n) for n, i in enumerate(indices)]
    return plan, [float(one) / sum(audio) for one in audio]


def test_weights_are_shares_of_the_audio():
    indices = [index_of(opendialog_like(400)), index_of(MIXES["emilia-like"][:300])]
    sources = (SourceConfig("a", weight=1.0), SourceConfig("b", weight=3.0))
    plan, found = shares(config_of(*sources), indices)
    assert found == pytest.approx([0.25, 0.75], abs=0.01)
    total = sum(index.seconds.sum() for index in indices)
    wanted = [0.25 * total / indices[0].seconds.sum(), 0.75 * total / indices[1].seconds.sum()]
    assert [float(r) for r in plan.repeats] == pytest.approx(wanted, rel=1e-5)


def test_repeats_multiply_and_may_be_fractions():
    indices = [index_of(opendialog_like(200))] * 3
    sources = (SourceConfig("a"), SourceConfig("b", repeats=2.0), SourceConfig("c", repeats=0.5))
    _, found = shares(config_of(*sources), indices)
    assert found == pytest.approx([1 / 3.5, 2 / 3.5, 0.5 / 3.5], abs=0.01)


def test_a_fraction_of_a_source_is_another_one_in_every_epoch():
    sources = (SourceConfig("a"), SourceConfig("b", repeats=0.25))
    plan = make_plan(config_of(*sources, buckets=1), [index_of(np.full(64, 2.0))] * 2, FEATURES)
    order = TrainingOrder(plan, "mono", seed=0, stage="s")
    found = Counter(records_of(order, range(round(4 * sum(plan.steps)))))
    drawn = [count for (source, _), count in found.items() if source == 1]
    assert sum(drawn) == pytest.approx(sum(found.values()) / 5, abs=1)
    assert set(drawn) <= {1, 2}
    assert len(drawn) >= 63


def test_alternation_and_random_buckets():
    config = config_of(channels="alternate")
    plan = make_plan(config, [index_of(opendialog_like(300), channels=2)], FEATURES)
    order = TrainingOrder(plan, "alternate", seed=0, stage="s")
    buckets = [order.bucket(step) for step in range(200)]
    assert [bucket.channels for bucket in buckets] == [1, 2] * 100
    for channels in (1, 2):
        served = {b.frames for b in buckets if b.channels == channels}
        assert served == {b.frames for b in plan.buckets}


def test_what_is_left_out_is_counted():
    index = index_of(np.array([0.5, 2.0, 3.0, 4.0, 31.0, 5.0]))
    index = dataclasses.replace(
        index,
        tokens=np.array([3, 20, 2000, 40, 300, 60], np.int32),
        languages=np.array(["en", "en", "en", "zh", "en", "en"]),
    )
    plan = make_plan(config_of(SourceConfig("d", languages=("en",))), [index], FEATURES)
    assert plan.selections[0].records.tolist() == [1, 5]
    assert plan.selections[0].left_out == {
        "of another language": 1,
        "shorter than 1 s": 1,
        "longer than 30 s": 1,
        "with more tokens than frames": 1,
    }


def test_given_buckets_hold_every_record_once():
    seconds = opendialog_like(100)
    buckets = (Bucket(1008, 240, 5, 1), Bucket(2832, 448, 2, 1))
    config = config_of(SourceConfig("a"), SourceConfig("b"))
    plan = fit_plan(config, [index_of(seconds), index_of(seconds[:7])], FEATURES, buckets)
    order = PassOrder(plan)
    rows = [row for n in range(len(order)) for row in order.rows(n, 0, order.bucket(n).batch)]
    full = [row for row in rows if row is not None]
    assert sorted(full) == [(0, i) for i in range(100)] + [(1, i) for i in range(7)]
    assert len(rows) - len(full) < sum(bucket.batch for bucket in buckets)
    small = fit_plan(config_of(), [index_of(seconds)], FEATURES, buckets[:1])
    assert small.selections[0].left_out["too long for every bucket"] == (seconds > 10.7).sum()


@pytest.mark.parametrize(
    ("config", "index", "message"),
    [
        (config_of(batch_seconds=20.0), index_of(np.array([25.0])), "batch_seconds 20 cannot hold"),
        (config_of(), index_of(np.array([0.2, 0.3])), "2 shorter than 1 s"),
        (config_of(channels="stereo"), index_of(np.array([2.0])), "1 of one channel"),
        (config_of(SourceConfig("d", languages=("zh",))), index_of(np.array([2.0])), "language"),
        (
            config_of(),
            dataclasses.replace(index_of(np.array([2.0])), tokens=np.array([-1], np.int32)),
            "1 records without tokens",
        ),
    ],
)
def test_impossible_plans(config: DataConfig, index: Index, message: str):
    with pytest.raises(UserError, match=message):
        make_plan(config, [index], FEATURES)


def test_room_for_tokens_that_are_not_stored():
    index = dataclasses.replace(index_of(np.array([4.0])), tokens=np.array([-1], np.int32))
    plan = make_plan(config_of(tokenizer="simple", tokens_per_second=20.0), [index], FEATURES)
    assert plan.buckets[0].tokens == 96


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SourceConfig(""), "empty path"),
        (lambda: SourceConfig("d", repeats=0.0), "repeats"),
        (lambda: SourceConfig("d", weight=-1.0), "weight"),
        (lambda: SourceConfig("d", weight=1.0, repeats=2.0), "both repeats and weight"),
        (lambda: SourceConfig("d", languages=()), "languages"),
        (lambda: DataConfig((), 10.0), "sources"),
        (lambda: config_of(SourceConfig("d", weight=1.0), SourceConfig("e")), "1 of 2 sources"),
        (lambda: config_of(batch_seconds=float("nan")), "batch_seconds is nan"),
        (lambda: config_of(min_seconds=9.0, max_seconds=3.0), "exchange"),
        (lambda: config_of(buckets=0), "buckets is 0"),
        (lambda: config_of(workers=True), "workers is True"),
    ],
)
def test_impossible_configs(make, message: str):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_batches_that_hold_an_utterance_many_times_say_what_to_set() -> None:
    few = [index_of(np.linspace(2.0, 7.0, 6))]  # 27 s

    def warning_for(**rest: float) -> str | None:
        config = config_of(buckets=1, **rest)
        return repetition(make_plan(config, few, FEATURES), config, FEATURES)

    found = warning_for(batch_seconds=2000.0)
    assert found is not None and "each utterance of d (train) 46 times" in found
    advised = re.search(r"set batch_seconds to (\d+) or less", found)
    assert advised is not None and warning_for(batch_seconds=float(advised[1])) is None
    with pytest.raises(UserError, match=r"each utterance of d \(train\) 4\d\d times; set batch_s"):
        warning_for(batch_seconds=20_000.0)
    # A small source among others only gets a warning.
    both = config_of(SourceConfig("d"), SourceConfig("e", repeats=500.0), batch_seconds=600.0)
    plan = make_plan(both, [index_of(opendialog_like(100)), *few], FEATURES)
    found = repetition(plan, both, FEATURES)
    assert found is not None and "of e (train)" in found and "lower its repeats" in found
    much = make_plan(config_of(), [index_of(opendialog_like(300))], FEATURES)
    assert repetition(much, config_of(), FEATURES) is None

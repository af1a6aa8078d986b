"""Which records are used, and in which static shapes: length buckets with little padding."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int

from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.index import Index

SHAPE_STEP = 16  # frames and tokens of a bucket are multiples of it
# Copies of an utterance in one step: from `MANY` on it is reported, beyond `ABSURD` refused.
MANY, ABSURD = 2.0, 100.0
# Resampling rounds a record's samples, which can move its count of frames by one.
SLACK_FRAMES = 1


@dataclasses.dataclass(frozen=True, order=True)
class Bucket:
    """The static shape of a batch, in training and in generation.

    Attributes:
        frames: padded length of features.
        tokens: padded length of tokens, at least one more than any item has.
        batch: number of rows of the global batch.
        channels: 1 or 2 in training, where features have channels * n_mels bins; a model that
            generates has its own.
    """

    frames: int
    tokens: int
    batch: int
    channels: int = 1

    def __str__(self) -> str:
        return f"{self.batch}x{self.frames}x{self.tokens}x{self.channels}"


@dataclasses.dataclass(frozen=True)
class Selection:
    """The records of a source that are used, in record order.

    Attributes:
        records: their numbers in the split.
        frames: their numbers of frames, to within `SLACK_FRAMES`.
        tokens: their numbers of tokens, or room for them if they are not stored.
        seconds: total seconds of audio.
        left_out: number of records left out for each reason.
    """

    records: Int[np.ndarray, " items"]
    frames: Int[np.ndarray, " items"]
    tokens: Int[np.ndarray, " items"]
    seconds: float
    left_out: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Buckets and the records in them; arrays are never changed.

    Attributes:
        buckets: from short to long, all of one channel count.
        records: for each bucket and source, numbers of the records.
        frames: for each bucket, the mean number of frames of its items, repeats counted.
        repeats: for each source, how often its records occur in an epoch.
        selections: for each source, the records used.
    """

    buckets: tuple[Bucket, ...]
    records: tuple[tuple[Int[np.ndarray, " _"], ...], ...]
    frames: tuple[float, ...]
    repeats: tuple[Fraction, ...]
    selections: tuple[Selection, ...]

    @property
    def items(self) -> tuple[Fraction, ...]:
        """Rows of each bucket in an epoch, repeats counted."""
        return tuple(
            sum((len(r) * n for r, n in zip(sources, self.repeats, strict=True)), Fraction(0))
            for sources in self.records
        )

    @property
    def steps(self) -> tuple[Fraction, ...]:
        """Batches of each bucket in an epoch."""
        return tuple(n / b.batch for n, b in zip(self.items, self.buckets, strict=True))

    @property
    def copies(self) -> tuple[float, ...]:
        """For each source, how often one of its utterances occurs in a step, on average."""
        steps = float(sum(self.steps))
        return tuple(float(n) / steps for n in self.repeats)

    @property
    def padding(self) -> tuple[float, ...]:
        """Expected share of padding in a full batch of each bucket."""
        return tuple(1.0 - f / b.frames for f, b in zip(self.frames, self.buckets, strict=True))

    @property
    def padding_share(self) -> float:
        """Expected share of padding in an epoch: 1 - real frames / all frames."""
        sizes = [float(n) * b.frames for n, b in zip(self.items, self.buckets, strict=True)]
        return float(np.average(self.padding, weights=sizes))


def make_plan(
    config: DataConfig,
    indices: Sequence[Index],
    features: FeatureConfig,
    *,
    batch_multiple: int = 1,
    alignments: bool = False,
) -> Plan:
    """Chooses records, buckets and batch sizes.

    Args:
        config: the data config.
        indices: index of each source.
        features: feature settings, which give the frames per second.
        batch_multiple: batch sizes are multiples of it (devices of all hosts).
        alignments: leave out records whose tokens' starts are unknown.

    Raises:
        UserError: no records are left, they lack tokens, or a batch cannot hold the longest.
    """
    selections = _selections(config, indices, features, alignments)
    repeats = _repeats(config.sources, selections)
    frames = np.concatenate([s.frames for s in selections]) + SLACK_FRAMES
    weights = np.repeat([float(n) for n in repeats], [len(s.frames) for s in selections])
    bounds = np.array(choose_bounds(frames, weights, config.buckets))
    buckets_of = [np.searchsorted(bounds, s.frames + SLACK_FRAMES) for s in selections]
    channels = 2 if config.channels == "stereo" else 1
    fps = features.sampling_rate / features.hop_length
    buckets = []
    for number, bound in enumerate(bounds.tolist()):
        most_tokens = max(
            int(s.tokens[bucket_of == number].max(initial=0))
            for s, bucket_of in zip(selections, buckets_of, strict=True)
        )
        batch = int(config.batch_seconds * fps) // (bound * batch_multiple) * batch_multiple
        if batch == 0:
            raise UserError(
                f"batch_seconds {config.batch_seconds:g} cannot hold {batch_multiple} item(s) of "
                f"{bound / fps:.1f} s; raise it to {np.ceil(batch_multiple * bound / fps):.0f} or "
                "lower max_seconds."
            )
        buckets.append(Bucket(bound, _round_up(most_tokens + 1), batch, channels))
    return _fill(buckets, selections, buckets_of, repeats)


def repetition(plan: Plan, config: DataConfig, features: FeatureConfig) -> str | None:
    """A warning, with advice, if batches hold each utterance many times; else None.

    Args:
        plan: plan of the batches.
        config: the data config.
        features: feature settings, which give the frames per second.

    Raises:
        UserError: so many times that it must be a mistake.
    """
    most = max(plan.copies)
    if most < MANY:
        return None
    seconds = [
        sum(len(records) for records in sources) * bucket.frames
        for bucket, sources in zip(plan.buckets, plan.records, strict=True)
    ]
    fps = features.sampling_rate / features.hop_length
    least = max(bucket.frames for bucket in plan.buckets) / fps
    wanted = max(sum(seconds) / fps, least)
    source = config.sources[plan.copies.index(most)]
    warning = (
        f"batch_seconds {config.batch_seconds:g} is much for so little speech: a step has each "
        f"utterance of {source.name} {most:.0f} times"
    )
    advice = f"set batch_seconds to {np.ceil(wanted):.0f} or less, or add data"
    if min(plan.copies) > ABSURD:
        raise UserError(f"{warning}; {advice}.")
    if len(config.sources) > 1 or source.repeats != 1.0:
        advice += ", or lower its repeats or weight"
    return f"{warning}; {advice}"


def fit_plan(
    config: DataConfig,
    indices: Sequence[Index],
    features: FeatureConfig,
    buckets: Sequence[Bucket],
    *,
    alignments: bool = False,
) -> Plan:
    """Like `make_plan`, but for fixed buckets; records that fit none of them are left out.

    Every record counts once: repeats and weights have no effect.
    """
    buckets = sorted(buckets)
    selections, buckets_of = [], []
    for selection in _selections(config, indices, features, alignments):
        bucket_of = np.full(len(selection.records), -1)
        for number, bucket in reversed(list(enumerate(buckets))):
            short = selection.frames + SLACK_FRAMES <= bucket.frames
            bucket_of[short & (selection.tokens < bucket.tokens)] = number
        unfit = int((bucket_of < 0).sum())
        left_out = selection.left_out | ({"too long for every bucket": unfit} if unfit else {})
        selections.append(dataclasses.replace(selection, left_out=left_out))
        buckets_of.append(bucket_of)
    return _fill(buckets, selections, buckets_of, (Fraction(1),) * len(selections))


def _fill(
    buckets: Sequence[Bucket],
    selections: Sequence[Selection],
    buckets_of: Sequence[Int[np.ndarray, " _"]],
    repeats: tuple[Fraction, ...],
) -> Plan:
    """The plan that puts each record into its bucket in `buckets_of`; -1 leaves it out."""
    records, frames = [], []
    for number, bucket in enumerate(buckets):
        inside = [bucket_of == number for bucket_of in buckets_of]
        records.append(tuple(s.records[m] for s, m in zip(selections, inside, strict=True)))
        weights = np.repeat([float(n) for n in repeats], [int(m.sum()) for m in inside])
        lengths = np.concatenate([s.frames[m] for s, m in zip(selections, inside, strict=True)])
        filled = len(lengths) > 0
        frames.append(float(np.average(lengths, weights=weights)) if filled else bucket.frames)
    return Plan(tuple(buckets), tuple(records), tuple(frames), repeats, tuple(selections))


def _selections(
    config: DataConfig, indices: Sequence[Index], features: FeatureConfig, alignments: bool
) -> tuple[Selection, ...]:
    return tuple(
        select(index, source, config, features, alignments=alignments)
        for index, source in zip(indices, config.sources, strict=True)
    )


def select(
    index: Index,
    source: SourceConfig,
    config: DataConfig,
    features: FeatureConfig,
    *,
    alignments: bool = False,
) -> Selection:
    """The records of a source that the config selects, with the reasons against the others.

    A text with more tokens than frames cannot be spread over them.

    Args:
        index: index of the source.
        source: config of the source.
        config: the data config.
        features: settings of the features.
        alignments: leave out records whose tokens' starts are unknown.

    Raises:
        UserError: no record is left, tokens are not stored and there is no tokenizer, or
            alignments are needed and there are none.
    """
    command = f"`zipvoice-jax align --data {source.path}`"
    if alignments and len(index) and not index.aligned.any():
        raise UserError(
            f"{source.name} has no alignments, which this training needs; run {command}."
        )
    samples = np.rint(index.seconds * features.sampling_rate).astype(np.int64)
    frames = (samples + features.hop_length // 2) // features.hop_length
    stored = index.tokens >= 0
    if config.tokenizer is None and not stored.all():
        raise UserError(
            f"{source.name} has {int((~stored).sum())} records without tokens; prepare it with a "
            "tokenizer, or set tokenizer in the data config."
        )
    room = np.ceil(index.seconds * config.tokens_per_second).astype(np.int64)
    tokens = np.where(stored, index.tokens, room).astype(np.int64)
    wanted_languages = source.languages or tuple(np.unique(index.languages))
    against = {
        "of another language": ~np.isin(index.languages, wanted_languages),
        "of one channel": (index.channels != 2) & (config.channels != "mono"),
        f"shorter than {config.min_seconds:g} s": index.seconds < config.min_seconds,
        f"longer than {config.max_seconds:g} s": index.seconds > config.max_seconds,
        "with more tokens than frames": tokens > frames,
        f"without alignment ({command} learns them)": alignments & ~index.aligned,
    }
    kept: Bool[np.ndarray, " records"] = np.ones(len(index.seconds), bool)
    left_out = {}
    for reason, fault in against.items():
        if count := int((kept & fault).sum()):
            left_out[reason] = count
        kept &= ~fault
    if not kept.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"
        raise UserError(
            f"{source.name} has no records to train on (left out: {reasons}); change the data "
            "config or give another dataset."
        )
    records = np.flatnonzero(kept)
    seconds = float(index.seconds[kept].sum())
    return Selection(records, frames[kept], tokens[kept], seconds, left_out)


def choose_bounds(
    frames: Int[np.ndarray, " items"], weights: Float[np.ndarray, " items"], buckets: int
) -> tuple[int, ...]:
    """Upper bounds of at most `buckets` length classes with the least padding.

    With c(j) the weight of all items of up to j frames, it minimises the sum of
    (c(bound) - c(bound before)) * bound over bounds that are multiples of `SHAPE_STEP`, by
    dynamic programming: the best cost of k classes that end at j is the minimum over i < j of
    the best cost of k - 1 classes that end at i, plus (c(j) - c(i)) * j.
    """
    counts = np.bincount(-(-frames // SHAPE_STEP), weights=weights)
    ends = np.flatnonzero(counts)
    below = np.concatenate([[0.0], np.cumsum(counts[ends])])
    length = len(ends)
    # cost[i, j]: one class of everything after end i - 1 up to end j - 1.
    cost = (below[None, :] - below[:, None]) * np.concatenate([[0], ends])[None, :]
    cost = np.where(np.tri(length + 1, dtype=bool), np.inf, cost)
    best = np.full(length + 1, np.inf)
    best[0] = 0.0
    came_from = []
    for _ in range(min(buckets, length)):
        total = best[:, None] + cost
        came_from.append(np.argmin(total, axis=0))
        best = np.min(total, axis=0)
    bounds, end = [], length
    for before in reversed(came_from):
        bounds.append(int(ends[end - 1]) * SHAPE_STEP)
        end = int(before[end])
    return tuple(reversed(bounds))


def _repeats(
    sources: Sequence[SourceConfig], selections: Sequence[Selection]
) -> tuple[Fraction, ...]:
    """Repeats of each source; those from weights keep the seconds of an epoch."""
    weights = [source.weight for source in sources if source.weight is not None]
    if not weights:
        return tuple(_fraction(source.repeats) for source in sources)
    total = sum(selection.seconds for selection in selections)
    return tuple(
        _fraction(weight / sum(weights) * total / selection.seconds)
        for weight, selection in zip(weights, selections, strict=True)
    )


def _fraction(value: float) -> Fraction:
    return Fraction(value).limit_denominator(10**6) or Fraction(1, 10**6)


def _round_up(count: int) -> int:
    return -(-count // SHAPE_STEP) * SHAPE_STEP

"""The global order of training: which records make up batch n, with random access in n.

It depends only on the plan, the seed, the stage's name and n, hence not on workers, prefetch or
the number of hosts.
"""

import abc
import dataclasses
import zlib
from collections.abc import Sequence
from fractions import Fraction

import grain
import numpy as np
from jaxtyping import Int

from zipvoice_jax.data.config import Channels
from zipvoice_jax.data.plan import Bucket, Plan

STEPS_PER_BLOCK = 128
ROWS_PER_BLOCK = 64

RecordRef = tuple[int, int]  # number of the source, number of the record in it


@dataclasses.dataclass(frozen=True)
class Interleaving:
    """An endless random sequence of choices, each with its exact share, with random access.

    The sequence consists of blocks. By the end of block k, choice c has occurred
    floor(share[c] * block * (k + 1) + 1/2) times, so it never lags by more than a block and even
    a rare choice occurs; within a block the order is random.

    Attributes:
        shares: shares of the choices; they sum to 1.
        block: mean length of a block.
        entropy: seed of all random numbers.
    """

    shares: tuple[Fraction, ...]
    block: int
    entropy: tuple[int, ...]

    def counts(self, blocks: int) -> Int[np.ndarray, " choices"]:
        """How often each choice occurs in the first blocks."""
        half = Fraction(1, 2)
        return np.array([int(s * self.block * blocks + half) for s in self.shares], np.int64)

    def take(
        self, start: int, stop: int
    ) -> tuple[Int[np.ndarray, " taken"], Int[np.ndarray, " taken"]]:
        """The choices from `start` to `stop`, and how often each occurred before.

        The pair (choice at n, how often it occurred before n) never repeats.
        """
        block = start // self.block
        while self._begin(block) > start:
            block -= 1
        while self._begin(block + 1) <= start:
            block += 1
        first = at = self._begin(block)
        parts = []
        while at < stop:
            parts.append(self._shuffled(block))
            at += len(parts[-1][0])
            block += 1
        choices, ranks = (np.concatenate(part) for part in zip(*parts, strict=True))
        return choices[start - first : stop - first], ranks[start - first : stop - first]

    def _begin(self, block: int) -> int:
        return int(self.counts(block).sum())

    def _shuffled(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        before = self.counts(block)
        counts = self.counts(block + 1) - before
        # The raw stream of a bit generator is the same in every version of numpy.
        bits = np.random.PCG64(np.random.SeedSequence((*self.entropy, block)))
        order = np.argsort(bits.random_raw(int(counts.sum())), kind="stable")
        choices = np.repeat(np.arange(len(counts)), counts)[order]
        ranks = np.empty_like(choices)
        for choice, (first, count) in enumerate(zip(before, counts, strict=True)):
            ranks[choices == choice] = np.arange(first, first + count)
        return choices, ranks


class Order(abc.ABC):
    """Global batches by number."""

    @abc.abstractmethod
    def bucket(self, step: int) -> Bucket:
        """The shape of a batch."""

    @abc.abstractmethod
    def rows(self, step: int, start: int, stop: int) -> list[RecordRef | None]:
        """The records in rows `start` to `stop` of a batch; None for an empty row."""


class TrainingOrder(Order):
    """Endless batches.

    Every bucket has an endless stream of records, each source's shuffled anew each time it is
    used up; consecutive pieces of it are the bucket's batches. One `Interleaving` chooses the
    bucket of a step, another the source of a row.
    """

    def __init__(self, plan: Plan, channels: Channels, *, seed: int, stage: str) -> None:
        """Prepares the streams.

        Args:
            plan: buckets and their records.
            channels: "alternate" gives even steps one channel and odd steps two.
            seed: seed of the run.
            stage: name of the stage; another name gives another order.
        """
        entropy = (seed, zlib.crc32(stage.encode("utf-8")))
        steps_per_epoch = sum(plan.steps, Fraction(0))
        self._plan = plan
        self._channels = channels
        self._steps = Interleaving(
            tuple(steps / steps_per_epoch for steps in plan.steps),
            # No longer than an epoch, so that an epoch has every record once.
            max(1, min(STEPS_PER_BLOCK, round(steps_per_epoch))),
            (*entropy, 0),
        )
        self._rows = []
        self._streams = []
        for bucket, sources in enumerate(plan.records):
            rows = sum(
                (len(r) * n for r, n in zip(sources, plan.repeats, strict=True)), Fraction(0)
            )
            shares = [len(r) * n / rows for r, n in zip(sources, plan.repeats, strict=True)]
            self._rows.append(Interleaving(tuple(shares), ROWS_PER_BLOCK, (*entropy, 1, bucket)))
            self._streams.append(
                tuple(
                    shuffled(len(records), (*entropy, 2, bucket, source))
                    for source, records in enumerate(sources)
                )
            )

    def bucket(self, step: int) -> Bucket:
        """The shape of a batch."""
        bucket = self._plan.buckets[self._steps.take(step, step + 1)[0][0]]
        if self._channels == "alternate":
            return dataclasses.replace(bucket, channels=1 + step % 2)
        return bucket

    def rows(self, step: int, start: int, stop: int) -> list[RecordRef | None]:
        """The records in rows `start` to `stop` of a batch."""
        choices, ranks = self._steps.take(step, step + 1)
        bucket, batches_before = int(choices[0]), int(ranks[0])
        first = batches_before * self._plan.buckets[bucket].batch
        sources, source_ranks = self._rows[bucket].take(first + start, first + stop)
        records, streams = self._plan.records[bucket], self._streams[bucket]
        return [
            (source, int(records[source][streams[source][rank]]))
            for source, rank in zip(sources.tolist(), source_ranks.tolist(), strict=True)
        ]


class PassOrder(Order):
    """Every record once, bucket by bucket in record order; the last rows may be empty."""

    def __init__(self, plan: Plan) -> None:
        """Lays out the batches of each bucket."""
        self._batches: list[tuple[Bucket, Sequence[RecordRef]]] = []
        for bucket, sources in zip(plan.buckets, plan.records, strict=True):
            rows = [(source, int(r)) for source, records in enumerate(sources) for r in records]
            self._batches += [
                (bucket, rows[at : at + bucket.batch]) for at in range(0, len(rows), bucket.batch)
            ]

    def __len__(self) -> int:
        return len(self._batches)

    def bucket(self, step: int) -> Bucket:
        """The shape of a batch."""
        return self._batches[step][0]

    def rows(self, step: int, start: int, stop: int) -> list[RecordRef | None]:
        """The records in rows `start` to `stop` of a batch; None for an empty row."""
        bucket, rows = self._batches[step]
        return [*rows, *[None] * (bucket.batch - len(rows))][start:stop]


def shuffled(length: int, entropy: tuple[int, ...]) -> grain.MapDataset[int]:
    """Numbers below `length`, each once per epoch, in a new random order every epoch."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    numbers = grain.MapDataset.range(length)
    return numbers.seed(seed).shuffle().repeat() if length else numbers

"""Batches for training and validation: opens sources, plans, orders and reads batches."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.batches import Assembler, BatchIterator, Host
from zipvoice_jax.data.config import DataConfig
from zipvoice_jax.data.examples import ExampleReader
from zipvoice_jax.data.order import Order, PassOrder, TrainingOrder
from zipvoice_jax.data.plan import Bucket, Plan, fit_plan, make_plan, repetition
from zipvoice_jax.data.records import Index, RecordSource, open_split
from zipvoice_jax.text.tokens import TokenTable

ENDLESS = 2**40  # more steps than any run takes


class _Batches:
    """What training and validation have in common: sources, plan, order, report."""

    def __init__(
        self,
        config: DataConfig,
        opened: Sequence[tuple[RecordSource, Index]],
        plan: Plan,
        order: Order,
        reader: ExampleReader,
        host: Host,
        fps: float,
    ) -> None:
        for bucket in plan.buckets:
            if bucket.batch % host.count:
                raise UserError(
                    f"batches of {bucket.batch} items cannot be shared by {host.count} hosts; "
                    "make batch_multiple a multiple of the number of hosts."
                )
        records = sum(len(selection.records) for selection in plan.selections)
        # A small dataset that is entirely unusable must not pass for one with few faults.
        limit = min(config.max_corrupt, records // 2)
        self.config = dataclasses.replace(config, max_corrupt=limit)
        self.plan = plan
        self.assembler = Assembler(order, reader, host)
        self._fps = fps
        self._sizes = [len(index) for _, index in opened]

    @property
    def padding_share(self) -> float:
        """Expected share of padding: 1 - real frames / all frames."""
        return self.plan.padding_share

    def _rows_of_report(self) -> list[str]:
        lines = []
        for source, selection, repeats, size in zip(
            self.config.sources, self.plan.selections, self.plan.repeats, self._sizes, strict=True
        ):
            lines.append(
                f"{source.name}: {len(selection.records)} of {size} utterances, "
                f"{selection.seconds / 3600:.2f} h, {float(repeats):.3g} times an epoch"
            )
            lines += [f"  left out: {n} {reason}" for reason, n in selection.left_out.items()]
        total = float(sum(self.plan.steps))
        lines.append("seconds  frames  tokens   batch     items   steps  padding")
        for bucket, items, steps, padding in zip(
            self.plan.buckets, self.plan.items, self.plan.steps, self.plan.padding, strict=True
        ):
            lines.append(
                f"{bucket.frames / self._fps:7.1f} {bucket.frames:7d} {bucket.tokens:7d} "
                f"{bucket.batch:7d} {float(items):9.0f} {float(steps) / (total or 1.0):7.1%} "
                f"{padding:8.1%}"
            )
        return lines


class Loader(_Batches):
    """Endless batches of one stage of training, from any step on (`iterate`).

    Attributes:
        config: the data config.
        plan: buckets and their records.
        assembler: makes this host's part of any batch.
    """

    def __init__(
        self,
        config: DataConfig,
        table: TokenTable,
        features: FeatureConfig,
        *,
        seed: int,
        stage: str,
        batch_multiple: int = 1,
        host_index: int = 0,
        host_count: int = 1,
        alignments: bool = False,
    ) -> None:
        """Opens the sources and plans the batches; reads no records.

        Args:
            config: the data config.
            table: vocabulary.
            features: settings of the features.
            seed: seed of the run.
            stage: name of the stage; with the seed it determines the order.
            batch_multiple: batch sizes are multiples of it. It must be a multiple of the number of
                devices of all hosts; to continue a run on another number of devices, of both.
            host_index: number of this process.
            host_count: number of processes that share a batch.
            alignments: add `token_starts` to batches, and leave out records without alignment.

        Raises:
            UserError: a source cannot be used, or the config does not fit the data.
        """
        opened = [open_split(source.path, source.split) for source in config.sources]
        plan = make_plan(
            config,
            [index for _, index in opened],
            features,
            batch_multiple=batch_multiple,
            alignments=alignments,
        )
        super().__init__(
            config,
            opened,
            plan,
            TrainingOrder(plan, config.channels, seed=seed, stage=stage),
            ExampleReader.of(
                config, [source for source, _ in opened], table, features, alignments=alignments
            ),
            Host(host_index, host_count),
            features.sampling_rate / features.hop_length,
        )
        self._features = features
        indices = [index for _, index in opened]
        self._fingerprint = _fingerprint(plan, indices, config.channels, seed, stage)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Every shape that a batch can have, from short to long."""
        if self.config.channels != "alternate":
            return self.plan.buckets
        return tuple(
            dataclasses.replace(bucket, channels=channels)
            for bucket in self.plan.buckets
            for channels in (1, 2)
        )

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every record occurs as often as its source's `repeats`."""
        return float(sum(self.plan.steps))

    def iterate(self, start_step: int = 0) -> BatchIterator:
        """Batches from a step on."""
        return BatchIterator(
            self.assembler,
            self.config,
            start=start_step,
            stop=ENDLESS,
            fingerprint=self._fingerprint,
        )

    def report(self) -> str:
        """Sources, what is left out and why, buckets and padding, as text.

        Raises:
            UserError: there is so little speech that batches of this size must be a mistake.
        """
        lines = self._rows_of_report()
        steps = self.steps_per_epoch
        shown = f"{steps:.1f}" if steps >= 1.0 else f"{steps:.2g}"
        lines.append(f"padding {self.padding_share:.1%}, {shown} steps an epoch")
        if note := repetition(self.plan, self.config, self._features):
            lines.append(f"note: {note}")
        return "\n".join(lines)


class Validation(_Batches):
    """Every utterance exactly once, always in the same batches; see `validation_batches`."""

    def __len__(self) -> int:
        order = self.assembler.order
        assert isinstance(order, PassOrder)
        return len(order)

    def __iter__(self) -> BatchIterator:
        return BatchIterator(
            self.assembler, self.config, start=0, stop=len(self), fingerprint="validation"
        )

    def report(self) -> str:
        """Sources, what is left out and why, buckets and padding, as text."""
        return "\n".join([*self._rows_of_report(), f"{len(self)} batches in all"])


def validation_batches(
    config: DataConfig,
    table: TokenTable,
    features: FeatureConfig,
    *,
    buckets: Sequence[Bucket] = (),
    batch_multiple: int = 1,
    host_index: int = 0,
    host_count: int = 1,
    alignments: bool = False,
) -> Validation:
    """Batches for a validation loss.

    Args:
        config: the data config; repeats and weights have no effect, and "alternate" means two
            channels, as in the official code.
        table: vocabulary.
        features: settings of the features.
        buckets: buckets of the training's `Loader`, so that no more shapes are compiled; an
            utterance that fits none of them is left out. Empty: chosen for this data.
        batch_multiple: as for `Loader`; only used without `buckets`.
        host_index: number of this process.
        host_count: number of processes that share a batch.
        alignments: as for `Loader`.

    Raises:
        UserError: a source cannot be used, or the config does not fit the data.
    """
    once = tuple(dataclasses.replace(source, repeats=1.0, weight=None) for source in config.sources)
    channels = "mono" if config.channels == "mono" else "stereo"
    config = dataclasses.replace(config, sources=once, channels=channels)
    opened = [open_split(source.path, source.split) for source in config.sources]
    indices = [index for _, index in opened]
    shapes = [b for b in buckets if b.channels == (1 if channels == "mono" else 2)]
    if buckets and not shapes:
        raise UserError(f"the buckets for validation have none with {channels} audio; give some.")
    if not shapes:
        made = make_plan(
            config, indices, features, batch_multiple=batch_multiple, alignments=alignments
        )
        shapes = made.buckets
    plan = fit_plan(config, indices, features, shapes, alignments=alignments)
    order = PassOrder(plan)
    if not len(order):
        longest = max(shape.frames for shape in shapes) * features.hop_length
        raise UserError(
            f"none of the validation data {', '.join(source.path for source in config.sources)} "
            f"fits the buckets of training, the longest of which holds "
            f"{longest / features.sampling_rate:.1f} s; give shorter utterances, or longer ones "
            "to training too."
        )
    return Validation(
        config,
        opened,
        plan,
        order,
        ExampleReader.of(
            config, [source for source, _ in opened], table, features, alignments=alignments
        ),
        Host(host_index, host_count),
        features.sampling_rate / features.hop_length,
    )


def _fingerprint(plan: Plan, indices: Sequence[Index], channels: str, seed: int, stage: str) -> str:
    """A hash of everything on which the order depends, and of the datasets' own indices."""
    digest = hashlib.sha256(repr((plan.buckets, plan.repeats, channels, seed, stage)).encode())
    for index in indices:
        for column in (index.ids, index.seconds, index.tokens):
            digest.update(column.tobytes() + b"|")
    for sources in plan.records:
        for records in sources:
            digest.update(np.asarray(records, np.int64).tobytes() + b"|")
    return digest.hexdigest()[:16]

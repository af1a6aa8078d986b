"""Assembling batches from examples, and iterating over them through Grain.

Grain's workers return whole batches in order, each a pure function of its number, so that neither
the number of workers nor a restart changes the batches. The state of an iterator is its step.
"""

import dataclasses
import signal
from collections.abc import Callable
from typing import Any

import grain
from absl import flags

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.config import DataConfig
from zipvoice_jax.data.examples import Arrays, Example, ExampleReader, collate, misfit
from zipvoice_jax.data.order import Order
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.data.workers import exit_without_parent

_NAMED = 5  # corrupt records that an error lists


@dataclasses.dataclass(frozen=True)
class Batch:
    """One host's part of a global batch.

    Attributes:
        step: number of the global batch.
        bucket: shape of the global batch.
        arrays: this host's rows; see `collate`.
        ids: utterance ids of this host's rows, "" for an empty row.
        corrupt: for each row that is empty because its record is unusable, a sentence why.
    """

    step: int
    bucket: Bucket
    arrays: Arrays
    ids: tuple[str, ...]
    corrupt: tuple[str, ...]

    @property
    def padding(self) -> float:
        """Share of frames that are padding."""
        lens = self.arrays["features_lens"]
        return 1.0 - int(lens.sum()) / (len(lens) * self.bucket.frames)


@dataclasses.dataclass(frozen=True)
class Host:
    """One of the processes that share a global batch; each takes contiguous rows, in order.

    Raises:
        UserError: there is no such host.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"host {self.index} of {self.count} cannot be; count hosts from 0.")

    def rows(self, bucket: Bucket) -> tuple[int, int]:
        """First row of this host, and one past its last."""
        size = bucket.batch // self.count
        return self.index * size, (self.index + 1) * size


@dataclasses.dataclass(frozen=True)
class Assembler:
    """Makes this host's part of global batch n; picklable for worker processes."""

    order: Order
    reader: ExampleReader
    host: Host

    def __call__(self, step: int) -> dict[str, Any]:
        """The fields of a `Batch`, as a dict so that Grain sends its arrays by shared memory."""
        bucket = self.order.bucket(step)
        examples: list[Example | None] = []
        corrupt = []
        for row in self.order.rows(step, *self.host.rows(bucket)):
            example = None
            if row is not None:
                try:
                    example = self.reader.read(*row, bucket.channels)
                    fault = misfit(example, bucket)
                except UserError as error:
                    fault = str(error)
                if fault is not None:
                    corrupt.append(fault)
                    example = None
            examples.append(example)
        arrays = collate(
            examples,
            bucket,
            n_mels=self.reader.features.n_mels,
            pad_id=self.reader.table.pad_id,
            alignments=self.reader.alignments,
        )
        ids = tuple("" if example is None else example.id for example in examples)
        return {"arrays": arrays, "header": _Header(step, bucket, ids, tuple(corrupt))}


@dataclasses.dataclass(frozen=True)
class _Header:
    """All fields of a `Batch` except its arrays; a single leaf to Grain."""

    step: int
    bucket: Bucket
    ids: tuple[str, ...]
    corrupt: tuple[str, ...]


class BatchIterator(grain.DatasetIterator[Batch]):
    """Batches from a step on, with a state that any number of hosts and workers can restore.

    `get_state` and `set_state` are Grain's; the state is JSON. Close it, or use it in a `with`
    statement, to end its threads and processes.

    Attributes:
        corrupt: one sentence for each distinct record that could not be used so far.
        fresh: those of them that the last batch added.
    """

    def __init__(
        self,
        assemble: Callable[[int], dict[str, Any]],
        config: DataConfig,
        *,
        start: int,
        stop: int,
        fingerprint: str,
    ) -> None:
        """Takes a function that makes batch n, and the range of n; the first `next` starts work."""
        super().__init__()
        self._assemble = assemble
        self._config = config
        self._step = start
        self._stop = stop
        self._fingerprint = fingerprint
        self._inner: grain.DatasetIterator[dict[str, Any]] | None = None
        self.corrupt: dict[str, None] = {}
        self.fresh: tuple[str, ...] = ()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            UserError: more than `max_corrupt` records could not be used.
        """
        self._inner = self._inner or self._start()
        element = next(self._inner)
        batch = Batch(arrays=element["arrays"], **vars(element["header"]))
        self._step = batch.step + 1
        self.fresh = tuple(fault for fault in batch.corrupt if fault not in self.corrupt)
        self.corrupt.update(dict.fromkeys(self.fresh))
        if len(self.corrupt) > self._config.max_corrupt:
            named = " ".join(list(self.corrupt)[-_NAMED:])
            raise UserError(
                f"{len(self.corrupt)} records could not be used where max_corrupt allows "
                f"{self._config.max_corrupt} (at most half of all); the last ones: {named}"
            )
        return batch

    def get_state(self) -> dict[str, Any]:
        """The number of the next batch, and a hash of what the order depends on."""
        return {"step": self._step, "order": self._fingerprint}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a state, without reading the batches before it.

        Raises:
            UserError: the state belongs to other data, batch shapes, seed or stage.
        """
        if state.get("order") != self._fingerprint:
            raise UserError(
                "the saved place in the data belongs to another order of batches; keep the "
                "datasets, data config, seed, stage and batch_multiple of the saved run."
            )
        self.close()
        self._step = int(state["step"])

    def start_prefetch(self) -> None:
        """Starts threads or worker processes before the first batch is asked for."""
        if self._inner is None:
            self._inner = self._start()
            self._inner.start_prefetch()

    def close(self) -> None:
        """Ends threads and worker processes; a later `next` would start new ones."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> grain.DatasetIterator[dict[str, Any]]:
        config = self._config
        batches = grain.MapDataset.range(self._step, self._stop).map(self._assemble)
        batches = batches.to_iter_dataset(
            grain.ReadOptions(
                num_threads=config.threads,
                prefetch_buffer_size=max(config.prefetch, config.threads),
            )
        )
        if config.workers:
            if not flags.FLAGS.is_parsed():  # Grain looks flags up when it starts processes
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(config.workers, config.prefetch)
            batches = batches.mp_prefetch(options, worker_init_fn=_start_worker)
        return iter(batches)


def _start_worker(*_: int) -> None:
    """Sets a worker process up: it uses no accelerator, and ends with its parent.

    It ignores signals: schedulers send them to every process of a job, and only the training
    process decides when to stop.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    exit_without_parent()

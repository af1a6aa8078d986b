"""Makes the shards of a preparation: in processes of this machine, or on Apache Beam."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.data.prepare_shards import ShardJob, prepare_shard
from zipvoice_jax.data.workers import exit_without_parent

BeamRunner = Literal["Direct", "Flink", "Spark", "Dataflow"]
BEAM_RUNNERS: tuple[str, ...] = get_args(BeamRunner)


@dataclasses.dataclass(frozen=True)
class Beam:
    """Settings for running on Apache Beam.

    Attributes:
        runner: one of `BEAM_RUNNERS`.
        options: flags of Beam's pipeline options, such as "flink_master=host:8081".
    """

    runner: BeamRunner
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.runner not in BEAM_RUNNERS:
            raise UserError(
                f"the Beam runner is {self.runner!r}; choose one of {', '.join(BEAM_RUNNERS)}."
            )


def run_here(jobs: Sequence[ShardJob], workers: int) -> None:
    """Makes the shards on this machine, shows progress, and skips finished shards.

    Args:
        jobs: the shards.
        workers: number of processes; with 1 this process does all the work.

    Raises:
        UserError: a shard cannot be written, or a worker was killed.
    """
    todo = [job for job in jobs if not job.is_finished()]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} shards were finished before")
    bar = progress_bar(
        total=sum(job.size for job in jobs),
        initial=sum(job.size for job in jobs) - sum(job.size for job in todo),
        unit="item",
        file=sys.stderr,
        mininterval=0.5,
        dynamic_ncols=True,
    )
    with bar:
        if workers == 1 or len(todo) <= 1:
            for job in todo:
                bar.update(prepare_shard(job))
            return
        pool = concurrent.futures.ProcessPoolExecutor(
            min(workers, len(todo)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
        )
        with pool:
            futures = [pool.submit(prepare_shard, job) for job in todo]
            try:
                for future in concurrent.futures.as_completed(futures):
                    bar.update(future.result())
            except concurrent.futures.process.BrokenProcessPool:
                raise UserError(
                    "a worker process was killed, perhaps for lack of memory; run the command "
                    "again with fewer --workers, finished shards are kept."
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Lets a worker end at Ctrl-C, and when its parent is gone, even by SIGKILL."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    exit_without_parent()


def run_on_beam(jobs: Sequence[ShardJob], runner: Any, options: Any) -> None:
    """Makes the shards with Beam; its workers need the same paths to the corpus and the target.

    Args:
        jobs: the shards.
        runner: a Beam runner, its name, or None for Beam's default.
        options: Beam's PipelineOptions.

    Raises:
        UserError: the pipeline failed.
    """
    beam = import_beam()
    try:
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create([job for job in jobs if not job.is_finished()])
                | "Spread" >> beam.Reshuffle()
                | "Prepare" >> beam.Map(prepare_shard)
            )
    except Exception as error:  # whatever a runner throws
        raise UserError(
            f"Beam could not prepare the shards ({str(error).strip().splitlines()[-1][:300]}); "
            "see its log above and run the command again, finished shards are kept."
        ) from error


def pipeline_options(beam: Beam, workers: int) -> tuple[str, Any]:
    """The full name of a runner and Beam's PipelineOptions for it."""
    flags = [f"--{one.removeprefix('--')}" for one in beam.options]
    if beam.runner == "Direct":
        flags = [
            f"--direct_num_workers={workers}",
            "--direct_running_mode=multi_processing",
            *flags,
        ]
    options = import_beam().options.pipeline_options.PipelineOptions(flags)
    return f"{beam.runner}Runner", options


def import_beam() -> Any:
    """The package apache_beam, which is large and not a dependency.

    Raises:
        UserError: it is not installed.
    """
    try:
        from tensorflow_datasets.core.utils.lazy_imports_utils import apache_beam

        apache_beam.Pipeline  # noqa: B018 - the import happens here
    except ImportError:
        raise UserError(
            "--beam-runner needs the package apache-beam; install it, or leave the option out "
            "to use the processes of this machine."
        ) from None
    return apache_beam

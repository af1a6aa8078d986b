"""The TFDS builder of a speech corpus: plan, shards, index, report.

`zipvoice-jax prepare` and `tfds build` both run it. TFDS publishes the finished directory;
unfinished work is kept beside it in `.work`, so that a killed run continues where it stopped.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from zipvoice_jax.data import prepare_report
from zipvoice_jax.data.prepare_config import PrepareConfig
from zipvoice_jax.data.prepare_plan import PreparePlan, plan_preparation
from zipvoice_jax.data.prepare_run import run_here, run_on_beam
from zipvoice_jax.data.prepare_shards import ShardJob, note_index
from zipvoice_jax.data.records import VERSION, index_name, shard_name
from zipvoice_jax.data.utterance import features


class SpeechBuilder(FileReaderBuilder):
    """Prepares the corpus of a `PrepareConfig`.

    For `tfds build` derive from it in a `NAME_dataset_builder.py` and override `preparation`.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        config_of_run: PrepareConfig | None = None,
        workers: int = 0,
        discard_other: bool = False,
        **kwargs: Any,
    ) -> None:
        """Takes what to prepare and how many processes to use (0: one per core)."""
        self._config_of_run = config_of_run
        self._workers = workers or os.cpu_count() or 1
        self._discard_other = discard_other
        if config_of_run is not None:
            self.name = config_of_run.name  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(file_format="array_record", **kwargs)

    def preparation(self, manual_dir: Path) -> PrepareConfig:
        """What to prepare; `manual_dir` is TFDS' folder of manually downloaded files."""
        del manual_dir
        if self._config_of_run is None:
            raise NotImplementedError("a builder for `tfds build` overrides this")
        return self._config_of_run

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=features(),
            description="Speech with transcripts and their tokens, prepared by zipvoice-jax.",
        )

    @property
    def _work(self) -> Path:
        """The same folder in every run; `data_path` has a random name until the run is done."""
        return Path(os.fspath(self.data_path)).parent / ".work"

    def _download_and_prepare(
        self, dl_manager: Any, download_config: tfds.download.DownloadConfig | None = None
    ) -> None:
        download_config = download_config or tfds.download.DownloadConfig()
        manual = self._config_of_run is None
        config = self.preparation(Path(os.fspath(dl_manager.manual_dir)) if manual else Path())
        plan = plan_preparation(config, self._work, discard_other=self._discard_other)
        jobs = _shard_jobs(config, plan)
        if download_config.beam_runner is None and download_config.beam_options is None:
            run_here(jobs, self._workers)
        else:
            run_on_beam(jobs, download_config.beam_runner, download_config.beam_options)
        self._collect(config, plan, jobs)

    def _collect(self, config: PrepareConfig, plan: PreparePlan, jobs: Sequence[ShardJob]) -> None:
        """Puts shards, indices and report into the directory that TFDS will publish."""
        target = Path(os.fspath(self.data_path))
        notes: dict[str, list[dict[str, Any]]] = {split: [] for split in plan.sizes}
        for job in jobs:
            note = job.note()
            if note is None:
                raise FileNotFoundError(f"{job.shard} was not made")
            notes[job.split].append(note)
            _link(job.shard, target / job.shard.name)
        indices = {}
        splits = []
        for split, of_split in notes.items():
            parts = [note_index(note) for note in of_split]
            indices[split] = parts[0].joined(parts[1:])
            indices[split].save(target / index_name(split))
            splits.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(part) for part in parts],
                    num_bytes=sum(note["bytes"] for note in of_split),
                    filename_template=self._get_filename_template(split_name=split),
                )
            )
        self.info.set_splits(tfds.core.SplitDict(splits))
        report = prepare_report.make_report(
            config.name, indices, notes, plan.rejects, examples=config.examples
        )
        (target / "report.json").write_text(prepare_report.dumps(report), encoding="utf-8")

    def _post_download_and_prepare_hook(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded."""

    def _log_download_done(self) -> None:
        """The caller reports what was done."""


def _shard_jobs(config: PrepareConfig, plan: PreparePlan) -> list[ShardJob]:
    return [
        ShardJob(
            split=split,
            unit=plan.unit(split, number),
            size=size,
            shard=plan.folder / shard_name(config.name, split, number, len(sizes)),
            tokenizer=config.tokenizer,
            limits=config.limits,
            examples=config.examples,
        )
        for split, sizes in sorted(plan.sizes.items())
        for number, size in enumerate(sizes)
    ]


def _link(source: Path, target: Path) -> None:
    """Links or copies a file, so that a run that is killed now still has the original."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)

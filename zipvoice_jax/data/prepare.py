"""Prepares a corpus of a known format as a directory of random-access records."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import alone
from zipvoice_jax.data.alignment import ALIGNER
from zipvoice_jax.data.builder import SpeechBuilder
from zipvoice_jax.data.prepare_config import PrepareConfig
from zipvoice_jax.data.prepare_run import Beam, pipeline_options

_STAGING = ".partial"
_INFO = "dataset_info.json"


def prepare(
    config: PrepareConfig,
    to: str | Path,
    *,
    workers: int = 0,
    beam: Beam | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Prepares a corpus; continues a killed run of the same preparation.

    The bytes of shards and index depend only on the config and the corpus.

    Args:
        config: what to prepare.
        to: directory of the dataset.
        workers: number of processes; 0: one per core.
        beam: run on Apache Beam instead of this machine's processes.
        overwrite: replace an existing dataset, and discard the unfinished work of other options.

    Returns:
        The report, as in report.json.

    Raises:
        UserError: the corpus cannot be read or has nothing to prepare, or the directory holds
            something else or cannot be written.
    """
    to = Path(to)
    if workers < 0:
        raise UserError(f"workers is {workers}; give 1 or more, or 0 for one per core.")
    config.tokenizer.tokenizer  # noqa: B018 - raises its errors before the work
    staging = to / _STAGING
    try:
        _check_target(to, overwrite=overwrite)
        message = f"another process is preparing {to}; wait for it, or give another directory."
        with alone(staging / ".lock", message):
            built = staging / config.name / str(SpeechBuilder.VERSION)
            shutil.rmtree(built, ignore_errors=True)
            builder = SpeechBuilder(
                config_of_run=config, workers=workers, discard_other=overwrite, data_dir=staging
            )
            builder.download_and_prepare(download_config=_download_config(beam, workers))
            try:
                _check_any(built, to)
            except UserError:
                shutil.rmtree(staging)  # with what it found wrong, which may be mended now
                raise
            _publish(built, to)
            shutil.rmtree(staging)
    except OSError as error:
        if error.filename and not Path(os.fsdecode(error.filename)).is_relative_to(to):
            raise UserError(
                f"{os.fsdecode(error.filename)} cannot be read ({error.strerror}); check the "
                "corpus."
            ) from None
        raise UserError(
            f"{to} cannot be written ({error.strerror or error}); choose a writable place with "
            "free space."
        ) from None
    return json.loads((to / "report.json").read_text(encoding="utf-8"))


def _check_target(to: Path, *, overwrite: bool) -> None:
    if to.exists() and not to.is_dir():
        raise UserError(f"{to} is a file; give a directory for the dataset.")
    if (to / _INFO).exists():
        if not overwrite:
            raise UserError(
                f"{to} holds a dataset already; give another directory, or --overwrite."
            )
        return
    others = sorted(path.name for path in to.iterdir()) if to.exists() else []
    if others and _STAGING not in others:
        raise UserError(f"{to} holds {others[0]} and no dataset; give an empty or new directory.")


def _check_any(built: Path, to: Path) -> None:
    """Refuses to publish a dataset without a single utterance."""
    report = json.loads((built / "report.json").read_text(encoding="utf-8"))
    if not any(part["utterances"] for part in report["splits"].values()):
        reasons = "; ".join(
            f"{reason}: {entry['count']:,}"
            + "".join(f" ({one['id']}: {one['detail']})" for one in entry["examples"][:1])
            for reason, entry in report["rejects"].items()
        )
        raise UserError(f"nothing of the corpus can be used, and {to} is not made ({reasons}).")


def _download_config(beam: Beam | None, workers: int) -> tfds.download.DownloadConfig:
    if beam is None:
        return tfds.download.DownloadConfig(try_download_gcs=False)
    runner, options = pipeline_options(beam, workers or os.cpu_count() or 1)
    return tfds.download.DownloadConfig(
        try_download_gcs=False, beam_runner=runner, beam_options=options
    )


def _publish(built: Path, to: Path) -> None:
    """Moves a finished dataset into its directory; its description comes last."""
    (to / _INFO).unlink(missing_ok=True)
    patterns = ("*.array_record-*-of-*", "index-*.npz", "alignment-*.npz", ALIGNER)
    for pattern in (*patterns, "features.json", "report.json"):
        for old in to.glob(pattern):
            old.unlink()
    for path in sorted(built.iterdir(), key=lambda path: path.name == _INFO):
        os.replace(path, to / path.name)

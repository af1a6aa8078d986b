"""What a run's folder holds beside checkpoints: its lock and its config."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import alone
from zipvoice_jax.core.processes import on_lead
from zipvoice_jax.train.config import TrainConfig, differences

CONFIG = "config.json"
LOCK = ".lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second run of this machine out of a run's folder; process 0 holds the lock.

    Raises:
        UserError: the folder cannot be written, or a run is at work in it.
    """
    with contextlib.ExitStack() as stack:
        told = f"another process is training in {folder}; wait for it, or give another folder."
        on_lead("lock", lambda: stack.enter_context(alone(folder / LOCK, told)))
        yield


def refuse_changes(old: dict[str, Any], new: dict[str, Any], place: object) -> None:
    """Refuses a config that is not the one of the run before.

    Args:
        old: config of the run before, as `TrainConfig.to_dict` gives it.
        new: that of this run.
        place: where the run before is.

    Raises:
        UserError: they differ in what can change a result; tells in what.
    """
    if changed := differences(old, new):
        raise UserError(
            f"{place} holds a run with another config ({'; '.join(changed)}); give "
            "another folder, or --allow-config-change to go on with this one."
        )


def keep_config(run: TrainConfig, folder: Path, allow_change: bool) -> None:
    """Writes the config beside the checkpoints, and refuses one that is not theirs.

    Raises:
        UserError: it is another one and that is not allowed, or the file cannot be used.
    """
    path, values = folder / CONFIG, run.to_dict()
    try:
        if path.is_file() and not allow_change:
            refuse_changes(json.loads(path.read_text(encoding="utf-8")), values, folder)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).") from None
    except ValueError:
        raise UserError(f"{path} is not readable JSON; remove it to go on.") from None

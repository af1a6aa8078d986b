"""What a run works with: its folder alone, its checkpoints, devices, programs and log.

What may refuse to go on, but for the order of the data, is asked before anything is written: a run
that is refused leaves its folder as it was.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.checkpoint.native import is_native
from zipvoice_jax.core.compiling import Programs
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_json
from zipvoice_jax.core.processes import alone_on_lead, is_lead, meet, on_lead
from zipvoice_jax.train.checkpoints import Checkpoints, open_checkpoints
from zipvoice_jax.train.config import TrainConfig, differences
from zipvoice_jax.train.log import RunLog
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.stages import StagePlan, plan_stage, plan_stages

CONFIG = "config.json"
LOCK = ".lock"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """An open run.

    Attributes:
        folder: the run's folder, absolute.
        plans: the stages that are left, the one to go on in first.
        latest: step of the checkpoint to go on from; None begins the run.
        data_state: the loader's at that checkpoint; None where the data may be others now.
        checkpoints: the run's checkpoints.
        layout: how its arrays lie on the devices.
        programs: compiled so far.
        log: the run's log.
    """

    folder: Path
    plans: list[StagePlan]
    latest: int | None
    data_state: dict[str, Any] | None
    checkpoints: Checkpoints
    layout: Layout
    programs: Programs
    log: RunLog


@contextlib.contextmanager
def open_session(
    run: TrainConfig,
    folder: Path,
    *,
    checkpoints: str | None = None,
    fsdp: int = 1,
    allow_config_change: bool = False,
) -> Iterator[Session]:
    """Opens a run; see `zipvoice_jax.train.loop.train` for the arguments.

    Raises:
        UserError: the folder or the devices cannot be used, what is there of an earlier attempt
            is of another config or token table, or a stage lacks what it needs.
    """
    folder = Path(folder).absolute()
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone_in(folder))
        kept = stack.enter_context(contextlib.closing(open_checkpoints(run, folder, checkpoints)))
        latest = on_lead("latest", lambda: kept.steps[-1] if kept.steps else None)
        meta = {} if latest is None else _meta_of(run, kept, latest, allow_config_change)
        if not allow_config_change:
            on_lead("config", lambda: _refuse_another_config(run, folder, latest))
        plans = plan_stages(run, int(meta.get("stage", 0)))
        layout = Layout.of(jax.devices(), fsdp)
        values = run.to_dict()
        on_lead("write config", lambda: write_json(folder / CONFIG, values))
        log = RunLog(
            folder, start=latest or 0, total=run.boundaries[-1], config=values, silent=not is_lead()
        )
        stack.enter_context(contextlib.closing(log))
        yield Session(
            folder=folder, plans=plans, latest=latest, data_state=meta.get("data"),
            checkpoints=kept, layout=layout, log=log,
            programs=Programs(jax.devices()[0].platform, meet),
        )  # fmt: skip


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second run of this machine out of a run's folder; process 0 holds the lock.

    Raises:
        UserError: the folder cannot be written, or a run is at work in it.
    """
    busy = f"another process is training in {folder}; wait for it, or give another folder."
    with alone_on_lead(folder / LOCK, busy):
        yield


def _meta_of(
    run: TrainConfig, checkpoints: Checkpoints, latest: int, allow_change: bool
) -> dict[str, Any]:
    """What is kept beside the state of the latest checkpoint, as far as it still holds.

    Raises:
        UserError: it is of another config or token table and that is not allowed, or of a stage
            that there is not.
    """
    meta = checkpoints.meta(latest)
    if not allow_change:
        _refuse_changes(meta["config"], run, checkpoints.folder)
    table = plan_stage(run, int(meta["stage"])).table
    if allow_change:
        return {"stage": meta["stage"]}
    if meta["fingerprint"] != table.fingerprint:
        raise UserError(
            f"{checkpoints.folder / str(latest)} was trained with another token table "
            f"(fingerprint {meta['fingerprint']}, now {table.fingerprint}); bring back the one "
            "that it was trained with, or give --allow-config-change."
        )
    return meta


def _refuse_another_config(run: TrainConfig, folder: Path, latest: int | None) -> None:
    path = folder / CONFIG
    if latest is None and not any(is_native(folder / stage.name) for stage in run.stages):
        return  # an attempt that came to nothing binds no one
    try:
        old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError):
        raise UserError(f"{path} is not readable JSON; remove it to go on.") from None
    if old is not None:
        _refuse_changes(old, run, folder)


def _refuse_changes(old: dict[str, Any], run: TrainConfig, where: object) -> None:
    if changed := differences(old, run.to_dict()):
        raise UserError(
            f"{where} holds a run with another config ({'; '.join(changed)}); give "
            "another folder, or --allow-config-change to go on with this one."
        )

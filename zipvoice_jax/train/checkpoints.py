"""What a run keeps to go on from: checkpoints of its state.

Nothing else talks to Orbax about a run's state. A checkpoint holds the whole `TrainState` and a
JSON object of everything else that a resumed run must know. Orbax writes it under another name and
renames it, so one that a kill cut short is never seen; it is removed at the next start.
"""

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from zipvoice_jax.checkpoint.restricted_pickle import shown
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.processes import is_lead
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.state import TrainState

_STATE, _META = "state", "meta"


def _plain(state: Any) -> dict[str, Any]:
    """The state with the key as numbers, as a dict that Orbax stores field by field."""
    return {**vars(state), "key": jax.random.key_data(state.key)}


def _restored(plain: dict[str, Any]) -> TrainState:
    return TrainState(**{**plain, "key": jax.random.wrap_key_data(plain["key"])})


@dataclasses.dataclass(frozen=True)
class _Best:
    """A policy of Orbax that keeps what is ranked lowest; what has no rank is kept by others."""

    count: int
    rank: Callable[[Any], tuple[float, float] | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        ranks = {one.step: rank for one in checkpoints if (rank := self.rank(one)) is not None}
        best = sorted(ranks, key=lambda step: ranks[step])[: self.count]
        return [one.step in best for one in checkpoints]


class Checkpoints:
    """The checkpoints of a run, named by their steps.

    Args:
        folder: where checkpoints go, made if missing; a path or a gs:// address.
        keep_last: newest ones to keep.
        keep_every: keep those at multiples of this; None for none.
        keep_best: those of the latest stage with the lowest validation loss to keep.
        keep_steps: those of these steps to keep.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep_last: int,
        keep_every: int | None = None,
        keep_best: int = 0,
        keep_steps: Sequence[int] = (),
    ) -> None:
        from orbax.checkpoint import v1 as ocp

        policies = ocp.training.preservation_policies
        keep: list[Any] = [policies.LatestN(keep_last), policies.CustomSteps(list(keep_steps))]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        if keep_best:
            keep.append(_Best(keep_best, self._rank))
        self.folder = epath.Path(folder) if "://" in str(folder) else epath.Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            options: dict[str, Any] = {
                "save_decision_policy": ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                "preservation_policy": policies.AnyPreservationPolicy(keep),
            }
            known = set(threading.enumerate())
            self._orbax = ocp.training.Checkpointer(
                str(self.folder), cleanup_tmp_directories=True, **options
            )
            # Orbax removes what a kill cut short in a thread that its close() does not wait for. In
            # a process that ends at once, such as one that refuses its data, that thread would
            # fail with a traceback.
            for thread in set(threading.enumerate()) - known:
                if type(thread).__module__.startswith("orbax."):
                    thread.join()
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror or error}).") from None
        # Beside the folder, in which there is nothing but checkpoints.
        self._judged = self.folder.with_name(f"{self.folder.name}.losses.json")
        self._losses = self._read_losses()

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the finished checkpoints, in order."""
        return tuple(sorted(checkpoint.step for checkpoint in self._orbax.checkpoints))

    def _rank(self, checkpoint: Any) -> tuple[float, float] | None:
        """By which checkpoints are compared, the least being the best; None: not judged."""
        known = self._losses.get(checkpoint.step)
        # Losses of different stages cannot be compared: a later one is better.
        return None if known is None else (-known["stage"], known["loss"])

    def _read_losses(self) -> dict[int, dict[str, float]]:
        """What `judge` has written; nothing where that is no longer readable."""
        try:
            known = json.loads(self._judged.read_text())
            return {
                int(step): {"stage": int(one["stage"]), "loss": float(one["loss"])}
                for step, one in known.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def judge(self, step: int, stage: int, loss: float) -> None:
        """Notes the validation loss of a checkpoint, which counts from the next one on.

        Args:
            step: the checkpoint's step.
            stage: number of its stage; the best are those of the latest.
            loss: without a finite one it is none of the best.

        Raises:
            UserError: it cannot be written; it counts for as long as this process runs.
        """
        if not np.isfinite(loss):
            return
        kept = {known: self._losses[known] for known in self._losses if known in self.steps}
        self._losses = {**kept, step: {"stage": stage, "loss": float(loss)}}
        if not is_lead():
            return
        try:
            partial = self._judged.with_name(f".{self._judged.name}.partial")
            partial.write_text(json.dumps(self._losses, indent=1) + "\n")
            partial.replace(self._judged)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self._judged} cannot be written ({reason}).") from None

    def save(self, state: TrainState, meta: dict[str, Any], *, wait: bool = False) -> None:
        """Begins to write a checkpoint; it appears when it is whole.

        Args:
            state: to be kept; may be donated as soon as this returns.
            meta: JSON values.
            wait: returns only when it is on disk.

        Raises:
            UserError: it cannot be written.
        """
        step = int(state.step)
        if step in self.steps:
            return
        parts = {_STATE: _plain(state), _META: meta}
        try:
            self.wait()
            self._orbax.save_checkpointables_async(step, parts, force=True)
            if wait:
                self.wait()
        except Exception as error:  # Orbax and TensorStore raise types of every kind
            raise UserError(
                f"{self.folder / str(step)} cannot be written ({type(error).__name__}: "
                f"{shown(error)}); check the space and the rights there."
            ) from None

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint."""
        return self._load(step, {_META: None})[_META]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a checkpoint.

        Args:
            step: its step.
            like: a state of `jax.ShapeDtypeStruct`s with the shardings of its arrays.

        Raises:
            UserError: the checkpoint is damaged or holds something else.
        """
        plain = jax.tree.map(
            lambda x, y: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=y.sharding),
            jax.eval_shape(_plain, like),
            vars(like),
        )
        loaded = self._load(step, {_STATE: plain})[_STATE]

        def check(path: Any, want: Any, got: Any) -> Any:
            if want.shape != got.shape or want.dtype != got.dtype:
                raise UserError(
                    f"{self.folder / str(step)} holds {jax.tree_util.keystr(path)} of shape "
                    f"{got.shape}, not {want.shape}; it belongs to another config."
                )
            return got

        return _restored(jax.tree_util.tree_map_with_path(check, plain, loaded))

    def _load(self, step: int, what: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._orbax.load_checkpointables(step, what)
        except Exception as error:  # Orbax and TensorStore raise types of every kind
            raise UserError(
                f"the checkpoint {self.folder / str(step)} cannot be read "
                f"({type(error).__name__}: {shown(error)}); remove it to go on from an earlier one."
            ) from None

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        self._orbax.wait()

    def close(self) -> None:
        """Finishes what is being written."""
        self._orbax.close()


def open_checkpoints(run: TrainConfig, folder: Path, elsewhere: str | None = None) -> Checkpoints:
    """The checkpoints of a run, kept as its config asks; `elsewhere` if not in its folder.

    Raises:
        UserError: their folder cannot be written.
    """
    return Checkpoints(
        elsewhere or folder / "checkpoints",
        keep_last=run.keep_last,
        keep_every=run.keep_every,
        keep_best=run.keep_best,
        keep_steps=run.window_starts,
    )

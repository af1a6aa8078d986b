"""Which checkpoints of a run are kept, by which losses, and what a kill cut short."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from zipvoice_jax.train.checkpoints import Checkpoints
from zipvoice_jax.train.state import TrainState


def small_state() -> TrainState:
    return TrainState(
        step=jnp.int32(0), params={"w": jnp.zeros(2)}, opt_state={"m": jnp.zeros(2)},
        average={"w": jnp.zeros(2)}, teacher={}, bad_steps=jnp.int32(0), skipped=jnp.int32(0),
        key=jax.random.key(0),
    )  # fmt: skip


def test_checkpoints_are_kept_as_asked(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep_last=1, keep_every=4, keep_best=1, keep_steps=(3,))
    state = small_state()
    losses = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.7, 5: 0.5, 6: 0.6, 7: np.inf}
    for step, loss in losses.items():
        now = state.replace(step=jnp.int32(step))  # type: ignore[attr-defined]
        # A stage with higher losses begins with step 4.
        kept.judge(step, int(step >= 4), loss)
        kept.save(now, {"stage": int(step >= 4)}, wait=True)
    kept.close()
    # A step to keep, a multiple, the best of the latest stage, the last.
    assert Checkpoints(tmp_path, keep_last=1).steps == (3, 4, 5, 7)


def test_losses_that_come_after_their_checkpoints_are_kept(tmp_path: Path) -> None:
    state = small_state()
    kept = Checkpoints(tmp_path / "kept", keep_last=1, keep_best=1)
    for step, loss in {1: 0.9, 2: 0.1, 3: 0.8}.items():
        kept.save(state.replace(step=jnp.int32(step)), {"stage": 0}, wait=True)  # type: ignore[attr-defined]
        kept.judge(step, 0, loss)
    kept.close()
    again = Checkpoints(tmp_path / "kept", keep_last=1, keep_best=1)
    assert again.steps == (2, 3)
    again.save(state.replace(step=jnp.int32(4)), {"stage": 0}, wait=True)  # type: ignore[attr-defined]
    again.close()
    assert again.steps == (2, 4)


def test_what_a_kill_cut_short_is_gone_once_checkpoints_are_open(tmp_path: Path) -> None:
    for step in range(300):
        (tmp_path / f"{step}.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    opened = Checkpoints(tmp_path, keep_last=1)
    # Nothing is left to a thread, which the end of the process could surprise.
    assert opened.steps == () and not list(tmp_path.iterdir())

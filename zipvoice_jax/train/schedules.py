"""Learning rates and batch counts as optax schedules: functions of a count of steps.

Officially: zipvoice/utils/lr_scheduler.py and `get_adjusted_batch_count` in
zipvoice/utils/common.py. All values are float32 scalars, traced or not.
"""

import itertools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from zipvoice_jax.core.errors import UserError

Scalar = Float[Array, ""]

_BATCH_COUNT_PERIOD = 10  # batches between calls of set_batch_count


def fixed(value: float) -> optax.Schedule:
    """The same value at every step (FixedLRScheduler)."""
    return lambda count: jnp.full((), value, jnp.float32)


def warmup(
    schedule: float | optax.Schedule, warmup_batches: float = 500.0, warmup_start: float = 0.5
) -> optax.Schedule:
    """A schedule times a factor that rises from `warmup_start` to 1 over `warmup_batches`.

    Raises:
        UserError: a start outside 0 to 1 or negative batches.
    """
    if not 0.0 <= warmup_start <= 1.0 or warmup_batches < 0:
        raise UserError(
            f"a warm-up of {warmup_batches} batches from {warmup_start} is impossible; give 0 or "
            "more batches and a start from 0 to 1."
        )
    inner = schedule if callable(schedule) else fixed(schedule)
    if warmup_batches == 0:
        return inner

    def warmed(count: ArrayLike) -> Scalar:
        share = jnp.clip(jnp.asarray(count, jnp.float32) / warmup_batches, 0.0, 1.0)
        factor = warmup_start + (1.0 - warmup_start) * share
        return factor * jnp.asarray(inner(count), jnp.float32)

    return warmed


def eden(
    base_lr: float,
    lr_batches: float,
    lr_epochs: float,
    *,
    epoch: Callable[[Scalar], Scalar],
    warmup_batches: float = 500.0,
    warmup_start: float = 0.5,
) -> optax.Schedule:
    """The official schedule of training from scratch (Eden).

    base_lr * (1 + (batch / lr_batches)^2)^-1/4 * (1 + (epoch / lr_epochs)^2)^-1/4 * warm-up.
    Its count is the official batch, which is 1 at the first update: see scaled_adam.py for the
    count that an optimiser gives.

    Args:
        base_lr: at its highest.
        lr_batches: batches after which the rate falls notably.
        lr_epochs: epochs, or whatever else `epoch` counts, after which it falls notably.
        epoch: of a batch count, both float32: officially whole passes over the data, from 0,
            or, with --lr-hours, batch * batch_seconds / 3600.
        warmup_batches: over which the rate rises to its value.
        warmup_start: share of its value at batch 0.

    Raises:
        UserError: an impossible warm-up, or no batches or epochs.
    """
    if lr_batches <= 0 or lr_epochs <= 0:
        raise UserError(
            f"Eden has lr_batches {lr_batches} and lr_epochs {lr_epochs}; give numbers above 0."
        )

    def decay(share: Scalar) -> Scalar:
        return (1.0 + share**2) ** -0.25

    def rate(count: ArrayLike) -> Scalar:
        batch = jnp.asarray(count, jnp.float32)
        return base_lr * decay(batch / lr_batches) * decay(epoch(batch) / lr_epochs)

    return warmup(rate, warmup_batches, warmup_start)


def stages(schedules: Sequence[optax.Schedule], lengths: Sequence[int]) -> optax.Schedule:
    """Joins one schedule per stage, each of which counts its own stage's steps from 0.

    Args:
        schedules: in the order of the stages.
        lengths: steps of each stage; the last stage goes on after its end.

    Raises:
        UserError: not one length per schedule, or a stage without steps.
    """
    if not schedules or len(schedules) != len(lengths) or min(lengths) < 1:
        raise UserError(
            f"{len(schedules)} schedules and lengths {list(lengths)} do not make a curriculum; "
            "give one length of 1 or more per schedule."
        )
    return optax.join_schedules(schedules, list(itertools.accumulate(lengths[:-1])))


def adjusted_batch_count(
    step: Int[Array, ""] | int,
    batch_seconds: float,
    ref_seconds: float = 50.0,
    offset: float = 0.0,
) -> Scalar:
    """Batches so far if each had had `ref_seconds` of audio: what drives dropout and hooks.

    Officially it is refreshed at every tenth batch only, before that batch is counted.

    Args:
        step: updates made so far.
        batch_seconds: seconds of audio in a batch over all devices.
        ref_seconds: of the reference batch (--ref-duration).
        offset: officially 100,000 wherever training starts from a trained model.
    """
    refreshed = jnp.asarray(step) // _BATCH_COUNT_PERIOD * _BATCH_COUNT_PERIOD
    return refreshed.astype(jnp.float32) * (batch_seconds / ref_seconds) + offset

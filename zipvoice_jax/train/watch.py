"""Progress of a stage: metrics read and logged, speed and utilisation, a loss without a value."""

import time
from typing import Any

import jax

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.peak import matmul_flops_per_second
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.models.flops import training_flops
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.log import RunLog


class Watch:
    """Reads metrics, tells progress, and stops a run whose loss has no value."""

    def __init__(
        self,
        run: TrainConfig,
        stage: str,
        end: int,
        config: ModelConfig,
        log: RunLog,
        *,
        head_alone: bool = False,
    ) -> None:
        """Measures what a device can do, to hold the work done against it.

        Args:
            run: the config.
            stage: its name.
            end: its last step.
            config: of its model.
            log: of the run.
            head_alone: whether only the duration head is trained.
        """
        self.run, self.stage, self.end, self.config, self.log = run, stage, end, config, log
        self.head_alone = head_alone
        self.peak = jax.device_count() * matmul_flops_per_second(config.dtype)
        self.restart(0)

    def restart(self, step: int) -> None:
        """Forgets the time so far, which went into something else than steps.

        Args:
            step: the last one that was begun; none up to it is timed.
        """
        self.begun, self.since = step, time.perf_counter()
        self.frames = self.flops = self.sizes = 0.0

    def note(self, step: int, batch: Batch, metrics: dict[str, Any]) -> bool:
        """Takes in the metrics of a step, and tells whether any process is asked to stop.

        Raises:
            UserError: too many steps in a row had no finite loss or gradient.
        """
        run = self.run
        values = {name: float(value) for name, value in metrics.items()}
        asked = values.pop("asked", 0.0) > 0.0
        bucket = batch.bucket
        speed, told = {}, ""
        if step <= self.begun:
            # Its time went into a compilation in part; that of the next one begins here.
            self.since = time.perf_counter()
        else:
            speed = self._speed(bucket, values)
            told = (
                f", {speed['frames_per_second']:.0f} frames/s, MFU {speed['utilisation']:.1%}, "
                f"padding {1.0 - self.frames / self.sizes:.1%}"
            )
        self.log.bar.update(step - self.log.bar.n)
        self.log.bar.set_postfix_str(f"{self.stage} loss {values['loss']:.4f}{told}")
        if step % run.log_every == 0 or values["bad_steps"] or step == self.end:
            about = {"stage": self.stage, "bucket": str(bucket)}
            self.log.write("train", step, {**about, **values, **speed})
        if values["bad_steps"] >= run.max_bad_steps:
            raise UserError(
                f"the loss or its gradient was not finite in {run.max_bad_steps} steps in a row, "
                f"the last of them {step}; lower the learning rate, or look for bad data."
            )
        return asked

    def _speed(self, bucket: Bucket, values: dict[str, float]) -> dict[str, float]:
        """Takes in a step that was timed; what was done in a second since the last restart."""
        self.frames += values["frames"]
        self.sizes += bucket.batch * bucket.frames
        # Padding is no work that anyone wanted.
        each = training_flops(
            self.config, bucket.frames, bucket.tokens, channels=bucket.channels,
            head_alone=self.head_alone,
        )  # fmt: skip
        self.flops += (1.0 - values["padding"]) * bucket.batch * each
        seconds = max(time.perf_counter() - self.since, 1e-9)
        return {
            "frames_per_second": self.frames / seconds,
            "teraflops": self.flops / seconds / 1e12,
            "utilisation": self.flops / seconds / self.peak,
        }

"""What follows a checkpoint: validation losses, sampled items, pictures and words heard.

None of it begins before the checkpoint is on disk. Only the validation itself can end a run, where
its data cannot be read; what is written for people to see and hear may fail, on a full disk for
instance, and costs one line. A run that is stopped between a checkpoint and its review makes up
for it when it goes on.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zipvoice_jax.audio.io import write_audio
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.compiling import Programs
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.core.processes import is_lead, on_lead
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.loader import Loader, Validation, validation_batches
from zipvoice_jax.flow.sampling import SampleInputs, item_noise, sample, steering, time_steps
from zipvoice_jax.train.checkpoints import Checkpoints
from zipvoice_jax.train.log import RunLog, read_log
from zipvoice_jax.train.pictures import draw_losses, draw_sample
from zipvoice_jax.train.schedules import schedules_of, values_at
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.stages import StagePlan
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import call_valid_step
from zipvoice_jax.vocoder.base import Vocoder
from zipvoice_jax.vocoder.find import find_vocoder

# What hears words in the speech of a model; see `zipvoice-jax train --listen`.
Listen = Callable[[Loaded], Mapping[str, float]]
PROMPT_SHARE = 0.4  # of a sampled item serves as its prompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Review:
    """Of the checkpoints of one stage.

    Attributes:
        plan: the stage.
        folder: of the run.
        programs: of the run.
        layout: of the run's arrays.
        log: of the run.
        checkpoints: of the run; they learn their validation losses.
        listen: called with each averaged model.
        valid: what validation losses are computed on.
        shown: the batch whose items are sampled.
        vocoder: of the samples.
    """

    plan: StagePlan
    folder: Path
    programs: Programs
    layout: Layout
    log: RunLog
    checkpoints: Checkpoints
    listen: Listen | None
    valid: Validation | None = None
    shown: Batch | None = None
    vocoder: Vocoder | None = None

    def opened(self, loader: Loader) -> "Review":
        """The same with its validation data opened, in the shapes of the training's batches.

        Raises:
            UserError: the data or the vocoder cannot be used.
        """
        run, data = self.plan.run, self.plan.stage.valid
        if data is None:
            return self

        def opened(**hosts: int) -> Validation:
            return validation_batches(
                data, self.plan.table, run.features,
                buckets=loader.buckets, alignments=self.plan.recipe.aligned, **hosts,
            )  # fmt: skip

        valid = opened(host_index=jax.process_index(), host_count=jax.process_count())
        self.log.say(f"validation: {valid.report()}")
        if not run.samples:
            return dataclasses.replace(self, valid=valid)
        vocoder, note = find_vocoder(run.vocoder_path, run.features)
        self.log.say(f"samples by {vocoder.name}{note and f' ({note})'}")
        with iter(opened()) as batches:  # whole, on every process
            shown = next(batches)
        return dataclasses.replace(self, valid=valid, shown=shown, vocoder=vocoder)

    @property
    def computes(self) -> bool:
        """Whether it takes any time to speak of."""
        return self.valid is not None or self.listen is not None

    def is_owed(self, step: int) -> bool:
        """True for a checkpoint after which the run ended too soon for its review.

        Args:
            step: of the checkpoint; asked once in a run.
        """
        plan = self.plan
        wanted = {"valid"} if plan.stage.valid is not None else set()
        wanted |= {"heard"} if self.listen is not None else set()
        if step <= plan.begin or not plan.saves(step) or not wanted:
            return False

        def look() -> bool:
            entries = read_log(self.log.path)
            return wanted <= {entry["kind"] for entry in entries if entry.get("step") == step}

        return not on_lead(f"reviewed {step}", look)

    def __call__(self, state: TrainState) -> None:
        """Reviews a checkpoint that is on disk.

        Args:
            state: that was saved.

        Raises:
            UserError: the validation data cannot be read.
        """
        step, plan = int(state.step), self.plan
        if self.valid is not None:
            losses = self.losses(state)
            loss = losses["loss"]
            self._try(
                step, "loss beside the checkpoint",
                lambda: self.checkpoints.judge(step, plan.index, loss),
            )  # fmt: skip
            self.log.write("valid", step, {"stage": plan.name, **losses})
            shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
            self.log.say(f"step {step}: validation {shown}")
            if self.shown is not None and self.vocoder is not None:
                self.sample(state, self.shown, self.vocoder)
        if is_lead():
            picture = self.folder / "losses.png"
            self._try(step, picture.name, lambda: draw_losses(self.log.path, picture))
        if self.listen is not None:
            average = self.layout.fetch(state.average)
            loaded = Loaded(plan.config, plan.run.features, plan.table, average)
            if is_lead():
                self._hear(step, self.listen, loaded)

    def losses(self, state: TrainState) -> dict[str, float]:
        """Mean losses over the validation set, by frames; nothing in them depends on the step.

        Args:
            state: whose parameters are judged, by the scheduled numbers of the stage's last step.
        """
        assert self.valid is not None
        run, recipe = self.plan.run, self.plan.recipe
        values = values_at(schedules_of(run), jnp.asarray(self.plan.end - 1, jnp.int32))
        root = named_key(jax.random.key(run.seed), "valid")
        sums: dict[str, float] = {}
        with iter(self.valid) as batches:
            for batch in batches:
                key = named_key(root, batch.step)
                found = call_valid_step(
                    self.programs, recipe, self.layout, state, batch, key, values
                )
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        count = max(sums.pop("count", 0.0), 1.0)
        return {name: value / count for name, value in sums.items()}

    def sample(self, state: TrainState, batch: Batch, vocoder: Vocoder) -> None:
        """Continues validation items from their own beginnings; writes audio and a picture of each.

        Files are samples/STEP-ITEM.wav and .png. What cannot be made or written costs one line.
        """
        step = int(state.step)
        rows = [i for i, name in enumerate(batch.ids) if name][: self.plan.run.samples]
        for row in rows:
            what = f"sample of {batch.ids[row]}"
            try:
                mel, prompt = self._continue(state, batch, row)
            except Exception as error:  # such as too little memory for a longer sample
                if jax.process_count() > 1:  # the others would wait for this one
                    raise
                self._say_lost(step, what, error)
                continue
            if is_lead():
                self._try(
                    step, what,
                    lambda row=row, mel=mel, prompt=prompt: self._write_sample(
                        step, batch, row, mel, prompt, vocoder
                    ),
                )  # fmt: skip

    def _continue(
        self, state: TrainState, batch: Batch, row: int
    ) -> tuple[Float[np.ndarray, "frames channels_feat"], int]:
        """An item's unscaled features, sampled after a prompt of its own first frames."""
        run, recipe, layout = self.plan.run, self.plan.recipe, self.layout
        sampling = SamplingConfig.for_model(recipe.config, feat_scale=run.feat_scale)
        one = {name: array[row : row + 1] for name, array in batch.arrays.items()}
        frames = int(one["features_lens"][0])
        prompt = int(PROMPT_SHARE * frames)
        size = one["features"].shape
        key = named_key(jax.random.key(run.seed), "sample", batch.ids[row])
        inputs = SampleInputs(
            tokens=jnp.asarray(one["tokens"]),
            tokens_lens=jnp.asarray(one["tokens_lens"]),
            prompt_features=jnp.asarray(one["features"] * np.float32(run.feat_scale)),
            prompt_lens=jnp.asarray([prompt], jnp.int32),
            features_lens=jnp.asarray(one["features_lens"]),
            noise=item_noise(key, size[1], size[2])[None],
        )
        times = jnp.asarray(time_steps(sampling.num_step, sampling.t_shift, sampling.schedule))

        def sampler(params: Any, inputs: SampleInputs, times: Array, steered: Any) -> Any:
            return sample(layout.whole(params), recipe.config, inputs, times, **steered)

        out = self.programs.run(
            ("sample", recipe, batch.bucket),
            f"sample {recipe}, {batch.bucket}",
            lambda: jax.jit(sampler, out_shardings=layout.everywhere),
            state.average,
            *layout.replicate((inputs, times, steering(sampling, 1))),
        )
        # What sampling makes of the prompt itself is of no use.
        mel = np.asarray(out)[0, :frames] / np.float32(run.feat_scale)
        return np.concatenate([one["features"][0, :prompt], mel[prompt:]]), prompt

    def _write_sample(
        self,
        step: int,
        batch: Batch,
        row: int,
        mel: Float[np.ndarray, "frames channels_feat"],
        prompt: int,
        vocoder: Vocoder,
    ) -> None:
        """Audio and picture of one item, for whoever opens the folder and for the log."""
        features, folder = self.plan.run.features, self.folder / "samples"
        true = batch.arrays["features"][row, : int(batch.arrays["features_lens"][row])]
        name = f"{step:07d}-{''.join(c if c.isalnum() else '_' for c in batch.ids[row])[:80]}"
        wave = np.stack(vocoder(np.split(mel, mel.shape[1] // features.n_mels, axis=1)))
        rate = features.sampling_rate
        write_audio(folder / f"{name}.wav", wave, rate)
        figure = draw_sample(true, mel, prompt, rate / features.hop_length, batch.ids[row], step)
        save_picture(figure, folder / f"{name}.png", dpi=80)
        self.log.sample(f"sample/{batch.ids[row]}", step, wave.mean(axis=0), rate, figure)

    def _hear(self, step: int, listen: Listen, loaded: Loaded) -> None:
        """Logs the words heard of a model, such as their error rate; a failure ends nothing."""
        try:
            found = listen(loaded)
        except Exception as error:  # of a recogniser, which may fail in any way
            self.log.say(f"step {step}: nothing can be heard: {_in_words(error)}")
            return
        self.log.write("heard", step, {"stage": self.plan.name, **found})
        shown = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
        shown = shown or "nothing, no item is for this kind of model"
        self.log.say(f"step {step}: heard {shown}")

    def _try(self, step: int, what: str, work: Callable[[], object]) -> None:
        """Does what may fail without ending a run: a full disk, a vocoder, pictures."""
        try:
            work()
        except Exception as error:
            self._say_lost(step, what, error)

    def _say_lost(self, step: int, what: str, error: Exception) -> None:
        self.log.say(f"step {step}: no {what}: {_in_words(error)}")


def _in_words(error: Exception) -> str:
    """An error as part of one line; unexpected ones with their type."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())[:300]}"

"""Items of the validation data, spoken at each checkpoint as audio and picture."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zipvoice_jax.audio.io import write_audio
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.core.processes import is_lead
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.loader import Validation
from zipvoice_jax.flow.sampling import SampleInputs, item_noise, sample, steering, time_steps
from zipvoice_jax.train.pictures import draw_sample
from zipvoice_jax.train.session import Session
from zipvoice_jax.train.stages import StagePlan
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import program_id
from zipvoice_jax.vocoder.base import Vocoder
from zipvoice_jax.vocoder.find import find_vocoder

PROMPT_SHARE = 0.4  # of an item serves as its prompt


def open_samples(plan: StagePlan, session: Session, valid: Validation) -> "Samples":
    """The samples of a stage, of the first batch of its validation data.

    Raises:
        UserError: the data or the vocoder cannot be used.
    """
    vocoder, note = find_vocoder(plan.run.vocoder_path, plan.run.features)
    session.log.say(f"samples by {vocoder.name}{note and f' ({note})'}")
    with iter(valid) as batches:
        return Samples(plan, session, next(batches), vocoder)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Continues items from their own beginnings.

    Attributes:
        plan: the stage.
        session: the run.
        batch: whose first items are sampled, whole on every process.
        vocoder: makes the audio.
    """

    plan: StagePlan
    session: Session
    batch: Batch
    vocoder: Vocoder

    def __call__(self, state: TrainState) -> None:
        """Writes samples/STEP-ITEM.wav and .png; what cannot be made or written costs one line."""
        step, log, ids = int(state.step), self.session.log, self.batch.ids
        for row in [i for i, name in enumerate(ids) if name][: self.plan.run.samples]:
            what = f"sample of {ids[row]}"
            try:
                mel, prompt = self._continue(state, row)
            except Exception as error:  # such as too little memory for a longer sample
                if jax.process_count() > 1:  # the others would wait for this one
                    raise
                log.lost(step, what, error)
                continue
            if is_lead():
                with log.may_fail(step, what):
                    self._write(step, row, mel, prompt)

    def _continue(
        self, state: TrainState, row: int
    ) -> tuple[Float[np.ndarray, "frames channels_feat"], int]:
        """An item's unscaled features, sampled after a prompt of its own first frames."""
        run, recipe, batch = self.plan.run, self.plan.recipe, self.batch
        layout = self.session.layout
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

        out = self.session.programs.run(
            *program_id("sample", recipe, batch.bucket),
            lambda: jax.jit(sampler, out_shardings=layout.everywhere),
            state.average, *layout.replicate((inputs, times, steering(sampling, 1))),
        )  # fmt: skip
        # What sampling makes of the prompt itself is of no use.
        mel = np.asarray(out)[0, :frames] / np.float32(run.feat_scale)
        return np.concatenate([one["features"][0, :prompt], mel[prompt:]]), prompt

    def _write(
        self, step: int, row: int, mel: Float[np.ndarray, "frames channels_feat"], prompt: int
    ) -> None:
        """Audio and picture of one item, for whoever opens the folder and for the log."""
        features, folder, item = (
            self.plan.run.features, self.session.folder / "samples", self.batch.ids[row]
        )  # fmt: skip
        true = self.batch.arrays["features"][row, : int(self.batch.arrays["features_lens"][row])]
        name = f"{step:07d}-{''.join(c if c.isalnum() else '_' for c in item)[:80]}"
        wave = np.stack(self.vocoder(np.split(mel, mel.shape[1] // features.n_mels, axis=1)))
        rate = features.sampling_rate
        write_audio(folder / f"{name}.wav", wave, rate)
        figure = draw_sample(true, mel, prompt, rate / features.hop_length, item, step)
        save_picture(figure, folder / f"{name}.png", dpi=80)
        self.session.log.sample(f"sample/{item}", step, wave.mean(axis=0), rate, figure)

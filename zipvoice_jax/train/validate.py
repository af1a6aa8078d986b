"""Validation: losses on fixed noise and times, and a sampled item as audio and picture."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.io import write_audio
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.pictures import save_picture
from zipvoice_jax.core.processes import is_lead
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.loader import Validation
from zipvoice_jax.flow.sampling import SampleInputs, item_noise, time_steps
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.curriculum import values_at
from zipvoice_jax.train.log import RunLog
from zipvoice_jax.train.programs import Programs
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import StepRecipe
from zipvoice_jax.vocoder.base import Vocoder

# What hears words in the speech of a model; see `zipvoice-jax train --listen`.
Listen = Callable[[Loaded], Mapping[str, float]]
PROMPT_SHARE = 0.4  # of a sampled item is given as its prompt


def validation_losses(
    programs: Programs, recipe: StepRecipe, batches: Validation, state: TrainState, end: int
) -> dict[str, float]:
    """Mean losses over a validation set, by frames; nothing in them depends on the step.

    Args:
        programs: of the run.
        recipe: of the stage.
        batches: every utterance once.
        state: whose parameters are judged.
        end: the stage's last step, whose scheduled numbers count throughout.
    """
    values = values_at(programs.schedules, jnp.asarray(end - 1, jnp.int32))
    root = named_key(jax.random.key(recipe.run.seed), "valid")
    sums: dict[str, float] = {}
    with iter(batches) as iterator:
        for batch in iterator:
            key = named_key(root, batch.step)
            for name, value in programs.validate(recipe, batch, state, key, values).items():
                sums[name] = sums.get(name, 0.0) + float(value)
    count = max(sums.pop("count", 0.0), 1.0)
    return {name: value / count for name, value in sums.items()}


def first_batch(batches: Validation) -> Batch:
    """The batch whose items are sampled."""
    with iter(batches) as iterator:
        return next(iterator)


def log_words(listen: Listen, loaded: Loaded, log: RunLog, step: int, stage: str) -> None:
    """Logs what is heard of a model; a failure is told and ends nothing.

    Args:
        listen: gives numbers such as a word error rate.
        loaded: the averaged model, on the host.
        log: of the run.
        step: of the checkpoint.
        stage: name of the stage.
    """
    if not is_lead():
        return
    try:
        found = listen(loaded)
    except Exception as error:  # of a recogniser, which may fail in any way
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        log.say(f"step {step}: nothing can be heard: {kind}{' '.join(str(error).split())[:300]}")
        return
    log.write("heard", step, {"stage": stage, **found})
    shown = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
    log.say(f"step {step}: heard {shown or 'nothing, no item is for this kind of model'}")


def sample_items(
    programs: Programs,
    recipe: StepRecipe,
    batch: Batch,
    state: TrainState,
    vocoder: Vocoder,
    *,
    folder: Path,
    step: int,
    log: RunLog,
) -> None:
    """Continues validation items from their own beginnings; writes audio and a picture of each.

    Files are FOLDER/STEP-ITEM.wav and .png. What cannot be made or written is told, and no more.
    """
    run, config = recipe.run, recipe.config
    sampling = SamplingConfig.for_kind(config.kind)
    rows = [i for i, name in enumerate(batch.ids) if name][: run.samples]
    for row in rows:
        try:
            mel, prompt = _continue(programs, recipe, batch, row, state, sampling)
        except Exception as error:  # such as too little memory for a longer sample
            if jax.process_count() > 1:  # the others would wait for this one
                raise
            _tell_lost(log, step, batch.ids[row], error)
            continue
        if not is_lead():
            continue
        try:
            _write_sample(batch, row, mel, prompt, vocoder, run, folder, step, log)
        except Exception as error:  # a full disk, a vocoder, a library of pictures
            _tell_lost(log, step, batch.ids[row], error)


def _tell_lost(log: RunLog, step: int, name: str, error: Exception) -> None:
    """A line about a sample that is not there; no run ends for one."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    log.say(f"step {step}: no sample of {name} ({kind}{' '.join(str(error).split())[:300]})")


def _write_sample(
    batch: Batch,
    row: int,
    mel: Float[np.ndarray, "frames channels_feat"],
    prompt: int,
    vocoder: Vocoder,
    run: TrainConfig,
    folder: Path,
    step: int,
    log: RunLog,
) -> None:
    """Audio and picture of one item, for whoever opens the folder and for the log."""
    frames = int(batch.arrays["features_lens"][row])
    true = batch.arrays["features"][row, :frames]
    name = f"{step:07d}-{''.join(c if c.isalnum() else '_' for c in batch.ids[row])[:80]}"
    channels = np.split(mel, mel.shape[1] // run.features.n_mels, axis=1)
    wave = np.stack(vocoder(channels))
    rate = run.features.sampling_rate
    write_audio(folder / f"{name}.wav", wave, rate)
    figure = _picture(true, mel, prompt, rate / run.features.hop_length, batch.ids[row], step)
    save_picture(figure, folder / f"{name}.png", dpi=80)
    log.sample(f"sample/{batch.ids[row]}", step, wave.mean(axis=0), rate, figure)


def _continue(
    programs: Programs,
    recipe: StepRecipe,
    batch: Batch,
    row: int,
    state: TrainState,
    sampling: SamplingConfig,
) -> tuple[Float[np.ndarray, "frames channels_feat"], int]:
    """An item's unscaled features, sampled after a prompt of its own first frames."""
    run, arrays = recipe.run, batch.arrays
    one = {name: array[row : row + 1] for name, array in arrays.items()}
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
    times = time_steps(sampling.num_step, sampling.t_shift, sampling.schedule)
    scale = jnp.full((1,), sampling.guidance_scale)
    out = programs.sample(recipe, batch.bucket, state.average, inputs, jnp.asarray(times), scale)
    # What sampling makes of the prompt itself is of no use.
    mel = np.asarray(out)[0, :frames] / np.float32(run.feat_scale)
    return np.concatenate([one["features"][0, :prompt], mel[prompt:]]), prompt


def _picture(
    true: np.ndarray, made: np.ndarray, prompt: int, fps: float, name: str, step: int
) -> Any:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 5), sharex=True)
    low, high = float(true.min()), float(true.max())
    for axis, mel, title in ((axes[0], true, "recording"), (axes[1], made, f"step {step}")):
        extent = (0.0, len(mel) / fps, 0.0, float(mel.shape[1]))
        axis.imshow(
            mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high
        )
        axis.axvline(prompt / fps, color="white", linestyle="--", linewidth=0.8)
        axis.set_ylabel("mel bin")
        axis.set_title(f"{name}: {title}", fontsize=9, loc="left")
    axes[-1].set_xlabel("seconds (before the line: prompt)")
    figure.tight_layout()
    plt.close(figure)
    return figure

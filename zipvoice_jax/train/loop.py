"""The training loop: stage after stage, step after step, from wherever the last run stopped."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.checkpoint.hub import load_model
from zipvoice_jax.checkpoint.mapping import count_parameters
from zipvoice_jax.checkpoint.native import is_native, save_native
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.peak import matmul_flops_per_second
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.loader import Loader, validation_batches
from zipvoice_jax.models.flops import training_flops
from zipvoice_jax.models.zipvoice import abstract_params
from zipvoice_jax.train.checkpoints import Checkpoints
from zipvoice_jax.train.config import TrainConfig, differences
from zipvoice_jax.train.export import exported_params
from zipvoice_jax.train.log import RunLog, draw_losses
from zipvoice_jax.train.objectives import teacher_of
from zipvoice_jax.train.programs import Programs
from zipvoice_jax.train.scaled_adam import ScaledAdamState, grow_state
from zipvoice_jax.train.stages import StageModel, entered, first_params, stage_model
from zipvoice_jax.train.state import TrainState, new_state
from zipvoice_jax.train.step import StepRecipe
from zipvoice_jax.train.validate import sample_items, validation_losses

CONFIG = "config.json"
LOCK = ".lock"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        done: whether all stages are through; else it was asked to stop and can be resumed.
        step: steps done in all.
        model: directory of the last finished stage's model, None if none is finished.
    """

    done: bool
    step: int
    model: Path | None


def train(
    run: TrainConfig,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    allow_config_change: bool = False,
) -> Outcome:
    """Runs or resumes a training.

    The folder gets config.json, log.jsonl, tensorboard/, samples/, checkpoints/ and, for each
    finished stage, STAGE/ with its model.

    Args:
        run: the config.
        folder: of the run; what is there of an earlier attempt is continued.
        stop: asked after every step; True saves a checkpoint and returns.
        allow_config_change: goes on although the config is not that of the earlier attempt.

    Raises:
        UserError: data, config or folder cannot be used, or the loss stays without a value.
    """
    folder = Path(folder).absolute()
    with _alone_in(folder):
        return _train(run, folder, stop, allow_config_change)


def _train(
    run: TrainConfig, folder: Path, stop: Callable[[], bool], allow_config_change: bool
) -> Outcome:
    _keep_config(run, folder, allow_config_change)
    checkpoints = _open_checkpoints(run, folder)
    programs = Programs(run)
    latest = checkpoints.steps[-1] if checkpoints.steps else None
    first = 0 if latest is None else int(checkpoints.meta(latest)["stage"])
    log = RunLog(folder, start=latest or 0, total=run.boundaries[-1], config=run.to_dict())
    state, model_folder = None, None
    try:
        for index in range(first, len(run.stages)):
            model = stage_model(run, index)
            place = _Stage(run, index, model, folder)
            if index == first and latest is not None:
                state = _restore(programs, model, run, index, checkpoints, latest)
                log.say(f"goes on from step {latest} in stage {place.name}")
            else:
                state = _begin(programs, place, state)
            if int(state.step) < place.end:
                state = _run_stage(place, state, programs, checkpoints, log, stop)
            if int(state.step) < place.end:
                return Outcome(False, int(state.step), model_folder)
            checkpoints.wait()
            model_folder = folder / place.name
            before = functools.partial(_restore, programs, model, run, index, checkpoints)
            if not is_native(model_folder):
                since = None if run.export_window == 0 else run.window_starts[index]
                params = exported_params(run, index, state, since, before)
                save_native(model_folder, model.config, run.features, model.table, params)
            log.say(f"stage {place.name} is done; its model is in {model_folder}")
        assert state is not None
        return Outcome(True, int(state.step), model_folder)
    finally:
        checkpoints.close()
        log.close()


@dataclasses.dataclass(frozen=True)
class _Stage:
    """A stage and where it lies in the run."""

    run: TrainConfig
    index: int
    model: StageModel
    folder: Path

    @property
    def name(self) -> str:
        return self.run.stages[self.index].name

    @property
    def begin(self) -> int:
        return self.run.boundaries[self.index]

    @property
    def end(self) -> int:
        return self.run.boundaries[self.index + 1]

    @property
    def recipe(self) -> StepRecipe:
        objective = self.run.stages[self.index].objective
        return StepRecipe(self.model.config, objective, self.run)


def export_step(
    run: TrainConfig, folder: Path, step: int, target: Path, *, average_since: int | None = None
) -> None:
    """Writes the model of a checkpoint that a run has kept.

    Args:
        run: the config.
        folder: of the run.
        step: of the checkpoint.
        target: model directory to make.
        average_since: averages over the steps after this checkpoint, or after the beginning of
            the stage; None takes the parameters as they are.

    Raises:
        UserError: there is no such checkpoint, or the target cannot be written.
    """
    with _alone_in(folder):
        checkpoints = _open_checkpoints(run, folder)
        try:
            for wanted in (step, average_since):
                if wanted not in (None, *checkpoints.steps, *run.boundaries):
                    raise UserError(
                        f"{folder} has no checkpoint of step {wanted}; choose one of "
                        f"{', '.join(map(str, checkpoints.steps)) or 'none'}."
                    )
            index = int(checkpoints.meta(step)["stage"])
            model = stage_model(run, index)
            read = functools.partial(_restore, Programs(run), model, run, index, checkpoints)
            state = read(step)
            params = exported_params(run, index, state, average_since, read)
            save_native(target, model.config, run.features, model.table, params)
        finally:
            checkpoints.close()


def _open_checkpoints(run: TrainConfig, folder: Path) -> Checkpoints:
    return Checkpoints(
        folder / "checkpoints",
        keep_last=run.keep_last,
        keep_every=run.keep_every,
        keep_best=run.keep_best,
        keep_steps=run.window_starts,
    )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second process of this machine out of a run's folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is training in {folder}; wait for it, or give another folder."
            ) from None
        yield


def _keep_config(run: TrainConfig, folder: Path, allow_change: bool) -> None:
    """Writes the config beside the checkpoints, and refuses one that is not theirs."""
    path, values = folder / CONFIG, run.to_dict()
    try:
        old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else values
        changed = differences(old, values)
        if changed and not allow_change:
            raise UserError(
                f"{folder} holds a run with another config ({'; '.join(changed)}); give "
                "another folder, or --allow-config-change to go on with this one."
            )
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).") from None
    except ValueError:
        raise UserError(f"{path} is not readable JSON; remove it to go on.") from None


def _begin(programs: Programs, place: _Stage, before: TrainState | None) -> TrainState:
    """The state at a stage's start: from `init` or nothing, or from the model before it."""
    run, index = place.run, place.index
    if index == 0:
        params, teacher = first_params(run)
    else:
        previous = place.folder / run.stages[index - 1].name
        params, teacher = entered(run, index, load_model(model_dir=previous))
    opt_state = None
    if run.stages[index].keep_optimizer and before is not None:
        if not isinstance(before.opt_state, ScaledAdamState):
            raise UserError(f"stage {place.name}: keep_optimizer needs scaled_adam.")
        opt_state = grow_state(before.opt_state, params)
    state = new_state(
        params,
        programs.optimizer,
        seed=run.seed,
        step=place.begin,
        teacher=dict(teacher),
        opt_state=opt_state,
        skipped=0 if before is None else int(before.skipped),
    )
    return programs.place(state)


def _restore(
    programs: Programs,
    model: StageModel,
    run: TrainConfig,
    index: int,
    checkpoints: Checkpoints,
    step: int,
) -> TrainState:
    """The state of a checkpoint, on the devices of this run."""
    objective = run.stages[index].objective
    start = functools.partial(new_state, optimizer=programs.optimizer, seed=run.seed)
    teacher = {} if objective == "flow" else abstract_params(teacher_of(model.config, objective))
    like = jax.eval_shape(start, abstract_params(model.config), teacher=teacher)
    return checkpoints.restore(step, like, programs.everywhere)


def _run_stage(
    place: _Stage,
    state: TrainState,
    programs: Programs,
    checkpoints: Checkpoints,
    log: RunLog,
    stop: Callable[[], bool],
) -> TrainState:
    """Steps until the stage's end, or until asked to stop; the last step is saved either way."""
    run, stage, model, recipe = place.run, place.run.stages[place.index], place.model, place.recipe
    devices = jax.device_count()
    loader = Loader(
        stage.data,
        model.table,
        run.features,
        seed=run.seed,
        stage=stage.name,
        batch_multiple=math.lcm(run.batch_multiple, devices * run.accumulate),
        host_index=jax.process_index(),
        host_count=jax.process_count(),
    )
    valid = None
    if stage.valid is not None:
        valid = validation_batches(
            stage.valid, model.table, run.features, buckets=loader.buckets,
            host_index=jax.process_index(), host_count=jax.process_count(),
        )  # fmt: skip
    log.say(
        f"stage {stage.name}: {stage.kind}, {count_parameters(state.params):,} parameters, steps "
        f"{place.begin} to {place.end}, {devices} device(s)\n{loader.report()}"
    )
    step, pending = int(state.step), None
    peak = jax.device_count() * matmul_flops_per_second(model.config.dtype)
    watch = _Watch(place, log, peak)
    with loader.iterate(step - place.begin) as batches:
        while step < place.end:
            batch = next(batches)
            known = len(programs.compilations)
            state, metrics = programs.train(recipe, batch, state)
            step += 1
            for compilation in programs.compilations[known:]:
                log.say(f"compiled {compilation.name} in {compilation.seconds:.1f} s")
                watch.restart()
            # The metrics of the step before: reading those of this one would wait for it.
            if pending is not None:
                watch.note(*pending)
            pending = (step, batch, metrics)
            asked = stop()
            due = step % run.save_every == 0 or step in (place.end, *run.window_starts)
            if due or asked:
                watch.note(*pending)
                pending = None
                loss = None
                if due and valid is not None:
                    losses = validation_losses(programs, recipe, valid, state, place.end)
                    loss = losses["loss"]
                    log.write("valid", step, losses)
                    told = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
                    log.say(f"step {step}: validation {told}")
                    if run.samples:
                        sample_items(
                            programs, recipe, valid, state,
                            folder=place.folder / "samples", step=step, log=log,
                        )  # fmt: skip
                if due:
                    draw_losses(log.path, place.folder / "losses.png")
                meta = {
                    "stage": place.index,
                    "name": stage.name,
                    "data": batches.get_state(),
                    "fingerprint": model.table.fingerprint,
                    "config": run.to_dict(),
                }
                checkpoints.save(state, meta, loss=loss, wait=asked or step == place.end)
                watch.restart()
            if asked:
                break
    if batches.corrupt:
        log.say(f"{len(batches.corrupt)} records could not be used: {'; '.join(batches.corrupt)}")
    return state


class _Watch:
    """Reads metrics, tells progress, and stops a run whose loss has no value."""

    def __init__(self, place: _Stage, log: RunLog, peak: float) -> None:
        self.place, self.log, self.peak = place, log, peak
        self.restart()

    def restart(self) -> None:
        """Forgets the time so far, which went into something else than steps."""
        self.since, self.frames, self.flops, self.sizes = time.perf_counter(), 0.0, 0.0, 0.0

    def note(self, step: int, batch: Batch, metrics: dict[str, Any]) -> None:
        """Takes in the metrics of a step.

        Raises:
            UserError: too many steps in a row had no finite loss or gradient.
        """
        run, config = self.place.run, self.place.model.config
        values = {name: float(value) for name, value in metrics.items()}
        bucket = batch.bucket
        self.frames += values["frames"]
        self.sizes += bucket.batch * bucket.frames
        # Padding is no work that anyone wanted.
        self.flops += (
            (1.0 - values["padding"])
            * bucket.batch
            * training_flops(config, bucket.frames, bucket.tokens, channels=bucket.channels)
        )
        seconds = max(time.perf_counter() - self.since, 1e-9)
        speed = {
            "frames_per_second": self.frames / seconds,
            "teraflops": self.flops / seconds / 1e12,
            "utilisation": self.flops / seconds / self.peak,
        }
        self.log.bar.update(step - self.log.bar.n)
        self.log.bar.set_postfix_str(
            f"{self.place.name} loss {values['loss']:.4f}, "
            f"{speed['frames_per_second']:.0f} frames/s, MFU {speed['utilisation']:.1%}, "
            f"padding {1.0 - self.frames / self.sizes:.1%}"
        )
        if step % run.log_every == 0 or values["bad_steps"] or step == self.place.end:
            about = {"stage": self.place.name, "bucket": str(bucket)}
            self.log.write("train", step, {**about, **values, **speed})
        if values["bad_steps"] >= run.max_bad_steps:
            raise UserError(
                f"the loss or its gradient was not finite in {run.max_bad_steps} steps in a row, "
                f"the last of them {step}; lower the learning rate, or look for bad data."
            )

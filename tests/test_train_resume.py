"""What a run keeps, checks and says, without the time of training: its step is replaced.

The step here adds 1 to the step's number and to every parameter; all else is the real loop.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training import TOKENS, flac, make_data, speechlike, weights, write_config

from zipvoice_jax.cli.train import load_config
from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.records import write_dataset
from zipvoice_jax.data.utterance import Utterance
from zipvoice_jax.models.zipvoice import init_params
from zipvoice_jax.train.checkpoints import Checkpoints
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.loop import Outcome, train
from zipvoice_jax.train.programs import Programs
from zipvoice_jax.train.scaled_adam import grow_state
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import StepRecipe

Go = Callable[..., Outcome]


@functools.cache
def first(config: ModelConfig) -> Any:
    """Parameters to begin with, which take a while to compile."""
    return init_params(config, jax.random.key(0))


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[TrainState]:
    """The states before each step of all runs of a test."""
    seen: list[TrainState] = []

    def step(
        self: Programs, recipe: StepRecipe, batch: Batch, state: TrainState, *, asked: bool
    ) -> Any:
        seen.append(state)
        params = jax.tree.map(lambda x: x + 1.0, state.params)
        values = {"loss": 1.0, "frames": 9.0, "padding": 0.5, "bad_steps": 0.0, "asked": asked}
        after = state.replace(step=state.step + 1, params=params)  # type: ignore[attr-defined]
        return after, values

    monkeypatch.setattr(Programs, "train", step)
    monkeypatch.setattr("zipvoice_jax.train.stages.init_params", lambda config, _: first(config))
    monkeypatch.setattr("zipvoice_jax.train.watch.matmul_flops_per_second", lambda dtype: 1.0)
    return seen


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def config(folder: Path, data: Path, *settings: str) -> TrainConfig:
    return load_config(write_config(folder), [f"data={data}", *settings])


def stop_at(step: int, states: list[TrainState]) -> Callable[[], bool]:
    return lambda: len(states) >= step


def swapped_tokens(path: Path) -> Path:
    """The token table with two tokens exchanged."""
    rows = [line.split("\t") for line in TOKENS.read_text(encoding="utf-8").splitlines()]
    rows[5][0], rows[6][0] = rows[6][0], rows[5][0]
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_run_goes_on_with_its_own_tokens_only(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    table = tmp_path / "tokens.txt"
    shutil.copyfile(TOKENS, table)
    run = config(tmp_path, data, "stages=one", f"tokens={table}")
    assert not train(run, tmp_path / "run", stop=stop_at(3, states)).done
    swapped_tokens(table)
    with pytest.raises(UserError, match="was trained with another token table"):
        train(run, tmp_path / "run")
    shutil.copyfile(TOKENS, table)
    assert train(run, tmp_path / "run").step == 8


def test_another_config_is_shown_and_refused(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    train(config(tmp_path, data, "stages=one"), tmp_path / "run", stop=stop_at(3, states))
    for setting, told in (
        ("steps=9", "stages.0.steps: 8 -> 9"),
        ("batch_multiple=2", "batch_multiple: 1 -> 2"),
    ):
        other = config(tmp_path, data, "stages=one", setting)
        with pytest.raises(UserError, match=f"{told}.*--allow-config-change"):
            train(other, tmp_path / "run")
    # An attempt that came to no checkpoint binds no one.
    empty = tmp_path / "empty"
    train(config(tmp_path, data, "stages=one"), empty, stop=stop_at(0, states))
    shutil.rmtree(empty / "checkpoints")
    assert train(config(tmp_path, data, "stages=one", "steps=3"), empty).step == 3


def test_a_run_goes_on_with_its_own_data_only(tmp_path: Path, states: list[TrainState]) -> None:
    data = make_data(tmp_path / "data")
    run = config(tmp_path, data, "stages=one")
    train(run, tmp_path / "run", stop=stop_at(3, states))
    shutil.rmtree(data)
    make_data(data, count=16)
    with pytest.raises(UserError, match="belongs to another order of batches"):
        train(run, tmp_path / "run")
    assert train(run, tmp_path / "run", allow_config_change=True).done


def test_checkpoints_elsewhere_are_held_to_their_config_too(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    place = str(tmp_path / "elsewhere")
    run = config(tmp_path, data, "stages=one")
    train(run, tmp_path / "run", checkpoints=place, stop=stop_at(3, states))
    other = dataclasses.replace(run, seed=7)
    with pytest.raises(UserError, match=r"elsewhere holds a run with another config \(seed: 42"):
        train(other, tmp_path / "fresh", checkpoints=place)
    assert train(run, tmp_path / "again", checkpoints=place).done


def test_what_a_later_stage_lacks_is_told_before_the_first_step(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    run = config(tmp_path, data)
    one, two = run.stages
    source = dataclasses.replace(two.data.sources[0], path=str(tmp_path / "nowhere"))
    for late, told in (
        (
            dataclasses.replace(two, data=dataclasses.replace(two.data, sources=(source,))),
            "nowhere",
        ),
        (dataclasses.replace(two, tokens=str(tmp_path / "none.txt")), "none.txt"),
        (dataclasses.replace(two, kind="zipvoice_distill", objective="distill_second"), "teacher"),
    ):
        with pytest.raises(UserError, match=told):
            train(dataclasses.replace(run, stages=(one, late)), tmp_path / "run")
    back = dataclasses.replace(one, name="back")
    with pytest.raises(UserError, match="cannot be grown from zipvoice_dialog"):
        train(dataclasses.replace(run, stages=(one, two, back)), tmp_path / "run")
    assert states == []


def test_a_stage_can_begin_with_an_earlier_one_than_the_last(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    run = config(tmp_path, data, "steps=2")
    one, two = run.stages
    student = dataclasses.replace(
        one, name="student", kind="zipvoice_distill", objective="distill_first", after="one"
    )
    run = dataclasses.replace(run, stages=(one, two, student), export_window=0)
    assert train(run, tmp_path / "run").done
    taught = weights(tmp_path / "run" / "one")
    first = states[4]  # the student's
    for path, value in weights(tmp_path / "run" / "student").items():
        if path in taught:
            assert np.array_equal(value, taught[path] + 2.0)  # two steps after it
    embedding = first.teacher["embed"]["embedding"]
    assert np.array_equal(embedding, taught["embed", "embedding"])


def test_an_optimiser_that_is_kept_follows_its_tokens(
    tmp_path: Path, data: Path, states: list[TrainState], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[Any, Any]] = []

    def grow(state: Any, params: Any, *, source_rows: dict[Any, Any]) -> Any:
        given.append(source_rows)
        return grow_state(state, params, source_rows=source_rows)

    monkeypatch.setattr("zipvoice_jax.train.loop.grow_state", grow)
    run = config(tmp_path, data, "steps=2")
    one, two = run.stages
    table = swapped_tokens(tmp_path / "tokens.txt")
    two = dataclasses.replace(two, tokens=str(table), keep_optimizer=True)
    run = dataclasses.replace(run, stages=(one, two), export_window=0)
    assert train(run, tmp_path / "run").done
    moved = list(range(362))
    moved[5], moved[6] = 6, 5
    assert given == [{("embed", "embedding"): moved}]
    before, after = (np.asarray(s.params["embed"]["embedding"]) for s in (states[1], states[2]))
    assert np.array_equal(after, before[moved] + 1.0)


def test_a_window_without_its_checkpoint_is_the_whole_stage(
    tmp_path: Path, data: Path, states: list[TrainState], capfd: pytest.CaptureFixture[str]
) -> None:
    run = config(tmp_path, data, "stages=one")
    folder = tmp_path / "run"
    assert not train(run, folder, stop=stop_at(5, states)).done
    assert train(dataclasses.replace(run, export_window=6), folder, allow_config_change=True).done
    assert "averaging over the whole stage" in capfd.readouterr().err


def test_records_that_cannot_be_used_are_named_as_they_come(
    tmp_path: Path, states: list[TrainState], capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    about = ("hello", tuple("hɛlo"), "en", 2.0, 1)
    good = [Utterance(f"good{i}", *about, flac(speechlike(rng, 2.0))) for i in range(6)]
    bad = Utterance("bad", *about, b"no sound at all")
    write_dataset(tmp_path / "data" / "mono", "mono", {"train": [*good, bad]})
    train(config(tmp_path, tmp_path / "data", "stages=one"), tmp_path / "run")
    assert "a record cannot be used: " in capfd.readouterr().err
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [entry for entry in map(json.loads, lines) if entry["kind"] == "corrupt"]
    assert len(found) == 1 and "bad" in found[0]["record"]


def test_checkpoints_are_kept_as_asked(tmp_path: Path, states: list[TrainState]) -> None:
    kept = Checkpoints(tmp_path, keep_last=1, keep_every=4, keep_best=1, keep_steps=(3,))
    state = TrainState(
        step=jnp.int32(0), params={"w": jnp.zeros(2)}, opt_state={"m": jnp.zeros(2)},
        average={"w": jnp.zeros(2)}, teacher={}, bad_steps=jnp.int32(0), skipped=jnp.int32(0),
        key=jax.random.key(0),
    )  # fmt: skip
    losses = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.7, 5: 0.5, 6: 0.6, 7: np.inf}
    for step, loss in losses.items():
        now = state.replace(step=jnp.int32(step))  # type: ignore[attr-defined]
        # A stage with higher losses begins with step 4.
        kept.save(now, {"stage": int(step >= 4)}, loss=loss, wait=True)
    kept.close()
    # A step to keep, a multiple, the best of the latest stage, the last.
    assert Checkpoints(tmp_path, keep_last=1).steps == (3, 4, 5, 7)

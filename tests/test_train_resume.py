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
import numpy as np
import pytest
from complaints import user_error
from datasets import write_dataset
from fakes import Tone, fake_models
from generation import DIALOGUE, TEXT1, TEXT2, WAV1, WAV2, made, write_list
from training import TOKENS, flac, make_data, speechlike, weights, write_config

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.compiling import Compilation
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.data.utterance import Utterance
from zipvoice_jax.judge.backends import Word
from zipvoice_jax.judge.word_judge import WordJudge
from zipvoice_jax.models.zipvoice import init_params
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.export import export_step
from zipvoice_jax.train.load import load_config
from zipvoice_jax.train.log import RunLog, read_log
from zipvoice_jax.train.loop import TrainResult, train
from zipvoice_jax.train.samples import Samples
from zipvoice_jax.train.scaled_adam import grow_state
from zipvoice_jax.train.state import TrainState
from zipvoice_jax.train.step import Recipe
from zipvoice_jax.train.validate import Review

Go = Callable[..., TrainResult]


@functools.cache
def first(config: ModelConfig) -> Any:
    """Parameters to begin with, which take a while to compile."""
    return init_params(config, jax.random.key(0))


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[TrainState]:
    """The states before each step of all runs of a test."""
    seen: list[TrainState] = []

    def step(programs: Any, recipe: Recipe, layout: Any, state: TrainState, batch: Batch) -> Any:
        seen.append(state)
        params = jax.tree.map(lambda x: x + 1.0, state.params)
        values = {"loss": 1.0, "frames": 9.0, "padding": 0.5, "bad_steps": 0.0}
        after = state.replace(step=state.step + 1, params=params)  # type: ignore[attr-defined]
        return after, values

    monkeypatch.setattr("zipvoice_jax.train.loop.call_train_step", step)
    monkeypatch.setattr("zipvoice_jax.train.stages.init_params", lambda config, _: first(config))
    monkeypatch.setattr("zipvoice_jax.train.log.matmul_flops_per_second", lambda dtype: 1.0)
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
    for setting, message in (
        ("steps=9", "stages.0.steps: 8 -> 9"),
        ("batch_multiple=2", "batch_multiple: 1 -> 2"),
    ):
        other = config(tmp_path, data, "stages=one", setting)
        with pytest.raises(UserError, match=f"{message}.*--allow-config-change"):
            train(other, tmp_path / "run")
    # An attempt that came to no checkpoint binds no one.
    empty = tmp_path / "empty"
    train(config(tmp_path, data, "stages=one"), empty, stop=stop_at(0, states))
    shutil.rmtree(empty / "checkpoints")
    assert train(config(tmp_path, data, "stages=one", "steps=3"), empty).step == 3


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_refused_leaves_its_folder_as_it_was(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    table, folder = shutil.copyfile(TOKENS, tmp_path / "tokens.txt"), tmp_path / "run"
    run = config(tmp_path, data, f"tokens={table}")
    train(run, folder, stop=stop_at(3, states))
    with (folder / "log.jsonl").open("a") as log:  # as a killed run leaves behind
        log.write('{"kind": "train", "step": 7}\n')
    before = files(folder)
    swapped_tokens(table)
    with pytest.raises(UserError, match="another token table"):
        train(run, folder)
    shutil.copyfile(TOKENS, table)
    one, two = run.stages
    lacking = dataclasses.replace(run, stages=(one, dataclasses.replace(two, tokens="none.txt")))
    with pytest.raises(UserError, match=r"none\.txt"):
        train(lacking, folder, allow_config_change=True)
    with pytest.raises(UserError, match="does not divide"):
        train(run, folder, fsdp=3)
    assert files(folder) == before


def test_fewer_stages_than_a_checkpoint_has_seen_are_refused_in_one_line(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    run, folder = config(tmp_path, data, "steps=2"), tmp_path / "run"
    train(run, folder, stop=stop_at(3, states))
    fewer = dataclasses.replace(run, stages=run.stages[:1])
    for attempt in (
        lambda: train(fewer, folder, allow_config_change=True),
        lambda: export_step(fewer, folder, 3, tmp_path / "model"),
    ):
        with user_error("checkpoint is of stage 2, but the config has 1"):
            attempt()


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
    directory = str(tmp_path / "elsewhere")
    run = config(tmp_path, data, "stages=one")
    train(run, tmp_path / "run", checkpoints=directory, stop=stop_at(3, states))
    other = dataclasses.replace(run, seed=7)
    with pytest.raises(UserError, match=r"elsewhere holds a run with another config \(seed: 42"):
        train(other, tmp_path / "fresh", checkpoints=directory)
    assert train(run, tmp_path / "again", checkpoints=directory).done


def test_what_a_later_stage_lacks_is_reported_before_the_first_step(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    run = config(tmp_path, data)
    one, two = run.stages
    source = dataclasses.replace(two.data.sources[0], path=str(tmp_path / "nowhere"))
    for late, message in (
        (
            dataclasses.replace(two, data=dataclasses.replace(two.data, sources=(source,))),
            "nowhere",
        ),
        (dataclasses.replace(two, tokens=str(tmp_path / "none.txt")), "none.txt"),
        (dataclasses.replace(two, kind="zipvoice_distill", objective="distill_second"), "teacher"),
    ):
        with pytest.raises(UserError, match=message):
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
    received: list[dict[Any, Any]] = []

    def grow(state: Any, params: Any, *, source_rows: dict[Any, Any]) -> Any:
        received.append(source_rows)
        return grow_state(state, params, source_rows=source_rows)

    monkeypatch.setattr("zipvoice_jax.train.stages.grow_state", grow)
    run = config(tmp_path, data, "steps=2")
    one, two = run.stages
    table = swapped_tokens(tmp_path / "tokens.txt")
    two = dataclasses.replace(two, tokens=str(table), keep_optimizer=True)
    run = dataclasses.replace(run, stages=(one, two), export_window=0)
    assert train(run, tmp_path / "run").done
    moved = list(range(362))
    moved[5], moved[6] = 6, 5
    assert received == [{("embed", "embedding"): moved}]
    before, after = (np.asarray(s.params["embed"]["embedding"]) for s in (states[1], states[2]))
    assert np.array_equal(after, before[moved] + 1.0)


def test_a_stage_that_was_made_longer_has_the_model_of_its_new_end(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    folder = tmp_path / "run"

    def trained(steps: int) -> dict[tuple[str, ...], np.ndarray]:
        run = config(tmp_path, data, "stages=one", f"steps={steps}")
        run = dataclasses.replace(run, export_window=0)
        assert train(run, folder, allow_config_change=True).done
        return weights(folder / "one")

    short, again, longer = trained(2), trained(2), trained(5)
    for path, value in short.items():
        assert np.array_equal(again[path], value)
        assert np.array_equal(longer[path], value + 3.0)
    (folder / "one" / "zipvoice_jax.json").unlink()  # lost, but for the checkpoint
    made_anew = trained(5)
    assert all(np.array_equal(made_anew[path], value) for path, value in longer.items())


def test_a_stage_that_is_trained_anew_has_its_model_made_anew(
    tmp_path: Path, data: Path, states: list[TrainState]
) -> None:
    folder = tmp_path / "run"
    run = dataclasses.replace(config(tmp_path, data, "stages=one"), export_window=0)
    assert train(run, folder).done
    before = weights(folder / "one")
    for path in (folder / "checkpoints").iterdir():
        if int(path.name) > 6:
            shutil.rmtree(path)
    other = dataclasses.replace(run, export_window=8)  # the average, which does not move here
    assert train(other, folder, allow_config_change=True).done
    after = weights(folder / "one")
    assert len(states) == 8 + 2
    assert not any(np.array_equal(after[path], value) for path, value in before.items())
    assert train(other, folder).done  # and is not made again
    assert [entry["kind"] for entry in read_log(folder / "log.jsonl")].count("model") == 1


def test_a_window_without_its_checkpoint_is_the_whole_stage(
    tmp_path: Path, data: Path, states: list[TrainState], capfd: pytest.CaptureFixture[str]
) -> None:
    run = config(tmp_path, data, "stages=one")
    folder = tmp_path / "run"
    assert not train(run, folder, stop=stop_at(5, states)).done
    assert train(dataclasses.replace(run, export_window=6), folder, allow_config_change=True).done
    assert "averaging over the whole stage" in capfd.readouterr().err


def damaged_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    fields = ("hello", tuple("hɛlo"), "en", 2.0, 1)
    good = [Utterance(f"good{i}", *fields, flac(speechlike(rng, 2.0))) for i in range(6)]
    bad = Utterance("bad", *fields, b"no sound at all")
    write_dataset(folder / "mono", "mono", {"train": [*good, bad]})


def test_records_that_cannot_be_used_are_named_as_they_come(
    tmp_path: Path, states: list[TrainState], capfd: pytest.CaptureFixture[str]
) -> None:
    damaged_data(tmp_path / "data")
    train(config(tmp_path, tmp_path / "data", "stages=one"), tmp_path / "run")
    assert "a record cannot be used: " in capfd.readouterr().err
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [entry for entry in map(json.loads, lines) if entry["kind"] == "corrupt"]
    assert len(found) == 1 and "bad" in found[0]["record"]


def test_a_process_beside_the_first_tells_of_its_own_records(
    tmp_path: Path,
    states: list[TrainState],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damaged_data(tmp_path / "data")
    monkeypatch.setattr("zipvoice_jax.train.session.is_lead", lambda: False)
    train(config(tmp_path, tmp_path / "data", "stages=one"), tmp_path / "run")
    said = [line for line in capfd.readouterr().err.splitlines() if "cannot be used" in line]
    assert len(said) == 1 and said[0].startswith("process 0: ") and "bad" in said[0]
    assert not (tmp_path / "run" / "log.jsonl").exists()


def validated(run: TrainConfig, samples: int = 1) -> TrainConfig:
    """The config with validation on its own data."""
    stages = [dataclasses.replace(stage, valid=stage.data) for stage in run.stages]
    return dataclasses.replace(run, stages=tuple(stages), samples=samples)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What was on disk when validation, samples and the picture of losses began."""
    seen: dict[str, list[Any]] = {"valid": [], "samples": [], "picture": []}

    def steps(folder: Path) -> list[int]:
        return sorted(int(one.name) for one in folder.glob("checkpoints/*") if one.name.isdigit())

    def losses(review: Review, state: TrainState) -> Any:
        seen["valid"].append((int(state.step), steps(review.session.folder)))
        return {"loss": 1.0 / int(state.step)}

    def sample(samples: Samples, state: TrainState) -> None:
        seen["samples"].append((int(state.step), steps(samples.session.folder)))

    def draw(log: Path, picture: Path) -> None:
        del log
        seen["picture"].append(steps(picture.parent))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Review, "losses", losses)
    monkeypatch.setattr(Samples, "__call__", sample)
    monkeypatch.setattr("zipvoice_jax.train.validate.draw_losses", draw)
    return seen


def test_a_checkpoint_is_on_disk_before_anything_that_can_wait(
    tmp_path: Path,
    data: Path,
    states: list[TrainState],
    saved: dict[str, list[Any]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    table = shutil.copyfile(TOKENS, tmp_path / "tokens.txt")
    run = validated(config(tmp_path, data, "stages=one", f"tokens={table}"))
    # Asked to stop at a save step, it saves and goes; the rest is made up for.
    assert train(run, tmp_path / "run", stop=stop_at(2, states)).step == 3
    assert saved == {"valid": [], "samples": [], "picture": []}
    assert train(run, tmp_path / "run").done
    assert [step for step, _ in saved["valid"]] == [3, 4, 6, 8]
    assert saved["samples"] == saved["valid"]
    assert all(step == kept[-1] for step, kept in saved["valid"])
    assert len(saved["picture"]) == 4
    assert (
        capfd.readouterr().err.count("no losses.png: OSError: [Errno 28] No space left on device")
        == 4
    )
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [(entry["kind"], entry["step"]) for entry in map(json.loads, lines)]
    steps = [
        entry
        for step in range(1, 9)
        for entry in (("train", step), ("valid", step))[: 1 + (step in (3, 4, 6, 8))]
    ]
    assert logged == [*steps, ("model", 8)]
    # Once all is done nothing is judged again.
    assert train(run, tmp_path / "run").done and len(saved["valid"]) == 4


def test_a_review_that_a_kill_cut_short_is_made_up_for_at_the_end_too(
    tmp_path: Path,
    data: Path,
    states: list[TrainState],
    saved: dict[str, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = shutil.copyfile(TOKENS, tmp_path / "tokens.txt")
    run = validated(config(tmp_path, data, "stages=one", "steps=2", f"tokens={table}"))
    run = dataclasses.replace(run, export_window=0)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Review, "losses", killed)
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "run")
    assert len(states) == 2
    assert train(run, tmp_path / "run").done
    assert len(states) == 2 and saved["valid"] == [(2, [2])]


class Ears:
    """A recogniser that hears the same of everything."""

    def __init__(self, text: str) -> None:
        self.text = text

    def words(self, wave: np.ndarray, language: str) -> list[Word]:
        assert np.abs(wave).max() > 0.0 and language == "en"
        if not self.text:
            raise RuntimeError("no ears")
        return [Word(f" {word}", 0.0, 1.0) for word in self.text.split()]


def test_words_are_heard_after_every_checkpoint(
    tmp_path: Path,
    data: Path,
    states: list[TrainState],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ears = Ears("Good evening!")
    fake_models(monkeypatch)
    monkeypatch.setattr("zipvoice_jax.judge.word_judge.find_vocoder", lambda *_: (Tone(), ""))
    monkeypatch.setattr("zipvoice_jax.judge.word_judge.open_recogniser", lambda name: ears)
    rows = [("a", TEXT1, WAV1, "Good morning.")]
    write_list(tmp_path / "one.tsv", [*rows, ("b", TEXT1, WAV1, "Good evening.")])
    write_list(tmp_path / "two.tsv", [("a", TEXT1, TEXT2, WAV1, WAV2, DIALOGUE)])
    write_config(tmp_path)
    make = ("train", "--config", tmp_path / "small.py", "--to", tmp_path / "run", "--set",
            f"data={data}", "--set", "steps=3", "--listen")  # fmt: skip

    def heard() -> list[tuple[int, str, float]]:
        entries = read_log(tmp_path / "run" / "log.jsonl")
        return [(e["step"], e["stage"], e["wer"]) for e in entries if "wer" in e]

    ears.text = ""  # ends nothing, and is made up for
    run = config(tmp_path, data, "steps=3")
    assert not train(run, tmp_path / "run", listen=WordJudge([]), stop=stop_at(3, states)).done
    said = made(*make, tmp_path / "one.tsv", tmp_path / "two.tsv")
    assert "step 6: nothing can be heard: RuntimeError: no ears" in said and heard() == []
    ears.text = "Good evening!"
    made(*make, tmp_path / "one.tsv", tmp_path / "two.tsv")
    assert heard() == [(6, "two", pytest.approx(200 / 3))]
    shutil.rmtree(tmp_path / "run")
    # One word of four, in models of one speaker; and two of three words of the dialogue.
    made(*make, tmp_path / "one.tsv", tmp_path / "two.tsv")
    assert heard() == [(3, "one", 25.0), (6, "two", pytest.approx(200 / 3))]
    assert (tmp_path / "run" / "losses.png").is_file()


class Hum:
    """A vocoder that makes the same sound of everything."""

    name = "hum"
    weights = ""

    def __init__(self) -> None:
        self.compilations: list[Compilation] = []

    def __call__(self, mels: list[np.ndarray]) -> list[np.ndarray]:
        return [np.full(2400, 0.1, np.float32) for _ in mels]


def test_samples_and_pictures_that_fail_end_nothing(
    tmp_path: Path,
    data: Path,
    states: list[TrainState],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def full(path: Any, *_: Any, **__: Any) -> None:
        # As soundfile says it, as a program says it, and as it never said it.
        kind = (AssertionError, OSError, ValueError)[len(tried) % 3]
        tried.append(path)
        raise kind("No space left on device")

    tried: list[Any] = []
    run = validated(config(tmp_path, data, "stages=one", "steps=2"), samples=3)
    run = dataclasses.replace(run, export_window=0)
    monkeypatch.setattr(Samples, "_continue", lambda *_: (np.zeros((9, 100), np.float32), 4))
    monkeypatch.setattr(Review, "losses", lambda *_: {"loss": 1.0})
    monkeypatch.setattr("zipvoice_jax.train.samples.find_vocoder", lambda *_: (Hum(), ""))
    monkeypatch.setattr("zipvoice_jax.train.samples.write_audio", full)
    monkeypatch.setattr("zipvoice_jax.train.pictures.save_picture", full)
    assert train(run, tmp_path / "run").done
    said = capfd.readouterr().err
    assert len(tried) == 4 and said.count("step 2: no sample of ") == 3
    assert ": AssertionError: No space left on device" in said
    assert "step 2: no losses.png: AssertionError: " in said and "Traceback" not in said
    assert not list((tmp_path / "run").rglob("*.wav"))


def test_a_log_that_cannot_be_written_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    log = RunLog(tmp_path, start=0, total=9, config={})
    monkeypatch.setattr("tensorboardX.record_writer.RecordWriter.write", full)
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    for step in range(1, 200):  # more than TensorBoard's queue holds
        log.write("train", step, {"loss": 1.0, "frames": 2.0})
    log.close()
    said = capfd.readouterr().err
    assert said.count("log.jsonl cannot be written (No space left on device)") == 1
    assert said.count("TensorBoard's files cannot be written") == 1 and "Traceback" not in said

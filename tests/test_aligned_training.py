"""Training on alignments: by durations and by a schedule, resumed, spoken from, and refused."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from complaints import user_error
from datasets import write_dataset
from flax.traverse_util import flatten_dict, unflatten_dict
from generation import run_main
from training import CONFIG, command, entries, make_data, weights

from zipvoice_jax.checkpoint.mapping import param_shapes
from zipvoice_jax.checkpoint.native import read_native
from zipvoice_jax.checkpoint.official import read_official, write_official
from zipvoice_jax.core.assets import ASSETS
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import SourceConfig
from zipvoice_jax.data.loader import Loader
from zipvoice_jax.data.records import open_split
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.load import load_config
from zipvoice_jax.train.loop import train
from zipvoice_jax.train.objectives import SpeechBatch, flow_batch
from zipvoice_jax.train.schedules import schedules_of, values_at
from zipvoice_jax.train.stages import first_params, plan_stage

TABLE = ASSETS / "tokens_emilia.txt"  # another one than that of these tests
PROMPT = Path(__file__).parent / "data" / "prompt_s1.flac"


def aligned(folder: Path) -> Path:
    """The data of the tests of training, with made-up starts of tokens."""
    plain = make_data(folder / "plain")
    for name in ("mono", "stereo"):
        splits = {}
        for split in ("train", "dev"):
            source, _ = open_split(plain / name, split)
            splits[split] = [
                dataclasses.replace(
                    one,
                    token_starts=tuple(
                        np.linspace(0.0, one.duration, len(one.tokens) + 1)[:-1] ** 1.3
                        / one.duration**0.3
                    ),
                )
                for one in (source[i] for i in range(len(source)))
            ]
        write_dataset(folder / name, name, splits)
    config = CONFIG.replace("data: str, ", 'data: str, upsampling: str = "durations", ')
    config = config.replace("text_embed_dim=16,", "text_embed_dim=16, upsampling=upsampling,")
    (folder / "small.py").write_text(config, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aligned(tmp_path_factory.mktemp("aligned"))


@pytest.mark.slow
def test_a_model_of_durations_trains_resumes_and_speaks(workdir: Path) -> None:
    run = run_of(workdir, "stages=one", "steps=4")
    assert train(run, workdir / "whole").done
    asked = iter((False, False, True))
    assert not train(run, workdir / "parts", stop=lambda: next(asked, True)).done
    assert train(run, workdir / "parts").done
    ours, theirs = weights(workdir / "whole" / "one"), weights(workdir / "parts" / "one")
    assert ("duration_head", "out", "kernel") in ours
    assert all(np.array_equal(ours[path], theirs[path]) for path in ours)
    logged = [one for one in entries(workdir / "whole") if one["kind"] == "train"]
    assert logged and all(np.isfinite(one["duration"]) for one in logged)
    status, _, err = run_main(
        "generate", "--model-dir", workdir / "whole" / "one", "--vocoder-path", "griffin-lim",
        "--prompt-wav", PROMPT, "--prompt-text", "There is currently one other participant.",
        "--text", "Yes. No.", "--num-step", "1", "--res-wav-path", workdir / "said.wav",
    )  # fmt: skip
    assert status == 0, err
    status, _, err = run_main(
        "convert", "--from", workdir / "whole" / "one", "--to", workdir / "no", "--format", "pt"
    )
    assert status == 1 and "native format" in err
    assert "Traceback" not in err and not (workdir / "no").exists()


def test_a_head_is_trained_beside_a_model_that_stays_as_it_is(
    workdir: Path, tmp_path: Path
) -> None:
    # Weight decay, averages and a window between two of them would all show in what is frozen.
    run = run_of(workdir, "upsampling=average", "stages=one", "steps=6", "optimizer=adamw")
    model, rng = plan_stage(run, 0), np.random.default_rng(0)
    leaves = {
        path: (0.3 * rng.standard_normal(shape)).astype(np.float32)
        for path, shape in param_shapes(model.config).items()
    }
    init = tmp_path / "official"
    write_official(init, model.config, run.features, model.table, unflatten_dict(leaves))
    data = run.stages[0].data
    valid = dataclasses.replace(data, sources=(SourceConfig(f"{workdir}/mono", "dev"),))
    stage = dataclasses.replace(run.stages[0], objective="durations", valid=valid)
    run = dataclasses.replace(
        run, model=dataclasses.replace(run.model, duration_head=True), stages=(stage,),
        init=str(init), tokens=str(init),
    )  # fmt: skip
    assert train(run, tmp_path / "run").done
    made = read_native(tmp_path / "run" / "one")
    assert made.config.has_durations and not made.config.looks_up_durations
    ours = flatten_dict(made.params)
    head = {path for path in ours if path[0] == "duration_head"}
    assert ours.keys() - head == leaves.keys()
    assert all(ours[path].tobytes() == leaf.tobytes() for path, leaf in leaves.items())
    logged = entries(tmp_path / "run")
    assert all(one["loss"] == one["duration"] for one in logged if one["kind"] == "train")
    (checked, *_) = [one for one in logged if one["kind"] == "valid"]
    assert checked["loss"] == checked["duration"] > 0 and "flow_without_text" not in checked
    # The biases of a new head are zeros.
    assert all(np.abs(ours[path]).max() > 0 for path in head)

    status, _, err = run_main(
        "convert", "--from", tmp_path / "run" / "one", "--to", tmp_path / "pt", "--format", "pt"
    )
    assert status == 0 and "no duration head; it is left out" in err
    again = flatten_dict(read_official(tmp_path / "pt").params)
    assert all(again[path].tobytes() == leaf.tobytes() for path, leaf in leaves.items())
    with user_error("stage one trains the duration head", "token table is not that of the model"):
        first_params(dataclasses.replace(run, tokens=str(TABLE)))
    with user_error("there is none to start from", "set init"):
        first_params(dataclasses.replace(run, init=None))


def run_of(workdir: Path, *settings: str) -> TrainConfig:
    return load_config(workdir / "small.py", [f"data={workdir}", *settings])


def test_data_without_alignments_are_refused_with_the_command_that_makes_them(
    workdir: Path,
) -> None:
    settings = (f"data={workdir / 'plain'}", "stages=one", "steps=1")
    status, _, err = run_main(*command(workdir, "none", *settings))
    assert status == 1 and "Traceback" not in err
    assert f"zipvoice-jax align --data {workdir / 'plain' / 'mono'}" in err


def batch_of(workdir: Path) -> SpeechBatch:
    run = run_of(workdir)
    loader = Loader(
        run.stages[0].data, plan_stage(run, 0).table, run.features,
        seed=0, stage="one", alignments=True,
    )  # fmt: skip
    with loader.iterate(0) as batches:
        arrays: dict[str, Any] = next(batches).arrays
    return SpeechBatch(**{name: jnp.asarray(array) for name, array in arrays.items()})


def test_a_schedule_moves_boundaries_of_all_or_of_some_items(workdir: Path) -> None:
    batch, key = batch_of(workdir), jax.random.key(0)
    true = np.asarray(batch.token_starts)
    count = len(true)
    base = {
        name: jnp.float32(value)
        for name, value in {
            "mask_low": 0.7, "mask_high": 1.0, "mask_suffix": 0.0, "condition_drop": 0.0,
            "t_shift": 1.0,
            "only_speaker": 0.0,
        }.items()
    }  # fmt: skip

    def starts(alignment: float, by_item: float) -> np.ndarray:
        values = base | {
            "alignment": jnp.float32(alignment), "alignment_by_item": jnp.float32(by_item),
        }  # fmt: skip
        return np.asarray(flow_batch(key, batch, values, 0.1).token_starts)

    average = starts(0.0, 0.0)
    assert np.array_equal(starts(1.0, 0.0), true) and np.array_equal(starts(1.0, 1.0), true)
    assert not np.array_equal(average, true) and np.array_equal(starts(0.0, 1.0), average)
    half = starts(0.5, 0.0)
    assert (np.abs(half - (true + average) / 2) <= 0.5).all()
    mixed = starts(0.5, 1.0)
    whole = [np.array_equal(mixed[i], true[i]) for i in range(count)]
    assert all(whole[i] or np.array_equal(mixed[i], average[i]) for i in range(count))


def test_an_alignment_schedule_is_of_the_stage_and_its_end_is_validated(workdir: Path) -> None:
    run = run_of(workdir, "upsampling=average")
    moving = PiecewiseLinear(((0.0, 1.0), (8.0, 0.0)))
    stages = (
        dataclasses.replace(run.stages[0], alignment=moving, alignment_rule="items"),
        *run.stages[1:],
    )
    run = dataclasses.replace(run, stages=stages)
    schedules = schedules_of(run)
    found = [float(values_at(schedules, jnp.asarray(i))["alignment"]) for i in (0, 4, 8, 12)]
    assert found == [1.0, 0.5, 0.0, 0.0]
    by_item = [float(values_at(schedules, jnp.asarray(i))["alignment_by_item"]) for i in (0, 12)]
    assert by_item == [1.0, 0.0]
    assert [run.is_aligned(stage) for stage in run.stages] == [True, False]
    durations = run_of(workdir)
    assert all(durations.alignment_of(stage) == 1.0 for stage in durations.stages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignment": 1.5}, "alignment is 1.5"),
        ({"duration_weight": -1.0}, "duration_weight is -1.0"),
        ({"alignment": 0.0}, "leave alignment out"),
        ({"alignment": 0.5, "objective": "durations"}, "leave alignment out"),
    ],
)
def test_what_cannot_be_an_alignment_is_refused(
    workdir: Path, changes: dict[str, Any], message: str
) -> None:
    run = run_of(workdir)

    def change() -> TrainConfig:
        stages = (dataclasses.replace(run.stages[0], **changes),)
        return dataclasses.replace(run, stages=stages)

    with pytest.raises(UserError, match=message):
        change()

"""Configs of training: what they refuse, what they schedule, and the numbers of the recipes."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from complaints import user_error
from conftest import ROOT
from generation import run_main
from training import write_config

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig, differences
from zipvoice_jax.train.load import load_config
from zipvoice_jax.train.optimizer import OptimizerConfig
from zipvoice_jax.train.schedules import Eden, schedules_of, stage_step, values_at

DATA = DataConfig((SourceConfig("somewhere"),), batch_seconds=4000.0)
CONFIGS = ROOT / "configs"


def stage(**settings: Any) -> Stage:
    return Stage(**{"name": "a", "kind": "zipvoice", "steps": 10, "data": DATA, **settings})


def run_of(*stages: Stage, **settings: Any) -> TrainConfig:
    return TrainConfig(model=ModelConfig(), stages=stages, tokens="tokens.txt", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "no folder"}, "cannot name a folder"),
        ({"steps": 0}, "whole number above 0"),
        ({"objective": "distill_first"}, "does not fit zipvoice"),
        ({"kind": "zipvoice_distill"}, "does not fit zipvoice_distill"),
        ({"mask_low": 1.5}, "mask_low is 1.5"),
        ({"condition_drop": -0.1}, "from 0 to 1"),
        ({"mask_low": 0.8, "mask_high": 0.5}, "exchange them"),
        ({"keep_optimizer": True, "after": "b"}, "give one of them"),
        ({"data": dataclasses.replace(DATA, channels="alternate")}, "use channels='mono'"),
    ],
)
def test_stages_refuse_what_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stage(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": ()}, "no stages"),
        ({"stages": (stage(), stage())}, "repeat"),
        ({"save_every": 0}, "save_every is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"stages": (stage(after="b"),)}, "no earlier stage"),
        ({"stages": (stage(steps=10_100),), "export_window": 100}, "nothing to average"),
        ({"stages": (stage(export_window=-1),)}, "export_window is -1"),
        (
            {"stages": (stage(keep_optimizer=True),), "optimizer": OptimizerConfig(name="adamw")},
            "needs scaled_adam",
        ),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        (
            {
                "model": ModelConfig(duration_head=True),
                "stages": (stage(objective="durations"), stage(name="b", keep_optimizer=True)),
            },
            "nothing to carry",
        ),
        ({"stages": (stage(objective="durations"),)}, "set duration_head=True"),
        ({"model": ModelConfig(feat_dim=80)}, "make n_mels and feat_dim equal"),
    ],
)
def test_runs_refuse_what_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**{"model": ModelConfig(), "stages": (stage(),), "tokens": "t", **settings})


def test_eden_needs_one_measure_of_time() -> None:
    for settings in ({}, {"lr_hours": 1.0, "lr_epochs": 1.0}, {"lr_epochs": 1.0}):
        with pytest.raises(UserError, match="Eden"):
            Eden(base_lr=0.1, **settings)


def test_schedules_change_at_the_boundary_and_restart_there() -> None:
    run = run_of(
        stage(learning_rate=PiecewiseLinear(((0.0, 0.0), (10.0, 1.0)))),
        stage(
            name="b",
            kind="zipvoice_dialog",
            learning_rate=PiecewiseLinear(((0.0, 5.0), (10.0, 6.0))),
            mask="suffix",
            mask_low=0.5,
            batch_count_offset=1e5,
        ),
    )
    schedules, boundaries = schedules_of(run), run.boundaries

    def at(step: int) -> dict[str, float]:
        values = jax.jit(lambda s: values_at(schedules, s))(jnp.int32(step))
        return {name: float(value) for name, value in values.items()}

    assert at(0)["learning_rate"] == 0.0
    assert at(9)["learning_rate"] == pytest.approx(0.9)
    assert (at(9)["mask_low"], at(9)["mask_suffix"]) == (pytest.approx(0.7), 0.0)
    assert at(10)["learning_rate"] == pytest.approx(5.0)
    assert at(19)["learning_rate"] == pytest.approx(5.9)
    assert (at(10)["mask_low"], at(10)["mask_suffix"]) == (pytest.approx(0.5), 1.0)
    # 4,000 s a batch against 50 s, refreshed every ten steps.
    assert at(9)["batch_count"] == 0.0
    assert at(10)["batch_count"] == 1e5
    steps = [int(stage_step(boundaries, jnp.int32(step))) for step in (0, 9, 10, 19)]
    assert steps == [0, 9, 0, 9]


def test_differences_name_what_changed_and_pass_over_what_cannot_matter() -> None:
    old = run_of(stage()).to_dict()
    busier = dataclasses.replace(DATA, workers=4)
    assert differences(old, run_of(stage(data=busier), log_every=3).to_dict()) == []
    changed = run_of(stage(steps=11, learning_rate=0.5), seed=1).to_dict()
    lines = differences(old, changed)
    assert lines == [
        "stages.0.steps: 10 -> 11",
        "stages.0.learning_rate: 0.0001 -> 0.5",
        "seed: 42 -> 1",
    ]
    # A run of a version that did not know a setting yet goes on with its default.
    switch, choice = old["model"].pop("duration_head"), old["model"].pop("channel_decoding")
    assert switch is False and choice == "joint"
    assert differences(old, run_of(stage()).to_dict()) == []
    other = ModelConfig(duration_head=True, channel_decoding="separate")
    assert differences(old, dataclasses.replace(run_of(stage()), model=other).to_dict()) == [
        "model.duration_head: false -> true",
        'model.channel_decoding: "joint" -> "separate"',
    ]


def at(config: TrainConfig, name: str, step: int) -> float:
    return float(schedules_of(config)[name](jnp.int32(step)))


def test_the_recipes_have_the_official_numbers() -> None:
    emilia = load_config(CONFIGS / "zipvoice_emilia.py", [])
    assert emilia.stages[0].data.batch_seconds == 4000.0
    assert at(emilia, "learning_rate", 499) == pytest.approx(
        0.02 * ((500**2 + 7500**2) / 7500**2) ** -0.25
        * (((500 * 4000 / 3600) ** 2 + 30000**2) / 30000**2) ** -0.25,
        rel=1e-5,
    )  # fmt: skip
    assert at(emilia, "batch_count", 1000) == 80_000.0
    dialog = load_config(CONFIGS / "dialog_opendialog.py", [])
    (only,) = dialog.stages
    assert (only.steps, only.learning_rate, only.mask, only.mask_low) == (
        60_000,
        1e-4,
        "suffix",
        0.5,
    )
    assert [s.repeats for s in only.data.sources] == [1.0, 2.0]
    assert dialog.window_starts == (50_000,) and dialog.save_every == 5000
    assert at(dialog, "batch_count", 10) == 100_800.0
    stereo = load_config(CONFIGS / "stereo.py", [])
    (only,) = stereo.stages
    assert (only.steps, only.learning_rate, only.exclusive_weight) == (25_000, 0.002, 1.0)
    assert (only.data.channels, only.data.max_seconds) == ("alternate", 60.0)
    distill = load_config(CONFIGS / "distill.py", [])
    assert [s.objective for s in distill.stages] == ["distill_first", "distill_second"]
    assert [s.steps for s in distill.stages] == [62_000, 12_000]
    assert [s.learning_rate for s in distill.stages] == [5e-4, 1e-4]
    assert [distill.window_of(s) for s in distill.stages] == [7_000, 0]
    tuned = {
        kind: load_config(CONFIGS / "finetune.py", [f"kind={kind}"])
        for kind in ("zipvoice", "zipvoice_dialog", "zipvoice_dialog_stereo")
    }
    found = [
        (s.data.max_seconds, s.mask, s.data.channels, s.exclusive_weight)
        for s in (one.stages[0] for one in tuned.values())
    ]
    assert found == [
        (20.0, "span", "mono", 0.0), (60.0, "suffix", "mono", 0.0),
        (60.0, "suffix", "alternate", 1.0),
    ]  # fmt: skip
    (only,) = tuned["zipvoice"].stages
    assert (only.steps, only.learning_rate, only.data.batch_seconds) == (10_000, 1e-4, 2000.0)
    assert tuned["zipvoice"].window_starts == (8_000,) and tuned["zipvoice"].save_every == 1000
    with pytest.raises(UserError, match="distil it"):
        load_config(CONFIGS / "finetune.py", ["kind=zipvoice_distill"])
    assert emilia.window_of(emilia.stages[0]) == 4 * (emilia.stages[0].steps // 11)
    libritts = load_config(CONFIGS / "zipvoice_libritts.py", [])
    epoch = libritts.stages[0].steps // 60
    begin = at(libritts, "learning_rate", 10 * epoch)
    assert begin / at(libritts, "learning_rate", 10 * epoch - 1) == pytest.approx(
        ((10**2 + 100) / (9**2 + 100)) ** -0.25, rel=1e-3
    )


def test_the_curriculum_is_the_recipes_in_a_row() -> None:
    config = load_config(CONFIGS / "curriculum.py", ["dialog=there"])
    assert [s.kind for s in config.stages] == [
        "zipvoice",
        "zipvoice_dialog",
        "zipvoice_dialog_stereo",
        "zipvoice_distill",
        "zipvoice_distill",
    ]
    assert [config.source_of(i) for i in range(5)] == [None, 0, 1, 0, 3]
    emilia = load_config(CONFIGS / "zipvoice_emilia.py", [])
    windows = [config.window_of(stage) for stage in config.stages]
    assert windows == [emilia.window_of(emilia.stages[0]), 10_000, 10_000, 7_000, 0]
    some = load_config(CONFIGS / "curriculum.py", ["stages=distill_first", "init=there"])
    assert some.source_of(0) is None and some.init == "there"
    with pytest.raises(UserError, match="unknown ones"):
        load_config(CONFIGS / "curriculum.py", ["stages=triple"])
    assert config.stages[1].data.sources[0].path == "there"
    edge = config.boundaries[1]
    assert at(config, "learning_rate", edge) == pytest.approx(1e-4)
    assert at(config, "exclusive_weight", config.boundaries[2]) == 1.0


def test_settings_of_a_config_are_checked(tmp_path: Path) -> None:
    small = write_config(tmp_path)
    assert load_config(small, ["data=x", "steps=5"]).stages[0].steps == 5
    for setting, message in (
        ("steps=many", "takes a int"),
        ("stepz=5", "takes data=..., steps=..."),
    ):
        with pytest.raises(UserError, match=message):
            load_config(small, ["data=x", setting])
    with pytest.raises(UserError, match="does not exist"):
        load_config(tmp_path / "none.py", [])
    for text, message in (
        ("x = 1", "has no get_config"),
        ("1 / 0", "ZeroDivisionError"),
        ("def get_config(): return 3", "returns no TrainConfig"),
        ("def get_config(): return {}['a']", "KeyError"),
    ):
        path = tmp_path / "bad.py"
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_config(path, [])


def test_the_schedules_can_be_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "deep" / "schedule.png"
    config = CONFIGS / "curriculum.py"
    status, out, err = run_main("train", "--config", config, "--show-schedule", picture)
    assert status == 0, err
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "single, dialog, stereo, distill_first, distill_second" in out


def test_every_config_is_listed() -> None:
    listed = (CONFIGS / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in CONFIGS.glob("*.py")}
    assert names and all(f"`{name}`" in listed for name in names)
    assert all(load_config(CONFIGS / name, []).stages for name in names)


def test_any_field_is_set_by_its_name() -> None:
    """Not those alone that a config file takes as arguments."""
    config = CONFIGS / "demo.py"
    plain = load_config(config, ["single=70", "dialog=5", "stereo=5"])
    settings = {
        "stages.dialog.learning_rate": "0.003",
        "stages.single.learning_rate": "[[0, 0.01], [20, 0.001]]",
        "stages.stereo.condition_drop": "1",
        "stages.dialog.valid": "none",
        "stages.stereo.data.sources.0.path": "elsewhere",
        "stages.single.hooks": "yes",
        "stages.stereo.mask": "suffix",
        "model.fm_decoder_num_layers": "[1, 2, 1]",
        "optimizer.name": "adamw",
        "seed": "7",
    }
    made = load_config(
        config, ["single=70", "dialog=5", "stereo=5", *("=".join(one) for one in settings.items())]
    )
    assert set(differences(plain.to_dict(), made.to_dict())) == set(
        differences(
            plain.to_dict(),
            dataclasses.replace(
                plain,
                seed=7,
                optimizer=OptimizerConfig(name="adamw"),
                model=dataclasses.replace(plain.model, fm_decoder_num_layers=(1, 2, 1)),
                stages=(
                    dataclasses.replace(
                        plain.stages[0],
                        hooks=True,
                        learning_rate=PiecewiseLinear(((0.0, 0.01), (20.0, 0.001))),
                    ),
                    dataclasses.replace(plain.stages[1], learning_rate=0.003, valid=None),
                    dataclasses.replace(
                        plain.stages[2],
                        condition_drop=1.0,
                        mask="suffix",
                        data=dataclasses.replace(
                            plain.stages[2].data,
                            sources=(SourceConfig("elsewhere"),),
                        ),
                    ),
                ),
            ).to_dict(),
        )
    )
    assert at(made, "learning_rate", 10) == pytest.approx(0.0055)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stages.dialogue.steps=5", "dialogue is none of single, dialog, stereo"),
        ("stages.dialog.stepz=5", "stepz is none of name, kind, steps"),
        ("stages.dialog=5", "dialog has fields"),
        ("stages=5", "stages has fields"),
        ("seed.low=5", "seed is 42 here"),
        ("stages.dialog.steps=many", "'many' cannot be read"),
        ("stages.dialog.hooks=perhaps", "'perhaps' cannot be read"),
        ("stages.dialog.learning_rate=[[0]]", "'[[0]]' cannot be read"),
        ("stages.dialog.steps=0", "steps"),
        ("stages.dialog.mask=middle", "middle is none of span, suffix"),
        ("nothing=5", "stages.NAME.learning_rate"),
    ],
)
def test_a_field_that_is_not_there_or_cannot_be_so_is_one_line(setting: str, words: str) -> None:
    with user_error(words):
        load_config(CONFIGS / "demo.py", [setting])


def test_a_tuple_that_may_be_none_is_set_as_a_list() -> None:
    name = "stages.dialog.data.sources.0.languages"
    for text, wanted in (('["en"]', ("en",)), ('["en", "zh"]', ("en", "zh")), ("none", None)):
        config = load_config(CONFIGS / "demo.py", [f"{name}={text}"])
        assert config.stages[1].data.sources[0].languages == wanted
    for text in ("en", '"en"', "7"):
        with user_error("languages", "cannot be read"):
            load_config(CONFIGS / "demo.py", [f"{name}={text}"])

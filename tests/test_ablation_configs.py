"""The ablations in configs/: what their rows have in common, and in what they differ."""

import json
import re

import pytest
from conftest import ROOT

from zipvoice_jax.ablation.study import Ablation, read_ablations
from zipvoice_jax.train.load import load_config


@pytest.fixture
def repository() -> dict[str, Ablation]:
    return read_ablations(ROOT / "configs" / "ablations.py")


def test_the_ablations_of_the_repository_are_sound(repository: dict[str, Ablation]) -> None:
    path = ROOT / "configs" / "ablations.py"
    assert set(repository) == {"turns", "curriculum", "stereo", "speakers", "inference"}
    for ablation in repository.values():
        configs = [load_config(path, [*row.settings, "seed=3"]) for row in ablation.rows]
        for config in configs:
            assert config.stages[-1].name == ablation.stage and config.seed == 3
        # One budget, one validation set, and one peak wherever random weights are trained.
        assert len({sum(stage.steps for stage in config.stages) for config in configs}) == 1
        assert len({max(v for _, v in one.stages[0].learning_rate.points) for one in configs}) == 1
        valid = {json.dumps(one.to_dict()["stages"][-1]["valid"]) for one in configs}
        assert len({re.sub("seen|held_out", "", one) for one in valid}) == 1
    stereo = {row.name: row for row in repository["stereo"].rows}
    one = load_config(path, stereo["without one-channel regularisation"].settings)
    assert one.stages[-1].data.channels == "stereo"


def test_the_ablations_of_the_demo_model_are_sound() -> None:
    path = ROOT / "configs" / "demo_ablations.py"
    ablations = read_ablations(path)
    for ablation in ablations.values():
        runs = [load_config(path, [*row.settings, "seed=3"]) for row in ablation.rows]
        for run in runs:
            assert [stage.name for stage in run.stages] == [ablation.stage] and run.seed == 3
        assert len({json.dumps(run.to_dict()["stages"][0]["valid"]) for run in runs}) == 1
        assert len({json.dumps(run.to_dict()["stages"][0]["learning_rate"]) for run in runs}) == 1
        # No two rows are one run, and all but those from scratch start from one model.
        assert len({json.dumps(run.to_dict()) for run in runs}) == len(runs)
        assert len({run.init for run in runs} - {None}) <= 1
    moving = load_config(path, ablations["upsampling"].rows[2].settings)
    assert moving.is_aligned(moving.stages[0]) and moving.model.upsampling == "average"
    assert load_config(path, ablations["curriculum"].rows[1].settings).init is None


def test_voices_are_held_out_of_both_stages(repository: dict[str, Ablation]) -> None:
    path = ROOT / "configs" / "ablations.py"
    seen, held_out = (
        [source.path for stage in load_config(path, row.settings).stages
         for source in stage.data.sources]
        for row in repository["speakers"].rows
    )  # fmt: skip
    assert seen == ["demo/data/seen/single", "demo/data/seen/dialogue"]
    assert held_out == ["demo/data/held_out/single", "demo/data/held_out/dialogue"]

"""`zipvoice-jax bench train`: the program that a stage compiles, measured."""

import dataclasses

import pytest
from training import TOKENS, write_config

from zipvoice_jax.bench.train import bench_train
from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.train.load import load_config
from zipvoice_jax.train.stages import plan_stage


@pytest.mark.slow
def test_a_step_of_distillation_is_measured(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = load_config(write_config(tmp_path_factory.mktemp("run")), ["data=x", f"tokens={TOKENS}"])
    student = dataclasses.replace(plan_stage(run, 0).config, kind="zipvoice_distill")
    (row,) = bench_train(student, frames=24, tokens=8, batch=2, remats=["none"], repeats=1)
    assert row["bucket"] == "2x24x8" and row["compile_s"] > 0.0
    assert row["step_s"] > 0.0 and row["state_gib"] > 0.0 and row["frames_per_second"] > 0.0


def test_what_cannot_be_measured_is_reported() -> None:
    rows = bench_train(ModelConfig(), frames=8, tokens=9, batch=1, remats=["none"], repeats=0)
    with pytest.raises(UserError, match="no more tokens than frames"):
        next(rows)

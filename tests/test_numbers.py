"""Every number of every config has a range: nothing outside it is scheduled, compiled or run."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import TypeCheckError

from zipvoice_jax.align.config import AlignConfig
from zipvoice_jax.config import FeatureConfig, ModelConfig, SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import check_number
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.checks import Limits
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.prepare_config import PrepareConfig
from zipvoice_jax.data.sources import Source
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.optimizer import OptimizerConfig
from zipvoice_jax.train.schedules import Eden

DATA = DataConfig((SourceConfig("somewhere"),), batch_seconds=4000.0)
STAGE = Stage(name="a", kind="zipvoice", steps=10, data=DATA)
CONFIGS: tuple[Any, ...] = (
    ModelConfig(),
    FeatureConfig(),
    SamplingConfig(),
    Eden(base_lr=0.02, lr_hours=1.0),
    Eden(base_lr=0.02, lr_epochs=1.0, steps_per_epoch=9.0),
    OptimizerConfig(),
    STAGE,
    TrainConfig(model=ModelConfig(), stages=(STAGE,), tokens="tokens.txt"),
    DATA,
    SourceConfig("somewhere"),
    AlignConfig(),
    Limits(),
    PrepareConfig(name="a", source=Source("tsv", Path("somewhere"))),
)


def numbers() -> Iterator[tuple[Any, str]]:
    """Every number of the configs; those of a tuple are looked at elsewhere."""
    for config in CONFIGS:
        for field in dataclasses.fields(config):
            kind = str(field.type)
            if (type(config), field.name) == (Stage, "export_window"):
                continue  # stands in for the run's, and is looked at there
            if ("int" in kind or "float" in kind) and "tuple" not in kind:
                yield config, field.name


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30, 10**30, True, "1"])
def test_no_number_is_without_a_range(bad: Any) -> None:
    seen = 0
    for config, name in numbers():
        # Where types are looked at, as in these tests, that may come first.
        with pytest.raises((UserError, TypeCheckError), match=name) as caught:
            dataclasses.replace(config, **{name: bad})
        seen += caught.type is UserError or not isinstance(bad, float)
    assert seen > (40 if isinstance(bad, float) else 80)


@pytest.mark.parametrize("rate", [math.nan, -1, 0, 0.0, 1e9, PiecewiseLinear(((0, 0), (9, 0)))])
def test_learning_rates_that_teach_nothing_are_refused(rate: Any) -> None:
    with pytest.raises(UserError, match="stage a: learning_rate is"):
        dataclasses.replace(STAGE, learning_rate=rate)


def test_schedules_are_held_to_their_ranges_at_every_step() -> None:
    for point in ((math.nan, 0.0), (9.0, math.nan), (9.0, math.inf)):
        with pytest.raises(UserError, match="of a schedule"):
            PiecewiseLinear(((0.0, 0.0), point))
    for name in ("learning_rate", "mask_low", "condition_drop", "exclusive_weight"):
        with pytest.raises(UserError, match=name):
            dataclasses.replace(STAGE, **{name: PiecewiseLinear(((0.0, 0.5), (9.0, 1e9)))})


def test_a_number_is_reported_with_its_range() -> None:
    with pytest.raises(UserError, match=r"^a is 0; give a whole number above 0 and up to 9,000\.$"):
        check_number("a", 0, 0, 9000, whole=True, above=True)
    with pytest.raises(UserError, match=r"^a is 2\.5; give a number from 0 to 1\.$"):
        check_number("a", 2.5, 0.0, 1.0)
    check_number("a", 1, 0.0, 1.0)

"""`--schedule epss`: its times, for which numbers of steps, and `bench schedules`."""

import json
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from generation import RELEASE, TEXT1, WAV1, one_line, run_main, write_list

from zipvoice_jax.config import EPSS_TIMES, SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.flow.sampling import time_steps


@pytest.mark.parametrize("t_shift", [1.0, 0.5, 0.3])
def test_epss_times_are_some_of_32_uniform_ones(t_shift: float) -> None:
    uniform = time_steps(32, t_shift)
    for count in EPSS_TIMES:
        times = time_steps(count, t_shift, "epss")
        assert times.dtype == np.float32 and times.shape == (count + 1,)
        assert times[0] == 0.0 and times[-1] == 1.0 and (np.diff(times) > 0).all()
        assert set(times.tolist()) <= set(uniform.tolist())
    # Seven steps as published: four short ones, then longer ones.
    widths = np.diff(time_steps(7, 1.0, "epss")) * 32
    assert widths.tolist() == [2, 2, 2, 2, 8, 8, 8]


def test_epss_has_tables_for_some_numbers_of_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (5, 6, 7, 10, 12):
        SamplingConfig.for_kind("zipvoice", schedule="epss", num_step=count)
    for count in (1, 4, 8, 9, 11, 32):
        with pytest.raises(UserError, match=rf"num_step is {count}, .*5, 6, 7, 10, 12 or 16"):
            SamplingConfig.for_kind("zipvoice", schedule="epss", num_step=count)
    # The tests' type checker would speak first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match=r"schedule is 'sway'; choose one of uniform, epss"):
        SamplingConfig.for_kind("zipvoice", schedule="sway")


def test_a_number_of_steps_without_a_table_is_one_line() -> None:
    model = RELEASE / "zipvoice_distill"  # 8 steps by default
    say = ("--text", "Hello.", "--prompt-wav", WAV1, "--prompt-text", TEXT1)
    status, _, err = run_main("generate", "--model-dir", model, *say, "--schedule", "epss")
    one_line(status, err, "num_step is 8, for which the schedule epss has no table; give 5, 6, 7")


def test_bench_schedules_tells_errors_by_steps(tmp_path: Path) -> None:
    listed = write_list(
        tmp_path / "list.tsv", [("a", TEXT1, WAV1, "Hello."), ("b", TEXT1, WAV1, "Good night.")]
    )
    rows = tmp_path / "rows.json"
    bench = ("bench", "schedules", "--model-dir", RELEASE / "zipvoice", "--test-list", listed)
    status, out, err = run_main(
        *bench, "--steps", 5, "--t-shifts", 0.5, 1, "--reference-steps", 5, "--json", rows
    )
    assert status == 0, err
    assert "beside 5 uniform steps with t_shift 0.5" in out and len(out.splitlines()) == 6
    made = json.loads(rows.read_text())["rows"]
    named = [(row["schedule"], row["num_step"], row["t_shift"]) for row in made]
    assert named == [(name, 5, shift) for shift in (0.5, 1.0) for name in ("uniform", "epss")]
    assert made[0]["error"] == made[0]["worst"] == made[0]["rms"] == 0.0  # the reference itself
    assert all(0 < row["error"] <= row["worst"] and row["rms"] > 0 for row in made[1:])
    assert len({row["error"] for row in made}) == 4
    assert [row["closer"][-4:] for row in made] == ["", "of 2"] * 2
    assert set(made[0]["errors"]) == {"a", "b"}
    status, _, err = run_main(*bench, "--limit", 0)
    one_line(status, err, "--limit is 0")
    listed.write_text("a\tb\n")
    status, _, err = run_main(*bench)
    one_line(status, err, f"the list {listed}: line 1: it has 2 tab-separated fields")

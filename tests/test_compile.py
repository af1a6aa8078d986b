"""`zipvoice-jax compile` as a person runs it: for this machine, for TPUs that are not there."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from complaints import user_error
from conftest import RunCli, devices
from training import write_config

from zipvoice_jax.cli.main import parser
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.forecast.ahead import Case, Sizes, plan_cases, predict
from zipvoice_jax.forecast.chips import CHIPS, HOP_SECONDS, Topology
from zipvoice_jax.forecast.hlo import Collective, ProgramCost
from zipvoice_jax.forecast.report import details, line, plot_scaling
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.load import load_config

# Where `make setup` puts libtpu.
LIBTPU = Path(sys.prefix) / "libtpu"
HAS_LIBTPU = LIBTPU.is_dir() or importlib.util.find_spec("libtpu") is not None
NO_DATA = "data=none"  # nothing is read
NO_HOOKS = "stages.two.hooks=no"
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed")
WITH_LIBTPU = {"PYTHONPATH": str(LIBTPU)}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("compile"))


@pytest.fixture(scope="module")
def run_config(config: Path) -> TrainConfig:
    return load_config(config, [NO_DATA])


def arguments(config: Path, *rest: str) -> list[str]:
    return ["compile", "--config", str(config), "--set", NO_DATA, *rest]


@pytest.fixture(scope="module")
def here(
    config: Path, run_cli: RunCli
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """Both programs of the second stage on two CPU devices, and what was written of them.

    The train step has no hooks, with which it takes far longer to compile.
    """
    path = config.parent / "new" / "rows.json"
    done = run_cli(
        *arguments(config, "--topology", "cpu", "--stage", "two", "--bucket", "4x96x24"),
        *("--parts", "3", "--json", str(path), "--set", NO_HOOKS),
        env=devices(2),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["config"], report["settings"]) == (str(config), [NO_DATA, NO_HOOKS])
    return done, report["rows"]


def test_a_row_for_each_program(here: Any):
    _, rows = here
    assert [row["program"] for row in rows] == ["train", "sample"]
    for row in rows:
        assert (row["chips"], row["stage"], row["bucket"]) == (2, "two", "4x96x24x1")
        assert row["model"] == "zipvoice_dialog"
        assert row["audio_seconds"] == pytest.approx(4 * 96 * 256 / 24000)
        assert row["fits"]
        assert row["hbm_limit_gib"] is None
        assert row["hbm_gib"] >= row["temp_gib"] > 0
        assert row["compile_s"] > 0
        assert row["unknown"] == []
        assert "mfu" not in row
        assert "xla_s" not in row
    train, sample = rows
    assert set(train["collective_bytes"]) == {"all-reduce"}
    assert sample["collective_bytes"] == {}
    # Loops run: sampling takes 16 steps of 2 branches, a training step about 3 to 4 passes.
    assert 5 < sample["flops"] / train["flops"] < 16


def test_the_table_tells_the_rows(here: Any):
    done, rows = here
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["topology", "program", "stage", "bucket"]
    table = [text.split() for text in lines if text.lstrip().startswith("cpu ")]
    assert [one[1] for one in table] == ["train", "sample"]
    assert f"{rows[0]['flops'] / 1e12:.3f}" in table[0]
    assert table[0].count("-") == 6  # of a chip: its memory, times and MFU
    assert sum("all-reduce" in text for text in lines) == 1
    progress = [text for text in done.stderr.splitlines() if text.startswith("compiling")]
    assert [text.split("(")[-1] for text in progress] == ["1 of 2)", "2 of 2)"]


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (["--topology", "v7:2x2"], ["v7:2x2", "v5e:2x4"]),
        (["--topology", "v5e:2x2x2"], ["v5e:2x2x2", "2 axes"]),
        (["--topology", "gpu"], ["no gpu here"]),
        (["--topology", "cpu", "--stage", "three"], ["'three'", "one, two"]),
        (["--topology", "cpu", "--bucket", "4x96"], ["'4x96'", "BATCHxFRAMESxTOKENS"]),
        (["--topology", "cpu", "--bucket", "1x8x9"], ["8 frames", "9 tokens"]),
        (["--topology", "cpu", "--batch-per-chip", "0"], ["--batch-per-chip is 0"]),
        (["--topology", "cpu", "--step-seconds", "-1"], ["--step-seconds is -1"]),
        (["--topology", "cpu", "--seconds", "nan"], ["--seconds is nan"]),
        (["--topology", "cpu", "--fsdp", "3"], ["--fsdp 3"]),
    ],
)
def test_bad_arguments_are_reported_in_one_line(config: Path, rest: list[str], words: list[str]):
    args = parser().parse_args(arguments(config, *rest))
    with user_error(*words):
        args.run(args)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_error_says_how_to_get_it(config: Path, run_cli: RunCli):
    done = run_cli(*arguments(config, "--topology", "v5e:2x4"))
    assert (done.returncode, done.stdout) == (1, "")
    (complaint,) = done.stderr.splitlines()
    assert complaint.startswith("zipvoice-jax: error: ")
    assert "pip install -c constraints.txt '.[tpu]'" in complaint


@pytest.mark.slow
@needs_libtpu
def test_for_a_tpu_that_is_not_there(config: Path, run_cli: RunCli, tmp_path: Path):
    done = run_cli(
        *arguments(config, "--topology", "v5e:2x4", "--stage", "two", "--bucket", "16x256x64"),
        *("--json", str(tmp_path / "rows.json"), "--plot", str(tmp_path / "scaling.png")),
        env=WITH_LIBTPU,
    )
    assert done.returncode == 0, done.stderr
    noise = [text for text in done.stderr.splitlines() if not text.startswith("compiling")]
    assert noise == []  # libtpu looks for chips, and complains, unless it is told not to
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    assert [row["program"] for row in rows] == ["train", "sample"]
    for row in rows:
        assert row["hbm_limit_gib"] == 15.75
        assert 0 < row["hbm_gib"] < 1
        assert row["unknown"] == []
        assert row["predicted_s"] >= max(row["xla_s"], row["compute_bound_s"], row["hbm_bound_s"])
        assert 0 < row["mfu"] < 0.1
    assert rows[0]["collective_bytes"]["all-reduce"] > 0
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_is_named(config: Path, run_cli: RunCli, tmp_path: Path):
    path = tmp_path / "rows.json"
    done = run_cli(
        *arguments(config, "--topology", "v5e:2x4", "--stage", "two", "--program", "train"),
        *("--bucket", "16000x2048x256", "--json", str(path)),
        env=WITH_LIBTPU,
    )
    assert done.returncode == 1
    complaint = done.stderr.splitlines()[-1]
    assert "1 of 1 cases do not fit" in complaint
    assert "15.75 GiB" in complaint
    assert "2000,2048" in complaint  # items on each chip, and frames, of some array
    # jax 0.10, which Python 3.11 gets, names no layer below it.
    named = jax.__version_info__ >= (0, 11)
    assert (" of fm_decoder/" if named else " of fm_decoder") in complaint
    (row,) = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert not row["fits"]
    assert row["hbm_gib"] > 31.0


# --- without compiling --------------------------------------------------------------------------


def test_buckets_come_by_three_rules(run_config: TrainConfig):
    sizes = Sizes(buckets=[(4, 96, 24)], batch_per_chip=[3], step_seconds=[4000.0], seconds=30.0)
    chips = len(jax.devices("cpu"))
    first, second, third = plan_cases(run_config, ["cpu"], [1], ["train"], sizes)
    assert first == Case("cpu", 1, "train", Bucket(96, 24, 4, 1), "bucket")
    # 30 s are 2812.5 frames, in steps of 16; 0.18 tokens a frame, in steps of 64.
    assert second == Case("cpu", 1, "train", Bucket(2816, 512, 3 * chips, 1), "3 per chip")
    assert third.bucket.batch == pytest.approx(4000 / 30, abs=chips / 2)
    assert third.rule == "4000 s per step"
    assert "two" in third.name_in(run_config)


def test_a_step_of_few_seconds_has_shorter_items(run_config: TrainConfig):
    (case,) = plan_cases(run_config, ["cpu"], [0], ["train"], Sizes(step_seconds=[0.5]))
    chips = len(jax.devices("cpu"))
    assert case.bucket.batch == chips
    assert case.bucket.frames >= 0.5 / chips * 93.75 > case.bucket.frames - 16


def test_batches_that_the_devices_cannot_share_are_refused(run_config: TrainConfig):
    with user_error("0 items", "multiple"):
        plan_cases(run_config, ["cpu"], [0], ["train"], Sizes(buckets=[(0, 96, 24)]))


def cost(**overrides: Any) -> ProgramCost:
    numbers: dict[str, Any] = dict(
        flops=0.0, cycles=0.0, bytes=0.0, padding=0.0, unestimated_bytes=0.0, collectives=(),
        parts=(), unknown=(),
    )  # fmt: skip
    return ProgramCost(**{**numbers, **overrides})


def test_a_prediction_adds_what_nothing_hides():
    chip, topology = CHIPS["v5e"], Topology.parse("v5e:2x4")
    once = topology.collective_seconds("all-reduce", 0, 1e6)
    waits = Collective("all-reduce", 8, 10**6, False, 100.0)
    beside = Collective("all-reduce", 8, 10**6, True, 100.0)
    row = predict(
        cost(
            flops=chip.flops / 100,
            cycles=chip.clock / 50,
            bytes=chip.hbm_bandwidth / 200,
            unestimated_bytes=chip.hbm_bandwidth / 1000,
            collectives=(waits, beside),
        ),
        topology,
        useful=8 * chip.flops / 200,
    )
    assert once > 8 * HOP_SECONDS
    assert row["xla_s"] == pytest.approx(0.02)
    assert row["compute_bound_s"] == pytest.approx(0.01)
    assert row["hbm_bound_s"] == pytest.approx(0.005)
    assert row["interconnect_s"] == pytest.approx(200 * once)
    assert row["predicted_s"] == pytest.approx(0.02 + 0.001 + 100 * once)
    assert row["mfu"] == pytest.approx(0.005 / row["predicted_s"])
    assert row["bound"] == ("interconnect" if 200 * once > 0.01 else "compute")
    slow = predict(cost(bytes=chip.hbm_bandwidth, cycles=1.0), topology, useful=1.0)
    assert (slow["predicted_s"], slow["bound"]) == (pytest.approx(1.0), "HBM")


ROW: dict[str, Any] = {
    "topology": "v5e:2x4", "chips": 8, "program": "train", "stage": "one", "bucket": "8x96x24x1",
    "rule": "bucket", "hbm_limit_gib": 15.75, "state_gib": 0.5, "note": "no tokens", "fits": True,
    "memory": ["9.00 GiB f32[3] of x"], "hbm_gib": 20.0, "compile_s": 2.0,
}  # fmt: skip


def test_what_stands_below_a_row():
    assert details(ROW) == ["note: no tokens"]
    refused = {**ROW, "fits": False}
    message, _ = details(refused)
    assert "20.00 GiB" in message
    assert "15.75 GiB" in message
    assert "9.00 GiB f32[3] of x" in message
    assert len(line(ROW)) == len(line(refused)) == len(line(ROW, header=True))


def test_only_what_was_predicted_is_plotted(tmp_path: Path):
    with user_error("nothing to plot"):
        plot_scaling([ROW], tmp_path / "a.png")
    times = {"compute_bound_s": 0.01, "waits_s": 0.01, "predicted_s": 0.03, "mfu": 0.2}
    plot_scaling([{**ROW, **times}], tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").stat().st_size > 1000

"""`zipvoice-jax ablate`: rows by one command each, a table, and going on where it failed."""

import json
from pathlib import Path

import pytest
from conftest import ROOT, RunCli
from generation import TEXT1, VOICES, one_line, run_main, write_list
from training import CONFIG, make_place

from zipvoice_jax.bench.ablation import Ablation, Row, read_ablations
from zipvoice_jax.cli.train import load_config
from zipvoice_jax.core.errors import UserError

ABLATIONS = """
from zipvoice_jax.bench.ablation import Ablation, Row


def get_ablations():
    rows = (
        Row("one step", (), ("--num-step", "1")),
        Row("two steps", (), ("--num-step", "2")),
    )
    return {"steps": Ablation("How many?", "two", rows, ("cpwer", "rate", "rtf"))}
"""
GUIDED = CONFIG.replace("steps: int = 8", "seed: int = 0, steps: int = 2").replace(
    "model=model,", "model=model, seed=seed,"
)


@pytest.mark.slow
def test_rows_share_a_training_and_go_on_after_a_failure(tmp_path: Path, run_cli: RunCli) -> None:
    place = make_place(tmp_path)
    (place / "steps.py").write_text(GUIDED + ABLATIONS)
    (wav1, text1), (wav2, text2) = VOICES[:2]
    rows = [(f"item{i}", text1, text2, wav1, wav2, "[S1] Yes. [S2] No.") for i in range(2)]
    lines = write_list(place / "list.tsv", rows)
    to = place / "out"
    args = ["ablate", "steps", "--config", place / "steps.py", "--set", f"data={place}",
            "--test-list", lines, "--to", to, "--seeds", "0",
            "--vocoder-path", "griffin-lim"]  # fmt: skip
    done = run_cli(*args, "--recogniser", "nobody", timeout=600)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("zipvoice-jax: error")
    assert (
        "recogniser nobody is unknown" in done.stderr and "The same command goes on" in done.stderr
    )
    before = {path: path.stat().st_mtime_ns for path in to.glob("logs/*.done")}
    assert any(path.name.startswith("train-") for path in before)
    done = run_cli(*args, timeout=600)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())

    commands = (to / "commands.sh").read_text().splitlines()
    verbs = [line.split()[0] for line in commands]
    assert [verbs.count(verb) for verb in ("train", "generate", "evaluate")] == [1, 2, 2]
    table = json.loads((to / "table.json").read_text())
    assert list(table["rows"]) == ["one step", "two steps"]
    for row in table["rows"].values():
        assert (
            row["trained_on"] == "2 x 12 s of mono, 2 x 12 s of mono" and row["rtf"]["items"] == 2
        )
        assert row["cpwer"]["value"] >= 50.0  # such a model says nothing
    assert "How many?" in done.stdout and "less the first" in done.stdout
    assert (to / "table.png").read_bytes().startswith(b"\x89PNG")


def test_the_ablations_of_the_repository_are_sound() -> None:
    path = ROOT / "configs" / "ablations.py"
    found = read_ablations(path)
    assert set(found) == {"turns", "curriculum", "stereo", "speakers", "inference"}
    for ablation in found.values():
        for row in ablation.rows:
            config = load_config(path, [*row.settings, "seed=3"])
            assert config.stages[-1].name == ablation.stage and config.seed == 3
    stereo = {row.name: row for row in found["stereo"].rows}
    one = load_config(path, stereo["without one-channel regularisation"].settings)
    assert one.stages[-1].data.channels == "stereo"
    steps = {
        sum(stage.steps for stage in load_config(path, row.settings).stages)
        for row in found["curriculum"].rows
    }
    assert len(steps) == 1  # one budget


def test_what_is_no_ablation_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two rows"):
        Ablation("?", "one", (Row("a"), Row("a")))
    lines = write_list(tmp_path / "list.tsv", [("a", TEXT1, VOICES[0][0], "Yes.")])
    config = ROOT / "configs" / "ablations.py"
    rest = ("--test-list", lines, "--to", tmp_path / "to")
    status, _, err = run_main("ablate", "voices", "--config", config, *rest)
    one_line(status, err, "has no ablation voices; it has turns")
    tiny = ROOT / "configs" / "tiny.py"
    status, _, err = run_main("ablate", "turns", "--config", tiny, *rest)
    one_line(status, err, "has no get_ablations")

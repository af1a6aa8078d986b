"""`zipvoice-jax ablate` as a person runs it: rows trained for real, the judge, complaints."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ablating import GUIDED, ITEMS
from conftest import ROOT, RunCli
from generation import TEXT1, VOICES, one_line, read_report, run_main, write_list
from training import make_place

from zipvoice_jax.ablation import study as module
from zipvoice_jax.ablation.study import Ablation, Row, Setup
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.judge.config import JudgeConfig
from zipvoice_jax.judge.judge import Judge

ABLATIONS = """
from zipvoice_jax.ablation.study import Ablation, Row


def get_ablations():
    rows = (
        Row("plain", (), ("--num-step", "1")),
        Row("guided", (), ("--num-step", "1", "--guidance-scale", "3")),
    )
    return {"guidance": Ablation("Does it help?", "two", rows, ("wer", "rtf"))}
"""


def waves_of(to: Path, row: str) -> Path:
    (folder,) = (to / "rows" / row / "seed0").glob("wavs-*")
    return folder


@pytest.mark.slow
def test_rows_are_trained_spoken_and_judged(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = make_place(tmp_path)
    (workdir / "rows.py").write_text(GUIDED + ABLATIONS)
    lines = write_list(workdir / "list.tsv", ITEMS[:1])
    to = workdir / "out"
    args = ["ablate", "guidance", "--config", workdir / "rows.py", "--set", f"data={workdir}",
            "--set", "stages=two", "--set", "stages.two.hooks=no", "--test-list", lines,
            "--to", to, "--seeds", "0", "--vocoder-path", "griffin-lim",
            "--jobs", "2"]  # fmt: skip
    done = run_cli(*args, timeout=600)
    assert done.returncode == 0, done.stderr
    table = json.loads((to / "table.json").read_text())
    for row in table["rows"].values():
        assert row["trained_on"] == "2 x 12 s of mono" and row["rtf"]["items"] == 1
        assert row["wer"]["value"] >= 50.0  # such a model says nothing
    assert "Does it help?" in done.stdout and "less the first" in done.stdout
    made = [read_report(waves_of(to, row)) for row in ("plain", "guided")]
    assert [one["item0"]["guidance_scale"] for one in made] == [1.5, 3.0]

    script = (to / "commands.sh").read_text().splitlines()
    verbs = [line.split()[1] for line in script if line.startswith("zipvoice-jax ")]
    assert verbs == ["train", "generate", "generate", "evaluate", "evaluate"]
    env = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
    command = "\n".join([*script[:2], script[-1]])
    ran = subprocess.run(
        ["sh", "-c", command], env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and "0 judged, 1 known" in ran.stdout, ran.stderr
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    status, out, err = run_main(*args, "--so-far")
    assert status == 0 and "1 seeds, 1 items" in out, err


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
    status, _, err = run_main("ablate", "turns", "--config", config, *rest, "--recogniser", "me")
    one_line(status, err, "recogniser me is unknown")  # before anything is trained
    assert not (tmp_path / "to").exists()


def test_the_judge_is_chosen_as_by_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[JudgeConfig] = []
    setups: list[Setup] = []

    def opened(config: JudgeConfig) -> Judge:
        asked.append(config)
        return Judge(config, None, None, None)

    def ran(ablation: Ablation, setup: Setup, *_: Any, **__: Any) -> str:
        setups.append(setup)
        return ""

    monkeypatch.setattr(Judge, "open", opened)
    monkeypatch.setattr(module, "run_ablation", ran)
    lines = write_list(tmp_path / "list.tsv", ITEMS)
    args = ("ablate", "stereo", "--config", ROOT / "configs" / "ablations.py", "--to", tmp_path)
    assert run_main(*args, "--test-list", lines, "--language", "zh")[0] == 0
    assert asked[0].recogniser == "whisper-base" and "leakage" in asked[0].metrics
    assert setups[0].evaluate == ("--judges", "offline", "--language", "zh")
    paper = (*args, "--test-list", lines, "--judges", "paper", "--quality-predictor", "dnsmos")
    assert run_main(*paper)[0] == 0
    assert (asked[1].recogniser, asked[1].attribution) == ("whisper-d", "tags")  # of dialogues
    assert asked[1].quality_predictor == "dnsmos"
    assert setups[1].evaluate[-2:] == ("--quality-predictor", "dnsmos")
    assert setups[0].judge != setups[1].judge
    status, _, err = run_main(*paper, "--vocoder-path", tmp_path)
    one_line(status, err, str(tmp_path))

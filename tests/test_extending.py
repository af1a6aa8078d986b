"""The worked examples of docs/extending.md: they apply to this package, and train."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from training import command, entries, make_place

GUIDE = ROOT / "docs" / "extending.md"


def patched(text: str, hunk: str) -> str:
    """A file's text with a hunk of a diff, which says by its context where it belongs."""
    lines = [line for line in hunk.splitlines() if not line.startswith("@@")]
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    assert text.count(before) == 1, f"{text.count(before)} places for:\n{before}"
    return text.replace(before, after)


def apply_guide(package: Path) -> list[str]:
    """Applies every diff of the guide to a copy of the package; the files that they touch."""
    touched = []
    for diff in re.findall(r"```diff\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        head, *hunks = re.split(r"(?m)^(?=@@)", diff)
        name = re.search(r"(?m)^\+\+\+ b/zipvoice_jax/(.*)$", head)[1]
        path = package / name
        for hunk in hunks:
            text = patched(path.read_text(encoding="utf-8"), hunk)
            path.write_text(text, encoding="utf-8")
        touched.append(name)
    return touched


@pytest.fixture
def package(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "demo")
    return shutil.copytree(ROOT / "zipvoice_jax", tmp_path / "zipvoice_jax", ignore=ignored)


def test_each_example_touches_as_few_files_as_it_says(package: Path) -> None:
    assert apply_guide(package) == ["train/config.py", "flow/losses.py", "train/objectives.py"]


@pytest.mark.slow
def test_a_run_with_both_examples_learns_and_logs_them(package: Path, tmp_path: Path) -> None:
    workdir = make_place(tmp_path)
    apply_guide(package)
    settings = (
        "stages=one", "steps=3", "stages.one.delta_weight=[[0, 0], [2, 0.5]]",
        "stages.one.objective=mirrored_flow", "stages.one.hooks=no",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "zipvoice_jax.cli.main", *command(workdir, "run", *settings)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mirrored_flow" in done.stderr
    steps = [entry for entry in entries(workdir / "run") if entry["kind"] == "train"]
    assert len(steps) == 3
    for number, entry in enumerate(steps):
        weight = 0.25 * number
        assert entry["loss"] == pytest.approx(entry["flow"] + weight * entry["delta"], rel=1e-5)

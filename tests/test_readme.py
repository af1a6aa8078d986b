"""Runs what the README shows, so that it cannot rot.

Every python block, and every console block after the line `<!-- run -->`, runs in an empty
folder beside links to tests/ and zipvoice_jax/. Lines that the README shows must appear in this
order in what the commands print; numbers with a decimal point may differ, for they are timings.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^(<!-- run -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = [match[3] for match in FENCE.finditer(README) if match[1] and match[2] == "console"]
PYTHON = [match for match in FENCE.finditer(README) if match[2] == "python"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with links and a `zipvoice-jax` that runs this tree."""
    for name in ("tests", "zipvoice_jax"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = tmp_path / "bin" / "zipvoice-jax"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zipvoice_jax.cli.main "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    """What a command prints; it may fail, as the list with a bad line does."""
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",  # so that both outputs come in their order
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


def steps(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines shown below it."""
    found: list[tuple[str, list[str]]] = []
    continued = False
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif continued:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        else:
            found[-1][1].append(line)
            continue
        continued = line.endswith("\\")
    return found


def comparable(line: str) -> str:
    """A line with runs of blanks made alike, and numbers that are measured."""
    line = re.sub(r"\s+", " ", re.sub(r"\d+\.\d+%?", "#", line)).strip()
    # In a row of measurements stands peak memory; Orbax's files differ a little in size.
    return re.sub(r"(?<=# )\d+(?= #)|\b[\d,]+(?= bytes)", "#", line)


def check_shown(shown: list[str], printed: str) -> None:
    """Asserts that the lines shown are among those printed, in their order."""
    # The progress bar writes over its own line.
    lines = iter([comparable(part) for part in re.split(r"[\r\n]", printed)])
    for line in shown:
        wanted = comparable(line)
        assert any(wanted == got or got.endswith(f" {wanted}") for got in lines), (line, printed)


def test_blocks_are_found() -> None:
    commands = [command for block in CONSOLE for command, _ in steps(block)]
    assert len(PYTHON) == 1
    assert {command.split()[1] for command in commands if command.startswith("zipvoice-jax")} == {
        "generate",
        "convert",
        "init",
        "bench",
    }
    assert all(shown for block in CONSOLE for _, shown in steps(block)[-1:])
    # Every console block is run.
    assert len(CONSOLE) == README.count("```console")


@pytest.mark.slow
@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: steps(block)[-1][0].split()[1])
def test_commands_print_what_is_shown(folder: Path, block: str) -> None:
    for command, shown in steps(block):
        check_shown(shown, run(folder, "bash", "-c", command))


@pytest.mark.slow
def test_program_prints_what_is_shown(folder: Path) -> None:
    (match,) = PYTHON
    shown = re.search(r"```text\n(.*?)```", README[match.end() :], re.DOTALL)
    assert shown is not None
    assert run(folder, sys.executable, "-c", match[3]).splitlines()[-3:] == shown[1].splitlines()
    assert (folder / "morning.wav").stat().st_size > 100_000


def test_files_that_the_readme_names_exist() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)

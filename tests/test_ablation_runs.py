"""An ablation without its processes: what is run and run again, its table, what is refused."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ablating import GUIDED, ITEMS
from complaints import user_error
from conftest import ROOT
from generation import write_list
from training import make_data

from zipvoice_jax.ablation import commands
from zipvoice_jax.ablation import study as module
from zipvoice_jax.ablation.commands import Command, Slot, run_all
from zipvoice_jax.ablation.study import Ablation, Row, Setup, identity_of_model, run_ablation
from zipvoice_jax.train.load import load_config

ROWS = (
    Row("plain"),
    Row("guided", (), ("--guidance-scale", "3")),
    Row("longer", ("steps=3",)),
)
LOSSES = {"plain": 1.0, "guided": 1.0, "longer": 0.5}  # a seed adds a tenth of itself


class Stub:
    """Stands in for the processes: leaves what they would leave, and keeps what was asked."""

    def __init__(self) -> None:
        self.ran: list[Sequence[str]] = []
        self.slots: list[Slot] = []
        self.together: dict[str, int] = {}
        self.failing: str | None = None
        self._running: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, words: Sequence[str], slot: Slot, said: Any) -> int:
        verb, lacks = words[0], False
        with self._lock:
            self.ran.append(words)
            self.slots.append(slot)
            self._running.append(verb)
            self.together[verb] = max(self.together.get(verb, 0), self._running.count(verb))
        time.sleep(0.02)
        options = dict(zip(words[1::2], words[2::2], strict=False))
        if verb == self.failing:
            said.write("something\nwas wrong\n")
        elif verb == "train":
            self._train(Path(options["--to"]), words)
        elif verb == "generate":
            for line in Path(options["--test-list"]).read_text().splitlines():
                path = Path(options["--res-dir"]) / (line.partition("\t")[0] + ".wav")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        else:
            listed = len(Path(options["--test-list"]).read_text().splitlines())
            lacks = self._judge(Path(options["--to"]), Path(options["--wav-dir"])) < listed
        with self._lock:
            self._running.remove(verb)
        return int(verb == self.failing or lacks)

    def _train(self, run: Path, words: Sequence[str]) -> None:
        (run / "two").mkdir(parents=True, exist_ok=True)
        loss = LOSSES["longer" if "steps=3" in words else "plain"]
        seed = int(next(word for word in words if word.startswith("seed=")).partition("=")[2])
        # Of the stage before, of this one, and of one that comes after it.
        losses = {1: 9.0, 4: loss + 0.1 * seed, 7: 8.0}
        entries = [{"kind": "valid", "step": k, "flow": one} for k, one in losses.items()]
        (run / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in entries))

    def _judge(self, report: Path, wavs: Path) -> int:
        """Judges the waves that are there; how many that were."""
        report.mkdir(parents=True, exist_ok=True)
        found = sorted(wavs.glob("*.wav"))
        with (report / "items.jsonl").open("w") as file:
            for wav in found:
                errors = 3 if "longer" in str(report) else 1
                file.write(json.dumps({"id": wav.stem, "metrics": {"cpwer": [errors, 4]}}) + "\n")
        (report / "index.html").touch()
        return len(found)

    def took(self) -> list[str]:
        """Commands since it was asked last."""
        verbs = [words[0] for words in self.ran]
        self.ran.clear()
        return verbs


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(commands, "_process", stub)
    slots = [Slot({"PLACE": str(i)}) for i in range(2)]
    monkeypatch.setattr(module, "find_slots", lambda jobs, per_gpu: slots[:jobs])
    return stub


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Data, a config and a list, in a folder whose name needs quoting."""
    folder = tmp_path / "a place"
    make_data(folder)
    (folder / "rows.py").write_text(GUIDED)
    write_list(folder / "list.tsv", ITEMS)
    return folder


def waves(workdir: Path, row: str, seed: int) -> list[Path]:
    """The speech of a row with a seed."""
    return sorted((workdir / "out" / "rows" / row / f"seed{seed}").glob("wavs-*/*.wav"))


def ablate(
    workdir: Path, *, seeds: tuple[int, ...] = (0, 1, 2), jobs: int = 2, rtf: bool = False,
    so_far: bool = False, **changes: Any,
) -> str:  # fmt: skip
    """Runs ROWS with the stub."""
    metrics = ("cpwer", "rtf") if rtf else ("cpwer",)
    setup = Setup(
        config=workdir / "rows.py", settings=(f"data={workdir}",), test_list=workdir / "list.tsv",
        seeds=seeds, generate=(), evaluate=(), judge=changes.get("judge", {}), to=workdir / "out",
    )  # fmt: skip
    load = functools.partial(load_config, setup.config)
    ablation = Ablation("Why?", "two", ROWS, metrics)
    return run_ablation(ablation, setup, load, jobs=jobs, so_far=so_far)


def test_a_table_of_three_seeds_tells_paired_differences(workdir: Path, stub: Stub) -> None:
    report = ablate(workdir)
    verbs = stub.took()
    assert [verbs.count(verb) for verb in ("train", "generate", "evaluate")] == [6, 9, 9]
    assert verbs == sorted(verbs, key=("train", "generate", "evaluate").index)
    assert stub.together == {"train": 2, "generate": 2, "evaluate": 2}
    assert {one.env["PLACE"] for one in stub.slots} == {"0", "1"}
    table = json.loads((workdir / "out" / "table.json").read_text())
    assert table["rows"]["plain"]["validation_loss"] == [1.0, 1.1, 1.2]
    assert table["rows"]["plain"]["trained_on"] == "2 x 12 s of mono, 2 x 12 s of mono"
    longer = table["rows"]["longer"]
    assert longer["trained_on"] == "3 x 12 s of mono, 3 x 12 s of mono"
    assert longer["cpwer"]["value"] == 75.0 and longer["cpwer"]["items"] == 3
    loss = longer["less_the_first"]["validation_loss"]
    assert loss["seeds"] == 3 and loss["mean"] == pytest.approx(-0.5)
    assert loss["low"] <= loss["mean"] <= loss["high"]
    assert "-0.5000 [" in report and "3 seeds, 3 items" in report and "+50.0 [" in report
    assert (workdir / "out" / "table.png").read_bytes().startswith(b"\x89PNG")
    assert ablate(workdir) == report and stub.took() == []


def test_commands_can_be_run_from_anywhere(
    workdir: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workdir)
    ablate(workdir, seeds=(4,))
    asked = [list(words) for words in stub.ran]
    script = tmp_path / "bin" / "zipvoice-jax"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\npwd >> {tmp_path}/ran\nprintf "%s\\n" "$@" . >> {tmp_path}/ran\n'
    )
    script.chmod(0o755)
    env = {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", workdir / "out" / "commands.sh"], env=env, cwd="/", check=True)
    ran = [part.splitlines() for part in (tmp_path / "ran").read_text().split("\n.\n")[:-1]]
    assert {folder for folder, *_ in ran} == {str(workdir)}
    assert sorted(words for _, *words in ran) == sorted(asked)
    assert any(f"data={workdir}" in words for _, *words in ran)  # in one piece


def test_what_was_made_from_something_else_is_made_again(workdir: Path, stub: Stub) -> None:
    ablate(workdir, seeds=(0, 1))
    stub.took()
    write_list(workdir / "list.tsv", ITEMS[:2])
    assert "2 items" in ablate(workdir, seeds=(0, 1))  # the third one is not in the list any more
    assert stub.took() == ["generate"] * 6 + ["evaluate"] * 6
    config = workdir / "rows.py"
    config.write_text(config.read_text().replace("learning_rate=0.01", "learning_rate=0.02"))
    ablate(workdir, seeds=(0, 1))
    assert stub.took() == ["train"] * 4 + ["generate"] * 6 + ["evaluate"] * 6
    ablate(workdir, seeds=(0, 1), judge={"recogniser": "another"})
    assert stub.took() == ["evaluate"] * 6
    for path in waves(workdir, "guided", 1):
        if path.stem == "item0":
            path.unlink()
    ablate(workdir, seeds=(0, 1))
    assert stub.took() == ["generate"]
    for path in (workdir / "out").glob("rows/*/*/report-*/items.jsonl"):
        path.unlink()
    ablate(workdir, seeds=(0, 1))
    assert stub.took() == ["evaluate"] * 6
    for path in (workdir / "out" / "models").rglob("*.jsonl"):
        path.unlink()
    ablate(workdir, seeds=(0, 1))
    assert stub.took() == ["train"] * 4


def test_a_model_trained_anew_in_the_same_folder_is_another_start(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "zipvoice_jax.json").write_text("one")
    before = identity_of_model(tmp_path / "model")
    (tmp_path / "model" / "zipvoice_jax.json").write_text("two")
    assert identity_of_model(tmp_path / "model") != before


def test_what_has_been_spoken_so_far_is_judged_and_compared_by_common_items(
    workdir: Path, stub: Stub
) -> None:
    with user_error("no row", "has spoken with each of the seeds 0, 1 so far"):
        ablate(workdir, seeds=(0, 1), so_far=True)
    stub.failing = "evaluate"
    with user_error("evaluate"):
        ablate(workdir, seeds=(0, 1), jobs=1)
    stub.failing = None
    stub.took()
    for path in [*waves(workdir, "longer", 1), waves(workdir, "guided", 1)[0]]:
        path.unlink()
    shown = ablate(workdir, seeds=(0, 1), so_far=True)
    assert stub.took() == ["evaluate"] * 4
    assert "2 seeds, 2 items" in shown and "So far without speech of every seed: longer." in shown
    table = json.loads((workdir / "out" / "table.json").read_text())
    assert list(table["rows"]) == ["plain", "guided"]
    assert "3 items" in ablate(workdir, seeds=(0,), so_far=True)
    stub.took()
    # Nothing of that counts as done.
    assert "3 items" in ablate(workdir, seeds=(0, 1))
    assert stub.took() == ["generate"] * 2 + ["evaluate"] * 6
    for row, kept in (("plain", "item0"), ("guided", "item1")):
        for path in waves(workdir, row, 0):
            if path.stem != kept:
                path.unlink()
    with user_error("no item has been judged in all rows"):
        ablate(workdir, seeds=(0,), so_far=True)
    # A judge that fails is no judge of what is there, whatever it has left.
    stub.failing = "evaluate"
    with user_error("evaluate", "was wrong"):
        ablate(workdir, seeds=(0,), so_far=True)
    stub.failing = None
    # Speech of another training is none of this one.
    config = workdir / "rows.py"
    config.write_text(config.read_text().replace("learning_rate=0.01", "learning_rate=0.02"))
    with user_error("no row"):
        ablate(workdir, seeds=(0,), so_far=True)


def test_nothing_runs_beside_what_is_timed(workdir: Path, stub: Stub) -> None:
    ablate(workdir, seeds=(0, 1), rtf=True)
    assert stub.together == {"train": 2, "generate": 1, "evaluate": 2}
    timed = [one for words, one in zip(stub.ran, stub.slots, strict=True) if words[0] == "generate"]
    assert {one.env.get("PLACE") for one in timed} == {None}  # but on all devices


def test_a_command_that_failed_is_reported_and_run_again(workdir: Path, stub: Stub) -> None:
    stub.failing = "generate"
    with user_error(
        "`zipvoice-jax generate", "ended with 1 (was wrong)", "The same command goes on"
    ):
        ablate(workdir, seeds=(0,), jobs=1)
    assert stub.took() == ["train", "train", "generate"]
    stub.failing = None
    ablate(workdir, seeds=(0,), jobs=1)
    assert stub.took() == ["generate"] * 3 + ["evaluate"] * 3
    words = ("evaluate", "--to", str(workdir / "x"), "--wav-dir", str(workdir),
             "--test-list", str(workdir / "list.tsv"))  # fmt: skip
    lost = Command(words, (), (workdir / "nowhere",))
    for item in ITEMS:
        (workdir / f"{item[0]}.wav").touch()
    with user_error(f"did not make {workdir / 'nowhere'}"):
        run_all([lost], workdir / "logs", [Slot()], module.tqdm(disable=True))


def reaches(group: int, number: int) -> bool:
    """Sends a signal to a group of processes; False if there is none any more."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def test_a_study_that_is_killed_leaves_no_command_behind(tmp_path: Path) -> None:
    begun, config = tmp_path / "begun", tmp_path / "endless.py"
    config.write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(600)\n"
    )
    words = ("train", "--config", str(config), "--to", str(tmp_path / "run"))
    study = (
        "from pathlib import Path\nfrom tqdm import tqdm\n"
        "from zipvoice_jax.ablation.commands import Command, Slot, run_all\n"
        f"run_all([Command({words!r})], Path({str(tmp_path)!r}), [Slot()], tqdm(disable=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", study], env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )  # fmt: skip
    try:
        while not begun.is_file():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while (left := reaches(process.pid, 0)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
    finally:
        reaches(process.pid, signal.SIGKILL)


def test_what_cannot_work_is_refused_before_any_training(workdir: Path, stub: Stub) -> None:
    def refused(*words: str, **changes: Any) -> None:
        with user_error(*words):
            ablate(workdir, **changes)
        assert stub.took() == []

    write_list(workdir / "list.tsv", [*ITEMS, ("item9", "too", "few")])
    refused("list.tsv: line 4: it has 3 tab-separated fields")
    write_list(workdir / "list.tsv", [ITEMS[0], (*ITEMS[1][:5], "Who says this?")])
    refused("list.tsv: item1: ", "[S1]")
    write_list(
        workdir / "list.tsv", [(*ITEMS[0][:4], workdir / "nobody.wav", "[S1] Yes. [S2] No.")]
    )
    refused("list.tsv: item0: ", "nobody.wav")
    write_list(workdir / "list.tsv", ITEMS)
    config = workdir / "rows.py"
    config.write_text(GUIDED.replace('stages: str = "one,two"', 'stages: str = "one"'))
    refused("row 'plain' trains one, but two is to speak")
    renamed = GUIDED.replace("steps: int = 2", "updates: int = 2").replace("=steps", "=updates")
    config.write_text(renamed)
    refused("--set steps=3")
    config.write_text(GUIDED.replace('of("mono")', 'of("other")'))
    refused("other is no dataset")

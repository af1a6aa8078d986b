"""What long work says meanwhile: lines in a file, true speeds, no warnings of Python's own."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tqdm import tqdm

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.files import append_record
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.infer.requests import BadLine, Request, read_requests
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.log import RunLog, Speedometer, read_log
from zipvoice_jax.train.pictures import draw_losses, show_schedules


def test_a_file_gets_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(
        "zipvoice_jax.core.progress.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    with progress_bar(total=300, initial=100, desc="learn", unit="step", mininterval=0.0) as bar:
        for _ in range(100):
            now[0] += 1.0
            bar.update()
            bar.set_postfix_str("loss 0.5")
            bar.clear()
            bar.refresh()
    said = capsys.readouterr().err
    assert "\r" not in said
    lines = said.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"learn: {count} of 300 steps" for count in (130, 160, 190, 200)
    ]
    assert all(line.endswith("loss 0.5") for line in lines[1:])
    assert list(progress_bar(iter("abc"), unit="item")) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("3 items, ")
    progress_bar(total=3, disable=True).close()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(total=3, disable=True) as bar:
        assert type(bar) is tqdm


def test_speeds_are_of_steps_that_were_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("zipvoice_jax.train.log.time", clock)
    monkeypatch.setattr("zipvoice_jax.train.log.matmul_flops_per_second", lambda dtype: 1e12)
    log = RunLog(tmp_path, start=0, total=9, config={})
    speed = Speedometer(ModelConfig())
    metrics = {"loss": 1.0, "frames": 200.0, "padding": 0.2, "bad_steps": 0.0}

    def ended(step: int) -> None:
        log.step("one", step, Bucket(64, 16, 4, 1), metrics, speed, write=True)

    speed.reset(1)  # step 1 was compiled, and has ended at once
    ended(1)
    now[0] += 2.0
    ended(2)
    speed.reset(3)  # step 3 was compiled, of another shape
    ended(3)
    now[0] += 4.0
    ended(4)
    log.close()
    speeds = [entry.get("frames_per_second") for entry in read_log(log.path)]
    assert speeds == [None, 100.0, None, 50.0]
    assert ["utilisation" in entry for entry in read_log(log.path)] == [False, True, False, True]


LEAK = """
from multiprocessing import shared_memory
from zipvoice_jax.core.processes import hush_tracker
if {hush}:
    hush_tracker()
shared_memory.SharedMemory(create=True, size=64)
raise SystemExit("an error")
"""


@pytest.mark.parametrize("hush", [False, True])
def test_shared_memory_that_an_error_leaves_is_freed_in_silence(hush: bool) -> None:
    # Training in this process may have set the same rule for its children.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-c", LEAK.format(hush=hush)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert ("leaked shared_memory" in done.stderr) != hush
    assert "an error" in done.stderr


def test_lists_may_end_their_lines_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(
        "a\tSaid.\tp.wav\tHello.\t\nb\tSaid.\tp.wav\tHello.\t \t\t\n"
        "c\tOne.\tTwo.\tp.wav\tq.wav\t[S1] Yes. [S2] No.\t\n"
        "d\tSaid.\tp.wav\t\t\ne\tOne.\tTwo.\tp.wav\tq.wav\t\t\nf\tSaid.\tp.wav\tHello.\tmore\n",
        encoding="utf-8",
    )
    found = read_requests(path)
    assert [(one.item_id, one.text) for one in found if isinstance(one, Request)] == [
        ("a", "Hello."),
        ("b", "Hello."),
        ("c", "[S1] Yes. [S2] No."),
    ]
    bad = [one for one in found if isinstance(one, BadLine)]
    # Whoever tells of a line says its number, once.
    assert [one.item_id for one in bad] == ["line 4", "line 5", "line 6"]
    assert not any("line" in one.error for one in bad)
    expected = zip(bad, ("text of d", "text of e", "5 tab"), strict=True)
    assert all(words in one.error for one, words in expected)


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures of training that are to be saved, instead of their files."""
    figures: list[Any] = []
    save = "zipvoice_jax.train.pictures.save_picture"
    monkeypatch.setattr(save, lambda figure, *_, **__: figures.append(figure))
    return figures


@pytest.mark.parametrize("objective", ["flow", "distill", "duration"])
def test_losses_of_every_objective_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    log, figures = tmp_path / "log.jsonl", drawn(monkeypatch)
    for step, loss in ((1, 0.5), (2, 0.25)):
        common = {"step": step, "stage": "a", "loss": loss, objective: loss}
        for entry in ({"kind": "train", "bucket": "4x9x9x1"}, {"kind": "valid"}):
            append_record(log, entry | common)
    draw_losses(log, tmp_path / "losses.png")
    lines = figures[0].axes[0].get_lines()
    losses = [line.get_ydata().tolist() for line in lines if line.get_color() == "k"]
    assert [0.5, 0.25] in [list(map(float, one)) for one in losses]
    assert len(figures[0].axes) == 1


def test_words_that_were_heard_are_drawn_beside_the_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, figures = tmp_path / "log.jsonl", drawn(monkeypatch)
    for step, wer in ((2, 80.0), (4, 12.5)):
        common = {"step": step, "stage": "a"}
        append_record(log, {"kind": "train", "bucket": "4x9x9x1", "loss": 0.5, **common})
        append_record(log, {"kind": "valid", "loss": 0.5, "flow_without_text": 0.75, **common})
        append_record(log, {"kind": "heard", "wer": wer, **common})
    append_record(log, {"kind": "heard", "step": 6, "stage": "b"})  # no item was for it
    draw_losses(log, tmp_path / "losses.png")
    losses, words = figures[0].axes
    dashed = [line.get_ydata() for line in losses.get_lines() if line.get_linestyle() == "--"]
    assert [0.75, 0.75] in [list(map(float, one)) for one in dashed]
    (line,) = words.get_lines()
    assert list(line.get_xdata()) == [2, 4] and list(line.get_ydata()) == [80.0, 12.5]


def test_datasets_of_one_name_are_drawn_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(monkeypatch)
    sources = (SourceConfig("d2/single"), SourceConfig("d3/single", repeats=2.0))
    data = DataConfig(sources, batch_seconds=9.0)
    stage = Stage(name="a", kind="zipvoice", steps=5, data=data)
    run = TrainConfig(model=ModelConfig(), stages=(stage,), tokens="none")
    show_schedules(run, tmp_path / "schedules.png")
    levels = {
        axes.get_ylabel(): {float(y) for y in axes.get_lines()[0].get_ydata()}
        for axes in figures[0].axes
    }
    assert levels["repeats of d2/single (train)"] == {1.0}
    assert levels["repeats of d3/single (train)"] == {2.0}

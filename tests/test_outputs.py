"""Places to write to are checked before any model is loaded, and full ones cost little."""

import os
from pathlib import Path

import pytest
from complaints import message
from generation import RELEASE, TEXT1, WAV1, one_line, run_main, write_list

from zipvoice_jax.core.outputs import check_file, check_folder

TOKENS = RELEASE / "zipvoice_dialog" / "tokens.txt"
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "tiny.py"
# No command may get as far as finding out that these are missing.
SPEAK = ("generate", "--model-dir", "nowhere", "--text", "Yes.", "--prompt-wav", WAV1)
SPEAK = (*SPEAK, "--prompt-text", TEXT1, "--res-wav-path")
LIST = ("generate", "--model-dir", "nowhere", "--test-list", "list.tsv", "--res-dir")
BENCH = ("bench", "generate", "--model-dir", "nowhere", "--json")


@pytest.mark.parametrize(
    ("command", "place", "said"),
    [
        (SPEAK, "speech", "speech needs the extension"),
        (SPEAK, "speech.mp5", ".mp5 is no known one"),
        (SPEAK, "folder.wav", "is a directory"),
        (SPEAK, "file/speech.wav", "a parent of it is a file"),
        (SPEAK, "/proc/speech.wav", "cannot be written"),
        (SPEAK, f"{'long' * 60}.wav", "cannot be written"),
        ((*SPEAK[:-1], "--plot", "--res-wav-path"), "drawn.wav", "drawn.png is a directory"),
        (LIST, "file", "is a file"),
        (LIST, "/proc/results", "cannot be written"),
        (BENCH, "folder.wav", "is a directory"),
        (BENCH, "/dev/full", "is a device"),
        (("convert", "--from", "nowhere", "--to"), "file", "is a link or a file"),
        (("convert", "--from", "nowhere", "--to"), "folder.wav", "is not empty"),
        (("convert", "--from", "nowhere", "--to"), "/proc/model", "cannot be written"),
        (("init", "--kind", "zipvoice", "--tokens", "nowhere", "--to"), "file", "a file"),
        (("demo", "--model-dir", "nowhere", "--res-dir"), "file", "is a file"),
        (("prepare", "--format", "tsv", "--from", "nowhere", "--to"), "file", "is a file"),
        (("train", "--config", CONFIG, "--to"), "file", "is a file"),
        (("train", "--config", CONFIG, "--show-schedule"), "schedule", "needs the extension"),
        (("evaluate", "--test-list", "no.tsv", "--wav-dir", ".", "--to"), "file", "is a file"),
        (
            ("evaluate", "--test-list", "no.tsv", "--listening-test"),
            "folder.wav",
            "is a directory",
        ),
        (
            ("ablate", "turns", "--config", "no.py", "--test-list", "no.tsv", "--to"),
            "file",
            "is a file",
        ),
        (
            ("compile", "--config", CONFIG, "--topology", "cpu", "--plot"),
            "picture",
            "needs the extension",
        ),
        (("bench", "vocoder", "--wav-dir", "nowhere", "--to"), "file", "is a file"),
    ],
)  # fmt: skip
def test_outputs_are_checked_first(
    command: tuple, place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zipvoice_jax.cli.compile._choose_platform", lambda _: None)
    for folder in ("folder.wav", "drawn.png"):
        Path(folder, "kept").mkdir(parents=True)
    Path("file").write_text("mine")
    write_list(Path("list.tsv"), [("a", TEXT1, WAV1, "Yes.")])
    before = sorted(os.walk("."))
    status, out, err = run_main(*command, place)
    one_line(status, err, said)
    assert out == ""
    assert sorted(os.walk(".")) == before and Path("file").read_text() == "mine"


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_file(tmp_path / "new" / "er" / "a.wav", (".wav",))
    check_folder(tmp_path / "new" / "er")
    check_file(None)
    check_folder(None)
    assert list(tmp_path.iterdir()) == []
    assert "cannot be written" in message(check_file, Path("a\0b.wav"))
    assert "cannot be written" in message(check_folder, Path("a\0b"))

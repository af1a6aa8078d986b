"""Places to write to are checked before any model is loaded, and full ones cost little."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from complaints import message
from conftest import ROOT
from fakes import fake_models
from generation import DIALOGUE, RELEASE, TEXT1, TEXT2, WAV1, WAV2, one_line, run_main, write_list

from zipvoice_jax.audio.io import read_audio, sampling_rate_of
from zipvoice_jax.cli.main import main
from zipvoice_jax.core.files import alone, cache_folder
from zipvoice_jax.core.outputs import check_file, check_folder
from zipvoice_jax.infer.run import rescue
from zipvoice_jax.infer.synthesizer import Speech

TOKENS = RELEASE / "zipvoice_dialog" / "tokens.txt"
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "tiny.py"
# No command may get as far as finding out that these are missing.
SPEAK = ("generate", "--model-dir", "nowhere", "--text", "Yes.", "--prompt-wav", WAV1)
SPEAK = (*SPEAK, "--prompt-text", TEXT1, "--res-wav-path")
LIST = ("generate", "--model-dir", "nowhere", "--test-list", "list.tsv", "--res-dir")
BENCH = ("bench", "generate", "--model-dir", "nowhere", "--json")


@pytest.mark.parametrize(
    ("command", "target", "said"),
    [
        (SPEAK, "speech", "speech needs the extension"),
        (SPEAK, "speech.mp5", ".mp5 is no known one"),
        (SPEAK, "folder.wav", "is a directory"),
        (SPEAK, "file/speech.wav", "a parent of it is a file"),
        (SPEAK, "/proc/speech.wav", "cannot be written"),
        (SPEAK, f"{'long' * 60}.wav", "200 bytes"),
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
    command: tuple, target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zipvoice_jax.forecast.command._choose_platform", lambda _: None)
    for folder in ("folder.wav", "drawn.png"):
        Path(folder, "kept").mkdir(parents=True)
    Path("file").write_text("mine")
    write_list(Path("list.tsv"), [("a", TEXT1, WAV1, "Yes.")])
    before = sorted(os.walk("."))
    status, out, err = run_main(*command, target)
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


_FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from zipvoice_jax.audio.io import write_audio
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import append_record, write_text

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as if the disk were full
for name in ("a.wav", "a.flac", "a.ogg"):
    for wave in (np.zeros((1, 9), np.float32), np.random.default_rng(0).normal(size=(2, 24_000))):
        try:
            write_audio(name, wave, 24_000)
        except UserError as error:
            print(error)
try:
    write_text(Path("a.json"), "x" * 1001)
except UserError as error:
    print(error)
for number in range(99):
    try:
        append_record(Path("report.jsonl"), {"id": str(number), "told": "x" * 30})
    except UserError as error:
        print(error)
        break
"""


@pytest.mark.parametrize("flags", [(), ("-O",)])
def test_a_full_disk_is_reported_and_leaves_nothing_half_written(
    flags: tuple, tmp_path: Path
) -> None:
    command = [sys.executable, *flags, "-c", _FULL]
    environment = {**os.environ, "PYTHONPATH": str(CONFIG.parent.parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["a.wav", "a.flac", "a.ogg", "a.ogg", "a.json", "report.jsonl"], done.stdout
    assert "cannot be written (File too large)" in done.stdout.splitlines()[0]
    assert sorted(os.listdir(tmp_path)) == ["a.flac", "a.wav", "report.jsonl"]
    assert soundfile.info(tmp_path / "a.wav").frames == 9
    lines = (tmp_path / "report.jsonl").read_text().splitlines()
    assert len(lines) > 10 and [json.loads(line)["id"] for line in lines] == [
        str(number) for number in range(len(lines))
    ]


def test_a_full_standard_output_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipvoice_jax.cli.init.run", lambda args: print("done") or 0)
    command = ["init", "--kind", "zipvoice", "--tokens", "tokens.txt", "--to", "model"]
    err = io.StringIO()
    with (
        open("/dev/full", "w") as full,
        contextlib.redirect_stdout(full),
        contextlib.redirect_stderr(err),
    ):
        status = main(command)
    one_line(status, err.getvalue(), "the standard output cannot be written (No space left")


def test_speech_that_cannot_be_written_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    wave = np.full((1, 2400), 0.5, np.float32)
    speech = Speech("a", wave, 24_000, wave.T, (), 1.0, 1.0, (), ())
    (tmp_path / "file").touch()
    notice = rescue(speech, tmp_path / "file" / "a.wav")
    kept = Path(notice.removeprefix("It is kept as ").removesuffix("."))
    np.testing.assert_array_equal(read_audio(kept, 24_000), wave)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert "no room" in rescue(speech, tmp_path / "file" / "a.wav")


def test_what_is_fetched_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/her")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MY_WEIGHTS", raising=False)
    assert cache_folder("judges") == Path("/users/her/.cache/zipvoice_jax/judges")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache_folder("judges", "MY_WEIGHTS") == Path("/fast/zipvoice_jax/judges")
    monkeypatch.setenv("MY_WEIGHTS", "/weights")
    assert cache_folder("judges", "MY_WEIGHTS") == Path("/weights")


def test_prompts_are_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_models(monkeypatch)
    recording = WAV1.read_bytes()
    names = ("mary.wav", "talk.s1.wav", "talk.s2.wav", "walk.s1.wav", "walk.png")
    prompts = [tmp_path / name for name in names]
    for prompt in prompts:
        prompt.write_bytes(recording)
    (tmp_path / "link.wav").symlink_to(prompts[0])
    one = ("generate", "--model-dir", RELEASE / "zipvoice", "--text", "Yes.", "--prompt-text",
           TEXT1, "--prompt-wav", prompts[0], "--res-wav-path")  # fmt: skip
    two = ("generate", "--model-dir", RELEASE / "zipvoice_dialog", "--text", DIALOGUE,
           "--prompt-text", TEXT1, TEXT2, "--prompt-wav", *prompts[1:3],
           "--res-wav-path", tmp_path / "talk.wav")  # fmt: skip
    for command in ((*one, prompts[0]), (*one, tmp_path / "link.wav"), (*two, "--tracks")):
        status, _, err = run_main(*command)
        one_line(status, err, "is one of the recordings that are read, and would be lost")
    assert run_main(*two)[0] == 0
    rows = [
        ("mary", TEXT1, TEXT2, *prompts[1:3], DIALOGUE),
        ("talk", TEXT1, TEXT2, *prompts[1:3], DIALOGUE),
        ("walk", TEXT1, TEXT2, prompts[0], WAV2, DIALOGUE),
    ]
    listed = write_list(tmp_path / "list.tsv", rows)
    speak = ("generate", "--model-dir", RELEASE / "zipvoice_dialog", "--test-list", listed,
             "--res-dir", tmp_path)  # fmt: skip
    status, out, err = run_main(*speak)
    assert status == 1 and "2 done, 0 skipped, 1 failed" in out
    assert "mary: " in err and "would be lost" in err
    # Nor is anything removed that lay beside an item's name and is none of a report's.
    assert all(prompt.read_bytes() == recording for prompt in prompts)
    status, out, err = run_main(*speak, "--tracks")
    assert status == 1 and "1 done, 0 skipped, 2 failed" in out
    assert all(prompt.read_bytes() == recording for prompt in prompts[:3])
    assert (tmp_path / "walk.s1.wav").read_bytes() != recording  # the track that was asked for


def test_one_process_at_a_time_speaks_into_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_models(monkeypatch)
    listed = write_list(tmp_path / "list.tsv", [("a", TEXT1, WAV1, "Yes.")])
    speak = ("generate", "--model-dir", RELEASE / "zipvoice", "--test-list", listed, "--res-dir",
             tmp_path / "said")  # fmt: skip
    with alone(tmp_path / "said" / ".lock", ""):
        status, _, err = run_main(*speak)
        one_line(status, err, "another process speaks into")
    assert run_main(*speak)[0] == 0

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)  # as on some network filesystems
    assert run_main(*speak)[0] == 0


def test_a_path_that_cannot_even_be_looked_up_is_one_line(tmp_path: Path) -> None:
    status, _, err = run_main("train", "--config", tmp_path / ("a" * 300), "--to", tmp_path / "x")
    one_line(status, err, "cannot be used (File name too long)")


def test_an_interrupt_while_libraries_load_is_silent() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "zipvoice_jax.cli.main", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        while process.poll() is None and "jax" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGINT) and "Traceback" not in err, err


def test_names_may_hold_any_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_models(monkeypatch)
    prompt = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    wave, rate = soundfile.read(WAV1)
    with prompt.open("wb") as file:
        soundfile.write(file, wave, rate, format="WAV")
    run = ("generate", "--model-dir", RELEASE / "zipvoice", "--text", "Yes.", "--plot")
    to = tmp_path / "from_$5_to_$10^.wav"
    status, _, err = run_main(
        *run, "--prompt-wav", prompt, "--prompt-text", TEXT1, "--res-wav-path", to
    )
    assert status == 0, err
    assert to.is_file() and to.with_suffix(".png").is_file()
    assert sampling_rate_of(prompt) == rate

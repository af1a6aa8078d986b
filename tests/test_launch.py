"""What the scripts of `launch/` would run, told by --dry-run, and what they do when things fail.

`python tests/test_launch.py` writes tests/launch/*.txt anew.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, free_port
from training import make_data, write_config

TEXTS = ROOT / "tests" / "launch"
CONFIG = ("--config", "configs/dialog_opendialog.py")
SLICE = (
    "--name",
    "dialog",
    "--project",
    "speech",
    "--zone",
    "europe-west4-b",
    "--bucket",
    "corpora",
)
TRAIN = ("--", "--set", "data=/mnt/corpora/data/open dialog")
CASES = {
    "local": ("local.sh", "--processes", "3", "--devices", "2", "--", "--config", "a.py"),
    "tpu_vm_all_v5e": ("tpu_vm.sh", "all", *SLICE, *CONFIG, "--topology", "v5e:16x16", *TRAIN),
    "tpu_vm_all_v5p": (
        *("tpu_vm.sh", "all", *SLICE, *CONFIG, "--topology=v5p:8x8x16", "--spot", "no"),
        *("--preflight", "no", "--fsdp", "4"),
    ),
    "tpu_vm_logs": ("tpu_vm.sh", "logs", *SLICE, *CONFIG, "--topology", "v6e:4x4"),
    "tpu_vm_stop": ("tpu_vm.sh", "stop", *SLICE, *CONFIG, "--topology", "v6e:4x4"),
    "gke_all": (
        *("gke.sh", "all", "--name", "dialog", "--bucket", "corpora", *CONFIG),
        *("--topology", "v6e:8x8", *TRAIN),
    ),
    "gke_logs": ("gke.sh", "logs", "--name", "dialog"),
    "gke_delete": ("gke.sh", "delete", "--name", "dialog"),
    "slurm": (
        *("slurm.sh", "--name", "dialog", "--nodes", "4", "--gpus", "8", "--partition", "h200"),
        *("--", "--config", "a.py", "--to", "/runs/it's new"),
    ),
}


def launch(script: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "launch" / script), *args],
        env={**os.environ, "TMPDIR": "/tmp", **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        cwd=ROOT,
    )  # fmt: skip


def dry(name: str) -> str:
    script, *args = CASES[name]
    done = launch(script, "--dry-run", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(ROOT), "ROOT")


@pytest.mark.parametrize("name", CASES)
def test_every_command_is_printed(name: str) -> None:
    assert dry(name) == (TEXTS / f"{name}.txt").read_text(encoding="utf-8")


def test_each_text_has_a_case() -> None:
    assert {path.stem for path in TEXTS.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("tpu_vm.sh", "all"), "give --name"),
        (("tpu_vm.sh", "fly", *SLICE, *CONFIG, "--topology", "v5e:4x4"), "fly is no action"),
        (("tpu_vm.sh", "all", *SLICE, *CONFIG, "--topology", "v5e:4"), "--topology v5e:4"),
        (("tpu_vm.sh", "all", *SLICE, "--config", "no.py", "--topology", "v5e:4x4"), "no.py"),
        (("gke.sh", "all", "--nmae", "x"), "--nmae is no option"),
        (("gke.sh", "delete", "--dry-run"), "give --name"),  # whatever the shell exports
        (
            (
                "gke.sh",
                "all",
                "--name",
                "x",
                "--bucket",
                "b",
                *CONFIG,
                "--topology",
                "v6e:4x4",
                "--",
                "--fsdp",
                "2",
            ),
            "give --fsdp before --",
        ),
        (("gke.sh", "all", "--name"), "--name needs a value"),
        (("slurm.sh", "--name", "x", "--nodes", "1", "--gpus", "8"), "options of train"),
        (("local.sh", "--processes", "two", "--", "--config", "a.py"), "--processes two"),
    ],
)
def test_bad_options_are_one_line(args: tuple[str, ...], message: str) -> None:
    done = launch(*args, NAME="host")
    assert done.returncode == 2 and message in done.stderr and done.stdout == ""
    assert done.stderr.startswith("launch: error: ") and done.stderr.count("\n") == 1


# --- worker.sh ------------------------------------------------------------------------------------


def counting(folder: Path, *statuses: int) -> str:
    """A command that ends with these statuses, one after the other; it notes each start."""
    ends = " ".join(map(str, statuses))
    return (
        f"echo >> {folder}/starts; n=$(wc -l < {folder}/starts); set -- {ends}; "
        "eval s=\\${$n}; [ $s -lt 128 ] || kill -9 $$; exit $s"
    )


def worker(
    folder: Path, *statuses: int, **env: str
) -> tuple[subprocess.CompletedProcess[str], int]:
    done = launch(
        *("worker.sh", str(folder), "none", "bash", "-c", counting(folder, *statuses)),
        ZIPVOICE_RESTART_WAIT="0", **env,
    )  # fmt: skip
    return done, len((folder / "starts").read_text().splitlines())


@pytest.mark.parametrize(
    ("statuses", "end", "starts"),
    [((0,), 0, 1), ((75, 137, 75, 0), 0, 4), ((75, 1, 0), 1, 2), ((2, 0), 2, 1)],
)
def test_what_was_stopped_or_killed_is_started_again(
    tmp_path: Path, statuses: tuple[int, ...], end: int, starts: int
) -> None:
    done, count = worker(tmp_path, *statuses)
    assert (done.returncode, count) == (end, starts)
    assert done.stderr.splitlines()[-1] == f"worker: ended with status {end}"


def test_what_ends_at_once_again_and_again_is_given_up(tmp_path: Path) -> None:
    done, count = worker(tmp_path, *[75] * 9, ZIPVOICE_MAX_RESTARTS="3")
    assert (done.returncode, count) == (75, 4) and "given up after 4 starts" in done.stderr


def test_a_worker_that_is_told_to_stop_hands_it_on(tmp_path: Path) -> None:
    code = f"trap 'exit 75' TERM; touch {tmp_path}/began; while true; do sleep 0.05; done"
    with subprocess.Popen(
        ["bash", ROOT / "launch" / "worker.sh", tmp_path, "none", "bash", "-c", code],
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (tmp_path / "began").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 75 and "worker: stopped (status 75)" in said


# --- tpu_vm.sh, with a gcloud of our own ----------------------------------------------------------

GCLOUD = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$NOTES/calls"
case $* in
  *describe*)
    echo >> "$NOTES/looks"
    state=$(sed -n "$(wc -l < "$NOTES/looks")p" "$NOTES/states")
    if [ "$state" = offline ]; then echo "no network" >&2; exit 1; fi
    echo "$state"
    ;;
  *'--worker 0'*) cat "$NOTES/last" ;;
esac
"""


def watched(folder: Path, states: list[str], last: str) -> tuple[int, str, list[str]]:
    """Status, complaint and calls of `watch`, where the slice goes through these states."""
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    (folder / "states").write_text("\n".join([*states, ""]))
    (folder / "last").write_text(last)
    path = f"{folder}:{os.environ['PATH']}"
    args = ("watch", *SLICE, *CONFIG, "--topology", "v5e:4x4", "--poll", "0.1")
    done = launch("tpu_vm.sh", *args, PATH=path, NOTES=str(folder), TMPDIR=str(folder))
    calls = (folder / "calls").read_text().splitlines()
    kinds = ("describe", "create", "delete", "scp", "mount.sh", "train.pid)", "worker.sh gs://")
    found = [next((k for k in kinds if k in call), "cp") for call in calls]
    return done.returncode, done.stderr, found


def test_a_preempted_slice_is_had_anew(tmp_path: Path) -> None:
    states = ["ACTIVE", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE"]
    status, said, calls = watched(tmp_path, states, "")
    # The log's last line stays empty, so the last state is followed by none: a lost slice again,
    # of which there is nothing to delete, and which cannot be had.
    assert status == 2 and "could not be had" in said
    assert calls[:2] == ["describe", "train.pid)"]
    assert calls[2:7] == ["describe", "delete", "create", "describe", "describe"]
    assert calls[7:11] == ["cp", "scp", "mount.sh", "worker.sh gs://"]


def test_a_slice_that_cannot_be_looked_at_is_not_lost(tmp_path: Path) -> None:
    last = "ended: worker: ended with status 0\n"
    status, said, calls = watched(tmp_path, ["offline", "ACTIVE"], last)
    assert status == 0 and "the slice cannot be looked at: no network" in said
    assert calls == ["describe", "describe", "train.pid)", "delete"]


def test_a_run_that_is_done_gives_its_slice_back(tmp_path: Path) -> None:
    last = "ended: worker: ended with status 0\n"
    status, said, calls = watched(tmp_path, ["ACTIVE"], last)
    assert status == 0 and "the run is done: gs://corpora/runs/dialog" in said
    assert calls == ["describe", "train.pid)", "delete"]


def test_a_run_that_failed_keeps_its_slice(tmp_path: Path) -> None:
    status, said, calls = watched(tmp_path, ["ACTIVE"], "ended: worker: ended with status 1\n")
    assert status == 2 and "not done (ended: worker: ended with status 1)" in said
    assert "delete" not in calls


# --- for real -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_of_this_machine_train(tmp_path: Path) -> None:
    make_data(tmp_path)
    config = write_config(tmp_path)
    sets = ("--set", f"data={tmp_path}", "--set", "steps=4", "--set", "stages=one")
    sets = (*sets, "--set", "batch_multiple=2", "--set", "stages.one.hooks=no")
    done = launch(
        *("local.sh", "--processes", "2", "--port", str(free_port()), "--"),
        *("--config", str(config), "--to", str(tmp_path / "run"), *sets),
        ZIPVOICE_JAX=str(Path(sys.executable).parent / "zipvoice-jax"),
        PYTHONPATH=str(ROOT),
    )
    assert done.returncode == 0, done.stderr
    assert "the trained model, after 4 steps" in done.stdout
    assert done.stderr.count("worker: ended with status 0") == 2


if __name__ == "__main__":
    TEXTS.mkdir(exist_ok=True)
    for one in CASES:
        (TEXTS / f"{one}.txt").write_text(dry(one), encoding="utf-8")

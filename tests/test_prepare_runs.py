"""Running a preparation: workers, kills, Beam, `tfds build`, the command, the demo corpus."""

import contextlib
import filecmp
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import preparing
import pytest
import soundfile
from complaints import user_error
from conftest import ROOT, RunCli
from generation import run_main
from preparing import config

from zipvoice_jax.core.files import alone
from zipvoice_jax.data import prepare_run
from zipvoice_jax.data.prepare import prepare
from zipvoice_jax.data.prepare_config import PrepareConfig
from zipvoice_jax.data.prepare_plan import plan_preparation
from zipvoice_jax.data.prepare_run import Beam
from zipvoice_jax.data.records import decode_audio, open_split
from zipvoice_jax.data.sources import Source, formats

OPTIONS = ("--split", "hash", "--dev-share", "0.2", "--name", "toy")


def assert_same(one: Path, other: Path) -> None:
    """The directories hold the same files, byte by byte."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preparing.opendialog(tmp_path_factory.mktemp("od"), tars=4, per_tar=5)


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus prepared in one process, without interruption."""
    to = tmp_path_factory.mktemp("whole") / "out"
    settings = config(Source("opendialog", corpus), "dialog", dev_share=0.2)
    prepare(settings, to, workers=1)
    return to


def start(corpus: Path, to: Path, workers: int) -> subprocess.Popen[bytes]:
    """Starts the command in a process group of its own."""
    command = [sys.executable, "-m", "zipvoice_jax.cli.main", "prepare", "--format", "opendialog"]
    command += ["--from", str(corpus), "--to", str(to), "--workers", str(workers), *OPTIONS]
    command += ["--tokens", str(preparing.TABLE)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_the_order_of_a_split_is_that_of_the_corpus(whole: Path):
    _, index = open_split(whole, "train")
    _, dev = open_split(whole, "dev")
    names = [f"en_{tar}_{i}" for tar in range(4) for i in range(5)]
    assert sorted([*index.ids, *dev.ids]) == names
    assert [name for name in names if name in index.ids] == index.ids.tolist()
    assert 0 < len(dev) < 10


def prepared(settings: PrepareConfig, to: Path, *, stop_after: int | None = None) -> list[str]:
    """Prepares in this process, perhaps until some shards are made; returns their names."""
    made: list[str] = []
    original = prepare_run.prepare_shard

    def make(job: prepare_run.ShardJob) -> int:
        if len(made) == stop_after:
            raise KeyboardInterrupt
        made.append(job.shard.name)
        return original(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_run, "prepare_shard", make)
        with contextlib.suppress(KeyboardInterrupt) if stop_after else contextlib.nullcontext():
            prepare(settings, to, workers=1)
    assert stop_after in (None, len(made)) and (to / "report.json").exists() != bool(stop_after)
    return made


def test_finished_shards_are_kept_and_not_made_again(corpus: Path, whole: Path, tmp_path: Path):
    settings = config(Source("opendialog", corpus), "dialog", dev_share=0.2)
    made = prepared(settings, tmp_path / "out", stop_after=2)
    assert not set(made) & set(prepared(settings, tmp_path / "out"))
    assert_same(whole, tmp_path / "out")


def test_what_was_mended_since_an_earlier_run_is_prepared(tmp_path: Path):
    path = preparing.tsv(tmp_path / "in", 4)
    settings = config(Source("tsv", path, unit_size=1), dev_share=0.0)
    missing, hopeless = sorted((tmp_path / "in").glob("*.wav"))[:2]
    content = missing.read_bytes()
    missing.unlink()
    hopeless.write_bytes(b"no audio")
    made = prepared(settings, tmp_path / "out", stop_after=3)
    missing.write_bytes(content)
    again = prepared(settings, tmp_path / "out")
    assert len(made) == 3 and set(made) & set(again) == {made[0]} and len(again) == 2
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["splits"]["train"]["utterances"] == 3
    assert [one["id"] for one in report["rejects"]["unreadable"]["examples"]] == ["id001"]


def test_a_plan_of_other_options_is_not_continued(corpus: Path, tmp_path: Path):
    source = Source("opendialog", corpus)
    plan_preparation(config(source, "dialog", dev_share=0.2), tmp_path / "work")
    other = config(source, "dialog", dev_share=0.3)
    with user_error("other options", "--overwrite"):
        plan_preparation(other, tmp_path / "work")
    assert plan_preparation(other, tmp_path / "work", discard_other=True).sizes["train"]
    (tmp_path / "work" / "plan.json").write_text("[")
    with user_error("other options", "--overwrite"):
        plan_preparation(other, tmp_path / "work")


def test_one_process_prepares_a_directory(corpus: Path, tmp_path: Path):
    settings = config(Source("opendialog", corpus), "dialog", dev_share=0.2)
    lock = Path(".partial") / ".lock"
    with alone(tmp_path / "out" / lock, ""), user_error("another process is preparing"):
        prepare(settings, tmp_path / "out", workers=1)


@pytest.mark.slow
def test_workers_do_not_change_a_byte(corpus: Path, whole: Path, tmp_path: Path):
    settings = config(Source("opendialog", corpus), "dialog", dev_share=0.2)
    prepare(settings, tmp_path / "out", workers=2)
    assert_same(whole, tmp_path / "out")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_leaves_no_process(corpus: Path, whole: Path, tmp_path: Path):
    moments = random.Random(0)
    for kill in range(3):
        process = start(corpus, tmp_path / "out", workers=2)
        time.sleep(moments.uniform(0.8, 3.0) if kill else 0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # workers notice that their parent is gone
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("workers outlive the process that started them")
        if (tmp_path / "out/dataset_info.json").exists():
            break  # it was done before the kill
    else:
        assert start(corpus, tmp_path / "out", workers=1).wait(120) == 0
    assert_same(whole, tmp_path / "out")


def test_a_killed_worker_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Pool(prepare_run.concurrent.futures.ThreadPoolExecutor):
        def __init__(self, workers: int, **_: object) -> None:
            super().__init__(workers)

        def submit(self, *_: object, **__: object) -> prepare_run.concurrent.futures.Future[int]:
            future = prepare_run.concurrent.futures.Future[int]()
            future.set_exception(prepare_run.concurrent.futures.process.BrokenProcessPool())
            return future

    monkeypatch.setattr(prepare_run.concurrent.futures, "ProcessPoolExecutor", Pool)
    source = Source("tsv", preparing.tsv(tmp_path / "in", 4), unit_size=1)
    with user_error("--workers"):
        prepare(config(source), tmp_path / "out", workers=2)


@pytest.mark.slow
def test_beam_with_several_workers_makes_the_same_dataset(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if importlib.util.find_spec("apache_beam") is None:
        pytest.skip("apache-beam is not installed; it needs an environment of its own")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = config(Source("opendialog", corpus), "dialog", dev_share=0.2)
    prepare(settings, tmp_path / "out", workers=2, beam=Beam("Direct"))
    assert_same(whole, tmp_path / "out")


def test_beam_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    source = Source("tsv", preparing.tsv(tmp_path / "in", 1))
    with user_error("apache-beam"):
        prepare(config(source), tmp_path / "out", workers=1, beam=Beam("Direct"))


@pytest.mark.slow
def test_tfds_builds_opendialog(corpus: Path, tmp_path: Path):
    arguments = ["data/opendialog", "--manual_dir", str(corpus), "--data_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "data/tfds_build.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    source, index = open_split(tmp_path / "opendialog" / "1.0.0", "dev")
    assert len(source) == 20
    assert index.ids.tolist() == sorted(index.ids)
    assert source[0].tokens[0] == "[S1]"
    assert sorted(path.name for path in (tmp_path / "opendialog").iterdir()) == ["1.0.0"]


@pytest.mark.slow
def test_the_demo_corpus_is_prepared_whole_three_times(run_cli: RunCli, tmp_path: Path):
    make = [sys.executable, "data/demo/make_corpus.py", "--to", str(tmp_path / "raw")]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
    counts = {}
    done = run_cli(
        *("prepare", "--format", "tsv", "--from", tmp_path / "raw" / "single.tsv", "--to"),
        *(tmp_path / "single", "--tokenizer", "emilia", "--tokens", preparing.TABLE),
        *("--language", "en", "--dev-share", "0.1", "--workers", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert "left out: 0" in done.stdout
    for name in ("dialogue", "stereo"):
        source = Source("tsv", tmp_path / "raw" / f"{name}.tsv", language="en")
        prepare(config(source, "dialog", dev_share=0.1), tmp_path / name, workers=1)
    for name in ("single", "dialogue", "stereo"):
        report = json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8"))
        assert report["rejects"] == {}
        counts[name] = sum(one["utterances"] for one in report["splits"].values())
        assert min(one["utterances"] for one in report["splits"].values()) >= 3
    assert counts == {"single": 97, "dialogue": 48, "stereo": 48}
    mono, index = open_split(tmp_path / "dialogue", "train")
    stereo, _ = open_split(tmp_path / "stereo", "train")
    assert set(index.channels.tolist()) == {1}
    assert mono[0].text == stereo[0].text
    two = decode_audio(stereo[0], 16000, name="stereo")
    assert abs(two.sum(axis=0) - decode_audio(mono[0], 16000, name="mono")[0]).max() < 2e-4
    assert not ((two[0] != 0) & (two[1] != 0)).any()


def test_the_demo_clips_are_what_their_list_says():
    folder = ROOT / "data" / "demo" / "recordings"
    rows = [line.split("\t") for line in (folder / "single.tsv").read_text().splitlines()]
    assert {row[2] for row in rows} == {f"single/{p.name}" for p in (folder / "single").iterdir()}
    infos = [soundfile.info(folder / row[2]) for row in rows]
    assert {(one.samplerate, one.channels, one.subtype) for one in infos} == {(16000, 1, "PCM_16")}
    assert 290 < sum(one.duration for one in infos) < 360
    assert sum(path.stat().st_size for path in folder.rglob("*.*")) < 6_100_000


def test_the_command_tells_bad_arguments_in_one_line(run_cli: RunCli, tmp_path: Path):
    _, shown, _ = run_main("prepare", "--help")
    assert set(formats()) == set("opendialog emilia jsonl libritts tsv lhotse".split())
    assert all(name in shown for name in formats())
    manifest = preparing.tsv(tmp_path / "in", 1)
    base = ("prepare", "--format", "tsv", "--from", manifest, "--to", tmp_path / "out")
    odd = run_cli(*("prepare", "--format", "csv", "--from", manifest, "--to", tmp_path / "out"))
    assert odd.returncode == 1 and "'csv'; choose one of emilia" in odd.stderr
    assert len(odd.stderr.strip().splitlines()) == 1, odd.stderr
    for extra, word in (
        (("--beam-option", "a=b"), "--beam-runner"),
        (("--from", tmp_path / "gone.tsv"), "gone.tsv"),
    ):
        status, _, err = run_main(*base, *extra)
        assert status == 1
        assert word in err
        assert len(err.strip().splitlines()) == 1, err

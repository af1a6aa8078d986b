"""A list that several processes generate: the same waves, one report, whatever is killed."""

import json
import time
from pathlib import Path

import pytest
from generation import RELEASE, TEXT1, WAV1, command, made, read_report, run_main, write_list
from processes import finish, start_several

COUNT = 70  # three windows


@pytest.mark.slow
def test_neither_their_number_nor_a_kill_changes_a_bit(tmp_path: Path) -> None:
    words = ["yes", "no", "we do", "they went there", "good morning"]
    rows = [(f"item{i}", TEXT1, WAV1, f"{words[i % 5]} and {words[i % 3]}.") for i in range(COUNT)]
    rows[50] = ("item50", TEXT1, "nowhere.wav", "Yes.")
    listed = write_list(tmp_path / "list.tsv", rows)

    def run(folder: str) -> list[str]:
        flags = ("--num-step", "1", "--test-list", listed, "--res-dir", tmp_path / folder)
        return command(RELEASE / "zipvoice", "--peer-timeout", "100", *flags)

    assert run_main(*run("one"))[0] == 1
    processes = start_several(run("many"), 3)
    while len(list((tmp_path / "many").glob("*.wav"))) < 5:
        assert all(process.poll() is None for process in processes), finish(*processes)
        time.sleep(0.02)
    for process in processes:
        process.kill()
    finish(*processes)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "many").glob("*.wav")}
    assert 5 <= len(before) < COUNT - 1

    (status, out, _), (other, nothing, err) = finish(*start_several(run("many"), 2))
    assert (status, other, nothing) == (1, 1, "")
    assert f"{COUNT - 1 - len(before)} done, {len(before)} skipped, 1 failed" in out
    assert "process 1: item50: " in err and "nowhere.wav" in err
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert list(read_report(tmp_path / "many")) == [name for name, *_ in rows]
    assert sorted(path.name for path in (tmp_path / "many").glob("report*")) == ["report.jsonl"]
    for name, *_ in rows:
        waves = [tmp_path / folder / f"{name}.wav" for folder in ("one", "many")]
        if name != "item50":
            assert waves[0].read_bytes() == waves[1].read_bytes()
        else:
            assert not waves[0].exists() and not waves[1].exists()


def test_parts_of_a_killed_run_count(tmp_path: Path) -> None:
    rows = [(name, TEXT1, WAV1, "Yes.") for name in ("a", "b")]
    listed = write_list(tmp_path / "list.tsv", rows)
    run = command(RELEASE / "zipvoice", "--test-list", listed, "--res-dir", tmp_path / "res")
    made(*run)
    report = tmp_path / "res" / "report.jsonl"
    whole = report.read_text()
    first, second = whole.splitlines(keepends=True)
    (tmp_path / "res" / "report-00001-of-00002.jsonl").write_text(second + '{"id": "a", "wa')
    (tmp_path / "res" / "report-00000-of-00002.jsonl").write_text(first)
    report.write_text(json.dumps({"id": "a", "error": "of an earlier run"}) + "\n")
    _, out, _ = run_main(*run)
    assert "0 done, 2 skipped, 0 failed" in out
    assert report.read_text() == whole and len(list((tmp_path / "res").glob("report*"))) == 1


def test_one_text_is_not_shared_out() -> None:
    prompt = ("--prompt-wav", WAV1, "--prompt-text", TEXT1)
    run = command(RELEASE / "zipvoice", *prompt, "--text", "Yes.")
    for status, _, err in finish(*start_several(run, 2)):
        assert status == 1 and "give --test-list" in err
    status, _, err = run_main(*run, "--coordinator", "none", "--num-processes", "2")
    assert status == 1 and "say nothing without --coordinator" in err

"""Listening tests: the page in a real browser, its key, and what is made of the answers."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from generation import TEXT1, WAV1, one_line, run_main, write_list

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
COUNT = 5


@pytest.fixture
def systems(tmp_path: Path) -> Path:
    """Recordings of two systems and a list of them."""
    rng = np.random.default_rng(0)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        for i in range(COUNT):
            wave = 0.1 * rng.standard_normal(4800)
            soundfile.write(tmp_path / name / f"item{i}.wav", wave, 24_000)
    write_list(tmp_path / "list.tsv", [(f"item{i}", TEXT1, WAV1, "Yes.") for i in range(COUNT + 1)])
    return tmp_path


def make(systems: Path, page: str, *more: object) -> tuple[int, str, str]:
    folders = [f"{name}={systems / name}" for name in ("ours", "theirs")]
    return run_main(
        "evaluate", "--listening-test", systems / page, "--test-list", systems / "list.tsv",
        "--system", *folders, *more,
    )  # fmt: skip


def answers(key: dict[str, Any], prefer: str, by: int) -> dict[str, Any]:
    """What somebody says to whom `prefer` is better, hearing some pairs exchanged."""
    found = {}
    for i, (name, trial) in enumerate(key["trials"].items()):
        exchanged = i % 2 == 0
        second = trial["a"] if exchanged else trial["b"]
        found[name] = {"value": by if second == prefer else -by, "exchanged": exchanged}
    return found


def test_answers_become_means_with_intervals(systems: Path) -> None:
    status, out, err = make(systems, "test.html", "--seed", "3")
    assert status == 0 and f"{COUNT} trials" in out, err
    page = (systems / "test.html").read_text()
    # Blind: what a listener has does not name a system, and A is now the one, now the other.
    assert "ours" not in re.sub(r"base64,[^\"]*", "", page) and "theirs" not in page
    key = json.loads((systems / "test.key.json").read_text())
    assert {trial["a"] for trial in key["trials"].values()} == {"ours", "theirs"}
    files = []
    for listener, by in (("x", 2), ("y", 1)):
        result = {"test": "test", "kind": "cmos", "listener": listener}
        result["answers"] = answers(key, "ours", by)
        files.append(systems / f"results-{listener}.json")
        files[-1].write_text(json.dumps(result))
    told = ("evaluate", "--key", systems / "test.key.json", "--listening-results")
    status, out, err = run_main(*told, *files)
    assert status == 0, err
    assert re.search(r"ours +\+1\.50 \[1\.50, 1\.50\] +5 +10", out)
    assert re.search(r"theirs +-1\.50", out) and "2 listeners" in out
    other = systems / "other.json"
    other.write_text(json.dumps({**json.loads(files[0].read_text()), "test": "another"}))
    status, _, err = run_main(*told, other)
    one_line(status, err, "is of the test 'another'")
    other.write_text("{")
    status, _, err = run_main(*told, other)
    one_line(status, err, "it is no JSON")


def test_voices_are_compared_with_the_prompt(systems: Path) -> None:
    status, out, _ = make(systems, "voice.html", "--kind", "smos", "--count", "2")
    assert status == 0 and "4 trials" in out
    key = json.loads((systems / "voice.key.json").read_text())
    assert [trial["a"] for trial in key["trials"].values()] == ["prompt"] * 4
    result = {"test": "voice", "kind": "smos", "listener": "x", "answers": {}}
    for name, trial in key["trials"].items():
        value = 4 if trial["b"] == "ours" else 2
        result["answers"][name] = {"value": value, "exchanged": False}
    (systems / "r.json").write_text(json.dumps(result))
    _, out, _ = run_main(
        "evaluate", "--key", systems / "voice.key.json", "--listening-results", systems / "r.json"
    )
    assert re.search(r"ours +4\.00", out) and re.search(r"theirs +2\.00", out)


def test_what_cannot_be_compared_is_one_line(systems: Path, tmp_path: Path) -> None:
    args = ("evaluate", "--listening-test", tmp_path / "t.html", "--test-list")
    status, _, err = run_main(*args, systems / "list.tsv", "--system", "ours=/nowhere")
    one_line(status, err, "names no folder")
    status, _, err = run_main(*args, systems / "list.tsv", "--system", f"ours={systems / 'ours'}")
    one_line(status, err, "CMOS compares two systems")
    write_list(tmp_path / "no.tsv", [("nothing", TEXT1, WAV1, "Yes.")])
    folders = [f"{name}={systems / name}" for name in ("ours", "theirs")]
    status, _, err = run_main(*args, tmp_path / "no.tsv", "--system", *folders)
    one_line(status, err, "no item of the list")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium without a window; what it saves goes to `tmp_path`/saved."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio"):
        options.add_argument(flag)
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(tmp_path / "saved")}
    )
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def test_a_listener_answers_by_keys_in_a_browser(systems: Path, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    assert make(systems, "test.html")[0] == 0

    def find(selector: str) -> Any:
        return browser.find_element("css selector", selector)

    def press(*keys: str) -> None:
        for key in keys:
            find("body").send_keys(key)

    browser.get((systems / "test.html").as_uri())
    find("input").send_keys("Listener 1" + Keys.ENTER)
    assert "1 of 5" in find("main").text
    press("7")  # nothing has been heard yet
    assert "1 of 5" in find("main").text
    press("a", "b", "7")
    assert "2 of 5" in find("main").text
    press("a", "b", "4", Keys.BACKSPACE)
    assert "2 of 5" in find("main").text
    assert find("[aria-pressed=true]").get_attribute("data-value") == "0"
    browser.refresh()  # the browser keeps what was answered
    assert "2 of 5" in find("main").text
    press("1")
    for number in (3, 4, 5):
        assert f"{number} of 5" in find("main").text
        find("[data-side=a]").click()
        find("[data-side=b]").click()
        find("[data-value='2']").click()
    find("#results").click()
    saved = systems / "saved" / "results-Listener_1.json"
    for _ in range(100):
        if saved.is_file():
            break
        time.sleep(0.1)
    result = json.loads(saved.read_text())
    assert sorted(answer["value"] for answer in result["answers"].values()) == [-3, 2, 2, 2, 3]
    _, out, _ = run_main(
        "evaluate", "--key", systems / "test.key.json", "--listening-results", saved
    )
    assert "1 listeners" in out and re.search(r"ours .* 5 +5", out)


def test_the_report_is_sorted_in_a_browser(tmp_path: Path, browser: Any) -> None:
    from zipvoice_jax.evaluate.run import write_report

    records = []
    for i, (errors, words) in enumerate([(1, 10), (9, 10), (3, 10)]):
        wav = tmp_path / f"item{i}.wav"
        soundfile.write(wav, 0.1 * np.random.default_rng(i).standard_normal(4800), 24_000)
        records.append({
            "id": f"item{i}", "wav": str(wav), "seconds": 0.2, "text": "yes & no",
            "alignment": [["equal", "yes", "yes"], ["substitute", "<no>", "know"]],
            "metrics": {"wer": [errors, words]},
        })  # fmt: skip
    write_report(tmp_path / "report", records, {"earlier": records}, {"metrics": ["wer"]})
    browser.get((tmp_path / "report" / "index.html").as_uri())

    def order() -> list[str]:
        rows = browser.find_elements("css selector", "#items tbody tr")
        return [row.find_element("css selector", "td").get_attribute("data-value") for row in rows]

    assert order() == ["item0", "item1", "item2"]
    head = browser.find_elements("css selector", "#items th")[3]
    head.click()
    assert order() == ["item0", "item2", "item1"]
    head.click()
    assert order() == ["item1", "item2", "item0"]
    assert browser.find_element("css selector", "#items del").text == "<no>"
    images = browser.find_elements("css selector", "img.mel")
    browser.execute_script("arguments[0].loading = 'eager'", images[0])
    for _ in range(50):
        if browser.execute_script("return arguments[0].naturalWidth", images[0]):
            break
        time.sleep(0.1)
    assert browser.execute_script("return arguments[0].naturalWidth", images[0]) > 5
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []

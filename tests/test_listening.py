"""Listening tests: the page in a real browser, its key, and what is made of the answers."""

import base64
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from generation import TEXT1, TEXT2, WAV1, WAV2, one_line, run_main, write_list

from zipvoice_jax.audio.io import read_audio

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


def make(systems: Path, page: str, *more: object, listed: str = "list.tsv") -> tuple[int, str, str]:
    folders = [f"{name}={systems / name}" for name in ("ours", "theirs")]
    return run_main(
        "evaluate", "--listening-test", systems / page, "--test-list", systems / listed,
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


def evaluate(systems: Path, page: str, *files: Path) -> tuple[int, str, str]:
    key = systems / f"{page}.key.json"
    return run_main("evaluate", "--key", key, "--listening-results", *files)


def save(systems: Path, listener: str, page: str, found: dict[str, Any], **more: Any) -> Path:
    """What the page saves, but for a listener's answers."""
    key = json.loads((systems / f"{page}.key.json").read_text())
    result = {"test": key["name"], "kind": key["kind"], "listener": listener, "answers": found}
    path = systems / f"results-{listener}.json"
    path.write_text(json.dumps({**result, **more}))
    return path


def page_of(path: Path) -> dict[str, Any]:
    """What a page holds."""
    found = re.search(r'type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def sound_of(url: str) -> np.ndarray:
    """Samples (samples, channels) of a sound of a page."""
    data = base64.b64decode(url.partition("base64,")[2])
    return soundfile.read(io.BytesIO(data), always_2d=True)[0]


def test_answers_become_means_with_intervals(systems: Path) -> None:
    status, out, err = make(systems, "test.html", "--seed", "3")
    assert status == 0 and f"{COUNT} trials" in out, err
    page = (systems / "test.html").read_text()
    # Blind: what a listener has does not name a system, and A is now the one, now the other.
    assert "ours" not in re.sub(r"base64,[^\"]*", "", page) and "theirs" not in page
    key = json.loads((systems / "test.key.json").read_text())
    assert {trial["a"] for trial in key["trials"].values()} == {"ours", "theirs"}
    x = save(systems, "x", "test", answers(key, "ours", 2))
    status, out, err = evaluate(systems, "test", x)
    assert status == 0 and "1 listener;" in out, err
    assert re.search(r"ours +\+2\.00 \[2\.00, 2\.00\] +5 +5", out)
    # Listeners differ, so the interval is one of other listeners: Student's t of two, 1.5 +- 6.35.
    y = save(systems, "y", "test", answers(key, "ours", 1))
    status, out, err = evaluate(systems, "test", x, y)
    assert status == 0 and "2 listeners;" in out, err
    assert re.search(r"ours +\+1\.50 \[-4\.85, 7\.85\] +5 +10", out)
    assert re.search(r"theirs +-1\.50", out)
    # A file that is given twice, or a copy, is one listener.
    copy = systems / "copy.json"
    shutil.copyfile(x, copy)
    _, out, _ = evaluate(systems, "test", x, x, copy)
    assert "1 listener;" in out and re.search(r"ours +\+2\.00 \[2\.00, 2\.00\] +5 +5", out)
    y = save(systems, "x", "test", answers(key, "ours", 1))
    status, _, err = evaluate(systems, "test", copy, y)
    one_line(status, err, "are of one listener (x) and differ")


def test_one_answer_has_no_interval(systems: Path) -> None:
    make(systems, "test.html", "--count", "1")
    key = json.loads((systems / "test.key.json").read_text())
    _, out, _ = evaluate(systems, "test", save(systems, "x", "test", answers(key, "ours", 3)))
    assert re.search(r"ours +\+3\.00 +1 +1$", out, re.MULTILINE)


def test_voices_are_compared_with_the_prompt(systems: Path) -> None:
    status, out, _ = make(systems, "voice.html", "--kind", "smos", "--count", "2")
    assert status == 0 and "4 trials" in out
    key = json.loads((systems / "voice.key.json").read_text())
    assert [trial["a"] for trial in key["trials"].values()] == ["prompt"] * 4
    assert {trial["voices"] for trial in page_of(systems / "voice.html")["trials"]} == {1}
    found = {
        name: {"value": 4 if trial["b"] == "ours" else 2, "exchanged": False}
        for name, trial in key["trials"].items()
    }
    _, out, _ = evaluate(systems, "voice", save(systems, "x", "voice", found))
    assert re.search(r"ours +4\.00", out) and re.search(r"theirs +2\.00", out)


def test_both_prompts_of_a_dialogue_are_heard(systems: Path) -> None:
    texts = (TEXT1, TEXT2, WAV1, WAV2, "[S1] Yes. [S2] No.")
    write_list(systems / "list.tsv", [(f"item{i}", *texts) for i in range(COUNT)])
    status, _, err = make(systems, "voices.html", "--kind", "smos", "--count", "1")
    assert status == 0, err
    trial = page_of(systems / "voices.html")["trials"][0]
    assert trial["voices"] == 2
    heard = sound_of(trial["a"])[:, 0]
    first, second = (read_audio(path, 24_000)[0] for path in (WAV1, WAV2))
    pause = len(heard) - len(first) - len(second)
    assert pause == 12_000 and not heard[len(first) : len(first) + pause].any()
    parts = [heard[: len(first)], heard[-len(second) :]]
    for part, true in zip(parts, (first, second), strict=True):
        assert np.corrcoef(part, true)[0, 1] > 0.999
    levels = [np.sqrt(np.mean(part**2)) for part in parts]
    assert levels[0] == pytest.approx(levels[1], rel=1e-3)
    item = {"prompt_text": [TEXT1, TEXT2, TEXT1], "prompt_wav": [str(WAV1), str(WAV2), str(WAV1)]}
    rows = [{"id": f"item{i}", "text": "[S1] Yes. [S3] No.", **item} for i in range(COUNT)]
    write_list(systems / "list.jsonl", rows)
    status, _, err = make(
        systems, "three.html", "--kind", "smos", "--count", "1", listed="list.jsonl"
    )
    assert status == 0, err
    trial = page_of(systems / "three.html")["trials"][0]
    assert trial["voices"] == 3
    assert len(sound_of(trial["a"])) == 2 * len(first) + len(second) + 2 * pause


def test_peaks_lower_all_sounds_and_are_not_cut(systems: Path) -> None:
    make(systems, "before.html")
    usual = sound_of(page_of(systems / "before.html")["trials"][0]["a"])
    assert np.sqrt(np.mean(usual**2)) == pytest.approx(0.08, rel=1e-3)
    wave = 0.005 * np.random.default_rng(1).standard_normal(4800)
    wave[1000] = 0.9  # 48 times the root mean square
    soundfile.write(systems / "ours" / "item0.wav", wave, 24_000)
    make(systems, "after.html")
    sounds = [
        sound_of(trial[side])
        for trial in page_of(systems / "after.html")["trials"]
        for side in ("a", "b")
    ]
    levels = [float(np.sqrt(np.mean(sound**2))) for sound in sounds]
    assert max(levels) == pytest.approx(min(levels), rel=1e-2) and max(levels) < 0.03
    assert max(np.abs(sound).max() for sound in sounds) == pytest.approx(0.99, abs=1e-3)
    soundfile.write(systems / "ours" / "item0.wav", np.zeros(4800), 24_000)
    assert make(systems, "silent.html")[0] == 0


def test_answers_to_another_page_of_the_same_name_are_refused(systems: Path) -> None:
    make(systems, "test.html")
    key = json.loads((systems / "test.key.json").read_text())
    old = save(systems, "x", "test", answers(key, "ours", 2))
    make(systems, "test.html")
    assert evaluate(systems, "test", old)[0] == 0  # the same sounds in the same order
    status, _, err = make(systems, "test.html", "--seed", "1")
    one_line(status, err, "test.key.json is the key of another test")
    assert evaluate(systems, "test", old)[0] == 0
    assert make(systems, "test.html", "--seed", "1", "--overwrite")[0] == 0
    status, _, err = evaluate(systems, "test", old)
    one_line(status, err, f"is of the test '{key['name']}', not 'test-")
    assert page_of(systems / "test.html")["name"] != key["name"]


def test_damaged_and_exchanged_files_are_one_line(systems: Path) -> None:
    make(systems, "test.html")
    key = systems / "test.key.json"
    good = answers(json.loads(key.read_text()), "ours", 2)
    result = save(systems, "x", "test", good)

    def refused(said: str, *files: Path, page: str = "test") -> None:
        status, _, err = evaluate(systems, page, *files)
        one_line(status, err, said)

    refused("is a key and no result", key)
    shutil.copyfile(result, systems / "swapped.key.json")
    refused("is what a listener saved and no key", result, page="swapped")
    for odd in (4, -4, "2", None, True, float("nan")):
        damaged = {**good, "trial000": {"value": odd, "exchanged": False}}
        refused("its answer to trial000 is no number from -3 to 3",
                save(systems, "x", "test", damaged))  # fmt: skip
    for odd in ({}, [], 3, {"value": 1, "exchanged": 1}):
        refused("trial000", save(systems, "x", "test", {**good, "trial000": odd}))
    refused("answers trial999", save(systems, "x", "test", {"trial999": {"value": 1}}))
    refused("nobody has answered", save(systems, "x", "test", {}))
    refused("is no result", save(systems, "x", "test", good, answers=[]))
    for text, said in (("{", "it is no JSON"), ("[]", "neither"), ("{}", "is no result")):
        result.write_text(text)
        refused(said, result)
    for name, change in (("kind", "mos"), ("trials", {"trial000": {}}), ("name", 3)):
        (systems / "odd.key.json").write_text(
            json.dumps({**json.loads(key.read_text()), name: change})
        )
        refused("is no key", result, page="odd")


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
    status, _, err = run_main(*args, systems / "list.tsv", "--system", *folders, "--seed", "-1")
    one_line(status, err, "--seed of 0 or more")


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
    _, out, _ = evaluate(systems, "test", saved)
    assert "1 listener;" in out and re.search(r"ours .* 5 +5", out)


def test_what_is_no_answer_is_none(systems: Path, browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    assert make(systems, "test.html")[0] == 0
    # A browser that keeps nothing, and sounds that cannot be played.
    browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {"source": "Object.defineProperty(window, 'localStorage', {get() { throw Error(); }});"},
    )
    browser.get((systems / "test.html").as_uri())

    def find(selector: str) -> Any:
        return browser.find_element("css selector", selector)

    assert "keeps nothing" in find("main").text
    find("input").send_keys("   " + Keys.ENTER)
    assert "pairs of recordings" in find("main").text  # a name of blanks is none
    find("input").clear()
    find("input").send_keys("x" + Keys.ENTER)
    find("body").send_keys("a", "b")
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("7").key_up(Keys.CONTROL).perform()
    assert "1 of 5" in find("main").text
    browser.execute_script(
        "window.Audio = function () { return { paused: true, pause() {}, "
        "play() { return Promise.reject(new DOMException('', 'NotSupportedError')); } }; };"
    )
    find("body").send_keys("7")
    assert "2 of 5" in find("main").text
    find("body").send_keys("a", "b")
    assert "B can't be played." in find("main").text
    find("body").send_keys("7")
    assert "2 of 5" in find("main").text


def test_a_page_made_anew_begins_anew(systems: Path, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def text() -> str:
        return browser.find_element("css selector", "main").text

    make(systems, "test.html")
    browser.get((systems / "test.html").as_uri())
    browser.find_element("css selector", "input").send_keys("x" + Keys.ENTER)
    assert "1 of 5" in text()
    texts = (TEXT1, TEXT2, WAV1, WAV2, "[S1] Yes. [S2] No.")
    write_list(systems / "list.tsv", [("item0", TEXT1, WAV1, "Yes."), ("item1", *texts)])
    make(systems, "test.html", "--kind", "smos", "--overwrite")
    browser.refresh()
    assert "4 pairs" in text()  # and asks for a name
    browser.find_element("css selector", "input").send_keys("x" + Keys.ENTER)
    asked = set()
    for _ in range(4):
        asked.add(browser.find_element("css selector", "h2").text)
        for key in ("a", "b", "5"):
            browser.find_element("css selector", "body").send_keys(key)
    assert asked == {
        "Is the voice of B that of the person in A?",
        "Are the 2 voices of B those of the 2 people in A?",
    }
    assert "Thank you" in text()


def test_pictures_of_a_report_are_those_of_its_recordings(tmp_path: Path) -> None:
    from zipvoice_jax.judge.run import write_evaluation

    wav = tmp_path / "item.wav"
    picture = tmp_path / "report" / "mels" / "item.png"

    def report(seconds: float, stamp: str) -> bytes:
        soundfile.write(wav, 0.1 * np.ones(int(24_000 * seconds)), 24_000)
        os.utime(wav, (1.0, 1.0))  # older than any picture
        record = {"id": "item", "wav": str(wav), "seconds": seconds, "text": "yes",
                  "metrics": {"wer": [0, 1]}, "stamp": stamp}  # fmt: skip
        write_evaluation(tmp_path / "report", [record], {}, {"metrics": ["wer"]})
        return picture.read_bytes()

    first = report(0.2, "of one")
    assert report(0.4, "of one") == first  # is not drawn again
    second = report(0.4, "of another")
    assert second != first
    picture.write_bytes(b"half of a picture")
    assert report(0.4, "of another") == second
    picture.unlink()
    with pytest.raises(FileNotFoundError):
        report(0.01, "too short to be drawn")
    assert "<img class" not in (tmp_path / "report" / "index.html").read_text()


def test_the_report_is_sorted_in_a_browser(tmp_path: Path, browser: Any) -> None:
    from zipvoice_jax.judge.run import write_evaluation

    records = []
    for i, (errors, words) in enumerate([(1, 10), (9, 10), (3, 10)]):
        wav = tmp_path / f"item{i}.wav"
        soundfile.write(wav, 0.1 * np.random.default_rng(i).standard_normal(4800), 24_000)
        records.append({
            "id": f"item{i}", "wav": str(wav), "seconds": 0.2, "text": "yes & no",
            "alignment": [["equal", "yes", "yes"], ["substitute", "<no>", "know"]],
            "metrics": {"wer": [errors, words]},
        })  # fmt: skip
    write_evaluation(tmp_path / "report", records, {"earlier": records}, {"metrics": ["wer"]})
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

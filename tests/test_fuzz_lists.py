"""Broken lists and places to write to: one line for the whole, or one line per bad item."""

import json
from pathlib import Path

import pytest
from fuzz_models import NOISE
from fuzz_models import SOURCE as SINGLE
from generation import TEXT1, TEXT2, WAV1, WAV2, command, one_line, run_main

# --- places to write to ----------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/proc/x", "file", "file/below", "/dev/null", "a\0b"])
def test_results_folder_that_cannot_be(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    listed = tmp_path / "list.tsv"
    listed.write_text(f"a\t{TEXT1}\t{WAV1}\tHello.\n")
    status, _, err = run_main(
        *command(SINGLE, "--test-list", listed, "--res-dir", tmp_path / folder)
    )
    one_line(status, err, folder.split("\0")[0])


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "res" / "report.jsonl").mkdir(parents=True)
    listed = tmp_path / "list.tsv"
    listed.write_text(f"a\t{TEXT1}\t{WAV1}\tHello.\n")
    argv = command(SINGLE, "--test-list", listed, "--res-dir", tmp_path / "res")
    status, _, err = run_main(*argv)
    one_line(status, err, "report.jsonl")


# --- lists -----------------------------------------------------------------------------------

GOOD = f"{TEXT1}\t{WAV1}\tHello."
LISTS: dict[str, tuple[bytes, str]] = {
    "empty.tsv": (b"", "no lines"),
    "blank.tsv": (b"\n \n\t\n", "no lines"),
    "noise.tsv": (NOISE, "UTF-8"),
    "utf16.tsv": (f"a\t{GOOD}\n".encode("utf-16"), "UTF-8"),
    "latin1.tsv": (f"a\tcaf\xe9\t{WAV1}\tHello.\n".encode("latin-1"), "UTF-8"),
    "empty.jsonl": (b"", "no lines"),
    "gzip.jsonl": (b"\x1f\x8b\x08\x00" + NOISE, "UTF-8"),
}


@pytest.mark.parametrize("name", LISTS)
def test_list_as_a_whole(name: str, tmp_path: Path) -> None:
    content, said = LISTS[name]
    (tmp_path / name).write_bytes(content)
    argv = command(SINGLE, "--test-list", tmp_path / name, "--res-dir", tmp_path / "res")
    status, _, err = run_main(*argv)
    one_line(status, err, said)


@pytest.mark.parametrize(
    ("name", "said"),
    [("none.tsv", "not exist"), (".", "directory"), ("a\0b", "null"), ("x" * 999, "too long")],
)
def test_list_that_cannot_be_read(name: str, said: str, tmp_path: Path) -> None:
    status, _, err = run_main(*command(SINGLE, "--test-list", tmp_path / name))
    one_line(status, err, said)


def row(**changed: object) -> str:
    base = {
        "id": str(changed)[:50],
        "text": "Hello.",
        "prompt_text": TEXT1,
        "prompt_wav": str(WAV1),
    }
    return json.dumps({k: v for k, v in {**base, **changed}.items() if v != "DROP"})


TSV_LINES = {
    "one field": "tab-separated",
    "a\tb": "tab-separated",
    f"a\t{GOOD}\tmore": "tab-separated",
    "\t".join("abcdefg"): "tab-separated",
    f"\t{GOOD}": "name",
    f"/abs\t{GOOD}": "name",
    f"../up\t{GOOD}": "name",
    f"a/../../up\t{GOOD}": "name",
    f"{'n' * 201}\t{GOOD}": "200 bytes",
    f"{'ü' * 101}\t{GOOD}": "200 bytes",
    f"c\x01\t{GOOD}": "control",
    f"d\0\t{GOOD}": "control",
    f"good\t{GOOD}": "used before",
    f"./good\t{GOOD}": "used before",
    f"good.wav\t{GOOD}": "used before",
    f"e\t\t{WAV1}\tHello.": "transcript",
    f"f\t{TEXT1}\t{WAV1}\t ": "empty",
    f"g\t{TEXT1}\t\tHello.": "directory",
    f"h\t{TEXT1}\ta\0b.wav\tHello.": "read",
    f"i\t{TEXT1}\t{'w' * 5000}\tHello.": "www",
    f"j\t{TEXT1}\t{TEXT2}\t{WAV1}\t{WAV2}\tHello.": "one speaker",
}
JSON_LINES = {
    "not json": "not JSON",
    "{": "not JSON",
    "[1, 2]": "object",
    "null": "object",
    "7": "object",
    '"text"': "object",
    "[" * 100_000: "JSON",
    '{"a":' * 100_000: "JSON",
    "{}": "no id, text",
    row(id=7): "id must be",
    row(id=["a", "b"]): "single strings",
    row(id=[]): "id must be",
    row(id=""): "name",
    row(id="a\ud800"): "Unicode",
    row(id="../../etc/passwd"): "name",
    row(text=None): "text must be",
    row(text={"a": 1}): "text must be",
    row(text="\ud800"): "text",
    row(text="DROP"): "no text",
    row(prompt_wav="DROP"): "no prompt_wav",
    row(prompt_wav=5): "prompt_wav must be",
    row(prompt_wav=[str(WAV1)] * 3, prompt_text=[TEXT1] * 3): "one speaker",
    row(prompt_wav=["w"] * 100, prompt_text=[TEXT1] * 100): "one of each for every speaker",
    row(prompt_wav=[str(WAV1)] * 2): "one of each",
    row(prompt_wav="a\ud800.wav"): "read",
    row(speed="fast"): "speed",
    row(speed=True): "speed",
    row(speed=0): "speed",
    row(speed=float("nan")): "speed",
    row(speed=float("inf")): "speed",
    row(speed=10**400): "speed",
    row(voice="x"): "voice",
}
LINES = [("tsv", line, said) for line, said in TSV_LINES.items()]
LINES += [("jsonl", line, said) for line, said in JSON_LINES.items()]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """For each kind of list, the errors of its bad lines, which one good line follows."""
    found = {}
    for form, good in (("tsv", f"good\t{GOOD}"), ("jsonl", row(id="good"))):
        folder = tmp_path_factory.mktemp(form)
        bad = [line for kind, line, _ in LINES if kind == form]
        listed = folder / f"list.{form}"
        listed.write_text("\n".join([good, *bad]) + "\n", encoding="utf-8")
        argv = command(SINGLE, "--test-list", listed, "--res-dir", folder / "res")
        status, out, err = run_main(*argv)
        assert status == 1, err
        assert f"1 done, 0 skipped, {len(bad)} failed" in out
        assert "Traceback" not in err
        assert sorted(p.name for p in (folder / "res").iterdir()) == ["good.wav", "report.jsonl"]
        lines = (folder / "res" / "report.jsonl").read_text(encoding="utf-8").splitlines()
        first, *errors = map(json.loads, lines)
        assert first["id"] == "good" and "error" not in first
        found[form] = [record["error"] for record in errors]
        assert len(found[form]) == len(bad)
    return found


@pytest.mark.parametrize("index", range(len(LINES)))
def test_line_of_a_list(index: int, reports: dict[str, list[str]]) -> None:
    form, _, said = LINES[index]
    error = reports[form][index if form == "tsv" else index - len(TSV_LINES)]
    assert "\n" not in error
    assert said.lower() in error.lower()


def test_there_are_many_cases() -> None:
    assert len(LISTS) + len(LINES) >= 55

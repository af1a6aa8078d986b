"""Small corpora of real speech in each format that `zipvoice-jax prepare` reads; its reports."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from zipvoice_jax.data.prepare import prepare
from zipvoice_jax.data.prepare_config import PrepareConfig, TokenizerSettings
from zipvoice_jax.data.sources import Source
from zipvoice_jax.text.tokens import TokenTable

DATA = Path(__file__).resolve().parent / "data"
TABLE = Path(__file__).resolve().parent / "golden" / "tokens_dialog.txt"
TEXT = "There is currently one other participant in the conference."


def speech(seconds: float = 3.0, channels: int = 1) -> np.ndarray:
    """Real speech at 16 kHz, int16 (samples, channels)."""
    wave, _ = soundfile.read(DATA / "prompt_s1.flac", dtype="int16", always_2d=True)
    return np.repeat(np.resize(wave, (round(seconds * 16000), 1)), channels, axis=1)


def encoded(format: str, seconds: float = 3.0, channels: int = 1) -> bytes:
    """Speech as the bytes of a file: WAV, FLAC, MP3."""
    buffer = io.BytesIO()
    soundfile.write(buffer, speech(seconds, channels), 16000, format=format)
    return buffer.getvalue()


def dialogue(i: int) -> str:
    """A text of two turns that differs by number."""
    names = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return f"[S1] This is number {names[i % 10]}, is it not? [S2] Yes, I think it is."


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes objects line by line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Writes a tar file, as WebDataset has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def opendialog(root: Path, *, tars: int = 3, per_tar: int = 4, packed: bool = True) -> Path:
    """OpenDialog as released: tars (or the files of them) and a manifest per language."""
    mp3 = encoded("MP3")
    rows = []
    for tar in range(tars):
        names = [f"en_{tar}_{i}" for i in range(per_tar)]
        if packed:
            write_tar(root / f"audio/en/en_{tar:02d}.tar", {f"{one}.mp3": mp3 for one in names})
        for i, name in enumerate(names):
            path = f"audio/en/{name}.mp3"
            rows.append({"id": name, "text": dialogue(i), "path": path})
            if not packed:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(mp3)
    write_jsonl(root / "manifest.en.jsonl", rows)
    return root


def tsv(root: Path, count: int = 6, text: str = TEXT) -> Path:
    """A TSV of whole WAV files."""
    root.mkdir(parents=True, exist_ok=True)
    wav = encoded("WAV")
    for i in range(count):
        (root / f"{i}.wav").write_bytes(wav)
    lines = [f"id{i:03d}\t{text}\t{i}.wav\n" for i in range(count)]
    (root / "list.tsv").write_text("".join(lines), encoding="utf-8")
    return root / "list.tsv"


def lhotse_cut(path: Path, item: str, **changes: Any) -> dict[str, Any]:
    """A MonoCut of the first channel of a file, as Lhotse writes it."""
    cut = {
        "id": item,
        "start": 0.0,
        "duration": 3.0,
        "channel": 0,
        "supervisions": [
            {"id": item, "start": 0.0, "duration": 3.0, "text": TEXT, "language": "en"}
        ],
        "recording": {
            "id": path.stem,
            "sources": [{"type": "file", "channels": [0], "source": str(path)}],
            "sampling_rate": 16000,
            "num_samples": 48000,
            "duration": 3.0,
        },
        "type": "MonoCut",
    }
    return {**cut, **changes}


def write_gzip_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes objects line by line, packed."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(source: Source, tokenizer: str = "emilia", **settings: Any) -> PrepareConfig:
    """A preparation with the golden token table; that has no letters, for libritts."""
    settings.setdefault("name", "toy")
    table = None if tokenizer == "libritts" else TokenTable.load(TABLE)
    return PrepareConfig(
        source=source, tokenizer=TokenizerSettings(name=tokenizer, table=table), **settings
    )


def run(to: Path, source: Source, **settings: Any) -> dict[str, Any]:
    """Prepares in this process; the report."""
    return prepare(config(source, **settings), to, workers=1)


def left_out(report: dict[str, Any]) -> dict[str, list[str]]:
    """The examples of each reason to leave an item out, by id."""
    return {
        reason: [one["id"] for one in entry["examples"]]
        for reason, entry in report["rejects"].items()
    }

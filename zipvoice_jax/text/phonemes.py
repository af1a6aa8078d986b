"""eSpeak phonemes, as the official code gets them from `piper_phonemize.phonemize_espeak`.

Released models know the symbols of one build of eSpeak NG: the one in the wheels of
`piper-phonemize` (1.1 to 1.2) and `piper-phonemize-fix`, all imported as `piper_phonemize`.
Newer builds differ: piper-tts 1.8 writes ɔːɹ for oːɹ and adds ʲ. Another backend would change
this file only, and would have to reproduce the golden phonemes.
"""

# ruff: noqa: RUF002 - phonetic symbols

import contextlib
import dataclasses
import difflib
import functools
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import quote

_INSTALL = "install the package piper-phonemize-fix"
# eSpeak keeps the path in a fixed buffer and ends the whole process if the path does not fit.
_MAX_PATH_BYTES = 240


@dataclasses.dataclass(frozen=True)
class _Backend:
    phonemize: Callable[..., list[list[str]]]
    data: Path
    voices: Mapping[str, str]  # language code, lower case -> voice file
    # eSpeak has one voice and one text per process. (threading.Lock is no type before Python 3.13.)
    lock: contextlib.AbstractContextManager[bool]


def check_language(lang: str) -> None:
    """Checks that eSpeak has a voice for a language code such as "en-us", "de" or "cmn".

    Raises:
        UserError: there is none, or the backend is missing.
    """
    voices = _backend().voices
    if not isinstance(lang, str) or lang.lower() not in voices:
        near = difflib.get_close_matches(str(lang).lower(), voices, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "such as en-us, de or cmn."
        raise UserError(f"eSpeak has no language {quote(str(lang))}; give one of its codes, {hint}")


def phonemize(text: str, lang: str = "en-us") -> tuple[str, ...]:
    """Turns text into IPA symbols; all sentences form one sequence.

    Args:
        text: one line of text; may be empty.
        lang: an eSpeak language code; letter case does not matter.

    Returns:
        One symbol (code point, NFD) per entry, with the punctuation that eSpeak keeps.

    Raises:
        UserError: unknown language, missing or failing backend, or text that eSpeak cannot take.
    """
    check_language(lang)
    check_unicode(text)
    if "\0" in text:
        raise UserError(f"the text {quote(text)} holds a NUL character; remove it.")
    backend = _backend()
    try:
        with backend.lock:
            # A text that ends in ".." leaves a "dot" behind, with which the next text would begin
            # (in the official code it does); an empty text flushes it.
            backend.phonemize("", lang.lower(), backend.data)
            sentences = backend.phonemize(text, lang.lower(), backend.data)
    except Exception as error:  # whatever the binding raises
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"eSpeak ({lang}) failed on {quote(text)}: {reason}.") from None
    return tuple(symbol for sentence in sentences for symbol in sentence)


def check_unicode(text: str) -> None:
    """Raises a UserError if text holds lone surrogates, which no encoding can carry."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"the text {quote(text)} is not valid Unicode; save it as UTF-8 text."
        ) from None


@functools.cache
def _backend() -> _Backend:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import piper_phonemize
    except Exception as error:  # an ABI mismatch is not an ImportError everywhere
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"eSpeak phonemes are not available ({reason}); {_INSTALL}.") from None
    return _open(piper_phonemize.phonemize_espeak, Path(piper_phonemize.__file__).parent)


def _open(phonemize: Callable[..., list[list[str]]], package: Path) -> _Backend:
    """Checks the data before eSpeak sees it: eSpeak would end the process, not raise."""
    data = package / "espeak-ng-data"
    parts = (data / name for name in ("phontab", "phonindex", "phondata", "lang"))
    missing = [part for part in parts if not part.exists()]
    if missing:
        raise UserError(f"eSpeak's data is incomplete ({missing[0]} is missing); {_INSTALL}.")
    if len(os.fsencode(data)) > _MAX_PATH_BYTES:
        raise UserError(
            f"eSpeak cannot open its data at {data}: the path is longer than {_MAX_PATH_BYTES} "
            "bytes; put the Python environment into a folder with a shorter name."
        )
    voices = {f.name.lower(): f.name for f in sorted((data / "lang").rglob("*")) if f.is_file()}
    return _Backend(phonemize, data, voices, threading.Lock())

"""When Kokoro says each of our tokens: eSpeak's symbols and Kokoro's, matched piece by piece.

Kokoro decides how long each of its symbols lasts, in steps of 600 samples (25 ms), before it makes
a wave: the tensor `_DURATIONS` of its network, both end symbols included. Its symbols come from
eSpeak's, which are our tokens, by replacements (kokoro.py); which tokens a symbol stands for is
tracked through them.
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from kokoro import AMERICAN, COMMON, FOLDER, NETWORK, RATE, SYMBOLS, trim

from zipvoice_jax.core.errors import UserError

STEP = 600  # samples that a duration of 1 stands for
LEVEL = 0.1  # root mean square of a clip; full scale is 1
_DURATIONS = "/encoder/Clip_output_0"
LAG = 0.05  # seconds by which its durations are late: what it says is heard so much earlier
_QUIET = 0.012  # of a clip's full scale
_REST = 0.05  # seconds to keep after what is louder; mostly the full stop's
_KNEE, _PEAK = 0.8, 0.98  # louder than the knee is bent so that it stays below the peak


@dataclasses.dataclass(frozen=True)
class Timed:
    """A clip: float32 (samples,) at 24 kHz, and when each token is said.

    Attributes:
        wave: what is heard.
        starts: where each token begins, in seconds; the first, with the silence before it, at 0.
        onset: where the first one is heard, in seconds.
    """

    wave: np.ndarray
    starts: tuple[float, ...]
    onset: float


def shifted(timed: Timed, shift: float) -> Timed:
    """A clip played `shift` times as fast: higher, formants included, and shorter."""
    wave = np.asarray(soxr.resample(timed.wave, RATE * shift, RATE), np.float32)
    starts = tuple(round(start / shift, 4) for start in timed.starts)
    return Timed(levelled(wave), starts, round(timed.onset / shift, 4))


@dataclasses.dataclass(frozen=True)
class TimedKokoro:
    """Kokoro's network with durations among its outputs, and the numbers of its symbols."""

    session: Any
    symbols: Mapping[str, int]

    def speak(self, tokens: Sequence[str], style: np.ndarray, speed: float = 1.0) -> Timed:
        """Speaks tokens of the emilia tokenizer, without the silence around them.

        Args:
            tokens: eSpeak's symbols of American English.
            style: (symbols, 256), a voice or a blend of some.
            speed: above 1 is faster.

        Raises:
            UserError: too many tokens, none that can be spoken, or not the expected network.
        """
        pieces = [p for p in match(tokens) if p.symbol in self.symbols]
        if not 0 < len(pieces) < len(style):
            raise UserError(
                f"{''.join(tokens)[:60]!r} has {len(pieces)} symbols; give 1 to {len(style) - 1}."
            )
        wave, durations = self.session.run(
            None,
            {
                "tokens": np.array([[0, *(self.symbols[p.symbol] for p in pieces), 0]], np.int64),
                "style": style[len(pieces) - 1][None],
                "speed": np.full(1, speed, np.float32),
            },
        )
        wave = wave.ravel()
        durations = durations.ravel().astype(np.int64)
        if len(durations) != len(pieces) + 2 or durations.sum() * STEP != len(wave):
            raise UserError(f"{_DURATIONS} holds no durations; check Kokoro's files.")
        starts = token_starts(len(tokens), [p.tokens for p in pieces], durations) - LAG
        begin, end = trim(wave)
        begin = max(min(begin, round(starts[0] * RATE)), 0)
        end = min(max(end, round(starts[-1] * RATE)), len(wave))
        return settled(levelled(wave[begin:end]), starts - begin / RATE)


def settled(wave: np.ndarray, starts: np.ndarray) -> Timed:
    """A clip without the silence at its end, which Kokoro counts to the last sound.

    Args:
        wave: at the level of a clip.
        starts: where each token begins, in seconds.
    """
    loud = np.flatnonzero(np.abs(wave) > _QUIET)
    last = int(loud[-1]) if len(loud) else len(wave)
    end = min(last + round(_REST * RATE), len(wave))
    onset, *others = (round(float(s), 4) for s in np.clip(starts, 0.0, last / RATE))
    return Timed(levelled(wave[:end]), (0.0, *others), onset)


@dataclasses.dataclass(frozen=True)
class Piece:
    """One symbol of Kokoro's and the positions of the tokens that it stands for.

    Symbols that stand for the same tokens together have equal `tokens`.
    """

    symbol: str
    tokens: tuple[int, ...]


def match(tokens: Sequence[str]) -> list[Piece]:
    """Kokoro's symbols for tokens of American English, with the tokens that each stands for.

    What a replacement makes of several tokens stands for all of them; where it keeps their number,
    one stands for one. A token that it takes away goes with the symbol before. Between sentences
    comes a blank, which belongs to the full stop.
    """
    symbols, owners = [], []  # of each symbol: a list of tokens, shared by all that stand for them
    for i, token in enumerate(tokens):
        if symbols and unicodedata.combining(token):
            joined = unicodedata.normalize("NFC", symbols[-1] + token)
            if len(joined) == 1:
                symbols[-1] = joined
                owners[-1].append(i)
                continue
        if symbols and symbols[-1] in ".?!" and not token.isspace():
            # eSpeak joins sentences without a blank; Kokoro pauses at one.
            symbols.append(" ")
            owners.append(owners[-1])
        symbols.append(token)
        owners.append([i])
    for old, new in (*COMMON, *AMERICAN):
        symbols, owners = _replace(symbols, owners, old, new)
    while symbols and symbols[-1].isspace():
        symbols, owners = _cut(symbols, owners, len(symbols) - 1)
    for i in reversed(range(len(symbols))):
        if symbols[i].isspace():
            symbols[i] = " "
            if i == 0 or symbols[i - 1].isspace():
                symbols, owners = _cut(symbols, owners, i)
    return [Piece(s, tuple(sorted(o))) for s, o in zip(symbols, owners, strict=True)]


def _replace(
    symbols: list[str], owners: list[list[int]], old: str, new: str
) -> tuple[list[str], list[list[int]]]:
    for found in reversed(list(re.finditer(re.escape(old), "".join(symbols)))):
        begin, end = found.span()
        if not new:
            for i in reversed(range(begin, end)):
                symbols, owners = _cut(symbols, owners, i)
        elif len(new) == len(old):
            symbols = [*symbols[:begin], *new, *symbols[end:]]
        else:
            one = owners[begin]
            for i in range(begin + 1, end):
                if owners[i] is not one:
                    one.extend(owners[i])
                    owners = [one if o is owners[i] else o for o in owners]
            symbols = [*symbols[:begin], *new, *symbols[end:]]
            owners = [*owners[:begin], *[one] * len(new), *owners[end:]]
    return symbols, owners


def _cut(symbols: list[str], owners: list[list[int]], i: int) -> tuple[list[str], list[list[int]]]:
    """Takes a symbol away; its tokens go with the one before, if there is one."""
    if i:
        owners[i - 1].extend(t for t in owners[i] if t not in owners[i - 1])
    return symbols[:i] + symbols[i + 1 :], owners[:i] + owners[i + 1 :]


def token_starts(
    count: int, owners: Sequence[tuple[int, ...]], durations: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Where each of `count` tokens begins, in seconds.

    Args:
        count: how many tokens there are.
        owners: of each symbol, the tokens that it stands for.
        durations: of each symbol, those at both ends included, in steps.

    Returns:
        Shape (count,), not decreasing. Tokens that share symbols share their time evenly; one
        without a symbol begins where the next begins.
    """
    length = np.zeros(count)
    for tokens, duration in zip(owners, durations[1:-1], strict=True):
        for token in tokens:
            length[token] += duration / len(tokens)
    starts = durations[0] + np.concatenate([[0.0], np.cumsum(length)[:-1]])
    return starts * STEP / RATE


def levelled(wave: np.ndarray) -> np.ndarray:
    """A wave at the level of the features, its peaks bent to below full scale."""
    wave = wave * np.float32(LEVEL / np.sqrt(np.mean(wave.astype(np.float64) ** 2)))
    over = np.maximum(np.abs(wave) - _KNEE, 0.0)
    bent = _KNEE + (_PEAK - _KNEE) * np.tanh(over / (_PEAK - _KNEE))
    return np.where(over > 0, np.sign(wave) * bent, wave).astype(np.float32)


def open_timed(folder: Path = FOLDER) -> TimedKokoro:
    """Opens the network for one thread, with its durations as a second output.

    The files have to be there: kokoro.fetch brings them.

    Raises:
        UserError: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("Kokoro needs onnxruntime; pip install '.[evaluate]'.") from None
    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        with_output((folder / NETWORK).read_bytes(), _DURATIONS),
        options,
        providers=["CPUExecutionProvider"],
    )
    symbols = json.loads((folder / SYMBOLS).read_text(encoding="utf-8"))["vocab"]
    return TimedKokoro(session, symbols)


def with_output(model: bytes, tensor: str) -> bytes:
    """An ONNX model that also gives one of its inner tensors.

    Two serialised messages one after the other are both of them merged (protobuf's encoding), and
    lists such as GraphProto.output (12) of ModelProto.graph (7) are joined; a ValueInfoProto needs
    no more than its name (1).
    """

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    return model + field(7, field(12, field(1, tensor.encode())))

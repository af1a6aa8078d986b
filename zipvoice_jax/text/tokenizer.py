"""Tokenizers: text to tokens and ids, as zipvoice/tokenizer/tokenizer.py of the official code.

Nothing is dropped silently: what the official code skips with a log line is returned in
`Tokenized.unknown` (tokens that the table lacks) or `Tokenized.dropped` (text).
"""

import abc
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import check_choice
from zipvoice_jax.text import phonemes, pinyin
from zipvoice_jax.text.normalizer import (
    clean_libritts,
    map_punctuation,
    normalize_chinese,
    normalize_english,
)
from zipvoice_jax.text.repair import repair
from zipvoice_jax.text.scripts import foreign_passages, is_latin
from zipvoice_jax.text.tags import SPEAKER_TAG, between_tags, check_speaker_tags
from zipvoice_jax.text.tokens import SPEAKER_A, SPEAKER_B, TokenTable, quote

TokenizerName = Literal["emilia", "dialog", "espeak", "simple", "libritts"]
TOKENIZERS: tuple[str, ...] = get_args(TokenizerName)
LIBRITTS_TYPES = ("char", "phone", "bpe")

# A character, or a string in <> (pinyin) or [] (a tag); a line feed is neither.
_PART = re.compile(r"[<\[].*?[>\]]|.")
_BRACKETED = re.compile(r"([<\[].*?[>\]])")


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """A text as tokens.

    Attributes:
        tokens: all tokens of the text.
        ids: ids of the tokens that the table knows, in order.
        unknown: each distinct token that the table lacks, in order; not in `ids`.
        dropped: passages that have no tokens, such as those in an unknown script, in order.
    """

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    unknown: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tokenizer(abc.ABC):
    """Text to tokens to ids; pure and picklable.

    Attributes:
        table: the vocabulary; None if only tokens are needed.
        repair: read texts as people would (`zipvoice_jax.text.repair`); False gives the official
            tokens.
    """

    table: TokenTable | None = None
    repair: bool = dataclasses.field(default=False, kw_only=True)

    reads: ClassVar[str] = "any script"  # for error messages

    @property
    def speakers(self) -> int:
        """Whose tags are tokens: those of the table, and at least [S1] and [S2]."""
        return max(2, 0 if self.table is None else len(self.table.speaker_ids))

    @property
    def _languages(self) -> tuple[str, ...]:
        """Languages in which `repair` may write numbers."""
        return ()

    @abc.abstractmethod
    def _split(self, text: str, language: str) -> tuple[list[str], list[str]]:
        """Tokens of the text, and the passages that have none."""

    def split(self, text: str, *, language: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Tokens of a text, and the passages that were dropped.

        Args:
            text: what to say; speakers' tags are tokens whatever the tokenizer.
            language: "en" or "zh", in which to read a text without letters, such as "42"; "" drops
                it, as the official code does. Only for tokenizers of both languages.

        Raises:
            UserError: the text has no tokens at all, or cannot be read.
        """
        if not isinstance(text, str):
            raise UserError(f"the text is {quote(repr(text))}; give a string.")
        phonemes.check_unicode(text)
        read = repair(text, self._languages, language) if self.repair else text
        tokens, dropped = self._split(read, language)
        if not tokens:
            raise UserError(
                f"the text {quote(text)} has no words that this tokenizer can speak; "
                f"write a text in {self.reads}."
            )
        return tuple(tokens), tuple(dropped)

    def tokens(self, text: str, *, language: str = "") -> tuple[str, ...]:
        """Tokens of a text; arguments and errors as for `split`."""
        return self.split(text, language=language)[0]

    def ids(self, tokens: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Ids of the tokens that the table knows, and each distinct one that it lacks.

        Raises:
            UserError: the tokenizer was made without a table.
        """
        if self.table is None:
            raise UserError("the tokenizer has no token table; give a tokens.txt to get ids.")
        ids = self.table.token2id
        unknown = dict.fromkeys(token for token in tokens if token not in ids)
        return tuple(ids[token] for token in tokens if token in ids), tuple(unknown)

    def encode(self, text: str, *, language: str = "") -> Tokenized:
        """Tokens and ids of a text, with a report of what was left out.

        Args:
            text: what to say, as for `split`.
            language: language of a text without letters, as for `split`.

        Raises:
            UserError: no token of the text is in the table, or an error of `split` or `ids`.
        """
        tokens, dropped = self.split(text, language=language)
        ids, unknown = self.ids(tokens)
        if not ids:
            raise UserError(
                f"no token of the text {quote(text)} is in the token table; "
                "check that the table and the tokenizer belong to the model."
            )
        return Tokenized(tokens, ids, unknown, dropped)


@dataclasses.dataclass(frozen=True)
class SimpleTokenizer(Tokenizer):
    """Every character is a token; no normalisation."""

    def _split(self, text: str, language: str) -> tuple[list[str], list[str]]:
        return between_tags(text, list, speakers=self.speakers, keep_blanks=True), []


@dataclasses.dataclass(frozen=True)
class EspeakTokenizer(Tokenizer):
    """eSpeak symbols of any language that eSpeak speaks; no further normalisation."""

    lang: str = "en-us"

    def __post_init__(self) -> None:
        phonemes.check_language(self.lang)

    @property
    def _languages(self) -> tuple[str, ...]:
        spoken = {"en": "en", "cmn": "zh"}.get(self.lang.lower().split("-")[0])
        return () if spoken is None else (spoken,)

    def _split(self, text: str, language: str) -> tuple[list[str], list[str]]:
        dropped: list[str] = []
        if is_latin(self.lang):
            text, dropped = foreign_passages(text, keep=("LATIN",))
        tokens = between_tags(
            text, lambda turn: list(phonemes.phonemize(turn, self.lang)), speakers=self.speakers
        )
        return tokens, dropped


@dataclasses.dataclass(frozen=True)
class EmiliaTokenizer(Tokenizer):
    """English as eSpeak symbols, Chinese as pinyin; `<chang2>` is pinyin, `[tag]` a token."""

    reads: ClassVar[str] = "English or Chinese"

    @property
    def _languages(self) -> tuple[str, ...]:
        return ("en", "zh")

    def _prepare(self, text: str) -> str:
        return map_punctuation(text)

    def _split(self, text: str, language: str) -> tuple[list[str], list[str]]:
        tokens: list[str] = []
        dropped: list[str] = []
        to_tokens: dict[str, Callable[[str], list[str]]] = {
            "zh": functools.partial(_chinese_tokens, phrases=self.repair),
            "en": _english_tokens,
            "pinyin": _pinyin_tokens,
            "tag": lambda tag: [tag],
            "other": lambda _: [],
        }
        segments = language_segments(self._prepare(text))
        if language and not any(kind in ("en", "zh") for _, kind in segments):
            segments = [
                (passage, language if any(map(str.isdigit, passage)) and kind == "other" else kind)
                for passage, kind in segments
            ]
        for passage, kind in segments:
            known, foreign = passage, []
            if kind in ("en", "zh"):  # eSpeak would spell "japanese letter, japanese letter"
                known, foreign = foreign_passages(passage, keep=("LATIN", "CJK"))
            passage_tokens = to_tokens[kind](known)
            tokens += passage_tokens
            if foreign:
                dropped += foreign
            elif not passage_tokens and not passage.isspace():
                dropped.append(passage)
        return tokens, dropped


@dataclasses.dataclass(frozen=True)
class DialogTokenizer(EmiliaTokenizer):
    """Emilia's tokens with the speakers' tags; blanks around tags are dropped."""

    def __post_init__(self) -> None:
        if self.table is not None and None in (self.table.spk_a_id, self.table.spk_b_id):
            raise UserError(
                f"the token table lacks {SPEAKER_A} or {SPEAKER_B}; "
                "give the tokens.txt of a dialogue model."
            )

    def _prepare(self, text: str) -> str:
        check_speaker_tags(text, self.speakers)
        return map_punctuation(SPEAKER_TAG.sub(r"\1", text))


@dataclasses.dataclass(frozen=True)
class LibriTTSTokenizer(Tokenizer):
    """Cleaned English as characters, eSpeak symbols or SentencePiece pieces.

    Attributes:
        token_type: one of `LIBRITTS_TYPES`.
        bpe_model: path of the SentencePiece model, which replaces the table for "bpe".
    """

    token_type: str = "char"
    bpe_model: Path | None = None

    reads: ClassVar[str] = "English"

    def __post_init__(self) -> None:
        _check_token_type("libritts", self.token_type, LIBRITTS_TYPES)
        if self.token_type == "bpe":
            if self.bpe_model is None:
                raise UserError(
                    "the libritts tokenizer of type bpe needs bpe_model, a .model file."
                )
            _sentencepiece(self.bpe_model)

    @property
    def _languages(self) -> tuple[str, ...]:
        return ("en",)

    def _split(self, text: str, language: str) -> tuple[list[str], list[str]]:
        return between_tags(text, self._split_turn, speakers=self.speakers), []

    def _split_turn(self, text: str) -> list[str]:
        text = clean_libritts(text)
        if self.token_type == "phone":
            return list(phonemes.phonemize(text.lower(), "en-us"))
        if self.bpe_model is not None and self.token_type == "bpe":
            return _sentencepiece(self.bpe_model).encode(text, out_type=str)
        return list(text)

    def ids(self, tokens: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Like `Tokenizer.ids`, but SentencePiece gives an unknown piece its own id."""
        if self.bpe_model is None or self.token_type != "bpe":
            return super().ids(tokens)
        model = _sentencepiece(self.bpe_model)
        ids = tuple(model.piece_to_id(token) for token in tokens)
        unknown = dict.fromkeys(
            token for token, i in zip(tokens, ids, strict=True) if i == model.unk_id()
        )
        return ids, tuple(unknown)


def make_tokenizer(
    name: str,
    table: TokenTable | None = None,
    *,
    lang: str = "en-us",
    token_type: str | None = None,
    bpe_model: str | Path | None = None,
    repair: bool = False,
) -> Tokenizer:
    """Makes a tokenizer by its official name.

    Args:
        name: one of `TOKENIZERS`.
        table: the vocabulary, needed for ids; not for the libritts type "bpe".
        lang: eSpeak language code, for "espeak" only.
        token_type: for "libritts" one of `LIBRITTS_TYPES` (default "char"); "emilia" and
            "dialog" know "phone" only.
        bpe_model: SentencePiece model file, for the libritts type "bpe".
        repair: read texts as people would, see `Tokenizer`.

    Raises:
        UserError: unknown name, type or language, or a table that does not fit.
    """
    check_choice("tokenizer", name, TOKENIZERS)
    if name != "espeak" and lang != "en-us":
        raise UserError(f"the {name} tokenizer takes no language ({lang!r}); use espeak for that.")
    if name == "libritts":
        path = None if bpe_model is None else Path(bpe_model)
        return LibriTTSTokenizer(
            table, "char" if token_type is None else token_type, path, repair=repair
        )
    if token_type is not None:
        _check_token_type(name, token_type, ("phone",) if name in ("emilia", "dialog") else ())
    if name == "espeak":
        return EspeakTokenizer(table, lang, repair=repair)
    kinds = {"emilia": EmiliaTokenizer, "dialog": DialogTokenizer, "simple": SimpleTokenizer}
    return kinds[name](table, repair=repair)


def language_segments(text: str) -> list[tuple[str, str]]:
    """Splits text into passages of one kind: "zh", "en", "pinyin", "tag" or "other".

    Digits, blanks and punctuation belong to the language before them, or after them at the
    start of the text. Line feeds are dropped, as in the official code.
    """
    runs: list[tuple[str, str]] = []
    for part in _PART.findall(text):
        kind = _kind(part)
        if runs and (kind in ("other", runs[-1][1]) or runs[-1][1] == "other"):
            before, kind_before = runs.pop()
            part, kind = before + part, kind if kind_before == "other" else kind_before
        runs.append((part, kind))
    segments = []
    for run, language in runs:
        for part in _BRACKETED.split(run):
            if part.startswith("<") and part.endswith(">"):
                segments.append((part, "pinyin"))
            elif part.startswith("[") and part.endswith("]"):
                segments.append((part, "tag"))
            elif part:
                segments.append((part, language))
    return segments


def _kind(part: str) -> str:
    if "\u4e00" <= part <= "\u9fa5" or (part.startswith("<") and part.endswith(">")):
        return "zh"
    return "en" if "A" <= part <= "Z" or "a" <= part <= "z" else "other"


def _english_tokens(text: str) -> list[str]:
    try:
        text = normalize_english(text)
    except UserError:  # reported as dropped
        return []
    return list(phonemes.phonemize(text, "en-us"))


def _chinese_tokens(text: str, phrases: bool) -> list[str]:
    try:
        return pinyin.hanzi_to_tokens(normalize_chinese(text), phrases=phrases)
    except UserError:  # reported as dropped
        return []


def _pinyin_tokens(text: str) -> list[str]:
    syllable = text.lstrip("<").rstrip(">")
    return pinyin.split_syllable(syllable) if pinyin.is_syllable(syllable) else []


def _check_token_type(name: str, token_type: str, known: Sequence[str]) -> None:
    if token_type not in known:
        choice = f"choose one of {', '.join(known)}" if known else "it takes none"
        raise UserError(f"token_type of the {name} tokenizer is {token_type!r}; {choice}.")


@functools.lru_cache(maxsize=4)
def _sentencepiece(path: Path) -> Any:
    """The SentencePiece model at a path; loaded per process, so that tokenizers pickle."""
    try:
        import sentencepiece  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "the libritts tokenizer of type bpe needs the package sentencepiece; install it."
        ) from None
    if not path.is_file():
        raise UserError(f"the SentencePiece model {path} does not exist.")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except Exception:  # its own RuntimeError, whose text names C++ sources
        raise UserError(f"{path} is not a SentencePiece model; give a .model file.") from None

"""Token tables: the official tokens.txt, one `{token}<tab>{id}` per line."""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from zipvoice_jax.core.errors import UserError

PAD = "_"
SPEAKER_A = "[S1]"
SPEAKER_B = "[S2]"
SPEAKERS = range(1, 100)  # numbers that a tag can have
SPEAKER_PATTERN = r"\[S[1-9][0-9]?\]"  # a speaker's tag, as a regular expression


def speaker_tag(number: int) -> str:
    """The tag before a speaker's turns, such as [S1]; speakers count from 1."""
    return f"[S{number}]"


def is_speaker_tag(token: str) -> bool:
    """Whether a token is the tag of any speaker."""
    return re.fullmatch(SPEAKER_PATTERN, token) is not None


def tags_in_words(speakers: int) -> str:
    """The tags of this many speakers for messages: "[S1] or [S2]", "[S1] to [S4]"."""
    return f"{SPEAKER_A} {'or' if speakers <= 2 else 'to'} {speaker_tag(max(speakers, 2))}"


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """The vocabulary of a model; the id of a token is its index in `tokens`.

    Raises:
        UserError: no tokens, a token twice, or no padding token "_".
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tokens:
            raise UserError("the token table is empty; give one token per id.")
        if len(self.token2id) != len(self.tokens):
            twice = next(t for i, t in enumerate(self.tokens) if t in self.tokens[:i])
            raise UserError(f"the token table has {twice!r} twice; give each token one id.")
        for token in self.tokens:
            if not token or any(c in token for c in "\t\n\r\0"):
                raise UserError(
                    f"the token table has the token {token!r}; a token needs at least one "
                    "character and no tab, NUL or line break."
                )
        if PAD not in self.token2id:
            raise UserError(f"the token table lacks the padding token {PAD!r}; add it.")

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[str, ...]]]:
        # The cached mapping is a read-only view, which does not pickle (data workers need it to).
        return type(self), (self.tokens,)

    @functools.cached_property
    def token2id(self) -> Mapping[str, int]:
        """Read-only mapping from token to id."""
        return MappingProxyType({token: i for i, token in enumerate(self.tokens)})

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def pad_id(self) -> int:
        """Id of the padding token "_"."""
        return self.token2id[PAD]

    @functools.cached_property
    def speaker_ids(self) -> tuple[int, ...]:
        """Ids of the tags [S1], [S2] and so on, up to the first that is not in the table."""
        tags = itertools.takewhile(self.token2id.__contains__, map(speaker_tag, SPEAKERS))
        return tuple(self.token2id[tag] for tag in tags)

    @property
    def speaker_fields(self) -> dict[str, Any]:
        """The fields of a dialogue model's config that follow from the speakers' tags.

        Only for tables that have [S1] and [S2].
        """
        first, second, *more = self.speaker_ids
        return {"spk_a_id": first, "spk_b_id": second, "more_speaker_ids": tuple(more)}

    @property
    def spk_a_id(self) -> int | None:
        """Id of the tag [S1], or None in a table without speaker tags."""
        return self.token2id.get(SPEAKER_A)

    @property
    def spk_b_id(self) -> int | None:
        """Id of the tag [S2], or None in a table without speaker tags."""
        return self.token2id.get(SPEAKER_B)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of `dumps()`, to match a model with its table."""
        return hashlib.sha256(self.dumps().encode("utf-8", "surrogatepass")).hexdigest()

    def dumps(self) -> str:
        """The table as tokens.txt, in the order of ids; `loads` reads it back."""
        return "".join(f"{token}\t{i}\n" for i, token in enumerate(self.tokens))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a tokens.txt.

        Args:
            path: the file; lines may come in any order of ids.

        Raises:
            UserError: the file is missing or not text, or a line is wrong; the message names both.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"the token table {path} does not exist.") from None
        except (OSError, ValueError) as error:
            reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
            raise UserError(
                f"the token table {path} is not readable ({reason}); "
                "give a tokens.txt with one token, a tab and its id per line."
            ) from None
        return cls.loads(text, name=str(path))

    @classmethod
    def loads(cls, text: str, *, name: str = "tokens.txt") -> Self:
        """Reads a table from the text of a tokens.txt.

        Args:
            text: output of `dumps`, or the content of an official file.
            name: what messages call the table.

        Raises:
            UserError: a line is wrong; the message names it.
        """
        id2token: dict[int, str] = {}
        line_of: dict[str, int] = {}
        for number, token, token_id in _rows(text, name):
            where = f"{name}, line {number}"
            if token in line_of:
                raise UserError(
                    f"{where}: the token {token!r} is already on line {line_of[token]}; "
                    "remove one of the two."
                )
            if token_id in id2token:
                raise UserError(
                    f"{where}: the id {token_id} already belongs to {id2token[token_id]!r}; "
                    "give each token its own id."
                )
            line_of[token] = number
            id2token[token_id] = token
        if not id2token:
            raise UserError(f"{name} is empty; it takes one token, a tab and its id per line.")
        too_high = max(id2token)
        if too_high >= len(id2token):
            raise UserError(
                f"{name}, line {line_of[id2token[too_high]]}: the id {too_high} is too high for "
                f"{len(id2token)} tokens; number them from 0 without gaps."
            )
        if PAD not in line_of:
            raise UserError(f"{name} lacks the padding token {PAD!r}; add a line for it.")
        return cls(tuple(id2token[i] for i in range(len(id2token))))


def _rows(text: str, name: str) -> Iterator[tuple[int, str, int]]:
    """Yields line number, token and id; only line feeds end a line, as in the official parser."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.rstrip("\n").split("\n") if text.strip() else (), 1):
        # From the right only: the space token's line begins with a blank.
        columns = line.rstrip().split("\t")
        where = f"{name}, line {number}"
        if "\0" in line:
            raise UserError(f"{where} holds binary data; give a text file of tokens and ids.")
        if len(columns) != 2:
            raise UserError(
                f"{where} has {len(columns)} column(s), {quote(line)}; "
                "write a token, one tab and its id."
            )
        token, digits = columns
        if not token:
            raise UserError(f"{where} has an empty token; the space token's line starts with ' '.")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
            raise UserError(f"{where}: {quote(digits)} is not a token id; give a whole number.")
        yield number, token, int(digits)


def quote(text: str, limit: int = 60) -> str:
    """A one-line quotation of text for an error message, cut to `limit` characters."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")

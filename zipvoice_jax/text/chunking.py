"""Long texts in pieces: chunks of tokens, batches of chunks, and checks of a dialogue.

Sources: `chunk_tokens_punctuation`, `chunk_tokens_dialog`, `batchify_tokens` and
`add_punctuation` of the official zipvoice/utils/infer.py, with equal results.
"""

# ruff: noqa: RUF001 - punctuation of other scripts

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tags import check_speaker_tags, split_turns
from zipvoice_jax.text.tokens import SPEAKER_A, is_speaker_tag, quote, tags_in_words

PUNCTUATION = frozenset(";:,.!?；：，。！？")

_Token = TypeVar("_Token")


def chunk_tokens_punctuation(tokens: Sequence[str], max_tokens: int = 100) -> list[list[str]]:
    """Splits tokens after punctuation into chunks.

    Args:
        tokens: tokens of one text.
        max_tokens: most tokens in a chunk; a sentence that is longer stays whole.

    Returns:
        Chunks, none empty; together they are `tokens`.

    Raises:
        UserError: max_tokens is not a whole number above 0.
    """
    _check_max_tokens(max_tokens)
    return _merge(_sentences(tokens), max_tokens)


def chunk_tokens_dialog(
    tokens: Sequence[str], max_tokens: int = 100, *, split_long: bool = False
) -> list[list[str]]:
    """Splits tokens before [S1] into chunks.

    Args:
        tokens: tokens of one dialogue.
        max_tokens: most tokens in a chunk; a group of turns that is longer stays whole.
        split_long: split such a group too, between turns and after punctuation. Each further
            piece repeats its speaker's tag and may start with any speaker, which needs a model
            whose speaker embedding follows the tag (`ModelConfig.speaker_turns`).

    Returns:
        Chunks, none empty; together they are `tokens`, except for repeated tags.

    Raises:
        UserError: max_tokens is not a whole number above 0.
    """
    _check_max_tokens(max_tokens)
    groups: list[list[str]] = []
    for token in tokens:
        if token == SPEAKER_A or not groups:
            groups.append([])
        groups[-1].append(token)
    if split_long:
        groups = [
            piece
            for group in groups
            for piece in (_split_group(group, max_tokens) if len(group) > max_tokens else [group])
        ]
    return _merge(groups, max_tokens)


def batchify_tokens(
    sequences: Sequence[Sequence[_Token]],
    max_duration: float,
    prompt_duration: float,
    token_duration: float,
) -> tuple[list[list[Sequence[_Token]]], list[int]]:
    """Groups sequences of similar length into batches.

    Args:
        sequences: tokens or ids, one sequence per chunk.
        max_duration: most seconds in a batch; a longer sequence has a batch of its own.
        prompt_duration: seconds of prompt that each sequence adds.
        token_duration: seconds of speech per token.

    Returns:
        The batches, shortest sequences first, and for each sequence in that order its index in
        `sequences`.
    """
    index = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    batches: list[list[Sequence[_Token]]] = []
    total = 0  # tokens in the last batch
    for i in index:
        sequence = sequences[i]
        # Term by term as in the official code: at a tie the rounding decides.
        if (
            batches
            and total * token_duration
            + len(batches[-1]) * prompt_duration
            + len(sequence) * token_duration
            <= max_duration
        ):
            batches[-1].append(sequence)
            total += len(sequence)
        else:
            batches.append([sequence])
            total = len(sequence)
    return batches, index


def add_punctuation(text: str, mark: str = ".") -> str:
    """Strips the text, and appends `mark`, by default a full stop, if it ends without punctuation.

    Raises:
        UserError: the text is blank.
    """
    stripped = text.strip()
    if not stripped:
        raise UserError(f"the text {quote(text)} is empty; write some words.")
    return stripped if stripped[-1] in PUNCTUATION else stripped + mark


def validate_dialog(text: str, speakers: int = 2) -> None:
    """Checks that a dialogue starts with a speaker tag and has words after every tag.

    Args:
        text: text of the dialogue.
        speakers: number of speakers allowed, from [S1] on.

    Raises:
        UserError: it does not; the message says where.
    """
    check_speaker_tags(text, speakers)
    before, *turns = split_turns(text)
    if before.strip() or not turns:
        raise UserError(
            f"the dialogue {quote(text)} does not start with {tags_in_words(speakers)}; "
            "put the speaker's tag before the first word."
        )
    for number, turn in enumerate(turns, 1):
        # Other tags, such as [laughter], are not words; pinyin in <> is.
        if not any(c.isalnum() for c in re.sub(r"\[.*?\]", "", turn)):
            raise UserError(
                f"turn {number} of the dialogue, {quote(turn)}, has no words; "
                "write some after the tag or remove it."
            )


def _check_max_tokens(max_tokens: int) -> None:
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens!r}; give a whole number of 1 or more.")


def _sentences(tokens: Iterable[str]) -> list[list[str]]:
    """Splits after punctuation; further punctuation and blanks stay with the sentence before."""
    sentences: list[list[str]] = []
    is_open = False
    for token in tokens:
        ends = token in PUNCTUATION
        if is_open or (sentences and (ends or token == " ")):
            sentences[-1].append(token)
            is_open = is_open and not ends
        else:
            sentences.append([token])
            is_open = not ends
    return sentences


def _merge(pieces: Iterable[list[str]], max_tokens: int) -> list[list[str]]:
    """Joins neighbours as long as they fit; a piece that is too long stays by itself."""
    chunks: list[list[str]] = []
    for piece in pieces:
        if chunks and len(chunks[-1]) + len(piece) <= max_tokens:
            chunks[-1] += piece
        else:
            chunks.append(list(piece))
    return chunks


def _split_group(group: Sequence[str], max_tokens: int) -> list[list[str]]:
    """Packs the sentences of a group of turns; a piece that opens inside a turn repeats its tag."""
    pieces: list[list[str]] = []
    tag: list[str] = []
    turns: list[list[str]] = []
    for token in group:
        if is_speaker_tag(token) or not turns:
            turns.append([])
        turns[-1].append(token)
    for turn in turns:
        tag = turn[:1] if is_speaker_tag(turn[0]) else []
        for i, sentence in enumerate(_sentences(turn[len(tag) :]) or [[]]):
            addition = sentence if i else tag + sentence
            if pieces and len(pieces[-1]) + len(addition) <= max_tokens:
                pieces[-1] += addition
            else:
                pieces.append(tag + sentence)
    return pieces

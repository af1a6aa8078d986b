"""Word errors: normalised texts, WER, cpWER, and alignments that show the errors.

jiwer aligns texts, meeteval permutes speakers; both count the fewest edits.
"""

import dataclasses
import functools
import re
import string
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from zipvoice_jax.core.errors import require
from zipvoice_jax.text.pauses import without_pauses
from zipvoice_jax.text.tags import BARE_TAG

Normaliser = Literal["whisper", "official"]
NORMALISERS: tuple[str, ...] = get_args(Normaliser)
Language = Literal["en", "zh"]
LANGUAGES: tuple[str, ...] = get_args(Language)

_MOST_SPEAKERS = 20  # of meeteval's cpWER
# A Chinese character, or a word of another script.
_CHARACTER_OR_WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+")
# Noises and speakers, which a recogniser writes in brackets.
_BRACKETED = re.compile(r"\[.*?\]|<.*?>|\(.*?\)")
# Chinese punctuation, as the package zhon lists it, which the official evaluation takes.
_CHINESE_PUNCTUATION = frozenset(
    chr(code)
    for first, last in (
        (0xB7, 0xB7),
        (0x2013, 0x2014),
        (0x2018, 0x2019),
        (0x201B, 0x201F),
        (0x2026, 0x2027),
        (0x3000, 0x3003),
        (0x3008, 0x3011),
        (0x3014, 0x301F),
        (0x3030, 0x3030),
        (0x303E, 0x303F),
        (0xFE4F, 0xFE4F),
        (0xFE51, 0xFE51),
        (0xFE54, 0xFE54),
        (0xFF01, 0xFF0D),
        (0xFF0F, 0xFF0F),
        (0xFF1A, 0xFF20),
        (0xFF3B, 0xFF40),
        (0xFF5B, 0xFF64),
    )
    for code in range(first, last + 1)
)


@dataclasses.dataclass(frozen=True)
class Errors:
    """The fewest edits from the reference to the hypothesis."""

    substitutions: int
    deletions: int
    insertions: int
    words: int  # of the reference

    @property
    def total(self) -> int:
        """Number of all edits."""
        return self.substitutions + self.deletions + self.insertions


@dataclasses.dataclass(frozen=True)
class Edit:
    """A part of an alignment: equal, substitute, delete or insert."""

    kind: str
    reference: str
    hypothesis: str


def normaliser(name: str, language: str) -> Callable[[str], str]:
    """A function from a text to its words, with a space between any two.

    "whisper" is that of the Whisper paper (unifies numbers, contractions and spellings of
    English); "official" that of zipvoice/eval/wer/dialog.py (lower case without punctuation).
    Chinese is counted in characters of simplified script; words of other scripts within it count
    as words with "whisper", and by letters with "official".

    Raises:
        UserError: the name or the language is unknown.
    """
    require(
        name in NORMALISERS and language in LANGUAGES,
        f"the normaliser {name!r} for language {language!r} is unknown; choose "
        f"{' or '.join(NORMALISERS)}, and {' or '.join(LANGUAGES)}.",
    )
    return functools.partial({"whisper": _whisper, "official": _official}[name], language)


@functools.cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def _simplified(text: str) -> str:
    import zhconv

    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # its table stays open
        return zhconv.convert(text, "zh-cn")


def _whisper(language: str, text: str) -> str:
    text = _BRACKETED.sub(" ", text)
    if language == "en":
        return _english()(text)
    from whisper_normalizer.basic import BasicTextNormalizer

    return " ".join(_CHARACTER_OR_WORD.findall(BasicTextNormalizer()(_simplified(text))))


def _official(language: str, text: str) -> str:
    text = _BRACKETED.sub("", text)
    removed = (_CHINESE_PUNCTUATION | set(string.punctuation)) - {"'"}
    text = re.sub(r"\s+", " ", "".join(c for c in text if c not in removed)).strip()
    return text.lower() if language == "en" else " ".join(_simplified(text).replace(" ", ""))


def speaker_names(count: int) -> list[str]:
    """The names of a number of speakers, S1 and on."""
    return [f"S{number}" for number in range(1, count + 1)]


def by_speaker(text: str) -> dict[str, str]:
    """The words of each speaker in a text with tags; words before the first tag belong to S1.

    S1 and S2 are always present; a recogniser may write tags of more speakers.
    """
    before, *parts = BARE_TAG.split(without_pauses(text))
    words_of = {"S1": before, "S2": ""}
    for tag, words in zip(parts[::2], parts[1::2], strict=True):
        words_of[tag[1:-1]] = f"{words_of.get(tag[1:-1], '')} {words}"
    return words_of


def without_tags(text: str) -> str:
    """The text without tags and pauses."""
    return " ".join(BARE_TAG.sub(" ", without_pauses(text)).split())


def count_errors(reference: str, hypothesis: str) -> Errors:
    """Errors between two normalised texts."""
    import jiwer

    if not reference:
        return Errors(0, 0, len(hypothesis.split()), 0)
    output = jiwer.process_words(reference, hypothesis)
    return Errors(output.substitutions, output.deletions, output.insertions, len(reference.split()))


def edits(reference: str, hypothesis: str) -> list[Edit]:
    """The parts in which two normalised texts agree and differ."""
    import jiwer

    if not reference:
        return [Edit("insert", "", hypothesis)] if hypothesis else []
    (chunks,) = jiwer.process_words(reference, hypothesis).alignments
    ours, theirs = reference.split(), hypothesis.split()
    return [
        Edit(
            c.type,
            " ".join(ours[c.ref_start_idx : c.ref_end_idx]),
            " ".join(theirs[c.hyp_start_idx : c.hyp_end_idx]),
        )
        for c in chunks
    ]


def count_cp_errors(
    reference: Mapping[str, str], hypothesis: Mapping[str, str]
) -> tuple[Errors, dict[str, str]]:
    """Errors under the assignment of speakers with the fewest errors (cpWER).

    Args:
        reference: normalised words of each speaker.
        hypothesis: recognised words, normalised, by arbitrary labels.

    Returns:
        The errors, and the label assigned to each reference speaker that has one.

    Raises:
        UserError: there are too many speakers.
    """
    count = max(len(reference), len(hypothesis))
    require(
        count <= _MOST_SPEAKERS,
        f"words of {count} speakers cannot be assigned to each other; cpwer is for "
        f"{_MOST_SPEAKERS} or fewer.",
    )
    from meeteval.wer.wer.cp import cp_word_error_rate

    sides: list[Any] = [dict(reference), dict(hypothesis)]
    options: dict[str, Any] = dict(reference_sort=False, hypothesis_sort=False)
    output: Any = cp_word_error_rate(*sides, **options)
    errors = Errors(output.substitutions, output.deletions, output.insertions, output.length)
    return errors, {r: h for r, h in output.assignment or () if r is not None and h is not None}

"""Chinese text to pinyin tokens: an initial marked with '0', then a final with its tone.

Same tokens as `EmiliaTokenizer.tokenize_ZH` and `tokenize_pinyin` of the official
zipvoice/tokenizer/tokenizer.py. The marks keep pinyin apart from eSpeak symbols.
"""

import functools
import itertools
import re
import warnings
from collections.abc import Callable
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import quote

# Common readings that pypinyin 0.55 has no phrase for.
_OWN = {
    **{f"{word}长": f"{sound} chang2" for word, sound in (
        ("很", "hen3"), ("太", "tai4"), ("多", "duo1"), ("好", "hao3"), ("更", "geng4"),
        ("最", "zui4"), ("较", "jiao4"), ("不", "bu4"), ("么", "me5"), ("够", "gou4"),
    )},
    **{f"还{word}": f"huan2 {sound}" for word, sound in (
        ("钱", "qian2"), ("书", "shu1"), ("给", "gei3"), ("债", "zhai4"), ("清", "qing1"),
    )},
}  # fmt: skip
_OWN_WORD = re.compile(f"({'|'.join(_OWN)})")
_TONES = ("1", "2", "3", "4", "5")


def hanzi_to_tokens(text: str, *, phrases: bool = False) -> list[str]:
    """Pinyin tokens of normalised Chinese text.

    Args:
        text: Chinese words and punctuation; runs of anything else become one token each.
        phrases: look for known phrases in words that pypinyin does not know as a whole, and in
            runs of single characters; the official code reads those character by character,
            银行行长 as yin2 xing2 xing2 zhang3.

    Raises:
        UserError: pypinyin cannot read the text.
    """
    cut, library = _jieba().cut, _pypinyin()
    convert = functools.partial(
        library.lazy_pinyin,
        style=library.Style.TONE3,
        tone_sandhi=True,
        neutral_tone_with_five=True,
    )
    try:
        words = list(cut(text))
        syllables = _read_phrases(words, convert) if phrases else convert(words)
        tokens: list[str] = []
        for syllable in syllables:
            tokens += split_syllable(syllable) if is_syllable(syllable) else [syllable]
    except Exception as error:  # third-party code on arbitrary text
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"no pinyin for {quote(text)} ({reason}); rewrite this passage.") from None
    return tokens


def _read_phrases(words: list[str], convert: Callable[[list[str]], list[str]]) -> list[str]:
    """Syllables of words: those in `_OWN` as listed, the particle 地, all others by pypinyin."""
    syllables: list[str] = []
    before = ""
    for word in _phrases(words):
        if word in _OWN:
            syllables += _OWN[word].split()
        elif word == "地" and len(before) > 1:  # adverbial: 着急地看
            syllables.append("de5")
        else:
            syllables += convert([word])
        before = word
    return syllables


def _phrases(words: list[str]) -> list[str]:
    """Words that pypinyin knows: unknown ones, and runs of single characters, are cut again."""
    from pypinyin.constants import PHRASES_DICT
    from pypinyin.seg.mmseg import seg

    again: list[str] = []
    for is_single, group in itertools.groupby(words, key=lambda word: len(word) == 1):
        for word in ["".join(group)] if is_single else group:
            for part in _OWN_WORD.split(word):
                known = part in PHRASES_DICT or part in _OWN or len(part) < 2
                again += [part] if known else seg.cut(part)
    return [word for word in again if word]


def is_syllable(text: str) -> bool:
    """Whether text looks like pinyin with a tone: letters and a digit from 1 to 5."""
    return text[:-1].isalpha() and text.endswith(_TONES)


def split_syllable(syllable: str) -> list[str]:
    """Splits a syllable such as "chang2" into its initial and final: ["ch0", "ang2"]."""
    convert = _pypinyin().contrib.tone_convert
    initial = convert.to_initials(syllable, strict=False)
    final = convert.to_finals_tone3(syllable, strict=False, neutral_tone_with_five=True)
    return ([initial + "0"] if initial else []) + ([final] if final else [])


@functools.cache
def _pypinyin() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pypinyin
        import pypinyin.contrib.tone_convert
    return pypinyin


@functools.cache
def _jieba() -> Any:
    """A word splitter with jieba's own dictionary, read without its cache file.

    jieba would keep a marshalled copy in the shared temporary folder and trust any file of that
    name there; building the dictionary takes about a second per process instead.
    """
    with warnings.catch_warnings():
        # Old escapes in its patterns, and pkg_resources where setuptools still has it.
        warnings.simplefilter("ignore")
        import jieba
    splitter = jieba.Tokenizer()
    splitter.FREQ, splitter.total = splitter.gen_pfdict(splitter.get_dict_file())
    splitter.initialized = True
    return splitter

"""Chinese text to pinyin tokens: an initial marked with '0', then a final with its tone.

Same tokens as `EmiliaTokenizer.tokenize_ZH` and `tokenize_pinyin` of the official
zipvoice/tokenizer/tokenizer.py. The marks keep pinyin apart from eSpeak symbols.
"""

import functools
import warnings
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import quote

_TONES = ("1", "2", "3", "4", "5")


def hanzi_to_tokens(text: str) -> list[str]:
    """Pinyin tokens of normalised Chinese text.

    Args:
        text: Chinese words and punctuation; runs of anything else become one token each.

    Raises:
        UserError: text that pypinyin cannot take.
    """
    cut, library = _jieba().cut, _pypinyin()
    try:
        syllables = library.lazy_pinyin(
            list(cut(text)),
            style=library.Style.TONE3,
            tone_sandhi=True,
            neutral_tone_with_five=True,
        )
        tokens: list[str] = []
        for syllable in syllables:
            tokens += split_syllable(syllable) if is_syllable(syllable) else [syllable]
    except Exception as error:  # third-party code on arbitrary text
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"no pinyin for {quote(text)} ({reason}); rewrite this passage.") from None
    return tokens


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

    jieba would keep a marshalled copy in the shared temporary folder and trust whatever lies
    there under that name; building the dictionary takes about a second per process instead.
    """
    with warnings.catch_warnings():
        # Old escapes in its patterns, and pkg_resources where setuptools still has it.
        warnings.simplefilter("ignore")
        import jieba
    splitter = jieba.Tokenizer()
    splitter.FREQ, splitter.total = splitter.gen_pfdict(splitter.get_dict_file())
    splitter.initialized = True
    return splitter

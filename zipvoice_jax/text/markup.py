"""Removes what nobody speaks: HTML, Markdown, emoji, invisible characters, piled-up punctuation.

The first and the last step of `zipvoice_jax.text.repair`; nothing here depends on the language.
"""

# ruff: noqa: RUF001 - punctuation of other scripts

import functools
import html
import re
import unicodedata
from typing import Any

_SENTENCE_END = ".!?…。！？；;:：,，、"
_HTML_TAGS = frozenset(
    "a abbr article aside b big blockquote body br caption center cite code dd del details div dl "
    "dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 head header hr html i img input ins kbd "
    "label li link main mark meta nav ol option p pre q s samp section select small span strike "
    "strong sub summary sup table tbody td tfoot th thead time title tr tt u ul var video".split()
)
_HTML_ENDS = frozenset("h1 h2 h3 h4 h5 h6 li p div tr title dt dd blockquote caption".split())
_HTML_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)(?:\s[^<>]*)?/?>")
_HTML_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_PARAGRAPH = "\u2029"

_EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u2300-\u23ff\u2500-\u25ff\u3030\u303d\u3297"
    "\u3299\ufe00-\ufe0f\u20d0-\u20ff\u200d\U000e0020-\U000e007f©®™℠]+"
)
# Eyes that may be numbers or letters need a nose; a heart is no "less than three days".
_SMILEY = re.compile(
    r"(?<!\S)(?:[:;=][-'^o]?[)(DPpO/|\\]|[8xX][-'^][)(DPp]|[xX]D|<3+(?!\s*(?:%|[a-z]*[mg]\b|"
    r"(?:second|minute|hour|day|week|month|year)s?\b))|[:;]['-]\(|\^_*\^|T_T)(?!\w)"
)
_ARROW = re.compile(r"[^\S\n]*(?:-+>|=+>|<-+|[\u2190-\u21ff])[^\S\n]*")
_BULLET = re.compile(r"^[^\S\n]*(?:[-*+•‣◦·●○▪–—][^\S\n]+|•)(?:\[[ xX]\][^\S\n]+)?")
_NUMBERED = re.compile(r"^[^\S\n]*(\d{1,2})[.)][^\S\n]+(?=\S)")
_HEADING = re.compile(r"^[^\S\n]*#{1,6}[^\S\n]+(.*?)[^\S\n]*#*$")
_QUOTE = re.compile(r"^[^\S\n]*(?:>[^\S\n]?)+")
_RULE = re.compile(
    r"^[^\S\n]*(?:(?:[-*_=~][^\S\n]*){3,}|`{3,}.*|~{3,}.*|\|?[\s:|-]*-{3,}[\s:|-]*)$"
)
_SPACES = re.compile(r"[^\S\n]+")


def is_html(name: str) -> bool:
    """Whether a name in <> is an HTML tag."""
    return name.lower() in _HTML_TAGS


def characters(text: str) -> str:
    """One form of each character: no invisible ones, plain letters and digits, composed accents."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        return "".join(c for c in text if c in "\n\t" or c >= " ").replace("\x7f", "")
    return "".join(map(_character, text))


@functools.lru_cache(maxsize=8192)
def _character(char: str) -> str:
    if char in "\n\u200d" or " " < char < "\x7f":
        return char
    category = unicodedata.category(char)
    if category in ("Cf", "Cc", "Co", "Cs", "Cn") and char != "\t":
        return "\u2029" if char == "\u0085" else ""
    if category in ("Zs", "Cc"):
        return " "
    if category in ("Zl", "Zp"):
        return "\n"
    code = ord(char)
    name = unicodedata.name(char, "")
    if name.startswith("VULGAR FRACTION") and char != "⅟":
        return " " + unicodedata.normalize("NFKC", char).replace("\u2044", "/") + " "
    if name.startswith("LATIN") and 0x1E00 <= code <= 0x1EFF:
        # eSpeak knows letters with one accent; those with two it reads as code numbers.
        return "".join(c for c in unicodedata.normalize("NFD", char) if c.isascii()) or char
    plain = (
        0x1D400 <= code <= 0x1D7FF  # mathematical letters, as in fancy names
        or 0xFF10 <= code <= 0xFF19  # full-width digits and letters
        or 0xFF21 <= code <= 0xFF3A
        or 0xFF41 <= code <= 0xFF5A
        or 0x2080 <= code <= 0x2089  # subscripts
        or 0xFB00 <= code <= 0xFB06  # ligatures
        or 0x2460 <= code <= 0x2473  # circled numbers
        or char in "＃＄％＆＊＋－／＜＝＞＠～｜︰﹪﹠﹢﹣№"
    )
    return unicodedata.normalize("NFKC", char) if plain else char


def plain(text: str) -> str:
    """A text without HTML and Markdown markup and without emoji.

    Headings, list items and table cells end like sentences, so that there is a pause.
    """
    text = _without_html(text)
    lines: list[str] = []
    for paragraph in text.split(_PARAGRAPH):
        kept = [line for line in map(_line, paragraph.split("\n")) if line]
        if kept and _PARAGRAPH in text:
            kept[-1] = _ended(kept[-1])
        lines += kept
    text = _SMILEY.sub(" ", "\n".join(lines))
    text = _EMOJI.sub(" ", _ARROW.sub(", ", text))
    return text


def _without_html(text: str) -> str:
    for _ in range(2):  # unescaped text may contain markup itself
        if "<" in text:
            text = _HTML_TAG.sub(_html_tag, _HTML_HIDDEN.sub(" ", text))
        if "&" not in text:
            break
        text = _ENTITY.sub(lambda m: characters(html.unescape(m[0])), text)
    return text


def _html_tag(match: re.Match[str]) -> str:
    closing, name = match[1], match[2].lower()
    if name not in _HTML_TAGS:
        return match[0]
    if name in ("br", "hr", "ul", "ol", "table"):
        return "\n"
    if name in ("td", "th"):
        return ", " if closing else ""
    return _PARAGRAPH if closing and name in _HTML_ENDS else ""


def _line(line: str) -> str:
    """A line of Markdown as plain text; "" for a line that is only markup."""
    line = _QUOTE.sub("", line)
    if _RULE.match(line):
        return ""
    if heading := _HEADING.match(line):
        return _ended(_inline(heading[1]))
    if _BULLET.match(line):
        return _ended(_inline(_BULLET.sub("", line)))
    if _NUMBERED.match(line):
        return _ended(_inline(_NUMBERED.sub(r"\1. ", line)))
    if line.strip().startswith("|") and line.count("|") > 1:
        return _ended(", ".join(cell.strip() for cell in line.strip().strip("|").split("|")))
    return _inline(line).strip()


def _ended(line: str) -> str:
    line = line.strip()
    if not line or line[-1] in _SENTENCE_END or not any(map(str.isalnum, line)):
        return line
    return line + ("。" if "\u4e00" <= line[-1] <= "\u9fff" else ".")


@functools.cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt

    rules = ["escape", "backticks", "strikethrough", "emphasis", "link", "image", "autolink"]
    return MarkdownIt("zero").enable(rules)


def _inline(line: str) -> str:
    """A line without the markup of emphasis, code, links and images."""
    if not any(c in line for c in "*_`~[]\\<"):
        return line
    line = re.sub(r"(?<=\d)\s?\*\s?(?=\d)", "×", line)  # which is no emphasis
    parts = [
        token.content
        for block in _markdown().parseInline(line)
        for token in block.children or ()
        if token.content
    ]
    text = "".join(parts)
    # Emphasis beside Chinese punctuation, which CommonMark does not recognise.
    return re.sub(r"\*{2,}|(?<!\w)_{1,3}(?=\w)|(?<=\w)_{1,3}(?!\w)|~~|`+", "", text)


def tidy(text: str) -> str:
    """Collapses repeated punctuation and blanks, and removes stray symbols."""
    text = re.sub(r"[!?！？‽⁉⁈‼]{2,}|[‽⁉⁈‼]", _loudest, text)
    text = re.sub(r"(?:\.[^\S\n]?){2,}\.|\.{2,}|…{2,}|。{2,}|⋯+|(?:・|·){2,}", "…", text)
    text = re.sub(r"([,;:，、；：])(?:\s*[,;:，、；：])+", r"\1", text)
    text = re.sub(r"(?<!\d)[^\S\n]*(?:[—―⸺]+|-{2,}|(?<=\s)[–-](?=\s))[^\S\n]*(?!\d)", ", ", text)
    text = re.sub(r"[《》〈〉「」『』«»„‟“”〝〞]", '"', text).replace("（", "(").replace("）", ")")
    text = text.replace("‚", ",").replace("‘", "'").replace("’", "'").replace("`", "'")
    text = re.sub(r"(?<=[A-Za-z])_+(?=[A-Za-z0-9])|[*_|\\^~•·†‡§¶]+", " ", text)
    text = re.sub(r'\(\s*[,;.]?\s*\)|\[\s*\]|""', " ", text)
    text = _SPACES.sub(" ", text)
    text = re.sub(r"\( +", "(", re.sub(r" +\)", ")", text))
    text = re.sub(r" +([,.!?;:%](?=\s|$|[\u4e00-\u9fff])|[，。！？；：、…)])", r"\1", text)
    text = re.sub(r"([，。！？；：、]) +", r"\1", text)
    text = re.sub(r"([,;:，、；：])(?:\s*[,;:，、；：])+", r"\1", text)
    text = re.sub(r"([!?…。！？])\s*[,，](?=\s|$)", r"\1", text)
    text = re.sub(r"[,，]\s*([.!?…。！？])", r"\1", text)
    lines = (re.sub(r"^[\s,;:，、；：]+", "", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _loudest(match: re.Match[str]) -> str:
    wide = bool(set(match[0]) & set("！？"))
    if set(match[0]) & set("?？‽⁉⁈"):
        return "？" if wide else "?"
    return "！" if wide else "!"

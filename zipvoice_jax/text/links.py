"""Links, e-mail addresses, @handles and hashtags in words."""

# ruff: noqa: RUF001 - Chinese punctuation

import re
from collections.abc import Callable

_TLD = (
    "com org net edu gov io ai co cn uk de fr jp info dev app tv xyz eu ru ca au kr tw hk"
).split()
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+"
# No part of a link; the last ones are private characters that stand for tags (repair.py).
_OUTSIDE = r"\s<>\"'，。！？；：、（）\u4e00-\u9fff\U000f0000-\U000ffffd"
_URL = re.compile(
    rf"(?:(?:https?|ftp)://|(?<![A-Za-z0-9])www\.)[^{_OUTSIDE}《》]+"
    rf"|(?<![\w@.-]){_HOST}(?:{'|'.join(_TLD)})(?:/[^{_OUTSIDE}]*)?(?![\w@-])",
    re.ASCII,
)
_EMAIL = re.compile(
    rf"(?<![\w.+-])(?:mailto:)?([A-Za-z0-9][\w.+-]*)@({_HOST}[A-Za-z]{{2,}})", re.ASCII
)
_HANDLE = re.compile(r"(?<![\w@.])@([A-Za-z0-9_](?:[\w.]*\w)?)", re.ASCII)
_HASHTAG = re.compile(r"(?<![\w&#])#([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_TOPIC = re.compile(r"#([^#\s]*[\u4e00-\u9fff][^#\s，。！？；：、]*)#?")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)|_+")
_WORDS = {
    "en": {".": " dot ", "@": " at ", "-": " dash ", "_": " underscore ", "+": " plus ",
           "/": " slash ", "#": "hashtag ", "to": "at "},
    "zh": {".": " 点 ", "@": " 艾特 ", "-": " 杠 ", "_": " 下划线 ", "+": " 加 ",
           "/": " 斜杠 ", "#": "", "to": "艾特 "},
}  # fmt: skip


def spare(text: str) -> str:
    """Escapes the underscores, asterisks and tildes of bare links, so that Markdown keeps them."""
    return _URL.sub(lambda m: re.sub(r"([*_~])", r"\\\1", m[0]), text) if "\\" not in text else text


def rules(language: str) -> tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]:
    """The rules of a language ("en" or "zh"), in the form of `zipvoice_jax.text.rules`."""
    words = _WORDS[language]

    def spell(text: str) -> str:
        text = re.sub(r"[.@_+/-]", lambda m: words[m[0]], text)
        return re.sub(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", text)

    def url(match: re.Match[str]) -> str:
        link = match[0]
        end = re.search(r"[.,;:!?)\]…]*$", link)
        tail = end[0] if end else ""
        if tail.startswith(")") and "(" in link:
            tail = tail[1:]
        link = link[: len(link) - len(tail)]
        bare = re.sub(r"^(?:\w+://)?(?:www\.)?", "", link)
        host, _, path = re.split(r"[?#]", bare)[0].partition("/")
        host = re.sub(r":\d+$", "", host.split("@")[-1])
        parts = [part for part in path.split("/") if part]
        if parts and re.search(r"%|.{30}|\d{6}", "/".join(parts)):
            parts = []  # nobody reads such paths aloud
        if parts:
            parts[-1] = re.sub(r"\.(?:html?|php|aspx?|jsp)$", "", parts[-1])
        spoken = words["/"].join(
            [spell(host), *(re.sub(r"[-_]", " ", spell_path(p)) for p in parts)]
        )
        return f" {spoken}{tail} "

    def spell_path(part: str) -> str:
        return part.replace(".", words["."]).replace("+", " ").replace("@", words["@"])

    def email(match: re.Match[str]) -> str:
        return f" {spell(match[1])}{words['@']}{spell(match[2])} "

    def handle(match: re.Match[str]) -> str:
        return f" {words['to']}{_CAMEL.sub(' ', match[1]).replace('.', words['.'])} "

    def hashtag(match: re.Match[str]) -> str:
        return f" {words['#']} {_CAMEL.sub(' ', match[1]).strip()} "

    return (
        (_EMAIL, email),
        (_URL, url),
        (_HANDLE, handle),
        (_TOPIC, lambda m: f" {m[1]} "),
        (_HASHTAG, hashtag),
    )

"""English sentences for the corpus of make_speech.py: WordNet's examples, and written templates.

All are plain: letters, apostrophes, commas, one full stop or question mark. One text in twenty, by
its hash, is held out of training.
"""

import collections
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import cache_folder
from zipvoice_jax.judge.packages import sha256_of_files

WORDNET = cache_folder("wordnet")
WORDNET_LICENCE = "WordNet 3.0 licence, Princeton University (free; keep the notice)"
_PACKAGE = "wordnet-base"
_PLACES = (WORDNET, Path("/usr/share/wordnet"))
_FILES = {
    "data.adj": "c89120dfc1f046dd", "data.adv": "444a63bf3955080a",
    "data.noun": "fea17d2f96566113", "data.verb": "adcf43e35b581e80",
}  # fmt: skip
TEMPLATES = Path(__file__).with_name("templates.txt")
HELD_OUT = 20  # one text in so many
WORDS = (3, 14)  # of a sentence
_COMMON = 4  # how often each word of an example occurs in all examples
# An example without a capital is a whole sentence mostly where it begins so.
_BEGINNINGS = frozenset(
    "he she it they we you i this that these those there his her my your our their what who where "
    "when why how don't do did is are was can could will would please".split()
)

_PLAIN = re.compile(r"[A-Z][a-z']*(,? [a-z']+| I('[a-z]+)?| O'Clock)*[.?]")
# Whole words, and beginnings of words: nobody should hear a demo say these.
_UNFIT_WORDS = frozenset(
    "gay gays ass hell damn damned god christ jesus whore whores slut sexy sex sexual nude naked "
    "breast breasts lesbian slave slaves jew jews jewish negro negroes nigger black blacks indian "
    "indians gypsy muslim muslims islam arab arabs bomb bombs gun guns drug drugs cocaine heroin "
    "opium war wars die died dies dying dead death deaths corpse corpses kill kills killed killing "
    "killer drunk drunken drunks vomit urine urinate feces bowel bowels womb penis vagina semen "
    "cancer aids hiv plague wound wounds wounded blood bloody bleeding bled fat fats ugly idiot "
    "stupid dumb moron retarded lunatic insane crazy hate hated hates weapon weapons shot corps "
    "soldiers soldier troops army enemy prisoner prisoners prison jail thief thieves robber rob "
    "robbed buttocks bra hanging hanged lynch lynched stab stabbed slit beaten whip whipped cult "
    "abort aborted abortion gas hostage hostages queer dyke fag faggot dick cock balls screw "
    "screwed bitch bastard crap shit fuck piss pissed fart farted pus scum pimp lust lusty virgin "
    "virginity orgasm erotic seduce seduced adultery affair mistress harem bomber missile missiles "
    "nuclear execution executed guillotine gallows noose cripple crippled deformed leper spastic "
    "pagan heathen infidel savage savages primitive coolie darky squaw spinster hag shrew eunuch "
    "beat beats beating husband's virgins castrate castrated circumcise mutilate bodies wench "
    "wenches cannibal cannibals witch".split()
)
_UNFIT = re.compile(
    r"\b(rap(e|ed|ist)\b|murder|suicid|tortur|terroris|nazi|hitler|massacr|slaughter|genocid|"
    r"prostitut|molest|masturbat|homosex|racis|incest|assassin|behead|excrement|menstru|strangl|"
    r"poison|corrupt|crucif|rebel|invad|invasion|bombard|guerrilla|militar|battle|fascis|communis|"
    r"supremac|ethnic|aborigin|immigra|oppress|persecut|sadis|masochis|kidnap|abus|assault|alcohol)"
)  # fmt: skip
_WORN = frozenset(
    "mr mrs dr st co jr maj gen drs rev lt hon sgt capt esq ltd col ft etc btw".split()
)


def split_of(text: str) -> str:
    """The split that a text belongs to, by nothing but its words.

    One in `HELD_OUT` is for dev or test. Texts of up to three words ("Yes, please.") are
    everybody's and count as train.
    """
    words = re.findall(r"[a-z']+", text.lower())
    if len(words) <= 3:
        return "train"
    number = int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:4], "big")
    if number % HELD_OUT:
        return "train"
    return "dev" if number // HELD_OUT % 4 == 0 else "test"


def tidy(example: str) -> str | None:
    """An example as a sentence with a capital and a full stop, or None where it is not plain."""
    text = re.sub(r"\s+", " ", example.strip().strip("\"'`")).replace(" ,", ",")
    text = text.rstrip(" .,!;:")
    if not text:
        return None
    text = text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")
    words = re.findall(r"[a-z']+", text.lower())
    fits = (
        _PLAIN.fullmatch(text)
        and WORDS[0] <= len(words) <= WORDS[1]
        and max(map(len, words)) <= 13
        and len(text) <= 75
        and not _UNFIT_WORDS.intersection(words)
        and not _WORN.intersection(words)
        and not _UNFIT.search(text.lower())
        and not any(word.startswith("'") or word.endswith("'") for word in words)
    )
    return text if fits else None


def examples(folder: Path) -> list[str]:
    """WordNet's example sentences that are plain, each once, in alphabetical order.

    Args:
        folder: with data.noun and the others, whose glosses hold examples in quotes.
    """
    quoted, counts = set(), collections.Counter[str]()
    for name in _FILES:
        for line in (folder / name).read_text(encoding="latin-1").splitlines():
            _, _, gloss = line.partition(" | ")
            for example in re.findall(r'"([^"]+)"', gloss):
                quoted.add(example)
                counts.update(re.findall(r"[a-z']+", example.lower()))
    whole = (e for e in sorted(quoted) if e[0].isupper() or e.split()[0] in _BEGINNINGS)
    found = filter(None, map(tidy, whole))
    common = [
        text
        for text in found
        if min(counts[word] for word in re.findall(r"[a-z']+", text.lower())) >= _COMMON
    ]
    # Of those that differ by their ending only, one.
    return sorted({re.sub(r"\W", "", text.lower()): text for text in sorted(common)}.values())


def fetch_wordnet() -> Path:
    """The folder with WordNet's files: Debian's package, installed, kept or downloaded by apt.

    Raises:
        UserError: it is nowhere and cannot be had, or a file is not the one that is pinned.
    """
    for folder in _PLACES:
        if all((folder / name).is_file() for name in _FILES):
            break
    else:
        folder = WORDNET
        _download(folder)
    for name, expected in _FILES.items():
        if sha256_of_files(folder / name) != expected:
            raise UserError(
                f"{folder / name} is not the file that is pinned (sha256 {expected}...); take it "
                f"from Debian's {_PACKAGE} 1:3.0-37, or remove it and run this again."
            )
    return folder


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for command in (["apt-get", "download", _PACKAGE], ["dpkg", "-x", "*.deb", "files"]):
            words = [
                str(next(Path(scratch).glob(word), word)) if "*" in word else word
                for word in command
            ]
            try:
                done = subprocess.run(
                    words, cwd=scratch, capture_output=True, text=True, check=False
                )
                failed = done.returncode != 0
            except FileNotFoundError:
                failed = True
            if failed:
                raise UserError(
                    f"`{' '.join(command[:2])}` cannot bring {_PACKAGE}; install that package of "
                    f"Debian (1:3.0-37), or place {', '.join(_FILES)} of it into {folder}."
                )
        for name in _FILES:
            (Path(scratch) / "files" / "usr" / "share" / "wordnet" / name).replace(folder / name)


def expand(template: str, lists: Mapping[str, list[str]], rng: np.random.Generator) -> str:
    """Fills a template: {a|b|} is one of its parts, <name> an entry of a list, itself a template.

    Raises:
        UserError: a list is unknown.
    """
    choice = re.compile(r"\{([^{}<>]*(?:<[^<>]*>[^{}<>]*)*)\}")
    while found := choice.search(template):
        parts = found[1].split("|")
        template = (
            template[: found.start()] + parts[rng.integers(len(parts))] + template[found.end() :]
        )
    while found := re.search(r"<([a-z_]+)>", template):
        if found[1] not in lists:
            raise UserError(f"{TEMPLATES.name} has no list {found[1]!r}.")
        entries = lists[found[1]]
        entry = entries[rng.integers(len(entries))]
        template = template[: found.start()] + entry + template[found.end() :]
    return sentence_case(template)


def sentence_case(text: str) -> str:
    """Single blanks, none before punctuation, "an" before vowels, capitals of sentences."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([,.?])", r"\1", text)
    text = re.sub(r"\b([Aa]) (?=[aeio]|u[^ns])", r"\1n ", text)
    return re.sub(r"(^|[.?] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def read_templates(path: Path = TEMPLATES) -> dict[str, list[str]]:
    """Lists of templates: `# name` begins a list, other lines are its entries."""
    lists: dict[str, list[str]] = {}
    entries: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            entries = lists.setdefault(line.lstrip("# ").strip(), [])
        elif line.strip():
            entries.append(line.strip())
    return lists


def drawn(make: Callable[[], str | None], split: str, tries: int = 400) -> str | None:
    """The first text that belongs to a split, or None after so many tries."""
    for _ in range(tries):
        text = make()
        if text is not None and split_of(text) == split:
            return text
    return None

"""A corpus as items, in units that become a shard each, and the settings of a source.

Reading a source opens manifests and the headers of tar files, but no audio.
"""

import dataclasses
import functools
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Reject, Rejected
from zipvoice_jax.data.textgrid import TextGrids, timing_of_textgrid
from zipvoice_jax.data.timing import Timing

SplitRule = Literal["official", "hash"]
SPLIT_RULES: tuple[str, ...] = get_args(SplitRule)
AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg", ".opus")


@dataclasses.dataclass(frozen=True)
class CorpusItem:
    """An utterance that is still in its corpus.

    Attributes:
        id: its name.
        text: its transcript, as in the corpus.
        path: file with the audio.
        language: language code such as "en"; "" if unknown.
        recording: id of the recording, by which the official split sorts.
        offset: first byte of the audio within the file (for a tar member).
        size: bytes of the audio; None: the whole file.
        start: start of the utterance within the audio, in seconds.
        end: its end, in seconds; None: the end of the audio.
        channels: numbers of the channels to take, from 0; () takes all.
        split: the split, if the corpus itself defines it; else "".
        timing: when its text is spoken, relative to `start`; None if unknown.
    """

    id: str
    text: str
    path: str
    language: str = ""
    recording: str = ""
    offset: int = 0
    size: int | None = None
    start: float = 0.0
    end: float | None = None
    channels: tuple[int, ...] = ()
    split: str = ""
    timing: Timing | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the utterance is all of an audio file, so that its bytes can be kept."""
        return self.start == 0 and self.end is None and not self.channels


Unit = list[CorpusItem | Reject]  # what becomes one shard in each split


@dataclasses.dataclass(frozen=True)
class Source:
    """A corpus to read.

    Attributes:
        format: layout of the corpus, one of `formats()`.
        path: its directory or manifest.
        language: language of items that do not name theirs.
        unit_size: items in a unit, if the corpus has no parts of its own.
        alignments: directory of TextGrids; not needed for those beside the recordings.

    Raises:
        UserError: an unknown format or an impossible size.
    """

    format: str
    path: Path
    language: str = ""
    unit_size: int = 1000
    alignments: Path | None = None

    def __post_init__(self) -> None:
        if self.format not in formats():
            raise UserError(f"the format is {self.format!r}; choose one of {', '.join(formats())}.")
        if self.unit_size < 1:
            raise UserError(f"unit_size is {self.unit_size}; give 1 or more.")

    def inputs(self) -> list[Path]:
        """The manifests and tar files that determine the units, to detect a changed corpus.

        Raises:
            UserError: the path is not of this format.
        """
        return formats()[self.format].inputs(self)

    @property
    def has_official_split(self) -> bool:
        """Whether the layout has an official split."""
        return formats()[self.format].official_dev is not None

    def official_dev(self) -> frozenset[tuple[str, str]]:
        """As `Format.official_dev`.

        Raises:
            UserError: there is no official split.
        """
        rule = formats()[self.format].official_dev
        if rule is None:
            raise UserError(
                f"there is no official split of the format {self.format}; use --split hash."
            )
        return rule(self)

    def units(self) -> Iterator[Unit]:
        """Reads the corpus, unit by unit, in a fixed order.

        Raises:
            UserError: the corpus or a manifest cannot be read at all; a fault of a single item is
                returned as a `Reject`.
        """
        grids = TextGrids(self.alignments)
        for unit in formats()[self.format].units(self):
            yield [_with_timing(one, grids) for one in unit]


def _with_timing(item: "CorpusItem | Reject", grids: TextGrids) -> "CorpusItem | Reject":
    """Adds the timing of an item's TextGrid, if there is one and the item has no timing."""
    if isinstance(item, Reject) or item.timing is not None:
        return item
    # A member of a tar has no file of its own; its id serves as the name.
    path = Path(item.path) if item.size is None else Path(item.path).with_name(f"{item.id}.wav")
    try:
        grid = grids.find(path)
        timing = None if grid is None else timing_of_textgrid(grid, item.start, item.end)
    except Rejected as rejected:
        return Reject(rejected.reason, item.id, str(rejected))
    except ValueError:  # an id or path that cannot be a file's name
        return item
    return dataclasses.replace(item, timing=timing)


@dataclasses.dataclass(frozen=True)
class Format:
    """A layout of corpora.

    Attributes:
        inputs: lists the manifests and tar files of a source.
        units: reads a source, unit by unit.
        official_dev: (language, recording) of the items that the official split has in dev, besides
            those whose folder says so; None if there is no official split.
    """

    inputs: Callable[[Source], list[Path]]
    units: Callable[[Source], Iterator[Unit]]
    official_dev: Callable[[Source], frozenset[tuple[str, str]]] | None = None


@functools.cache
def formats() -> dict[str, Format]:
    """The layouts by name: what the `FORMATS` of every module data/source_*.py hold."""
    names = sorted(found.name for found in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [
        importlib.import_module(f"{__package__}.{name}")
        for name in names
        if name.startswith("source_")
    ]
    return {k: v for module in modules for k, v in getattr(module, "FORMATS", {}).items()}


def hashed_split(item_id: str, dev_share: float) -> str:
    """The split of an id, by its hash: "dev" for a fixed share of all ids, else "train"."""
    digest = hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "dev" if int.from_bytes(digest, "big") < dev_share * 2**64 else "train"


def sliced(items: Iterator[CorpusItem | Reject], size: int) -> Iterator[Unit]:
    """Cuts a stream of items into units."""
    unit: Unit = []
    for item in items:
        unit.append(item)
        if len(unit) == size:
            yield unit
            unit = []
    if unit:
        yield unit

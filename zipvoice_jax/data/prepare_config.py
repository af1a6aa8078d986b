"""The settings of a preparation, and the tokenizer of its texts."""

import dataclasses
import functools
import re
from pathlib import Path

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import check_choice, check_number
from zipvoice_jax.data.checks import Limits
from zipvoice_jax.data.sources import SPLIT_RULES, Source, SplitRule
from zipvoice_jax.text.tags import BARE_TAG
from zipvoice_jax.text.tokenizer import Tokenizer, make_tokenizer
from zipvoice_jax.text.tokens import TokenTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """Settings of a tokenizer, from which every process makes its own.

    Attributes:
        name: official name of the tokenizer.
        table: the vocabulary; None stores tokens without checking them against a table.
        lang: eSpeak language, for "espeak".
        token_type: type of the "libritts" tokenizer.
        bpe_model: SentencePiece model, for the libritts type "bpe".
        text_repair: read texts as people do; False: as the official code does.
    """

    name: str = "dialog"
    table: TokenTable | None = None
    lang: str = "en-us"
    token_type: str | None = None
    bpe_model: Path | None = None
    text_repair: bool = False

    def must_be_dialogue(self, text: str) -> bool:
        """Whether a text must consist of turns.

        With "dialog" every text must, and with a tokenizer that would speak other tags a text
        that has a speaker tag.
        """
        if self.name in ("dialog", "emilia"):
            return self.name == "dialog"
        return BARE_TAG.search(text) is not None

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            UserError: unknown name, language or type, or a table that does not fit.
        """
        return make_tokenizer(
            self.name,
            self.table,
            lang=self.lang,
            token_type=self.token_type,
            bpe_model=self.bpe_model,
            repair=self.text_repair,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Everything that determines a dataset's bytes; the number of workers does not.

    Attributes:
        name: name of the dataset: lower-case letters, digits and underscores.
        source: the corpus.
        dev_source: another corpus, all of which is the split "dev"; `split` is then ignored.
        tokenizer: tokenizer of the stored tokens.
        limits: bounds on durations and speaking rate.
        split: "official", or "hash" for a fixed share of all ids.
        dev_share: share of "dev" for "hash".
        examples: rejected items named per reason in the report.

    Raises:
        UserError: an impossible value.
    """

    name: str
    source: Source
    dev_source: Source | None = None
    tokenizer: TokenizerSettings = dataclasses.field(default_factory=TokenizerSettings)
    limits: Limits = dataclasses.field(default_factory=Limits)
    split: SplitRule = "hash"
    dev_share: float = 0.01
    examples: int = 5

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(
                f"the dataset's name is {self.name!r}; use small letters, digits and _, a letter "
                "first."
            )
        check_choice("the split rule", self.split, SPLIT_RULES)
        check_number("dev_share", self.dev_share, 0.0, 0.999999)
        check_number("examples", self.examples, 0, 10**6, whole=True)

"""From stored utterances to features and token ids, and from these to padded batches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.config import DataConfig
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.data.records import RecordSource, Utterance, decode_audio
from zipvoice_jax.text.tokenizer import Tokenizer, make_tokenizer
from zipvoice_jax.text.tokens import TokenTable

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Example:
    """One item of a batch.

    Attributes:
        id: id of its utterance.
        features: unscaled log-mel features.
        tokens: token ids.
        token_starts: frame at which each token begins; None if not requested.
    """

    id: str
    features: Float[np.ndarray, "frames bins"]
    tokens: Int[np.ndarray, " tokens"]
    token_starts: Int[np.ndarray, " tokens"] | None = None


@dataclasses.dataclass(frozen=True)
class ExampleReader:
    """Reads examples; self-contained and picklable for worker processes.

    Attributes:
        sources: records of each source, by number.
        names: names of the sources, for messages.
        table: vocabulary.
        features: settings of the features.
        tokenizer: tokenizer for records without stored tokens.
        alignments: whether examples need `token_starts`.
        cache: whether to keep every example that was read.
    """

    sources: tuple[RecordSource, ...]
    names: tuple[str, ...]
    table: TokenTable
    features: FeatureConfig
    tokenizer: Tokenizer | None
    alignments: bool = False
    cache: bool = False
    _kept: dict[tuple[int, int, int], Example] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, Any]:
        """The state without the cache, which is not sent to other processes."""
        return {**self.__dict__, "_kept": {}}

    @classmethod
    def of(
        cls,
        config: DataConfig,
        sources: Sequence[RecordSource],
        table: TokenTable,
        features: FeatureConfig,
        *,
        alignments: bool = False,
    ) -> "ExampleReader":
        """A reader of a config's sources.

        Raises:
            UserError: the tokenizer does not fit the table.
        """
        tokenizer = None
        if config.tokenizer is not None:
            tokenizer = make_tokenizer(config.tokenizer, table, lang=config.lang)
        names = tuple(source.name for source in config.sources)
        return cls(tuple(sources), names, table, features, tokenizer, alignments, config.cache)

    def read(self, source: int, record: int, channels: int) -> Example:
        """Reads one record and computes its features, or takes both from the cache.

        Args:
            source: number of the source.
            record: number of the record in it.
            channels: 1 mixes two channels down before the features.

        Raises:
            UserError: the record cannot be used; the message names it.
        """
        if not self.cache:
            return self._read(source, record, channels)
        key = source, record, channels
        if key not in self._kept:
            self._kept[key] = self._read(*key)
        return self._kept[key]

    def _read(self, source: int, record: int, channels: int) -> Example:
        utterance, tokens, wave = self.decode(source, record)
        try:
            mel = log_mel_host(wave, self.features, channels=channels)
        except UserError as error:
            raise UserError(f"{self._name(source, utterance)}: {error}") from None
        starts = None
        if self.alignments:
            if len(utterance.token_starts) != len(tokens):
                raise UserError(
                    f"{self._name(source, utterance)} has no alignment where its index says so; "
                    "prepare the dataset anew."
                )
            starts = start_frames(utterance.token_starts, len(mel), self.features)
        return Example(utterance.id, mel, tokens, starts)

    def decode(
        self, source: int, record: int
    ) -> tuple[Utterance, Int[np.ndarray, " tokens"], Float[np.ndarray, "channels samples"]]:
        """A record, its token ids, and its audio at the features' sampling rate.

        Raises:
            UserError: the record cannot be used; the message names it.
        """
        utterance = self.sources[source][record]
        name = self._name(source, utterance)
        tokens = self.token_ids(utterance, name)
        return utterance, tokens, decode_audio(utterance, self.features.sampling_rate, name=name)

    def _name(self, source: int, utterance: Utterance) -> str:
        return f"{utterance.id} in {self.names[source]}"

    def token_ids(self, utterance: Utterance, name: str) -> Int[np.ndarray, " tokens"]:
        """Ids of the stored tokens, or else of the tokenizer's tokens.

        Raises:
            UserError: there are no tokens, or the table lacks some.
        """
        tokens = utterance.tokens
        if not tokens and self.tokenizer is not None:
            try:
                tokens = self.tokenizer.tokens(utterance.text)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
        if not tokens:
            raise UserError(f"{name} has no tokens; prepare it with a tokenizer.")
        ids = [self.table.token2id.get(token, -1) for token in tokens]
        if -1 in ids:
            unknown = tokens[ids.index(-1)]
            raise UserError(
                f"{name} has the token {unknown!r}, which the token table lacks; prepare it with "
                "this table."
            )
        return np.array(ids, np.int32)


def start_frames(
    token_starts: Sequence[float], frames: int, features: FeatureConfig
) -> Int[np.ndarray, " tokens"]:
    """Frames at which tokens begin.

    Args:
        token_starts: starts in seconds from the beginning of the audio.
        frames: number of frames of the utterance.
        features: settings of the features.

    Returns:
        seconds * sampling_rate / hop_length, rounded and clipped to [0, `frames`]; int32.
    """
    per_second = features.sampling_rate / features.hop_length
    rounded = np.rint(np.asarray(token_starts, np.float64) * per_second)
    return np.clip(rounded, 0, frames).astype(np.int32)


def misfit(example: Example, bucket: Bucket) -> str | None:
    """Why an example does not fit into its bucket, or None if it does."""
    frames, tokens = len(example.features), len(example.tokens)
    if frames > bucket.frames:
        return (
            f"{example.id} has {frames} frames for a bucket of {bucket.frames}; its index gives "
            "another duration than its audio has."
        )
    if tokens >= bucket.tokens:
        return (
            f"{example.id} has {tokens} tokens for a bucket of {bucket.tokens - 1}; raise "
            "tokens_per_second, or store tokens with the data."
        )
    return None


def collate(
    examples: Sequence[Example | None],
    bucket: Bucket,
    *,
    n_mels: int,
    pad_id: int,
    alignments: bool = False,
) -> Arrays:
    """Pads examples to their bucket.

    Args:
        examples: one per row; None leaves the row empty.
        bucket: gives the padded lengths and the number of channels.
        n_mels: mel bins per channel.
        pad_id: id of the padding token.
        alignments: also return `token_starts`.

    Returns:
        `features` (rows, frames, channels * n_mels) float32, `features_lens` (rows,) int32,
        `tokens` (rows, bucket's tokens) int32 and `tokens_lens` (rows,) int32; an empty row has
        length 0 and features of 0. With `alignments`, `token_starts` (rows, bucket's tokens)
        int32 are the frames at which tokens begin, and the row's length for padding tokens.
    """
    rows = len(examples)
    features = np.zeros((rows, bucket.frames, bucket.channels * n_mels), np.float32)
    tokens = np.full((rows, bucket.tokens), pad_id, np.int32)
    features_lens, tokens_lens = np.zeros((2, rows), np.int32)
    token_starts = np.zeros((rows, bucket.tokens), np.int32)
    for row, example in enumerate(examples):
        if example is not None:
            features_lens[row], tokens_lens[row] = len(example.features), len(example.tokens)
            features[row, : features_lens[row]] = example.features
            tokens[row, : tokens_lens[row]] = example.tokens
            token_starts[row] = features_lens[row]
            if example.token_starts is not None:
                token_starts[row, : tokens_lens[row]] = example.token_starts
    arrays = {
        "features": features,
        "features_lens": features_lens,
        "tokens": tokens,
        "tokens_lens": tokens_lens,
    }
    return arrays | ({"token_starts": token_starts} if alignments else {})

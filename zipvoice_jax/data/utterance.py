"""A stored utterance, and its record in the encoding of TFDS."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.proto import tf_example_pb2

from zipvoice_jax.core.errors import UserError

_Example: Any = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue] - made on import

END_SLACK = 0.05  # seconds that a token may begin after the end of the audio, since aligners round


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One recording with its text, as stored.

    Attributes:
        id: unique within the dataset.
        text: normalised text; a dialogue has [S1] and [S2] before its turns.
        tokens: token strings (not ids) as the tokenizer yields them; () if not stored.
        language: language code such as "en" or "zh"; "" if unknown.
        duration: duration of the audio in seconds. A record stores it as float32.
        channels: 1, or 2 with one speaker on each.
        audio: an encoded file: FLAC, MP3, WAV or any other format of libsndfile.
        token_starts: when each token begins, in seconds from the beginning of the audio; () if
            unknown. A record stores them as float32.

    Raises:
        UserError: impossible channels, duration, id or token_starts.
    """

    id: str
    text: str
    tokens: tuple[str, ...]
    language: str
    duration: float
    channels: int
    audio: bytes
    token_starts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise UserError("an utterance has an empty id; give it a name of its own.")
        if self.channels not in (1, 2):
            raise UserError(f"{self.id} has {self.channels} channels; give 1 or 2.")
        if not 0 < self.duration < float("inf"):
            raise UserError(f"{self.id} lasts {self.duration} s; give more than 0 seconds.")
        if self.token_starts:
            fault = alignment_fault(self.token_starts, len(self.tokens), self.duration)
            if fault is not None:
                raise UserError(f"the alignment of {self.id} {fault}; correct it or leave it out.")


def alignment_fault(starts: Sequence[float], tokens: int, duration: float) -> str | None:
    """Why these cannot be the starts of an utterance's tokens, or None if they can.

    Args:
        starts: starts of the tokens, in seconds from the beginning of the audio.
        tokens: number of tokens.
        duration: duration of the audio, in seconds.

    Returns:
        A predicate that completes "the alignment ...".
    """
    if len(starts) != tokens:
        return f"has {len(starts)} times for {tokens} tokens"
    for number, start in enumerate(starts):
        if not math.isfinite(start):
            return f"has {start} as the time of token {number}"
    for number, (before, start) in enumerate(itertools.pairwise(starts), 1):
        if start < before:
            return f"goes back from {before:.3f} s to {start:.3f} s at token {number}"
    if starts and starts[0] < 0:
        return f"begins at {starts[0]:.3f} s, before the audio"
    if starts and starts[-1] > duration + END_SLACK:
        return f"has a token at {starts[-1]:.3f} s, past the end of the audio at {duration:.3f} s"
    return None


_FIELDS = tuple(field.name for field in dataclasses.fields(Utterance))
_LISTS = ("tokens", "token_starts")  # fields that TFDS takes as lists


def features() -> tfds.features.FeaturesDict:
    """The fields of a record, as TFDS features."""
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "text": tfds.features.Text(),
            "tokens": tfds.features.Sequence(tfds.features.Text()),
            "language": tfds.features.Text(),
            "duration": tfds.features.Scalar(dtype=np.float64),
            "channels": tfds.features.Scalar(dtype=np.int32),
            "audio": tfds.features.Scalar(dtype=np.object_),
            "token_starts": tfds.features.Sequence(tfds.features.Scalar(dtype=np.float32)),
        }
    )


@functools.cache
def _serializer() -> tuple[tfds.features.FeaturesDict, ExampleSerializer]:
    encoder = features()
    specification: Any = encoder.get_serialized_info()
    return encoder, ExampleSerializer(specification)


def make_record(utterance: Utterance) -> bytes:
    """The bytes of an utterance's record.

    Those of TFDS, except for the order of the fields, which changes from run to run in TFDS.
    """
    encoder, serializer = _serializer()
    example = {name: getattr(utterance, name) for name in _FIELDS}
    for name in _LISTS:
        example[name] = list(example[name])
    encoded = encoder.encode_example(example)
    return serializer.get_tf_example(encoded).SerializeToString(deterministic=True)


def parse_record(record: bytes) -> Utterance:
    """An utterance from the bytes of its record.

    Equal to TFDS' own decoding, and 30 times as fast. Records of datasets older than alignments
    have no token starts.

    Raises:
        UserError: the bytes are not the record of an utterance.
    """
    try:
        fields = _Example.FromString(record).features.feature
        text = {
            name: fields[name].bytes_list.value[0].decode() for name in ("id", "text", "language")
        }
        return Utterance(
            **text,
            tokens=tuple(token.decode() for token in fields["tokens"].bytes_list.value),
            duration=fields["duration"].float_list.value[0],
            channels=fields["channels"].int64_list.value[0],
            audio=fields["audio"].bytes_list.value[0],
            token_starts=tuple(fields["token_starts"].float_list.value),
        )
    except (DecodeError, IndexError, UnicodeDecodeError):
        raise UserError(
            "a record holds no utterance; prepare the dataset anew with `zipvoice-jax prepare`."
        ) from None

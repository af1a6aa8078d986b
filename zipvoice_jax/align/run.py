"""Aligns the splits of a prepared dataset: trains an aligner, then writes its best paths."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from zipvoice_jax.align.config import AlignConfig
from zipvoice_jax.align.network import token_log_probabilities
from zipvoice_jax.align.path import best_starts, even_starts
from zipvoice_jax.align.train import Params, scores_of, train
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import alone
from zipvoice_jax.data.alignment import Alignments, alignment_name, save_alignments
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.loader import Loader, validation_batches
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.data.records import Index, open_split, split_names
from zipvoice_jax.text.tokens import PAD, TokenTable

ALIGNER = "aligner.npz"  # the aligner, in training or trained


def align(
    directory: Path,
    config: AlignConfig,
    *,
    splits: Sequence[str] = (),
    table: TokenTable | None = None,
    features: FeatureConfig | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Learns the alignments of a dataset and puts them beside its records.

    The aligner is trained on all splits, so that it does not hang on which are asked for. It
    stays in the directory as `aligner.npz`. A run that was stopped goes on there, and splits
    with alignments are not made again.

    Args:
        directory: of the dataset.
        config: of the aligner.
        splits: whose alignments to write; none given: of all.
        table: vocabulary; None: the dataset's own tokens.
        features: settings of the features; None: the usual ones.
        overwrite: forget what was learned before.
        say: tells the user, a line each time.

    Returns:
        the splits whose alignments are there.

    Raises:
        UserError: the dataset cannot be used or written.
    """
    features = features or FeatureConfig()
    every = {name: open_split(directory, name, learned=False)[1] for name in split_names(directory)}
    filled = [name for name, index in every.items() if len(index)]
    if not filled:
        raise UserError(f"{directory} has no records in any split; prepare a dataset with some.")
    wanted = list(dict.fromkeys(splits)) or filled
    for name in wanted:
        if name not in every:
            open_split(directory, name)  # says which there are
        if not len(every[name]):
            raise UserError(f"the split {name!r} of {directory} has no records; name another.")
    _check_tokens(directory, every)
    told = f"{directory} is being aligned by another process; wait for it, or stop it."
    with alone(directory / ".align.lock", told):
        path = directory / ALIGNER
        if overwrite:
            _remove([path, *(directory / alignment_name(name) for name in wanted)])
        missing = [name for name in wanted if not (directory / alignment_name(name)).exists()]
        for name in wanted:
            if name not in missing:
                Alignments.beside(directory, name, every[name])  # whole, and of this dataset?
                say(f"{directory / alignment_name(name)}: is there; --overwrite makes it anew")
        if missing:
            table = table or own_table(directory, filled)
            data = _data_config(directory, config, {name: every[name] for name in filled})
            loader = Loader(data, table, features, seed=config.seed, stage="align")
            params = train(config, loader, table, path, bins=features.n_mels, say=say)
            for name in missing:
                starts = _split_starts(
                    directory, name, every[name], params, config, table, features, data,
                    loader.buckets, say,
                )  # fmt: skip
                known = sum(bool(one) for one in starts)
                made = save_alignments(directory, name, every[name], starts)
                say(f"{made}: {known} of {len(starts)} utterances aligned")
    return wanted


def own_table(directory: Path, splits: Sequence[str]) -> TokenTable:
    """A table of the tokens that a dataset holds, in the order of their characters."""
    found: set[str] = set()
    for split in splits:
        source, _ = open_split(directory, split, learned=False)
        for record in range(len(source)):
            found.update(source[record].tokens)
    return TokenTable((PAD, *sorted(found - {PAD})))


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{path} cannot be removed ({error.strerror}).") from None


def _check_tokens(directory: Path, indices: dict[str, Index]) -> None:
    for split, index in indices.items():
        if (lacking := int((index.tokens < 0).sum())) > 0:
            raise UserError(
                f"{lacking} records of {directory} ({split}) have no tokens to align; prepare the "
                "dataset with a tokenizer."
            )


def _data_config(directory: Path, config: AlignConfig, indices: dict[str, Index]) -> DataConfig:
    """Batches of all records, mixed down."""
    longest = max(float(index.seconds.max()) for index in indices.values())
    return DataConfig(
        sources=tuple(SourceConfig(str(directory), split) for split in indices),
        batch_seconds=max(config.batch_seconds, longest + 1.0),
        buckets=config.buckets,
        min_seconds=1e-3,
        max_seconds=longest + 1.0,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_probabilities(
    config: AlignConfig, vocab_size: int, params: Params, arrays: dict[str, Any]
) -> Float[Array, "rows frames tokens"]:
    scores = scores_of(params, config, vocab_size, arrays)
    return token_log_probabilities(scores, arrays["tokens_lens"])


def _split_starts(
    directory: Path,
    split: str,
    index: Index,
    params: Params,
    config: AlignConfig,
    table: TokenTable,
    features: FeatureConfig,
    data: DataConfig,
    buckets: Sequence[Bucket],
    say: Callable[[str], None],
) -> list[tuple[float, ...]]:
    """Seconds at which the tokens of each record begin; () for records that cannot be read."""
    places = {name: place for place, name in enumerate(index.ids.tolist())}
    starts: list[tuple[float, ...]] = [()] * len(index)
    rate = features.sampling_rate / features.hop_length

    def keep(place: int, first: np.ndarray) -> None:
        seconds = np.minimum(first / rate, index.seconds[place]).tolist()
        starts[place] = tuple(seconds)

    for place, seconds in enumerate(index.seconds.tolist()):
        frames = max(int(seconds * rate + 0.5), 1)
        if index.tokens[place] > frames:  # these are in no batch
            keep(place, even_starts(frames, int(index.tokens[place])))
    one = SourceConfig(str(directory), split)
    if all(starts):
        return starts
    batches = validation_batches(
        DataConfig(**{**vars(data), "sources": (one,)}), table, features, buckets=buckets
    )
    bar = tqdm(
        total=len(index), initial=sum(bool(one) for one in starts), desc=split, unit="utterance",
        file=sys.stderr, mininterval=0.5, dynamic_ncols=True,
    )  # fmt: skip
    with bar, iter(batches) as iterator:
        for batch in iterator:
            for fault in iterator.fresh:
                say(f"left out: {fault}")
            scores = np.asarray(_log_probabilities(config, table.vocab_size, params, batch.arrays))
            lens = zip(batch.arrays["features_lens"], batch.arrays["tokens_lens"], strict=True)
            for row, (frames, tokens) in enumerate(lens):
                if batch.ids[row]:
                    first = best_starts(scores[row, :frames, :tokens])
                    keep(places[batch.ids[row]], first)
                    bar.update()
    return starts

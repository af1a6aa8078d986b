"""Aligns the splits of a prepared dataset: trains an aligner and writes its best paths."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from zipvoice_jax.align.config import AlignConfig
from zipvoice_jax.align.path import best_starts, even_starts
from zipvoice_jax.align.train import Params, matches, train
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import alone
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.data.alignment import ALIGNER, Alignments, alignment_name, save_alignments
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.data.loader import Loader, validation_batches
from zipvoice_jax.data.records import Index, open_split, split_names
from zipvoice_jax.text.tokens import PAD, TokenTable, quote


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
    """Learns the alignments of a dataset and writes them beside its records.

    The aligner is trained on all splits, so that it does not depend on which are asked for. It
    stays in the directory as `aligner.npz`. A stopped run continues from there, and splits that
    have alignments are not aligned again.

    Args:
        directory: directory of the dataset.
        config: settings of the aligner.
        splits: splits whose alignments to write; empty: all.
        table: vocabulary; None: the dataset's own tokens.
        features: settings of the features; None: the defaults.
        overwrite: discard what was learned before.
        say: prints a line for the user.

    Returns:
        The splits that now have alignments.

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
            open_split(directory, name)  # its error lists the splits
        if not len(every[name]):
            raise UserError(f"the split {name!r} of {directory} has no records; name another.")
    _check_tokens(directory, every)
    message = f"{directory} is being aligned by another process; wait for it, or stop it."
    with alone(directory / ".align.lock", message):
        path = directory / ALIGNER
        missing = [
            name for name in wanted if overwrite or not (directory / alignment_name(name)).exists()
        ]
        for name in wanted:
            if name not in missing:
                Alignments.beside(directory, name, every[name])  # whole, and of this dataset?
                say(f"{directory / alignment_name(name)}: is there; --overwrite makes it anew")
        if missing:
            used = used_tokens(directory, filled)
            table = table or TokenTable((PAD, *sorted(used - {PAD})))
            if lacking := sorted(used - set(table.tokens)):
                named = ", ".join(quote(token, 20) for token in lacking[:5])
                raise UserError(
                    f"the token table lacks {len(lacking)} tokens of {directory} ({named}); give "
                    "the table that it was prepared with, or none."
                )
            job = _Job(directory, config, table, features, every, say)
            if overwrite:  # only now that nothing is left to be refused
                _remove([path, *(directory / alignment_name(name) for name in wanted)])
            params = train(
                config, job.loader, table, directory / ALIGNER, bins=features.n_mels, say=say
            )
            for name in missing:
                starts = job.starts(name, params)
                made = save_alignments(directory, name, every[name], starts)
                known = sum(bool(record_starts) for record_starts in starts)
                say(f"{made}: {known} of {len(starts)} utterances aligned")
    return wanted


def used_tokens(directory: Path, splits: Sequence[str]) -> set[str]:
    """The set of tokens in the splits of a dataset; damaged records are skipped."""
    tokens: set[str] = set()
    for split in splits:
        source, _ = open_split(directory, split, learned=False)
        positions = progress_bar(
            range(len(source)), desc=f"tokens of {split}", file=sys.stderr, mininterval=0.5,
            dynamic_ncols=True, leave=False,
        )  # fmt: skip
        for row in positions:
            with contextlib.suppress(UserError):  # the loader will report it
                tokens.update(source[row].tokens)
    return tokens


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


_matches = jax.jit(matches, static_argnums=(1, 2))


class _Job:
    """An alignment of a dataset: its batches, and the token starts of its records."""

    def __init__(
        self,
        directory: Path,
        config: AlignConfig,
        table: TokenTable,
        features: FeatureConfig,
        indices: Mapping[str, Index],
        say: Callable[[str], None],
    ) -> None:
        self._config, self._table, self._features = config, table, features
        self._indices, self._say = indices, say
        self._frames = {name: _frame_counts(index, features) for name, index in indices.items()}
        fitting = {
            name: SourceConfig(str(directory), name)
            for name, index in indices.items()
            if (index.tokens <= self._frames[name]).any()
        }
        if not fitting:
            raise UserError(
                f"every record of {directory} has more tokens than frames; check that texts and "
                "audio belong together."
            )
        longest = 1.0 + max(float(indices[name].seconds.max()) for name in fitting)
        self._sources = fitting
        self._data = DataConfig(
            sources=tuple(fitting.values()),
            batch_seconds=max(config.batch_seconds, longest),
            buckets=config.buckets,
            min_seconds=1e-3,
            max_seconds=longest,
        )
        self.loader = Loader(self._data, table, features, seed=config.seed, stage="align")

    def starts(self, split: str, params: Params) -> list[tuple[float, ...]]:
        """Seconds at which the tokens of each record begin; () for an unreadable record."""
        index, frames = self._indices[split], self._frames[split]
        per_second = self._features.sampling_rate / self._features.hop_length
        starts: list[tuple[float, ...]] = [()] * len(index)

        def keep(row: int, first: Int[np.ndarray, " tokens"]) -> None:
            starts[row] = tuple(np.minimum(first / per_second, index.seconds[row]).tolist())

        for row in np.flatnonzero(index.tokens > frames).tolist():  # these are in no batch
            keep(row, even_starts(int(frames[row]), int(index.tokens[row])))
        if split not in self._sources:
            return starts
        row_of = {name: row for row, name in enumerate(index.ids.tolist())}
        batches = validation_batches(
            dataclasses.replace(self._data, sources=(self._sources[split],)),
            self._table,
            self._features,
            buckets=self.loader.buckets,
        )
        bar = progress_bar(
            total=len(index), initial=sum(map(bool, starts)), desc=f"align {split}",
            unit="utterance", file=sys.stderr, mininterval=0.5, dynamic_ncols=True,
        )  # fmt: skip
        with bar, iter(batches) as iterator:
            for batch in iterator:
                for fault in iterator.fresh:
                    self._say(f"left out: {fault}")
                arrays = batch.arrays
                scores = _matches(params, self._config, self._table.vocab_size, arrays)
                lens = zip(arrays["features_lens"], arrays["tokens_lens"], strict=True)
                for name, own, (long, count) in zip(
                    batch.ids, np.asarray(scores), lens, strict=True
                ):
                    if name:
                        keep(row_of[name], best_starts(own[:long, :count]))
                        bar.update()
        return starts


def _frame_counts(index: Index, features: FeatureConfig) -> Int[np.ndarray, " records"]:
    """Frames of each record, at least 1."""
    samples = np.rint(index.seconds * features.sampling_rate).astype(np.int64)
    return np.maximum((samples + features.hop_length // 2) // features.hop_length, 1)

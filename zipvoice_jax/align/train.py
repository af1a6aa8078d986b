"""Trains an aligner on a prepared dataset, and resumes from the file beside the records."""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.align.config import AlignConfig
from zipvoice_jax.align.network import (
    Aligner,
    diagonal_prior,
    forward_sum_loss,
    progress,
)
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import DAMAGED_NPZ
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.loader import Loader
from zipvoice_jax.text.tokens import TokenTable

SAVE_EVERY = 100  # steps
Params = dict[str, Any]


class State(NamedTuple):
    """The training state.

    Attributes:
        params: parameters of the `Aligner`.
        moments: optimiser state of Adam.
        step: number of steps done.
    """

    params: Params
    moments: Any
    step: Int[Array, ""]


def fresh_state(config: AlignConfig, vocab_size: int, bins: int) -> State:
    """The state before the first step.

    Args:
        config: settings of the aligner.
        vocab_size: number of tokens in the table.
        bins: mel bins of the features.
    """
    row = (
        jnp.zeros((1, 8, bins)),
        jnp.ones((1, 8), bool),
        jnp.zeros((1, 4), jnp.int32),
        jnp.ones((1, 4), bool),
    )
    key = named_key(jax.random.key(config.seed), "align", "params")
    params = jax.jit(Aligner(config, vocab_size).init)(key, *row)["params"]
    return State(params, _optimiser(config).init(params), jnp.zeros((), jnp.int32))


def _optimiser(config: AlignConfig) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.rate, config.warmup, max(config.steps, config.warmup + 1)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def matches(
    params: Params, config: AlignConfig, vocab_size: int, arrays: dict[str, Any]
) -> Float[Array, "rows frames tokens"]:
    """Scores of the `Aligner` for a batch of the `Loader`."""
    features, tokens = arrays["features"], arrays["tokens"]
    token_mask = jnp.arange(tokens.shape[1])[None, :] < arrays["tokens_lens"][:, None]
    model = Aligner(config, vocab_size)
    scores = model.apply({"params": params}, features, frame_mask(arrays), tokens, token_mask)
    assert isinstance(scores, jax.Array)
    return scores


def frame_mask(arrays: dict[str, Any]) -> Bool[Array, "rows frames"]:
    """True for the real frames of a batch."""
    size = arrays["features"].shape[1]
    return jnp.arange(size)[None, :] < arrays["features_lens"][:, None]


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(
    config: AlignConfig, vocab_size: int, state: State, arrays: dict[str, Any]
) -> tuple[State, Float[Array, ""]]:
    """One training step.

    Args:
        config: settings of the aligner.
        vocab_size: number of tokens in the table.
        state: state before the step; its arrays are donated.
        arrays: a batch of the `Loader`.

    Returns:
        The state after the step, and the loss (nats per frame).
    """
    frames, tokens = arrays["features_lens"], arrays["tokens_lens"]
    share = state.step.astype(jnp.float32) / (config.prior_steps * config.steps)
    weight = jnp.maximum(0.0, 1.0 - share)
    along = progress(arrays["features"], frame_mask(arrays))
    prior = weight * diagonal_prior(along, tokens, arrays["tokens"].shape[1])

    weights = frames.astype(jnp.float32)

    def loss_of(params: Params) -> Float[Array, ""]:
        scores = matches(params, config, vocab_size, arrays) + prior
        losses = forward_sum_loss(scores, frames, tokens, blank=config.blank)
        return jnp.sum(losses * weights) / jnp.maximum(jnp.sum(weights), 1.0)

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies counts by fractions
        updates, moments = _optimiser(config).update(gradients, state.moments, state.params)
        params = cast("Params", optax.apply_updates(state.params, updates))
    return State(params, moments, state.step + 1), loss


def train(
    config: AlignConfig,
    loader: Loader,
    table: TokenTable,
    path: Path,
    *,
    bins: int,
    say: Callable[[str], None],
) -> Params:
    """Trains an aligner, resuming from the file at `path` if there is one.

    Args:
        config: settings of the aligner.
        loader: source of the batches.
        table: vocabulary.
        path: file that stores the state, every `SAVE_EVERY` steps and at the end.
        bins: mel bins of the features.
        say: reports records that cannot be read.

    Returns:
        The parameters after `config.steps` steps.

    Raises:
        UserError: the file belongs to another training or cannot be written, the data cannot be
            used, or the loss is not finite.
    """
    state = fresh_state(config, table.vocab_size, bins)
    order = str(loader.iterate(0).get_state()["order"])
    mark = training_digest(config, table, order)
    if path.exists():
        state = load_state(path, state, mark)
    done = int(state.step)
    if done >= config.steps:
        return state.params
    bar = progress_bar(
        total=config.steps, initial=done, desc="learn", unit="step", file=sys.stderr,
        mininterval=0.5, dynamic_ncols=True,
    )  # fmt: skip
    with bar, loader.iterate(done) as batches:
        while done < config.steps:
            batch = next(batches)
            for fault in batches.fresh:
                say(f"left out: {fault}")
            state, loss = train_step(config, table.vocab_size, state, batch.arrays)
            done += 1
            bar.update()
            if done % 10 == 0 or done == config.steps:
                value = float(loss)
                if not np.isfinite(value):
                    raise UserError(
                        f"the loss of step {done} is {value}; lower the learning rate, or look "
                        f"for broken audio among {', '.join(filter(None, batch.ids[:3]))}."
                    )
                bar.set_postfix(loss=f"{value:.3f}")
            if done % SAVE_EVERY == 0 or done == config.steps:
                save_state(path, state, mark)
    return state.params


def training_digest(config: AlignConfig, table: TokenTable, order: str) -> str:
    """A hash of everything on which the result of a training depends."""
    text = json.dumps([dataclasses.asdict(config), table.fingerprint, order])
    return hashlib.sha256(text.encode()).hexdigest()


def save_state(path: Path, state: State, mark: str) -> None:
    """Writes a state atomically.

    Raises:
        UserError: it cannot be written.
    """
    arrays: dict[str, Any] = {"mark": np.array(mark)}
    for number, leaf in enumerate(jax.tree.leaves(state)):
        arrays[f"leaf_{number}"] = np.asarray(leaf)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); make room, or the directory "
            "writable, and run the command again to go on."
        ) from None


def load_state(path: Path, like: State, mark: str) -> State:
    """Reads a state with the structure of `like`.

    Raises:
        UserError: the file is damaged, or belongs to another training.
    """
    before, structure = jax.tree.flatten(like)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            stored = str(arrays["mark"])
            leaves = [arrays[f"leaf_{i}"] for i in range(len(before))] if stored == mark else []
    except DAMAGED_NPZ:
        raise UserError(f"{path} is damaged; delete it, or give --overwrite.") from None
    if stored != mark:
        raise UserError(
            f"{path} was trained on other data, tokens or settings; give those, or --overwrite to "
            "learn anew."
        )
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])

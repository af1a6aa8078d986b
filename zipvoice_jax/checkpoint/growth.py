"""Growing one model into another, and averaging models; pure functions on parameter trees.

After zipvoice/utils/checkpoint.py: a Dialog model starts from ZipVoice with new tokens and
speaker embeddings, a Stereo model from Dialog with its projections repeated per channel. What is
new is drawn by the initialisers of the modules themselves.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Key

from zipvoice_jax.checkpoint.mapping import Params, check_params, param_shapes
from zipvoice_jax.config import (
    DURATION_HEAD_DIM,
    SPEAKER_STD,
    ModelConfig,
)
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.models.zipvoice import speaker_embedding, token_embedding
from zipvoice_jax.nn.durations import DurationHead
from zipvoice_jax.nn.zipformer import guidance_scale_embedding
from zipvoice_jax.text.tokens import TokenTable, speaker_tag


def _checked(params: Params, config: ModelConfig) -> Params:
    """The parameters of a model as numpy arrays; they must be those of its config."""
    check_params(params, config, source="the parameter tree")
    return jax.tree.map(np.asarray, params)


def _merged(old: Params, new: Params, config: ModelConfig) -> Params:
    """The parameters of a model: those of `new`, and copies from `old` where it has none."""
    leaves = flatten_dict(old) | flatten_dict(new)
    return unflatten_dict({path: np.array(leaves[path]) for path in param_shapes(config)})


def _require_kind(config: ModelConfig, kind: str, target: str) -> None:
    if config.kind != kind:
        raise UserError(f"a {target} model grows from {kind}, not from {config.kind}.")


def grow_vocabulary(
    params: Params,
    config: ModelConfig,
    *,
    old_table: TokenTable,
    new_table: TokenTable,
    key: Key[Array, ""],
) -> tuple[Params, ModelConfig]:
    """Gives a model a larger token table; rows follow their tokens by name.

    Args:
        params: parameters of the model, as nested dicts.
        config: sizes and options of the model.
        old_table: its token table.
        new_table: holds every token of the old one, in any order, and more.
        key: random key of the new rows, which are N(0, 1) as in torch.nn.Embedding; a token's row
            depends on the key and the token alone.

    Returns:
        parameters and config with the new table's size and ids.

    Raises:
        UserError: the old table is not the model's, or the new one lacks tokens.
    """
    params = _checked(params, config)
    if old_table.vocab_size != config.vocab_size:
        raise UserError(
            f"the old token table has {old_table.vocab_size} tokens but the model's embedding has "
            f"{config.vocab_size} rows; give the token table of this model."
        )
    lost = [token for token in old_table.tokens if token not in new_table.token2id]
    if lost:
        raise UserError(
            f"the new token table lacks {len(lost)} tokens of the old one, such as {lost[0]!r}; "
            "keep all old tokens and add to them."
        )
    if config.is_dialog and (new_table.spk_a_id is None or new_table.spk_b_id is None):
        raise UserError("the new token table lacks [S1] or [S2]; a dialog model needs both.")
    embedding, old_rows = token_embedding(config), params["embed"]["embedding"]

    def row(token: str) -> Any:
        if token in old_table.token2id:
            return old_rows[old_table.token2id[token]]
        drawn = named_key(key, "embed", token)
        return embedding.embedding_init(drawn, (embedding.features,), jnp.float32)

    new = {"embed": {"embedding": np.stack([np.asarray(row(t)) for t in new_table.tokens])}}
    changes: dict[str, Any] = {"vocab_size": new_table.vocab_size, "pad_id": new_table.pad_id}
    if config.is_dialog:
        changes |= new_table.speaker_fields
    config = dataclasses.replace(config, **changes)
    if config.speaker_embed_dim:
        known = params["spk_embed"]["embedding"]
        new["spk_embed"] = {"embedding": _more_speakers(known, config, key, SPEAKER_STD)}
    return _merged(params, new, config), config


def _more_speakers(
    known: np.ndarray, config: ModelConfig, key: Key[Array, ""], std: float
) -> np.ndarray:
    """The speaker-turn embedding with a random row for each speaker that it lacks."""
    embedding = speaker_embedding(config, 1.0)
    rows = [np.asarray(known)]
    for number in range(len(known) + 1, config.num_speakers + 1):
        drawn = named_key(key, "spk_embed", str(number))
        row = embedding.embedding_init(drawn, (1, embedding.features), jnp.float32)
        rows.append(np.asarray(row) * np.float32(std))
    return np.concatenate(rows)


def dialog_table(table: TokenTable, speakers: int = 2) -> TokenTable:
    """A token table with the speakers' tags put after the others where they are missing.

    Args:
        table: to be extended.
        speakers: that may speak: [S1], [S2] and so on.
    """
    tags = map(speaker_tag, range(1, speakers + 1))
    return TokenTable((*table.tokens, *(tag for tag in tags if tag not in table.token2id)))


def grow_to_dialog(
    params: Params,
    config: ModelConfig,
    *,
    old_table: TokenTable,
    new_table: TokenTable,
    key: Key[Array, ""],
    speaker_std: float = SPEAKER_STD,
) -> tuple[Params, ModelConfig]:
    """ZipVoice to ZipVoice-Dialog (load_checkpoint_extend_vocab_size).

    Args:
        params: parameters of a zipvoice model.
        config: its config.
        old_table: its token table.
        new_table: the old tokens, [S1], [S2] and perhaps more (see `dialog_table`).
        key: random key of the new embedding rows, N(0, 1), and of the speaker-turn embedding.
        speaker_std: standard deviation of the latter, which is normal.

    Raises:
        UserError: not a zipvoice model, or the token tables do not fit.
    """
    _require_kind(config, "zipvoice", "zipvoice_dialog")
    if new_table.spk_a_id is None or new_table.spk_b_id is None:
        raise UserError("the new token table lacks [S1] or [S2]; a dialog model needs both.")
    grown, config = grow_vocabulary(
        params, config, old_table=old_table, new_table=new_table, key=key
    )
    config = dataclasses.replace(config, kind="zipvoice_dialog", **new_table.speaker_fields)
    new = {}
    if config.speaker_embed_dim:
        embedding = speaker_embedding(config, 1.0)
        shape = (2, embedding.features)
        rows = embedding.embedding_init(named_key(key, "spk_embed"), shape, jnp.float32)
        # Scaled by numpy: drawn at that scale, they would differ in their last bits.
        pair = np.asarray(rows) * np.float32(speaker_std)
        new["spk_embed"] = {"embedding": _more_speakers(pair, config, key, speaker_std)}
    return _merged(grown, new, config), config


def grow_to_stereo(
    params: Params,
    config: ModelConfig,
    *,
    channel_difference: float = 0.0,
    key: Key[Array, ""] | None = None,
) -> tuple[Params, ModelConfig]:
    """ZipVoice-Dialog to -Stereo (load_checkpoint_copy_proj_three_channel_alter).

    The input of stream 0 is noisy speech of both channels, text condition, speech condition
    of both channels: each channel gets half of the mono weight, so that two equal channels
    give what one gave. Both output channels start as the mono output. Stream 1 is mono.

    Officially both channels have one and the same weight, and the decoder sees no more than their
    sum. A difference added to one channel and taken from the other leaves what two equal channels
    give, and shows the decoder which is which.

    With `channel_decoding="separate"` a channel takes what the mono model took, and both streams
    start as it.

    Args:
        params: parameters of a zipvoice_dialog model.
        config: its config.
        channel_difference: standard deviation of that random difference, as a share of the mono
            weight's own; 0 is the official start.
        key: random key of the difference; needed where there is one.

    Raises:
        UserError: not a zipvoice_dialog model.
    """
    _require_kind(config, "zipvoice_dialog", "zipvoice_dialog_stereo")
    params = _checked(params, config)
    config = dataclasses.replace(config, kind="zipvoice_dialog_stereo")
    mono_in, mono_out = (params["fm_decoder"][name] for name in ("in_proj", "out_proj"))
    noisy, text, condition = np.split(mono_in["kernel"], 3, axis=0)

    def both(name: str, mono: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not channel_difference:
            return mono / 2, mono / 2
        if key is None:
            raise ValueError("a difference of the channels takes a key")
        drawn = np.asarray(jax.random.normal(named_key(key, "in_proj_0", name), mono.shape))
        apart = channel_difference * mono.std() * drawn
        return mono / 2 + apart, mono / 2 - apart

    if config.separates_channels:
        stereo_in, stereo_out = mono_in, mono_out
    else:
        channels = [*both("noisy", noisy), text, *both("condition", condition)]
        stereo_in = {"kernel": np.concatenate(channels, axis=0), "bias": mono_in["bias"]}
        stereo_out = {name: np.concatenate([a, a], axis=-1) for name, a in mono_out.items()}
    decoder = {
        "in_proj_0": stereo_in,
        "out_proj_0": stereo_out,
        "in_proj_1": mono_in,
        "out_proj_1": mono_out,
    }
    return _merged(params, {"fm_decoder": decoder}, config), config


def one_channel(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """ZipVoice-Dialog-Stereo to -Dialog: the stream of one channel that every Stereo model has.

    It computes what the Stereo model computes for one channel; after `grow_to_stereo` it is the
    model from before. Batches of two channels do not train its projections: after a training
    without any of one channel they are as they were, while all between them has changed.

    Args:
        params: parameters of a zipvoice_dialog_stereo model.
        config: its config.

    Raises:
        UserError: not a zipvoice_dialog_stereo model.
    """
    if not config.is_stereo:
        raise UserError(f"one channel is taken from zipvoice_dialog_stereo, not {config.kind}.")
    params = _checked(params, config)
    decoder = {name: params["fm_decoder"][f"{name}_1"] for name in ("in_proj", "out_proj")}
    config = dataclasses.replace(config, kind="zipvoice_dialog")
    return _merged(params, {"fm_decoder": decoder}, config), config


def grow_to_distill(
    params: Params, config: ModelConfig, *, key: Key[Array, ""]
) -> tuple[Params, ModelConfig]:
    """ZipVoice to ZipVoice-Distill: a new embedding of the guidance scale, small as officially.

    Args:
        params: parameters of a zipvoice model.
        config: its config.
        key: random key of the embedding.

    Raises:
        UserError: not a zipvoice model.
    """
    _require_kind(config, "zipvoice", "zipvoice_distill")
    params = _checked(params, config)
    config = dataclasses.replace(config, kind="zipvoice_distill")
    embedding = guidance_scale_embedding(config.time_embed_dim)
    shape = (embedding.in_dim, embedding.out_dim)
    kernel = embedding.kernel_init(named_key(key, "guidance_scale_embed"), shape, jnp.float32)
    new = {"fm_decoder": {"guidance_scale_embed": {"kernel": kernel}}}
    return _merged(params, new, config), config


def new_duration_head(config: ModelConfig, key: Key[Array, ""]) -> Params:
    """Random parameters of a duration head, for a model that has none yet.

    Args:
        config: sizes and options of the model.
        key: random key of the head.
    """
    head = DurationHead(DURATION_HEAD_DIM)
    embed, mask = jnp.zeros((1, 1, config.feat_dim), jnp.float32), jnp.zeros((1, 1), bool)
    return jax.device_get(head.init(key, embed, mask)["params"])


def average(models: Sequence[Mapping[str, Any]], weights: Sequence[float] | None = None) -> Params:
    """Weighted mean of parameter trees of one shape, summed in float64.

    Args:
        models: one parameter tree or more.
        weights: one per tree, of any scale but not summing to 0; None weighs all alike.

    Raises:
        UserError: no trees, trees of different arrays, or weights that do not fit.
    """
    weights = [1.0] * len(models) if weights is None else list(weights)
    if not models or len(weights) != len(models) or not np.isfinite(weights).all():
        raise UserError(
            f"averaging takes one finite weight per model, not {len(weights)} for "
            f"{len(models)} models."
        )
    total = float(sum(weights))
    if total == 0.0:
        raise UserError("the weights of the average sum to 0; give weights that do not cancel.")
    trees = [flatten_dict(dict(model)) for model in models]
    first = {path: np.shape(leaf) for path, leaf in trees[0].items()}
    for index, tree in enumerate(trees):
        shapes = {path: np.shape(leaf) for path, leaf in tree.items()}
        if shapes != first:
            odd = sorted(
                "/".join(path)
                for path in first.keys() | shapes.keys()
                if first.get(path) != shapes.get(path)
            )
            raise UserError(
                f"model {index} differs from the first in {len(odd)} arrays, such as {odd[0]}; "
                "average models of one config."
            )
    leaves = {}
    for path in first:
        summed = np.zeros(first[path], np.float64)
        for weight, tree in zip(weights, trees, strict=True):
            summed += weight * np.asarray(tree[path], np.float64)
        leaves[path] = (summed / total).astype(np.float32)
    return unflatten_dict(leaves)

"""Lengths as masks, and the map from tokens to speakers."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int


def padding_mask(lengths: Int[Array, " batch"], size: int) -> Bool[Array, "batch size"]:
    """True where a position lies at or beyond its item's length."""
    return jnp.arange(size)[None, :] >= lengths[:, None]


def speaker_rows(
    tokens: Int[Array, "batch tokens"], *, speaker_ids: Sequence[int], pad_id: int, rule: str
) -> Int[Array, "batch tokens"]:
    """The row of the speaker-turn embedding for each token; -1 for padding.

    The official rule counts tags and takes the parity: row 1 for the first turn, row 0 for the
    second and so on (ZipVoiceDialog.extract_spk_indices). By tag, [S1] is row 1 and [S2] row 0,
    which is the same for turns that alternate from [S1] and stays right where they don't; [S3] is
    row 2 and so on.

    Args:
        tokens: token ids.
        speaker_ids: ids of the tags [S1], [S2] and so on.
        pad_id: id of the padding token.
        rule: "tag" or "official".
    """
    is_tag = jnp.isin(tokens, jnp.asarray(speaker_ids))
    if rule == "official":
        row = jnp.cumsum(is_tag, axis=1, dtype=jnp.int32) % 2
    else:
        position = jnp.where(is_tag, jnp.arange(tokens.shape[1])[None, :], -1)
        last = lax.cummax(position, axis=1)
        tag = jnp.take_along_axis(tokens, jnp.maximum(last, 0), axis=1)
        rows = {id: (1, 0)[i] if i < 2 else i for i, id in enumerate(speaker_ids)}
        row = sum((tag == id).astype(jnp.int32) * row for id, row in rows.items())
        row = jnp.where(last >= 0, row, 0)
    return jnp.where(tokens == pad_id, -1, row)

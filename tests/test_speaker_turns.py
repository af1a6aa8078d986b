"""Who speaks which token of a dialogue, and what tells the speakers' turns apart."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import make

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.models.masks import speaker_rows
from zipvoice_jax.models.zipvoice import bound


@functools.partial(jax.jit, static_argnums=1)
def text_embed(
    params: Any, config: ModelConfig, tokens: jax.Array, tokens_lens: jax.Array
) -> jax.Array:
    return bound(params, config).text_embed(tokens, tokens_lens)


def rows(tokens: list[int], rule: str, *more: int) -> list[int]:
    ids = (18, 19, *more)
    found = speaker_rows(jnp.array([tokens]), rule=rule, speaker_ids=ids, pad_id=0)
    return found[0].tolist()


def test_speaker_rows_follow_the_tags() -> None:
    alternating = [18, 3, 19, 4, 5, 18, 6, 19, 0, 0]
    assert rows(alternating, "tag") == [1, 1, 0, 0, 0, 1, 1, 0, -1, -1]
    assert rows(alternating, "official") == rows(alternating, "tag")
    # [S1] twice in a row: the official counter takes the second for the other speaker.
    assert rows([18, 3, 18, 4, 19, 5], "tag") == [1, 1, 1, 1, 0, 0]
    assert rows([18, 3, 18, 4, 19, 5], "official") == [1, 1, 0, 0, 1, 1]
    assert rows([3, 4, 19, 5], "tag") == [0, 0, 0, 0]
    # More than two: the first pair as before, then a row each.
    assert rows([9, 3, 18, 3, 8, 4, 19, 5, 9, 0], "tag", 8, 9) == [3, 3, 1, 1, 2, 2, 0, 0, 3, -1]


def test_two_turns_in_a_row_sound_like_one_speaker() -> None:
    config, params = make()
    tokens = jnp.array([[18, 3, 18, 4, 0]])

    def embed(rule: str, params: Any) -> Any:
        ruled = dataclasses.replace(config, speaker_turns=rule)
        return text_embed(params, ruled, tokens, jnp.array([4]))

    other = jax.tree.map(lambda x: x, params)
    other["spk_embed"] = {"embedding": params["spk_embed"]["embedding"].at[0].set(7.0)}
    assert np.array_equal(embed("tag", params), embed("tag", other))
    assert not np.array_equal(embed("official", params), embed("official", other))


@pytest.mark.parametrize(
    ("tokens", "embedding", "tells_turns", "tells_speakers"),
    [
        ("tags", "text_output", True, True),
        ("tags", "text_input", True, True),
        ("tags", "none", True, True),
        ("separator", "text_output", True, True),
        ("separator", "none", True, False),
    ],
)
def test_what_tells_speakers_apart(
    tokens: str, embedding: str, tells_turns: bool, tells_speakers: bool
) -> None:
    config, params = make(speaker_tokens=tokens, speaker_embedding=embedding)
    assert ("spk_embed" in params) == (embedding != "none")

    def embed(*ids: int) -> Any:
        return text_embed(params, config, jnp.array([[*ids, 0]]), jnp.array([len(ids)]))

    a, b = config.spk_a_id, config.spk_b_id
    dialogue, exchanged, one = embed(a, 3, b, 4), embed(b, 3, a, 4), embed(a, 3, 5, 4)
    assert np.array_equal(dialogue, exchanged) != tells_speakers
    assert np.array_equal(dialogue, one) != tells_turns
    if embedding == "text_input":
        # It goes through the text encoder, so that it also moves where another one speaks.
        other = jax.tree.map(lambda x: x, params)
        other["spk_embed"] = {"embedding": params["spk_embed"]["embedding"].at[0].add(3.0)}
        moved = text_embed(other, config, jnp.array([[a, 3, b, 4, 0]]), jnp.array([4]))
        assert not np.allclose(moved[0, 1], dialogue[0, 1], atol=1e-3)

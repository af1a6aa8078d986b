"""The model's velocities: what a batch and its padding leave as it is, and how near bfloat16 is."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signals import distance
from small_models import SMALL, make

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.models.masks import padding_mask
from zipvoice_jax.models.zipvoice import bound, cast_params


@functools.partial(jax.jit, static_argnums=1)
def velocity_of(params: Any, config: ModelConfig, *args: Any) -> jax.Array:
    return bound(params, config).velocity(*args)


def velocities(config: ModelConfig, params: Any, lens: list[int], total: int, seed: int) -> Any:
    """The velocity of items with these lengths in one batch, with rubbish in the padding."""
    rng = np.random.default_rng(seed)
    rows = []
    for length in lens:
        item = np.random.default_rng(length)
        x = item.standard_normal((3, length, config.feat_dim)).astype(np.float32)
        tail = 100 * rng.standard_normal((3, total - length, config.feat_dim)).astype(np.float32)
        rows.append(np.concatenate([x, tail], axis=1))
    x = jnp.asarray(np.stack(rows, axis=1))
    mask = padding_mask(jnp.asarray(lens), total)
    t = jnp.full(len(lens), 0.3)
    guidance = jnp.full(len(lens), 2.0) if config.is_distill else None
    return velocity_of(params, config, t, x[0], x[1], x[2], mask, guidance)


# Random weights amplify rounding, in some items (the distilled model's of 5 frames) so much that
# jax 0.10's matmuls of two batch sizes differ by more than the limit; in these items they do not.
@pytest.mark.parametrize(
    ("kind", "lens", "more"),
    [("zipvoice", [1, 4, 23], 0), ("zipvoice", [10, 7, 3, 2], 9), ("zipvoice_distill", [9, 18], 6)],
)
def test_an_item_does_not_depend_on_its_company(kind: str, lens: list[int], more: int) -> None:
    config, params = make(kind)
    total = max(lens) + more
    together = velocities(config, params, lens, total, seed=3)
    for row, length in enumerate(lens):
        alone = velocities(config, params, [length], length, seed=4)
        assert distance(together[row, :length], alone[0]) < 1e-5


def test_padding_leaks_nothing_at_all() -> None:
    # Other rubbish in the padding gives the same bits: masked, not merely damped.
    config, params = make(**SMALL)
    first = velocities(config, params, [7, 10], 13, seed=0)
    second = velocities(config, params, [7, 10], 13, seed=1)
    assert np.array_equal(first[0, :7], second[0, :7])
    assert np.array_equal(first[1, :10], second[1, :10])


def test_an_empty_row_of_a_batch_is_finite_and_harmless() -> None:
    config, params = make(**SMALL)
    assert np.isfinite(velocities(config, params, [9, 9], 12, seed=0)).all()
    mask = padding_mask(jnp.array([9, 0]), 12)
    x = jnp.ones((2, 12, config.feat_dim))
    v = velocity_of(params, config, jnp.zeros(2), x, x, x, mask, None)
    assert np.isfinite(v).all()


def test_one_call_leads_from_text_to_velocity() -> None:
    config, params = make(**SMALL)
    tokens, tokens_lens, lens = jnp.array([[18, 3, 19, 4, 0]]), jnp.array([4]), jnp.array([9])
    x, t = jnp.ones((1, 12, config.feat_dim)), jnp.array([0.3])

    @jax.jit
    def both(params: Any) -> Any:
        model = bound(params, config)
        text = model.text_condition(tokens, tokens_lens, lens, 12)
        in_parts = model.velocity(t, x, text, x, padding_mask(lens, 12))
        return in_parts, model(tokens, tokens_lens, lens, t, x, x)

    in_parts, at_once = both(params)
    assert np.array_equal(in_parts, at_once)


def test_text_does_not_depend_on_its_padding() -> None:
    config, params = make(**SMALL)
    tokens = np.array([[18, 3, 4, 19, 5, 6, 0]])
    longer = np.pad(np.repeat(tokens, 2, axis=0), ((0, 0), (0, 30)))
    longer[0, :9] = [18, 7, 8, 9, 10, 11, 12, 13, 14]

    def condition(tokens: np.ndarray, lens: list[int], frames: int) -> Any:
        args = (jnp.asarray(tokens), jnp.asarray(lens), jnp.full(len(lens), 20), frames)
        return bound(params, config).text_condition(*args)

    alone, batched = condition(tokens, [6], 20), condition(longer, [9, 6], 33)
    assert distance(batched[1, :20], alone[0]) < 1e-6


def test_bfloat16_is_close_and_float32_at_its_ends() -> None:
    config, params = make(**SMALL)
    half = dataclasses.replace(config, dtype="bfloat16")
    reference = velocities(config, params, [20], 20, seed=0)
    ours = velocities(half, cast_params(params, half), [20], 20, seed=0)
    assert ours.dtype == jnp.float32
    assert 1e-5 < distance(ours, reference) < 0.03

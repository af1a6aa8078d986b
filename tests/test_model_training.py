"""The model in training: its gradients, what is drawn in a step, padding, and what is penalised."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from signals import distance
from small_models import SMALL, batch, make

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.flow.losses import FlowBatch, exclusive_penalty, flow_matching_loss
from zipvoice_jax.nn import hooks
from zipvoice_jax.nn.training import StepContext


@pytest.mark.slow
def test_scan_remat_and_unrolling_agree() -> None:
    # Stacks whose gradients amplify rounding little: others come near the limit in jax 0.10.
    layers = {"fm_decoder_num_layers": (2, 1, 1), "text_encoder_num_layers": 2}
    config, params = make(**{**SMALL, **layers})

    def loss(params: Any, config: ModelConfig) -> jax.Array:
        return flow_matching_loss(params, config, batch(config))[0]

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    reference = run(params, config)
    for changes in ({"remat": "full"}, {"remat": "dots"}, {"unroll_layers": True}):
        other = run(params, dataclasses.replace(config, **changes))
        assert distance(other[0], reference[0]) < 1e-6
        for a, b in zip(jax.tree.leaves(other[1]), jax.tree.leaves(reference[1]), strict=True):
            assert np.abs(a - b).max() <= 1e-4 * max(float(np.abs(b).max()), 1e-3)


@functools.cache
def step_of(config: ModelConfig) -> Any:
    """A compiled training loss with gradients, one for all tests."""

    def loss(params: Any, inputs: FlowBatch, step: jax.Array, key: jax.Array) -> jax.Array:
        ctx = StepContext(step=step, key=key)
        return flow_matching_loss(
            params, config, inputs, weights={"exclusive_weight": 1.0}, ctx=ctx
        )[0]

    return jax.jit(jax.value_and_grad(loss))


def training(config: ModelConfig, params: Any, step: float, key: int, inputs: FlowBatch) -> Any:
    return step_of(config)(params, inputs, jnp.float32(step), jax.random.key(key))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zipvoice_dialog_stereo"])
def test_training_depends_on_step_and_key_alone(kind: str) -> None:
    config, params = make(kind, **SMALL)
    inputs = batch(config)
    value, grads = training(config, params, 100.0, 0, inputs)
    again, same = training(config, params, 100.0, 0, inputs)
    assert np.array_equal(value, again)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not np.array_equal(value, training(config, params, 100.0, 1, inputs)[0])
    assert not np.array_equal(value, training(config, params, 5000.0, 0, inputs)[0])


@pytest.mark.slow
def test_hooks_and_dropout_ignore_padding() -> None:
    # The same step and key on the same items, with rubbish in the padding.
    config, params = make("zipvoice_dialog_stereo", **SMALL)
    value, grads = training(config, params, 100.0, 3, batch(config))
    other, more = training(config, params, 100.0, 3, batch(config, rubbish=50.0))
    assert distance(other, value) < 1e-6
    for a, b in zip(jax.tree.leaves(more), jax.tree.leaves(grads), strict=True):
        assert np.abs(a - b).max() <= 1e-4 * max(float(np.abs(b).max()), 1e-3)


def test_frames_that_hardly_differ_are_not_whitened() -> None:
    rng = np.random.default_rng(0)
    x = jnp.full((2, 50, 8), 1.5) + jnp.asarray(rng.choice([0, 1.2e-7], (2, 50, 8)), jnp.float32)
    dy = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    step, on, limits = jnp.float32(0.0), jnp.float32(1.0), hooks.WhitenLimits(1.01, 1, 0.1)
    _, back = jax.vjp(lambda x: hooks.whiten(x, None, step, on, limits), x)
    np.testing.assert_array_equal(back(dy)[0], dy)


@pytest.mark.parametrize("step", [-5.0, 0.0, 1000.0, 4000.0, 7000.0, 19999.0, 1e9])
def test_limits_of_a_hook_follow_the_step(step: float) -> None:
    rising = ((0.0, 0.25), (4000.0, 0.5), (20000.0, 0.05))
    falling = ((100.0, 0.75), (8000.0, 0.95))
    limits = hooks.BalancerLimits(PiecewiseLinear(rising), PiecewiseLinear(falling), 0.5, 5.0)
    means = [np.interp(step, *np.array(points).T) for points in (rising, falling)]
    expected = [*map(hooks.mean_limit, map(jnp.float32, means)), 1.25331413732 * 0.5, 6.2665706866]
    np.testing.assert_allclose(limits.at(jnp.float32(step)), expected, rtol=1e-5)


def test_exclusive_penalty_by_hand() -> None:
    # Channel energies over 3 valid frames; the median of (1, 2, 3, 4, 5, 6) is 3.5.
    true = jnp.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [99.0, 99.0]]])
    predicted = jnp.array([[[4.0, 5.0], [4.0, 3.0], [3.0, 9.0], [9.0, 9.0]]])
    penalty = exclusive_penalty(predicted, true, jnp.array([3]))
    assert penalty[0, :3].tolist() == [0.5 * 1.5, 0.0, 0.0]
    # A row without a record, as the loader leaves it, has no part in the gradient.
    pair = (jnp.concatenate([x, jnp.zeros_like(x)]) for x in (predicted, true))
    lens = jnp.array([3, 0])
    ours, theirs = pair
    grads = jax.grad(lambda x: exclusive_penalty(x, theirs, lens)[:, :3].sum())(ours)
    assert jnp.isfinite(grads).all() and grads[0, 0].tolist() == [1.5, 0.5]
    assert not grads[1].any()

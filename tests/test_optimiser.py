"""Optimisers, learning rates and averages beyond the recorded numbers of tests/golden."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import devices

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train import schedules
from zipvoice_jax.train import state as averaging
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.objectives import OBJECTIVES
from zipvoice_jax.train.optimizer import adamw
from zipvoice_jax.train.scaled_adam import ScaledAdamState, grow_state, scaled_adam

Tree = dict[str, Any]


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def stacked_params() -> Tree:
    """Three layers of a matrix, a vector and a scalar, and leaves outside the stack."""
    sizes = jnp.asarray([0.1, 1.0, 2.0])
    layers = {
        "kernel": normal(0, 3, 4, 5) * sizes[:, None, None],
        "bias": normal(1, 3, 4) * sizes[:, None],
        "log_scale": normal(2, 3) * sizes,
    }
    return {"encoder": {"layers": layers}, "embed": normal(3, 6, 2), "one": normal(4, 1)}


def gradients(params: Tree, steps: int) -> Tree:
    def of_leaf(p: jax.Array) -> jax.Array:
        size = jnp.exp(2.0 * normal(steps, steps)).reshape(steps, *(1,) * p.ndim)
        return normal(p.size, steps, *p.shape) * size

    return jax.tree.map(of_leaf, params)


def train(optimizer: Any, params: Tree, grads: Tree) -> tuple[Tree, Any]:
    """Parameters and state after all gradients, as one compiled scan."""

    @jax.jit
    def run(params: Tree, grads: Tree) -> Any:
        def step(carry: Any, grad: Tree) -> Any:
            params, state = carry
            changes, state = optimizer.update(grad, state, params)
            return (optax.apply_updates(params, changes), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), grads)[0]

    return run(params, grads)


def close(ours: Any, wanted: Any, limit: float = 1e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, limit, limit), ours, wanted)


def test_every_layer_of_a_stack_is_a_tensor_of_its_own() -> None:
    params = stacked_params()
    grads = gradients(params, 45)
    together, state = train(scaled_adam(0.03), params, grads)

    def apart(tree: Tree, axis: int) -> Tree:
        rest = {name: tree[name] for name in ("embed", "one")}
        parts = [
            jax.tree.map(lambda x: jnp.take(x, i, axis), tree["encoder"]["layers"])  # noqa: B023
            for i in range(3)
        ]
        return {"parts": parts, **rest}

    wanted, alone = train(scaled_adam(0.03), apart(params, 0), apart(grads, 1))
    close(apart(together, 0), wanted)
    close(state.total_norm, alone.total_norm)
    close(jnp.sort(state.param_rms), jnp.sort(alone.param_rms))
    as_one, _ = train(scaled_adam(0.03, stacked=lambda path: False), params, grads)
    assert not np.allclose(as_one["encoder"]["layers"]["kernel"], together["encoder"]["layers"]["kernel"], 1e-3)  # fmt: skip  # noqa: E501
    assert state.threshold < jnp.inf
    assert state.age.shape == (11,)


def test_a_scan_is_a_loop() -> None:
    params = stacked_params()
    grads = gradients(params, 13)
    for optimizer in (scaled_adam(0.03), adamw(0.03)):
        wanted, state = train(optimizer, params, grads)
        update = jax.jit(optimizer.update)
        looped, carried = params, optimizer.init(params)
        for i in range(13):
            changes, carried = update(jax.tree.map(lambda g: g[i], grads), carried, looped)  # noqa: B023
            looped = optax.apply_updates(looped, changes)
        close(looped, wanted)
        close(carried, state)


def test_a_gradient_that_is_not_finite_counts_as_zero() -> None:
    params = stacked_params()
    grads = gradients(params, 12)
    for optimizer in (scaled_adam(0.03), adamw(0.03)):
        _, state = train(optimizer, params, grads)
        update = jax.jit(optimizer.update)
        for bad in (np.nan, np.inf):
            grad = jax.tree.map(jnp.zeros_like, params)
            broken = {**grad, "embed": grad["embed"].at[0, 0].set(bad)}
            wanted, _ = update(grad, state, params)
            changes, after = update(broken, state, params)
            close(changes, wanted)
            if isinstance(after, ScaledAdamState):  # which says what it clipped by
                assert after.clip_factor == 0.0
                assert not np.isfinite(after.total_norm)
    with pytest.raises(UserError, match="periods"):
        scaled_adam(0.1, size_update_period=0)


def test_scalars_stay_within_their_bounds_and_sizes_within_theirs() -> None:
    params = {"s": jnp.full((1,), 9.9), "w": jnp.full((2, 3), 2.5), "tiny": jnp.full((4,), 1e-7)}
    grads = jax.tree.map(lambda p: jnp.broadcast_to(-p[None], (200, *p.shape)), params)
    after, state = train(scaled_adam(0.02, clipping_scale=None), params, grads)
    close(after["s"], [10.0])
    assert jnp.sqrt(jnp.mean(after["w"] ** 2)) < 3.5
    assert state.threshold == jnp.inf
    update = jax.jit(scaled_adam(0.02).update)
    changes, _ = update(jax.tree.map(lambda g: g[0], grads), state, after)
    assert float(changes["s"][0]) <= 0.0


def test_the_learning_rate_is_that_of_the_updates_so_far_or_as_given() -> None:
    params = {"w": normal(0, 2, 3)}
    grad = {"w": normal(1, 2, 3)}
    for build in (scaled_adam, adamw):
        scheduled = build(lambda count: 0.5 + count.astype(jnp.float32))
        state, update = scheduled.init(params), jax.jit(scheduled.update)
        changes, after = update(grad, state, params)
        close(changes, jax.jit(build(0.5).update)(grad, state, params)[0])
        second, _ = update(grad, after, params)
        close(second, jax.jit(build(1.5).update)(grad, after, params)[0])
        explicit = jax.jit(build().update)(grad, state, params, learning_rate=jnp.float32(0.5))[0]
        close(explicit, changes)
        with pytest.raises(UserError, match="learning rate"):
            build().update(grad, state, params)


def test_adamw_is_that_of_optax() -> None:
    params = stacked_params()
    grads = gradients(params, 9)
    chain = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(0.01, b1=0.9, b2=0.98, weight_decay=0.01),
    )
    with jax.numpy_dtype_promotion("standard"):
        wanted, _ = train(chain, params, grads)
    close(train(adamw(0.01), params, grads)[0], wanted)


SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import test_optimiser as t
from zipvoice_jax.train.scaled_adam import scaled_adam

params = {"layers": {"kernel": t.normal(0, 3, 16, 8)}, "embed": t.normal(1, 24, 5)}
grads = t.gradients(params, 25)
wanted, state = t.train(scaled_adam(0.03), params, grads)
assert jax.device_count() == 8
mesh = Mesh(np.array(jax.devices()), ("data",))
where = {"layers": {"kernel": NamedSharding(mesh, P(None, "data"))},
         "embed": NamedSharding(mesh, P("data"))}
split = jax.device_put(params, where)
ours, sharded = t.train(scaled_adam(0.03), split, grads)
t.close(ours, wanted, 1e-5)
t.close(sharded, state, 1e-5)
update = jax.jit(scaled_adam(0.03).update)
first = jax.tree.map(lambda g: g[0], grads)
_, after = update(jax.device_put(first, where), scaled_adam(0.03).init(split), split)
assert jax.tree.map(lambda x: x.sharding.spec, after.delta) == jax.tree.map(
    lambda s: s.spec, where, is_leaf=lambda s: isinstance(s, NamedSharding))
print("equal")
"""


def test_eight_devices_do_what_one_does() -> None:
    here = Path(__file__).resolve().parent
    code = f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n{SHARDED}"
    environment = {**os.environ, **devices(8), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_a_grown_model_keeps_what_still_fits() -> None:
    old = {"embed": {"embedding": normal(0, 4, 3)}, "in_proj": normal(1, 3, 2), "layers": {"b": normal(2, 2, 3)}}  # fmt: skip  # noqa: E501
    optimizer = scaled_adam(0.03)
    _, state = train(optimizer, old, gradients(old, 7))
    new = {
        "embed": {"embedding": normal(3, 6, 3)},
        "in_proj_0": normal(4, 5, 2),
        "layers": old["layers"],
        "spk_embed": normal(5, 2, 3),
    }
    grown = grow_state(state, new)
    fresh = optimizer.init(new)
    close(grown.delta["embed"]["embedding"][:4], state.delta["embed"]["embedding"])
    assert not grown.delta["embed"]["embedding"][4:].any()
    v = grown.exp_avg_sq["embed"]["embedding"]
    close(v[:4], state.exp_avg_sq["embed"]["embedding"])
    close(v[4:], jnp.full((2, 3), v[:4].mean()))
    close(grown.delta["layers"], state.delta["layers"])
    # By leaf: embed, in_proj_0, two layers, spk_embed; before: embed, in_proj, two layers.
    assert grown.age.tolist() == [7, 0, 7, 7, 0]
    wanted = [fresh.param_rms[0], fresh.param_rms[1], *state.param_rms[2:], fresh.param_rms[4]]
    close(grown.param_rms, jnp.stack(wanted))
    close(grown.scale_grads[:, 2:4], state.scale_grads[:, 2:])
    assert (grown.updates, grown.threshold) == (7, state.threshold)
    after, _ = train_on(optimizer, grown, new)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))

    rows = {("embed", "embedding"): [-1, 3, 2, 1, 0, -1]}
    moved = grow_state(state, new, source_rows=rows)
    close(moved.delta["embed"]["embedding"][1:5], state.delta["embed"]["embedding"][::-1])
    close(grow_state(state, old), state)
    with pytest.raises(UserError, match="source_rows"):
        grow_state(state, new, source_rows={("embed", "embedding"): [9] * 6})
    with pytest.raises(UserError, match="spk_embedding"):
        grow_state(state, new, source_rows={("spk_embedding",): [0]})


def train_on(optimizer: Any, state: Any, params: Tree) -> tuple[Tree, Any]:
    changes, state = jax.jit(optimizer.update)(params, state, params)
    return optax.apply_updates(params, changes), state


def test_eden_at_its_boundaries() -> None:
    flat = schedules.eden(0.02, 7500, 3.5, epoch=lambda batch: batch * 0.0)
    rates = jax.vmap(flat)(jnp.asarray([0, 250, 500]))
    steady = 0.02 * (1 + (jnp.asarray([0.0, 250.0, 500.0]) / 7500) ** 2) ** -0.25
    close(rates, steady * jnp.asarray([0.5, 0.75, 1.0]))
    hours = schedules.eden(0.02, 7500, 30000, epoch=lambda batch: batch * (4000 / 3600))
    close(hours(27000) / flat(27000), 2.0**-0.25, 1e-5)
    assert schedules.eden(1.0, 9, 9, epoch=lambda b: b, warmup_batches=0)(0) == 1.0
    rising = schedules.eden(
        2.0, 1e12, 1, epoch=lambda b: b * 0.0, warmup_batches=10, warmup_start=0.0
    )
    assert [float(rising(step)) for step in (0, 5, 10, 99)] == [0.0, 1.0, 2.0, 2.0]
    for wrong in ({"warmup_batches": -1.0}, {"warmup_start": 2.0}, {"lr_batches": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            schedules.Eden(base_lr=1.0, lr_hours=1.0, **wrong)


def test_stages_count_their_own_steps() -> None:
    def rising(slope: float) -> PiecewiseLinear:
        return PiecewiseLinear(((0.0, 0.0), (9.0, 9.0 * slope)))

    data = DataConfig((SourceConfig("none"),), batch_seconds=9.0)
    stages = tuple(
        Stage(name=name, kind="zipvoice", steps=steps, data=data, exclusive_weight=weight)
        for name, steps, weight in (("a", 3, rising(1.0)), ("b", 2, 7.0), ("c", 9, rising(2.0)))
    )
    run = TrainConfig(model=ModelConfig(), stages=stages, tokens="none")
    joined = schedules.schedules_of(run)["exclusive_weight"]
    values = [float(joined(jnp.int32(step))) for step in range(8)]
    assert values == [0.0, 1.0, 2.0, 7.0, 7.0, 0.0, 2.0, 4.0]


def test_batch_counts_are_refreshed_every_ten_batches() -> None:
    counts = [schedules.adjusted_batch_count(n, 4000.0, offset=1e5) for n in (0, 9, 10, 25)]
    assert [float(count) for count in counts] == [100000.0, 100000.0, 100800.0, 101600.0]


def test_the_running_average_is_the_mean_of_its_window() -> None:
    """Also how far float32 falls behind float64, over 400 averages of 4,000 updates."""
    period, steps = 10, 4000
    walk = 1.0 + np.cumsum(np.random.default_rng(0).normal(size=(steps, 50)), axis=0) * 1e-3
    walk = walk.astype(np.float32)

    @jax.jit
    def run(params: jax.Array) -> jax.Array:
        def step(average: Tree, inputs: tuple[jax.Array, jax.Array]) -> tuple[Tree, Tree]:
            number, params = inputs
            average = averaging.running_average({"w": params}, average, number, period)
            return average, average

        numbers = jnp.arange(1, steps + 1)
        return jax.lax.scan(step, {"w": jnp.full(50, 7.0)}, (numbers, params))[1]["w"]

    averages = run(jnp.asarray(walk))
    terms = walk[period - 1 :: period].astype(np.float64)
    np.testing.assert_allclose(averages[period - 2], 7.0)
    np.testing.assert_allclose(averages[-1], terms.mean(axis=0), rtol=3e-6)
    start, end = 3007, 3999
    window = averaging.between({"w": averages[start - 1]}, start, {"w": averages[end - 1]}, end, period)  # fmt: skip  # noqa: E501
    np.testing.assert_allclose(window["w"], terms[300:399].mean(axis=0), rtol=1e-5)
    whole = averaging.between({"w": np.zeros(50)}, 0, {"w": averages[-1]}, steps, period)
    np.testing.assert_array_equal(whole["w"], averages[-1])
    with pytest.raises(UserError, match="between steps 11 and 19"):
        averaging.between({"w": walk[0]}, 11, {"w": walk[1]}, 19, period)


def test_an_exponential_average_moves_by_its_share() -> None:
    old, new = {"w": normal(0, 3)}, {"w": normal(1, 3)}
    decays = [float(averaging.warm_decay(step, 0.99)) for step in (1, 90, 10_000)]
    assert decays == pytest.approx([2 / 11, 0.91, 0.99])
    close(
        OBJECTIVES["distill_second"].next_teacher(old, new, 0.9),
        {"w": 0.9 * old["w"] + 0.1 * new["w"]},
    )

"""ScaledAdam, the official optimiser (zipvoice/utils/optim.py).

It is Adam whose step is proportional to each tensor's root mean square, which also learns that
size, and which clips by the median of recent norms. Its "tensor" is an official one: a layer of a
stacked leaf counts on its own.

The learning rate is a number or an optax schedule of the updates made so far: the first update
sees 0. The official trainers call `scheduler.step_batch(n)` just before the n-th
`optimizer.step`, so the rate of official batch n is that of count n - 1 here. `update` takes
`learning_rate` as an extra argument too, which goes before the one given at the start.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from zipvoice_jax.core.errors import UserError

LearningRate = float | Array | optax.Schedule | None
KeyPath = tuple[Any, ...]  # as jax.tree_util gives them

_EARLY_UPDATES = (10, 20, 40)  # at which a threshold is first estimated, from few norms
_EARLY_SLACK = 2.0  # factor on those thresholds, as norms change fast early on


def in_layers(path: KeyPath) -> bool:
    """Whether a leaf holds the layers of a stack on axis 0: its path has the key `layers`."""
    return any(getattr(entry, "key", None) == "layers" for entry in path)


class ScaledAdamState(NamedTuple):
    """The state of `scaled_adam`, all arrays.

    The last four have an entry per official tensor, in the order of the tree's leaves and,
    within a stacked leaf, of its layers.

    Attributes:
        updates: made so far.
        model_norms: norms of the last gradients, from which the threshold is taken; a ring.
        threshold: norm above which gradients are clipped; infinite until first estimated.
        total_norm: norm of the last gradient, weighted by the size of the parameters.
        clip_factor: what the last gradient was multiplied by; 0 if it was not finite.
        exp_avg_sq: mean squared gradient, a tree shaped like the parameters.
        delta: the last change, which carries the momentum; a tree shaped like the parameters.
        age: updates since a tensor began; a grown model has tensors of several ages.
        param_rms: root mean square, refreshed every few updates.
        scale_exp_avg_sq: mean squared gradient of the scale.
        scale_grads: the last gradients of the scale, a ring.
    """

    updates: Int[Array, ""]
    model_norms: Float[Array, " clipping_update_period"]
    threshold: Float[Array, ""]
    total_norm: Float[Array, ""]
    clip_factor: Float[Array, ""]
    exp_avg_sq: Any
    delta: Any
    age: Int[Array, " tensors"]
    param_rms: Float[Array, " tensors"]
    scale_exp_avg_sq: Float[Array, " tensors"]
    scale_grads: Float[Array, "size_update_period tensors"]


def scaled_adam(
    learning_rate: LearningRate = None,
    *,
    clipping_scale: float | None = 2.0,
    betas: tuple[float, float] = (0.9, 0.98),
    scalar_lr_scale: float = 0.1,
    eps: float = 1e-8,
    param_min_rms: float = 1e-5,
    param_max_rms: float = 3.0,
    scalar_max: float = 10.0,
    size_update_period: int = 4,
    clipping_update_period: int = 100,
    stacked: Callable[[KeyPath], bool] = in_layers,
) -> optax.GradientTransformationExtraArgs:
    """The official optimiser.

    A gradient that is not finite counts as zero (`clip_factor` is 0), and its norm enters the
    ring as the largest. Where the official code would stop since the median norm is not
    finite, the threshold stays what it was.

    Args:
        learning_rate: see above; None if every update is given its own.
        clipping_scale: gradients are clipped at this times the median norm; None never clips.
        betas: decay of the momentum and of the squared gradients.
        scalar_lr_scale: factor on the learning rate for tensors of one number and for scales.
        eps: added to denominators.
        param_min_rms: a tensor's step is no smaller than that of this size, and a smaller one
            is not shrunk.
        param_max_rms: greatest size that a tensor's scale may grow to.
        scalar_max: greatest absolute value of a tensor of one number.
        size_update_period: updates between changes of scale.
        clipping_update_period: updates between estimates of the threshold, and norms kept.
        stacked: tells from a leaf's key path whether each index of axis 0 is a tensor of its
            own.

    Returns:
        A transformation whose updates are to be added to float32 parameters.

    Raises:
        UserError: a period below 1, or betas outside 0 to 1.
    """
    if min(size_update_period, clipping_update_period) < 1 or not all(0 < b < 1 for b in betas):
        raise UserError(
            f"ScaledAdam has periods {size_update_period} and {clipping_update_period} and betas "
            f"{betas}; give periods of 1 or more and betas between 0 and 1."
        )
    beta1, beta2 = betas
    period = size_update_period

    def init(params: optax.Params) -> ScaledAdamState:
        axes = leads(params, stacked)
        leaves = [jnp.asarray(p, jnp.float32) for p in jax.tree.leaves(params)]
        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
        param_rms = root_mean_squares(leaves, axes)
        return ScaledAdamState(
            updates=jnp.zeros((), jnp.int32),
            model_norms=jnp.zeros(clipping_update_period, jnp.float32),
            threshold=jnp.full((), jnp.inf, jnp.float32),
            total_norm=jnp.zeros((), jnp.float32),
            clip_factor=jnp.ones((), jnp.float32),
            exp_avg_sq=zeros,
            delta=jax.tree.map(jnp.copy, zeros),  # no buffer twice: states are donated
            age=jnp.zeros(param_rms.shape, jnp.int32),
            param_rms=param_rms,
            scale_exp_avg_sq=jnp.zeros_like(param_rms),
            scale_grads=jnp.zeros((period, *param_rms.shape), jnp.float32),
        )

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: Any = None,
        *,
        learning_rate: LearningRate = learning_rate,
        **_: Any,
    ) -> tuple[optax.Updates, ScaledAdamState]:
        state = cast(ScaledAdamState, state)
        assert params is not None, "ScaledAdam needs the parameters"
        lr = rate_at(learning_rate, state.updates)
        tree, axes = jax.tree.structure(params), leads(params, stacked)
        ps, gs, vs, deltas = map(
            tree.flatten_up_to, (params, updates, state.exp_avg_sq, state.delta)
        )
        gs = [g.astype(jnp.float32) for g in gs]
        is_scalar = scalars(ps, axes)

        squares = dots(gs, gs, axes)
        weight = jnp.where(is_scalar, scalar_lr_scale, state.param_rms)
        norm = jnp.sqrt(jnp.sum(squares * weight**2))
        # The first norm is not kept: the ring begins with the second, as officially.
        kept = state.model_norms.at[state.updates % clipping_update_period].set(norm)
        norms = jnp.where(state.updates > 0, kept, state.model_norms)
        threshold = state.threshold
        if clipping_scale is not None:
            threshold = new_threshold(state.updates, norms, threshold, clipping_scale)
        factor = clip_factor(norm, threshold)

        age = state.age + 1
        correction = _bias_correction(beta2, age)
        # Officially left out once it makes less than 1 % of difference.
        correction = jnp.where(correction < 0.99, 1.0 / correction, 1.0)

        is_due = age % period == 0
        newest = jnp.arange(period)[:, None] == (state.age % period)[None, :]
        scale_grad = clipped(dots(ps, gs, axes), factor)
        scale_grads = jnp.where(newest, scale_grad[None, :], state.scale_grads)
        rms = jnp.where(is_due, root_mean_squares(ps, axes), state.param_rms)
        step_size = lr * jnp.where(is_scalar, scalar_lr_scale, jnp.maximum(rms, param_min_rms))

        is_due &= (age > 1) & ~is_scalar
        decay = beta2**period
        squared = decay * state.scale_exp_avg_sq + (1 - decay) * jnp.mean(scale_grads**2, axis=0)
        scale_exp_avg_sq = jnp.where(is_due, squared, state.scale_exp_avg_sq)
        pull = jnp.sum(scale_grads, axis=0) / (jnp.sqrt(scale_exp_avg_sq) + eps)
        growth = -scalar_lr_scale * lr * jnp.sqrt(_bias_correction(decay, age // period)) * pull
        growth = jnp.where(rms < param_min_rms, 0.0, growth)
        growth = jnp.minimum(jnp.clip(growth, -0.1, 0.1), (param_max_rms - rms) / rms)
        growth = jnp.where(is_due, growth, 0.0)

        def step_leaf(
            p: Array, g: Array, v: Array, delta: Array, *numbers: Array
        ) -> tuple[Array, Array, Array]:
            correct, size, grow = (spread(number, p) for number in numbers)
            g = clipped(g, factor)
            v = beta2 * v + (1 - beta2) * g**2
            step = p * grow - size * g / (jnp.sqrt(v * correct) + eps)
            delta = beta1 * delta + (1 - beta1) * step
            change = delta
            if p.size == numbers[0].size:
                change = jnp.clip(p + delta, -scalar_max, scalar_max) - p
            return change, v, delta

        numbers = [split(vector, ps, axes) for vector in (correction, step_size, growth)]
        stepped = [step_leaf(*row) for row in zip(ps, gs, vs, deltas, *numbers, strict=True)]
        changes, exp_avg_sq, delta = (tree.unflatten(x) for x in zip(*stepped, strict=True))
        return changes, ScaledAdamState(
            updates=state.updates + 1,
            model_norms=norms,
            threshold=threshold,
            total_norm=norm,
            clip_factor=factor,
            exp_avg_sq=exp_avg_sq,
            delta=delta,
            age=age,
            param_rms=rms,
            scale_exp_avg_sq=scale_exp_avg_sq,
            scale_grads=scale_grads,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def rate_at(learning_rate: LearningRate, count: Int[Array, ""]) -> Float[Array, ""]:
    """The learning rate of an update."""
    if learning_rate is None:
        raise UserError("the optimiser was given no learning rate; give it one, or each update.")
    value = learning_rate(count) if callable(learning_rate) else learning_rate
    return jnp.asarray(value, jnp.float32)


def _bias_correction(beta: float, updates: Array) -> Array:
    """1 - beta^updates, exact where beta is close to 1."""
    return -jnp.expm1(updates.astype(jnp.float32) * math.log(beta))


# --- clipping by the norm ------------------------------------------------------------------


def new_threshold(
    count: Int[Array, ""],
    model_norms: Float[Array, " clipping_update_period"],
    threshold: Float[Array, ""],
    clipping_scale: float,
) -> Float[Array, ""]:
    """The clipping threshold, renewed at a few early updates and then once in a period.

    An early one is from the last `count` entries in rising order, all the norms that there are.
    """
    period = model_norms.shape[0]
    ordered = jnp.sort(model_norms)

    def median(last: int) -> Array:
        return ordered[period - last + min(last - 1, last // 4 * 2)]

    renewals = [
        (count == early, _EARLY_SLACK * clipping_scale * median(early))
        for early in _EARLY_UPDATES
        if early < period
    ]
    renewals.append(((count > 0) & (count % period == 0), clipping_scale * median(period)))
    for is_due, renewed in renewals:
        threshold = jnp.where(is_due & jnp.isfinite(renewed), renewed, threshold)
    return threshold


def clip_factor(norm: Float[Array, ""], threshold: Float[Array, ""]) -> Float[Array, ""]:
    """What a gradient of this norm is to be multiplied by; 0 where it is not finite."""
    factor = jnp.minimum(1.0, threshold / (norm + 1e-20))
    return jnp.where(jnp.isfinite(norm), factor, 0.0)


def clipped(grads: Any, factor: Float[Array, ""]) -> Any:
    """Gradients times the factor; zeros where it is 0, whatever they were."""
    return jax.tree.map(lambda g: jnp.where(factor > 0, g * factor, 0.0), grads)


# --- a grown model -------------------------------------------------------------------------


def grow_state(
    state: ScaledAdamState,
    params: optax.Params,
    *,
    source_rows: Mapping[tuple[str, ...], Sequence[int]] | None = None,
    stacked: Callable[[KeyPath], bool] = in_layers,
) -> ScaledAdamState:
    """Carries the state over to a model that has grown.

    - A leaf of the same path and shape keeps all it has.
    - A leaf with more rows (axis 0, not stacked) keeps what its old rows have. New rows get no
      momentum and the mean squared gradient of the kept rows; the tensor's size is measured
      anew.
    - Every other leaf starts as at a first update; what it was before is forgotten.

    Counts, norms and threshold go on.

    Args:
        state: before.
        params: after growing, concrete arrays.
        source_rows: by path of keys, for each new row the old one, or -1 for none; needed
            where rows moved. By default the old rows come first.
        stacked: as given to `scaled_adam`.

    Raises:
        UserError: `source_rows` does not fit a leaf.
    """
    period = state.scale_grads.shape[0]
    fresh = scaled_adam(size_update_period=period, stacked=stacked).init(params)
    before, after = _by_leaf(state, stacked), _by_leaf(cast(ScaledAdamState, fresh), stacked)
    moved = {tuple(path): np.asarray(rows) for path, rows in (source_rows or {}).items()}
    grown = []
    for path, new in after.items():
        old = before.get(path)
        rows = moved.pop(tuple(str(getattr(key, "key", key)) for key in path), None)
        if old is None or stacked(path) or not new.delta.ndim:
            grown.append(old if old and old.delta.shape == new.delta.shape else new)
            continue
        n_old, n_new = old.delta.shape[0], new.delta.shape[0]
        if rows is None and n_old <= n_new:
            rows = np.where(np.arange(n_new) < n_old, np.arange(n_new), -1)
        if rows is None or old.delta.shape[1:] != new.delta.shape[1:]:
            grown.append(new)
            continue
        if rows.shape != (n_new,) or rows.max() >= n_old or rows.min() < -1:
            raise UserError(
                f"source_rows of {jax.tree_util.keystr(path)} do not fit its {n_new} new and "
                f"{n_old} old rows; give one old row, or -1, for each new one."
            )
        grown.append(_with_rows(old, new, rows))
    if moved:
        raise UserError(
            f"source_rows names {'/'.join(next(iter(moved)))}, which has no old rows; leave it out."
        )
    tree = jax.tree.structure(params)
    v, delta, *numbers = zip(*grown, strict=True)
    joined = [jnp.concatenate(parts, axis=-1) for parts in numbers]
    return ScaledAdamState(*state[:5], tree.unflatten(v), tree.unflatten(delta), *joined)


class _LeafState(NamedTuple):
    """What a state holds of one leaf; the last four with an entry per tensor of it."""

    exp_avg_sq: Array
    delta: Array
    age: Array
    param_rms: Array
    scale_exp_avg_sq: Array
    scale_grads: Array


def _by_leaf(
    state: ScaledAdamState, stacked: Callable[[KeyPath], bool]
) -> dict[KeyPath, _LeafState]:
    """A state leaf by leaf, in order."""
    paths, tree = jax.tree_util.tree_flatten_with_path(state.delta)
    counts = [delta.shape[0] if stacked(path) else 1 for path, delta in paths]
    bounds = np.cumsum(counts)[:-1].tolist()
    numbers = (state.age, state.param_rms, state.scale_exp_avg_sq, state.scale_grads)
    parts = [jnp.split(vector, bounds, axis=-1) for vector in numbers]
    rows = zip(tree.flatten_up_to(state.exp_avg_sq), [d for _, d in paths], *parts, strict=True)
    return {path: _LeafState(*row) for (path, _), row in zip(paths, rows, strict=True)}


def _with_rows(old: _LeafState, new: _LeafState, rows: np.ndarray) -> _LeafState:
    """A leaf's state whose rows come from old ones; see `grow_state`."""
    kept = rows >= 0
    if kept.all() and len(rows) == old.delta.shape[0] and (np.diff(rows) == 1).all():
        return old
    mean = jnp.mean(old.exp_avg_sq[rows[kept]]) if kept.any() else jnp.zeros(())
    is_kept = spread(jnp.asarray(kept), new.delta)
    source = np.maximum(rows, 0)
    return old._replace(
        exp_avg_sq=jnp.where(is_kept, old.exp_avg_sq[source], mean),
        delta=jnp.where(is_kept, old.delta[source], 0.0),
        param_rms=new.param_rms,
    )


# --- numbers per official tensor -------------------------------------------------------------

# They are held in one vector for a whole tree, in the order of its leaves and, within a stacked
# leaf, of its layers. That keeps programs small: most work of ScaledAdam is on such numbers, and a
# model has hundreds of leaves.


def leads(params: Any, stacked: Callable[[KeyPath], bool]) -> list[int]:
    """For each leaf how many of its axes, 0 or 1, count official tensors."""
    return [int(stacked(path)) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def dots(
    xs: Sequence[Array], ys: Sequence[Array], leads: Sequence[int]
) -> Float[Array, " tensors"]:
    """The inner product of each tensor of one tree with that of another."""

    def dot(x: Array, y: Array, lead: int) -> Array:
        within, across = tuple(range(lead, x.ndim)), tuple(range(lead))
        dimensions = (within, within), (across, across)
        return jax.lax.dot_general(x, y, dimensions, precision="highest").reshape(-1)

    return jnp.concatenate([dot(*row) for row in zip(xs, ys, leads, strict=True)])


def root_mean_squares(xs: Sequence[Array], leads: Sequence[int]) -> Float[Array, " tensors"]:
    """The root mean square of each tensor."""
    sizes = [
        math.prod(x.shape[lead:])
        for x, lead in zip(xs, leads, strict=True)
        for _ in range(math.prod(x.shape[:lead]))
    ]
    return jnp.sqrt(dots(xs, xs, leads) / np.array(sizes, np.float32))


def split(
    vector: Float[Array, " tensors"], leaves: Sequence[Array], leads: Sequence[int]
) -> list[Array]:
    """Numbers per tensor, apart again: each leaf's own, of shape () or (layers,)."""
    shapes = [x.shape[:lead] for x, lead in zip(leaves, leads, strict=True)]
    bounds = np.cumsum([math.prod(shape) for shape in shapes])[:-1].tolist()
    parts = jnp.split(vector, bounds)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def scalars(leaves: Sequence[Array], leads: Sequence[int]) -> np.ndarray:
    """For each tensor whether it is a single number, which has no scale of its own."""
    found = []
    for x, lead in zip(leaves, leads, strict=True):
        count = math.prod(x.shape[:lead])
        found += [x.size == count] * count
    return np.array(found)


def spread(numbers: Array, x: Array) -> Array:
    """One number per tensor, or per row, shaped to be multiplied with a leaf."""
    return numbers.reshape(numbers.shape + (1,) * (x.ndim - numbers.ndim))

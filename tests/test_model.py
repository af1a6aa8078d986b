"""Properties of the model: invariance to batch and padding, speaker turns, training mode."""

import dataclasses
import functools
import json
import math
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from zipvoice_jax.checkpoint import mapping
from zipvoice_jax.config import MODEL_KINDS, ModelConfig
from zipvoice_jax.core.masks import padding_mask, speaker_rows
from zipvoice_jax.core.upsampling import token_index
from zipvoice_jax.flow.losses import FlowBatch, exclusive_penalty, flow_matching_loss
from zipvoice_jax.flow.sampling import item_noise, predicted_frames, time_steps
from zipvoice_jax.models.flops import sampling_flops
from zipvoice_jax.models.zipvoice import (
    abstract_params,
    bound,
    cast_params,
    init_params,
)
from zipvoice_jax.nn import hooks
from zipvoice_jax.nn.training import StepContext

SIZES: dict[str, Any] = {
    "fm_decoder_downsampling_factor": (1, 2, 4, 2, 1),
    "fm_decoder_num_layers": (1, 1, 2, 1, 1),
    "fm_decoder_cnn_module_kernel": (7, 5, 3, 5, 7),
    "fm_decoder_feedforward_dim": 32,
    "fm_decoder_num_heads": 2,
    "fm_decoder_dim": 24,
    "text_encoder_num_layers": 2,
    "text_encoder_feedforward_dim": 24,
    "text_encoder_cnn_module_kernel": 5,
    "text_encoder_num_heads": 2,
    "text_encoder_dim": 16,
    "query_head_dim": 8,
    "value_head_dim": 6,
    "pos_dim": 16,
    "time_embed_dim": 16,
    "text_embed_dim": 16,
    "feat_dim": 10,
    "vocab_size": 20,
    "spk_a_id": 18,
    "spk_b_id": 19,
}


@functools.cache
def make(kind: str = "zipvoice_dialog", **changes: Any) -> tuple[ModelConfig, dict[str, Any]]:
    """A tiny model with parameters of about the usual size, none at a neutral value."""
    config = ModelConfig(kind=kind, **{**SIZES, **changes})
    rng = np.random.default_rng(1)
    leaves = {
        path: jnp.asarray((0.3 * rng.standard_normal(shape)).astype(np.float32))
        for path, shape in mapping.param_shapes(config).items()
    }
    return config, unflatten_dict(leaves)


def error(ours: Any, reference: Any) -> float:
    a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@functools.partial(jax.jit, static_argnums=1)
def velocity_of(params: Any, config: ModelConfig, *args: Any) -> jax.Array:
    return bound(params, config).velocity(*args)


@functools.partial(jax.jit, static_argnums=1)
def text_embed(
    params: Any, config: ModelConfig, tokens: jax.Array, tokens_lens: jax.Array
) -> jax.Array:
    return bound(params, config).text_embed(tokens, tokens_lens)


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
        assert error(together[row, :length], alone[0]) < 1e-5


def test_padding_leaks_nothing_at_all() -> None:
    # Other rubbish in the padding gives the same bits: masked, not merely damped.
    config, params = make()
    first = velocities(config, params, [7, 10], 13, seed=0)
    second = velocities(config, params, [7, 10], 13, seed=1)
    assert np.array_equal(first[0, :7], second[0, :7])
    assert np.array_equal(first[1, :10], second[1, :10])


def test_an_empty_row_of_a_batch_is_finite_and_harmless() -> None:
    config, params = make()
    assert np.isfinite(velocities(config, params, [9, 9], 12, seed=0)).all()
    mask = padding_mask(jnp.array([9, 0]), 12)
    x = jnp.ones((2, 12, config.feat_dim))
    v = velocity_of(params, config, jnp.zeros(2), x, x, x, mask, None)
    assert np.isfinite(v).all()


def test_one_call_leads_from_text_to_velocity() -> None:
    config, params = make()
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
    config, params = make()
    tokens = np.array([[18, 3, 4, 19, 5, 6, 0]])
    longer = np.pad(np.repeat(tokens, 2, axis=0), ((0, 0), (0, 30)))
    longer[0, :9] = [18, 7, 8, 9, 10, 11, 12, 13, 14]

    def condition(tokens: np.ndarray, lens: list[int], frames: int) -> Any:
        args = (jnp.asarray(tokens), jnp.asarray(lens), jnp.full(len(lens), 20), frames)
        return bound(params, config).text_condition(*args)

    alone, batched = condition(tokens, [6], 20), condition(longer, [9, 6], 33)
    assert error(batched[1, :20], alone[0]) < 1e-6


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


def test_token_index_with_more_tokens_than_frames() -> None:
    index = token_index(jnp.array([3, 10]), jnp.array([5, 3]), 10)
    assert index[0, :3].tolist() == [5, 5, 5]
    assert index[1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_every_leaf_has_official_names(kind: str) -> None:
    config = ModelConfig(kind=kind, **SIZES)
    specs = mapping.tensor_specs(config)
    assert len({spec.name for spec in specs}) == len(specs)
    sizes: dict[Any, int] = dict.fromkeys(mapping.param_shapes(config), 0)
    for spec in specs:
        sizes[spec.path] += math.prod(spec.shape)
    assert sizes == {path: math.prod(s) for path, s in mapping.param_shapes(config).items()}


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
        assert error(other[0], reference[0]) < 1e-6
        for a, b in zip(jax.tree.leaves(other[1]), jax.tree.leaves(reference[1]), strict=True):
            assert np.abs(a - b).max() <= 1e-4 * max(float(np.abs(b).max()), 1e-3)


# A training step draws hundreds of random numbers, each of which takes time to compile.
SMALL: dict[str, Any] = {
    "fm_decoder_downsampling_factor": (1, 2, 1),
    "fm_decoder_num_layers": (1, 1, 1),
    "fm_decoder_cnn_module_kernel": (5, 3, 5),
    "text_encoder_num_layers": 1,
}
# With all that a stack can have.


def batch(config: ModelConfig, total: int = 14, rubbish: float = 0.0) -> FlowBatch:
    """Two items of 14 and 9 frames, padded to `total`, padding filled with `rubbish`."""
    rng = np.random.default_rng(0)
    dim = config.channels * config.feat_dim
    lens = np.array([14, 9])
    features, noise = np.full((2, 2, total, dim), rubbish, np.float32)
    for row, length in enumerate(lens):
        features[row, :length] = rng.standard_normal((length, dim))
        noise[row, :length] = rng.standard_normal((length, dim))
    counted = np.zeros((2, total), bool)
    counted[:, 4:14] = True
    return FlowBatch(
        tokens=jnp.array([[18, 3, 19, 4, 0], [18, 5, 19, 0, 0]]),
        tokens_lens=jnp.array([4, 3]),
        features=jnp.asarray(features),
        features_lens=jnp.asarray(lens),
        noise=jnp.asarray(noise),
        t=jnp.array([0.2, 0.7]),
        speech_condition_mask=jnp.asarray(counted),
        keep_text=jnp.ones(2),
    )


@functools.cache
def step_of(config: ModelConfig) -> Any:
    """A compiled training loss with gradients, one for all tests."""

    def loss(params: Any, given: FlowBatch, step: jax.Array, key: jax.Array) -> jax.Array:
        ctx = StepContext(step=step, key=key)
        return flow_matching_loss(
            params, config, given, weights={"exclusive_weight": 1.0}, ctx=ctx
        )[0]

    return jax.jit(jax.value_and_grad(loss))


def training(config: ModelConfig, params: Any, step: float, key: int, given: FlowBatch) -> Any:
    return step_of(config)(params, given, jnp.float32(step), jax.random.key(key))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zipvoice_dialog_stereo"])
def test_training_depends_on_step_and_key_alone(kind: str) -> None:
    config, params = make(kind, **SMALL)
    given = batch(config)
    value, grads = training(config, params, 100.0, 0, given)
    again, same = training(config, params, 100.0, 0, given)
    assert np.array_equal(value, again)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not np.array_equal(value, training(config, params, 100.0, 1, given)[0])
    assert not np.array_equal(value, training(config, params, 5000.0, 0, given)[0])


def test_frames_that_hardly_differ_are_not_whitened() -> None:
    rng = np.random.default_rng(0)
    x = jnp.full((2, 50, 8), 1.5) + jnp.asarray(rng.choice([0, 1.2e-7], (2, 50, 8)), jnp.float32)
    dy = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    numbers = (jnp.float32(1.01), jnp.float32(0.1), jnp.float32(1.0))
    _, back = jax.vjp(lambda x: hooks.whiten(x, None, jnp.ones(1), *numbers), x)
    np.testing.assert_array_equal(back(dy)[0], dy)


@pytest.mark.slow
def test_hooks_and_dropout_ignore_padding() -> None:
    # The same step and key on the same items, with rubbish in the padding.
    config, params = make("zipvoice_dialog_stereo", **SMALL)
    value, grads = training(config, params, 100.0, 3, batch(config))
    other, more = training(config, params, 100.0, 3, batch(config, rubbish=50.0))
    assert error(other, value) < 1e-6
    for a, b in zip(jax.tree.leaves(more), jax.tree.leaves(grads), strict=True):
        assert np.abs(a - b).max() <= 1e-4 * max(float(np.abs(b).max()), 1e-3)


def test_bfloat16_is_close_and_float32_at_its_ends() -> None:
    config, params = make()
    half = dataclasses.replace(config, dtype="bfloat16")
    reference = velocities(config, params, [20], 20, seed=0)
    ours = velocities(half, cast_params(params, half), [20], 20, seed=0)
    assert ours.dtype == jnp.float32
    assert 1e-5 < error(ours, reference) < 0.03


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


@pytest.mark.slow
def test_initial_parameters() -> None:
    config = ModelConfig(kind="zipvoice_dialog", **{**SIZES, **SMALL})
    params = flatten_dict(init_params(config, jax.random.key(0)))
    assert {path: leaf.shape for path, leaf in params.items()} == mapping.param_shapes(config)
    layer = ("fm_decoder", "encoders_1", "layers")
    # ScaledLinear: U(-bound, bound) with bound initial_scale / sqrt(inputs).
    kernel = params[(*layer, "feed_forward2", "out_proj", "kernel")]
    assert 0.9 < float(jnp.abs(kernel).max()) * 32**0.5 / 0.1 <= 1.0
    assert (params[(*layer, "bypass", "bypass_scale")] == 0.5).all()
    assert (params[(*layer, "norm", "log_scale")] == 1.0).all()
    assert 0.5 < float(params[("embed", "embedding")].std()) < 1.5


def test_noise_does_not_depend_on_padding() -> None:
    key = jax.random.key(5)
    short, long = item_noise(key, 8, 10), item_noise(key, 29, 10)
    assert np.array_equal(short, long[:8])
    assert abs(float(long.std()) - 1.0) < 0.15


def test_times_meet_one_half_as_torch_does() -> None:
    # With 6 steps and t_shift 0.5 the fifth time is just not above 0.5 in torch's float32.
    times = time_steps(6, 0.5)
    assert times[0] == 0.0
    assert times[-1] == 1.0
    assert times[4] <= 0.5 < times[5]
    assert (np.diff(time_steps(33, 0.3)) > 0).all()


def test_predicted_frames() -> None:
    assert predicted_frames(220, 33, 32, 1.0) == 214
    assert predicted_frames(220, 33, 32, 2.0) == 107


def test_flops_are_those_that_xla_counts() -> None:
    config = ModelConfig(kind="zipvoice", unroll_layers=True)  # a scan's body is counted once
    x = jax.ShapeDtypeStruct((2, 1500, config.feat_dim), jnp.float32)
    t, mask = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((2, 1500), jnp.bool_)

    def velocity(params: Any, t: Any, x: Any, mask: Any) -> Any:
        return bound(params, config).velocity(t, x, x, x, mask)

    counted = jax.jit(velocity).lower(abstract_params(config), t, x, mask).cost_analysis()
    ours = sampling_flops(config, 1500, 1, 1, guided=True)
    assert abs(ours / counted["flops"] - 1.0) < 0.05


IMPOSSIBLE: list[dict[str, Any]] = [
    {"fm_decoder_dim": 0},
    {"fm_decoder_dim": 22},
    {"fm_decoder_downsampling_factor": [1, 2, 3, 2, 1]},
    {"fm_decoder_num_layers": [1, 1]},
    {"text_encoder_cnn_module_kernel": 4},
    {"pos_dim": 15},
    {"vocab_size": 10},
    {"spk_b_id": 18},
    {"dtype": "float16"},
    {"kind": "zipvoice_trio"},
    {"speaker_turns": "guess"},
    {"speaker_tokens": "names"},
    {"speaker_embedding": "decoder"},
    {"feat_dim": 1.5},
    {"num_heads": 4},
]


def test_impossible_configs_are_refused_in_one_sentence() -> None:
    # In a process of its own, where no type checker comes first.
    program = (
        "import json, sys\n"
        "from zipvoice_jax.config import ModelConfig\n"
        "from zipvoice_jax.core.errors import UserError\n"
        "for values in json.load(sys.stdin):\n"
        "    try:\n        ModelConfig.from_dict(values)\n"
        "    except UserError as error:\n        print(repr(str(error)))\n"
        "    else:\n        print('accepted', values)\n"
    )
    given = json.dumps([{"kind": "zipvoice_dialog", **SIZES, **wrong} for wrong in IMPOSSIBLE])
    done = subprocess.run(
        [sys.executable, "-c", program], input=given, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(IMPOSSIBLE)
    for line, wrong in zip(lines, IMPOSSIBLE, strict=True):
        assert not line.startswith("accepted"), line
        assert "\\n" not in line
        assert any(name in line for name in wrong) or "ids" in line or "kernel" in line

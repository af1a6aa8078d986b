"""From tokens to frames: the official rule, given boundaries, predicted durations."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL, make

from zipvoice_jax.checkpoint.growth import grow_to_dialog
from zipvoice_jax.checkpoint.native import read_native, save_native
from zipvoice_jax.checkpoint.official import write_official
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.flow.losses import FlowBatch, flow_matching_loss
from zipvoice_jax.flow.sampling import (
    SampleInputs,
    frames_at_rate_of,
    predicted_durations,
    sample,
    time_steps,
)
from zipvoice_jax.models.upsampling import (
    average_starts,
    blended_starts,
    durations_of,
    shared_starts,
    token_index,
    token_index_by_starts,
)
from zipvoice_jax.models.zipvoice import abstract_params
from zipvoice_jax.text.tokens import TokenTable

GOLDEN = Path(__file__).parent / "golden"
lengths = st.tuples(st.integers(0, 90), st.integers(1, 30))


def test_the_average_rule_is_the_official_index_bit_for_bit() -> None:
    for row in json.loads((GOLDEN / "token_index.json").read_text("utf-8")):
        frames, tokens = jnp.array([row["features_len"]]), jnp.array([row["tokens_len"]])
        size = row["features_len"]
        starts = average_starts(frames, tokens, row["tokens_len"] + 3)
        assert token_index(frames, tokens, size)[0].tolist() == row["index"]
        assert token_index_by_starts(starts, tokens, size)[0].tolist() == row["index"]


def test_token_index_with_more_tokens_than_frames() -> None:
    index = token_index(jnp.array([3, 10]), jnp.array([5, 3]), 10)
    assert index[0, :3].tolist() == [5, 5, 5]
    assert index[1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


@settings(max_examples=40, deadline=None)
@given(st.lists(lengths, min_size=3, max_size=3))
def test_equal_durations_are_average_upsampling(rows: list[tuple[int, int]]) -> None:
    frames, tokens = (jnp.array(column) for column in zip(*rows, strict=True))
    average = token_index(frames, tokens, 100)
    # As boundaries of equal whole durations, whatever is left over at the end;
    starts = average_starts(frames, tokens, 33)
    assert jnp.array_equal(token_index_by_starts(starts, tokens, 100), average)
    assert jnp.array_equal(
        durations_of(starts, tokens)[:, :-1],
        jnp.where(jnp.arange(32)[None, :] < tokens[:, None], (frames // tokens)[:, None], 0),
    )
    # and as predicted ones, in a span that they divide.
    whole = tokens * (frames // tokens)
    none = jnp.zeros_like(tokens)
    shared = shared_starts(jnp.full((3, 33), 7.3), tokens, whole, none, none)
    expected = token_index(whole, tokens, 100)
    assert jnp.array_equal(token_index_by_starts(shared, tokens, 100), expected)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 50), min_size=2, max_size=30),
    st.integers(1, 29),
    st.integers(0, 200),
    st.integers(1, 300),
)
def test_prompt_and_text_share_out_their_own_frames(
    durations: list[float], prompt_tokens: int, prompt: int, new: int
) -> None:
    count = len(durations)
    prompt_tokens = min(prompt_tokens, count - 1)
    rubbish = [99.0] * (33 - count)  # in the padding
    padded = jnp.asarray([[*durations, *rubbish]], jnp.float32)
    lens = [jnp.array([n]) for n in (count, prompt + new, prompt_tokens, prompt)]
    starts = np.asarray(shared_starts(padded, *lens))[0]
    assert (np.diff(starts) >= 0).all() and starts[0] == 0
    assert starts[prompt_tokens] == prompt
    assert (starts[count:] == prompt + new).all()
    lasts = np.diff(starts[prompt_tokens : count + 1])
    weights = np.array(durations[prompt_tokens:], np.float64)
    if weights.sum() > 1.0:
        assert np.abs(lasts - new * weights / weights.sum()).max() <= 1.0 + 0.05 * new


def test_each_recording_of_a_prompt_keeps_its_own_frames() -> None:
    durations = jnp.asarray([[4.0, 1.0, 3.0, 3.0, 2.0, 6.0, 99.0]] * 2)
    count, whole, prompt, frames = (jnp.full((2,), n) for n in (6, 40, 4, 20))
    parts = jnp.array([[[2, 15]], [[0, 0]]])  # of two recordings, and of one
    both, one = np.asarray(shared_starts(durations, count, whole, prompt, frames, parts))
    assert both.tolist() == [0, 12, 15, 17, 20, 25, 40]
    assert one.tolist() == [0, 7, 9, 15, 20, 25, 40]
    assert one.tolist() == shared_starts(durations, count, whole, prompt, frames)[0].tolist()
    parts = jnp.array([[[2, 15], [3, 18]], [[0, 0], [2, 15]]])  # of three, and of two
    three, two = np.asarray(shared_starts(durations, count, whole, prompt, frames, parts))
    assert three.tolist() == [0, 12, 15, 18, 20, 25, 40]
    assert two.tolist() == both.tolist()


def test_boundaries_move_from_the_aligned_to_the_average_ones() -> None:
    starts = jnp.array([[0, 1, 2, 9, 9], [0, 5, 6, 7, 8]])
    frames, tokens = jnp.array([9, 8]), jnp.array([3, 4])
    average = average_starts(frames, tokens, 5)
    for share, expected in ((1.0, starts), (0.0, average)):
        assert jnp.array_equal(blended_starts(starts, frames, tokens, jnp.full(2, share)), expected)
    mixed = blended_starts(starts, frames, tokens, jnp.array([1.0, 0.0]))
    assert jnp.array_equal(mixed, jnp.stack([starts[0], average[1]]))


def flow_batch(config: Any, starts: Any) -> FlowBatch:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return FlowBatch(
        tokens=jnp.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 0]]),
        tokens_lens=jnp.array([3, 4]),
        features=draw(2, 16, config.feat_dim),
        features_lens=jnp.array([12, 16]),
        noise=draw(2, 16, config.feat_dim),
        t=jnp.array([0.2, 0.7]),
        speech_condition_mask=jnp.ones((2, 16), bool),
        keep_text=jnp.ones(2),
        token_starts=starts,
    )


def test_a_model_of_durations_learns_them_and_by_equal_ones_is_the_model_of_averages() -> None:
    config, params = make("zipvoice", upsampling="durations", **SMALL)
    plain = dataclasses.replace(config, upsampling="average")
    equal = average_starts(jnp.array([12, 16]), jnp.array([3, 4]), 5)
    bare = {name: part for name, part in params.items() if name != "duration_head"}
    loss = jax.jit(flow_matching_loss, static_argnums=1)
    _, ours = loss(params, config, flow_batch(config, equal))
    _, official = loss(bare, plain, flow_batch(plain, None))
    assert float(ours["flow"]) == float(official["flow"])
    assert ours["duration"] > 0 and "duration" not in official

    @jax.jit
    @jax.value_and_grad
    def of_durations(params: Any, starts: Any) -> Any:
        return flow_matching_loss(params, config, flow_batch(config, starts))[1]["duration"]

    # The head is pulled towards the durations that the boundaries tell.
    other = jnp.array([[0, 2, 3, 12, 12], [0, 1, 2, 3, 16]])
    value, grads = of_durations(params, other)
    down = jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)
    assert of_durations(down, other)[0] < value
    assert float(jnp.abs(grads["duration_head"]["out"]["kernel"]).max()) > 0
    with pytest.raises(ValueError, match="alignments"):
        loss(params, config, flow_batch(config, None))


def inputs(config: Any, total: int, positions: int) -> SampleInputs:
    rng = np.random.default_rng(3)
    prompt = jnp.asarray(rng.standard_normal((1, 10, config.feat_dim)), jnp.float32)
    noise = jnp.asarray(rng.standard_normal((1, 24, config.feat_dim)), jnp.float32)
    pad = ((0, 0), (0, total - 10), (0, 0))
    tokens = jnp.array([[3, 4, 5, 6, 7, 8]])
    return SampleInputs(
        tokens=jnp.pad(tokens, ((0, 0), (0, positions - 6))),
        tokens_lens=jnp.array([6]),
        prompt_features=jnp.pad(prompt, pad),
        prompt_lens=jnp.array([10]),
        features_lens=jnp.array([24]),
        noise=jnp.pad(noise, ((0, 0), (0, total - 24), (0, 0)), constant_values=50.0),
        prompt_tokens_lens=jnp.array([2]),
    )


def test_speech_by_predicted_durations_does_not_depend_on_padding() -> None:
    config, params = make("zipvoice", upsampling="durations", **SMALL)
    times, scale = jnp.asarray(time_steps(2, 0.5)), jnp.ones(1)
    run = jax.jit(lambda batch: sample(params, config, batch, times, scale))
    alone, padded = run(inputs(config, 24, 7)), run(inputs(config, 31, 12))
    assert float(jnp.abs(padded[:, :24] - alone).max()) < 1e-4 * float(jnp.abs(alone).max())
    tokens, lens = jnp.array([[3, 4, 5, 0, 0]]), jnp.array([3])
    durations = jax.jit(predicted_durations, static_argnums=1)(params, config, tokens, lens)
    assert (np.asarray(durations)[0, 3:] == 0).all() and (durations >= 0).all()


def test_a_head_beside_the_average_rule_changes_nothing_in_sampling() -> None:
    config, params = make("zipvoice", duration_head=True, **SMALL)
    plain = dataclasses.replace(config, duration_head=False)
    bare = {name: part for name, part in params.items() if name != "duration_head"}
    assert config.has_durations and bare.keys() < params.keys()
    batch = dataclasses.replace(inputs(config, 24, 7), prompt_tokens_lens=None)
    times, scale = jnp.asarray(time_steps(2, 0.5)), jnp.ones(1)

    def program(params: Any, config: Any) -> Any:
        return jax.make_jaxpr(lambda x: sample(params, config, x, times, scale))(batch)

    ours, official = program(params, config), program(bare, plain)
    assert str(ours) == str(official)
    assert all(np.array_equal(a, b) for a, b in zip(ours.consts, official.consts, strict=True))


def test_the_length_follows_the_durations_and_the_prompts_speed() -> None:
    assert frames_at_rate_of(100, 50.0, 30.0, 1.0) == 60
    assert frames_at_rate_of(100, 50.0, 30.0, 2.0) == 30
    assert frames_at_rate_of(100, 0.0, 1.0, 1.0) == 100  # a prompt without any: no division by 0


def test_such_a_model_keeps_to_the_native_format(tmp_path: Path) -> None:
    table = TokenTable(tuple("_abcdefghijklmnopq"))
    config, params = make("zipvoice", upsampling="durations", vocab_size=table.vocab_size, **SMALL)
    features = FeatureConfig(n_mels=config.feat_dim)
    with pytest.raises(UserError, match="native"):
        write_official(tmp_path / "official", config, features, table, params)
    assert not (tmp_path / "official").exists()
    save_native(tmp_path / "native", config, features, table, params)
    loaded = read_native(tmp_path / "native")
    assert loaded.config.has_durations
    assert jax.tree.structure(loaded.params) == jax.tree.structure(abstract_params(config))
    # The head grows along.
    more = TokenTable((*table.tokens, "[S1]", "[S2]"))
    grown, config = grow_to_dialog(
        params, config, old_table=table, new_table=more, key=jax.random.key(0)
    )
    kept = grown["duration_head"]["hidden"]["kernel"]
    assert config.has_durations and np.array_equal(
        kept, params["duration_head"]["hidden"]["kernel"]
    )

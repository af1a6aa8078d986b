"""One training step: what is drawn, what accumulates, what is skipped, what a stage begins with."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from flax.traverse_util import flatten_dict
from training import TOKENS, entries, make_data, weights, write_config

from zipvoice_jax.checkpoint.hub import load_model
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.checkpoint.mapping import check_params
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.data.batches import Batch
from zipvoice_jax.flow.losses import DistillBatch, FlowBatch, distillation_loss
from zipvoice_jax.models.zipvoice import abstract_params, init_params
from zipvoice_jax.nn.training import StepContext
from zipvoice_jax.text.tokens import TokenTable
from zipvoice_jax.train.config import OptimizerConfig, TrainConfig
from zipvoice_jax.train.load import load_config
from zipvoice_jax.train.loop import train
from zipvoice_jax.train.objectives import OBJECTIVES, SpeechBatch, condition_mask
from zipvoice_jax.train.schedules import schedules_of, values_at
from zipvoice_jax.train.stages import entered, first_params, grown, plan_stage
from zipvoice_jax.train.state import TrainState, new_state
from zipvoice_jax.train.step import Recipe, loss_and_gradients, micro_batch, train_step


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("run")
    return load_config(write_config(folder), [f"data={make_data(folder)}", "steps=2"])


def speech(rows: int = 4, frames: int = 24) -> SpeechBatch:
    rng = np.random.default_rng(1)
    return SpeechBatch(
        features=jnp.asarray(rng.standard_normal((rows, frames, 100)), jnp.float32),
        features_lens=jnp.asarray(rng.integers(frames // 2, frames + 1, rows), jnp.int32),
        tokens=jnp.asarray(rng.integers(1, 300, (rows, 8)), jnp.int32),
        tokens_lens=jnp.full((rows,), 7, jnp.int32),
    )


def start(run: TrainConfig, index: int = 0, teacher: Any = None) -> tuple[TrainState, Recipe]:
    config = plan_stage(run, index).config
    recipe = Recipe(config, OBJECTIVES[run.stages[index].objective], run)
    params = init_params(config, jax.random.key(0))
    state = new_state(
        params, recipe.optimizer, seed=run.seed, step=run.boundaries[index],
        teacher=teacher,
    )  # fmt: skip
    return state, recipe


def close(a: Any, b: Any, limit: float) -> bool:
    def norm(tree: Any) -> float:
        return float(np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree))))

    return norm(jax.tree.map(jnp.subtract, a, b)) <= limit * norm(b)


# --- what is drawn --------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high", "suffix"), [(0.7, 1.0, 0.0), (0.5, 1.0, 1.0)])
def test_masks_cover_their_share_of_each_item(low: float, high: float, suffix: float) -> None:
    lens = jnp.asarray(np.random.default_rng(0).integers(20, 200, 500), jnp.int32)
    mask = np.asarray(condition_mask(jax.random.key(3), lens, 200, low, high, suffix))
    shares = mask.sum(axis=1) / np.asarray(lens)
    # A whole number of frames, rounded down.
    assert (shares > low - 1 / 20).all() and (shares <= high).all()
    assert shares.mean() == pytest.approx((low + high) / 2, abs=0.03)
    edges = np.abs(np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)).sum(axis=1)
    assert (edges == 2).all()  # one run each
    last = np.array([np.flatnonzero(row)[-1] + 1 for row in mask])
    assert (last <= np.asarray(lens)).all()
    assert (last == np.asarray(lens)).all() == (suffix == 1.0)


def test_conditions_are_dropped_as_often_as_scheduled(run: TrainConfig) -> None:
    values = values_at(schedules_of(run), jnp.int32(0))
    rows = dataclasses.asdict(speech(1))
    batch = jax.tree.map(lambda v: jnp.repeat(v, 2000, axis=0), SpeechBatch(**rows))
    inputs = OBJECTIVES["flow"].draw(jax.random.key(1), batch, values, 0.1)
    assert isinstance(inputs, FlowBatch)
    assert float(inputs.keep_text.mean()) == pytest.approx(0.8, abs=0.03)
    assert float(inputs.t.min()) >= 0.0 and float(inputs.t.max()) < 1.0
    assert float(inputs.t.std()) == pytest.approx(12**-0.5, abs=0.02)
    assert np.allclose(inputs.features, batch.features * 0.1)


def test_times_are_drawn_evenly_or_nearer_to_noise(run: TrainConfig) -> None:
    values = values_at(schedules_of(run), jnp.int32(0))
    batch = jax.tree.map(
        lambda v: jnp.repeat(v, 2000, axis=0), SpeechBatch(**dataclasses.asdict(speech(1)))
    )
    even = drawn(batch, values).t
    key = named_key(jax.random.key(0), "t")
    assert np.array_equal(even, jax.random.uniform(key, even.shape))  # as ever, bit for bit
    moved = drawn(batch, values | {"t_shift": jnp.float32(0.3)}).t
    np.testing.assert_allclose(moved, 0.3 * even / (1 - 0.7 * even), rtol=1e-5)
    assert float(jnp.median(moved)) == pytest.approx(0.3 / 1.3, abs=0.02)
    assert float(moved.min()) >= 0.0 and float(moved.max()) < 1.0


@pytest.mark.parametrize(("objective", "least"), [("distill_first", 0.0), ("distill_second", 1.0)])
def test_distillation_draws_times_in_order(run: TrainConfig, objective: Any, least: float) -> None:
    values = values_at(schedules_of(run), jnp.int32(0))
    draw = jax.jit(functools.partial(OBJECTIVES[objective].draw, feat_scale=0.1))
    for seed in range(20):
        inputs = draw(jax.random.key(seed), speech(), values)
        assert isinstance(inputs, DistillBatch)
        times = float(inputs.t), float(inputs.t_middle), float(inputs.t_end)
        assert 0.0 <= times[0] <= times[1] <= times[2] <= 1.0
        assert times[1] - times[0] <= 0.3 and times[2] - times[1] <= 0.3
        scale = np.asarray(inputs.guidance_scale)
        assert (scale >= least).all() and (scale < least + 2.0).all()


# --- the step -------------------------------------------------------------------------------


def drawn(batch: SpeechBatch, values: Any) -> FlowBatch:
    inputs = OBJECTIVES["flow"].draw(jax.random.key(0), batch, values, 0.1)
    assert isinstance(inputs, FlowBatch)
    return inputs


def jitted(recipe: Recipe) -> Any:
    return jax.jit(functools.partial(loss_and_gradients, recipe=recipe))


@pytest.mark.slow
def test_micro_batches_add_up_to_the_whole(run: TrainConfig) -> None:
    state, recipe = start(run)
    # Dropout and hooks are drawn per micro-batch, so they are left out here.
    recipe = dataclasses.replace(recipe, hooks=False)
    values = values_at(schedules_of(run), state.step)
    inputs = drawn(speech(), values)
    whole, gradients = jitted(recipe)(state, inputs, values)
    parts = dataclasses.replace(recipe, run=dataclasses.replace(run, accumulate=2))
    metrics, accumulated = jitted(parts)(state, inputs, values)
    assert float(metrics["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-5)
    assert close(accumulated, gradients, 1e-5)
    assert [leaf.shape for leaf in jax.tree.leaves(micro_batch(speech(), 0, 2))] == [
        (2, 24, 100),
        (2,),
        (2, 8),
        (2,),
    ]


def test_the_last_stage_of_padding_and_empty_rows_change_nothing(
    run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "zipvoice_jax.train.objectives.jax.random.normal",
        lambda key, shape: jnp.broadcast_to(jnp.linspace(-1.0, 1.0, shape[-1]), shape),
    )
    state, recipe = start(run)
    recipe = dataclasses.replace(recipe, hooks=False)
    values = values_at(schedules_of(run), state.step)
    batch = speech(4)
    empty = jnp.asarray([0, 0, 0, 1], jnp.int32)
    batch = dataclasses.replace(batch, features_lens=batch.features_lens * (1 - empty))
    loud = batch.features.at[3].set(1e3)
    compute, loud_batch = jitted(recipe), dataclasses.replace(batch, features=loud)
    first, gradients = compute(state, drawn(batch, values), values)
    second, others = compute(state, drawn(loud_batch, values), values)
    assert float(first["loss"]) == pytest.approx(float(second["loss"]), rel=1e-6)
    assert close(others, gradients, 1e-5)


def test_a_step_learns_and_one_that_is_not_finite_changes_nothing(run: TrainConfig) -> None:
    state, recipe = start(run)
    step = jax.jit(functools.partial(train_step, recipe=recipe))
    after, metrics = step(state, speech())
    assert int(after.step) == 1 and int(after.skipped) == 0
    assert not close(after.params, state.params, 1e-6)
    assert float(metrics["learning_rate"]) == pytest.approx(0.02)
    bad = dataclasses.replace(speech(), features=speech().features * jnp.nan)
    broken, metrics = step(after, bad)
    assert (int(broken.step), int(broken.skipped), int(broken.bad_steps)) == (2, 1, 1)
    assert not np.isfinite(metrics["loss"])
    for old, new in (
        (after.params, broken.params),
        (after.opt_state, broken.opt_state),
    ):
        assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), old, new))
    healed, _ = step(broken, speech())
    assert (int(healed.skipped), int(healed.bad_steps)) == (1, 0)


def test_gradients_that_stay_broken_end_the_run(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []

    def broken(programs: Any, recipe: Recipe, layout: Any, state: TrainState, batch: Batch) -> Any:
        steps.append(len(steps) + 1.0)
        values = {"loss": np.nan, "frames": 9.0, "padding": 0.5, "bad_steps": steps[-1]}
        return state, values

    monkeypatch.setattr("zipvoice_jax.train.loop.call_train_step", broken)
    patient = dataclasses.replace(run.stages[0], steps=100)
    stubborn = dataclasses.replace(run, stages=(patient,), max_bad_steps=3)
    with pytest.raises(UserError, match="not finite in 3 steps in a row"):
        train(stubborn, tmp_path / "run")
    assert len(steps) in (3, 4)  # metrics are read one step late, or with a checkpoint


# --- distillation ---------------------------------------------------------------------------


def distilling(run: TrainConfig) -> TrainConfig:
    first = dataclasses.replace(
        run.stages[0], name="first", kind="zipvoice_distill", objective="distill_first"
    )
    second = dataclasses.replace(first, name="second", objective="distill_second")
    return dataclasses.replace(run, stages=(run.stages[0], first, second), ema_decay=0.5)


def test_a_student_starts_as_its_teacher_and_has_nothing_to_learn_without_guidance(
    run: TrainConfig,
) -> None:
    run = distilling(run)
    teacher = plan_stage(run, 0)
    params = jax.device_get(init_params(teacher.config, jax.random.key(0)))
    loaded = Loaded(teacher.config, FeatureConfig(), teacher.table, params)
    student, taught = entered(plan_stage(run, 1), loaded)
    assert taught is loaded.params
    config = plan_stage(run, 1).config
    silent = jax.tree.map(jnp.asarray, student)
    kernel = silent["fm_decoder"]["guidance_scale_embed"]["kernel"]
    assert 0 < float(jnp.abs(kernel).max()) <= 0.1 * 192**-0.5
    silent["fm_decoder"]["guidance_scale_embed"]["kernel"] = jnp.zeros_like(kernel)
    values = values_at(schedules_of(run), jnp.int32(2))
    inputs = OBJECTIVES["distill_first"].draw(jax.random.key(5), speech(), values, 0.1)
    assert isinstance(inputs, DistillBatch)
    # One step to where the first of the teacher's two steps ends, without guidance.
    same = inputs.replace(t_end=inputs.t_middle, guidance_scale=jnp.zeros(4))
    distil = jax.jit(distillation_loss, static_argnums=(1, 3))
    loss, parts = distil(silent, config, params, teacher.config, same)
    assert float(loss) < 1e-9 and float(parts["reference"]) > 0.1
    guided = inputs.replace(guidance_scale=jnp.full(4, 2.0))
    loss, _ = distil(silent, config, params, teacher.config, guided)
    assert float(loss) > 1e-6


@pytest.mark.slow
def test_the_second_teacher_follows_the_student(run: TrainConfig) -> None:
    run = distilling(run)
    config = plan_stage(run, 2).config
    params = init_params(config, jax.random.key(0))
    state, recipe = start(run, 2, teacher=params)
    step = functools.partial(train_step, recipe=recipe)
    after, metrics = jax.jit(step)(state, speech())
    between = jax.tree.map(lambda a, b: (a + b) / 2, state.params, after.params)
    assert close(after.teacher, between, 1e-6)
    # The decoder alone is trained.
    for name, part in after.params.items():
        same = jax.tree.all(jax.tree.map(np.array_equal, part, state.params[name]))
        assert same == (name != "fm_decoder"), name
    assert {"distill", "reference"} <= set(metrics)


# --- stages ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_stages_that_differ_in_numbers_alone_share_their_programs(
    run: TrainConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    second = dataclasses.replace(
        run.stages[0], name="again", mask="suffix", learning_rate=0.001, condition_drop=0.5
    )
    # With the optimiser and the average that no recipe takes, in micro-batches.
    run = dataclasses.replace(
        run, stages=(run.stages[0], second), optimizer=OptimizerConfig(name="adamw"),
        average="ema", ema_decay=0.5, accumulate=2,
    )  # fmt: skip
    outcome = train(run, tmp_path / "run")
    assert outcome.done and outcome.step == 4
    steps = [entry for entry in entries(tmp_path / "run") if entry["kind"] == "train"]
    assert [entry["skipped"] for entry in steps] == [0.0] * 4
    moved = weights(tmp_path / "run" / "again")["embed", "embedding"]
    assert not np.array_equal(moved, weights(tmp_path / "run" / "one")["embed", "embedding"])
    said = capfd.readouterr().err
    assert said.count("compiled gradients") == said.count("compiled update") == 1


@pytest.mark.parametrize("kind", ["zipvoice", "zipvoice_dialog", "zipvoice_dialog_stereo"])
def test_a_run_can_start_from_an_official_directory(run: TrainConfig, kind: Any) -> None:
    directory = ROOT / "tests" / "golden" / "release" / "zipvoice"
    loaded = load_model(model_dir=directory)
    data = dataclasses.replace(run.stages[0].data, channels="mono")
    stage = dataclasses.replace(run.stages[0], kind=kind, data=data)
    begun = dataclasses.replace(
        run, model=loaded.config, stages=(stage,), init=str(directory), tokens=str(TOKENS)
    )
    params, teacher = first_params(begun)
    check_params(params, plan_stage(begun, 0).config, source="the first parameters")
    assert teacher == {}
    old, new = loaded.params["embed"]["embedding"], params["embed"]["embedding"]
    wanted = TokenTable.load(TOKENS)
    for token, row in loaded.table.token2id.items():
        assert np.array_equal(new[wanted.token2id[token]], old[row]), token
    name = "in_proj_1" if kind.endswith("stereo") else "in_proj"
    ours, theirs = params["fm_decoder"][name], loaded.params["fm_decoder"]["in_proj"]
    assert np.array_equal(ours["kernel"], theirs["kernel"])


def test_a_run_can_start_from_a_model_by_its_name(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model("demo")
    stage = dataclasses.replace(run.stages[0], kind="zipvoice_dialog")
    begun = dataclasses.replace(
        run, model=loaded.config, stages=(stage,), init="demo", tokens=str(TOKENS)
    )
    (tmp_path / "demo").mkdir()  # with something else in it
    monkeypatch.chdir(tmp_path)
    params, _ = first_params(begun)
    ours, theirs = (flatten_dict(tree) for tree in (params, loaded.params))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UserError, match="nobody does not exist"):
        first_params(dataclasses.replace(begun, init="nobody"))


@pytest.mark.parametrize(("old", "new"), [("durations", "average"), ("average", "durations")])
def test_a_model_of_one_rule_of_upsampling_starts_one_of_the_other(
    run: TrainConfig, old: Any, new: Any
) -> None:
    first = plan_stage(run, 0)
    config = dataclasses.replace(first.config, upsampling=old)
    params = jax.device_get(init_params(config, jax.random.key(0)))
    before = Loaded(config, FeatureConfig(), first.table, params)
    wanted = dataclasses.replace(first, config=dataclasses.replace(first.config, upsampling=new))
    made = grown(before, wanted, jax.random.key(0))
    check_params(made, wanted.config, source="the grown model")
    kept = flatten_dict({name: part for name, part in params.items() if name != "duration_head"})
    for path, leaf in kept.items():
        np.testing.assert_array_equal(flatten_dict(made)[path], leaf)


def test_channels_are_separate_from_the_stereo_stage_on(run: TrainConfig) -> None:
    run = dataclasses.replace(
        run, model=dataclasses.replace(run.model, channel_decoding="separate")
    )
    last = dataclasses.replace(run.stages[-1], name="last", kind="zipvoice_dialog_stereo")
    run = dataclasses.replace(run, stages=(*run.stages[:2], last))
    dialog, stereo = plan_stage(run, 1), plan_stage(run, 2)
    assert (dialog.config.kind, stereo.config.kind) == ("zipvoice_dialog", last.kind)
    params = jax.device_get(init_params(dialog.config, jax.random.key(0)))
    before = Loaded(
        dataclasses.replace(dialog.config, channel_decoding="joint"),
        FeatureConfig(), dialog.table, params,
    )  # fmt: skip
    made = grown(before, stereo, jax.random.key(0))
    assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, abstract_params(stereo.config))
    joint = dataclasses.replace(stereo.config, channel_decoding="joint")
    before = Loaded(
        joint, FeatureConfig(), stereo.table, jax.device_get(init_params(joint, jax.random.key(0)))
    )
    with pytest.raises(UserError, match="differ in channel_decoding joint and separate"):
        grown(before, stereo, jax.random.key(0))


def test_a_teacher_has_the_tokens_of_its_student(run: TrainConfig) -> None:
    stage = distilling(run).stages[-1]
    objective = OBJECTIVES[stage.objective]
    objective.check_source(stage, objective.source_kind, True)
    with pytest.raises(UserError, match="another token table"):
        objective.check_source(stage, objective.source_kind, False)


def test_growing_refuses_what_has_no_way(run: TrainConfig) -> None:
    table = TokenTable.load(TOKENS)
    dialog = plan_stage(run, 1)
    params = jax.device_get(init_params(dialog.config, jax.random.key(0)))
    before = Loaded(dialog.config, FeatureConfig(), table, params)
    with pytest.raises(UserError, match="cannot be grown from zipvoice_dialog"):
        grown(before, plan_stage(run, 0), jax.random.key(0))
    wider = dataclasses.replace(run, model=dataclasses.replace(run.model, fm_decoder_dim=32))
    with pytest.raises(UserError, match="fm_decoder_dim 16 and 32"):
        grown(before, plan_stage(wider, 1), jax.random.key(0))
    alone = dataclasses.replace(distilling(run), stages=distilling(run).stages[1:])
    with pytest.raises(UserError, match="no model to start from"):
        first_params(alone)


def test_the_hooks_of_every_name_are_drawn(run: TrainConfig) -> None:
    config = plan_stage(run, 0).config
    # A name that no draw covers would be a KeyError here.
    ctx = StepContext(jnp.float32(0.0), jax.random.key(0))
    assert ctx.at("a").uniform("b") != ctx.at("c").uniform("b")
    drawn = ctx.replace(draws={"x/y": jnp.float32(0.25)}).at("x")
    assert float(drawn.uniform("y")) == 0.25
    with pytest.raises(KeyError):
        drawn.uniform("z")
    assert config.kind == "zipvoice"

"""Packing and batching: an item's result never depends on its company, and programs are few."""

import dataclasses
import functools
import random
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation import DIALOGUE, RELEASE, TEXT1, TEXT2, WAV1, WAV2, distance, is_dialog

from zipvoice_jax.config import MODEL_KINDS, SamplingConfig
from zipvoice_jax.core.compiling import Programs, specialised
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.infer import buckets, engine
from zipvoice_jax.infer.buckets import MAX_BATCH, batch_sizes, pack, shape_of
from zipvoice_jax.infer.prepare import MAX_FRAMES, Job
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.infer.synthesizer import Synthesizer, load

FPS = 24_000 / 256
LIMIT = 1e-5  # relative error in the 2-norm


def job(frames: int, tokens: int = 20, name: str = "a") -> Job:
    return Job(name, 0, (1,) * tokens, (), np.zeros((10, 100), np.float32), frames)


@pytest.mark.parametrize("devices", [1, 3, 8, 64])
def test_every_job_is_packed_once_into_a_bucket_that_holds_it(devices: int) -> None:
    rng = random.Random(0)
    jobs = [job(rng.randint(11, MAX_FRAMES), rng.randint(1, 4000), str(i)) for i in range(300)]
    most = 9375
    packed = pack(jobs, max_frames=most, devices=devices)
    assert sorted(j.item_id for _, part in packed for j in part) == sorted(j.item_id for j in jobs)
    for bucket, part in packed:
        assert bucket.batch in batch_sizes(devices)
        assert bucket.batch % devices == 0
        assert len(part) <= bucket.batch <= max(MAX_BATCH, devices)
        assert bucket.batch == devices or bucket.batch * bucket.frames <= most
        assert {shape_of(j) for j in part} == {(bucket.frames, bucket.tokens)}
        assert all(j.features_len <= bucket.frames for j in part)
        assert all(len(j.token_ids) < bucket.tokens for j in part), "no room for padding"
    frames = [bucket.frames for bucket, _ in packed]
    assert frames == sorted(frames, reverse=True)


def test_shapes_are_few_and_their_edges_exact() -> None:
    shapes = {shape_of(job(frames))[0] for frames in range(11, MAX_FRAMES + 1)}
    assert shapes == set(buckets.FRAMES)
    assert shape_of(job(384, 255)) == (384, 256)
    assert shape_of(job(385, 256)) == (512, 512)
    for too_large in (job(MAX_FRAMES + 1), job(100, MAX_FRAMES)):
        with pytest.raises(UserError, match="split it"):
            shape_of(too_large)


# --- results --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> dict[str, Synthesizer]:
    return {
        kind: load(RELEASE / kind, vocoder_path="griffin-lim", speaker_turns="tag")
        for kind in MODEL_KINDS
    }


def jobs_of(model: Synthesizer, texts: Sequence[str], sampling: SamplingConfig) -> list[Job]:
    """One job per text, with real prompts; items are named by their place."""
    dialog = model.config.is_dialog
    prompts = ((TEXT1, TEXT2), (WAV1, WAV2)) if dialog else ((TEXT1,), (WAV1,))
    prepare = model.preparation(sampling)
    items = [prepare(Request(f"item{i}", text, *prompts)) for i, text in enumerate(texts)]
    return [j for item in items for j in item.jobs]


def features(
    model: Synthesizer,
    jobs: Sequence[Job],
    sampling: SamplingConfig,
    bucket: Bucket | None,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, np.ndarray]:
    """Features by item, in one batch of a given bucket or as the packer likes."""
    found: dict[str, np.ndarray] = {}

    with monkeypatch.context() as patch:
        if bucket is not None:
            patch.setattr(engine, "pack", lambda *args, **kwargs: [(bucket, list(jobs))])
        for _, batch in model.engine.run(model.engine.pack(jobs, sampling, FPS), sampling):
            for job, mel, seconds in batch:
                assert mel.shape == (job.new_frames, 100 * model.config.channels)
                assert seconds >= 0
                found[job.item_id] = mel.copy()
    return found


SINGLES = ["Yes.", "I would rather stay at home today.", "No, thank you.", "What a day!"]
DIALOGUES = [
    DIALOGUE,
    "[S1] Yes. [S2] I would rather stay at home today. [S1] So would I.",
    "[S2] No. [S1] What a day!",
    "[S1] One. [S1] Two. [S2] Three.",
]


# The other two lack guidance as an input, or a second channel, and are held to it by parity.
@pytest.mark.parametrize("kind", ["zipvoice_distill", "zipvoice_dialog_stereo"])
def test_an_item_is_the_same_alone_at_any_position_of_any_batch_and_in_any_bucket(
    kind: str, models: dict[str, Synthesizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[kind]
    sampling = SamplingConfig.for_kind(kind, num_step=2)
    jobs = jobs_of(model, DIALOGUES if is_dialog(kind) else SINGLES, sampling)
    assert len({j.features_len for j in jobs}) > 1
    alone = {
        name: mel
        for j in jobs
        for name, mel in features(model, [j], sampling, None, monkeypatch).items()
    }
    frames = max(shape_of(j)[0] for j in jobs)
    padded = Bucket(buckets.FRAMES[buckets.FRAMES.index(frames) + 1], 512, 4)
    worst = 0.0
    for turn in range(len(jobs)):
        rotated = jobs[turn:] + jobs[:turn]
        together = features(model, rotated, sampling, padded, monkeypatch)
        assert together.keys() == alone.keys()
        worst = max(worst, *(distance(together[name], alone[name]) for name in alone))
    # With empty rows beside it, too.
    for name, mel in features(model, jobs[1:2], sampling, padded, monkeypatch).items():
        worst = max(worst, distance(mel, alone[name]))
    assert worst <= LIMIT, worst


def test_noise_depends_on_the_seed_and_what_is_said_and_not_on_a_name(
    models: dict[str, Synthesizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, kind = models["zipvoice"], "zipvoice"
    sampling = SamplingConfig.for_kind(kind, num_step=2)
    (item,) = jobs_of(model, SINGLES[:1], sampling)
    other_name = dataclasses.replace(item, item_id="other")
    other_chunk = dataclasses.replace(item, chunk=1)
    bucket = Bucket(*shape_of(item), 1)

    def mel(job: Job, seed: int = 666) -> np.ndarray:
        seeded = dataclasses.replace(sampling, seed=seed)
        return features(model, [job], seeded, bucket, monkeypatch)[job.item_id]

    truth = mel(item)
    np.testing.assert_array_equal(mel(item), truth)
    np.testing.assert_array_equal(mel(other_name), truth)
    ids = (*item.token_ids[:-2], item.token_ids[-1], item.token_ids[-2])
    other_text = dataclasses.replace(item, token_ids=ids)
    changes = (other_text, other_chunk)
    for changed in (*map(mel, changes), mel(item, seed=667), mel(item, seed=0)):
        assert distance(changed, truth) > 1e-3


# --- compilations ---------------------------------------------------------------------------


@pytest.mark.slow
def test_one_compilation_per_bucket_and_none_for_other_settings() -> None:
    model = load(RELEASE / "zipvoice", vocoder_path="griffin-lim")
    texts = [*SINGLES, "They were " * 12 + "here."]

    def buckets_of(**settings: float) -> set[Bucket]:
        sampling = SamplingConfig.for_kind("zipvoice", num_step=2, **settings)
        jobs = jobs_of(model, texts, sampling)
        return {
            bucket
            for bucket, _ in model.engine.run(model.engine.pack(jobs, sampling, FPS), sampling)
        }

    used = buckets_of()
    assert len(used) > 1
    assert len(model.compilations) == len(used)
    assert all(c.seconds > 0 and "frames" in c.name for c in model.compilations)
    assert len({c.name for c in model.compilations}) == len(used)
    assert buckets_of() == used
    for name, value in [
        ("guidance_scale", 2.5),
        ("t_shift", 0.9),
        ("speed", 1.01),
        ("seed", 1),
        ("target_rms", 0.05),
        ("feat_scale", 0.2),
    ]:
        assert buckets_of(**{name: value}) == used, name
    assert len(model.compilations) == len(used)
    # The number of steps is a shape.
    sampling = SamplingConfig.for_kind("zipvoice", num_step=3)
    model.engine.compiled(next(iter(used)), sampling)
    assert len(model.compilations) == len(used) + 1


def test_a_second_model_of_the_same_sizes_traces_nothing() -> None:
    traced: list[float] = []

    def scaled(x: jax.Array, *, by: float) -> jax.Array:
        traced.append(by)
        return by * x

    for by in (2.0, 2.0, 3.0):
        function, programs = jax.jit(specialised(scaled, by=by)), Programs("cpu")
        out = programs.get("key", "name", functools.partial(function.lower, jnp.ones(3)))(
            jnp.ones(3)
        )
        assert np.array_equal(out, by * np.ones(3)) and len(programs.compilations) == 1
    assert traced == [2.0, 3.0]

"""`zipvoice-jax align`: the path, the loss, what is learned, going on after a stop, bad input."""

import errno
import functools
import io
import itertools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from datasets import write_dataset
from loading import RATE, dataset, utterance

from zipvoice_jax.align import train as training
from zipvoice_jax.align.compare import compare
from zipvoice_jax.align.config import AlignConfig
from zipvoice_jax.align.network import diagonal_prior, forward_sum_loss, progress
from zipvoice_jax.align.path import best_starts, even_starts
from zipvoice_jax.align.plot import plot_alignments
from zipvoice_jax.align.run import align
from zipvoice_jax.align.train import fresh_state, matches
from zipvoice_jax.cli.main import main
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import alone
from zipvoice_jax.data.alignment import ALIGNER, alignment_name
from zipvoice_jax.data.records import open_split
from zipvoice_jax.data.utterance import Utterance
from zipvoice_jax.text.tokens import PAD, TokenTable

SMALL = AlignConfig(steps=6, width=8, buckets=1, batch_seconds=4.0, warmup=1)
first_state = functools.cache(fresh_state)


@pytest.fixture(autouse=True)
def _copied_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets trainings begin with copies, which they may donate, of states that are made once."""

    def copied(*settings: Any) -> Any:
        return jax.tree.map(jnp.copy, first_state(*settings))

    monkeypatch.setattr(training, "fresh_state", copied)


def silent(_: str) -> None:
    """Says nothing."""


# The path


@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (4, 4), (7, 1), (7, 3), (8, 4)])
def test_the_best_path_is_the_best_of_all(frames: int, tokens: int):
    rng = np.random.default_rng(frames * 10 + tokens)
    for _ in range(20):
        scores = rng.integers(-3, 3, (frames, tokens)).astype(np.float32)  # with ties

        def total(starts: tuple[int, ...], scores: np.ndarray = scores) -> float:
            ends = (*starts[1:], frames)
            spans = zip(range(tokens), starts, ends, strict=True)
            return sum(float(scores[a:b, token].sum()) for token, a, b in spans)

        every = [(0, *cut) for cut in itertools.combinations(range(1, frames), tokens - 1)]
        found = tuple(best_starts(scores).tolist())
        assert found in every
        assert total(found) == max(map(total, every))


def test_more_tokens_than_frames_share_them_evenly():
    assert best_starts(np.zeros((2, 4), np.float32)).tolist() == [0, 0, 1, 1]
    assert even_starts(10, 4).tolist() == [0, 2, 5, 7]


# The loss


def test_the_loss_sums_over_all_ways_to_speak_the_tokens():
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.standard_normal((3, 5, 3)), jnp.float32)
    frames, tokens = jnp.array([5, 4, 0]), jnp.array([3, 2, 0])
    found = np.asarray(forward_sum_loss(scores, frames, tokens, blank=-30.0))
    for row in range(2):
        long, count = int(frames[row]), int(tokens[row])
        chances = np.exp(scores[row, :long, :count])
        total = 0.0
        for path in itertools.product(range(count), repeat=long):
            if [token for token, _ in itertools.groupby(path)] == list(range(count)):
                total += float(np.prod(chances[np.arange(long), path]))
        np.testing.assert_allclose(found[row], -np.log(total) / long, rtol=1e-4)
    assert found[2] == 0


def test_the_prior_is_a_distribution_that_goes_along_the_diagonal():
    along = jnp.array([[0.0, 0.25, 0.5, 1.0]])
    prior = np.exp(np.asarray(diagonal_prior(along, jnp.array([9]), 12)))[0, :, :9]
    np.testing.assert_allclose(prior.sum(axis=1), 1.0, rtol=1e-3)
    np.testing.assert_allclose(prior @ np.arange(9), 8 * along[0], atol=0.05)


def test_progress_hardly_counts_silence():
    features = np.full((1, 30, 4), -10.0, np.float32)
    features[0, 10:20] = 0.0
    mask = np.arange(30)[None, :] < 28
    along = np.asarray(progress(jnp.asarray(features), jnp.asarray(mask)))[0]
    assert (np.diff(along[:28]) > 0).all()
    assert along[9] < 0.05
    assert along[15] == pytest.approx(0.5, abs=0.06)
    assert along[20] > 0.95


def test_an_item_does_not_hang_on_its_padding():
    params = fresh_state(SMALL, 5, 100).params
    rng = np.random.default_rng(1)
    mel = rng.standard_normal((1, 24, 100)).astype(np.float32)

    def batch(frames: int, tokens: int) -> dict[str, Any]:
        features = np.zeros((1, frames, 100), np.float32)
        features[:, :24] = mel
        ids = np.zeros((1, tokens), np.int32)
        ids[0, :4] = [1, 2, 3, 4]
        lens = {"features_lens": np.array([24]), "tokens_lens": np.array([4])}
        return jax.tree.map(jnp.asarray, {"features": features, "tokens": ids, **lens})

    alone_, padded = (np.asarray(matches(params, SMALL, 5, batch(*s))) for s in ((24, 4), (32, 8)))
    np.testing.assert_allclose(padded[:, :24, :4], alone_, atol=1e-5)


# Learning


def tones(name: str, seed: int, *, channels: int = 1, count: int = 8) -> Utterance:
    """Each token a steady tone of its own, 0.1 to 0.3 s long, with the true starts."""
    rng = np.random.default_rng(seed)
    letters = [str(letter) for letter in rng.choice(list("abcdef"), count)]
    samples = (rng.uniform(0.1, 0.3, count) * RATE).astype(int)
    waves = []
    for letter, length in zip(letters, samples, strict=True):
        base = 200.0 * 1.5 ** "abcdef".index(letter)
        times = np.arange(length) / RATE
        waves.append(
            0.1 * np.sin(2 * np.pi * base * times) + 0.05 * np.sin(4 * np.pi * base * times)
        )
    wave = np.concatenate(waves) + 1e-3 * rng.standard_normal(samples.sum())
    stereo = np.stack([wave, 0.5 * wave][:channels], axis=1)
    file = io.BytesIO()
    soundfile.write(file, stereo, RATE, format="FLAC")
    starts = (np.cumsum(samples) - samples) / RATE
    return Utterance(
        name, "".join(letters), tuple(letters), "", len(wave) / RATE, channels, file.getvalue(),
        tuple(starts.tolist()),
    )  # fmt: skip


@pytest.mark.slow
def test_the_true_boundaries_of_a_dataset_are_found(tmp_path: Path):
    # Neighbours of one kind have no boundary that could be heard.
    made = [tones(f"t{i}", i, channels=1 + i % 2) for i in range(64)]
    write_dataset(tmp_path, "tones", {"train": made[:56], "dev": made[56:]})
    config = AlignConfig(steps=80, width=48, buckets=1, batch_seconds=32.0, warmup=10)
    assert align(tmp_path, config, say=silent) == ["dev", "train"]
    errors = []
    for split in ("dev", "train"):
        source, index = open_split(tmp_path, split)
        truth, _ = open_split(tmp_path, split, learned=False)
        assert index.aligned.all()
        for i in range(len(source)):
            tokens = source[i].tokens
            error = np.abs(np.subtract(source[i].token_starts, truth[i].token_starts))
            errors += [e for k, e in enumerate(error) if k and tokens[k] != tokens[k - 1]]
    frame = 256 / 24000
    assert np.median(errors) <= frame
    assert np.quantile(errors, 0.95) <= 2 * frame
    comparison = compare(tmp_path, ["dev", "train"])
    assert comparison.utterances == 64
    assert comparison.boundaries == 64 * 7
    assert comparison.median < comparison.even_median / 3
    plot_alignments(tmp_path, ["dev", "train"], tmp_path / "picture" / "some.png")
    assert (tmp_path / "picture" / "some.png").stat().st_size > 20_000


# Going on


class StopError(Exception):
    """Ends a run in the middle."""


def test_a_stopped_run_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    once, twice = dataset(tmp_path / "a", 5, high=1.0), dataset(tmp_path / "b", 5, high=1.0)
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    align(once, SMALL, say=silent)
    step, seen = training.train_step, []

    def stopping(*args: Any) -> Any:
        seen.append(int(args[2].step))
        if seen.count(3) == 1 and seen[-1] == 3:
            raise StopError
        return step(*args)

    monkeypatch.setattr(training, "train_step", stopping)
    with pytest.raises(StopError):
        align(twice, SMALL, say=silent)
    assert not (twice / alignment_name("train")).exists()
    align(twice, SMALL, say=silent)
    assert seen == [0, 1, 2, 3, 2, 3, 4, 5]
    files = [path / alignment_name("train") for path in (once, twice)]
    assert files[0].read_bytes() == files[1].read_bytes()
    before = files[1].stat().st_mtime_ns
    align(twice, SMALL, say=print)  # nothing is left to do
    assert "is there" in capsys.readouterr().out
    assert files[1].stat().st_mtime_ns == before
    assert len(seen) == 8
    other = AlignConfig(**{**vars(SMALL), "seed": 1})
    files[1].unlink()
    with pytest.raises(UserError, match=r"aligner\.npz was trained on other data.*--overwrite"):
        align(twice, other, say=silent)
    (twice / ALIGNER).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"aligner\.npz is damaged"):
        align(twice, SMALL, say=silent)
    align(twice, SMALL, say=silent, overwrite=True)
    with pytest.raises(UserError, match="the token table lacks"):
        align(twice, SMALL, table=TokenTable((PAD, "a")), say=silent, overwrite=True)
    assert files[0].read_bytes() == files[1].read_bytes()
    lock = "is being aligned by another process"
    with alone(twice / ".align.lock", "x"), pytest.raises(UserError, match=lock):
        align(twice, SMALL, say=silent)


def test_a_full_disk_is_one_line_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state = fresh_state(SMALL, 5, 100)
    path = tmp_path / ALIGNER
    training.save_state(path, state, "mark")
    kept = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(training.np, "savez", full)
    with pytest.raises(UserError, match=r"aligner\.npz cannot be written \(No space left"):
        training.save_state(path, state._replace(step=jnp.ones((), jnp.int32)), "mark")
    assert path.read_bytes() == kept
    assert int(training.load_state(path, state, "mark").step) == 0
    same = jax.tree.map(np.array_equal, training.load_state(path, state, "mark"), state)
    assert all(jax.tree.leaves(same))


# Bad input


def test_records_with_more_tokens_than_frames_get_even_shares(tmp_path: Path):
    crowded = utterance("crowded", 0.5, tokens="abc" * 40)
    write_dataset(tmp_path, "toy", {"train": [utterance("u", 0.6), crowded]})
    align(tmp_path, SMALL, say=silent)
    source, index = open_split(tmp_path, "train")
    assert index.aligned.all()
    starts = np.array(source[1].token_starts)
    np.testing.assert_allclose(starts, np.arange(120) * 0.5 / 120, atol=256 / 24000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere"], "is no dataset"),
        (["--data", "made", "--split", "test"], "has no split 'test'; it has dev, train"),
        (["--data", "made", "--split", "dev"], "split 'dev' of made has no records"),
        (["--data", "empty"], "has no records in any split"),
        (["--data", "plain"], "have no tokens to align"),
        (["--data", "made", "--tokens", "short.txt"], "table lacks 1 tokens of made ('c')"),
        (["--data", "made", "--tokens", "none.txt"], "does not exist"),
        (["--data", "made", "--steps", "0"], "steps is 0"),
        (["--data", "made", "--plot", "a.xyz"], "is no name of a picture"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
):
    monkeypatch.chdir(tmp_path)
    made = [utterance("u", 0.5)]
    write_dataset("made", "made", {"train": made, "dev": []})
    write_dataset("empty", "empty", {"train": []})
    write_dataset("plain", "plain", {"train": [utterance("u", 0.5, tokens="")]})
    Path("short.txt").write_text("_\t0\na\t1\nb\t2\n", encoding="utf-8")
    assert main(["align", *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("zipvoice-jax: error: ")
    assert words in error
    assert not list(Path("made").glob("alignment-*"))


def test_comparing_needs_alignments_of_the_records(tmp_path: Path):
    dataset(tmp_path, 3, high=1.0)
    with pytest.raises(UserError, match="run align first"):
        compare(tmp_path, ["train"])
    align(tmp_path, SMALL, say=silent)
    with pytest.raises(UserError, match="carries an alignment of its own"):
        compare(tmp_path, ["train"])

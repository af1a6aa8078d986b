"""Models in bfloat16 in a single file: exact, checked, and usable wherever a model directory is."""

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from complaints import user_error
from flax.traverse_util import flatten_dict, unflatten_dict
from generation import RELEASE, one_line, run_main

from zipvoice_jax.checkpoint import growth, hub, native
from zipvoice_jax.checkpoint.loaded import Loaded

JSON, PARAMS = "zipvoice_jax.json", "params.safetensors"


@pytest.fixture(scope="module")
def released() -> Loaded:
    return hub.load_model("zipvoice_dialog", RELEASE / "zipvoice_dialog")


def parts(model: Loaded) -> tuple:
    return model.config, model.features, model.table, model.params


@pytest.fixture
def compact(released: Loaded, tmp_path: Path) -> Path:
    return native.save_native(tmp_path / "compact", *parts(released), format="bfloat16")


def test_what_is_read_is_what_was_rounded(released: Loaded, compact: Path) -> None:
    assert {path.name for path in compact.iterdir()} == {JSON, PARAMS}
    read = hub.load_model("zipvoice_dialog", compact)
    assert (read.config, read.features, read.table) == parts(released)[:3]
    before, after = flatten_dict(released.params), flatten_dict(read.params)
    assert before.keys() == after.keys()
    for keys, leaf in after.items():
        assert leaf.dtype == np.float32
        rounded = np.asarray(before[keys]).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(leaf, rounded, err_msg="/".join(keys))
    # Rounding once is rounding for good.
    again = native.save_native(compact.with_name("again"), *parts(read), format="bfloat16")
    assert (again / PARAMS).read_bytes() == (compact / PARAMS).read_bytes()


def test_it_takes_two_bytes_for_a_number(released: Loaded, compact: Path) -> None:
    numbers = sum(np.size(leaf) for leaf in flatten_dict(released.params).values())
    assert 2 * numbers < (compact / PARAMS).stat().st_size < 2 * numbers + 40_000


def test_damage_is_reported_in_one_line(compact: Path) -> None:
    whole, meta = (compact / PARAMS).read_bytes(), (compact / JSON).read_text()

    def with_digest(content: bytes) -> None:
        (compact / PARAMS).write_bytes(content)
        updated = {**json.loads(meta), "files": {PARAMS: native._digest(compact / PARAMS)}}
        (compact / JSON).write_text(json.dumps(updated))

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (bytes(flipped), whole[:-100], b""):
        (compact / PARAMS).write_bytes(content)
        with user_error(PARAMS, "damaged"):
            native.read_native(compact)
    # What carries a digest that fits is still held against the format and the config.
    with_digest(whole[:-100])
    with user_error(PARAMS, "cannot be read"):
        native.read_native(compact)
    with_digest(safetensors.numpy.save({"embed": np.zeros(3, np.float32)}))
    with user_error(PARAMS, "embed", "F32"):
        native.read_native(compact)
    with_digest(safetensors.numpy.save({"embed": np.zeros(3, ml_dtypes.bfloat16)}))
    with user_error(str(compact), "missing"):
        native.read_native(compact)
    (compact / PARAMS).unlink()
    with user_error("cannot be read"):
        native.read_native(compact)
    (compact / JSON).write_text(json.dumps({**json.loads(meta), "version": 3}))
    with user_error("version 3", "update"):
        native.read_native(compact)


def test_numbers_too_large_for_it_are_refused(released: Loaded, tmp_path: Path) -> None:
    leaves = flatten_dict(released.params)
    keys = next(iter(leaves))
    large = unflatten_dict({**leaves, keys: np.full_like(leaves[keys], np.finfo(np.float32).max)})
    model = dataclasses.replace(released, params=large)
    with user_error("/".join(keys), "bfloat16"):
        native.save_native(tmp_path / "m", *parts(model), format="bfloat16")
    assert not (tmp_path / "m").exists()


def test_one_channel_of_a_stereo_model_is_the_model_it_grew_from(released: Loaded) -> None:
    stereo = growth.grow_to_stereo(released.params, released.config)
    params, config = growth.one_channel(*stereo)
    assert config == released.config
    before, after = flatten_dict(released.params), flatten_dict(params)
    assert before.keys() == after.keys()
    for keys, leaf in before.items():
        np.testing.assert_array_equal(after[keys], leaf, err_msg="/".join(keys))
    with user_error("zipvoice_dialog_stereo"):
        growth.one_channel(released.params, released.config)


def test_the_command_writes_it_and_reads_it(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    made = "convert", "--from", RELEASE / "zipvoice_dialog", "--to", a, "--format", "bfloat16"
    status, out, _ = run_main(*made)
    assert status == 0 and "zipvoice_dialog, bfloat16" in out
    status, _, err = run_main(*made)
    one_line(status, err, "not empty")
    assert run_main(*made, "--overwrite")[0] == 0
    assert run_main("convert", "--from", a, "--to", b, "--grow", "stereo")[0] == 0
    assert hub.load_model(None, b).config.is_stereo and (b / "model.pt").is_file()
    # Predicted durations have no official format, so the default is another.
    status, out, _ = run_main("convert", "--model-name", "demo", "--to", c)
    assert status == 0 and "zipvoice_dialog, native" in out
    assert hub.load_model(None, c).config.has_durations

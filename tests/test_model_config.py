"""Configs of models: the parameters and operations that follow from one, and what is refused."""

import json
import math
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict
from small_models import SIZES, SMALL

from zipvoice_jax.checkpoint import mapping
from zipvoice_jax.config import MODEL_KINDS, ModelConfig
from zipvoice_jax.models.flops import sampling_flops
from zipvoice_jax.models.zipvoice import abstract_params, bound, init_params


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
    configs = json.dumps([{"kind": "zipvoice_dialog", **SIZES, **wrong} for wrong in IMPOSSIBLE])
    done = subprocess.run(
        [sys.executable, "-c", program], input=configs, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(IMPOSSIBLE)
    for line, wrong in zip(lines, IMPOSSIBLE, strict=True):
        assert not line.startswith("accepted"), line
        assert "\\n" not in line
        assert any(name in line for name in wrong) or "ids" in line or "kernel" in line

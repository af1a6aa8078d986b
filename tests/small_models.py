"""Models that are as small as can be, and a batch for them."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from zipvoice_jax.checkpoint import mapping
from zipvoice_jax.config import ModelConfig
from zipvoice_jax.flow.losses import FlowBatch

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
# A training step draws hundreds of random numbers, each of which takes time to compile.
SMALL: dict[str, Any] = {
    "fm_decoder_downsampling_factor": (1, 2, 1),
    "fm_decoder_num_layers": (1, 1, 1),
    "fm_decoder_cnn_module_kernel": (5, 3, 5),
    "text_encoder_num_layers": 1,
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

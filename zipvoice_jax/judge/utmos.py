"""UTMOS (strong learner) in JAX: wav2vec 2.0 and a bidirectional LSTM predict an opinion score.

Source: zipvoice/eval/models/utmos.py of the official code. The weights are
utmos22_strong_step7459_v1.pt.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from zipvoice_jax.judge.layers import Tree, Weights, dense, lstm, masked_moments, read_lstm
from zipvoice_jax.judge.wav2vec import encode, read_encoder

HEADS = 12  # of the published encoder; the shapes of its weights do not show it


def read_utmos(weights: Weights) -> Tree:
    """The parameters of `opinion`.

    Raises:
        UserError: a weight is missing.
    """
    directions = [read_lstm(weights, "blstm.{}_l0" + suffix) for suffix in ("", "_reverse")]
    return {
        "encoder": read_encoder(weights.under("wav2vec2.")),
        "domain": weights["domain_emb"][0],
        "judge": weights["judge_emb"][0],
        "directions": directions,
        **weights.tree("projection.0", "projection.2"),
    }


def opinion(
    tree: Tree, wave: Float[Array, " samples"], length: Int[Array, ""], *, heads: int = HEADS
) -> Float[Array, ""]:
    """The score, 1 to 5.

    Args:
        tree: output of `read_utmos`.
        wave: samples at 16 kHz, padded with zeros.
        length: number of samples without padding.
        heads: number of heads of the encoder's attention.
    """
    count = tree["encoder"]["layers"]["fc1"]["b"].shape[0]
    last = jnp.zeros(count + 1).at[-1].set(1.0)
    x, keep = encode(tree["encoder"], wave, length, last, heads=heads)
    condition = jnp.concatenate([tree["domain"], tree["judge"]])
    x = jnp.concatenate([x, jnp.broadcast_to(condition, (len(x), len(condition)))], axis=1)
    forward, backward = tree["directions"]
    # Backwards the padding comes first and keeps the initial state.
    both = [lstm(forward, x, keep), lstm(backward, x[::-1], keep[::-1])[::-1]]
    hidden = jax.nn.relu(dense(tree["projection.0"], jnp.concatenate(both, axis=1)))
    scores = dense(tree["projection.2"], hidden)
    mean, _ = masked_moments(scores, keep)
    return mean[0] * 2.0 + 3.0

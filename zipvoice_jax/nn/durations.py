"""The head that predicts how long each token is spoken, from the text encoder's output."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class DurationHead(nn.Module):
    """Two layers over a token and its neighbours; ours, no official model has it.

    Attributes:
        dim: hidden channels.
    """

    dim: int

    @nn.compact
    def __call__(
        self, text_embed: Float[Array, "batch tokens feat"], mask: Bool[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens"]:
        """Predicted log(1 + frames), float32.

        Args:
            text_embed: output of the text encoder.
            mask: True for padding, which counts as zeros.
        """
        x = jnp.where(mask[:, :, None], 0.0, text_embed.astype(jnp.float32))
        wide = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        x = jnp.concatenate([wide[:, :-2], x, wide[:, 2:]], axis=-1)
        x = nn.silu(nn.Dense(self.dim, name="hidden")(x))
        return nn.Dense(1, name="out")(x)[:, :, 0]

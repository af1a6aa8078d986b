"""Floating-point operations of a model, counted from its sizes (2 per multiply-add)."""

from zipvoice_jax.config import ModelConfig
from zipvoice_jax.models.zipvoice import (
    decoder_passes,
    decoder_stream,
    fm_decoder_config,
    text_encoder_config,
)
from zipvoice_jax.nn.zipformer import ZipformerConfig


def zipformer_flops(config: ZipformerConfig, frames: int, stream: int = 0) -> int:
    """Matrix products and depthwise convolutions of one item through a Zipformer."""
    dim, heads = config.dim, config.num_heads
    hidden = [config.feedforward_dim * n // 4 for n in (3, 4, 5)]
    gate = 3 * dim // 4
    value = heads * config.value_head_dim
    query = heads * (2 * config.query_head_dim + config.pos_head_dim)
    dense = dim * (query + 2 * sum(hidden) + 4 * value + 4 * gate + 6 * dim)
    total = 2 * frames * dim * (config.in_dims[stream] + config.out_dims[stream])
    for factor, layers, kernel in zip(
        config.downsampling_factor, config.num_layers, config.kernel_size, strict=True
    ):
        t = -(-frames // factor)
        attention = heads * (config.query_head_dim + 2 * config.pos_head_dim) + 2 * value + gate
        total += layers * t * 2 * (dense + 2 * kernel * dim + t * attention)
    return total


def sampling_flops(
    config: ModelConfig, frames: int, tokens: int, num_step: int, *, guided: bool
) -> int:
    """Operations to sample one item.

    Args:
        config: sizes and options of the model.
        frames: frames of prompt and speech.
        tokens: tokens of prompt and text.
        num_step: Euler steps.
        guided: whether guidance takes a second branch.
    """
    branches = 1 + config.samples_by_speaker + (guided and not config.is_distill)
    decoder, text = fm_decoder_config(config), text_encoder_config(config)
    passes = decoder_passes(config, config.channels)
    velocity = zipformer_flops(decoder, frames)
    return passes * (zipformer_flops(text, tokens) + num_step * branches * velocity)


def training_flops(
    config: ModelConfig, frames: int, tokens: int, *, channels: int = 1, head_alone: bool = False
) -> int:
    """Operations of one item's training step: forward and, at twice the cost, backward.

    What remat computes again is not counted. The duration head alone takes the text encoder
    forward, and little itself.
    """
    if head_alone:
        return zipformer_flops(text_encoder_config(config), tokens)
    stream = decoder_stream(config, channels)
    passes = decoder_passes(config, channels)
    forward = zipformer_flops(fm_decoder_config(config), frames, stream)
    return 3 * passes * (forward + zipformer_flops(text_encoder_config(config), tokens))

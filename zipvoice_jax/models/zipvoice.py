"""The ZipVoice family as one Flax module whose config chooses the member.

Official: zipvoice/models/zipvoice.py, zipvoice_distill.py, zipvoice_dialog.py. Tokens are
padded with at least one padding token, since frames that are left over by the average
upsampling look up the position after an item's last token.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.config import DURATION_HEAD_DIM, SPEAKER_STD, ModelConfig
from zipvoice_jax.core.compiling import specialised
from zipvoice_jax.models.masks import padding_mask, speaker_rows
from zipvoice_jax.models.upsampling import token_index, token_index_by_starts
from zipvoice_jax.nn.durations import DurationHead
from zipvoice_jax.nn.training import StepContext
from zipvoice_jax.nn.zipformer import Zipformer, ZipformerConfig


def text_encoder_config(config: ModelConfig) -> ZipformerConfig:
    """Sizes of the text encoder: one stack at the tokens' rate, without time."""
    return ZipformerConfig(
        in_dims=(config.text_embed_dim,),
        out_dims=(config.feat_dim,),
        dim=config.text_encoder_dim,
        downsampling_factor=(1,),
        num_layers=(config.text_encoder_num_layers,),
        kernel_size=(config.text_encoder_cnn_module_kernel,),
        feedforward_dim=config.text_encoder_feedforward_dim,
        num_heads=config.text_encoder_num_heads,
        query_head_dim=config.query_head_dim,
        pos_head_dim=config.pos_head_dim,
        value_head_dim=config.value_head_dim,
        pos_dim=config.pos_dim,
        dtype=config.dtype,
        remat=config.remat,
        unroll_layers=config.unroll_layers,
    )


def fm_decoder_config(config: ModelConfig) -> ZipformerConfig:
    """Sizes of the flow-matching decoder; stereo has projections for two and one channels."""
    feat = config.feat_dim
    together = 1 if config.separates_channels else 2  # of two channels, in one pass
    return ZipformerConfig(
        in_dims=((1 + 2 * together) * feat, 3 * feat) if config.is_stereo else (3 * feat,),
        out_dims=(together * feat, feat) if config.is_stereo else (feat,),
        dim=config.fm_decoder_dim,
        downsampling_factor=config.fm_decoder_downsampling_factor,
        num_layers=config.fm_decoder_num_layers,
        kernel_size=config.fm_decoder_cnn_module_kernel,
        feedforward_dim=config.fm_decoder_feedforward_dim,
        num_heads=config.fm_decoder_num_heads,
        query_head_dim=config.query_head_dim,
        pos_head_dim=config.pos_head_dim,
        value_head_dim=config.value_head_dim,
        pos_dim=config.pos_dim,
        time_embed_dim=config.time_embed_dim,
        guidance_scale_embed=config.is_distill,
        dtype=config.dtype,
        remat=config.remat,
        unroll_layers=config.unroll_layers,
    )


def decoder_stream(config: ModelConfig, channels: int) -> int:
    """Which of the decoder's projections serves speech of so many channels."""
    return 1 if config.is_stereo and channels == 1 else 0


def decoder_passes(config: ModelConfig, channels: int) -> int:
    """Passes of the decoder that speech of so many channels takes: one for each, or one for all."""
    return channels if config.separates_channels else 1


def as_neighbours(parts: Sequence[Array]) -> Array:
    """Arrays of a batch as one batch, in which those of an item are neighbours.

    So sharding the batch keeps them on one device.
    """
    stacked = jnp.stack(parts, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def channels_as_items(
    x: Float[Array, "batch frames channels_feat"], feat_dim: int
) -> Float[Array, "channels_batch frames feat"]:
    """Channels side by side as items of their own; those of an item are neighbours."""
    batch, frames, _ = x.shape
    apart = x.reshape(batch, frames, -1, feat_dim)
    return jnp.swapaxes(apart, 1, 2).reshape(-1, frames, feat_dim)


def items_as_channels(
    x: Float[Array, "channels_batch frames feat"], channels: int
) -> Float[Array, "batch frames channels_feat"]:
    """The inverse of `channels_as_items`."""
    apart = x.reshape(-1, channels, *x.shape[1:])
    return jnp.swapaxes(apart, 1, 2).reshape(-1, x.shape[1], channels * x.shape[2])


def token_embedding(config: ModelConfig) -> nn.Embed:
    """The table of the tokens' embeddings."""
    init = nn.initializers.normal(1.0)
    return nn.Embed(config.vocab_size, config.text_embed_dim, embedding_init=init)


def speaker_embedding(config: ModelConfig, std: float = SPEAKER_STD) -> nn.Embed:
    """The table of the speaker-turn embeddings; see `speaker_turn_rows`.

    Args:
        config: config of a model that has them.
        std: standard deviation of what they start from.
    """
    size = config.num_speakers, config.speaker_embed_dim
    return nn.Embed(*size, embedding_init=nn.initializers.normal(std))


def speaker_turn_rows(
    config: ModelConfig, tokens: Int[Array, "batch tokens"]
) -> Int[Array, "batch tokens"]:
    """`speaker_rows` by the ids and the rule of a dialogue model's config."""
    ids, rule = config.speaker_ids, config.speaker_turns
    return speaker_rows(tokens, speaker_ids=ids, pad_id=config.pad_id, rule=rule)


def swapped_tags(
    config: ModelConfig, tokens: Int[Array, "batch tokens"]
) -> Int[Array, "batch tokens"]:
    """A text with [S1] and [S2] in each other's place."""
    first, second = tokens == config.spk_a_id, tokens == config.spk_b_id
    return jnp.where(first, config.spk_b_id, jnp.where(second, config.spk_a_id, tokens))


class ZipVoice(nn.Module):
    """ZipVoice, ZipVoice-Distill, ZipVoice-Dialog or ZipVoice-Dialog-Stereo."""

    config: ModelConfig

    def setup(self) -> None:
        """Builds the embeddings, the text encoder and the decoder."""
        c = self.config
        self.embed = token_embedding(c)
        if c.speaker_embed_dim:
            self.spk_embed = speaker_embedding(c)
        self.text_encoder = Zipformer(text_encoder_config(c))
        self.fm_decoder = Zipformer(fm_decoder_config(c))
        if c.has_durations:
            self.duration_head = DurationHead(DURATION_HEAD_DIM)

    def text_embed(
        self,
        tokens: Int[Array, "batch tokens"],
        tokens_lens: Int[Array, " batch"],
        ctx: StepContext | None = None,
        channels: int = 1,
    ) -> Float[Array, "batch tokens texts_feat"]:
        """Text embeddings with the speaker-turn embedding of dialogue models.

        Args:
            tokens: ids, with at least one `pad_id` after each item.
            tokens_lens: lengths without padding.
            ctx: training step, or None.
            channels: number of channels; where each takes a pass of the decoder, the embeddings of
                the text with its tags swapped come beside the others.
        """
        c = self.config
        if decoder_passes(c, channels) == 2:
            both = as_neighbours([tokens, swapped_tags(c, tokens)])
            return items_as_channels(self.text_embed(both, jnp.repeat(tokens_lens, 2), ctx), 2)
        mask = padding_mask(tokens_lens, tokens.shape[1])
        part = None if ctx is None else ctx.at("text_encoder")
        speaker = self._speaker_embed(tokens) if c.speaker_embed_dim else None
        if c.is_dialog and c.speaker_tokens == "separator":
            other = jnp.isin(tokens, jnp.asarray(c.speaker_ids[1:]))
            tokens = jnp.where(other, c.spk_a_id, tokens)
        embed = self.embed(tokens)
        if speaker is not None and c.speaker_embedding == "text_input":
            embed = embed + speaker
        embed = self.text_encoder(embed, mask=mask, ctx=part)
        if speaker is not None and c.speaker_embedding == "text_output":
            embed = embed + speaker
        return embed

    def _speaker_embed(
        self, tokens: Int[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens dim"]:
        """The embedding of whose turn a token is in; zero for padding."""
        row = speaker_turn_rows(self.config, tokens)
        speaker = self.spk_embed(jnp.maximum(row, 0)).astype(jnp.float32)
        return jnp.where(row[:, :, None] >= 0, speaker, 0.0)

    def log_durations(
        self, text_embed: Float[Array, "batch tokens feat"], tokens_lens: Int[Array, " batch"]
    ) -> Float[Array, "batch tokens"]:
        """Predicted log(1 + frames) of each token, float32; undefined in padding.

        Args:
            text_embed: see `text_embed`.
            tokens_lens: lengths without padding.
        """
        return self.duration_head(text_embed, padding_mask(tokens_lens, text_embed.shape[1]))

    def text_condition(
        self,
        tokens: Int[Array, "batch tokens"],
        tokens_lens: Int[Array, " batch"],
        features_lens: Int[Array, " batch"],
        num_frames: int,
        ctx: StepContext | None = None,
        token_starts: Int[Array, "batch tokens"] | None = None,
        channels: int = 1,
    ) -> Float[Array, "batch frames texts_feat"]:
        """Text embeddings, each repeated over its share of the frames.

        Args:
            tokens: ids, with at least one `pad_id` after each item.
            tokens_lens: lengths without padding.
            features_lens: frames of each item.
            num_frames: padded number of frames.
            ctx: training step, or None.
            token_starts: the frame at which each token begins; None shares frames out equally.
            channels: channels of the speech; see `text_embed`.
        """
        embed = self.text_embed(tokens, tokens_lens, ctx, channels)
        return upsampled(embed, tokens_lens, features_lens, num_frames, token_starts)

    def velocity(
        self,
        t: Float[Array, " batch"],
        xt: Float[Array, "batch frames channels_feat"],
        text_condition: Float[Array, "batch frames texts_feat"],
        speech_condition: Float[Array, "batch frames channels_feat"],
        mask: Bool[Array, "batch frames"] | None,
        guidance_scale: Float[Array, " batch"] | None = None,
        ctx: StepContext | None = None,
    ) -> Float[Array, "batch frames channels_feat"]:
        """The flow's velocity at time t (forward_fm_decoder), float32.

        Args:
            t: time of each item, 0 (noise) to 1 (speech).
            xt: the state.
            text_condition: see `text_condition`.
            speech_condition: prompt features, zero where speech is to be made.
            mask: True for padding.
            guidance_scale: for distilled models only.
            ctx: training step, or None.
        """
        c, channels = self.config, xt.shape[-1] // self.config.feat_dim
        inputs: tuple[Array, ...] = (xt, text_condition, speech_condition)
        time_emb = self.fm_decoder.embed_time(t, guidance_scale)
        passes = decoder_passes(c, channels)
        if passes > 1:
            inputs = tuple(channels_as_items(part, c.feat_dim) for part in inputs)
            time_emb = jnp.repeat(time_emb, passes, axis=0)
            mask = None if mask is None else jnp.repeat(mask, passes, axis=0)
        part = None if ctx is None else ctx.at("fm_decoder")
        stream = decoder_stream(c, channels)
        decoded = self.fm_decoder(jnp.concatenate(inputs, axis=-1), time_emb, mask, part, stream)
        return items_as_channels(decoded, passes) if passes > 1 else decoded

    def __call__(
        self,
        tokens: Int[Array, "batch tokens"],
        tokens_lens: Int[Array, " batch"],
        features_lens: Int[Array, " batch"],
        t: Float[Array, " batch"],
        xt: Float[Array, "batch frames channels_feat"],
        speech_condition: Float[Array, "batch frames channels_feat"],
        guidance_scale: Float[Array, " batch"] | None = None,
        token_starts: Int[Array, "batch tokens"] | None = None,
        ctx: StepContext | None = None,
    ) -> Float[Array, "batch frames channels_feat"]:
        """From text to the flow's velocity; see `text_condition` and `velocity`.

        Args:
            tokens: ids, with at least one `pad_id` after each item.
            tokens_lens: lengths without padding.
            features_lens: frames of each item.
            t: time of each item, 0 (noise) to 1 (speech).
            xt: the state.
            speech_condition: prompt features, zero where speech is to be made.
            guidance_scale: for distilled models only.
            token_starts: the frame at which each token begins; None shares frames out equally.
            ctx: training step, or None.
        """
        frames, channels = xt.shape[1], xt.shape[2] // self.config.feat_dim
        text = self.text_condition(
            tokens, tokens_lens, features_lens, frames, ctx, token_starts, channels
        )
        mask = padding_mask(features_lens, frames)
        return self.velocity(t, xt, text, speech_condition, mask, guidance_scale, ctx)


def upsampled(
    text_embed: Float[Array, "batch tokens texts_feat"],
    tokens_lens: Int[Array, " batch"],
    features_lens: Int[Array, " batch"],
    num_frames: int,
    token_starts: Int[Array, "batch tokens"] | None = None,
) -> Float[Array, "batch frames texts_feat"]:
    """Text embeddings at the frames' rate; see `ZipVoice.text_condition`."""
    if token_starts is None:
        index = token_index(features_lens, tokens_lens, num_frames)
    else:
        index = token_index_by_starts(token_starts, tokens_lens, num_frames)
    return jnp.take_along_axis(text_embed, index[:, :, None], axis=1)


def speaker_frames(
    config: ModelConfig,
    tokens: Int[Array, "batch tokens"],
    tokens_lens: Int[Array, " batch"],
    features_lens: Int[Array, " batch"],
    num_frames: int,
    token_starts: Int[Array, "batch tokens"] | None = None,
) -> Int[Array, "batch frames"]:
    """Whose turn each frame is in; see `text_condition`.

    Returns:
        The row of the speaker-turn embedding (1 for [S1], 0 for [S2]), and 0 everywhere for models
        of one speaker. Frames that average upsampling leaves over are the last speaker's.
    """
    rows = speaker_turn_rows(config, tokens) if config.is_dialog else jnp.zeros_like(tokens)
    last = jnp.take_along_axis(rows, jnp.maximum(tokens_lens - 1, 0)[:, None], axis=1)
    rows = jnp.where(rows < 0, last, rows)
    as_floats = rows[:, :, None].astype(jnp.float32)
    frames = upsampled(as_floats, tokens_lens, features_lens, num_frames, token_starts)
    return frames[:, :, 0].astype(jnp.int32)


def _run_all(model: ZipVoice) -> None:
    """Runs every part once, on the least that it takes, so that `init` makes all parameters."""
    config = model.config
    tokens, one = jnp.full((1, 2), config.pad_id, jnp.int32), jnp.ones((1,), jnp.int32)
    t, scale = jnp.zeros((1,)), jnp.ones((1,)) if config.is_distill else None
    for channels in (1, 2)[: config.channels]:
        x = jnp.zeros((1, 4, channels * config.feat_dim), jnp.float32)
        model(tokens, one, 4 * one, t, x, x, scale)
    if config.has_durations:
        model.log_durations(model.text_embed(tokens, one), one)


def _init(config: ModelConfig, key: Array) -> Any:
    return nn.init(_run_all, ZipVoice(config))(key)


def init_params(config: ModelConfig, key: Array) -> dict[str, Any]:
    """Random float32 parameters with the official initialisation, as nested dicts."""
    return jax.jit(specialised(_init, config))(key)["params"]


def abstract_params(config: ModelConfig) -> dict[str, Any]:
    """The parameters' shapes and dtypes, without computing any: the one description of them."""
    leaves, tree = _abstract_leaves(config)
    return jax.tree.unflatten(tree, leaves)


@functools.lru_cache(maxsize=16)
def _abstract_leaves(config: ModelConfig) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    """Traced once for each config: a run asks for its shapes eight times."""
    params = jax.eval_shape(nn.init(_run_all, ZipVoice(config)), jax.random.key(0))["params"]
    return jax.tree.flatten(params)


def bound(params: dict[str, Any], config: ModelConfig) -> ZipVoice:
    """The model with its parameters in place, so that its methods are plain functions of arrays."""
    return ZipVoice(config).bind({"params": params})


def inference_config(config: ModelConfig) -> ModelConfig:
    """The config to run a model with: layers unrolled where their parameters are large.

    Copying each layer's parameters out of the stacked ones costs more than a longer program
    from about this size on.
    """
    return dataclasses.replace(config, unroll_layers=config.fm_decoder_dim >= 256)


def cast_params(params: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Matmul kernels in the config's dtype, for inference; all else stays float32."""

    def cast(path: tuple[Any, ...], x: Array) -> Array:
        names = [p.key for p in path]
        matmul = names[-1] == "kernel" and names[-2] not in ("depthwise_conv", "linear_pos")
        in_time = names[1].startswith(("time_embed", "guidance"))
        return x.astype(config.dtype) if matmul and not in_time else x

    return jax.tree_util.tree_map_with_path(cast, params)

"""The ZipVoice family as one Flax module whose config chooses the member.

Official: zipvoice/models/zipvoice.py, zipvoice_distill.py, zipvoice_dialog.py. Tokens are
padded with at least one padding token, since frames that are left over by the average
upsampling look up the position after an item's last token.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.config import DURATION_HEAD_DIM, ModelConfig
from zipvoice_jax.core.masks import padding_mask, speaker_rows
from zipvoice_jax.core.upsampling import token_index, token_index_by_starts
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
    return ZipformerConfig(
        in_dims=(5 * feat, 3 * feat) if config.is_stereo else (3 * feat,),
        out_dims=(2 * feat, feat) if config.is_stereo else (feat,),
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


class ZipVoice(nn.Module):
    """ZipVoice, ZipVoice-Distill, ZipVoice-Dialog or ZipVoice-Dialog-Stereo."""

    config: ModelConfig

    def setup(self) -> None:
        """Builds the embeddings, the text encoder and the decoder."""
        c = self.config
        self.embed = nn.Embed(
            c.vocab_size, c.text_embed_dim, embedding_init=nn.initializers.normal(1.0)
        )
        if c.speaker_embed_dim:
            self.spk_embed = nn.Embed(
                2, c.speaker_embed_dim, embedding_init=nn.initializers.normal(0.1)
            )
        self.text_encoder = Zipformer(text_encoder_config(c))
        self.fm_decoder = Zipformer(fm_decoder_config(c))
        if c.has_durations:
            self.duration_head = DurationHead(DURATION_HEAD_DIM)

    def text_embed(
        self,
        tokens: Int[Array, "batch tokens"],
        tokens_lens: Int[Array, " batch"],
        ctx: StepContext | None = None,
    ) -> Float[Array, "batch tokens feat"]:
        """Text embeddings with the speaker-turn embedding of dialogue models.

        Args:
            tokens: ids, with at least one `pad_id` after each item.
            tokens_lens: lengths without padding.
            ctx: training step, or None.
        """
        c = self.config
        mask = padding_mask(tokens_lens, tokens.shape[1])
        part = None if ctx is None else ctx.at("text_encoder")
        speaker = self._speaker_embed(tokens) if c.speaker_embed_dim else None
        if c.is_dialog and c.speaker_tokens == "separator":
            tokens = jnp.where(tokens == c.spk_b_id, c.spk_a_id, tokens)
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
        c = self.config
        row = speaker_rows(
            tokens, spk_a_id=c.spk_a_id, spk_b_id=c.spk_b_id, pad_id=c.pad_id, rule=c.speaker_turns
        )
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
    ) -> Float[Array, "batch frames feat"]:
        """Text embeddings, each repeated over its share of the frames.

        Args:
            tokens: ids, with at least one `pad_id` after each item.
            tokens_lens: lengths without padding.
            features_lens: frames of each item.
            num_frames: padded number of frames.
            ctx: training step, or None.
            token_starts: the frame at which each token begins; None shares frames out equally.
        """
        embed = self.text_embed(tokens, tokens_lens, ctx)
        return upsampled(embed, tokens_lens, features_lens, num_frames, token_starts)

    def velocity(
        self,
        t: Float[Array, " batch"],
        xt: Float[Array, "batch frames channels_feat"],
        text_condition: Float[Array, "batch frames feat"],
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
            guidance_scale: of distilled models only.
            ctx: training step, or None.
        """
        x = jnp.concatenate([xt, text_condition, speech_condition], axis=-1)
        time_emb = self.fm_decoder.embed_time(t, guidance_scale)
        part = None if ctx is None else ctx.at("fm_decoder")
        return self.fm_decoder(x, time_emb, mask, part)

    def project(
        self, x: Float[Array, "batch frames part"], begin: int, stream: int, *, bias: bool
    ) -> Float[Array, "batch frames dim"]:
        """The share of the input projection that comes from inputs `begin` onwards, float32."""
        params = self.fm_decoder.input_projection(stream).variables["params"]
        kernel = params["kernel"][begin : begin + x.shape[-1]].astype(self.config.dtype)
        y = jnp.matmul(x.astype(kernel.dtype), kernel).astype(jnp.float32)
        return y + params["bias"].astype(jnp.float32)[None, None, :] if bias else y

    def embed_time(
        self, t: Float[Array, " batch"], guidance_scale: Float[Array, " batch"] | None = None
    ) -> Float[Array, "batch time_dim"]:
        """The decoder's time embedding."""
        return self.fm_decoder.embed_time(t, guidance_scale)

    def decode(
        self,
        hidden: Float[Array, "batch frames dim"],
        time_emb: Float[Array, "#batch time_dim"],
        mask: Bool[Array, "batch frames"] | None,
        stream: int,
        positions: tuple[Array, ...],
    ) -> Float[Array, "batch frames channels_feat"]:
        """The velocity from projected inputs and precomputed positions."""
        return self.fm_decoder.decode(hidden, time_emb, mask, stream=stream, positions=positions)

    def __call__(self) -> None:
        """Touches every parameter, for `init`; use the methods above otherwise."""
        c = self.config
        tokens = jnp.full((1, 2), c.pad_id, jnp.int32)
        lens = jnp.ones((1,), jnp.int32)
        text = self.text_condition(tokens, lens, 4 * lens, 4)
        if c.has_durations:
            self.log_durations(self.text_embed(tokens, lens), lens)
        scale = jnp.ones((1,), jnp.float32) if c.is_distill else None
        for channels in (1, 2)[: c.channels]:
            x = jnp.zeros((1, 4, channels * c.feat_dim), jnp.float32)
            self.velocity(jnp.zeros((1,)), x, text, x, None, scale)


def upsampled(
    text_embed: Float[Array, "batch tokens feat"],
    tokens_lens: Int[Array, " batch"],
    features_lens: Int[Array, " batch"],
    num_frames: int,
    token_starts: Int[Array, "batch tokens"] | None = None,
) -> Float[Array, "batch frames feat"]:
    """Text embeddings at the frames' rate; see `ZipVoice.text_condition`."""
    if token_starts is None:
        index = token_index(features_lens, tokens_lens, num_frames)
    else:
        index = token_index_by_starts(token_starts, tokens_lens, num_frames)
    return jnp.take_along_axis(text_embed, index[:, :, None], axis=1)


def first_speaker_frames(
    config: ModelConfig,
    tokens: Int[Array, "batch tokens"],
    tokens_lens: Int[Array, " batch"],
    features_lens: Int[Array, " batch"],
    num_frames: int,
    token_starts: Int[Array, "batch tokens"] | None = None,
) -> Bool[Array, "batch frames"]:
    """True for the frames of a dialogue that are in a turn of [S1]; see `text_condition`."""
    row = speaker_rows(
        tokens, spk_a_id=config.spk_a_id, spk_b_id=config.spk_b_id, pad_id=config.pad_id,
        rule=config.speaker_turns,
    )  # fmt: skip
    is_first = (row[:, :, None] == 1).astype(jnp.float32)
    return upsampled(is_first, tokens_lens, features_lens, num_frames, token_starts)[:, :, 0] > 0


def init_params(config: ModelConfig, key: Array) -> dict[str, Any]:
    """Random float32 parameters with the official initialisation, as nested dicts."""
    return jax.jit(ZipVoice(config).init)(key)["params"]


def abstract_params(config: ModelConfig) -> dict[str, Any]:
    """The parameters' shapes and dtypes, without computing any."""
    return jax.eval_shape(ZipVoice(config).init, jax.random.key(0))["params"]


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

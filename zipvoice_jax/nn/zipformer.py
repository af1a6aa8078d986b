"""Zipformer: a U-Net of stacks of layers, each stack at its own frame rate.

Official: TTSZipformer and TTSZipformerTwoStream in zipvoice/models/modules. Unlike there,
padding never reaches an item: a stack's downsampling repeats each item's own last frame,
and all that reads across frames is masked.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from zipvoice_jax.config import GUIDANCE_SCALE_EMBED_DIM
from zipvoice_jax.core.schedule import PiecewiseLinear
from zipvoice_jax.nn.activations import swoosh_r
from zipvoice_jax.nn.attention import (
    AttentionWeights,
    NonlinAttention,
    SelfAttention,
    constant_weights,
    project_positions,
)
from zipvoice_jax.nn.embedding import relative_positions, timestep_embedding
from zipvoice_jax.nn.layers import (
    BiasNorm,
    Bypass,
    Convolution,
    FeedForward,
    Frames,
    Linear,
    Mask,
)
from zipvoice_jax.nn.training import Balancer, Choices, StepContext, Whiten, draw

WARMUP_STEPS = 4000.0
_SKIP = PiecewiseLinear(((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0)))
_FF_SKIP = PiecewiseLinear(((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0)))
_CONST_ATTENTION = PiecewiseLinear(((0.0, 0.25), (4000.0, 0.025)))
_TIGHT = {"min_positive": 0.45, "max_positive": 0.55}
_LOOSE = {"min_positive": 0.3, "max_positive": 0.7}

# A layer's random choices take their numbers in this order of what their names begin with: one
# that a model has trained with, so that runs go on with the numbers they would have had.
_ORDER = (
    *("attention", "self_attn_weights", "feed_forward", "conv", "nonlin_attention"),
    *("const_attention", "self_attn", "norm", "ff", "bypass"),
)


@dataclasses.dataclass(frozen=True)
class ZipformerConfig:
    """Sizes of one Zipformer; per-stack settings are tuples of one length."""

    in_dims: tuple[int, ...]  # one projection each; a stereo decoder has two
    out_dims: tuple[int, ...]
    dim: int
    downsampling_factor: tuple[int, ...]
    num_layers: tuple[int, ...]
    kernel_size: tuple[int, ...]
    feedforward_dim: int
    num_heads: int
    query_head_dim: int
    pos_head_dim: int
    value_head_dim: int
    pos_dim: int
    time_embed_dim: int | None = None  # None: no time
    guidance_scale_embed: bool = False
    dtype: str = "float32"
    remat: str = "none"
    unroll_layers: bool = False


@dataclasses.dataclass(frozen=True)
class LayerSkip:
    """When a stack's layers may be skipped in training (Zipformer2Encoder.__init__)."""

    warmup_begin: float
    warmup_end: float
    num_layers: int
    final_rate: float
    initial_rate: float = 0.5

    def __call__(self, step: Float[Array, ""], layer: Int[Array, ""]) -> Float[Array, ""]:
        """The skip rate of a layer, which falls while that layer warms up."""
        length = (self.warmup_end - self.warmup_begin) / self.num_layers
        begin = self.warmup_begin + layer.astype(jnp.float32) * length
        share = jnp.clip((step - begin) / length, 0.0, 1.0)
        return self.initial_rate + (self.final_rate - self.initial_rate) * share


def feedforward_dims(dim: int) -> tuple[int, int, int]:
    """Hidden channels of a layer's three feed-forward modules."""
    return dim * 3 // 4, dim, dim * 5 // 4


class Layer(nn.Module):
    """One Zipformer layer (Zipformer2EncoderLayer), as the body of a scan over layers."""

    config: ZipformerConfig
    kernel_size: int
    skip: LayerSkip

    @nn.compact
    def __call__(
        self,
        x: Frames,
        index: Int[Array, ""],
        draws: Mapping[str, Any] | None,
        positions: Float[Array, "heads pos_head_dim offsets"] | None,
        encoding: Float[Array, "offsets pos_dim"] | None,
        time_emb: Float[Array, "#batch 1 channels"] | None,
        mask: Mask | None,
        ctx: StepContext | None,
    ) -> tuple[Frames, None]:
        """The layer's output and, as a scan wants it, nothing per layer."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if ctx is not None:
            ctx = ctx.replace(draws=draws)  # type: ignore[attr-defined]

        def part(name: str) -> StepContext | None:
            return None if ctx is None else ctx.at(name)

        def drop(name: str, y: Frames, rate: PiecewiseLinear) -> Frames:
            """Drops a module's output for whole sequences."""
            if ctx is None:
                return y
            return y * ctx.keep(name, rate, (y.shape[0], 1, 1)).astype(y.dtype)

        original = x
        weights = AttentionWeights(
            num_heads=c.num_heads,
            query_head_dim=c.query_head_dim,
            pos_head_dim=c.pos_head_dim,
            pos_dim=c.pos_dim,
            dtype=dtype,
            name="self_attn_weights",
        )(x, encoding, positions, mask, part("self_attn_weights"))
        if time_emb is not None:
            x = x + time_emb
        hidden = feedforward_dims(c.feedforward_dim)
        x = x + FeedForward(hidden[0], dtype, name="feed_forward1")(x, mask, part("feed_forward1"))

        first_head = weights[:, :1]
        if ctx is not None:
            constant = ctx.chance("const_attention", _CONST_ATTENTION) > 0
            first_head = jnp.where(constant, constant_weights(first_head), first_head)
        nonlin = NonlinAttention(dtype, name="nonlin_attention")(
            x, first_head, mask, part("nonlin_attention")
        )
        nonlin = Balancer(
            **_LOOSE, min_abs=PiecewiseLinear(((0.0, 0.004), (4000.0, 0.02))), prob=0.05
        )(nonlin, ctx, "balancer_na", mask)
        # The three uses of attention share one draw, as officially.
        x = x + drop("attention_skip", nonlin, _SKIP)
        attend = SelfAttention(c.num_heads, c.value_head_dim, dtype, name="self_attn1")
        x = x + drop("attention_skip", attend(x, weights, mask, part("self_attn1")), _SKIP)

        if time_emb is not None:
            x = x + time_emb
        convolve = Convolution(self.kernel_size, dtype, name="conv_module1")
        x = x + drop("conv_skip1", convolve(x, mask, part("conv_module1")), _SKIP)
        ff2 = FeedForward(hidden[1], dtype, name="feed_forward2")(x, mask, part("feed_forward2"))
        ff2 = Balancer(
            **_LOOSE,
            min_abs=PiecewiseLinear(((0.0, 0.0), (4000.0, 0.1))),
            max_abs=2.0,
            prob=0.05,
        )(ff2, ctx, "balancer_ff2", mask)
        x = x + drop("ff2_skip", ff2, _FF_SKIP)

        x = Bypass(name="bypass_mid")(original, x, part("bypass_mid"))
        attend = SelfAttention(c.num_heads, c.value_head_dim, dtype, name="self_attn2")
        x = x + drop("attention_skip", attend(x, weights, mask, part("self_attn2")), _SKIP)
        if time_emb is not None:
            x = x + time_emb
        convolve = Convolution(self.kernel_size, dtype, name="conv_module2")
        x = x + drop("conv_skip2", convolve(x, mask, part("conv_module2")), _SKIP)
        ff3 = FeedForward(hidden[2], dtype, name="feed_forward3")(x, mask, part("feed_forward3"))
        ff3 = Balancer(
            **_LOOSE,
            min_abs=PiecewiseLinear(((0.0, 0.0), (4000.0, 0.2))),
            max_abs=4.0,
            prob=0.05,
        )(ff3, ctx, "balancer_ff3", mask)
        x = x + drop("ff3_skip", ff3, _FF_SKIP)

        x = Balancer(**_TIGHT, min_abs=0.2, max_abs=4.0)(x, ctx, "balancer1", mask)
        x = BiasNorm(name="norm")(x, part("norm"))
        skip_rate = None if ctx is None else self.skip(ctx.step, index)
        x = Bypass(name="bypass")(original, x, part("bypass"), skip_rate)
        x = Balancer(**_TIGHT, min_abs=0.1, max_abs=4.0)(x, ctx, "balancer2", mask)
        return Whiten(4.0, ratio=3.0)(x, ctx, "whiten", mask), None


@functools.lru_cache(maxsize=64)
def layer_choices(config: ZipformerConfig, batch: int) -> Choices:
    """The random choices of a layer in training, found by tracing one.

    Args:
        config: the layer's Zipformer, whose stacks differ in nothing that matters here.
        batch: items.
    """
    choices = Choices()

    def trace() -> None:
        layer = Layer(config, 1, LayerSkip(0.0, 1.0, 1, 0.0), parent=None)
        ctx = StepContext(jnp.float32(0.0), jax.random.key(0))
        x, encoding = jnp.zeros((batch, 1, config.dim)), jnp.zeros((1, config.pos_dim))
        layer.init(ctx.key, x, jnp.int32(0), choices, None, encoding, None, None, ctx)

    jax.eval_shape(trace)
    return choices.in_order(_ORDER)


class Downsample(nn.Module):
    """A learned weighted sum of each `factor` frames (SimpleDownsample)."""

    factor: int

    @nn.compact
    def __call__(
        self, x: Frames, mask: Mask | None
    ) -> tuple[Float[Array, "batch short channels"], Bool[Array, "batch short"] | None]:
        """Frames and mask at the lower rate.

        Frames missing at an item's end repeat that item's own last frame, wherever the end
        lies in the batch.
        """
        batch, frames, dim = x.shape
        missing = -frames % self.factor
        if mask is None:
            x = jnp.pad(x, ((0, 0), (0, missing), (0, 0)), mode="edge")
        else:
            length = jnp.sum(~mask, axis=1, dtype=jnp.int32)
            index = jnp.maximum(length - 1, 0)[:, None, None]
            last = jnp.take_along_axis(x, index, axis=1)
            x = jnp.pad(x, ((0, 0), (0, missing), (0, 0)))
            mask = jnp.pad(mask, ((0, 0), (0, missing)), constant_values=True)
            x = jnp.where(mask[:, :, None], last, x)
            mask = mask[:, :: self.factor]
        bias = self.param("bias", nn.initializers.zeros, (self.factor,))
        weights = jax.nn.softmax(bias.astype(jnp.float32)).astype(x.dtype)
        x = x.reshape(batch, -1, self.factor, dim)
        return jnp.sum(x * weights[None, None, :, None], axis=2), mask


def upsample(
    x: Float[Array, "batch short channels"], factor: int, frames: int
) -> Float[Array, "batch frames channels"]:
    """Repeats each frame `factor` times and cuts to `frames` (SimpleUpsample)."""
    return jnp.repeat(x, factor, axis=1)[:, :frames]


class Stack(nn.Module):
    """Identical layers at one frame rate, scanned; below full rate with a bypass round them."""

    config: ZipformerConfig
    index: int

    @nn.compact
    def __call__(
        self,
        x: Frames,
        time_emb: Float[Array, "#batch time_dim"] | None,
        mask: Mask | None,
        positions: Float[Array, "layers heads pos_head_dim offsets"] | None,
        ctx: StepContext | None,
    ) -> Frames:
        """The stack's output at the input's frame rate."""
        c, i = self.config, self.index
        dtype, factor, num_layers = jnp.dtype(c.dtype), c.downsampling_factor[i], c.num_layers[i]
        original, full_frames = x, x.shape[1]
        if factor > 1:
            x, mask = Downsample(factor, name="downsample")(x, mask)
        if time_emb is not None:
            assert c.time_embed_dim is not None
            project = Linear(c.time_embed_dim, c.dim, dtype=dtype, name="time_emb")
            time_emb = project(swoosh_r(time_emb).astype(dtype))[:, None, :]
        encoding = None
        if positions is None:
            encoding = relative_positions(x.shape[1], c.pos_dim)
            if ctx is not None:
                encoding = encoding * ctx.keep("pos_dropout", 0.15, encoding.shape) / 0.85

        count = len(c.num_layers)
        skip = LayerSkip(
            warmup_begin=WARMUP_STEPS * (i + 1) / (count + 1),
            warmup_end=WARMUP_STEPS * (i + 2) / (count + 1),
            num_layers=num_layers,
            final_rate=0.035 * factor**0.5,
        )
        body: Any = Layer
        if c.remat != "none":
            policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            body = nn.remat(Layer, prevent_cse=False, policy=policy if c.remat == "dots" else None)
        layers = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, 0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=num_layers,
            unroll=num_layers if c.unroll_layers else 1,
            check_constancy_invariants=False,  # which would trace every layer once more
        )(c, c.kernel_size[i], skip, name="layers")
        draws = None
        if ctx is not None:
            draws = draw(ctx.key, layer_choices(c, x.shape[0]), num_layers)
        x, _ = layers(x, jnp.arange(num_layers), draws, positions, encoding, time_emb, mask, ctx)

        if factor > 1:
            x = upsample(x, factor, full_frames)
            part = None if ctx is None else ctx.at("out_combiner")
            x = Bypass(name="out_combiner")(original, x, part)
        return x


def guidance_scale_embedding(time_embed_dim: int) -> Linear:
    """The linear map of a distilled model's guidance scale, small at first as officially."""
    return Linear(
        GUIDANCE_SCALE_EMBED_DIM, time_embed_dim, dtype=jnp.float32, scale=0.1, use_bias=False
    )


class Zipformer(nn.Module):
    """The text encoder or the flow-matching decoder."""

    config: ZipformerConfig

    def setup(self) -> None:
        """Builds the projections, the stacks and the time embedding."""
        c = self.config
        dtype = jnp.dtype(c.dtype)

        # Named in_proj for one stream and in_proj_0, in_proj_1 for two, as officially.
        ins: Any = [Linear(dim, c.dim, dtype) for dim in c.in_dims]
        outs: Any = [Linear(c.dim, dim, dtype) for dim in c.out_dims]
        self.in_proj, self.out_proj = (ins, outs) if len(ins) > 1 else (ins[0], outs[0])
        self.encoders = [Stack(c, i) for i in range(len(c.num_layers))]
        if c.time_embed_dim is not None:
            dim = c.time_embed_dim
            # A few numbers per item: float32 costs nothing and keeps t exact.
            self.time_embed_0 = Linear(dim, 2 * dim, dtype=jnp.float32)
            self.time_embed_2 = Linear(2 * dim, dim, dtype=jnp.float32)
        if c.guidance_scale_embed:
            self.guidance_scale_embed = guidance_scale_embedding(c.time_embed_dim or 0)

    def embed_time(
        self, t: Float[Array, "..."], guidance_scale: Float[Array, "..."] | None = None
    ) -> Float[Array, "... time_dim"]:
        """The time embedding; a distilled model adds that of its guidance scale.

        Args:
            t: times.
            guidance_scale: for distilled models only; it and `t` are broadcast against each other.
        """
        dim = self.config.time_embed_dim
        assert dim is not None
        embedding = timestep_embedding(t, dim)
        if self.config.guidance_scale_embed:
            assert guidance_scale is not None
            embedding = embedding + self.guidance_scale_embed(
                timestep_embedding(guidance_scale, GUIDANCE_SCALE_EMBED_DIM)
            )
        return self.time_embed_2(swoosh_r(self.time_embed_0(embedding)))

    def decode(
        self,
        hidden: Float[Array, "batch frames dim"],
        time_emb: Float[Array, "#batch time_dim"] | None,
        mask: Mask | None,
        *,
        stream: int = 0,
        positions: tuple[Array, ...] | None = None,
        ctx: StepContext | None = None,
    ) -> Float[Array, "batch frames out"]:
        """All stacks and the output projection, from projected inputs."""
        x = hidden.astype(self.config.dtype)
        for i, stack in enumerate(self.encoders):
            part = None if ctx is None else ctx.at("encoders", i)
            x = stack(x, time_emb, mask, None if positions is None else positions[i], part)
        out_proj = self.out_proj[stream] if len(self.config.in_dims) > 1 else self.out_proj
        return out_proj(x).astype(jnp.float32)

    def input_projection(self, stream: int) -> Any:
        """The input projection of a stream."""
        return self.in_proj[stream] if len(self.config.in_dims) > 1 else self.in_proj

    def __call__(
        self,
        x: Float[Array, "batch frames in"],
        time_emb: Float[Array, "#batch time_dim"] | None = None,
        mask: Mask | None = None,
        ctx: StepContext | None = None,
        stream: int = 0,
    ) -> Float[Array, "batch frames out"]:
        """Input projection, stacks, output projection; the result is float32."""
        hidden = self.input_projection(stream)(x)
        return self.decode(hidden, time_emb, mask, stream=stream, ctx=ctx)


def precompute_positions(
    params: dict[str, Any], config: ZipformerConfig, frames: int
) -> tuple[Float[Array, "layers heads pos_head_dim offsets"], ...]:
    """Each stack's projected relative positions, which no input changes.

    Args:
        params: the Zipformer's parameters.
        config: its sizes.
        frames: length at full rate.
    """
    positions = []
    for i, factor in enumerate(config.downsampling_factor):
        layers = params[f"encoders_{i}"]["layers"]
        kernel = layers["self_attn_weights"]["linear_pos"]["kernel"]
        encoding = relative_positions(-(-frames // factor), config.pos_dim)
        positions.append(project_positions(encoding, kernel, config.num_heads))
    return tuple(positions)

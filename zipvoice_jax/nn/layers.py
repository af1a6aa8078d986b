"""The parts of a Zipformer layer without attention: linear maps, norm, bypass, convolution.

Official: zipvoice/models/modules/zipformer.py and scaling.py. Layout is (batch, frames,
channels); `mask` is True where a frame is padding.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from zipvoice_jax.core.schedule import PiecewiseLinear, Schedule
from zipvoice_jax.nn.activations import swoosh_l, swoosh_r
from zipvoice_jax.nn.training import Balancer, StepContext, Whiten, limit_param

Mask = Bool[Array, "batch frames"]
Frames = Float[Array, "batch frames channels"]


def uniform(bound: float) -> nn.initializers.Initializer:
    """Initialises from U(-bound, bound)."""
    return functools.partial(_uniform, bound)


def _uniform(bound: float, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Linear(nn.Module):
    """A linear map with torch's default initialisation, or that of ScaledLinear.

    Attributes:
        in_dim: input channels.
        out_dim: output channels.
        dtype: precision of the matmul.
        scale: `initial_scale` of the official ScaledLinear; None for nn.Linear.
        use_bias: whether to add a bias.
    """

    in_dim: int
    out_dim: int
    dtype: Any
    scale: float | None = None
    use_bias: bool = True

    @property
    def kernel_init(self) -> nn.initializers.Initializer:
        """What the kernel starts from."""
        return uniform(self.in_dim**-0.5 * (1.0 if self.scale is None else self.scale))

    def setup(self) -> None:
        """Makes the parameters."""
        bound = self.in_dim**-0.5 if self.scale is None else 0.1 * self.scale
        self.kernel = self.param("kernel", self.kernel_init, (self.in_dim, self.out_dim))
        if self.use_bias:
            self.bias = self.param("bias", uniform(bound), (self.out_dim,))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The output in the map's dtype."""
        y = jnp.matmul(x.astype(self.dtype), self.kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        return y + self.bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (self.out_dim,))

    def part(self, x: Float[Array, "*batch part"], begin: int) -> Float[Array, "*batch outputs"]:
        """What inputs `begin` onwards add to the output, in float32; without the bias."""
        kernel = self.kernel[begin : begin + x.shape[-1]].astype(self.dtype)
        return jnp.matmul(x.astype(self.dtype), kernel).astype(jnp.float32)

    def offset(self) -> Float[Array, "1 1 outputs"]:
        """The bias in float32: the output where all inputs are zero."""
        return jnp.asarray(self.bias, jnp.float32)[None, None, :]


class BiasNorm(nn.Module):
    """x / rms(x - bias) * exp(log_scale), in float32."""

    @nn.compact
    def __call__(self, x: Frames, ctx: StepContext | None) -> Frames:
        """Normalises each frame."""
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        log_scale = self.param("log_scale", nn.initializers.ones, ())
        log_scale = limit_param(log_scale, ctx, "log_scale", -1.5, 1.5)
        wide = x.astype(jnp.float32)
        square = jnp.mean((wide - bias[None, None, :]) ** 2, axis=-1, keepdims=True)
        return (wide * (jax.lax.rsqrt(square) * jnp.exp(log_scale))).astype(x.dtype)


class Bypass(nn.Module):
    """A learned mix of a module's input and output, channel by channel."""

    @nn.compact
    def __call__(
        self,
        original: Frames,
        x: Frames,
        ctx: StepContext | None,
        skip_rate: Schedule | Array | None = None,
    ) -> Frames:
        """original + (x - original) * bypass_scale; training may skip whole sequences."""
        scale = self.param("bypass_scale", nn.initializers.constant(0.5), (x.shape[-1],))
        minimum = PiecewiseLinear(((0.0, 0.9), (20000.0, 0.2)))
        scale = limit_param(scale, ctx, "bypass_scale", minimum, 1.0)[None, None, :]
        if ctx is not None and skip_rate is not None:
            scale = scale * ctx.keep("skip", skip_rate, (x.shape[0], 1, 1))
        return original + (x - original) * scale.astype(x.dtype)


class FeedForward(nn.Module):
    """Linear, SwooshL, dropout shared over time, linear."""

    hidden_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Frames, mask: Mask | None, ctx: StepContext | None) -> Frames:
        """The module's output, to be added to its input."""
        dim = x.shape[-1]
        x = Linear(dim, self.hidden_dim, dtype=self.dtype, name="in_proj")(x)
        balancer = Balancer(min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        x = swoosh_l(balancer(x, ctx, "hidden_balancer", mask))
        if ctx is not None:
            rate = ctx.value(PiecewiseLinear(((0.0, 0.3), (20000.0, 0.1))))
            keep = ctx.keep("dropout", rate, (x.shape[0], 1, x.shape[-1])) / (1.0 - rate)
            x = x * keep.astype(x.dtype)
        x = Linear(self.hidden_dim, dim, dtype=self.dtype, name="out_proj", scale=0.1)(x)
        return Whiten(7.5)(x, ctx, "out_whiten", mask)


class DepthwiseConv(nn.Module):
    """A convolution over time within each channel, zero-padded to keep the length."""

    kernel_size: int

    @nn.compact
    def __call__(self, x: Frames) -> Frames:
        """Convolves in x's dtype, summing in float32.

        A sum of shifted products: XLA fuses it into one pass over memory on every backend,
        where its grouped convolution is many times slower on CPU.
        """
        channels, size = x.shape[-1], self.kernel_size
        bound = size**-0.5
        kernel = self.param("kernel", uniform(bound), (size, channels))
        bias = self.param("bias", uniform(bound), (channels,))
        if self.is_initializing():  # wants no program that grows with the size of the kernel
            return x
        y = shifted_products(x, kernel) + bias.astype(jnp.float32)[None, None, :]
        return y.astype(x.dtype)


@jax.custom_vjp
def shifted_products(
    x: Float[Array, "batch frames channels"], kernel: Float[Array, "size channels"]
) -> Float[Array, "batch frames channels"]:
    """The convolution in float32; its backward pass is another one, not a sum of padded slices."""
    size, frames = kernel.shape[0], x.shape[1]
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (0, 0)))
    total = jnp.zeros(x.shape, jnp.float32)
    for k in range(size):
        window = jax.lax.slice_in_dim(padded, k, k + frames, axis=1)
        total = total + window.astype(jnp.float32) * kernel[None, None, k, :]
    return total


def _shifted_products_bwd(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    size, frames = kernel.shape[0], x.shape[1]
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (0, 0)))

    def at(k: Array) -> Float[Array, " channels"]:
        window = jax.lax.dynamic_slice_in_dim(padded, k, frames, axis=1)
        return jnp.sum(window.astype(jnp.float32) * dy, axis=(0, 1))

    dx = shifted_products(dy, kernel[::-1]).astype(x.dtype)
    return dx, jax.lax.map(at, jnp.arange(size)).astype(kernel.dtype)


shifted_products.defvjp(lambda x, kernel: (shifted_products(x, kernel), (x, kernel)),
                        _shifted_products_bwd)  # fmt: skip


class Convolution(nn.Module):
    """Gated linear unit, depthwise convolution, SwooshR, linear."""

    kernel_size: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Frames, mask: Mask | None, ctx: StepContext | None) -> Frames:
        """The module's output; padding is zero where the convolution reads it."""
        dim = x.shape[-1]
        x = Linear(dim, 2 * dim, dtype=self.dtype, name="in_proj")(x)
        x, gate = jnp.split(x, 2, axis=-1)
        gate = Balancer(
            min_positive=PiecewiseLinear(((0.0, 0.05), (8000.0, 0.025))),
            max_positive=1.0,
            min_abs=1.5,
            max_abs=PiecewiseLinear(((0.0, 5.0), (8000.0, 10.0))),
        )(gate, ctx, "balancer1", mask)
        x = x * jax.nn.sigmoid(gate)
        if mask is not None:
            x = jnp.where(mask[:, :, None], jnp.zeros((), x.dtype), x)
        x = DepthwiseConv(self.kernel_size, name="depthwise_conv")(x)
        x = Balancer(
            min_positive=PiecewiseLinear(((0.0, 0.1), (8000.0, 0.05))),
            max_positive=1.0,
            min_abs=PiecewiseLinear(((0.0, 0.2), (20000.0, 0.5))),
            max_abs=10.0,
        )(x, ctx, "balancer2", mask)
        x = Whiten(7.5)(x, ctx, "whiten", mask)
        return Linear(dim, dim, dtype=self.dtype, name="out_proj", scale=0.05)(swoosh_r(x))

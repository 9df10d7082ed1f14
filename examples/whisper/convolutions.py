"""What Whisper has in front of the encoder: two convolutions, and sinusoids for positions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from bart_eqx.model.activations import ACTIVATION_FUNCTIONS


class Convolution(eqx.Module):
    """Over three frames, one of them padding at either end."""

    weight: Float[Array, "out_dim in_dim 3"]
    bias: Float[Array, " out_dim"]
    stride: int = eqx.field(static=True)

    def __init__(self, in_dim: int, out_dim: int, *, stride: int, init_std: float, dtype: DTypeLike, key: PRNGKeyArray):
        """
        Args:
            in_dim: Width of the input.
            out_dim: Width of the output.
            stride: One output for so many frames.
            init_std: Standard deviation of the initial weights.
            dtype: Of the parameters.
            key: For the initial weights.
        """
        self.weight = init_std * jr.normal(key, (out_dim, in_dim, 3), dtype)
        self.bias = jnp.zeros(out_dim, dtype)
        self.stride = stride

    def __call__(self, x: Float[Array, "*batch in_dim frames"]) -> Float[Array, "*batch out_dim src"]:
        rows = x.reshape(-1, *x.shape[-2:])  # XLA's convolution has one batch axis
        y = jax.lax.conv_general_dilated(rows, self.weight, (self.stride,), [(1, 1)]) + self.bias[:, None]
        return y.reshape(*x.shape[:-2], *y.shape[-2:])


class Convolutions(eqx.Module):
    """From a log-mel spectrogram to one vector for every two frames."""

    conv1: Convolution
    conv2: Convolution

    def __init__(self, mel: int, dim: int, *, init_std: float, dtype: DTypeLike, key: PRNGKeyArray):
        """
        Args:
            mel: Rows of the spectrogram.
            dim: The width of a vector.
            init_std: Standard deviation of the initial weights.
            dtype: Of the parameters.
            key: For the initial weights.
        """
        keys = jr.split(key)
        self.conv1 = Convolution(mel, dim, stride=1, init_std=init_std, dtype=dtype, key=keys[0])
        self.conv2 = Convolution(dim, dim, stride=2, init_std=init_std, dtype=dtype, key=keys[1])

    def __call__(self, input_features: Float[Array, "*batch mel frames"]) -> Float[Array, "*batch src dim"]:
        gelu = ACTIVATION_FUNCTIONS["gelu"]
        x = input_features.astype(self.conv1.weight.dtype)
        return jnp.swapaxes(gelu(self.conv2(gelu(self.conv1(x)))), -1, -2)


def sinusoids(length: int, dim: int) -> Float[Array, "length dim"]:
    """The encoder's positions: sines of falling frequencies, then their cosines."""
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(dim // 2) / (dim // 2 - 1))
    angles = jnp.arange(length)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

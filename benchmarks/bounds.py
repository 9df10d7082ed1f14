"""The least time that a workload needs on this machine, from the machine's measured ceilings.

A phase takes at least as long as its bytes at the measured bandwidth, and as its floating-point operations at the
measured rate. Both are measured through XLA, so that they are ceilings of programs that XLA compiles.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


# Memory bandwidth in bytes per second by `jax.Device.device_kind`, from the makers' data sheets.
DATA_SHEET = {
    "NVIDIA A100-SXM4-40GB": 1.555e12,
    "NVIDIA A100-SXM4-80GB": 2.039e12,
    "NVIDIA A100 80GB PCIe": 1.935e12,
    "NVIDIA H100 PCIe": 2.0e12,
    "NVIDIA H100 80GB HBM3": 3.35e12,
    "NVIDIA H200": 4.8e12,
    "NVIDIA L4": 0.3e12,
    "NVIDIA L40S": 0.864e12,
    "Tesla T4": 0.32e12,
    "Tesla V100-SXM2-16GB": 0.9e12,
}


def median_seconds(run: Callable[..., Any], *arrays: jax.Array) -> float:
    """The median of seven runs, after one that compiles."""
    jax.block_until_ready(run(*arrays))
    times = []
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(run(*arrays))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@dataclasses.dataclass(frozen=True)
class Ceilings:
    bytes_per_second: float
    flops_per_second: float

    @classmethod
    def measure(cls) -> "Ceilings":
        large, square = jnp.ones(1 << 27), jnp.ones((2048, 2048))
        return cls(
            large.nbytes / median_seconds(jax.jit(jnp.sum), large),
            2 * 2048**3 / median_seconds(jax.jit(jnp.matmul), square, square),
        )

    def seconds(self, size: float, flops: float) -> float:
        return max(size / self.bytes_per_second, flops / self.flops_per_second)


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of a BART with equal encoder and decoder, and float32 parameters."""

    layers: int
    dim: int
    heads: int
    ffn: int
    vocab: int = 50265

    @property
    def encoder_weights(self) -> int:
        return self.layers * (4 * self.dim**2 + 2 * self.dim * self.ffn)

    @property
    def decoder_weights(self) -> int:
        """The weights that each target token is multiplied with, that is, without the projections of the source."""
        return self.layers * (6 * self.dim**2 + 2 * self.dim * self.ffn) + self.vocab * self.dim

    def encode(self, ceilings: Ceilings, lengths: Sequence[int]) -> float:
        flops = sum(src * (2 * self.encoder_weights + self.layers * 4 * src * self.dim) for src in lengths)
        return ceilings.seconds(4 * self.encoder_weights, flops)

    def read_source(self, ceilings: Ceilings, lengths: Sequence[int]) -> float:
        """The time of projecting the keys and values of cross-attention."""
        return ceilings.seconds(0, 4 * sum(lengths) * self.layers * self.dim**2)

    def decode(self, ceilings: Ceilings, lengths: Sequence[int], rows: int) -> float:
        """The time of one call for `rows` tokens per source: beams, or a target. Attention to earlier target tokens and
        within a target is small compared with the weights, and left out."""
        source = sum(lengths) * self.layers * 2 * self.dim
        flops = 2 * len(lengths) * rows * self.decoder_weights + 2 * rows * source
        return ceilings.seconds(self.step_bytes(lengths), flops)

    def step_bytes(self, lengths: Sequence[int], *, past: float = 0, itemsize: int = 4) -> float:
        """The bytes that one call must read: the weights; each source's keys and values, once for all its beams; and
        those of `past` tokens."""
        return itemsize * (self.decoder_weights + (sum(lengths) + past) * self.layers * 2 * self.dim)

    def generate(self, ceilings: Ceilings, lengths: Sequence[int], rows: int, calls: int) -> float:
        """The time of `calls` of the decoder over encoded sources. A forward pass is one call for the whole target."""
        read = self.encode(ceilings, lengths) + self.read_source(ceilings, lengths)
        return read + calls * self.decode(ceilings, lengths, rows)


SIZES = {
    "bart-base": Size(layers=6, dim=768, heads=12, ffn=3072),
    "bart-large": Size(layers=12, dim=1024, heads=16, ffn=4096),
    "tiny": Size(layers=2, dim=64, heads=4, ffn=128),
}

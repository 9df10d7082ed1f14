"""What this machine could do at best: its measured ceilings, and what a workload needs of them.

A phase can be no faster than the bytes that it must read at the bandwidth, or the products that it must form at the
rate, whichever takes longer. Measured through XLA, so that the ceilings are those of any program that XLA compiles.
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Ceilings:
    bytes_per_second: float
    flops_per_second: float

    @classmethod
    def measure(cls) -> "Ceilings":
        def median(run: Any, *arrays: jax.Array) -> float:
            jax.block_until_ready(run(*arrays))
            times = []
            for _ in range(7):
                start = time.perf_counter()
                jax.block_until_ready(run(*arrays))
                times.append(time.perf_counter() - start)
            return statistics.median(times)

        large, square = jnp.ones(1 << 27), jnp.ones((2048, 2048))
        return cls(
            large.nbytes / median(jax.jit(jnp.sum), large), 2 * 2048**3 / median(jax.jit(jnp.matmul), square, square)
        )

    def seconds(self, size: float, flops: float) -> float:
        return max(size / self.bytes_per_second, flops / self.flops_per_second)


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a BART whose encoder and decoder are alike, with float32 parameters."""

    layers: int
    dim: int
    heads: int
    ffn: int
    vocab: int = 50265

    def encode(self, ceilings: Ceilings, lengths: Sequence[int]) -> float:
        weights = self.layers * (4 * self.dim**2 + 2 * self.dim * self.ffn)
        flops = sum(src * (2 * weights + self.layers * 4 * src * self.dim) for src in lengths)
        return ceilings.seconds(4 * weights, flops)

    def step(self, ceilings: Ceilings, lengths: Sequence[int], beams: int) -> float:
        """One token for each beam. The past is small beside the weights and is left out."""
        weights = self.layers * (6 * self.dim**2 + 2 * self.dim * self.ffn) + self.vocab * self.dim
        source = sum(lengths) * self.layers * 2 * self.dim
        return ceilings.seconds(4 * (weights + source), 2 * len(lengths) * beams * weights + 2 * beams * source)

    def generate(self, ceilings: Ceilings, lengths: Sequence[int], beams: int, new: int) -> float:
        project = ceilings.seconds(0, 4 * sum(lengths) * self.layers * self.dim**2)
        return self.encode(ceilings, lengths) + project + new * self.step(ceilings, lengths, beams)


SIZES = {
    "bart-base": Size(layers=6, dim=768, heads=12, ffn=3072),
    "bart-large": Size(layers=12, dim=1024, heads=16, ffn=4096),
}

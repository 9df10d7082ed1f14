"""Arrays of a checkpoint on the devices of a mesh: each process reads only what its own devices hold."""

import math
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from .formats.lazy_array import Bounds, Index, LazyArray, bounds


class Placement(NamedTuple):
    """The parts of an array that this process holds, and those that it reads from the file: each byte once.

    Args:
        shape: The shape of the whole array.
        sharding: Its sharding.
        reads: The bounds of each part that is read.
        holds: The bounds of each part that a device holds, with the position in `reads` of the one that contains it.
    """

    shape: tuple[int, ...]
    sharding: Sharding
    reads: tuple[Bounds, ...]
    holds: dict[Bounds, int]

    def nbytes(self, dtype: np.dtype) -> int:
        """The size of what `read` returns."""
        return sum(_size(part) for part in self.reads) * dtype.itemsize

    def read(self, array: LazyArray) -> list[np.ndarray]:
        return [array.read(_index(part)) for part in self.reads]

    def put(self, dtype: np.dtype, contents: list[np.ndarray]) -> jax.Array:
        """The array on the devices.

        Args:
            dtype: The dtype of the array.
            contents: What `read` returned.
        """

        def held(index: Index | None) -> np.ndarray:
            part = bounds(self.shape, index or ())
            position = self.holds[part]
            inside = zip(part, self.reads[position], strict=True)
            return contents[position][tuple(slice(start - first, stop - first) for (start, stop), (first, _) in inside)]

        return jax.make_array_from_callback(self.shape, self.sharding, held, dtype)


def placement(shape: tuple[int, ...], sharding: Sharding) -> Placement:
    """How this process reads an array. Neighbouring parts are read as one, and not row by row for each device.

    Args:
        shape: The shape of the array.
        sharding: Where it goes. Its axes divide those of the array.
    """
    indices = sharding.addressable_devices_indices_map(shape).values()
    parts = sorted({bounds(shape, index) for index in indices if index is not None})
    around = tuple((min(pair[0] for pair in axis), max(pair[1] for pair in axis)) for axis in zip(*parts, strict=True))
    if parts and _size(around) == sum(map(_size, parts)):
        return Placement(shape, sharding, (around,), dict.fromkeys(parts, 0))
    return Placement(shape, sharding, tuple(parts), {part: position for position, part in enumerate(parts)})


def _index(part: Bounds) -> Index:
    return tuple(slice(*pair) for pair in part)


def _size(part: Bounds) -> int:
    return math.prod(stop - start for start, stop in part)

"""Arrays whose shape and dtype are known, and whose values are read on demand, one array or a part of one at a time."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from ..errors import DamagedFileError
from .regular_file import Fingerprint, fingerprint


MAX_RANK = 8
_MAX_BYTES = 2**62  # NumPy counts bytes in a signed 64-bit integer
_TILE, _PADDING = 256, 16  # rows and columns
_ALIGNMENT = 64  # bytes; JAX on the CPU takes over an aligned array without a copy
_COMPARED = 2**24  # bytes of an array in memory while it is compared with another

Index = tuple[slice, ...]
"""A part of an array: a slice, without a step, of each of its first axes. `()` is the whole."""
Bounds = tuple[tuple[int, int], ...]
"""The same, as the start and the stop along each axis."""


@runtime_checkable
class Reader(Protocol):
    """A function that returns the values of an array, or those of a part of it."""

    def __call__(self, index: Index = (), /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array in a file or in memory, read by `read()`, or in part by `read(index)`.

    Nothing is allocated before `read`, so that a file with a wrong header is refused at no cost. `T` and `map` are
    lazy too. (`read` should not be a nested function: beartype would generate the checks of each one again, which took
    a third of a conversion.)

    Args:
        shape: The shape of the array.
        dtype: The dtype of the array.
        read: Returns the values, of this shape and dtype. It reads no more of a file than the index says.
        name: In its file, for error messages; empty if it has none.

    Raises:
        DamagedFileError: if no array of this shape can exist.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Reader
    name: str = ""

    def __post_init__(self) -> None:
        # NumPy refuses (0, 2**62) too, which has no bytes.
        if math.prod(size or 1 for size in self.shape) * self.dtype.itemsize > _MAX_BYTES:
            raise DamagedFileError(f"No array can have shape {self.shape}.")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> "LazyArray":
        every = (slice(None),) * len(self.shape)
        return LazyArray(
            self.shape[::-1], self.dtype, lambda index=(): self.read((*index, *every[len(index) :])[::-1]).T
        )

    def map(self, function: Callable[[np.ndarray], np.ndarray], dtype: np.dtype | None = None) -> "LazyArray":
        """`function` of the values, or of a part of them. Keeps the shape; returns `dtype`, by default the same."""
        dtype = self.dtype if dtype is None else dtype
        return LazyArray(self.shape, dtype, lambda index=(): function(self.read(index)))


def from_numpy(array: np.ndarray) -> LazyArray:
    return LazyArray(array.shape, array.dtype, lambda index=(): part_of(array, index))


def part_of(array: np.ndarray, index: Index) -> np.ndarray:
    return array[(*index, ...)]  # an array also where it has no axis


def shape_of_part(shape: tuple[int, ...], index: Index) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in bounds(shape, index))


def bounds(shape: tuple[int, ...], index: Index) -> Bounds:
    """The start and the stop of a part along each axis of an array of this shape."""
    every = (slice(None),) * len(shape)
    pairs = (part.indices(size)[:2] for size, part in zip(shape, (*index, *every[len(index) :]), strict=True))
    return tuple((start, max(start, stop)) for start, stop in pairs)


def runs(shape: tuple[int, ...], index: Index) -> Iterator[tuple[int, int]]:
    """The start and the length of each stretch of a part that is contiguous in an array in C order, in values."""
    ranges = bounds(shape, index)
    cut = [axis for axis, (pair, size) in enumerate(zip(ranges, shape, strict=True)) if pair != (0, size)]
    if any(start == stop for start, stop in ranges):
        return
    if not cut:
        yield 0, math.prod(shape)
        return
    last = cut[-1]  # all later axes are whole
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    start, stop = (end * steps[last] for end in ranges[last])
    outer = [
        range(low * step, high * step, step) for (low, high), step in zip(ranges[:last], steps[:last], strict=True)
    ]
    for offsets in itertools.product(*outer):
        yield sum(offsets) + start, stop - start


def from_file(path: Path, expected: Fingerprint, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> LazyArray:
    """The array stored in C order at byte `offset` of a file. A part of it is read run by run.

    Its `read` raises a `DamagedFileError` if the file's fingerprint is no longer the expected one.
    """
    return LazyArray(shape, dtype, functools.partial(_read, path, expected, offset, shape, dtype))


def _read(
    path: Path, expected: Fingerprint, offset: int, shape: tuple[int, ...], dtype: np.dtype, index: Index = ()
) -> np.ndarray:
    found = shape_of_part(shape, index)
    buffer = aligned_buffer(math.prod(found) * dtype.itemsize)
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            for start, length in runs(shape, index):
                file.seek(offset + start * dtype.itemsize)
                end = done + length * dtype.itemsize
                while done < end and (count := file.readinto(buffer.data[done:end])):
                    done += count
                if done < end:
                    break
            changed = done < len(buffer) or fingerprint(file) != expected
    except OSError as error:
        raise DamagedFileError(f"{path} can no longer be read ({error.strerror}): check the disk.") from None
    if changed:
        raise DamagedFileError(f"{path} was changed while it was read: try again when nothing writes to it.")
    return buffer.view(dtype).reshape(found)


def aligned_buffer(size: int) -> np.ndarray:
    """`size` uninitialised bytes, aligned so that JAX does not copy them."""
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size]


def dtype_named(name: str) -> np.dtype:
    """The dtype of this name, from NumPy or, as bfloat16, from ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name, name))


def is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def bytes_of(array: np.ndarray) -> np.ndarray:
    """The bytes of an array in C order, without a copy if it already has that order."""
    if array.ndim == 2 and not array.flags.c_contiguous:
        array = _in_c_order(array)
    return np.asarray(array, order="C").reshape(-1).view(np.uint8)


def _in_c_order(matrix: np.ndarray) -> np.ndarray:
    """A copy in C order, transposed tile by tile in a buffer that stays in the cache.

    Neighbouring elements of a transposed matrix are on different pages, and their addresses collide in the cache
    (measured: 1.9 GB/s by tiles, 0.46 GB/s without).
    """
    copy = aligned_buffer(matrix.nbytes).view(matrix.dtype).reshape(matrix.shape)
    buffer = np.empty((_TILE, _TILE + _PADDING), matrix.dtype)
    for column in range(0, matrix.shape[1], _TILE):
        for row in range(0, matrix.shape[0], _TILE):
            tile = matrix[row : row + _TILE, column : column + _TILE].T
            near = buffer[: tile.shape[0], : tile.shape[1]]
            near[...] = tile
            copy[row : row + _TILE, column : column + _TILE] = near.T
    return copy


def equal(one: LazyArray, other: LazyArray) -> bool:
    """Whether two arrays have the same shape, dtype and bytes. They are read in blocks of rows."""
    if one is other:
        return True
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    blocks: list[Index] = [()]
    if one.shape and one.nbytes:
        step = max(1, _COMPARED * one.shape[0] // one.nbytes)
        blocks = [(slice(start, start + step),) for start in range(0, one.shape[0], step)]
    return all(np.array_equal(bytes_of(one.read(block)), bytes_of(other.read(block))) for block in blocks)


def widest_float(arrays: Iterable[LazyArray]) -> np.dtype:
    """The common floating-point dtype of some arrays, float32 for float16 with bfloat16. Integers are left out."""
    floating = {array.dtype for array in arrays if is_float(array.dtype)} or {np.dtype(np.float32)}
    widest = max(floating, key=lambda dtype: dtype.itemsize)
    return np.dtype(np.float32) if widest.itemsize == 2 and len(floating) > 1 else widest

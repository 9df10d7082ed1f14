"""Numbers on their way out of a file: none may be NaN or infinite, and none may become so by a cast."""

import functools
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from .errors import NonFiniteError
from .match import BIAS
from .stored import StoredArray, is_float


_BLOCK = 2**17  # elements


def checked(
    name: str,
    array: StoredArray,
    dtype: np.dtype,
    *,
    allow_nonfinite: bool = False,
    warnings: list[str] | None = None,
) -> StoredArray:
    """The array as `dtype`, which raises `NonFiniteError` when it is read and a number is or becomes NaN or infinite.

    With `allow_nonfinite`, numbers that already are pass; those that a cast would make infinite do not. Integers are
    left as they are. A matrix of equal numbers, which no training makes but a failed upload may, is told to `warnings`.
    """
    if not is_float(array.dtype):
        return array

    return array.then(functools.partial(_check, name, dtype, allow_nonfinite, warnings), dtype)


def _check(
    name: str, dtype: np.dtype, allow_nonfinite: bool, warnings: list[str] | None, values: np.ndarray
) -> np.ndarray:
    lowest, highest = extrema(values)
    finite = np.isfinite(lowest) and np.isfinite(highest)
    if not finite and not allow_nonfinite:
        bad = values.size - sum(int(np.isfinite(block).sum()) for block in _blocks(values))
        raise NonFiniteError(
            f"`{name}` has {bad:,} of {values.size:,} numbers that are NaN or infinite: no model computes with "
            "them. Take another file, or say that you want them (`--allow-nonfinite`, `allow_nonfinite=True`)."
        )
    largest = max(-lowest, highest) if finite else _largest_finite(values)
    if largest > float(ml_dtypes.finfo(dtype).max):
        raise NonFiniteError(
            f"`{name}` holds {largest:.7g}, which {dtype} cannot: take bfloat16 or float32 as its dtype."
        )
    if warnings is not None and values.ndim > 1 and name != BIAS and lowest == highest:
        warnings.append(f"all {values.size:,} numbers of `{name}` are {lowest:.7g}: was it saved before it was made?")
    return values.astype(dtype, copy=False)


def _largest_finite(values: np.ndarray) -> float:
    finite = (block[np.isfinite(block)] for block in _blocks(values))
    return max(float(np.abs(block).max(initial=0)) for block in finite)


def extrema(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest of some numbers; NaN, both, if any is. An empty array has zeros.

    Makes no other array of that size: three times as fast as `isfinite` of all.
    """
    if not values.size:
        return 0.0, 0.0
    ends = [(block.min(), block.max()) for block in _blocks(values)]
    return float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Parts that fit into a cache. NumPy has no quick comparison of 16-bit floats: these are widened."""
    flat = values.ravel(order="K")  # a transposed matrix as it lies
    blocks = (flat[at : at + _BLOCK] for at in range(0, flat.size, _BLOCK))
    return (block if block.itemsize >= 4 else block.astype(np.float32) for block in blocks)

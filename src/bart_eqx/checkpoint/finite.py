"""Values of a checkpoint must be finite, in the file and after a cast."""

import functools
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from .errors import NonFiniteError
from .formats.lazy_array import LazyArray, is_float
from .match import BIAS


_BLOCK = 2**17  # values


def checked(
    name: str,
    array: LazyArray,
    dtype: np.dtype,
    *,
    allow_nonfinite: bool = False,
    warnings: list[str] | None = None,
) -> LazyArray:
    """The array cast to `dtype`. Reading it raises a `NonFiniteError` if a value is or becomes NaN or infinite.

    Args:
        name: The name of the array, for messages.
        array: Integer arrays are returned unchanged.
        dtype: Floating-point.
        allow_nonfinite: Whether values may be NaN or infinite before the cast. A finite value must stay finite.
        warnings: Gets a message for a matrix whose values are all equal: training makes none, a failed upload may.
    """
    if not is_float(array.dtype):
        return array
    return array.map(functools.partial(_check, name, dtype, allow_nonfinite, warnings), dtype)


def _check(
    name: str, dtype: np.dtype, allow_nonfinite: bool, warnings: list[str] | None, values: np.ndarray
) -> np.ndarray:
    lowest, highest = extrema(values)
    finite = np.isfinite(lowest) and np.isfinite(highest)
    if not finite and not allow_nonfinite:
        bad = values.size - sum(int(np.isfinite(block).sum()) for block in _blocks(values))
        raise NonFiniteError(
            f"{bad:,} of the {values.size:,} values of `{name}` are NaN or infinite: use another file, or accept them "
            "with `--allow-nonfinite` (`allow_nonfinite=True`)."
        )
    largest = max(-lowest, highest) if finite else _largest_finite(values)
    if largest > float(ml_dtypes.finfo(dtype).max):
        raise NonFiniteError(f"`{name}` holds {largest:.7g}, which overflows in {dtype}: use bfloat16 or float32.")
    if warnings is not None and values.ndim > 1 and name != BIAS and lowest == highest:
        warnings.append(
            f"all {values.size:,} values of `{name}` are {lowest:.7g}: was it saved before it was initialised?"
        )
    return values.astype(dtype, copy=False)


def _largest_finite(values: np.ndarray) -> float:
    finite = (block[np.isfinite(block)] for block in _blocks(values))
    return max(float(np.abs(block).max(initial=0)) for block in finite)


def extrema(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value; NaN and NaN if any value is NaN; 0 and 0 for an empty array.

    Allocates no array of that size: three times as fast as `isfinite` of the whole.
    """
    if not values.size:
        return 0.0, 0.0
    ends = [(block.min(), block.max()) for block in _blocks(values)]
    return float(np.min([low for low, _ in ends])), float(np.max([high for _, high in ends]))


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Parts that fit the CPU's cache. 16-bit floats are widened, since NumPy compares them slowly."""
    flat = values.ravel(order="K")  # no copy of a transposed matrix
    blocks = (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))
    return (block if block.itemsize >= 4 else block.astype(np.float32) for block in blocks)

"""Flax's msgpack files: nested maps whose leaves are arrays, as `flax/serialization.py` writes them.

A file may be years old and come from anybody, so nothing in it is trusted: only these extension types, these dtypes,
and arrays whose bytes are as many as their shape says.
"""

import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from .errors import CheckpointError
from .names import unflatten


_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"
_MAX_CHUNK = 2**30  # bytes; Flax splits longer arrays, as msgpack's lengths are 32-bit
_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        "bfloat16 float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128"
    ).split()
}


def read_msgpack(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by their path in the tree, joined with dots.

    Raises:
        CheckpointError: if it is not such a file, or not a whole one.
    """
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: download it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:24].startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull`.")
        try:
            with memoryview(content) as view:
                tree = msgpack.unpackb(view, ext_hook=_decode)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except (ValueError, TypeError, msgpack.UnpackException) as error:  # msgpack's errors have no common base
            raise CheckpointError(
                f"{path} is not a whole msgpack file ({type(error).__name__}: {error}): download it again."
            ) from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} must hold a map of parameters. Got {type(tree).__name__}.")
    flat: dict[str, np.ndarray] = {}
    try:
        _flatten(tree, "", flat)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return flat


def _decode(code: int, data: bytes) -> Any:
    if code == _COMPLEX:
        real, imaginary = msgpack.unpackb(data)
        return np.asarray(complex(real, imaginary))
    if code not in (_NDARRAY, _SCALAR):
        raise CheckpointError(f"an extension of type {code} is none of Flax's (1, 2, 3).")
    shape, name, buffer = msgpack.unpackb(data)
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise CheckpointError(f"an array has dtype {name!r}, which no checkpoint should hold.")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise CheckpointError(f"an array has shape {shape!r}.")
    if math.prod(shape) * dtype.itemsize != len(buffer):
        raise CheckpointError(f"an array of shape {shape} and dtype {name} has {len(buffer)} bytes.")
    return np.frombuffer(buffer, dtype).reshape(shape)


def _flatten(tree: Mapping[str, Any], prefix: str, flat: dict[str, np.ndarray]) -> None:
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, Mapping) and _CHUNKED in value:
            flat[path] = _join_chunks(path, value)
        elif isinstance(value, Mapping):
            _flatten(value, path + ".", flat)
        elif isinstance(value, np.ndarray):
            flat[path] = value
        else:
            raise CheckpointError(f"`{path}` must be an array. Got {type(value).__name__}.")


def _join_chunks(path: str, value: Mapping[str, Any]) -> np.ndarray:
    try:
        shape = [value["shape"][str(axis)] for axis in range(len(value["shape"]))]
        chunks = [value["chunks"][str(index)] for index in range(len(value["chunks"]))]
        return np.concatenate(chunks).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the chunks of `{path}` do not make an array ({error!r}).") from error


def write_msgpack(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays, by their dotted path in the tree, so that Flax reads them."""
    tree = unflatten({name: _chunk(array) for name, array in tensors.items()})
    with path.open("wb") as file:
        msgpack.pack(tree, file, default=_encode)


def _chunk(array: np.ndarray) -> Any:
    if array.nbytes <= _MAX_CHUNK:
        return array
    flat, size = array.reshape(-1), _MAX_CHUNK // array.itemsize
    return {
        _CHUNKED: True,
        "shape": {str(axis): length for axis, length in enumerate(array.shape)},
        "chunks": {str(index): flat[at : at + size] for index, at in enumerate(range(0, flat.size, size))},
    }


def _encode(array: np.ndarray) -> msgpack.ExtType:
    return msgpack.ExtType(_NDARRAY, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

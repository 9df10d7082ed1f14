"""Flax's msgpack files: nested maps whose leaves are arrays, as `flax/serialization.py` writes them.

A file may be years old and come from anybody, so nothing in it is trusted: only these extension types, these dtypes,
and arrays whose bytes are as many as their shape says. The msgpack library reads and writes every value but the heads
of byte strings: it has those in memory whole, several times over, and the arrays of a checkpoint are such strings. They
are passed over here, and read when they are asked for.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np

from .errors import CheckpointError, DamagedFileError
from .json_file import size_of
from .names import unflatten
from .stored import MAX_RANK, StoredArray, aligned_buffer, bytes_of, dtype_named, in_file, state_of
from .weights_file import Part


_NDARRAY, _SCALAR = 1, 3  # 2 is a complex number, which no weight is
_CHUNKED = "__msgpack_chunked_array__"
_MAX_CHUNK = 2**30  # bytes; Flax splits longer arrays, as msgpack's lengths are 32-bit
_MAX_DEPTH = 16
_MAX_ENTRIES = 20_000  # bart-large has 834
_MAX_NAME = 500  # characters of a whole path
_WINDOW = 4096  # bytes; more than a name, or the head of an array, ever has
_DTYPES = {
    name: dtype_named(name)
    for name in ("bfloat16 float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split())
}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}  # bytes that hold the length
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def read_msgpack(path: Path) -> dict[str, StoredArray]:
    """The arrays of a file, by their path in the tree, joined with dots. Only heads are read.

    Raises:
        DamagedFileError: if it is not such a file, or not a whole one.
    """
    size = size_of(path)
    try:
        with path.open("rb") as file:
            tree, end = _Walk(file, path, size).map(0, "", 0)
        if end != size:
            raise DamagedFileError(f"it holds {end:,} bytes of parameters, and {size - end:,} bytes behind them.")
        flat: dict[str, StoredArray] = {}
        _flatten(tree, "", flat)
    except CheckpointError as error:
        raise type(error)(f"{path}: {error} Download it again.") from None
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:  # msgpack's have no common base
        raise DamagedFileError(
            f"{path} is not a whole msgpack file ({type(error).__name__}: {error}): download it again."
        ) from None
    return flat


class _Walk:
    """One walk over a file, from head to head."""

    def __init__(self, file: BinaryIO, path: Path, size: int):
        self.file = file
        self.state = state_of(file)
        self.path = path
        self.size = size
        self.entries = 0

    def window(self, offset: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(_WINDOW)

    def unpacker(self, offset: int) -> Any:
        unpacker = msgpack.Unpacker(max_buffer_size=_WINDOW)
        unpacker.feed(self.window(offset))
        return unpacker

    def map(self, offset: int, path: str, depth: int) -> tuple[dict[str, Any], int]:
        """The map at `offset`, and where it ends."""
        if depth > _MAX_DEPTH:
            raise DamagedFileError(f"`{path[:80]}...` lies deeper than {_MAX_DEPTH} maps.")
        unpacker = self.unpacker(offset)
        count = unpacker.read_map_header()
        offset += unpacker.tell()
        tree: dict[str, Any] = {}
        for _ in range(count):
            self.entries += 1
            if self.entries > _MAX_ENTRIES:
                raise DamagedFileError(f"it has more than {_MAX_ENTRIES:,} entries, and no BART has.")
            unpacker = self.unpacker(offset)
            name = unpacker.unpack()
            if not isinstance(name, str):
                raise DamagedFileError(f"a name in `{path}` must be a string. Got {name!r:.80}.")
            if len(path) + len(name) > _MAX_NAME:
                raise DamagedFileError(f"`{path}{name}"[:80] + f"...` is longer than {_MAX_NAME} characters.")
            if name in tree:
                raise DamagedFileError(f"`{path}{name}` occurs twice.")
            tree[name], offset = self.value(offset + unpacker.tell(), path + name, depth)
        return tree, offset

    def value(self, offset: int, path: str, depth: int) -> tuple[Any, int]:
        head = self.window(offset)[:6]
        kind = head[0]
        if 0x80 <= kind <= 0x8F or kind in (0xDE, 0xDF):
            return self.map(offset, f"{path}.", depth + 1)
        if kind in _FIXED_EXTENSIONS:
            return self.array(offset + 2, head[1], _FIXED_EXTENSIONS[kind], path)
        if kind in _EXTENSIONS:
            width = _EXTENSIONS[kind]
            length = int.from_bytes(head[1 : 1 + width], "big")
            return self.array(offset + 2 + width, head[1 + width], length, path)
        unpacker = self.unpacker(offset)
        return unpacker.unpack(), offset + unpacker.tell()

    def array(self, offset: int, code: int, length: int, path: str) -> tuple[StoredArray, int]:
        """The array whose extension has its payload at `offset`."""
        if code not in (_NDARRAY, _SCALAR):
            raise DamagedFileError(
                f"`{path}` is an extension of type {code}, which is none of Flax's for arrays (1, 3)."
            )
        end = offset + length
        if end > self.size:
            raise DamagedFileError(f"`{path}` ends at byte {end:,} of {self.size:,}: the file is cut off.")
        unpacker = self.unpacker(offset)
        if unpacker.read_array_header() != 3:
            raise DamagedFileError(f"`{path}` must be a shape, a dtype and bytes.")
        shape, name = unpacker.unpack(), unpacker.unpack()
        if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(type(s) is int and s >= 0 for s in shape):
            raise DamagedFileError(f"`{path}` has shape {shape!r:.80}.")
        dtype = _DTYPES.get(name) if isinstance(name, str) else None
        if dtype is None:
            raise DamagedFileError(f"`{path}` has dtype {name!r:.80}, which no checkpoint should hold.")
        head = self.window(offset + unpacker.tell())
        width = _BYTES.get(head[0], 0)
        start = offset + unpacker.tell() + 1 + width
        count = int.from_bytes(head[1 : 1 + width], "big")
        if not width or start + count != end:
            raise DamagedFileError(f"the bytes of `{path}` must be all that follows its shape and its dtype.")
        if math.prod(shape) * dtype.itemsize != count:
            raise DamagedFileError(f"`{path}`, of shape {tuple(shape)} and dtype {name}, has {count:,} bytes.")
        return in_file(self.path, self.state, start, tuple(shape), dtype), end


def _flatten(tree: Mapping[str, Any], prefix: str, flat: dict[str, StoredArray]) -> None:
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, Mapping):
            if _CHUNKED in value:
                value = _join_chunks(path, value)
            else:
                _flatten(value, path + ".", flat)
                continue
        if not isinstance(value, StoredArray):
            raise DamagedFileError(f"`{path}` must be an array. Got {type(value).__name__}.")
        if path in flat:  # "a.b" beside {"a": {"b": ...}}
            raise DamagedFileError(f"`{path}` occurs twice.")
        flat[path] = value


def _join_chunks(path: str, value: Mapping[str, Any]) -> StoredArray:
    """One array of several flat ones, as Flax splits what is longer than `_MAX_CHUNK`."""
    try:
        shape = tuple(value["shape"][str(axis)] for axis in range(len(value["shape"])))
        chunks = [value["chunks"][str(index)] for index in range(len(value["chunks"]))]
        whole = value.keys() == {_CHUNKED, "shape", "chunks"} and value[_CHUNKED] is True and len(shape) <= MAX_RANK
        whole = whole and all(type(size) is int and size >= 0 for size in shape)
        dtypes = {chunk.dtype for chunk in chunks}
        whole = whole and len(dtypes) == 1 and all(len(chunk.shape) == 1 for chunk in chunks)
        whole = whole and sum(chunk.size for chunk in chunks) == math.prod(shape)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"the chunks of `{path}` do not make an array ({error!r:.80}).") from None
    if not whole:
        raise DamagedFileError(f"the chunks of `{path}` do not make an array of its shape.")

    return StoredArray(shape, chunks[0].dtype, functools.partial(_read_chunks, chunks, shape))


def _read_chunks(chunks: Sequence[StoredArray], shape: tuple[int, ...]) -> np.ndarray:
    buffer, done = aligned_buffer(sum(chunk.nbytes for chunk in chunks)), 0
    for chunk in chunks:
        buffer[done : done + chunk.nbytes] = bytes_of(chunk.read())
        done += chunk.nbytes
    return buffer.view(chunks[0].dtype).reshape(shape)


def msgpack_parts(tensors: Mapping[str, StoredArray]) -> Iterator[bytes | Part]:
    """A file of these arrays, by their dotted path in the tree, part by part, so that Flax reads it."""
    packer = msgpack.Packer()

    def value(node: Any) -> Iterator[bytes | Part]:
        if isinstance(node, Mapping):
            yield packer.pack_map_header(len(node))
            for name, child in node.items():
                yield packer.pack(name)
                yield from value(child)
        elif isinstance(node, str) and tensors[node].nbytes > _MAX_CHUNK:
            yield from value(_chunks(node, tensors[node]))
        elif isinstance(node, str):
            array = tensors[node]
            yield from _array(array.shape, array.dtype, Part(node, 0, array.nbytes))
        elif isinstance(node, Part):
            dtype = tensors[node.name].dtype
            yield from _array((len(node) // dtype.itemsize,), dtype, node)
        else:
            yield packer.pack(node)

    return value(unflatten({name: name for name in tensors}))


def _chunks(name: str, array: StoredArray) -> dict[str, Any]:
    step = _MAX_CHUNK // array.dtype.itemsize * array.dtype.itemsize
    parts = [Part(name, at, min(at + step, array.nbytes)) for at in range(0, array.nbytes, step)]
    return {
        _CHUNKED: True,
        "shape": {str(axis): length for axis, length in enumerate(array.shape)},
        "chunks": {str(index): part for index, part in enumerate(parts)},
    }


def _array(shape: tuple[int, ...], dtype: np.dtype, part: Part) -> Iterator[bytes | Part]:
    """An extension that holds a byte string, with the heads that the library would write."""
    inner = msgpack.Packer().pack((shape, dtype.name, b""))[:-2] + _head(_BYTES, len(part))  # without the head of b""
    length = len(inner) + len(part)
    fixed = [bytes([kind]) for kind, size in _FIXED_EXTENSIONS.items() if size == length]
    yield (fixed[0] if fixed else _head(_EXTENSIONS, length)) + bytes([_NDARRAY]) + inner
    yield part


def _head(kinds: Mapping[int, int], length: int) -> bytes:
    """The shortest head of a value of so many bytes."""
    for kind, width in kinds.items():
        if length < 256**width:
            return bytes([kind]) + length.to_bytes(width, "big")
    raise ValueError(f"msgpack has no value of {length} bytes.")  # `_chunks` leaves none

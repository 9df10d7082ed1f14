"""Flax's msgpack files: nested maps whose leaves are arrays, as `flax/serialization.py` writes them.

Nothing in a file is trusted: only Flax's extension types and the dtypes of `_DTYPES` are accepted, and an array must
have as many bytes as its shape says. The msgpack library parses everything except the byte strings that hold the
arrays, which it would copy into memory several times. These are skipped, and read on demand.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np

from ..errors import CheckpointError, DamagedFileError, UnsupportedCheckpointError
from .lazy_array import MAX_RANK, Index, LazyArray, aligned_buffer, dtype_named, from_file, runs, shape_of_part
from .nested import check_is_no_train_state, unflatten
from .regular_file import checked_size, fingerprint
from .writer import Part


_NDARRAY, _SCALAR = 1, 3  # extension types; 2 is a complex number, which no weight is
_CHUNKED = "__msgpack_chunked_array__"
_MAX_CHUNK = 2**30  # bytes; Flax splits longer arrays, since msgpack has 32-bit lengths
_MAX_DEPTH = 16
_MAX_ENTRIES = 20_000  # bart-large has 834
_MAX_NAME = 500  # characters of a whole path
_WINDOW = 4096  # bytes; more than any name or array header takes
_DTYPES = {
    name: dtype_named(name)
    for name in ("bfloat16 float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split())
}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}  # type byte to the width of the length, in bytes
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def read_msgpack(path: Path) -> dict[str, LazyArray]:
    """The arrays of a file by their dotted path in the tree. Only headers are read.

    Raises:
        CheckpointError: as `checked_size` does; a `DamagedFileError` if this is not a complete msgpack file of arrays;
            an `UnsupportedCheckpointError` if it is the state of a training.
    """
    size = checked_size(path)
    try:
        with path.open("rb") as file:
            tree, end = _Parser(file, path, size).map(0, "", 0)
        if end != size:
            raise DamagedFileError(f"it has {size - end:,} bytes after the {end:,} bytes of its parameters.")
        check_is_no_train_state(tree)
        flat: dict[str, LazyArray] = {}
        _flatten(tree, "", flat)
    except UnsupportedCheckpointError as error:
        raise UnsupportedCheckpointError(f"{path}: {error}") from None
    except CheckpointError as error:
        raise type(error)(f"{path}: {error} Download it again.") from None
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:  # msgpack's have no common base
        raise DamagedFileError(
            f"{path} is not a complete msgpack file ({type(error).__name__}: {error}): download it again."
        ) from None
    return flat


class _Parser:
    """Reads the headers of one file from start to end, and skips the values of its arrays."""

    def __init__(self, file: BinaryIO, path: Path, size: int):
        self.file = file
        self.fingerprint = fingerprint(file)
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
        """The map at byte `offset`, and the offset of its end."""
        if depth > _MAX_DEPTH:
            raise DamagedFileError(f"`{path[:80]}...` is nested deeper than {_MAX_DEPTH} maps.")
        unpacker = self.unpacker(offset)
        count = unpacker.read_map_header()
        offset += unpacker.tell()
        tree: dict[str, Any] = {}
        for _ in range(count):
            self.entries += 1
            if self.entries > _MAX_ENTRIES:
                raise DamagedFileError(f"it has more than {_MAX_ENTRIES:,} entries, which no BART has.")
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
        header = self.window(offset)[:6]
        kind = header[0]
        if 0x80 <= kind <= 0x8F or kind in (0xDE, 0xDF):
            return self.map(offset, f"{path}.", depth + 1)
        if kind in _FIXED_EXTENSIONS:
            return self.array(offset + 2, header[1], _FIXED_EXTENSIONS[kind], path)
        if kind in _EXTENSIONS:
            width = _EXTENSIONS[kind]
            length = int.from_bytes(header[1 : 1 + width], "big")
            return self.array(offset + 2 + width, header[1 + width], length, path)
        unpacker = self.unpacker(offset)
        return unpacker.unpack(), offset + unpacker.tell()

    def array(self, offset: int, code: int, length: int, path: str) -> tuple[LazyArray, int]:
        """The array of the extension value whose payload of `length` bytes is at byte `offset`, and the end offset."""
        if code not in (_NDARRAY, _SCALAR):
            raise DamagedFileError(f"`{path}` must be an extension of type 1 or 3, Flax's for arrays. Got type {code}.")
        end = offset + length
        if end > self.size:
            raise DamagedFileError(f"`{path}` ends at byte {end:,} of {self.size:,}: the file is cut off.")
        unpacker = self.unpacker(offset)
        if unpacker.read_array_header() != 3:
            raise DamagedFileError(f"`{path}` must hold a shape, a dtype and bytes.")
        shape, name = unpacker.unpack(), unpacker.unpack()
        if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(type(s) is int and s >= 0 for s in shape):
            raise DamagedFileError(f"`{path}` has the invalid shape {shape!r:.80}.")
        dtype = _DTYPES.get(name) if isinstance(name, str) else None
        if dtype is None:
            raise DamagedFileError(f"`{path}` has the unsupported dtype {name!r:.80}.")
        header = self.window(offset + unpacker.tell())
        width = _BYTES.get(header[0], 0)
        start = offset + unpacker.tell() + 1 + width
        count = int.from_bytes(header[1 : 1 + width], "big")
        if not width or start + count != end:
            raise DamagedFileError(f"`{path}` must end with the byte string that follows its shape and dtype.")
        if math.prod(shape) * dtype.itemsize != count:
            raise DamagedFileError(
                f"`{path}` has {count:,} bytes, which does not fit shape {tuple(shape)} and dtype {name}."
            )
        return from_file(self.path, self.fingerprint, start, tuple(shape), dtype), end


def _flatten(tree: Mapping[str, Any], prefix: str, flat: dict[str, LazyArray]) -> None:
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, Mapping):
            if _CHUNKED in value:
                value = _join_chunks(path, value)
            else:
                _flatten(value, path + ".", flat)
                continue
        if not isinstance(value, LazyArray):
            raise DamagedFileError(f"`{path}` must be an array. Got {type(value).__name__}.")
        if path in flat:  # "a.b" beside {"a": {"b": ...}}
            raise DamagedFileError(f"`{path}` occurs twice.")
        flat[path] = value


def _join_chunks(path: str, value: Mapping[str, Any]) -> LazyArray:
    """One array from flat chunks, as Flax splits arrays longer than `_MAX_CHUNK`."""
    try:
        shape = tuple(value["shape"][str(axis)] for axis in range(len(value["shape"])))
        chunks = [value["chunks"][str(index)] for index in range(len(value["chunks"]))]
        valid = value.keys() == {_CHUNKED, "shape", "chunks"} and value[_CHUNKED] is True and len(shape) <= MAX_RANK
        valid = valid and all(type(size) is int and size >= 0 for size in shape)
        dtypes = {chunk.dtype for chunk in chunks}
        valid = valid and len(dtypes) == 1 and all(len(chunk.shape) == 1 for chunk in chunks)
        valid = valid and sum(chunk.size for chunk in chunks) == math.prod(shape)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"the chunks of `{path}` do not make an array ({error!r:.80}).") from None
    if not valid:
        raise DamagedFileError(f"the chunks of `{path}` do not make an array of its shape.")
    return LazyArray(shape, chunks[0].dtype, functools.partial(_read_chunks, chunks, shape))


def _read_chunks(chunks: Sequence[LazyArray], shape: tuple[int, ...], index: Index = ()) -> np.ndarray:
    dtype, found = chunks[0].dtype, shape_of_part(shape, index)
    buffer, done = aligned_buffer(math.prod(found) * dtype.itemsize).view(dtype), 0
    ends = [*itertools.accumulate(chunk.size for chunk in chunks)]
    for start, length in runs(shape, index):
        for chunk, end in zip(chunks, ends, strict=True):
            first = end - chunk.size
            low, high = max(start, first), min(start + length, end)
            if low < high:
                buffer[done : done + high - low] = chunk.read((slice(low - first, high - first),))
                done += high - low
    return buffer.reshape(found)


def msgpack_parts(tensors: Mapping[str, LazyArray]) -> Iterator[bytes | Part]:
    """The contents of a file that Flax reads, part by part. `tensors` are arrays by their dotted path in the tree."""
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


def _chunks(name: str, array: LazyArray) -> dict[str, Any]:
    step = _MAX_CHUNK // array.dtype.itemsize * array.dtype.itemsize
    parts = [Part(name, start, min(start + step, array.nbytes)) for start in range(0, array.nbytes, step)]
    return {
        _CHUNKED: True,
        "shape": {str(axis): length for axis, length in enumerate(array.shape)},
        "chunks": {str(index): part for index, part in enumerate(parts)},
    }


def _array(shape: tuple[int, ...], dtype: np.dtype, part: Part) -> Iterator[bytes | Part]:
    """The extension value of an array: the headers that the msgpack library would write, and the array's bytes."""
    empty = msgpack.Packer().pack((shape, dtype.name, b""))
    inner = empty[:-2] + _header(_BYTES, len(part))  # b"" is two bytes
    length = len(inner) + len(part)
    fixed = [bytes([kind]) for kind, size in _FIXED_EXTENSIONS.items() if size == length]
    yield (fixed[0] if fixed else _header(_EXTENSIONS, length)) + bytes([_NDARRAY]) + inner
    yield part


def _header(kinds: Mapping[int, int], length: int) -> bytes:
    """The shortest header for a value of `length` bytes."""
    for kind, width in kinds.items():
        if length < 256**width:
            return bytes([kind]) + length.to_bytes(width, "big")
    raise ValueError(f"msgpack cannot hold a value of {length} bytes.")  # `_chunks` makes none

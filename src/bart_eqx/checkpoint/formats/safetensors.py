"""Safetensors files. The library checks their headers; what it does not check is checked here.

Version 0.8 of the library keeps the last of two entries of one name, raises errors of other types than its own, names
no file in them, and maps files into memory, so that the process dies if one shrinks. When writing, it needs all arrays
in memory at once, writes a transposed view as another matrix (safetensors#825), and ignores the umask. The format is a
header followed by the arrays, and is written here.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import DamagedFileError, UnsupportedCheckpointError
from .json import parse_json
from .lazy_array import MAX_RANK, LazyArray, dtype_named, from_file
from .regular_file import Fingerprint, checked_size, fingerprint
from .writer import Part


_MAX_HEADER = 2**20  # bytes; bart-large's has 60,000
_DTYPES = {
    name: dtype_named(numpy_name)
    for name, numpy_name in {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
    }.items()
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LAYOUTS = {"pt": "PyTorch's", "mlx": "PyTorch's", "flax": "Flax's", "np": None}


def read_safetensors(path: Path) -> dict[str, LazyArray]:
    """The arrays of a file by name. Only the header is read.

    Raises:
        CheckpointError: as `checked_size` does; a `DamagedFileError` if this is not a complete safetensors file; an
            `UnsupportedCheckpointError` if the dtype of an array, or the framework that the file names, is not known.
    """
    size = checked_size(path)
    with path.open("rb") as file:
        expected = fingerprint(file)
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise DamagedFileError(
                f"{path} cannot be read as safetensors: its header should have {length:,} bytes. The file has "
                f"{max(size - 8, 0):,}, and a header at most {_MAX_HEADER:,}: download it again."
            )
        header = parse_json(file.read(length), f"The header of {path}")
    try:
        # Not mapped into memory. Checks that offsets fit shapes, and that the arrays fill the file without a gap.
        with safe_open(path, framework="numpy", backend="pread"):
            pass
    except (SafetensorError, ValueError, AttributeError, OSError) as error:  # bad headers raise any of these
        raise DamagedFileError(f"{path} cannot be read as safetensors ({error}): download it again.") from None
    layout = (header.pop("__metadata__", None) or {}).get("format")  # the library accepts null
    if layout is not None and layout not in _LAYOUTS:
        raise UnsupportedCheckpointError(
            f"{path} says format={layout!r:.80}, whose parameter names and layouts are not known. Save it as one of "
            f"{', '.join(_LAYOUTS)}."
        )
    arrays = {name: _array(path, expected, name, entry, 8 + length) for name, entry in header.items()}
    _check_layout(path, layout, arrays)
    return arrays


def _array(path: Path, expected: Fingerprint, name: str, entry: Any, start: int) -> LazyArray:
    if not isinstance(entry, dict):  # the library accepts a list of an entry's values, and {"F32": null} as a dtype
        raise DamagedFileError(f"{path}: {name!r} must have named dtype, shape and data_offsets. Got {entry!r:.80}.")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    shape = tuple(entry["shape"])
    if dtype is None:
        raise UnsupportedCheckpointError(
            f"{path}: {name!r} has dtype {entry['dtype']!s:.80}. It must be one of {', '.join(_DTYPES)}: cast it first."
        )
    if len(shape) > MAX_RANK:
        raise DamagedFileError(f"{path}: {name!r} has {len(shape)} axes. No array of a BART has more than 2.")
    try:
        return from_file(path, expected, start + entry["data_offsets"][0], shape, dtype)
    except DamagedFileError as error:
        raise DamagedFileError(f"{path}: {name!r}: {error}") from None


def _check_layout(path: Path, layout: str | None, arrays: Mapping[str, LazyArray]) -> None:
    """A `kernel` is Flax's, `[in, out]`; a `weight` PyTorch's, `[out, in]`. A square matrix shows no difference."""
    of_flax = [name for name in arrays if name.endswith((".kernel", ".scale", ".embedding"))]
    of_pytorch = [name for name in arrays if name.endswith(".weight")]
    expected = None if layout is None else _LAYOUTS[layout]
    wrong = {"PyTorch's": of_flax, "Flax's": of_pytorch}.get(expected or "", [])
    if not wrong and of_flax and of_pytorch:
        expected, wrong = "one framework's", [of_flax[0], of_pytorch[0]]
    if wrong:
        raise DamagedFileError(
            f"{path} says format={layout!r}: all its names must be {expected}. Got {', '.join(wrong[:3])}, so that the "
            "layout of its arrays is ambiguous. Save it again with the framework that made it."
        )


def safetensors_parts(tensors: Mapping[str, LazyArray], *, layout: str) -> Iterator[bytes | Part]:
    """The contents of a file, part by part, byte for byte as the library writes it.

    Args:
        tensors: The arrays by name.
        layout: `"pt"` or `"flax"`, from which transformers knows whose names and layouts these are.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": layout}}
    end = 0
    for name in names:
        array = tensors[name]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % 8)
    yield len(content).to_bytes(8, "little") + content
    for name in names:
        yield Part(name, 0, tensors[name].nbytes)

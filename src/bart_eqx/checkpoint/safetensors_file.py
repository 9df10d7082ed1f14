"""Safetensors files. The library checks their headers; what it lets pass is checked here.

Version 0.8 of it keeps the last of two entries of the same name, leaks errors of other kinds than its own, names no
file in any of them, and maps files into memory, which ends the process if one shrinks. To write, it wants all arrays in
memory at once, takes a transposed view for another matrix (safetensors#825), and forgets the umask; the format is a
header and the arrays behind it, and is written here.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .errors import DamagedFileError, UnsupportedCheckpointError
from .json_file import parse_json, size_of
from .stored import MAX_RANK, FileState, StoredArray, dtype_named, in_file, state_of
from .weights_file import Part


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


def read_safetensors(path: Path) -> dict[str, StoredArray]:
    """The arrays of a file, by name. Only the header is read.

    Raises:
        DamagedFileError: if it is not such a file, or not a whole one.
        UnsupportedCheckpointError: if it has arrays of a dtype, or of a framework's layout, that no BART has.
    """
    size = size_of(path)
    with path.open("rb") as file:
        state = state_of(file)
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise DamagedFileError(
                f"{path} cannot be read as safetensors: its header should have {length:,} bytes, and it has "
                f"{max(size - 8, 0):,} (a header, {_MAX_HEADER:,} at most): download it again."
            )
        header = parse_json(file.read(length), f"The header of {path}")
    try:
        # Read, not mapped. Checks that offsets and shapes agree, and that the arrays fill the file without a gap.
        with safe_open(path, framework="numpy", backend="pread"):
            pass
    except (SafetensorError, ValueError, AttributeError, OSError) as error:  # all of these leak out for bad headers
        raise DamagedFileError(f"{path} cannot be read as safetensors ({error}): download it again.") from None
    layout = (header.pop("__metadata__", None) or {}).get("format")  # null passes, too
    if layout is not None and layout not in _LAYOUTS:
        raise UnsupportedCheckpointError(
            f"{path} says format={layout!r:.80}, whose names and layouts are not known here. Save it as one of "
            f"{', '.join(_LAYOUTS)}."
        )
    arrays = {name: _array(path, state, name, entry, 8 + length) for name, entry in header.items()}
    _check_layout(path, layout, arrays)
    return arrays


def _array(path: Path, state: FileState, name: str, entry: Any, start: int) -> StoredArray:
    if not isinstance(entry, dict):  # to the library, a list of its values is an entry, and {"F32": null} a dtype
        raise DamagedFileError(f"{path}: {name!r} must have its dtype, shape and offsets by name. Got {entry!r:.80}.")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    shape = tuple(entry["shape"])
    if dtype is None:
        raise UnsupportedCheckpointError(
            f"{path}: {name!r} has dtype {entry['dtype']!s:.80}. It must be one of {', '.join(_DTYPES)}: save it so."
        )
    if len(shape) > MAX_RANK:
        raise DamagedFileError(f"{path}: {name!r} has {len(shape)} axes, and no array of a BART has more than 2.")
    try:
        return in_file(path, state, start + entry["data_offsets"][0], shape, dtype)
    except DamagedFileError as error:
        raise DamagedFileError(f"{path}: {name!r}: {error}") from None


def _check_layout(path: Path, layout: str | None, arrays: Mapping[str, StoredArray]) -> None:
    """`kernel` says Flax and `[in, out]`; `weight` says PyTorch and `[out, in]`. A square matrix would not tell."""
    of_flax = [name for name in arrays if name.endswith((".kernel", ".scale", ".embedding"))]
    of_pytorch = [name for name in arrays if name.endswith(".weight")]
    expected = None if layout is None else _LAYOUTS[layout]
    strangers = {"PyTorch's": of_flax, "Flax's": of_pytorch}.get(expected or "", [])
    if not strangers and of_flax and of_pytorch:
        expected, strangers = "one framework's", [of_flax[0], of_pytorch[0]]
    if strangers:
        raise DamagedFileError(
            f"{path} says format={layout!r}, so that all its names must be {expected}. Got {', '.join(strangers[:3])}: "
            "whose layout they have cannot be told. Save it anew."
        )


def safetensors_parts(tensors: Mapping[str, StoredArray], *, layout: str) -> Iterator[bytes | Part]:
    """A file of these arrays, part by part, byte for byte as the library writes it.

    `layout` is "pt" or "flax", the word by which transformers tells them apart.
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

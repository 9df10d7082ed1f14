"""A checkpoint's files, written into a folder and read again."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from .embeddings import with_copies
from .errors import UnsupportedCheckpointError, VerificationError
from .flax_msgpack import msgpack_parts, read_msgpack
from .match import widest_float
from .names import to_flax_leaf
from .safetensors_file import read_safetensors, safetensors_parts
from .stored import StoredArray
from .weights_file import Part, write_parts


Progress = Callable[[int], object]
Layout = Literal["safetensors", "flax"]
WEIGHTS: Mapping[Layout, str] = {"safetensors": "model.safetensors", "flax": "flax_model.msgpack"}


def laid_out(tensors: Mapping[str, StoredArray], to: Layout, *, tied: bool) -> dict[str, StoredArray]:
    """The arrays as a file of that layout has them.

    Raises:
        UnsupportedCheckpointError: if it cannot have them.
    """
    int8 = any(name.endswith("weight_scale") for name in tensors)
    if to == "safetensors":
        return dict(tensors) if tied or int8 else with_copies(tensors)
    if int8:
        raise UnsupportedCheckpointError(
            "Flax's BART has no int8 weights: save as safetensors, or save the model unquantised."
        )
    if own := [name for name in tensors if name.endswith("embed_tokens.weight") and "model.shared.weight" in tensors]:
        raise UnsupportedCheckpointError(
            f"Flax's BART has one token embedding, and here {', '.join(own)} differ from `shared`: save as safetensors."
        )
    return dict(to_flax_leaf(name, array) for name, array in tensors.items())


def write_weights(
    path: Path, tensors: Mapping[str, StoredArray], to: Layout, progress: Progress = lambda count: None
) -> str:
    """Write arrays that are `laid_out` into a new file, down to the disk, and read it again.

    Returns:
        The hash of the file.

    Raises:
        VerificationError: if it does not read as it was written.
        OSError: if it cannot be written.
    """
    hash_of_file = write_parts(path, _parts(tensors, to), tensors, progress)
    found = read_msgpack(path) if to == "flax" else read_safetensors(path)
    heads, expected = ({n: (array.shape, array.dtype) for n, array in side.items()} for side in (found, tensors))
    if heads != expected:
        raise VerificationError(f"{path} does not read as it was written: please report this.")
    return hash_of_file


def _parts(tensors: Mapping[str, StoredArray], to: Layout) -> Iterator[bytes | Part]:
    return msgpack_parts(tensors) if to == "flax" else safetensors_parts(tensors, layout="pt")


def config_fields(class_name: str, config: Mapping[str, Any], tensors: Mapping[str, StoredArray]) -> dict[str, Any]:
    """The contents of config.json, as transformers reads it."""
    return {"architectures": [class_name], **config, "torch_dtype": str(widest_float(tensors.values()))}


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write an object into a new file, the same bytes for the same object, down to the disk."""
    write_text(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a new file, down to the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))

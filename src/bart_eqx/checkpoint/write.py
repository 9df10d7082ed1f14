"""Writing the files of a checkpoint, and reading them back."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .architectures import INT8_METHOD, has_int8
from .embeddings import with_copies
from .errors import UnsupportedCheckpointError, VerificationError
from .formats.lazy_array import LazyArray, widest_float
from .formats.msgpack import msgpack_parts, read_msgpack
from .formats.prefetch import Reads, prefetch
from .formats.safetensors import read_safetensors, safetensors_parts
from .formats.writer import Part, write_parts
from .names import to_flax_leaf


Layout = Literal["safetensors", "flax"]
WEIGHTS: Mapping[Layout, str] = {"safetensors": "model.safetensors", "flax": "flax_model.msgpack"}
RECORD = "conversion.json"  # what a conversion did: `convert/record.py`


def arrange(tensors: Mapping[str, LazyArray], to: Layout, *, tied: bool) -> dict[str, LazyArray]:
    """The arrays as a file of this layout holds them.

    Args:
        tensors: A model's parameters, by PyTorch's names and in its layouts.
        to: The layout of the file.
        tied: The configuration's `tie_word_embeddings`.

    Raises:
        UnsupportedCheckpointError: if the layout cannot hold them.
    """
    int8 = has_int8(tensors)
    if to == "safetensors":
        return dict(tensors) if tied or int8 else with_copies(tensors)
    if int8:
        raise UnsupportedCheckpointError(
            "Flax's BART has no int8 weights: save as safetensors, or save the model that is not quantised."
        )
    if own := [name for name in tensors if name.endswith("embed_tokens.weight") and "model.shared.weight" in tensors]:
        raise UnsupportedCheckpointError(
            f"Flax's BART has one token embedding. Here {', '.join(own)} differ from `shared`: save as safetensors."
        )
    return dict(to_flax_leaf(name, array) for name, array in tensors.items())


def write_weights(
    path: Path,
    tensors: Mapping[str, LazyArray],
    to: Layout,
    progress: Callable[[int], object] = lambda count: None,
    reads: Reads[np.ndarray] = prefetch,
) -> str:
    """Write a new file of weights, flush it to the disk, and read it back.

    Args:
        path: The file. It must not exist.
        tensors: The arrays, as `arrange` returns them.
        to: The layout of the file.
        progress: Called with the number of bytes of each block written.
        reads: How the arrays are read, in the order of `order_of_reading`.

    Returns:
        The BLAKE3 hash of the file, in hexadecimal.

    Raises:
        VerificationError: if the file differs from what was written.
        OSError: if it cannot be written.
    """
    hash_of_file = write_parts(path, _parts(tensors, to), tensors, progress, reads)
    found = read_msgpack(path) if to == "flax" else read_safetensors(path)
    headers, expected = ({n: (array.shape, array.dtype) for n, array in side.items()} for side in (found, tensors))
    if headers != expected:
        raise VerificationError(f"{path} does not read back as it was written. Please report this.")
    return hash_of_file


def order_of_reading(tensors: Mapping[str, LazyArray], to: Layout) -> list[str]:
    """The names of the arrays in the order in which a file of this layout has them."""
    return [*dict.fromkeys(part.name for part in _parts(tensors, to) if isinstance(part, Part))]


def _parts(tensors: Mapping[str, LazyArray], to: Layout) -> Iterator[bytes | Part]:
    return msgpack_parts(tensors) if to == "flax" else safetensors_parts(tensors, layout="pt")


def config_fields(class_name: str, config: Mapping[str, Any], tensors: Mapping[str, LazyArray]) -> dict[str, Any]:
    """The contents of config.json, as transformers reads it.

    Args:
        class_name: The model's class.
        config: The fields of its configuration.
        tensors: The arrays of the file, as `arrange` returns them.
    """
    fields = {"architectures": [class_name], **config, "torch_dtype": str(widest_float(tensors.values()))}
    return fields | ({"quantization_config": INT8_METHOD} if has_int8(tensors) else {})


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write an object into a new file and flush it. Equal objects give equal bytes."""
    write_text(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a new file as UTF-8 and flush it. Lone surrogates are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

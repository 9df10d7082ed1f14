"""Safetensors files, with the two precautions that version 0.8 of the library asks for."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import CheckpointError


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by name.

    Raises:
        CheckpointError: if it is not such a file, or not a whole one.
    """
    try:
        # Read, not mapped: a file that shrinks while it is mapped ends the process.
        with safe_open(path, framework="numpy", backend="pread") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, AttributeError, OSError) as error:  # all of these leak out for bad headers
        raise CheckpointError(f"{path} cannot be read as safetensors ({error}): download it again.") from error


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], *, layout: str) -> None:
    """Write arrays, by name; `layout` is "pt" or "flax", the word by which transformers tells them apart."""
    # Version 0.8.0 writes a transposed view as if it were contiguous, which is another matrix (safetensors#825).
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    save_file(ordered, path, metadata={"format": layout})

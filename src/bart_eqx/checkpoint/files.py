"""The files of a folder: its JSON, and its weights in whatever format and number of files."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError
from .flax_msgpack import read_msgpack
from .safetensors_file import read_safetensors


# In the order in which transformers' Flax looks for them. Each is one file, or an index of several.
WEIGHT_FILES = (
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
_MAX_JSON = 10 * 2**20  # bytes; the Hub's own limit for an index


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: if there is no such file, or no object in it.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CheckpointError(f"{path} is larger than any such file should be ({_MAX_JSON} bytes).")
        fields = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing.") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not JSON ({error}); it begins {path.read_bytes()[:40]!r}.") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} must hold an object. Got {type(fields).__name__}.")
    return fields


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, of the format that comes first in `WEIGHT_FILES`."""
    for name in WEIGHT_FILES:
        path = folder / name
        if path.exists():
            return shards_of(path) if name.endswith(".json") else [path]
    raise CheckpointError(f"{folder} has none of {', '.join(WEIGHT_FILES)}.")


def shards_of(index: Path, *, must_exist: bool = True) -> list[Path]:
    """The files that an index names, all beside it."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} must hold a `weight_map` from parameters to files.")
    suffix = Path(index.stem.removesuffix(".index")).suffix
    shards = []
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(suffix):
            raise CheckpointError(f"{index} must name {suffix} files of its own folder. Got {name!r}.")
        shards.append(index.parent / name)
    if must_exist and (missing := [path.name for path in shards if not path.exists()]):
        raise CheckpointError(f"{index} names files that are not there: {', '.join(missing)}.")
    return shards


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a folder, by the names in its files."""
    tensors: dict[str, np.ndarray] = {}
    for path in weight_files(folder):
        part = read_msgpack(path) if path.suffix == ".msgpack" else read_safetensors(path)
        if twice := sorted(tensors.keys() & part.keys()):
            raise CheckpointError(f"{path} repeats what another file holds: {', '.join(twice)}.")
        tensors |= part
    return tensors

"""The weight files of a folder: which format to read, whether one file or shards with an index, and their arrays."""

import os
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, get_args

from ..errors import DamagedFileError, SourceNotFoundError, UnsupportedCheckpointError
from .foreign import refuse_foreign, refuse_foreign_file, refuse_misplaced
from .json import read_json
from .lazy_array import LazyArray
from .msgpack import read_msgpack
from .safetensors import read_safetensors
from .torch_pickle import read_torch_pickle, require_torch


Format = Literal["flax", "safetensors", "pytorch"]
# In the order in which transformers' Flax looks for them: one file, or the index of several.
_FILES: dict[Format, tuple[str, str]] = {
    "flax": ("flax_model.msgpack", "flax_model.msgpack.index.json"),
    "safetensors": ("model.safetensors", "model.safetensors.index.json"),
    "pytorch": ("pytorch_model.bin", "pytorch_model.bin.index.json"),
}
WEIGHT_FILES = tuple(name for names in _FILES.values() for name in names)
_READERS: dict[str, Callable[[Path], dict[str, LazyArray]]] = {
    ".msgpack": read_msgpack,
    ".safetensors": read_safetensors,
    ".bin": read_torch_pickle,
}


def main_file(names: Collection[str], where: str, fetch: Callable[[str], Path], prefer: Format | None = None) -> str:
    """The file of a folder that holds all its weights, or the index that names their shards.

    Args:
        names: All files of the folder, and those of folders inside it, for error messages.
        where: The folder, for error messages.
        fetch: Returns the path of one of these files.
        prefer: The format to read; by default the first in the order of `Format`.

    Raises:
        SourceNotFoundError: if the folder has no weights.
        UnsupportedCheckpointError: if it has weights only in formats that are not read here.
    """
    formats = get_args(Format) if prefer is None else (prefer,)
    for format in formats:
        for name in _FILES[format]:
            if name in names:
                if format == "pytorch":
                    require_torch(f"{where}/{name}")
                return name
    if prefer is not None and (others := [name for name in WEIGHT_FILES if name in names]):
        raise SourceNotFoundError(f"{where!r} has no weights of the format {prefer!r}. It has {', '.join(others)}.")
    refuse_unreadable(names, where, fetch)
    raise SourceNotFoundError(f"{where!r} has none of {', '.join(WEIGHT_FILES)}: is it the right folder, and complete?")


def refuse_unreadable(names: Collection[str], where: str, fetch: Callable[[str], Path]) -> None:
    """Refuse a folder without weights by the names in `WEIGHT_FILES`, if what it has instead is known.

    Args: as for `main_file`.

    Raises:
        SourceNotFoundError: if the weights are in a folder inside it, or have another name.
        UnsupportedCheckpointError: if they are in formats that are not read here.
    """
    refuse_misplaced(names, where, tuple(name for name, _ in _FILES.values()), _READERS)
    refuse_foreign(names, where, fetch)


def check_weights_name(path: Path) -> None:
    """Refuse a file whose name cannot be that of weights, before its configuration is looked for.

    Raises:
        UnsupportedCheckpointError: if the suffix is not that of weights or of an index, or torch is needed and missing.
    """
    refuse_foreign_file(path)
    if path.suffix not in (*_READERS, ".json"):
        raise UnsupportedCheckpointError(
            f"{path} must be one of {', '.join(_READERS)}, an index (.json), or a folder. Got {path.suffix!r}."
        )
    if path.suffix == ".json" and not path.name.endswith(".index.json"):
        raise UnsupportedCheckpointError(f"{path} is neither a file of weights nor the index of one: give its folder.")
    if path.suffix == ".bin":
        require_torch(str(path))


def shard_names(index: Path) -> list[str]:
    """The files that an index names, all in its own folder.

    Raises:
        DamagedFileError: if it names no file, one in another folder, or one of another format.
    """
    return sorted(set(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    """Parameter names to file names, from an index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise DamagedFileError(f"{index} must hold a `weight_map` from parameters to files: download it again.")
    suffix = Path(index.stem.removesuffix(".index")).suffix
    for name in set(weight_map.values()):
        plain = (
            PurePosixPath(name).name == name == PureWindowsPath(name).name
            and name.isprintable()
            and len(os.fsencode(name)) < 256
        )
        if not plain or not name.endswith(suffix):
            raise DamagedFileError(
                f"{index} must name {suffix} files in its own folder. Got {name!r:.200}: do not trust its origin."
            )
    return weight_map


def weight_files(main: Path) -> list[Path]:
    """All weight files of a checkpoint: its main file, or the shards that this index names.

    Raises:
        SourceNotFoundError: if shards are missing. It names all of them.
    """
    if main.suffix != ".json":
        return [main]
    files = [main.parent / name for name in shard_names(main)]
    if missing := [path.name for path in files if not path.exists()]:
        raise SourceNotFoundError(f"{main} names files that do not exist: {', '.join(missing)}. Download them too.")
    return files


def read_arrays(main: Path) -> dict[str, LazyArray]:
    """All arrays of a checkpoint by their names in its files. Only headers are read.

    Args:
        main: Its main file: the weights, or their index.

    Raises:
        CheckpointError: as the readers of the formats do; a `DamagedFileError` if two files hold the same array, or the
            index and the files disagree.
    """
    arrays: dict[str, LazyArray] = {}
    found: dict[str, str] = {}
    for path in weight_files(main):
        if path.suffix not in _READERS:
            raise UnsupportedCheckpointError(f"{path} must be one of {', '.join(_READERS)}. Got {path.suffix!r}.")
        part = _READERS[path.suffix](path)
        if duplicates := sorted(arrays.keys() & part.keys()):
            raise DamagedFileError(f"{path} holds arrays of another file again: {', '.join(duplicates[:5])}.")
        arrays |= part
        found |= dict.fromkeys(part, path.name)
    if main.suffix == ".json":
        indexed = {name.replace("/", "."): file for name, file in _weight_map(main).items()}
        if wrong := sorted(name for name in indexed | found if indexed.get(name) != found.get(name)):
            name = wrong[0]
            raise DamagedFileError(
                f"{main} and its files disagree about {len(wrong)} arrays: `{name}` is in {indexed.get(name, 'none')} "
                f"by the index, and in {found.get(name, 'none')} in fact. Download all of them again."
            )
    return arrays

"""The files of a folder that hold its weights, in whatever format and number."""

import os
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, get_args

from .errors import DamagedFileError, SourceNotFoundError, UnsupportedCheckpointError
from .flax_msgpack import read_msgpack
from .json_file import read_json, size_of
from .pytorch_bin import read_pytorch, require_torch
from .safetensors_file import read_safetensors
from .stored import StoredArray


Format = Literal["flax", "safetensors", "pytorch"]
# In the order in which transformers' Flax looks for them. Each is one file, or several that an index names.
_FIRST_FILES: dict[Format, tuple[str, str]] = {
    "flax": ("flax_model.msgpack", "flax_model.msgpack.index.json"),
    "safetensors": ("model.safetensors", "model.safetensors.index.json"),
    "pytorch": ("pytorch_model.bin", "pytorch_model.bin.index.json"),
}
WEIGHT_FILES = tuple(name for names in _FIRST_FILES.values() for name in names)
_READERS: dict[str, Callable[[Path], dict[str, StoredArray]]] = {
    ".msgpack": read_msgpack,
    ".safetensors": read_safetensors,
    ".bin": read_pytorch,
}
_OTHERS = ("tf_model.h5", "rust_model.ot", "model.ckpt.index", "model.pt", "model.onnx", "pytorch_model.pt")


def first_file(names: Collection[str], where: str, prefer: Format | None = None) -> str:
    """The file, or the index, with which to begin, of those that a folder has.

    Raises:
        SourceNotFoundError: if there are no weights.
        UnsupportedCheckpointError: if there are only such as cannot be read here.
    """
    formats = get_args(Format) if prefer is None else (prefer,)
    for format in formats:
        for name in _FIRST_FILES[format]:
            if name in names:
                if format == "pytorch":
                    require_torch(f"{where}/{name}")
                return name
    if prefer is not None and (others := [name for name in WEIGHT_FILES if name in names]):
        raise SourceNotFoundError(f"{where} has no weights of the format {prefer!r}. It has {', '.join(others)}.")
    if others := [name for name in _OTHERS if name in names]:
        raise UnsupportedCheckpointError(
            f"{where} has its weights in {', '.join(others)} only, which is not read here: load them with the library "
            "that wrote them, and save them as safetensors. On the Hub, its page may list a `refs/pr/N` in which "
            "somebody did so: give that as the revision."
        )
    raise SourceNotFoundError(f"{where} has none of {', '.join(WEIGHT_FILES)}: is it the right folder, and complete?")


def named_by(index: Path) -> list[str]:
    """The files that an index names, all beside it.

    Raises:
        DamagedFileError: if it names files elsewhere, or of another kind, or none.
    """
    return sorted(set(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
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
                f"{index} must name {suffix} files of its own folder. Got {name!r:.200}: do not trust where it is from."
            )
    return weight_map


def weight_files(first: Path) -> list[Path]:
    """All files of weights, by the first: itself, or those that it names.

    Raises:
        SourceNotFoundError: if any is missing. All that are missing are named.
    """
    if first.suffix != ".json":
        return [first]
    files = [first.parent / name for name in named_by(first)]
    if missing := [path.name for path in files if not path.exists()]:
        raise SourceNotFoundError(f"{first} names files that are not there: {', '.join(missing)}. Download them too.")
    return files


def read_heads(first: Path) -> dict[str, StoredArray]:
    """All arrays of a checkpoint, by the names in its files. Only their heads are read.

    Raises:
        DamagedFileError: if a file is damaged, or two hold the same array, or an index and its files disagree.
        UnsupportedCheckpointError: if a file holds what no BART has.
    """
    arrays: dict[str, StoredArray] = {}
    whereabouts: dict[str, str] = {}
    for path in weight_files(first):
        if path.suffix not in _READERS:
            raise UnsupportedCheckpointError(f"{path} must be one of {', '.join(_READERS)}. Got {path.suffix!r}.")
        part = _READERS[path.suffix](path)
        if twice := sorted(arrays.keys() & part.keys()):
            raise DamagedFileError(f"{path} repeats what another file holds: {', '.join(twice[:5])}.")
        arrays |= part
        whereabouts |= dict.fromkeys(part, path.name)
    if first.suffix == ".json":
        said = {name.replace("/", "."): file for name, file in _weight_map(first).items()}
        if wrong := sorted(name for name in said | whereabouts if said.get(name) != whereabouts.get(name)):
            name = wrong[0]
            raise DamagedFileError(
                f"{first} and its files disagree about {len(wrong)} arrays: it says that `{name}` is in "
                f"{said.get(name, 'none')}, and it is in {whereabouts.get(name, 'none')}. Download all of them again."
            )
    return arrays


def total_size(files: Collection[Path]) -> int:
    """Bytes of all these files."""
    return sum(size_of(path) for path in files)


def check_is_weights(path: Path) -> None:
    """Refuse a file that cannot be weights before looking for a configuration beside it."""
    if path.suffix not in (*_READERS, ".json"):
        raise UnsupportedCheckpointError(
            f"{path} must be one of {', '.join(_READERS)}, an index (.json), or a folder. Got {path.suffix!r}."
        )
    if path.suffix == ".json" and not path.name.endswith(".index.json"):
        raise UnsupportedCheckpointError(f"{path} is no file of weights, and no index of such: give its folder.")
    if path.suffix == ".bin":
        require_torch(str(path))

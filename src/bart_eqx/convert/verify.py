"""Checking a folder: its files are unchanged since they were written, and the model computes finite outputs."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from beartype import beartype

from ..checkpoint.architectures import ARCHITECTURES
from ..checkpoint.errors import SourceNotFoundError, VerificationError
from ..checkpoint.find import find
from ..checkpoint.formats.regular_file import checked_size
from ..checkpoint.formats.shards import WEIGHT_FILES
from ..checkpoint.formats.writer import hash_file
from ..checkpoint.load import load
from ..checkpoint.write import RECORD
from ..lazy_beartype import CONF
from .record import CARD, read_record


@dataclasses.dataclass(frozen=True)
class Verification:
    """The result of a successful check.

    Args:
        folder: That was checked.
        model: The class.
        parameters: The number of parameter values.
        hashes: The files whose hashes equal the recorded ones, or those in the Hub client's cache.
        unrecorded: The files without a recorded hash.
        output: The first values of the model's output for token ids 0, 1, 2, ..., followed by `</s>`.
    """

    folder: str
    model: str
    parameters: int
    hashes: tuple[str, ...]
    unrecorded: tuple[str, ...]
    output: tuple[float, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    def __str__(self) -> str:
        return "\n".join(
            [
                f"folder      {self.folder}",
                f"model       {self.model}, {self.parameters:,} parameters, all of them finite",
                f"hashes      {', '.join(self.hashes) or 'none'}: as recorded",
                f"unrecorded  {', '.join(self.unrecorded) or 'none'}",
                f"forward     {', '.join(f'{number:.6g}' for number in self.output)}, ...",
            ]
        )


@beartype(conf=CONF)
def verify(folder: Path, *, ignore: Collection[str] = ()) -> Verification:
    """Check a folder: the hashes of its files, the names, shapes and values of its weights, and a forward pass.

    Args:
        folder: With a conversion.json, whose hashes are compared; or in the Hub client's cache, which names files by
            their hashes. Files without a hash are reported.
        ignore: Unknown fields of config.json and generation_config.json that are accepted.

    Raises:
        CheckpointError: a `VerificationError` if a file is missing or differs, or the model's output is not finite;
            otherwise as `from_pretrained`.
    """
    if not folder.is_dir():
        raise SourceNotFoundError(f"There is no folder {str(folder)!r}: check its spelling and the current directory.")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    hashes = _checked_by_record(folder, names) if RECORD in names else _checked_by_cache(folder, names)

    model, matched = load(find(folder), ignore=ignore)
    config = model.config
    ids = np.append(np.arange(min(7, config.vocab_size, config.max_position_embeddings - 1)), config.eos_token_id)
    output = np.asarray(getattr(model(ids), ARCHITECTURES[type(model).__name__].output), np.float32)
    if not np.isfinite(output).all():
        raise VerificationError(f"{str(folder)!r}: the model's output for token ids {ids.tolist()} must be finite.")
    return Verification(
        folder=str(folder),
        model=type(model).__name__,
        parameters=sum(array.size for array in matched.arrays.values()),
        hashes=tuple(hashes),
        unrecorded=tuple(name for name in names if name not in hashes and name not in (RECORD, CARD)),
        output=tuple(float(number) for number in output.reshape(-1)[:5]),
    )


def _checked_by_record(folder: Path, names: list[str]) -> list[str]:
    written = read_record(folder / RECORD)["written"]
    for name, expected in written.items():
        if name not in names:
            raise VerificationError(f"{str(folder)!r} has no {name}, which {RECORD} lists: convert again.")
        size = checked_size(folder / name)
        if size != expected["size"]:
            raise VerificationError(f"{folder / name} has {size:,} bytes, and was written with {expected['size']:,}.")
        if (found := hash_file(folder / name)) != expected["blake3"]:
            raise VerificationError(
                f"{folder / name} has the BLAKE3 hash {found}, and was written with {expected['blake3']}."
            )
    if added := [name for name in names if name in WEIGHT_FILES and name not in written]:
        raise VerificationError(
            f"{str(folder)!r} has weights that {RECORD} does not list, {', '.join(added)}: remove them."
        )
    return sorted(written)


def _checked_by_cache(folder: Path, names: list[str]) -> list[str]:
    """Files of the Hub client's cache link to blobs named by their hash: SHA-256 of large files, git's of others."""
    checked = []
    for name in names:
        path = folder / name
        blob = Path(os.path.realpath(path)).name if path.is_symlink() else ""
        if len(blob) not in (40, 64) or set(blob) - set("0123456789abcdef"):
            continue
        with path.open("rb") as file:
            if len(blob) == 64:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                content = file.read()
                found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if found != blob:
            raise VerificationError(
                f"{path} has the hash {found}, and on the Hub {blob}: remove it, and download it again."
            )
        checked.append(name)
    return checked

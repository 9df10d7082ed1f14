"""Whether a folder is what it was when it was written, and a model that computes."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from beartype import beartype

from ..lazy_beartype import CONF
from .errors import SourceNotFoundError, VerificationError
from .files import WEIGHT_FILES
from .folder import load
from .json_file import size_of
from .record import CARD, RECORD, read_record
from .source import find
from .weights_file import hash_of_file


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was found sound."""

    folder: str
    model: str
    parameters: int
    hashes: tuple[str, ...]
    """The files whose hashes are those of their record, or of the Hub's cache."""
    unrecorded: tuple[str, ...]
    """Files of which nothing says what they should be."""
    output: tuple[float, ...]
    """The first numbers of what the model makes of token ids 0, 1, 2, ..., with `</s>` at the end."""

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
def verify(folder: Path) -> Verification:
    """Check a folder: the hashes of its files, its shapes and numbers, and a forward pass.

    Hashes are those of conversion.json, or, for a folder of the Hub client's cache, those that the Hub gave the files.

    Raises:
        CheckpointError: `VerificationError` if a file is missing, or not what it was, or if the model's output is not
            finite; and whatever `from_pretrained` raises.
    """
    if not folder.is_dir():
        raise SourceNotFoundError(f"There is no folder {folder}: look at its spelling, and where you are.")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    hashes = _checked_by_record(folder, names) if RECORD in names else _checked_by_cache(folder, names)

    model, matched = load(find(folder))
    config = model.config
    ids = np.append(np.arange(min(7, config.vocab_size, config.max_position_embeddings - 1)), config.eos_token_id)
    made = model(ids)
    states = next(getattr(made, n) for n in ("logits", "start_logits", "last_hidden_state") if hasattr(made, n))
    output = np.asarray(states, np.float32)
    if not np.isfinite(output).all():
        raise VerificationError(f"{folder}: the model's output for token ids {ids.tolist()} is not finite.")
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
            raise VerificationError(f"{folder} has no {name}, which {RECORD} says was written: convert again.")
        size = size_of(folder / name)
        if size != expected["size"]:
            raise VerificationError(f"{folder / name} has {size:,} bytes, and was written with {expected['size']:,}.")
        if (found := hash_of_file(folder / name)) != expected["blake3"]:
            raise VerificationError(
                f"{folder / name} has the BLAKE3 hash {found}, and was written with {expected['blake3']}."
            )
    if added := [name for name in names if name in WEIGHT_FILES and name not in written]:
        raise VerificationError(f"{folder} has weights that no conversion wrote, {', '.join(added)}: remove them.")
    return sorted(written)


def _checked_by_cache(folder: Path, names: list[str]) -> list[str]:
    """The Hub client's cache calls a file by its hash: SHA-256 if it is large, else that of git."""
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
                f"{path} has the hash {found}, and the Hub's is {blob}: remove it, and download it again."
            )
        checked.append(name)
    return checked

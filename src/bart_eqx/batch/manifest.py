"""`manifest.json` and `parts.jsonl`: all that determines an output, written before anything else."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint.formats.json import strict_json
from .errors import InputError, ManifestMismatchError
from .files import atomic_file, write_file
from .parts import Part, Scan, file_size, hash_input
from .records import RecordFormat, json_line


MANIFEST, PARTS = "manifest.json", "parts.jsonl"
_SETTLED = 2 * 10**9  # nanoseconds: file systems store times with less precision than they show


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that determines the bytes of an output.

    Args:
        input: The size of the input, and its BLAKE3 hash.
        part_bytes: The minimum size of a part.
        records: How lines are read.
        identity: All that the caller's results depend on: model, task, options, versions.
        version: The version of this package.
        parts: The number of parts.
        modified: When the input was modified, in nanoseconds: a file of the same size and time is not hashed again.
    """

    input: Mapping[str, Any]
    part_bytes: int
    records: Mapping[str, Any]
    identity: Mapping[str, Any]
    version: str
    parts: int
    modified: int | None

    def difference(self, path: Path, request: "Request") -> str | None:
        """The first field in which a request for the input at `path` differs, as a message; `None` if none does."""
        size, modified = file_size(path)
        asked = {
            "part_bytes": request.part_bytes,
            "records": request.format.to_json(),
            "identity": request.identity,
            "version": __version__,
            "input": {"size": size, "blake3": self.input["blake3"]},
        }
        kept = {name: getattr(self, name) for name in asked}
        if found := _difference(kept, json.loads(json.dumps(asked)), ""):
            return found
        if modified != self.modified and (digest := hash_input(path)) != self.input["blake3"]:
            return f"input.blake3 was {self.input['blake3']}, and is {digest}"
        return None


@dataclasses.dataclass(frozen=True)
class Request:
    """How a caller wants an output computed.

    Args:
        format: How lines are read.
        identity: All that the results depend on, as JSON.
        part_bytes: The minimum size of a part.
    """

    format: RecordFormat
    identity: Mapping[str, Any]
    part_bytes: int


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder, if there is one.

    Raises:
        ManifestMismatchError: if it is damaged, or of another version of this package.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        return Manifest(**strict_json(path.read_text()))
    except (TypeError, ValueError, OSError) as error:
        raise ManifestMismatchError(
            f"{path} is damaged, or of another version of bart_eqx ({error}): remove {folder} to start again."
        ) from None


def write_manifest(folder: Path, path: Path, request: Request) -> Manifest:
    """Cut the input at `path` into parts, and write the manifest.

    Raises:
        InputError: if the input cannot be read, or is changed meanwhile.
        OutputError: if the manifest cannot be written.
    """
    size, modified = file_size(path)
    scan = Scan(path, request.part_bytes, quoted=request.format.kind == "csv")
    count = 0
    with atomic_file(folder / PARTS, folder) as file:
        for part in scan.parts():
            file.write(json_line(dataclasses.asdict(part)))
            count += 1
    if (scan.size, file_size(path)) != (size, (size, modified)):
        raise InputError(f"{path} was changed while it was read: wait until it is complete.")
    settled = (folder / PARTS).stat().st_mtime_ns - modified > _SETTLED
    manifest = Manifest(
        input={"size": size, "blake3": scan.blake3},
        part_bytes=request.part_bytes,
        records=request.format.to_json(),
        identity=request.identity,
        version=__version__,
        parts=count,
        modified=modified if settled else None,
    )
    content = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    write_file(folder / MANIFEST, content.encode())
    return manifest


def read_parts(folder: Path) -> Iterator[Part]:
    """The parts of the manifest in a folder, in order."""
    with (folder / PARTS).open("rb") as file:
        for line in file:
            yield Part(**json.loads(line))


def _difference(kept: Any, asked: Any, name: str) -> str | None:
    if isinstance(kept, dict) and isinstance(asked, dict):
        for key in {**kept, **asked}:
            inner = f"{name}.{key}" if name else key
            if found := _difference(kept.get(key), asked.get(key), inner):
                return found
        return None
    kept, asked = (json.dumps(value, ensure_ascii=False, sort_keys=True) for value in (kept, asked))
    return None if kept == asked else f"{name} was {kept}, and is {asked}"

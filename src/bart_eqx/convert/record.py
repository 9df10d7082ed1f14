"""The record of a conversion: conversion.json for programs, a table for people, and the folder's model card."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint.errors import DamagedFileError
from ..checkpoint.formats.json import read_json
from ..checkpoint.write import RECORD


CARD = "README.md"


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The record of a conversion. It depends on neither time nor place: the same source gives the same bytes.

    Args:
        source: The repository, or the name of the folder or file.
        repository: The id of the repository on the Hub.
        revision: The branch, tag or commit that was requested.
        commit: The commit to which it was resolved.
        subfolder: The folder inside the source.
        read: The files of weights, with their sizes in bytes.
        model: The class.
        dtypes: The number of arrays of each dtype that were read.
        dtype: The dtype of the written floating-point parameters.
        tensors: The number of parameter arrays.
        parameters: The number of their values.
        missing: Parameters that the source lacks; only `final_logits_bias`, which is zero then, may be missing.
        unexpected: Arrays that the class does not have, and that were dropped: another head's.
        ignored: Fields of config.json and generation_config.json that were accepted unread, and are in the new files.
        embedding: The names under which the source has the token embedding.
        tables: Whether it is one table or several, and whether the head is tied to it.
        warnings: Messages, sorted.
        written: Size in bytes and BLAKE3 hash of each file except conversion.json and README.md.
        bart_eqx: The version of this package.
    """

    source: str
    repository: str | None
    revision: str | None
    commit: str | None
    subfolder: str | None
    read: Mapping[str, int]
    model: str
    dtypes: Mapping[str, int]
    dtype: str
    tensors: int
    parameters: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    embedding: tuple[str, ...]
    tables: str
    warnings: tuple[str, ...]
    written: Mapping[str, Mapping[str, Any]]
    bart_eqx: str = __version__

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    def __str__(self) -> str:
        where = self.source + (f"/{self.subfolder}" if self.subfolder else "")
        rows = [
            ("source", where + (f", commit {self.commit}" if self.commit else "")),
            ("read", ", ".join(f"{name} ({_bytes(size)})" for name, size in self.read.items())),
            ("model", self.model),
            ("tensors", f"{self.tensors} ({', '.join(f'{count} {dtype}' for dtype, count in self.dtypes.items())})"),
            ("parameters", f"{self.parameters:,}, {self.dtype}"),
            ("embedding", f"{', '.join(self.embedding)}: {self.tables}"),
            ("missing", ", ".join(self.missing) + " (zero)" if self.missing else "none"),
            ("unexpected", ", ".join(self.unexpected) + " (dropped)" if self.unexpected else "none"),
            *([("ignored", ", ".join(self.ignored) + " (kept)")] if self.ignored else []),
            ("written", ", ".join(f"{name} ({_bytes(f['size'])})" for name, f in self.written.items())),
            *[("warning", warning) for warning in self.warnings],
        ]
        return "\n".join(f"{label:11} {text}" for label, text in rows)

    def card(self) -> str:
        """The contents of README.md, the model card on the Hub."""
        head = ["---", "library_name: bart_eqx", "tags: [bart, jax, equinox]"]
        head += [f"base_model: {self.repository}"] if self.repository else []
        return "\n".join(
            [
                *head,
                "---",
                "",
                f"# {self.source}, for JAX and Equinox",
                "",
                f"A `{self.model}` of {self.parameters:,} parameters ({self.dtype}), converted by bart_eqx "
                f"{self.bart_eqx}:",
                "",
                "```python",
                "import bart_eqx",
                "",
                'model = bart_eqx.from_pretrained("this folder")',
                "```",
                "",
                f"transformers loads it too. `{RECORD}` has the hash of each file: in this folder,",
                "`python -m bart_eqx.convert --verify .` compares them.",
                "",
                "```",
                str(self),
                "```",
                "",
            ]
        )


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"


def read_record(path: Path) -> dict[str, Any]:
    """The contents of a conversion.json.

    Raises:
        CheckpointError: as `read_json` does; a `DamagedFileError` if it lists no files with sizes and hashes.
    """
    fields = read_json(path)
    written = fields.get("written")
    written = written if isinstance(written, dict) else {}
    valid = bool(written) and all(
        isinstance(f, dict) and isinstance(f.get("size"), int) and isinstance(f.get("blake3"), str)
        for f in written.values()
    )
    if not valid or not all(Path(name).name == name for name in written):
        raise DamagedFileError(f"{path} must give the size and the hash of each written file.")
    return fields

"""What a conversion did: for machines, conversion.json; for people, a table, and the model card of the folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__


RECORD = "conversion.json"
CARD = "README.md"


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion did. Nothing in it depends on the time or the place, so that its bytes can be had again."""

    source: str
    """The repository, or the name of the folder or the file."""
    repository: str | None
    revision: str | None
    """As it was asked for."""
    commit: str | None
    """The commit on the Hub that it was then."""
    subfolder: str | None
    read: Mapping[str, int]
    """The files of weights, and their sizes in bytes."""
    model: str
    """The class."""
    dtypes: Mapping[str, int]
    """How many arrays of each dtype there were."""
    dtype: str
    """Of the written parameters."""
    tensors: int
    parameters: int
    missing: tuple[str, ...]
    """Parameters that were not there. Others than `final_logits_bias`, which is zero then, are an error."""
    unexpected: tuple[str, ...]
    """Arrays that the class has no place for, and that were dropped: another head's."""
    embedding: tuple[str, ...]
    """The names under which the token embedding was."""
    tables: str
    """Whether it is one table, and what is tied to it."""
    warnings: tuple[str, ...]
    written: Mapping[str, Mapping[str, Any]]
    """The size and the BLAKE3 hash of each file, but for this record's and the model card's."""
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
            *[("written", f"{name} ({_bytes(f['size'])}), blake3 {f['blake3']}") for name, f in self.written.items()],
            *[("warning", warning) for warning in self.warnings],
        ]
        return "\n".join(f"{name:11} {what}" for name, what in rows)

    def card(self) -> str:
        """README.md, as the Hub shows it."""
        head = ["---", "library_name: bart_eqx", "tags: [bart, jax, equinox]"]
        head += [f"base_model: {self.repository}"] if self.repository else []
        return "\n".join(
            [
                *head,
                "---",
                "",
                f"# {self.source}, for JAX and Equinox",
                "",
                f"A `{self.model}` of {self.parameters:,} parameters ({self.dtype}), converted by",
                f"[bart_eqx](https://pypi.org/project/bart-eqx/) {self.bart_eqx}:",
                "",
                "```python",
                "import bart_eqx",
                "",
                'model = bart_eqx.from_pretrained("this folder")',
                "```",
                "",
                f"transformers loads it too. `python -m bart_eqx.convert --verify` checks it against `{RECORD}`.",
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
        DamagedFileError: if it is none.
    """
    from .errors import DamagedFileError
    from .json_file import read_json

    fields = read_json(path)
    written = fields.get("written")
    written = written if isinstance(written, dict) else {}
    good = bool(written) and all(
        isinstance(f, dict) and isinstance(f.get("size"), int) and isinstance(f.get("blake3"), str)
        for f in written.values()
    )
    if not good or not all(Path(name).name == name for name in written):
        raise DamagedFileError(f"{path} must say of each written file its size and its hash.")
    return fields

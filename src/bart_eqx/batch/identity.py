"""Parts of a manifest's identity: the files of a checkpoint, and the versions of libraries."""

import importlib.metadata
from pathlib import Path

from ..checkpoint.find import find
from ..checkpoint.formats.shards import shard_names
from ..checkpoint.formats.writer import hash_file
from ..checkpoint.tokenizer import TOKENIZER_FILES


_LIBRARIES = ("jax", "jaxlib", "equinox", "numpy", "tokenizers", "sentencex", "semantic-text-splitter")


def checkpoint_identity(
    source: str | Path, *, revision: str | None = None, subfolder: str | None = None
) -> dict[str, str]:
    """The BLAKE3 hashes of a checkpoint's files: weights, configuration, tokenizer.

    Args:
        source: As for [`bart_eqx.from_pretrained`][]; a checkpoint on the Hub is downloaded.
        revision: A branch, tag or commit on the Hub.
        subfolder: A folder inside the source.

    Raises:
        CheckpointError: as `bart_eqx.from_pretrained` does, if it is not found.
    """
    found = find(source, revision=revision, subfolder=subfolder)
    names = ["config.json", "generation_config.json", *TOKENIZER_FILES, found.weights.name]
    if found.weights.suffix == ".json":
        names += shard_names(found.weights)
    return {name: hash_file(found.folder / name) for name in names if (found.folder / name).exists()}


def versions() -> dict[str, str]:
    """The versions of the Python libraries on which results depend."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # an extra
            continue
    return found

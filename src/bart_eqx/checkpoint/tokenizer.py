"""A tokenizer's files: copied unchanged, and compared with the size of the model's vocabulary."""

from pathlib import Path

from .errors import CheckpointError, DamagedFileError
from .formats.json import read_json
from .formats.regular_file import read_bytes


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "chat_template.jinja",
)
_MAX_BYTES = 10 * 2**20  # BART's largest has 1.4 MB


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The contents of the tokenizer's files in a folder, by name.

    Raises:
        CheckpointError: as `read_bytes` does, with a limit of 10 MB.
    """
    return {name: read_bytes(folder / name, _MAX_BYTES) for name in TOKENIZER_FILES if (folder / name).exists()}


def tokens_beyond(folder: Path, vocab_size: int) -> list[str]:
    """Tokens whose id has no row in the embedding, such as `<mask>` in facebook/bart-large-cnn.

    Args:
        folder: The tokenizer's.
        vocab_size: The rows of the embedding.

    Raises:
        DamagedFileError: if a file of the tokenizer does not have the expected structure.
    """
    try:
        return sorted(token for token, index in _ids(folder).items() if index >= vocab_size)
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(
            f"The tokenizer in {folder} does not have the expected structure ({error!r:.80})."
        ) from None


def _ids(folder: Path) -> dict[str, int]:
    if (folder / "tokenizer.json").exists():
        fields = read_json(folder / "tokenizer.json", _MAX_BYTES)
        added = {token["content"]: token["id"] for token in fields.get("added_tokens", ())}
        return dict(fields["model"]["vocab"]) | added
    if (folder / "vocab.json").exists():
        added = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").exists() else {}
        return read_json(folder / "vocab.json", _MAX_BYTES) | added
    return {}

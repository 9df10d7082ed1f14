"""A tokenizer's files: copied unchanged, and compared with the size of the model's vocabulary."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError, DamagedFileError
from .formats.json import read_json
from .formats.regular_file import checked_size, read_bytes


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "bpe.codes",
    "dict.txt",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "source.spm",
    "spiece.model",
    "spm.model",
    "target.spm",
    "tokenizer.model",
    "chat_template.jinja",
)
_MAX_BYTES = 2**28  # BART's largest has 1.4 MB, and those of 250,000 tokens have 17 MB
_MAX_COUNTED = 2**25  # parsed JSON can take eighty times the memory of its text


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The contents of the tokenizer's files in a folder, by name.

    Raises:
        CheckpointError: as `read_bytes` does, with a limit of 268 MB.
    """
    return {name: read_bytes(folder / name, _MAX_BYTES) for name in TOKENIZER_FILES if (folder / name).exists()}


def vocabulary_warnings(folder: Path, vocab_size: int) -> list[str]:
    """Which tokens have an id without a row in the embedding, such as `<mask>` in facebook/bart-large-cnn.

    The vocabulary is that of tokenizer.json, vocab.json or vocab.txt, the first of them that is there, with the added
    tokens. A SentencePiece model alone is not counted: how its pieces become ids depends on the tokenizer's class.

    Args:
        folder: The tokenizer's.
        vocab_size: The rows of the embedding.

    Returns:
        Messages. A file of more than 34 MB is not counted, and the message says so.

    Raises:
        DamagedFileError: if a file of the tokenizer does not have the expected structure.
    """
    name = next((name for name in _VOCABULARIES if (folder / name).exists()), None)
    if name is None:
        return []
    files = [file for file in (name, *(_ADDED if name != "tokenizer.json" else ())) if (folder / file).exists()]
    if large := [file for file in files if checked_size(folder / file) > _MAX_COUNTED]:
        return [f"{', '.join(large)}: too large for its tokens to be compared with the embedding"]
    ids: dict[str, int] = {}
    warnings: list[str] = []
    try:
        for file in files:
            try:
                ids |= _READERS[file](folder / file)
            except DamagedFileError as error:
                if file != "tokenizer_config.json":  # Python's json writes an unlimited length as Infinity into it
                    raise
                warnings.append(f"the added tokens were not compared with the embedding: {error}")
        if beyond := sorted(token for token, index in ids.items() if _checked_id(token, index) >= vocab_size):
            more = f", and {len(beyond) - 5} more" if len(beyond) > 5 else ""
            warnings.append(f"tokens without a row in the embedding: {', '.join(map(repr, beyond[:5]))}{more}")
    except CheckpointError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(
            f"The tokenizer in {folder} does not have the expected structure ({error!r:.80})."
        ) from None
    return warnings


def _checked_id(token: str, index: object) -> int:
    if type(index) is not int:
        raise TypeError(f"the id of {token!r:.40} is {index!r:.40}")
    return index


def _from_tokenizer_json(path: Path) -> dict[str, int]:
    fields = read_json(path, _MAX_COUNTED)
    vocabulary = fields["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pairs of a token and its score, in the order of the ids
        vocabulary = {token: index for index, (token, _) in enumerate(map(_checked_pair, vocabulary))}
    return dict(vocabulary) | {token["content"]: token["id"] for token in fields.get("added_tokens") or ()}


def _checked_pair(entry: Any) -> tuple[str, float]:
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
        raise TypeError(f"{entry!r:.40} is not a token and its score")
    return entry[0], entry[1]


def _from_lines(path: Path) -> dict[str, int]:
    lines = io.StringIO(read_bytes(path, _MAX_COUNTED).decode("utf-8-sig"), newline=None)
    return {line.rstrip("\n"): index for index, line in enumerate(lines)}


def _from_json(path: Path) -> dict[str, int]:
    return read_json(path, _MAX_COUNTED)


def _from_tokenizer_config(path: Path) -> dict[str, int]:
    added = read_json(path, _MAX_COUNTED).get("added_tokens_decoder") or {}
    return {token["content"]: int(index) for index, token in added.items()}


_Reader = Callable[[Path], dict[str, int]]
_VOCABULARIES: Mapping[str, _Reader] = {
    "tokenizer.json": _from_tokenizer_json,
    "vocab.json": _from_json,
    "vocab.txt": _from_lines,
}
# tokenizer.json has its own.
_ADDED: Mapping[str, _Reader] = {"added_tokens.json": _from_json, "tokenizer_config.json": _from_tokenizer_config}
_READERS = {**_VOCABULARIES, **_ADDED}

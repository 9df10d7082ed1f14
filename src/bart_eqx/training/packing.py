"""Examples for pre-training: documents as blocks of token ids."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32


if TYPE_CHECKING:
    from ..text import Tokenizer

_CHUNK = 1000  # lines that are tokenised at once


def read_documents(path: str | Path) -> Iterator[str]:
    """The documents of a text file: its blank lines stand between them.

    Args:
        path: UTF-8.

    Raises:
        ValueError: if it is not UTF-8.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for has_text, lines in itertools.groupby(file, key=lambda line: bool(line.strip())):
                if has_text:
                    yield "".join(lines)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}).") from None


def denoising_examples(
    documents: Iterable[str], tokenizer: "Tokenizer", *, max_length: int = 512
) -> list[dict[str, Int32[np.ndarray, " tokens"]]]:
    """Blocks of whole lines, fairseq's `--sample-break-mode complete_doc`: `input_ids` and `labels`, which are equal.

    A block takes the next line of its document as long as it fits. It never has lines of two documents. A line that is
    longer than a block is cut. Lines are joined by a space, so that their first words can be masked, too.

    All are held in memory, 4 bytes a token for both fields together.

    Args:
        documents: Texts with a sentence or a paragraph on each line: of `read_documents`, or a field of records.
        tokenizer: Of the model.
        max_length: Tokens of a block, `<s>` and `</s>` included: fairseq's `--tokens-per-sample`.

    Raises:
        ValueError: if `max_length` leaves no room beside the special tokens.
    """
    (empty,) = tokenizer.tokenize([""])
    begin, end = empty.frame.between
    room = max_length - empty.frame.num_tokens
    if room < 1:
        raise ValueError(f"`max_length` must be more than {empty.frame.num_tokens}, the special tokens.")
    examples = []
    for document in documents:
        for block in _blocks(_lines(document, tokenizer), room):
            tokens = np.array([*begin, *block, *end], np.int32)
            examples.append({"input_ids": tokens, "labels": tokens})
    return examples


def _lines(document: str, tokenizer: "Tokenizer") -> Iterator[list[int]]:
    """The tokens of each line that is not blank. All but the first have a space in front."""
    lines = [" ".join(line.split()) for line in document.splitlines() if line.strip()]
    texts = [f" {line}" if number else line for number, line in enumerate(lines)]
    for start in range(0, len(texts), _CHUNK):
        for row in tokenizer.tokenize(texts[start : start + _CHUNK]):
            yield row.parts[0].ids


def _blocks(lines: Iterable[list[int]], room: int) -> Iterator[list[int]]:
    block: list[int] = []
    for tokens in lines:
        if block and len(block) + len(tokens) > room:
            yield block
            block = []
        while len(tokens) > room:
            yield tokens[:room]
            tokens = tokens[room:]
        block = block + tokens
    if block:
        yield block

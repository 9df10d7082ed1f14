"""Examples for training: the token ids of records, which are the lines of a JSONL file or the rows of a CSV file."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..batch.records import MAX_LINE, read_objects


if TYPE_CHECKING:
    from ..text import Tokenizer

Example = Mapping[str, np.ndarray]
"""Arrays without padding: `[tokens]`, or a scalar."""
_CHUNK = 1000  # records that are tokenised at once


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a file, one after the other.

    Args:
        path: A `.jsonl` or `.ndjson` file, with a JSON object in each line, or a `.csv` file with a header.

    Raises:
        ValueError: if the file is of another kind, or a line is no record; the message has its number.
    """
    path = Path(path)
    if path.suffix == ".csv":
        return _read_rows(path)
    if path.suffix not in (".jsonl", ".ndjson"):
        raise ValueError(f"`path` must end in .jsonl, .ndjson or .csv. Got {path.name}.")
    return read_objects(path)


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_LINE)  # that of Python is 131,072
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for record in reader:
                if None in record or None in record.values():
                    raise ValueError(f"it must have {len(reader.fieldnames or ())} fields")
                yield record
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error}).") from None
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {reader.reader.line_num}: {error}") from None


def seq2seq_examples(
    records: Iterable[Mapping[str, Any]],
    tokenizer: "Tokenizer",
    *,
    source: str = "text",
    target: str = "summary",
    max_source_length: int = 1024,
    max_target_length: int = 128,
    prefix: str | None = None,
) -> list[dict[str, np.ndarray]]:
    """Sources and targets as token ids: `input_ids` `[src]` and `labels` `[tgt]`, int32.

    All are held in memory, 4 bytes a token.

    Args:
        records: From `read_records`, or any.
        tokenizer: Of the model.
        source: The field of the text that is read.
        target: The field of the text that is to be written.
        max_source_length: Tokens of a source, special tokens included. The end of a longer one is dropped.
        max_target_length: Tokens of a target, likewise.
        prefix: Put in front of every source; by default the tokenizer's.

    Raises:
        ValueError: if a record lacks a field, or it is no text; the message has its number, from 1.
    """
    prefix = tokenizer.prefix if prefix is None else prefix
    examples: list[dict[str, np.ndarray]] = []
    remaining = iter(records)
    while chunk := list(itertools.islice(remaining, _CHUNK)):
        texts, targets = (_texts(chunk, field, len(examples) + 1) for field in (source, target))
        sides = (
            tokenizer.tokenize(texts, max_length=max_source_length, prefix=prefix),
            tokenizer.tokenize(targets, max_length=max_target_length),
        )
        for one, other in zip(*sides, strict=True):
            examples.append(
                {"input_ids": np.array(one.input_ids, np.int32), "labels": np.array(other.input_ids, np.int32)}
            )
    return examples


def _texts(records: list[Mapping[str, Any]], field: str, first: int) -> list[str]:
    for number, record in enumerate(records, first):
        if not isinstance(record.get(field), str):
            raise ValueError(f"Record {number} must have a text in its field {field!r}. Got {dict(record)!r:.100}.")
    return [record[field] for record in records]

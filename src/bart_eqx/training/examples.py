"""Examples for training: the token ids of records, which are the lines of a JSONL file or the rows of a CSV file."""

import csv
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..batch.csv_rows import DELIMITERS
from ..batch.lines import MAX_LINE
from ..batch.records import read_objects


if TYPE_CHECKING:
    from ..text import Tokenizer

Example = Mapping[str, np.ndarray]
"""Arrays without padding: `[tokens]`, or a scalar."""
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""transformers' `problem_type`."""
_CHUNK = 1000  # records that are tokenised at once


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a file, one after the other.

    Args:
        path: A `.jsonl` or `.ndjson` file, with a JSON object in each line; or a `.csv` file with a header, or a `.tsv`
            file, whose fields are between tabs.

    Raises:
        ValueError: if the file is of another kind, or a line is no record; the message has its number.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        return _read_rows(path, DELIMITERS[suffix])
    if suffix not in (".jsonl", ".ndjson"):
        raise ValueError(f"{path} must end in .jsonl, .ndjson, .csv or .tsv, which says what it is.")
    return read_objects(path)


def _read_rows(path: Path, delimiter: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_LINE)  # that of Python is 131,072
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            names = [*(reader.fieldnames or ())]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"it has the column {twice[0]!r} twice")
            for record in reader:
                if None in record or None in record.values():
                    raise ValueError(f"it must have {len(names)} fields")
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


def label_names(records: Iterable[Mapping[str, Any]], label: str = "label") -> list[str]:
    """The names of all labels in some records, sorted: for `classification_examples`, and `id2label` of the model.

    Args:
        records: From `read_records`, or any.
        label: The field of the label, a string or an integer; or of a list of them.

    Raises:
        ValueError: if a record lacks the field, or it holds something else; the message has its number, from 1.
    """
    names = {name for number, record in enumerate(records, 1) for name in _names(record, label, number)}
    return sorted(names, key=int) if all(map(str.isdecimal, names)) else sorted(names)


def classification_examples(
    records: Iterable[Mapping[str, Any]],
    tokenizer: "Tokenizer",
    *,
    text: str = "text",
    pair: str | None = None,
    label: str = "label",
    labels: Sequence[str] = (),
    problem_type: ProblemType = "single_label_classification",
    max_length: int = 1024,
) -> list[dict[str, np.ndarray]]:
    """Texts, or pairs of texts, with their labels: `input_ids` `[src]`, int32, and `labels`.

    `labels` are a scalar, int32, for `single_label_loss`; `[labels]` of 0 and 1, float32, for `multi_label_loss`; or a
    scalar, float32, for `regression_loss`.

    Args:
        records: From `read_records`, or any.
        tokenizer: Of the model.
        text: The field of the text.
        pair: The field of the second text, where there are pairs.
        label: The field of the label: a string or an integer; a list of them for multi-label classification; a number
            for regression.
        labels: The names of the classes, in the order of the model's `id2label`: of `label_names`. None for regression.
        problem_type: What `label` is.
        max_length: Tokens of a text, or pair, special tokens included. The end of a longer one is dropped.

    Raises:
        ValueError: if a record lacks a field, or has a label that is not among `labels`, or is of another type; the
            message has its number, from 1.
    """
    if (problem_type == "regression") == bool(labels):
        raise ValueError("`labels` must name the classes, and none for regression.")
    index = {name: place for place, name in enumerate(labels)}

    def target(record: Mapping[str, Any], number: int) -> np.ndarray:
        if problem_type == "regression":
            return np.array(_number(record, label, number), np.float32)
        names = _names(record, label, number)
        if unknown := [name for name in names if name not in index]:
            raise ValueError(
                f"Record {number} has the label {unknown[0]!r}, which is none of {', '.join(labels):.200}."
            )
        if problem_type == "multi_label_classification":
            return np.isin(np.arange(len(labels)), [index[name] for name in names]).astype(np.float32)
        if len(names) != 1:
            raise ValueError(f"Record {number} must have one label in its field {label!r}. Got {names!r:.100}.")
        return np.array(index[names[0]], np.int32)

    examples: list[dict[str, np.ndarray]] = []
    remaining = iter(records)
    while chunk := list(itertools.islice(remaining, _CHUNK)):
        first = len(examples) + 1
        texts = _texts(chunk, text, first)
        pairs = None if pair is None else _texts(chunk, pair, first)
        rows = tokenizer.tokenize(texts, pairs, max_length=max_length)
        for number, (record, row) in enumerate(zip(chunk, rows, strict=True), first):
            examples.append({"input_ids": np.array(row.input_ids, np.int32), "labels": target(record, number)})
    return examples


def _names(record: Mapping[str, Any], field: str, number: int) -> list[str]:
    value = record.get(field)
    names = value if isinstance(value, list) else [value]
    if not all(type(name) in (str, int) for name in names):
        raise ValueError(
            f"Record {number} must have a label in its field {field!r}, a string or an integer, or a list of them. Got "
            f"{dict(record)!r:.100}."
        )
    return [str(name) for name in names]


def _number(record: Mapping[str, Any], field: str, number: int) -> float:
    value = record.get(field)
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):  # a string, as CSV has it
            raise ValueError
        found = float(value)
        if not math.isfinite(found):
            raise ValueError
    except ValueError:
        raise ValueError(f"Record {number} must have a number in its field {field!r}. Got {value!r:.100}.") from None
    return found


def _texts(records: list[Mapping[str, Any]], field: str, first: int) -> list[str]:
    for number, record in enumerate(records, first):
        if not isinstance(record.get(field), str):
            raise ValueError(f"Record {number} must have a text in its field {field!r}. Got {dict(record)!r:.100}.")
    return [record[field] for record in records]

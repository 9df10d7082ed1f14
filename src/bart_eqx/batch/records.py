"""Records: the lines of an input, objects, rows of a table or texts, and the line that is written for each."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..checkpoint.formats.json import strict_json
from .csv_rows import fields_of, joined_rows
from .lines import content_of, decoded


_ENCODER, _ASCII_ENCODER = (json.JSONEncoder(ensure_ascii=ascii, allow_nan=False) for ascii in (False, True))


@dataclass(frozen=True)
class Field:
    """A field of the input's objects that the task reads.

    Args:
        name: Its name in the objects.
        type: `"string"`, or `"strings"` for a list of them.
        required: Whether every object must have it.
        blank: Whether its texts may be empty, or white space alone.
    """

    name: str
    type: Literal["string", "strings"] = "string"
    required: bool = True
    blank: bool = True


@dataclass(frozen=True)
class RecordFormat:
    """How lines are read.

    Args:
        kind: `"jsonl"`: a JSON object in each line; `"csv"`: a header, and rows; blank lines of both are skipped.
            `"text"`: each line is a text.
        fields: The task's inputs by name, each with the field of the object that holds it. For plain text there is one.
        id_field: The field that identifies a record, a string or an integer. By default `id` if a record has it, and
            otherwise its line number.
        result_fields: The fields that the task writes. An object that has one of them is refused.
        columns: Of CSV, the names in the header (`csv_rows.header_of`), which is the first row.
        delimiter: Of CSV, what is between two fields.
    """

    kind: Literal["jsonl", "csv", "text"]
    fields: Mapping[str, Field] = field(default_factory=lambda: {"text": Field("text")})
    id_field: str | None = None
    result_fields: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    delimiter: str = ","

    def __post_init__(self) -> None:
        if self.kind == "text" and [each.type for each in self.fields.values()] != ["string"]:
            raise ValueError(
                f"A line of plain text is one text, and the task reads {', '.join(self.fields)}: give JSON objects."
            )
        if self.kind == "text" and self.id_field is not None:
            raise ValueError(f"A line of plain text has no field {self.id_field!r}: give JSON objects.")
        if (self.kind == "csv") != (self.columns is not None):
            raise ValueError("`columns` are those of CSV, and CSV needs them.")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Record:
    """A line of the input.

    Args:
        line: The line number, from 1.
        id: The value of its id field, or its line number.
        inputs: The task's inputs by name: a string or a list of strings each.
        carried: The fields that are written to the output unchanged: the id, and those that the task does not read.
    """

    line: int
    id: str | int
    inputs: Mapping[str, Any]
    carried: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record has no result."""

    error: str


@dataclass(frozen=True, slots=True)
class UnreadRecord:
    """A line that is not a record: its number, its id if that could be read, and the reason."""

    line: int
    id: str | int
    failure: Failure


def read_records(lines: Iterable[tuple[int, bytes]], format: RecordFormat) -> Iterator[Record | UnreadRecord]:
    """The records of some lines.

    Args:
        lines: Pairs of a line number and the line. A line of more than `MAX_LINE` bytes may be cut after one more. CSV
            starts at the beginning of a row.
        format: How they are read.
    """
    for number, line in joined_rows(lines) if format.kind == "csv" else lines:
        line = content_of(number, line)
        if (format.kind != "text" and not line.strip()) or (format.kind == "csv" and number == 1):
            continue
        yield _read(number, line, format)


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one in each line that is not blank.

    Raises:
        ValueError: if another line is not a JSON object; the message has its number.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = content_of(number, line)
            if not line.strip():
                continue
            try:
                yield _object(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


def _object(line: bytes) -> dict[str, Any]:
    """Raises `ValueError` with the reason if the line is not a JSON object."""
    try:
        fields = strict_json(decoded(line))
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos + 1})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"it must be a JSON object, and is {_json_type(fields)}")
    return fields


def _read(number: int, line: bytes, format: RecordFormat) -> Record | UnreadRecord:
    name: str | int = number
    try:
        if format.kind == "text":
            (argument, own), *_ = format.fields.items()
            text = decoded(line)
            if not own.blank and not text.strip():
                raise ValueError("it is empty")
            return Record(number, number, {argument: text}, {"id": number})
        fields = _object(line) if format.columns is None else fields_of(decoded(line), format.columns, format.delimiter)
        key = format.id_field or "id"
        name = _id(fields, key, number, format)
        inputs = {argument: fields[each.name] for argument, each in format.fields.items() if _has(fields, each)}
        read = {each.name for each in format.fields.values()}
        carried = {key: name} | {other: value for other, value in fields.items() if other not in read}
        if taken := sorted(carried.keys() & set(format.result_fields)):
            raise ValueError(f"it has a field {taken[0]!r}, which the result would replace: rename it")
        return Record(number, name, inputs, carried)
    except ValueError as error:
        return UnreadRecord(number, name, Failure(f"line {number}: {error}"))


def _id(fields: Mapping[str, Any], key: str, number: int, format: RecordFormat) -> str | int:
    if key not in fields:
        if format.id_field is None:
            return number
        raise ValueError(f"it has no field {key!r}")
    value = fields[key]
    if type(value) not in (str, int):
        raise ValueError(f"its {key!r} must be a string or an integer, and is {_json_type(value)}")
    return value


def _has(fields: Mapping[str, Any], field: Field) -> bool:
    """Whether a field is present. Raises `ValueError` if it is required and missing, or of another type."""
    if field.name not in fields:
        if field.required:
            raise ValueError(f"it has no field {field.name!r}; it has {', '.join(map(repr, [*fields][:10])) or 'none'}")
        return False
    value = fields[field.name]
    valid = isinstance(value, str)
    if field.type == "strings":
        valid = isinstance(value, list) and all(isinstance(each, str) for each in value)
    if not valid:
        wanted = "a string" if field.type == "string" else "a list of strings"
        raise ValueError(f"its {field.name!r} must be {wanted}, and is {_json_type(value)}")
    texts = value if isinstance(value, list) else [value]
    if not field.blank and not all(text.strip() for text in texts):
        raise ValueError(f"its {field.name!r} {'is' if field.type == 'string' else 'has a text that is'} empty")
    return True


def _json_type(value: object) -> str:
    names: Mapping[type, str] = {
        **{dict: "an object", list: "a list", str: "a string", bool: "a boolean"},
        **{int: "a number", float: "a number", type(None): "null"},
    }
    return names[type(value)]


def result_line(record: Record, result: Mapping[str, Any]) -> bytes:
    """The line of the output: the id, the other fields, the result.

    Raises:
        ValueError: if the result would replace a field, or has a number that is not finite.
    """
    if taken := sorted(record.carried.keys() & result.keys()):
        raise ValueError(f"it has a field {taken[0]!r}, which the result would replace: rename it")
    return json_line({**record.carried, **result})


def failure_line(record: Record | UnreadRecord, failure: Failure) -> bytes:
    return json_line({"id": record.id, "error": failure.error})


def json_line(fields: Mapping[str, Any]) -> bytes:
    try:
        return f"{_ENCODER.encode(fields)}\n".encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write and UTF-8 cannot
        return f"{_ASCII_ENCODER.encode(fields)}\n".encode()

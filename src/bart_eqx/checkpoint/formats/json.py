"""Strict JSON for untrusted files. Python's parser accepts NaN, duplicate keys and numbers of any size."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from ..errors import DamagedFileError
from .regular_file import read_bytes


_MAX_BYTES = 2**20  # ten times the largest config.json, index or safetensors header of a BART
_MAX_DEPTH = 100  # what is kept is copied and written by functions that call themselves at each level


def read_json(path: Path, max_bytes: int = _MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file, with or without a byte order mark.

    Args:
        path: The file.
        max_bytes: The size limit. Parsed JSON can take eighty times the memory of its text.

    Raises:
        SourceNotFoundError: if there is no such file.
        AccessError: if it cannot be read.
        DamagedFileError: if it is not a JSON object, has a duplicate key or a number that is not finite, is nested more
            than 100 levels deep, or exceeds `max_bytes`.
    """
    return parse_json(read_bytes(path, max_bytes), str(path))


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `content`. Error messages call it `where`.

    Raises:
        DamagedFileError: as `read_json` does.
    """
    try:
        fields = strict_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise DamagedFileError(
            f"{where} is not valid JSON ({error}). It starts with {content[:40]!r}: download it again."
        ) from None
    if not isinstance(fields, dict):
        raise DamagedFileError(f"{where} must hold a JSON object. Got {type(fields).__name__}: download it again.")
    return fields


def strict_json(text: str) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: if it is not JSON, has a duplicate key or a number that is not finite, or is nested more than 100
            levels deep.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep") from None
    _check_depth(value)
    return value


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"it has {', '.join(map(repr, duplicates[:5]))} twice")
    return fields


def _check_depth(fields: Any) -> None:
    level = [fields]
    for _ in range(_MAX_DEPTH):
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list))]
        level = [value for values in inner for value in values]
    if level:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is not finite")
    return number

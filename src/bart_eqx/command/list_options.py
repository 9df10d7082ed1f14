"""Options that are lists of texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token


def texts_of(value: str) -> list[str]:
    """A list of texts: separated by commas, or as JSON, or in a file with one on each line, as @FILE.

    Raises:
        ValueError: if it is no such list, or an empty one.
    """
    if value.startswith("@"):
        texts = _lines_of(Path(value[1:]))
    elif value.startswith("["):
        try:
            texts = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is not JSON ({error.msg})") from None
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("the list must hold strings")
    else:
        texts = value.split(",")
    if not texts:
        raise ValueError("the list is empty")
    return texts


def _lines_of(path: Path) -> list[str]:
    """The lines of a file that are not blank."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return [line for line in lines if line.strip()]


def _convert(*, strip: bool) -> Any:
    def converter(type_: Any, tokens: Sequence[Token]) -> list[str]:
        # One token is the option of a shell; several are the items of a YAML file's list.
        texts = texts_of(tokens[0].value) if len(tokens) == 1 else [token.value for token in tokens]
        texts = [text.strip() for text in texts] if strip else texts
        if "" in texts:
            raise ValueError("a text of the list is empty: is there a comma too many?")
        return texts

    return converter


_SETTINGS: dict[str, Any] = dict(n_tokens=1, negative="", metavar="A,B,...")
TextList = Annotated[list[str] | None, Parameter(converter=_convert(strip=True), **_SETTINGS)]
# A space at the start of a token says that it starts a word.
TokenList = Annotated[list[str] | None, Parameter(converter=_convert(strip=False), **_SETTINGS)]

"""Options that are lists of texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token


def texts_of(value: str) -> list[str]:
    """A list of texts: separated by commas, or as JSON, or in a file with one on each line, as @FILE."""
    if value.startswith("@"):
        try:
            return Path(value[1:]).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ValueError(f"{value[1:]} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if value.startswith("["):
        try:
            texts = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is not JSON ({error.msg})") from None
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("the list must hold strings")
        return texts
    return value.split(",")


def _convert(strip: bool) -> Any:
    def converter(type_: Any, tokens: Sequence[Token]) -> list[str]:
        # One token is the option of a shell; several are the items of a YAML file's list.
        texts = texts_of(tokens[0].value) if len(tokens) == 1 else [token.value for token in tokens]
        return [text.strip() for text in texts] if strip else texts

    return converter


_SETTINGS: dict[str, Any] = dict(n_tokens=1, negative="", metavar="A,B,...")
TextList = Annotated[list[str] | None, Parameter(converter=_convert(strip=True), **_SETTINGS)]
# A space at the start of a token says that it starts a word.
TokenList = Annotated[list[str] | None, Parameter(converter=_convert(strip=False), **_SETTINGS)]

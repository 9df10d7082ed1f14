"""Checks of texts before they are tokenised, and how error messages name a text."""

from collections.abc import Sequence
from typing import Any


MAX_CHARACTERS = 2**23  # of one text: the library takes half a kilobyte for each
_QUOTED = 60  # characters of a text in an error message


def quoted(text: str) -> str:
    """A text, or its beginning, for an error message.

    (An index would mislead: tasks, and runs over files, make lists of their own from the caller's texts.)
    """
    return repr(text) if len(text) <= _QUOTED else f"{text[:_QUOTED]!r}..."


def subject(text: str, pair: str | None = None) -> str:
    """A text, or a pair of texts, as the subject of an error message."""
    return f"The text {quoted(text)}" if pair is None else f"The pair {quoted(text)}, {quoted(pair)}"


def check_texts(name: str, texts: Sequence[Any]) -> None:
    """Refuse what the library would misread, or report in another way.

    Args:
        name: The name of the argument.
        texts: Its value.

    Raises:
        TypeError: if one of them is not a string.
        ValueError: if one is longer than `MAX_CHARACTERS`, or has a lone surrogate.
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"`{name}` must be strings. {name}[{index}] is {type(text).__name__}.")
        if len(text) > MAX_CHARACTERS:
            raise ValueError(
                f"{subject(text)} has {len(text):,} characters, and at most {MAX_CHARACTERS:,} are tokenised at once: "
                "split it."
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{subject(text)} has a lone surrogate, {text[error.start]!r}, at character {error.start}: it is "
                    "not Unicode. Read its file with errors='replace', or remove it."
                ) from None

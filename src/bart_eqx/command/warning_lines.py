"""What the library warns of, as lines of the command: `warning: ...`, with options as a shell has them."""

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from .errors import option


_OTHERS = {"truncation", "doc_stride", "max_seq_len", "max_answer_len", "batch_tokens"}


@contextlib.contextmanager
def warning_lines() -> Iterator[None]:
    """A block in which warnings, of Python's modules `warnings` and `logging`, are lines on standard error."""
    logger, handler, shown = logging.getLogger("bart_eqx"), _Lines(logging.WARNING), warnings.showwarning
    logger.addHandler(handler)
    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            _print(str(message))

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _print(record.getMessage())


def _print(message: str) -> None:
    print(f"warning: {in_a_shell(' '.join(message.split()))}", file=sys.stderr)


def in_a_shell(message: str) -> str:
    """A message with arguments of Python as the options of a task: `truncation=False` is --no-truncation."""
    from ..generation_config import GENERATION_FIELDS

    def shown(match: re.Match[str]) -> Any:
        name, rest = match.groups()
        if name == "key":
            return "--seed"
        if name not in GENERATION_FIELDS | _OTHERS:
            return match[0]
        if rest == "=False":
            return f"--no-{option(name)[2:]}"
        return option(name) + rest.replace("=True", "").replace("=", " ")

    return re.sub(r"`(\w+)([^`]*)`", shown, message)

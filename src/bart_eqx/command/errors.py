"""Errors of the command, in one line and in the names of its options."""

import contextlib
import re
from collections.abc import Iterator


class UsageError(Exception):
    """The arguments are wrong."""


def one_line(error: BaseException) -> str:
    """The message of an error in one line, with options as a shell has them: `num_beams` is `--num-beams`."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())


def as_options(message: str, names: frozenset[str]) -> str:
    """A message with these Python arguments written as options of the shell."""
    return re.sub(r"`(\w+)`", lambda match: option(match[1]) if match[1] in names else match[0], message)


def refuse_blank(**options: str | None) -> None:
    """Raises `UsageError` if one of these texts is given, and empty."""
    for name, text in options.items():
        if text is not None and not text.strip():
            raise UsageError(f"{option(name)} is empty.")


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def refusal_of(keyword: str) -> str | None:
    """Why there is no such option, if transformers or the Python API has it; `None` if it is misspelt."""
    from ..generation_config import GENERATION_FIELDS, GenerationConfig
    from ..generation_options import OTHER_ARGUMENTS

    name = keyword.partition("=")[0].removeprefix("--").replace("-", "_")
    if name.startswith("output_") and name in GENERATION_FIELDS:
        return f"{option(name)} asks for arrays: call `bart_eqx.generate` in Python."
    if name not in GENERATION_FIELDS | OTHER_ARGUMENTS.keys():
        return None
    try:
        GenerationConfig().override(**{name: True})
    except (TypeError, ValueError) as error:
        return one_line(error).replace(f"`{name}=True`", option(name)).replace(f"`{name}`", option(name))
    return None


@contextlib.contextmanager
def counting_from_one() -> Iterator[None]:
    """In errors of a block, `records[3]` is record 4, as lines of a file are counted."""
    try:
        yield
    except ValueError as error:
        message = re.sub(r"\b(records|references)\[(\d+)\]", lambda m: f"{_COUNTED[m[1]]} {int(m[2]) + 1}", str(error))
        raise ValueError(message) from None


_COUNTED = {"records": "record", "references": "the reference of record"}

"""Errors of the command, in one line and in the names of its options."""

import re


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

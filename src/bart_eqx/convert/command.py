"""The command line of `python -m bart_eqx.convert`."""

import argparse
import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ..checkpoint.errors import CheckpointError, printable
from ..checkpoint.formats.shards import Format
from ..checkpoint.source import ALIASES, DEMOS
from ..checkpoint.write import Layout
from ..process import escape_unencodable_output, raise_interrupts
from .conversion import Dtype, convert, default_target


_DESCRIPTION = "Convert a checkpoint of Hugging Face's BART into a folder that bart_eqx and transformers load."
_MALLOC = {-1: 2**29, -3: 2**25, -8: 1}  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: By default those of the process, `sys.argv[1:]`.

    Returns:
        The exit status: 0, 2 after an error, which is printed in one line, 130 after Ctrl-C.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    escape_unencodable_output()
    if (options.source is None) == (options.verify is None):
        parser.error("give a SOURCE to convert, or --verify FOLDER")
    given = sorted(name for name, value in vars(options).items() if value != parser.get_default(name))
    if options.verify is not None and (others := [name for name in given if name not in ("verify", "json", "ignore")]):
        parser.error(f"--verify takes no options but --json and --ignore. Got {', '.join(others)}")
    try:
        execute(**vars(options))
    except CheckpointError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        unchanged = ": the target is unchanged, or complete if it was just renamed" if options.verify is None else ""
        print(f"interrupted{unchanged}.", file=sys.stderr)
        return 130
    return 0


def execute(
    *, source: str | None, output: Path | None, verify: Path | None, ignore: Sequence[str], json: bool, **settings: Any
) -> None:
    """Convert or verify, and print the record.

    Args:
        source: To convert.
        output: The folder to write; by default the source's name and -eqx.
        verify: A folder to check instead.
        ignore: Unknown fields of config.json and generation_config.json that are accepted.
        json: Print the record as JSON.
        **settings: Further arguments of `convert`.

    Raises:
        CheckpointError, KeyboardInterrupt
    """
    if verify is not None:
        from .verify import verify as verified  # imports JAX

        done, target = verified(verify.expanduser(), ignore=ignore), None
    else:
        assert source is not None
        raise_interrupts()
        _keep_freed_memory()
        target = (output or default_target(source)).expanduser()
        done = convert(source, target, ignore=ignore, **settings)
    print(done.to_json() if json else f"{done}\n", end="")
    if target is not None:
        print(f"folder      {printable(str(target.resolve()))}", file=sys.stderr if json else sys.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bart_eqx.convert", description=_DESCRIPTION)
    parser.add_argument(
        "source",
        nargs="?",
        help="a folder, a file of weights, a repository on the Hub, or one of: "
        + ", ".join([*DEMOS, *sorted(ALIASES)]),
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the source's name and -eqx")
    parser.add_argument("--revision", help="a branch, tag or commit on the Hub")
    parser.add_argument("--subfolder", help="a folder inside the source")
    parser.add_argument("--prefer", choices=get_args(Format), help="the format to read, where there are several")
    parser.add_argument("--dtype", choices=get_args(Dtype), help="of the written weights; default: as in the source")
    parser.add_argument("--to", choices=get_args(Layout), default="safetensors", help="the format to write")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER once the new one is complete")
    parser.add_argument("--allow-nonfinite", action="store_true", help="accept weights that are NaN or infinite")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="FIELD",
        help="accept and keep an unknown field of config.json or generation_config.json; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON, with the hashes")
    parser.add_argument("--verify", type=Path, metavar="FOLDER", help="check a folder instead of converting")
    return parser


def _keep_freed_memory() -> None:
    """Have glibc reuse freed memory for the next array: clearing new pages takes a tenth of a conversion."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in _MALLOC.items():
            mallopt(option, value)

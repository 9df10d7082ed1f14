"""`python -m bart_eqx.convert SOURCE`: a checkpoint of Hugging Face's, onto the PyTree, and out again as a folder."""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

from .checkpoint.errors import CheckpointError
from .checkpoint.files import weight_files
from .checkpoint.folder import load, save_pretrained
from .checkpoint.pytree import Account, named_parameters
from .checkpoint.source import ALIASES, DEMO, TOKENIZER_FILES, find_folder


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion did."""

    source: Path
    files: tuple[str, ...]
    cls: str
    tensors: int
    parameters: int
    dtype: str
    account: Account
    target: Path

    def __str__(self) -> str:
        lines = [
            f"read        {self.source} ({', '.join(self.files)})",
            f"model       {self.cls}",
            f"tensors     {self.tensors}",
            f"parameters  {self.parameters:,}, {self.dtype}",
        ]
        if self.account.initialised:
            lines.append(f"new         {', '.join(self.account.initialised)} (not in the checkpoint)")
        if self.account.dropped:
            lines.append(f"dropped     {', '.join(self.account.dropped)} (no place for it in {self.cls})")
        return "\n".join([*lines, f"written     {self.target}"])


def convert(
    source: str | Path,
    target: str | Path,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    to: Literal["safetensors", "flax"] = "safetensors",
    overwrite: bool = False,
) -> Conversion:
    """Convert a checkpoint into a folder, with its tokenizer.

    Args:
        source: As for `from_pretrained`.
        target: The folder to write.
        revision: A branch, tag or commit on the Hub.
        dtype: Of the written parameters, by default as they are.
        to: `"safetensors"` for transformers' PyTorch and for bart_eqx, or `"flax"` for transformers' Flax.
        overwrite: Write into `target` even if it exists.

    Raises:
        CheckpointError: as `from_pretrained` and `save_pretrained`; or if `target` exists, or is the source.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists: take another folder with -o, or --overwrite.")
    folder = find_folder(source, revision)
    if target.exists() and target.samefile(folder):
        raise CheckpointError(f"{target} is the source itself: take another folder with -o.")
    model, account = load(folder, dtype=None if dtype is None else jnp.dtype(dtype))
    save_pretrained(model, target, to=to)
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    parameters = named_parameters(model).values()
    return Conversion(
        source=folder,
        files=tuple(path.name for path in weight_files(folder)),
        cls=type(model).__name__,
        tensors=len(parameters),
        parameters=sum(array.size for array in parameters),
        dtype=str(jnp.result_type(*parameters)),
        account=account,
        target=target,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bart_eqx.convert", description=__doc__)
    parser.add_argument(
        "source", help=f"a folder, a repository on the Hub, or one of: {', '.join([DEMO, *sorted(ALIASES)])}"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the source's name, with -eqx")
    parser.add_argument("--revision", help="a branch, tag or commit on the Hub")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: as in the checkpoint")
    parser.add_argument("--to", choices=["safetensors", "flax"], default="safetensors", help="format of the weights")
    parser.add_argument("--overwrite", action="store_true", help="write into FOLDER even if it exists")
    options = parser.parse_args(arguments)
    target = options.output or Path(f"{Path(options.source).name}-eqx")
    try:
        done = convert(
            options.source,
            target,
            revision=options.revision,
            dtype=options.dtype,
            to=options.to,
            overwrite=options.overwrite,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())

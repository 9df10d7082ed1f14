"""`bart-eqx convert`: the same as `python -m bart_eqx.convert`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..checkpoint.formats.shards import Format
from ..checkpoint.write import Layout
from ..convert.command import execute
from ..convert.conversion import Dtype
from .errors import UsageError


def convert(
    source: str | None = None,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    revision: str | None = None,
    subfolder: str | None = None,
    prefer: Format | None = None,
    dtype: Dtype | None = None,
    to: Layout = "safetensors",
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    allow_nonfinite: Annotated[bool, Parameter(negative="")] = False,
    ignore: Annotated[list[str] | None, Parameter(negative="")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    verify: Path | None = None,
) -> None:
    """Convert a checkpoint of Hugging Face's BART into a folder that bart_eqx and transformers load.

    For example:

        bart-eqx convert bart-base
        bart-eqx convert ./my-flax-model -o ./converted
        bart-eqx convert --verify ./converted

    Args:
        source: A folder, a file of weights, an id on the Hub, a short name such as bart-base, demo or demo-text.
        output: The folder to write; by default the source's name and -eqx.
        revision: A branch, tag or commit on the Hub.
        subfolder: A folder inside the source.
        prefer: The format to read, where there are several.
        dtype: The dtype of the written weights; by default as in the source.
        to: The format to write.
        overwrite: Replace the folder once the new one is complete.
        allow_nonfinite: Accept weights that are NaN or infinite.
        ignore: Accept and keep an unknown field of config.json or generation_config.json; may be repeated.
        json: Print the record as JSON, with the hashes.
        verify: Check a folder instead of converting.
    """
    settings = dict(
        revision=revision,
        subfolder=subfolder,
        prefer=prefer,
        dtype=dtype,
        to=to,
        overwrite=overwrite,
        allow_nonfinite=allow_nonfinite,
    )
    if (source is None) == (verify is None):
        raise UsageError("Give a SOURCE to convert, or --verify FOLDER.")
    if verify is not None and (output or any(v for n, v in settings.items() if n != "to") or to != "safetensors"):
        raise UsageError("--verify takes no options but --json and --ignore.")
    execute(source=source, output=output, verify=verify, ignore=ignore or [], json=json, **settings)

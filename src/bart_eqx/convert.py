"""`python -m bart_eqx.convert SOURCE`: a checkpoint of Hugging Face's, out again as a folder that everything loads.

The arrays go from file to file one by one; no model is built, and no accelerator is asked for.
"""

import argparse
import collections
import ctypes
import io
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from beartype import beartype

from .checkpoint.atomic_folder import atomic_folder, check_room, check_target
from .checkpoint.embeddings import resolve
from .checkpoint.errors import (
    CheckpointError,
    ConfigurationError,
    MismatchError,
    TargetError,
    VerificationError,
    printable,
)
from .checkpoint.files import Format, total_size
from .checkpoint.finite import checked
from .checkpoint.match import BIAS, Match, match, widest_float
from .checkpoint.opened import INT8, Opened, open_checkpoint
from .checkpoint.parameters import WRITERS, int8_parameters, parameter_shapes
from .checkpoint.progress import progress_bar
from .checkpoint.record import CARD, RECORD, Conversion
from .checkpoint.source import ALIASES, DEMO, find, repository_of
from .checkpoint.stored import StoredArray, dtype_named
from .checkpoint.tokenizer import TOKENIZER_FILES, tokenizer_files, tokens_beyond
from .checkpoint.weights_file import hash_of_file
from .checkpoint.written import (
    WEIGHTS,
    Layout,
    config_fields,
    laid_out,
    write_bytes,
    write_json,
    write_text,
    write_weights,
)
from .generation_config import GenerationConfig
from .lazy_beartype import CONF


Dtype = Literal["float32", "bfloat16", "float16"]
_OUTPUTS = {"config.json", "generation_config.json", RECORD, CARD, *TOKENIZER_FILES, *WEIGHTS.values()}
_MALLOC = {-1: 2**29, -3: 2**25, -8: 1}  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX
# Fields of config.json that no network depends on, and that its users do.
_KEPT = ("finetuning_task", "max_source_length", "max_target_length", "prefix", "problem_type")
_KEPT += ("task_specific_params", "tokenizer_class")


@beartype(conf=CONF)
def convert(
    source: str | Path,
    target: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    prefer: Format | None = None,
    dtype: Dtype | None = None,
    to: Layout = "safetensors",
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    ignore: Collection[str] = (),
) -> Conversion:
    """Convert a checkpoint into a folder, with its tokenizer, a model card, and a record of what was done.

    Args:
        source: As for `from_pretrained`.
        target: The folder to write. It appears when it is complete, and only then.
        revision: A branch, tag or commit on the Hub.
        subfolder: Of the source.
        prefer: The format to read, where there are several.
        dtype: Of the written parameters, by default the widest that the source has.
        to: `"safetensors"` for transformers' PyTorch and for bart_eqx, or `"flax"` for transformers' Flax.
        overwrite: Replace `target`, in one step, if it holds nothing but what a conversion writes.
        allow_nonfinite: Convert weights that are NaN or infinite, too.
        ignore: Fields of config.json that are not known, and that change nothing.

    Raises:
        CheckpointError: one of its kinds, if the source cannot be read, or the target not written. The source is never
            touched, and the target is as it was.
    """
    target = check_target(Path(target), overwrite=overwrite, replaceable=_OUTPUTS, source=_folder_of(source))
    found = find(source, revision=revision, subfolder=subfolder, prefer=prefer)
    check_target(target, overwrite=overwrite, replaceable=_OUTPUTS, source=found.folder)
    opened = open_checkpoint(found, ignore=ignore)
    class_name = opened.class_name()
    warnings: list[str] = []
    generation_config = _generation_config(opened, class_name, warnings)
    tokenizer = tokenizer_files(found.folder)
    if beyond := tokens_beyond(found.folder, opened.config.vocab_size):
        warnings.append(f"tokens without an embedding, {', '.join(map(repr, beyond[:5]))}: no model takes them")

    try:
        matched = _matched(opened, class_name)
        floating = widest_float(matched.arrays.values()) if dtype is None else dtype_named(dtype)
        arrays = {
            name: checked(name, array, floating, allow_nonfinite=allow_nonfinite, warnings=warnings)
            for name, array in matched.arrays.items()
        }
        arrays |= {name: _zeros((1, opened.config.vocab_size), floating) for name in matched.initialised}
        tensors = laid_out(arrays, to, tied=opened.config.tie_word_embeddings)
        size = sum(array.nbytes for array in tensors.values())
        check_room(target, size)
        with atomic_folder(target, replaceable=_OUTPUTS if overwrite else None) as folder:
            with progress_bar("writing", size) as progress:
                weights_hash = write_weights(folder / WEIGHTS[to], tensors, to, progress)
            fields = {name: opened.fields[name] for name in _KEPT if name in opened.fields} | opened.config.to_dict()
            fields |= {"quantization_config": INT8} if opened.quantized else {}
            write_json(folder / "config.json", config_fields(class_name, fields, tensors))
            if generation_config is not None:
                write_json(folder / "generation_config.json", generation_config.to_dict())
            for name, content in tokenizer.items():
                write_bytes(folder / name, content)
            hashes = {
                path.name: {"size": path.stat().st_size, "blake3": hash_of_file(path)}
                for path in sorted(folder.iterdir())
                if path.name != WEIGHTS[to]
            }
            weights = {"size": (folder / WEIGHTS[to]).stat().st_size, "blake3": weights_hash}
            done = Conversion(
                source=printable(found.name),
                repository=found.repository,
                revision=found.revision,
                commit=found.commit,
                subfolder=found.subfolder,
                read={path.name: total_size([path]) for path in opened.files},
                model=class_name,
                dtypes=dict(collections.Counter(str(array.dtype) for array in matched.arrays.values())),
                dtype=str(floating),
                tensors=len(arrays),
                parameters=sum(array.size for array in arrays.values()),
                missing=matched.initialised,
                unexpected=matched.dropped,
                embedding=matched.tables.found,
                tables=_tables(opened, matched, class_name),
                warnings=tuple(sorted(set(warnings))),  # they come from several threads
                written={WEIGHTS[to]: weights} | hashes,
            )
            write_text(folder / RECORD, done.to_json())
            write_text(folder / CARD, done.card())
    except CheckpointError as error:
        named = any(str(path) in str(error) for path in (target, found.first, *opened.files))
        where = "" if named or isinstance(error, TargetError | VerificationError) else f"{found.first}: "
        raise type(error)(f"{where}{error}") from None
    return done


def _folder_of(source: str | Path) -> Path | None:
    """The folder that the source is, or is in, if it is on this machine."""
    try:
        path = Path(source).expanduser()
        return path if path.is_dir() else path.parent if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # no name of a file: `find` says what is wrong with it
        return None


def _generation_config(opened: Opened, class_name: str, warnings: list[str]) -> GenerationConfig | None:
    """Also of a model that does not write, if it says how: facebook/bart-base calls itself a `BartModel`, and is loaded
    as one that writes."""
    try:
        found = opened.generation_config()
    except ConfigurationError as error:
        if class_name in WRITERS:
            raise
        warnings.append(f"without settings of generation, which cannot be read: {error}")
        return None
    said = class_name in WRITERS or found != GenerationConfig.from_model_config(opened.config)
    return found if said else None


def default_target(source: str) -> Path:
    """A folder here that is called as the source is."""
    if (folder := _folder_of(source)) is not None:
        return Path(f"{folder.resolve().name}-eqx")
    return Path(f"{repository_of(source).rpartition('/')[2]}-eqx")


def _matched(opened: Opened, class_name: str) -> Match:
    config = opened.config
    tables = resolve(opened.arrays, tied=config.tie_word_embeddings, alone=class_name == "BartForCausalLM")
    shapes = parameter_shapes(class_name, config, tables.own)
    int8 = int8_parameters(shapes) if opened.quantized else {}
    shapes |= {f"{name}_scale": shape[:1] for name, shape in int8.items()}
    matched = match(shapes, int8, tables, class_name)
    if head := [name for name in matched.initialised if name != BIAS]:
        raise MismatchError(
            f"the head of a {class_name} is not in it ({', '.join(head)}): write the class that it is into the "
            "`architectures` of its config.json, or make the head with `from_pretrained(..., key=...)` and save that."
        )
    return matched


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> StoredArray:
    return StoredArray(shape, dtype, lambda: np.zeros(shape, dtype))


def _tables(opened: Opened, matched: Match, class_name: str) -> str:
    if matched.tables.own:
        return f"the {' and the '.join(matched.tables.own)} read tables of their own, as transformers 5 unties them"
    if class_name not in WRITERS:
        return "one table"
    return "one table, and the head is tied to it" if opened.config.tie_word_embeddings else "one table, head apart"


def _keep_memory() -> None:
    """Have glibc keep what was freed for the next array: the kernel clears what it gives, a tenth of a conversion."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in _MALLOC.items():
            mallopt(option, value)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bart_eqx.convert", description=__doc__)
    parser.add_argument(
        "source",
        nargs="?",
        help=f"a folder, a file of weights, a repository on the Hub, or one of: {', '.join([DEMO, *sorted(ALIASES)])}",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the source's name, with -eqx")
    parser.add_argument("--revision", help="a branch, tag or commit on the Hub")
    parser.add_argument("--subfolder", help="of the source")
    parser.add_argument("--prefer", choices=get_args(Format), help="format to read, where there are several")
    parser.add_argument("--dtype", choices=get_args(Dtype), help="default: as in the checkpoint")
    parser.add_argument("--to", choices=get_args(Layout), default="safetensors", help="format of the weights")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER, when the new one is complete")
    parser.add_argument("--allow-nonfinite", action="store_true", help="convert NaN and infinite weights, too")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="FIELD", help="of config.json, not known, and changes nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--verify", type=Path, metavar="FOLDER", help="convert nothing; check a folder")
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show
    if (options.source is None) == (options.verify is None):
        parser.error("give a SOURCE to convert, or --verify FOLDER")
    given = sorted(name for name, value in vars(options).items() if value != parser.get_default(name))
    if options.verify is not None and (others := [name for name in given if name not in ("verify", "json")]):
        parser.error(f"--verify takes no option but --json. Got {', '.join(others)}")
    try:
        if options.verify is not None:
            from .checkpoint.verify import verify

            done = verify(options.verify.expanduser())
        else:
            _keep_memory()
            done = convert(
                options.source,
                options.output or default_target(options.source),
                revision=options.revision,
                subfolder=options.subfolder,
                prefer=options.prefer,
                dtype=options.dtype,
                to=options.to,
                overwrite=options.overwrite,
                allow_nonfinite=options.allow_nonfinite,
                ignore=options.ignore,
            )
    except CheckpointError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the target is as it was, or the new folder, whole.", file=sys.stderr)
        return 130
    print(done.to_json() if options.json else done, end="" if options.json else "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`convert`: from a checkpoint of Hugging Face's to a folder that bart_eqx and transformers load."""

import collections
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from beartype import beartype

from ..checkpoint.architectures import Architecture, int8_parameters, parameter_shapes
from ..checkpoint.atomic_folder import atomic_folder, check_space, check_target
from ..checkpoint.embeddings import resolve_tables
from ..checkpoint.errors import (
    CheckpointError,
    MismatchError,
    TargetError,
    VerificationError,
    printable,
)
from ..checkpoint.find import find
from ..checkpoint.finite import checked
from ..checkpoint.formats.lazy_array import dtype_named, from_numpy, widest_float
from ..checkpoint.formats.regular_file import checked_size
from ..checkpoint.formats.shards import Format
from ..checkpoint.formats.writer import hash_file
from ..checkpoint.match import BIAS, Match, match
from ..checkpoint.read import Checkpoint, read_checkpoint
from ..checkpoint.source import repository_of
from ..checkpoint.tokenizer import TOKENIZER_FILES, tokenizer_files, vocabulary_warnings
from ..checkpoint.write import (
    RECORD,
    WEIGHTS,
    Layout,
    arrange,
    config_fields,
    write_bytes,
    write_json,
    write_text,
    write_weights,
)
from ..config import IGNORED
from ..generation_config import GenerationConfig
from ..lazy_beartype import CONF
from .progress import progress_bar
from .record import CARD, Conversion


Dtype = Literal["float32", "bfloat16", "float16"]
_OUTPUTS = {"config.json", "generation_config.json", RECORD, CARD, *TOKENIZER_FILES, *WEIGHTS.values()}
# Fields of config.json that describe the weights, which are in another file now.
_OF_WEIGHTS = ("architectures", "dtype", "torch_dtype", "quantization_config", IGNORED)


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
    generation_config: GenerationConfig | None = None,
    ignore: Collection[str] = (),
) -> Conversion:
    """Convert a checkpoint into a folder, with its tokenizer, a model card and a record of the conversion.

    config.json and generation_config.json keep all their fields, also those that this package does not read.

    Args:
        source: A folder, a file of weights next to its config.json, the id or URL of a repository on the Hugging Face
            Hub, a short name such as `"bart-base"`, `"demo"` or `"demo-text"`.
        target: The folder to write. It appears when it is complete.
        revision: A branch, tag or commit on the Hub.
        subfolder: A folder inside the source.
        prefer: The format to read, where there are several.
        dtype: The dtype of the written weights; by default the widest in the source.
        to: `"safetensors"` for transformers' PyTorch and bart_eqx, or `"flax"` for transformers' Flax.
        overwrite: Replace an existing `target` in one step, if it holds only files that a conversion writes.
        allow_nonfinite: Accept weights that are NaN or infinite.
        generation_config: Written instead of the source's settings of generation.
        ignore: Unknown fields of config.json and generation_config.json that are accepted. They are written too, and
            listed in the new config.json as `bart_eqx_ignore`, so that `from_pretrained` and `convert` accept them in
            the new folder.

    Returns:
        A record of what was read and written: the contents of the target's conversion.json.

    Raises:
        CheckpointError: one of its kinds (`bart_eqx.checkpoint.errors`), if the source cannot be read or the target
            cannot be written. Both are unchanged then.
    """
    target = check_target(Path(target), overwrite=overwrite, replaceable=_OUTPUTS, source=_local_folder(source))
    found = find(source, revision=revision, subfolder=subfolder, prefer=prefer)
    check_target(target, overwrite=overwrite, replaceable=_OUTPUTS, source=found.folder)
    checkpoint = read_checkpoint(found, ignore=ignore)
    architecture = checkpoint.architecture()
    warnings: list[str] = []
    settings = generation_config.to_dict() if generation_config else _settings(checkpoint, architecture, warnings)
    tokenizer = tokenizer_files(found.folder)
    warnings += vocabulary_warnings(found.folder, checkpoint.config.vocab_size)

    try:
        matched = _match(checkpoint, architecture)
        floating = widest_float(matched.arrays.values()) if dtype is None else dtype_named(dtype)
        arrays = {
            name: checked(name, array, floating, allow_nonfinite=allow_nonfinite, warnings=warnings)
            for name, array in matched.arrays.items()
        }
        arrays |= {
            name: from_numpy(np.zeros((1, checkpoint.config.vocab_size), floating)) for name in matched.initialised
        }
        tensors = arrange(arrays, to, tied=checkpoint.config.tie_word_embeddings)
        size = sum(array.nbytes for array in tensors.values())
        check_space(target, size)
        with atomic_folder(target, replaceable=_OUTPUTS if overwrite else None) as folder:
            weights = folder / WEIGHTS[to]
            with progress_bar("writing", size) as progress:
                hashes = {weights.name: write_weights(weights, tensors, to, progress)}
            write_json(folder / "config.json", config_fields(architecture.name, _fields(checkpoint), tensors))
            if settings is not None:
                write_json(folder / "generation_config.json", settings)
            for name, content in tokenizer.items():
                write_bytes(folder / name, content)
            done = Conversion(
                source=printable(found.name),
                repository=found.repository,
                revision=found.revision,
                commit=found.commit,
                subfolder=found.subfolder,
                read={path.name: checked_size(path) for path in checkpoint.files},
                model=architecture.name,
                dtypes=dict(collections.Counter(str(array.dtype) for array in matched.arrays.values())),
                dtype=str(floating),
                tensors=len(arrays),
                parameters=sum(array.size for array in arrays.values()),
                missing=matched.initialised,
                unexpected=matched.dropped,
                ignored=_ignored(checkpoint),
                embedding=matched.tables.found,
                tables=_describe_tables(checkpoint, matched, architecture),
                warnings=tuple(sorted(set(warnings))),  # several threads add to them, in any order
                written=_sizes_and_hashes(folder, hashes),
            )
            write_text(folder / RECORD, done.to_json())
            write_text(folder / CARD, done.card())
    except CheckpointError as error:
        named = any(str(path) in str(error) for path in (target, found.weights, *checkpoint.files))
        where = "" if named or isinstance(error, TargetError | VerificationError) else f"{found.weights}: "
        raise type(error)(f"{where}{error}") from None
    return done


def default_target(source: str) -> Path:
    """A folder in the current directory, of the source's name followed by `-eqx`."""
    folder = _local_folder(source)
    name = repository_of(source).rpartition("/")[2] if folder is None else folder.resolve().name
    return Path(f"{name}-eqx")


def _local_folder(source: str | Path) -> Path | None:
    """The folder that is or contains the source, if it is on this machine."""
    try:
        path = Path(source).expanduser()
        return path if path.is_dir() else path.parent if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # not a valid path, which `find` reports
        return None


def _settings(checkpoint: Checkpoint, architecture: Architecture, warnings: list[str]) -> dict[str, Any] | None:
    """The new generation_config.json: all fields of the source's, or those that an older config.json has.

    facebook/bart-base calls itself a `BartModel`, has such settings, and is mostly loaded as a model that generates.
    Another class without any has no such file.
    """
    found = checkpoint.generation_config()
    if refusal := found.refusal:
        warnings.append(f"settings of generation are kept, and `generate` refuses them: {refusal}")
    if (fields := checkpoint.generation_fields()) is not None:
        return {**fields}
    explicit = found != GenerationConfig.from_model_config(checkpoint.config)
    return found.to_dict() if architecture.generates or explicit else None


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of config.json, with all of a BART's, and with the names of those that were ignored."""
    fields = {name: value for name, value in checkpoint.fields.items() if name not in _OF_WEIGHTS}
    ignored = _ignored(checkpoint)
    return fields | checkpoint.config.to_dict() | ({IGNORED: list(ignored)} if ignored else {})


def _ignored(checkpoint: Checkpoint) -> tuple[str, ...]:
    present = checkpoint.fields.keys() | (checkpoint.generation_fields() or {}).keys()
    return tuple(sorted(checkpoint.ignored & present))


def _match(checkpoint: Checkpoint, architecture: Architecture) -> Match:
    config = checkpoint.config
    tables = resolve_tables(
        checkpoint.arrays, tied=config.tie_word_embeddings, decoder_only=not architecture.has_encoder
    )
    shapes = parameter_shapes(architecture, config, tables.own)
    int8 = int8_parameters(shapes) if checkpoint.int8 else {}
    shapes |= {f"{name}_scale": shape[:1] for name, shape in int8.items()}
    matched = match(shapes, int8, tables, architecture.name)
    if head := [name for name in matched.initialised if name != BIAS]:
        raise MismatchError(
            f"the checkpoint lacks the head of a {architecture.name} ({', '.join(head)}): correct `architectures` in "
            "its config.json, or initialise the head with `from_pretrained(..., key=...)` and save that model."
        )
    return matched


def _describe_tables(checkpoint: Checkpoint, matched: Match, architecture: Architecture) -> str:
    if matched.tables.own:
        sides = " and the ".join(matched.tables.own)
        return f"the {sides} have token tables of their own, as transformers 5 unties them"
    if not architecture.generates:
        return "one table"
    return "one table, tied to the head" if checkpoint.config.tie_word_embeddings else "one table, not tied to the head"


def _sizes_and_hashes(folder: Path, known: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Size in bytes and BLAKE3 hash of each file, weights first; `known` hashes are not computed again."""
    others = sorted(path.name for path in folder.iterdir() if path.name not in known)
    return {
        name: {"size": (folder / name).stat().st_size, "blake3": known.get(name) or hash_file(folder / name)}
        for name in (*known, *others)
    }

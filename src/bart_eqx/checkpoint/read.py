"""Reading a checkpoint: its configuration and the headers of its arrays, whose values are read later."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import MODEL_FIELDS, BartConfig, ignored_fields
from ..generation_config import GenerationConfig
from .architectures import ARCHITECTURES, INT8_METHOD, Architecture
from .errors import CheckpointError, ConfigurationError, MismatchError, UnsupportedCheckpointError
from .formats.json import read_json
from .formats.lazy_array import LazyArray
from .formats.shards import read_arrays, weight_files
from .match import canonical
from .source import Source


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine.

    Args:
        source: Where it is.
        fields: The contents of its config.json.
        config: From these fields, or the one that was given instead.
        arrays: By bare names, in PyTorch's layouts.
        files: The files that hold the arrays.
        ignored: The fields of config.json and generation_config.json that are not read, and that are not known.
    """

    source: Source
    fields: Mapping[str, Any]
    config: BartConfig
    arrays: Mapping[str, LazyArray]
    files: tuple[Path, ...]
    ignored: frozenset[str]

    @property
    def int8(self) -> bool:
        """Whether it has int8 weights."""
        return self.fields.get("quantization_config") == INT8_METHOD

    def architecture(self) -> Architecture:
        """The class that config.json names; if it names several, the one whose head is in the checkpoint.

        Raises:
            UnsupportedCheckpointError: if it names none of the five.
        """
        path, named = self.source.folder / "config.json", self.fields.get("architectures") or []
        known = [name for name in named if name in ARCHITECTURES] if isinstance(named, list) else []
        if not known:
            raise UnsupportedCheckpointError(
                f"{path} names none of {', '.join(ARCHITECTURES)} in `architectures`. Got {named!r:.200}: "
                "pass the class (`from_pretrained(source, cls)`), or add it to that field."
            )
        heads = {name.partition(".")[0] for name in self.arrays}
        present = [a for a in ARCHITECTURES.values() if a.head in heads and a.name in known]
        return present[0] if present else ARCHITECTURES[known[0]]

    def generation_fields(self) -> Mapping[str, Any] | None:
        """The contents of its generation_config.json; `None` if it has none."""
        path = self.source.folder / "generation_config.json"
        return read_json(path) if path.exists() else None

    def generation_config(self) -> GenerationConfig:
        """From generation_config.json, or from config.json, where older checkpoints have these fields.

        Raises:
            DamagedFileError: if generation_config.json is not valid JSON. Its values are not refused here.
        """
        fields = self.generation_fields()
        if fields is None:
            return GenerationConfig.from_legacy_dict(self.fields, self.config, ignore=self.ignored)
        return GenerationConfig.from_dict(fields, self.config, ignore=self.ignored | MODEL_FIELDS)


def read_checkpoint(source: Source, config: BartConfig | None = None, *, ignore: Collection[str] = ()) -> Checkpoint:
    """Read the configuration, and the headers of all arrays.

    Args:
        source: Where the checkpoint is.
        config: Used instead of config.json's.
        ignore: Unknown fields of config.json and generation_config.json that are accepted and not read.

    Raises:
        CheckpointError: one of its kinds, if a file is missing or damaged, or this is not a BART.
        TypeError: if `ignore` is one string.
    """
    path = source.folder / "config.json"
    fields = read_json(path)
    if (model_type := fields.get("model_type", "bart")) != "bart":
        raise UnsupportedCheckpointError(
            f'{path} must have model_type="bart". Got {model_type!r:.80}, another architecture: load it with a library '
            "that supports it."
        )
    known = {name: value for name, value in fields.items() if (name, value) != ("quantization_config", INT8_METHOD)}
    try:
        arrays = canonical(read_arrays(source.weights))
    except MismatchError as error:
        raise MismatchError(f"{source.weights}: {error}") from None
    if not known.keys() & {"id2label", "num_labels"} and (head := arrays.get("classification_head.out_proj.weight")):
        # transformers 5 omits two labels as if they were its default. The default of its BartConfig is three.
        known["num_labels"] = head.shape[0] if head.shape else 0
    ignored_fields({}, ignore)  # a wrong argument is not the file's fault
    with configuration_errors(path):
        ignored = ignored_fields(fields, ignore)
        config = BartConfig.from_dict(known, ignore=ignore) if config is None else config
    if config.encoder_layers + config.decoder_layers > len(arrays):
        raise MismatchError(
            f"{path} has {config.encoder_layers} encoder and {config.decoder_layers} decoder layers, and "
            f"{source.weights} has {len(arrays)} arrays in all: they are not of the same model."
        )
    return Checkpoint(source, fields, config, arrays, tuple(weight_files(source.weights)), ignored)


@contextlib.contextmanager
def configuration_errors(path: Path) -> Iterator[None]:
    """Turns errors of the block into a `ConfigurationError` that names `path`. `CheckpointError`s pass unchanged."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, OverflowError) as error:  # also values of a wrong type
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())} Fix that field.") from None

"""A checkpoint opened: its configuration, and the heads of its arrays. Nothing large is read or allocated yet."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..config import BartConfig
from ..generation_config import GenerationConfig
from .errors import CheckpointError, ConfigurationError, MismatchError, UnsupportedCheckpointError
from .files import read_heads, weight_files
from .json_file import read_json
from .match import canonical
from .parameters import CLASS_NAMES
from .source import Source
from .stored import StoredArray


# What config.json says of a model with int8 weights. transformers does not know the method, and refuses it by name.
INT8 = {"quant_method": "bart_eqx", "weights": "int8"}
_HEADS = {
    "final_logits_bias": "BartForConditionalGeneration",
    "classification_head": "BartForSequenceClassification",
    "qa_outputs": "BartForQuestionAnswering",
}
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Opened:
    source: Source
    fields: Mapping[str, Any]
    """Of config.json."""
    config: BartConfig
    arrays: Mapping[str, StoredArray]
    """By bare names, in PyTorch's layout."""
    files: tuple[Path, ...]
    """Those that hold the arrays."""

    @property
    def quantized(self) -> bool:
        return self.fields.get("quantization_config") == INT8

    def class_name(self) -> str:
        """The class that config.json names; of several, the one whose head is there.

        Raises:
            UnsupportedCheckpointError: if it names none of the five.
        """
        path, named = self.source.folder / "config.json", self.fields.get("architectures") or []
        known = [name for name in named if name in CLASS_NAMES] if isinstance(named, list) else []
        if not known:
            raise UnsupportedCheckpointError(
                f"{path} names none of {', '.join(CLASS_NAMES)} among its `architectures`, but {named!r:.200}: "
                "pass the class (`from_pretrained(source, cls)`), or write it there."
            )
        stems = {name.partition(".")[0] for name in self.arrays}
        of_weights = [cls for stem, cls in _HEADS.items() if stem in stems and cls in known]
        return of_weights[0] if of_weights else known[0]

    def generation_config(self) -> GenerationConfig:
        """From generation_config.json, or from the fields that older checkpoints keep in config.json.

        Raises:
            ConfigurationError: if it contradicts itself, or asks for what is not implemented.
        """
        path = self.source.folder / "generation_config.json"
        if path.exists():
            fields = read_json(path)
            return explained(path, lambda: GenerationConfig.from_dict(fields, self.config))
        legacy = self.source.folder / "config.json"
        return explained(legacy, lambda: GenerationConfig.from_legacy_dict(self.fields, self.config))


def open_checkpoint(source: Source, config: BartConfig | None = None, *, ignore: Collection[str] = ()) -> Opened:
    """Read the configuration and the heads of the arrays.

    Args:
        source: The checkpoint.
        config: Instead of that of config.json.
        ignore: Fields of config.json that are not known, and that change nothing.

    Raises:
        CheckpointError: one of its kinds, if a file is missing, damaged, or not one of a BART.
    """
    path = source.folder / "config.json"
    fields = read_json(path)
    if (model_type := fields.get("model_type", "bart")) != "bart":
        raise UnsupportedCheckpointError(
            f'{path} must say model_type="bart". Got {model_type!r:.80}: this is another architecture. Load it with '
            "the library that knows it."
        )
    known = {name: value for name, value in fields.items() if (name, value) != ("quantization_config", INT8)}
    try:
        arrays = canonical(read_heads(source.first))
    except MismatchError as error:
        raise MismatchError(f"{source.first}: {error}") from None
    if not known.keys() & {"id2label", "num_labels"} and (head := arrays.get("classification_head.out_proj.weight")):
        # transformers 5 leaves out what it takes for a default: two labels, where its own BartConfig has three.
        known["num_labels"] = head.shape[0] if head.shape else 0
    config = explained(path, lambda: BartConfig.from_dict(known, ignore=ignore)) if config is None else config
    if config.encoder_layers + config.decoder_layers > len(arrays):
        raise MismatchError(
            f"{path} says that there are {config.encoder_layers} and {config.decoder_layers} layers, and "
            f"{source.first} has {len(arrays)} arrays in all: they are not of one model."
        )
    return Opened(source, fields, config, arrays, tuple(weight_files(source.first)))


def explained(path: Path, make: Callable[[], T]) -> T:
    """What `make` makes of a file. What is wrong with its fields is told with its name.

    Raises:
        CheckpointError: as `make` does; a `ConfigurationError` for errors of other types.
    """
    try:
        return make()
    except CheckpointError:
        raise
    except (
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:  # a number that is a string, a list that is a number
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())} Mend that field.") from None

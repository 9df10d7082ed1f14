"""Checkpoints of Whisper and distil-whisper, of Flax and of PyTorch: loading them, and converting them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

import bart_eqx
from bart_eqx.checkpoint.atomic_folder import atomic_folder
from bart_eqx.checkpoint.fill import fill
from bart_eqx.checkpoint.find import find
from bart_eqx.checkpoint.formats.json import read_json
from bart_eqx.checkpoint.formats.lazy_array import LazyArray, from_numpy
from bart_eqx.checkpoint.formats.nested import flatten
from bart_eqx.checkpoint.formats.shards import read_arrays
from bart_eqx.checkpoint.match import canonical
from bart_eqx.checkpoint.pytree import lazy_parameters
from bart_eqx.checkpoint.read import configuration_errors
from bart_eqx.checkpoint.write import config_fields, write_json, write_weights

from .conditional_generation import WhisperForConditionalGeneration
from .config import WhisperConfig
from .speech_tokens import SPEECH_FIELDS


# Transformers' names, and our attribute paths where they differ.
_PATHS = {"encoder.conv": "convolutions.conv", "proj_out.": "lm_head."}


def from_pretrained(source: str | Path, *, dtype: DTypeLike | None = None) -> WhisperForConditionalGeneration:
    """Load a model in inference mode.

    Args:
        source: A folder or a repository on the Hub, with a flax_model.msgpack, safetensors of Flax or PyTorch, or a
            pytorch_model.bin, in one file or in shards.
        dtype: Of the parameters; by default that of the file.

    Raises:
        CheckpointError: one of its kinds, if there is no such checkpoint, it is damaged, or it is not a Whisper's.
    """
    found = find(source)
    fields, path = read_json(found.folder / "config.json"), found.folder / "generation_config.json"
    with configuration_errors(found.folder / "config.json"):
        config = WhisperConfig.from_dict(fields)
        if path.exists():
            settings = bart_eqx.GenerationConfig.from_dict(read_json(path), config, ignore=SPEECH_FIELDS)
        else:
            settings = bart_eqx.GenerationConfig.from_legacy_dict(fields, config, ignore=SPEECH_FIELDS)
    try:
        return _filled(read_arrays(found.weights), config, settings, dtype=dtype)
    except bart_eqx.CheckpointError as error:
        raise type(error)(f"{found.weights}: {error}") from None


def from_flax(params: Mapping[str, Any], config: WhisperConfig) -> WhisperForConditionalGeneration:
    """A model from the parameters of `FlaxWhisperForConditionalGeneration`, in the widest dtype among them."""
    return _filled({name: from_numpy(array) for name, array in flatten(params).items()}, config)


def _filled(
    arrays: Mapping[str, LazyArray],
    config: WhisperConfig,
    generation_config: bart_eqx.GenerationConfig | None = None,
    **options: Any,
) -> WhisperForConditionalGeneration:
    bare = {_renamed(name, _PATHS): array for name, array in canonical(arrays).items()}
    return fill(WhisperForConditionalGeneration, config, bare, generation_config=generation_config, **options)[0]


def convert(source: str | Path, target: str | Path) -> None:
    """Write a checkpoint as a new folder of safetensors, which `from_pretrained` and transformers' PyTorch load."""
    model, folder = from_pretrained(source), find(source).folder
    names = {ours: theirs for theirs, ours in _PATHS.items()}
    tensors = {_renamed(name, names): array for name, array in lazy_parameters(model).items()}
    with atomic_folder(Path(target)) as partial:
        write_weights(partial / "model.safetensors", tensors, "safetensors")
        fields = config_fields(type(model).__name__, read_json(folder / "config.json"), tensors)
        write_json(partial / "config.json", fields)
        if (settings := folder / "generation_config.json").exists():
            write_json(partial / settings.name, read_json(settings))


def _renamed(name: str, paths: Mapping[str, str]) -> str:
    for old, new in paths.items():
        name = name.replace(old, new)
    return name

"""Saving a model: `save_pretrained` into a folder, `to_flax` into parameters in memory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..model.language_model import AbstractLanguageModel
from ..model.quantized import is_quantized
from ..model.signature import one_sentence_errors
from ..parallel.processes import failing_together, spans_processes
from .atomic_folder import atomic_folder, hidden_folder
from .errors import CheckpointError, TargetError
from .formats.lazy_array import LazyArray
from .formats.nested import unflatten
from .formats.prefetch import Reads, prefetch
from .formats.shards import WEIGHT_FILES
from .names import to_flax_leaf
from .pytree import AnyBart, builder, lazy_parameters, named_parameters, own_tables, skeleton_of, to_numpy
from .write import RECORD, WEIGHTS, Layout, arrange, config_fields, order_of_reading, write_json, write_weights


@one_sentence_errors
def save_pretrained(model: AnyBart, folder: str | Path, *, to: Layout = "safetensors") -> None:
    """Write a model as a folder that transformers and `from_pretrained` load.

    A new folder appears complete or not at all. In an existing folder, files of the same names are replaced one by one
    after all new files were written and read back; other files stay.

    Sharded arrays are gathered on the host, one at a time. Where they span several processes, all of these must call
    it: process 0 writes, and they return when the folder is complete. If writing fails, it fails on all.

    Args:
        model: A model of one of the five classes. If it has int8 weights (`quantize`), only `from_pretrained` loads the
            folder.
        folder: Created if it does not exist.
        to: `"safetensors"`, which transformers' PyTorch loads; or `"flax"`, a flax_model.msgpack for its Flax.

    Raises:
        CheckpointError: if the model's parameters are not those of its class, so that it could not be loaded again; if
            the folder has weights of another format, which would be loaded instead of these; if it cannot be written,
            or reads back differently.
        OtherProcessError: on the other processes, if process 0 could not write it.
    """
    _check_loadable(model)
    folder = Path(folder).expanduser().resolve()
    tensors = arrange(lazy_parameters(model), to, tied=model.config.tie_word_embeddings)
    if spans_processes(model):
        _save_together(model, tensors, folder, to)
    else:
        _save(model, tensors, folder, to, prefetch)


def _save_together(model: AnyBart, tensors: Mapping[str, LazyArray], folder: Path, to: Layout) -> None:
    """Each array is gathered when it is written. Every process takes part in that, in the same order, to the end."""
    names = iter(order_of_reading(tensors, to))
    with failing_together(f"saving {folder}"):
        try:
            if jax.process_index() == 0:
                _save(model, tensors, folder, to, lambda read, sizes: map(read, names))
        finally:
            for name in names:
                tensors[name].read()


def _save(model: AnyBart, tensors: Mapping[str, LazyArray], folder: Path, to: Layout, reads: Reads[np.ndarray]) -> None:
    if not folder.exists():
        with atomic_folder(folder) as partial:
            _write(model, tensors, partial, to, reads)
        return
    if others := [name for name in WEIGHT_FILES if name != WEIGHTS[to] and (folder / name).exists()]:
        raise TargetError(f"{folder} has other weights, {', '.join(others)}: remove them, or choose another folder.")
    replaced: list[str] = []
    try:
        with hidden_folder(folder) as partial:
            _write(model, tensors, partial, to, reads)
            (folder / RECORD).unlink(missing_ok=True)  # it describes the model that is replaced
            for path in sorted(partial.iterdir()):
                os.replace(path, folder / path.name)
                replaced.append(path.name)
    except OSError as error:
        what = f"{', '.join(replaced)} are new, other files are" if replaced else "its files are"
        raise TargetError(f"{folder} cannot be written ({error.strerror}): {what} unchanged.") from error


def _write(
    model: AnyBart, tensors: Mapping[str, LazyArray], folder: Path, to: Layout, reads: Reads[np.ndarray]
) -> None:
    write_weights(folder / WEIGHTS[to], tensors, to, reads=reads)
    write_json(folder / "config.json", config_fields(type(model).__name__, model.config.to_dict(), tensors))
    if isinstance(model, AbstractLanguageModel):
        write_json(folder / "generation_config.json", model.generation_config.to_dict())


def _check_loadable(model: AnyBart) -> None:
    own = own_tables(model)
    if own and model.config.tie_word_embeddings:
        raise CheckpointError(
            f"The {' and the '.join(own)} of this model have token tables of their own, and its config says "
            "tie_word_embeddings=True, so that it would be loaded with one table: set it to False."
        )
    skeleton = skeleton_of(builder(type(model), model.config, own_tables=own, int8=is_quantized(model)))
    expected, found = ({name: p.shape for name, p in named_parameters(tree).items()} for tree in (skeleton, model))
    if differ := [name for name in expected | found if expected.get(name) != found.get(name)]:
        shown = ", ".join(differ[:5]) + (", ..." if len(differ) > 5 else "")
        raise CheckpointError(
            f"A {type(model).__name__} whose modules were replaced cannot be loaded again: save the original model, or "
            "merge the additions into its weights first; `resize_token_embeddings` changes the vocabulary. Missing, "
            f"added or of another shape: {shown}."
        )


def to_flax(model: Any) -> dict[str, Any]:
    """The parameters of a model as a nested dict of NumPy arrays, in the names and layouts of Hugging Face's Flax.

    The inverse of `from_flax`. `model` may be any PyTree of a model's structure, for example gradients.
    """
    return unflatten(dict(to_flax_leaf(name, array) for name, array in to_numpy(model).items()))

"""Checkpoints as folders: config.json, the weights, and generation_config.json where a model writes."""

import functools
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from ..config import BartConfig
from ..generation_config import GenerationConfig
from ..model.bart import BartModel
from ..model.causal_lm import BartForCausalLM
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.quantized import is_quantized, quantize
from ..model.question_answering import BartForQuestionAnswering
from ..model.sequence_classification import BartForSequenceClassification
from .errors import CheckpointError
from .files import WEIGHT_FILES, read_json, read_weights
from .flax_msgpack import read_msgpack, write_msgpack
from .names import to_flax_leaf, with_embedding_aliases
from .pytree import Account, Model, fill, named_parameters, to_tensors, widest_float
from .safetensors_file import read_safetensors, write_safetensors
from .source import find_folder


logger = logging.getLogger("bart_eqx")

CLASSES = {
    cls.__name__: cls
    for cls in (
        BartModel,
        BartForConditionalGeneration,
        BartForSequenceClassification,
        BartForQuestionAnswering,
        BartForCausalLM,
    )
}
# What config.json says of a model with int8 weights. transformers does not know the method, and refuses it by name.
_INT8 = {"quant_method": "bart_eqx", "weights": "int8"}
_WRITERS = (BartForConditionalGeneration, BartForCausalLM)
AnyBart = (
    BartModel
    | BartForConditionalGeneration
    | BartForSequenceClassification
    | BartForQuestionAnswering
    | BartForCausalLM
)


def from_pretrained(
    source: str | Path,
    cls: type[Model] | None = None,
    *,
    revision: str | None = None,
    config: BartConfig | None = None,
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
    ignore_mismatched_sizes: bool = False,
) -> Model:
    """Load a model, in inference mode. To train it: `equinox.nn.inference_mode(model, value=False)`.

    Args:
        source: A folder, the id of a repository on the Hugging Face Hub, a short name such as `"bart-base"`, or
            `"demo"`. Reads flax_model.msgpack, and safetensors of Flax or of PyTorch, in one file or in shards.
        cls: One of the five classes; by default that of config.json's `architectures`. A checkpoint of one class loads
            as any other: what it has more is dropped, and a head that it lacks is made from `key`; both are logged.
        revision: A branch, tag or commit on the Hub.
        config: Instead of the folder's config.json, for example with other `num_labels`.
        dtype: Of the parameters; by default that of the file.
        key: For a head that the checkpoint does not have.
        ignore_mismatched_sizes: Make a head of another shape anew, too, from `key`.

    Raises:
        CheckpointError: if there is no such checkpoint, it is damaged, or it is not one of such a model.
        ValueError: if its configuration is not one of a BART.
    """
    model, account = load(
        find_folder(source, revision),
        cls,
        config=config,
        dtype=dtype,
        key=key,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
    )
    if account.initialised:
        logger.warning("%s: not in the checkpoint, and new: %s", source, ", ".join(account.initialised))
    if account.dropped:
        logger.warning("%s: in the checkpoint, and dropped: %s", source, ", ".join(account.dropped))
    return model


def load(
    folder: Path, cls: type[Model] | None = None, *, config: BartConfig | None = None, **options: Any
) -> tuple[Any, Account]:
    """`from_pretrained` for a local folder, with an account of what became of its arrays."""
    fields = read_json(folder / "config.json")
    if fields.get("quantization_config") == _INT8:
        del fields["quantization_config"]
        options["transformation"] = quantize
    config = BartConfig.from_dict(fields) if config is None else config
    tensors = read_weights(folder)
    chosen: Any = _class_of(folder, fields, tensors) if cls is None else cls
    if issubclass(chosen, _WRITERS):
        options["generation_config"] = _read_generation_config(folder, fields, config)
    return fill(chosen, config, tensors, **options)


def _class_of(folder: Path, fields: dict[str, Any], tensors: Iterable[str]) -> Any:
    named = [name for name in fields.get("architectures") or () if name in CLASSES]
    if not named:
        raise CheckpointError(
            f"{folder / 'config.json'} names none of {', '.join(CLASSES)} among its `architectures`, but "
            f"{fields.get('architectures')!r}: pass the class."
        )
    heads = {
        "final_logits_bias": BartForConditionalGeneration,
        "classification_head": BartForSequenceClassification,
        "qa_outputs": BartForQuestionAnswering,
    }
    stems = {name.partition(".")[0] for name in tensors}
    of_weights = [cls for stem, cls in heads.items() if stem in stems and cls.__name__ in named]
    return of_weights[0] if of_weights else CLASSES[named[0]]  # some checkpoints name several classes


def _read_generation_config(folder: Path, fields: dict[str, Any], config: BartConfig) -> GenerationConfig:
    path = folder / "generation_config.json"
    if path.exists():
        return GenerationConfig.from_dict(read_json(path), config)
    return GenerationConfig.from_legacy_dict(fields, config)


def save_pretrained(model: AnyBart, folder: str | Path, *, to: Literal["safetensors", "flax"] = "safetensors") -> None:
    """Write a model as a folder that transformers and `from_pretrained` both load.

    Args:
        model: One of the five classes. With int8 weights (`quantize`), only `from_pretrained` reads the folder.
        folder: Made if it does not exist. Files of the same names in it are replaced, each at once.
        to: `"safetensors"`, which transformers' PyTorch reads; or `"flax"`, a flax_model.msgpack for its Flax.

    Raises:
        CheckpointError: if the model has other parameters than its class, and could not be loaded again; if the folder
            holds weights of another format, which would be read in place of these; or if what was written does not
            read back as it was.
    """
    _check_loadable(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / ("model.safetensors" if to == "safetensors" else "flax_model.msgpack")
    if others := [name for name in WEIGHT_FILES if name != target.name and (folder / name).exists()]:
        raise CheckpointError(f"{folder} has other weights, {', '.join(others)}: remove them, or take another folder.")

    tensors = to_tensors(model)
    if to == "flax" and is_quantized(model):
        raise CheckpointError("Flax's BART has no int8 weights: save as safetensors, or save the model unquantised.")
    if to == "flax":
        tensors = dict(to_flax_leaf(name, array) for name, array in tensors.items())
    elif not (model.config.tie_word_embeddings or is_quantized(model)):
        tensors = with_embedding_aliases(tensors)
    partial = target.with_name(f".{target.name}.partial")
    if to == "flax":
        write_msgpack(partial, tensors)
        written = read_msgpack(partial)
    else:
        write_safetensors(partial, tensors, layout="pt")
        written = read_safetensors(partial)
    _compare(target, tensors, written)
    _publish(partial, target)

    dtype = str(widest_float(tensors.values()))
    fields = {"architectures": [type(model).__name__], **model.config.to_dict(), "torch_dtype": dtype}
    if is_quantized(model):
        fields["quantization_config"] = _INT8
    _write_json(folder / "config.json", fields)
    if isinstance(model, _WRITERS):
        _write_json(folder / "generation_config.json", model.generation_config.to_dict())


def _check_loadable(model: AnyBart) -> None:
    make: Callable[..., Any] = functools.partial(type(model), model.config)
    build = (lambda *, key: quantize(make(key=key))) if is_quantized(model) else make
    skeleton = eqx.filter_eval_shape(build, key=jax.random.key(0))
    expected, found = ({name: p.shape for name, p in named_parameters(tree).items()} for tree in (skeleton, model))
    if differ := [name for name in expected | found if expected.get(name) != found.get(name)]:
        shown = ", ".join(differ[:5]) + (", ..." if len(differ) > 5 else "")
        raise CheckpointError(
            f"A {type(model).__name__} whose modules were replaced cannot be loaded again: save the one that it was "
            f"made of, or merge what was added into its weights. Missing, added or of another shape: {shown}."
        )


def _compare(path: Path, tensors: dict[str, np.ndarray], written: dict[str, np.ndarray]) -> None:
    for name, array in tensors.items():
        copy = written.get(name)
        if copy is None or (copy.dtype, copy.shape, copy.tobytes()) != (array.dtype, array.shape, array.tobytes()):
            raise CheckpointError(f"{path} does not read back as it was written, at `{name}`: is the disk sound?")


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", "utf-8")
    _publish(partial, path)


def _publish(partial: Path, target: Path) -> None:
    """Put a finished file in its place, whole or not at all, with the permissions of any new file."""
    mask = os.umask(0)
    os.umask(mask)
    partial.chmod(0o666 & ~mask)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, target)

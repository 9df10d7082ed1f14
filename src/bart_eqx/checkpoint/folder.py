"""Checkpoints as folders: config.json, the weights, and generation_config.json where a model writes."""

import logging
import os
from pathlib import Path
from typing import Any

from beartype import beartype
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from ..config import BartConfig
from ..lazy_beartype import CONF
from ..model.bart import BartModel
from ..model.causal_lm import BartForCausalLM
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.quantized import is_quantized
from ..model.question_answering import BartForQuestionAnswering
from ..model.sequence_classification import BartForSequenceClassification
from .atomic_folder import atomic_folder, hidden_folder
from .errors import CheckpointError, TargetError
from .files import WEIGHT_FILES, Format
from .match import Match
from .opened import INT8, open_checkpoint
from .pytree import Model, builder, fill, named_parameters, own_tables, skeleton_of, stored_parameters
from .record import RECORD
from .source import Source, find
from .written import WEIGHTS, Layout, config_fields, laid_out, write_json, write_weights


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
_WRITERS = (BartForConditionalGeneration, BartForCausalLM)
AnyBart = (
    BartModel
    | BartForConditionalGeneration
    | BartForSequenceClassification
    | BartForQuestionAnswering
    | BartForCausalLM
)


@beartype(conf=CONF)
def from_pretrained(
    source: str | Path,
    cls: type[Model] | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    prefer: Format | None = None,
    config: BartConfig | None = None,
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
    ignore_mismatched_sizes: bool = False,
    allow_nonfinite: bool = False,
) -> Model:
    """Load a model, in inference mode. To train it: `equinox.nn.inference_mode(model, value=False)`.

    Args:
        source: A folder, a file of weights beside its config.json, the id of a repository on the Hugging Face Hub, a
            short name such as `"bart-base"`, or `"demo"`. Reads flax_model.msgpack, safetensors of Flax or of PyTorch,
            and, where torch is installed, pytorch_model.bin; in one file or in shards.
        cls: One of the five classes; by default that of config.json's `architectures`. A checkpoint of one class loads
            as any other: what it has more is dropped, and a head that it lacks is made from `key`; both are logged.
        revision: A branch, tag or commit on the Hub.
        subfolder: Of the folder, or of the repository.
        prefer: `"flax"`, `"safetensors"` or `"pytorch"`, where there are several; by default the first of these.
        config: Instead of the folder's config.json, for example with other `num_labels`.
        dtype: Of the parameters; by default that of the file.
        key: For a head that the checkpoint does not have.
        ignore_mismatched_sizes: Make a head of another shape anew, too, from `key`.
        allow_nonfinite: Load weights that are NaN or infinite, too.

    Raises:
        CheckpointError: one of its kinds (`bart_eqx.checkpoint.errors`), if there is no such checkpoint, it is damaged,
            or it is not one of such a model.
        ValueError: if `dtype` is none that a model can have.
    """
    model, matched = load(
        find(source, revision=revision, subfolder=subfolder, prefer=prefer),
        cls,
        config=config,
        dtype=dtype,
        key=key,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
        allow_nonfinite=allow_nonfinite,
    )
    if matched.initialised:
        logger.warning("%s: not in the checkpoint, and new: %s", source, ", ".join(matched.initialised))
    if matched.dropped:
        logger.warning("%s: in the checkpoint, and dropped: %s", source, ", ".join(matched.dropped))
    return model


def load(
    source: Source, cls: type[Model] | None = None, *, config: BartConfig | None = None, **options: Any
) -> tuple[Any, Match]:
    """`from_pretrained` for files on this machine, with an account of what became of their arrays."""
    opened = open_checkpoint(source, config)
    chosen: Any = CLASSES[opened.class_name()] if cls is None else cls
    if issubclass(chosen, _WRITERS):
        options["generation_config"] = opened.generation_config()
    try:
        return fill(chosen, opened.config, opened.arrays, int8=opened.quantized, **options)
    except CheckpointError as error:
        raise type(error)(f"{source.first}: {error}") from None


@beartype(conf=CONF)
def save_pretrained(model: AnyBart, folder: str | Path, *, to: Layout = "safetensors") -> None:
    """Write a model as a folder that transformers and `from_pretrained` both load.

    A new folder appears whole or not at all. In one that exists, files of the same names are replaced, each at once,
    after all of them were written and compared; other files are left alone.

    Args:
        model: One of the five classes. With int8 weights (`quantize`), only `from_pretrained` reads the folder.
        folder: Made if it does not exist.
        to: `"safetensors"`, which transformers' PyTorch reads; or `"flax"`, a flax_model.msgpack for its Flax.

    Raises:
        CheckpointError: if the model has other parameters than its class, and could not be loaded again; if the folder
            holds weights of another format, which would be read in place of these; if it cannot be written; or if what
            was written does not read as it was.
    """
    _check_loadable(model)
    folder = Path(folder).expanduser().resolve()
    if not folder.exists():
        with atomic_folder(folder) as partial:
            _write(model, partial, to)
        return
    if others := [name for name in WEIGHT_FILES if name != WEIGHTS[to] and (folder / name).exists()]:
        raise TargetError(f"{folder} has other weights, {', '.join(others)}: remove them, or take another folder.")
    replaced: list[str] = []
    try:
        with hidden_folder(folder) as partial:
            _write(model, partial, to)
            (folder / RECORD).unlink(missing_ok=True)  # of another model
            for path in sorted(partial.iterdir()):
                os.replace(path, folder / path.name)
                replaced.append(path.name)
    except OSError as error:
        what = f"{', '.join(replaced)} are new, and the rest is" if replaced else "what it held is"
        raise TargetError(f"{folder} cannot be written ({error.strerror}): {what} as it was.") from error


def _write(model: AnyBart, folder: Path, to: Layout) -> None:
    tensors = laid_out(stored_parameters(model), to, tied=model.config.tie_word_embeddings)
    write_weights(folder / WEIGHTS[to], tensors, to)
    fields = config_fields(type(model).__name__, model.config.to_dict(), tensors)
    if is_quantized(model):
        fields["quantization_config"] = INT8
    write_json(folder / "config.json", fields)
    if isinstance(model, _WRITERS):
        write_json(folder / "generation_config.json", model.generation_config.to_dict())


def _check_loadable(model: AnyBart) -> None:
    own = own_tables(model)
    if own and model.config.tie_word_embeddings:
        raise CheckpointError(
            f"The {' and the '.join(own)} of this model read token tables of their own, and its config says "
            "tie_word_embeddings=True: say False there, or it would be loaded with one table."
        )
    skeleton = skeleton_of(builder(type(model), model.config, own_tables=own, int8=is_quantized(model)))
    expected, found = ({name: p.shape for name, p in named_parameters(tree).items()} for tree in (skeleton, model))
    if differ := [name for name in expected | found if expected.get(name) != found.get(name)]:
        shown = ", ".join(differ[:5]) + (", ..." if len(differ) > 5 else "")
        raise CheckpointError(
            f"A {type(model).__name__} whose modules were replaced cannot be loaded again: save the one that it was "
            f"made of, or merge what was added into its weights. Missing, added or of another shape: {shown}."
        )

"""Loading a model: `from_pretrained` from files, `from_flax` from parameters in memory."""

import contextlib
import functools
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, overload

import equinox as eqx
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from ..config import BartConfig
from ..generation_config import GenerationConfig
from ..model.language_model import AbstractLanguageModel
from ..model.signature import one_sentence_errors
from ..parallel.processes import failing_together
from ..parallel.shardings import RULES, Rules, shardings
from .errors import CheckpointError
from .fill import fill
from .find import find
from .formats.lazy_array import from_numpy
from .formats.nested import check_is_no_train_state, flatten
from .formats.shards import Format
from .match import Match, canonical
from .pytree import CLASSES, AnyBart, Model
from .read import read_checkpoint
from .source import Source


logger = logging.getLogger("bart_eqx")


@overload
def from_pretrained(
    source: str | Path,
    cls: None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    prefer: Format | None = None,
    config: BartConfig | None = None,
    generation_config: GenerationConfig | None = None,
    ignore: Collection[str] = (),
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
    ignore_mismatched_sizes: bool = False,
    allow_nonfinite: bool = False,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
) -> AnyBart: ...


@overload
def from_pretrained(
    source: str | Path,
    cls: type[Model],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    prefer: Format | None = None,
    config: BartConfig | None = None,
    generation_config: GenerationConfig | None = None,
    ignore: Collection[str] = (),
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
    ignore_mismatched_sizes: bool = False,
    allow_nonfinite: bool = False,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
) -> Model: ...


@one_sentence_errors
def from_pretrained(
    source: str | Path,
    cls: type[eqx.Module] | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    prefer: Format | None = None,
    config: BartConfig | None = None,
    generation_config: GenerationConfig | None = None,
    ignore: Collection[str] = (),
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
    ignore_mismatched_sizes: bool = False,
    allow_nonfinite: bool = False,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
) -> Any:
    """Load a model in inference mode. For training: `equinox.nn.inference_mode(model, value=False)`.

    Args:
        source: A folder, a file of weights next to its config.json, the id or URL of a repository on the Hugging Face
            Hub, a short name such as `"bart-base"`, `"demo"` or `"demo-text"`. Reads flax_model.msgpack, safetensors of
            Flax or PyTorch, and pytorch_model.bin if torch is installed; one file or shards.
        cls: One of the five classes; by default the one that config.json names in `architectures`. A checkpoint of one
            class loads as any other: parameters that the class does not have are dropped, and a head that the
            checkpoint lacks is initialised from `key`. Both are logged. To a type checker, the result is of this class,
            and without it, of any of the five.
        revision: A branch, tag or commit on the Hub.
        subfolder: A folder inside the source.
        prefer: `"flax"`, `"safetensors"` or `"pytorch"`, where there are several formats; by default the first of
            these.
        config: Used instead of the folder's config.json, for example with another `num_labels`.
        generation_config: Used instead of the folder's generation_config.json, which is then not read, and of the
            generation settings in config.json.
        ignore: Names of unknown fields of config.json and generation_config.json to leave out, instead of refusing
            them.
        dtype: The dtype of the parameters; by default that of the file.
        key: Initialises a head that the checkpoint lacks, and draws rows with `ignore_mismatched_sizes`.
        ignore_mismatched_sizes: Initialise head parameters of another shape from `key`, where there would be an error.
            Where `config.vocab_size` is another number, keep the rows of token tables and of `final_logits_bias` that
            both have, and add others as [`resize_token_embeddings`][bart_eqx.resize_token_embeddings] does. Both are
            logged. (transformers initialises the whole table.)
        allow_nonfinite: Accept weights that are NaN or infinite.
        mesh: From `bart_eqx.parallel.make_mesh`: the arrays go to its devices, as `bart_eqx.parallel.shard` would put
            them, and each process reads only what its own devices hold. All processes of the mesh must call this; if it
            fails on one, it fails on all.
        rules: Which axis of a parameter lies on which axis of `mesh`; by default `bart_eqx.parallel.RULES`.

    Raises:
        CheckpointError: one of its kinds (`bart_eqx.checkpoint.errors`), if there is no such checkpoint, if it is
            damaged or not supported, or if it does not fit the class and the configuration.
        ValueError: if `dtype` is not a floating-point dtype, or needs 64-bit mode; if `generation_config` is given for
            a class that does not generate; if `rules` are given without a `mesh`.
        OtherProcessError: if it failed on another process of the mesh.
    """
    if mesh is None and rules is not None:
        raise ValueError("`rules` were given without a `mesh` whose devices the parameters should go to.")
    together = contextlib.nullcontext()
    placed = None
    if mesh is not None:
        placed = functools.partial(shardings, mesh=mesh, rules=RULES if rules is None else rules)
        together = failing_together(f"loading {source}") if mesh.is_multi_process else together
    with together:
        model, matched = load(
            find(source, revision=revision, subfolder=subfolder, prefer=prefer),
            cls,
            config=config,
            generation_config=generation_config,
            ignore=ignore,
            dtype=dtype,
            key=key,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            allow_nonfinite=allow_nonfinite,
            shardings=placed,
        )
    if matched.initialised:
        logger.warning("%s: not in the checkpoint, and initialised: %s", source, ", ".join(matched.initialised))
    if mismatched := [f"{name} {shapes}" for name, shapes in matched.mismatched.items()]:
        logger.warning("%s: of another shape in the checkpoint, and initialised: %s", source, ", ".join(mismatched))
    if matched.resized:
        logger.warning("%s: of another vocabulary: %s", source, "; ".join(matched.resized))
    if matched.dropped:
        logger.warning("%s: in the checkpoint, and dropped: %s", source, ", ".join(matched.dropped))
    return model


def load(
    source: Source,
    cls: type[eqx.Module] | None = None,
    *,
    config: BartConfig | None = None,
    generation_config: GenerationConfig | None = None,
    ignore: Collection[str] = (),
    **options: Any,
) -> tuple[Any, Match]:
    """`from_pretrained` for files on this machine, with the assignment of arrays to parameters."""
    checkpoint = read_checkpoint(source, config, ignore=ignore)
    chosen: Any = CLASSES[checkpoint.architecture().name] if cls is None else cls
    if issubclass(chosen, AbstractLanguageModel) and generation_config is None:
        generation_config = checkpoint.generation_config()
        if refusal := generation_config.refusal:
            logger.warning("%s: `generate` refuses settings of this checkpoint: %s", source.name, refusal)
    try:
        return fill(
            chosen,
            checkpoint.config,
            checkpoint.arrays,
            int8=checkpoint.int8,
            **_settings(chosen, generation_config),
            **options,
        )
    except CheckpointError as error:
        raise type(error)(f"{source.weights}: {error}") from None


def _settings(cls: type[eqx.Module], generation_config: GenerationConfig | None) -> dict[str, Any]:
    """The argument of a class that takes settings of generation."""
    if generation_config is None:
        return {}
    if not issubclass(cls, AbstractLanguageModel):
        raise ValueError(
            f"`generation_config` was given, and a {cls.__name__} does not generate: load it as a "
            "BartForConditionalGeneration or a BartForCausalLM."
        )
    return {"generation_config": generation_config}


@one_sentence_errors
def from_flax(
    params: Mapping[str, Any],
    config: BartConfig,
    cls: type[Model],
    *,
    generation_config: GenerationConfig | None = None,
    dtype: DTypeLike | None = None,
    key: PRNGKeyArray | None = None,
) -> Model:
    """A model from the parameters of Hugging Face's Flax model, `flax_model.params`. The arrays are copied.

    Args:
        params: The nested dict, of the same class or another, as for `from_pretrained`.
        config: The configuration; `BartConfig.from_dict(flax_model.config.to_dict())`.
        cls: The class to load it as.
        generation_config: The settings of `generate`; by default they have the token ids of `config`.
        dtype: The dtype of the parameters; by default the widest in `params`.
        key: Initialises a head that `params` lacks.

    Raises:
        MismatchError: if the parameters do not fit the class and the configuration.
        UnsupportedCheckpointError: if `params` is the state of a training.
        NonFiniteError: if one of them overflows in `dtype`.
        ValueError: if `dtype` is not a floating-point dtype, or needs 64-bit mode; if `generation_config` is given for
            a class that does not generate.
    """
    check_is_no_train_state(params)
    # Without the copy, JAX on the CPU would take over the caller's memory.
    arrays = {name: from_numpy(array).map(np.array) for name, array in flatten(params).items()}
    settings = _settings(cls, generation_config)
    return fill(cls, config, canonical(arrays), dtype=dtype, key=key, allow_nonfinite=True, **settings)[0]

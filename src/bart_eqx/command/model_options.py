"""Which model a command runs, and how it is loaded."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter

from .cache import CacheDir
from .errors import UsageError, as_options, one_line


if TYPE_CHECKING:  # it imports JAX
    from ..text.task import AbstractTask

    Task = TypeVar("Task", bound=AbstractTask)

_GROUP = Group("Model", sort_key=2)


@Parameter(name="*", group=_GROUP)
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    model: Annotated[str, Parameter(alias="-m")]
    """A folder, an id on the Hugging Face Hub, a short name such as bart-large-cnn, or demo or demo-text."""
    revision: str | None = None
    """A branch, tag or commit on the Hub."""
    subfolder: str | None = None
    """A folder inside the source."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The dtype of the parameters; by default that of the file."""
    int8: Annotated[bool, Parameter(negative="")] = False
    """Round the weights to int8: a quarter of the memory."""
    batch_tokens: int = 4096
    """The maximum number of tokens in a batch, padding included. Larger is faster up to a point, and takes memory."""
    cache_dir: CacheDir = None
    """The folder of compiled programs (see `bart-eqx cache --help`)."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise UsageError(f"--batch-tokens must be at least 1. Got {self.batch_tokens}.")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings on which results depend. (`batch_tokens` changes samples, and the last digits of scores.)"""
        return {name: getattr(self, name) for name in ("revision", "subfolder", "dtype", "int8", "batch_tokens")}


def load_task(cls: "type[Task]", source: str, settings: Mapping[str, Any], **options: Any) -> "Task":
    """A task with the model of a checkpoint.

    Args:
        cls: The class of the task.
        source: The checkpoint.
        settings: `ModelOptions.settings`.
        **options: Options of the class.
    """
    from ..model.quantized import is_quantized, quantize

    task = cls.from_pretrained(source, **{name: value for name, value in settings.items() if name != "int8"}, **options)
    if settings["int8"] and not is_quantized(task.model):
        task.model = quantize(task.model)
    return task


def check_generation(task: Any, options: Mapping[str, Any]) -> None:
    """Raises `UsageError` if a call of `generate` with these options would be refused, whatever the text."""
    import numpy as np

    from ..generation.arguments import validated
    from ..generation.request import Request
    from ..generation_config import GENERATION_FIELDS

    settings = {name: value for name, value in options.items() if name in GENERATION_FIELDS}
    try:
        sampling = task.model.generation_config.override(**settings).do_sample
    except (TypeError, ValueError):
        sampling = False  # `validated` reports it
    if sampling and options.get("key") is None:
        raise UsageError("Sampling needs --seed NUMBER: the same number draws the same tokens.")
    ids = np.array([[task.model.config.bos_token_id, task.model.config.eos_token_id]])
    try:
        validated(Request.from_keywords(dict(model=task.model, input_ids=ids) | dict(options)))
    except (TypeError, ValueError) as error:
        message = as_options(one_line(error), frozenset(options) | GENERATION_FIELDS)
        raise UsageError(message.replace("`key`", "--seed")) from None

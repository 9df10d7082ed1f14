"""Tasks as values: a name, a checkpoint, and options that a manifest holds and another process builds the task from."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ..batch import Field, Run
from .cache import keep_programs
from .model_options import ModelOptions


# The module and the function that loads each.
_LOADERS = {
    "summarize": "generate:load_summarizer",
    "generate": "generate:load_generator",
    "fill": "fill:load_filler",
    "classify": "classify:load_classifier",
    "zero-shot": "classify:load_zero_shot",
    "answer": "answer:load_answerer",
    "score": "score:load_scorer",
    "embed": "embed:load_embedder",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A task, and what it reads and writes.

    Args:
        task: The name of its command.
        model: The model.
        options: Those of the task itself, JSON.
        reads: What it reads: its own names, each with the field of a JSON object. The first is the text of a line, or
            of an argument.
        writes: The fields of a result.
        text: A result as a line of text.
    """

    task: str
    model: ModelOptions
    options: Mapping[str, Any]
    reads: Mapping[str, Field]
    writes: tuple[str, ...]
    text: Callable[[Mapping[str, Any]], str]

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `load`."""
        options = dict(model=self.model.on_which_results_depend, **self.options)
        return dict(source=self.model.model, task=self.task, options=options)

    def load(self) -> Run:
        """The task, in this process."""
        keep_programs(self.model.cache_dir)
        return load(**self.arguments)


def load(*, source: str, task: str, options: Mapping[str, Any]) -> Run:
    """Build a task.

    Args:
        source: The checkpoint.
        task: The name of a command.
        options: `model`, the settings of the model; and those of the task.
    """
    module, name = _LOADERS[task].split(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)(source, options)


def best_and_all(results: list[Any]) -> dict[str, Any]:
    """The fields of the best result, and all of them as `results`."""
    fields = [dataclasses.asdict(each) for each in results]
    return {**fields[0], "results": fields}

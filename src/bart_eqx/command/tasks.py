"""Tasks as JSON: a name, a checkpoint and options, which a manifest records, and another process loads a task from."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..batch import Failure, Field, Record, Run
from .cache import keep_programs
from .model_options import ModelOptions
from .warning_lines import in_a_shell


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
        reads: Its inputs by name, each with the field of a JSON object. The first is the text of a line, or of an
            argument.
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
    def identity(self) -> dict[str, Any]:
        """All that the results depend on, except the files of the model and the versions of libraries."""
        return dict(task=self.task, options=dict(model=self.model.settings, **self.options))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `load`, as JSON: another process can call it."""
        cache_dir = None if self.model.cache_dir is None else str(self.model.cache_dir)
        return dict(source=self.model.model, cache_dir=cache_dir, **self.identity)

    def load(self) -> Run:
        """The task, in this process."""
        return build(**self.arguments)


def build(*, source: str, task: str, options: Mapping[str, Any], cache_dir: str | None = None) -> Run:
    """Build a task. This imports JAX, and turns its cache of compiled programs on.

    Args:
        source: The checkpoint.
        task: The name of a command.
        options: `model`, the settings of the model; and those of the task.
        cache_dir: The folder of compiled programs.
    """
    keep_programs(None if cache_dir is None else Path(cache_dir))
    module, name = _LOADERS[task].split(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)(source, options)


def load(**arguments: Any) -> Run:
    """As `build`, for files: another process calls it by its name."""
    return of_records(build(**arguments))


def of_records(run: Run) -> Run:
    """A task that returns the `ValueError` of a single record as a `Failure`, with options as a shell has them."""

    def run_and_name(records: Sequence[Record]) -> Sequence[Mapping[str, Any] | Failure]:
        try:
            return run(records)
        except ValueError as error:
            if len(records) > 1:
                raise  # its halves are run
            return [Failure(in_a_shell(str(error)))]

    return run_and_name


def best_and_all(results: list[Any]) -> dict[str, Any]:
    """The fields of the best result, and all of them as `results`."""
    fields = [dataclasses.asdict(each) for each in results]
    return {**fields[0], "results": fields}


def nonblank(name: str, type: Literal["string", "strings"] = "string") -> Field:
    """A field whose texts are not empty: what a model would say of nothing is made up."""
    return Field(name, type, blank=False)

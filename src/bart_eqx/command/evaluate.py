"""`bart-eqx evaluate`: predictions in a file, or those of a task over its records, compared with references."""

import dataclasses
import json as json_library
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ..batch.records import read_objects
from .cache import keep_programs
from .errors import UsageError, counting_from_one
from .file_kinds import form_of
from .generation_options import SearchOptions, TokenOptions
from .list_options import TextList
from .model_options import ModelOptions, check_generation, load_task


if TYPE_CHECKING:  # it imports JAX
    from ..text.evaluation import Task

Metric = Literal["rouge", "accuracy"]
# The fields that the tasks write, and the metric for each.
_METRICS: dict[str, Metric] = {
    "summary_text": "rouge",
    "generated_text": "rouge",
    "label": "accuracy",
    "answer": "accuracy",
}


def evaluate(
    file: Path,
    *,
    reference: str = "reference",
    prediction: str | None = None,
    metric: Metric | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    task: Literal["summarize", "generate", "classify", "zero-shot"] | None = None,
    field: str = "text",
    pair_field: str | None = None,
    labels: TextList = None,
    choices: TextList = None,
    model: ModelOptions | None = None,
    search: SearchOptions | None = None,
    tokens: TokenOptions | None = None,
) -> None:
    """Compare predictions with references: ROUGE of texts, accuracy of labels, each with its 95% confidence interval.

    The predictions are in the file, as the other commands write them. Or, with --task and --model, they are computed
    from its texts.

    ROUGE is for English: with stemming, and sentence by sentence for rougeLsum, as in papers. Needs the extra
    `evaluate`: pip install rouge-score sentencex.

    For example:

        bart-eqx evaluate out.jsonl --reference highlights
        bart-eqx evaluate out.jsonl --prediction label --reference gold --metric accuracy
        bart-eqx evaluate in.jsonl --reference highlights --task summarize --field article -m bart-large-cnn --beams 4

    Args:
        file: A JSON object on each line; or a .csv or .tsv file, whose first row names the columns.
        reference: The field with the right text or label; for ROUGE, it may hold a list of texts.
        prediction: The field with the prediction; by default summary_text, generated_text, label or answer.
        metric: rouge or accuracy; by default ROUGE of texts, and accuracy of labels, choices and answers.
        json: Print JSON.
        task: Compute the predictions, with --model.
        field: With --task, the field with the text.
        pair_field: For classify, the field with the second text.
        labels: For zero-shot: the labels, separated by commas, a JSON list, or @FILE with one on each line.
        choices: For generate: the only texts that may be generated, given as --labels are.
    """
    if (task is None) != (model is None):
        raise UsageError("Give --task and --model together, or neither, where the file has predictions.")
    records = _records(file)
    if not records:
        raise ValueError(f"{file} has no records.")
    if task is None or model is None:
        given = dict(pair_field=pair_field, labels=labels, choices=choices, search=search, tokens=tokens)
        if named := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{_OPTIONS[named[0]]} for --task. Without it, the file has the predictions.")
        with counting_from_one():
            result = _compared(records, prediction, reference, metric)
    else:
        if prediction is not None:
            raise UsageError("Give --prediction or --task, not both.")
        chosen = [options.given() for options in (search, tokens) if options is not None]
        lists = dict(labels=labels, choices=choices)
        call: dict[str, Any] = {name: value for name, value in lists.items() if value is not None}
        loaded = _load(task, model, {name: value for each in chosen for name, value in each.items()}, call)
        from ..text import evaluate as evaluated

        fields = dict(field=field, pair=pair_field, reference=reference)
        with counting_from_one():
            result = evaluated(loaded, records, metric=metric, **fields, **call)
    _print(dataclasses.asdict(result), as_json=json)


def _records(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, or the rows of a .csv or .tsv file."""
    if form_of(file) == "csv":
        from ..training.examples import read_records

        return list(read_records(file))
    return list(read_objects(file))


_OPTIONS = dict(
    pair_field="--pair-field is",
    labels="--labels is",
    choices="--choices is",
    search="Options of generation are",
    tokens="Options of generation are",
)


def _compared(
    records: Sequence[Mapping[str, Any]], prediction: str | None, reference: str, metric: Metric | None
) -> Any:
    from ..text.evaluation import column, compare, references_of, texts_of

    if prediction is None:
        prediction = next((name for name in _METRICS if name in records[0]), None)
        if prediction is None:
            fields = ", ".join(records[0])
            raise UsageError(f"Name the field with the predictions: --prediction. The first record has {fields}.")
    metric = metric or _METRICS.get(prediction)
    if metric is None:
        raise UsageError(f"Give --metric rouge or --metric accuracy for the field {prediction!r}.")
    predictions = texts_of(records, prediction) if metric == "accuracy" else column(records, prediction, str)
    return compare(predictions, references_of(records, reference, metric), metric)


def _load(name: str, model: ModelOptions, generation: Mapping[str, Any], call: Mapping[str, Any]) -> "Task":
    from ..text import Classifier, Summarizer, TextGenerator, ZeroShotClassifier

    generating = {"summarize": Summarizer, "generate": TextGenerator}
    labelling = {"classify": Classifier, "zero-shot": ZeroShotClassifier}
    needed = {"zero-shot": "labels"}.get(name)
    allowed = {"zero-shot": "labels", "generate": "choices"}.get(name)
    if needed is not None and needed not in call:
        raise UsageError(f"--task {name} needs --{needed}.")
    if others := call.keys() - {allowed}:
        raise UsageError(f"--{min(others)} is not an option of --task {name}.")
    if generation and name in labelling:
        raise UsageError(f"--task {name} generates nothing: leave the options of generation out.")
    keep_programs(model.cache_dir)
    if name in labelling:
        return load_task(labelling[name], model.model, model.settings)
    task = load_task(generating[name], model.model, model.settings, **generation)
    check_generation(task, task.generation_options)
    return task


def _print(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json_library.dumps(result, indent=2))
        return
    print(f"{'records':12}{result['num_records']}")
    for name, value in result.items():
        if isinstance(value, dict):
            shown = value.get("fmeasure", value)  # of ROUGE, the number that papers give
            print(f"{name:12}{shown['mean']:.2%} (95%: {shown['low']:.2%} to {shown['high']:.2%})")

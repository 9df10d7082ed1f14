"""`evaluate`: the results of a task over records, compared with their references."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from beartype import beartype

from ..lazy_beartype import CONF
from .classifier import Classifier
from .metrics import AccuracyOutput, RougeOutput, accuracy, rouge
from .summarizer import Summarizer
from .text_generator import TextGenerator
from .zero_shot_classifier import ZeroShotClassifier


Record = Mapping[str, Any]
Metric = Literal["rouge", "accuracy"]
Task = Summarizer | TextGenerator | Classifier | ZeroShotClassifier
Value = TypeVar("Value")


@beartype(conf=CONF)
def evaluate(
    task: Task,
    records: Sequence[Record],
    *,
    field: str = "text",
    pair: str | None = None,
    reference: str = "reference",
    metric: Metric | None = None,
    **options: Any,
) -> RougeOutput | AccuracyOutput:
    """Run a task over records, and compare its results with their references.

    Args:
        task: A `Summarizer`, `TextGenerator`, `Classifier` or `ZeroShotClassifier`.
        records: Dicts with the fields that the next arguments name.
        field: The field with the text.
        pair: For a `Classifier`, the field with the second text.
        reference: The field with the right text or label; for ROUGE, it may hold a list of texts.
        metric: `"rouge"` or `"accuracy"`; by default accuracy for labels and `choices`, and ROUGE for other texts.
        **options: For the call of the task: `labels`, `choices`, `num_beams`, ...

    Returns:
        As [`rouge`][bart_eqx.text.rouge] or [`accuracy`][bart_eqx.text.accuracy].

    Raises:
        TypeError: if a `ZeroShotClassifier` is given no `labels`.
        ValueError: if there are no records, one lacks a field, or a reference is not one of the task's labels; and as
            the task and the metric do.
    """
    if not records:
        raise ValueError("There are no records to evaluate.")
    if pair is not None:
        options["pair"] = column(records, pair, str)
    texts = column(records, field, str)
    labels = _labels(task, options)
    metric = metric or ("rouge" if labels is None else "accuracy")
    references = references_of(records, reference, metric)
    if labels is not None and (unknown := sorted(set(references) - labels)):
        raise ValueError(
            f"{reference!r} must be one of the task's labels: {', '.join(sorted(labels)[:10])}. Got "
            f"{', '.join(unknown[:5])}. Labels are compared by name."
        )
    return compare(_predict(task, texts, options), references, metric)


def references_of(records: Sequence[Record], name: str, metric: Metric) -> list[Any]:
    """The references of all records: texts and labels, or for ROUGE texts and lists of texts."""
    return texts_of(records, name) if metric == "accuracy" else column(records, name, (str, list))


def texts_of(records: Sequence[Record], name: str) -> list[str]:
    """A field of all records: texts, or labels that are integers."""
    return [str(value) for value in column(records, name, (str, int))]


def compare(predictions: Sequence[str], references: Sequence[Any], metric: Metric) -> RougeOutput | AccuracyOutput:
    """By either metric, with its defaults."""
    return rouge(predictions, references) if metric == "rouge" else accuracy(predictions, references)


def column(records: Sequence[Record], name: str, kind: type[Value] | tuple[type[Value], ...]) -> list[Value]:
    """The values of one field.

    Raises:
        ValueError: if a record does not have it, or has a value of another type.
    """
    values: list[Value] = []
    for index, record in enumerate(records):
        if name not in record:
            raise ValueError(f"records[{index}] has no field {name!r}. Its fields are: {', '.join(map(str, record))}.")
        if not isinstance(record[name], kind):
            kinds = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(
                f"Field {name!r} must be {kinds}. records[{index}] has a {type(record[name]).__name__}, "
                f"{record[name]!r:.80}."
            )
        values.append(record[name])
    return values


def _labels(task: Task, options: Mapping[str, Any]) -> set[str] | None:
    """The labels of a task; `None` if it generates texts freely."""
    match task:
        case Classifier():
            return set(task.model.config.id2label)
        case ZeroShotClassifier():
            if "labels" not in options:
                raise TypeError("ZeroShotClassifier needs `labels`, a list of strings.")
            each = [[own] if isinstance(own, str) else own for own in options["labels"]]
            return {label for own in each for label in own}
        case TextGenerator() if "choices" in options:
            return set(options["choices"])
        case _:
            return None


def _predict(task: Task, texts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """The text, or the most probable label, for each text."""
    match task:
        case Summarizer():
            return [result.summary_text for result in task(texts, **options)]
        case TextGenerator():
            results = task(texts, **options)  # with `num_return_sequences`, lists
            return [(own[0] if isinstance(own, list) else own).generated_text for own in results]
        case Classifier() | ZeroShotClassifier():
            return [labels[0].label for labels in task(texts, **options)]

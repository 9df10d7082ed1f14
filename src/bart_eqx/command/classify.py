"""`bart-eqx classify` and `bart-eqx zero-shot`: labels of texts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..batch import Record, Run
from ..text.hypotheses import check_labels, check_template
from .errors import UsageError, as_options, refuse_blank
from .files import FileOptions
from .list_options import TextList
from .model_options import ModelOptions, load_task
from .run_job import run_job
from .tasks import Job, best_and_all, nonblank


_WRITES = ("label", "score", "results")


def classify(
    *texts: str,
    pair: str | None = None,
    pair_field: str | None = None,
    top_k: int | None = None,
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None,
    truncation: bool = True,
    model: ModelOptions,
    files: FileOptions | None = None,
) -> int:
    """Classify texts, or pairs of texts, with a model that was fine-tuned on such labels.

    As text, the most probable label of each. JSON has all labels with their scores.

    For example:

        bart-eqx classify "a text" -m ./my-classifier
        bart-eqx classify pairs.jsonl -o out.jsonl -m bart-large-mnli --field premise --pair-field hypothesis

    Args:
        texts: The texts; or one file, with a text or a JSON object on each line; or nothing, to read standard input.
        pair: The second text of every pair.
        pair_field: The field of the second text.
        top_k: The number of labels; by default all.
        function_to_apply: From logits to scores; by default that of the checkpoint.
        truncation: Drop the end of a text that the model has no positions for (--no-truncation makes it an error).
    """
    refuse_blank(pair=pair)
    if pair is not None and pair_field is not None:
        raise UsageError("Give --pair or --pair-field, not both.")
    if top_k is not None and top_k < 1:
        raise UsageError(f"--top-k must be at least 1. Got {top_k}.")
    options = dict(
        pair=pair,
        has_pairs=pair_field is not None,
        function_to_apply=function_to_apply,
        top_k=top_k,
        truncation=truncation,
    )
    reads = {"text": nonblank("text")} | ({} if pair_field is None else {"pair": nonblank(pair_field)})
    job = Job("classify", model, options, reads, _WRITES, lambda result: result["label"])
    return run_job(job, texts, files or FileOptions())


def zero_shot(
    *texts: str,
    labels: TextList = None,
    labels_field: str | None = None,
    multi_label: Annotated[bool, Parameter(negative="")] = False,
    hypothesis_template: str = "This example is {}.",
    truncation: bool = True,
    model: ModelOptions,
    files: FileOptions | None = None,
) -> int:
    """Find which of the given labels hold for each text, with a model of natural language inference.

    The model need not be trained on the labels: each becomes a hypothesis, and the model says whether the text entails
    it.

    As text, the most probable label of each. JSON has all labels with their scores.

    For example:

        bart-eqx zero-shot "The Lakers win again" -m bart-large-mnli --labels sport,politics,music
        bart-eqx zero-shot in.jsonl -o out.jsonl -m bart-large-mnli --labels @labels.txt --multi-label
        bart-eqx zero-shot in.jsonl -o out.jsonl -m bart-large-mnli --labels-field candidates

    Args:
        texts: The texts; or one file, with a text or a JSON object on each line; or nothing, to read standard input.
        labels: The labels: separated by commas, a JSON list, or @FILE with one on each line.
        labels_field: The field with each record's own labels, a list.
        multi_label: Any number of labels may hold: each has a probability of its own.
        hypothesis_template: A sentence with {} for the label.
        truncation: Drop the end of a text that the model has no positions for (--no-truncation makes it an error).
    """
    if (labels is None) == (labels_field is None):
        raise UsageError("Give the labels: --labels A,B,... for all texts, or --labels-field for those of each record.")
    try:
        check_template(hypothesis_template)
        if labels is not None:
            check_labels(labels)
    except ValueError as error:
        raise UsageError(as_options(str(error), frozenset({"hypothesis_template"}))) from None
    call = dict(multi_label=multi_label, hypothesis_template=hypothesis_template, truncation=truncation)
    reads = {"text": nonblank("text")} | ({} if labels_field is None else {"labels": nonblank(labels_field, "strings")})
    options = dict(labels=labels, call=call)
    job = Job("zero-shot", model, options, reads, _WRITES, lambda result: result["label"])
    return run_job(job, texts, files or FileOptions())


@dataclasses.dataclass(frozen=True)
class Classes:
    """A `Classifier` over records."""

    task: Any
    options: Mapping[str, Any]

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        texts = [record.inputs["text"] for record in records]
        pairs = None
        if self.options["has_pairs"]:
            pairs = [record.inputs["pair"] for record in records]
        elif self.options["pair"] is not None:
            pairs = [self.options["pair"]] * len(texts)
        truncation = "longest_first" if self.options["truncation"] else False
        return [
            best_and_all(each) for each in self.task(texts, pairs, top_k=self.options["top_k"], truncation=truncation)
        ]


@dataclasses.dataclass(frozen=True)
class ZeroShotClasses:
    """A `ZeroShotClassifier` over records."""

    task: Any
    options: Mapping[str, Any]

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        texts = [record.inputs["text"] for record in records]
        same = self.options["labels"]
        labels = [record.inputs["labels"] for record in records] if same is None else same
        return [best_and_all(each) for each in self.task(texts, labels, **self.options["call"])]


def load_classifier(source: str, options: Mapping[str, Any]) -> Run:
    from ..text import Classifier

    function = options["function_to_apply"]
    chosen = {} if function is None else dict(function_to_apply=function)
    return Classes(load_task(Classifier, source, options["model"], **chosen), options)


def load_zero_shot(source: str, options: Mapping[str, Any]) -> Run:
    from ..text import ZeroShotClassifier

    return ZeroShotClasses(load_task(ZeroShotClassifier, source, options["model"]), options)

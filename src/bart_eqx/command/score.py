"""`bart-eqx score`: how probable a target is, given a source."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..batch import Record, Run
from .errors import UsageError, refuse_blank
from .files import FileOptions
from .model_options import ModelOptions, load_task
from .run_job import run_job
from .tasks import Job, nonblank


def score(
    *texts: str,
    target: str | None = None,
    target_field: str = "target",
    targets_field: str | None = None,
    agg: Literal["mean", "max"] = "mean",
    truncation: bool = True,
    model: ModelOptions,
    files: FileOptions | None = None,
) -> int:
    """Score targets given their sources, with a model such as bart-large-cnn: BARTScore, the mean log-probability.

    A document as the source and its summary as the target is faithfulness; a reference and a hypothesis precision; a
    hypothesis and a reference recall. Scores are negative for identical texts too.

    For example:

        bart-eqx score "a document" --target "its summary" -m bart-large-cnn
        bart-eqx score in.jsonl -o out.jsonl -m bart-large-cnn --field document --target-field summary
        bart-eqx score in.jsonl -o out.jsonl -m bart-large-cnn --field summary --targets-field references --agg max

    Args:
        texts: The sources; or one file, with a text or a JSON object on each line; or nothing, to read standard input.
        target: The target of every source. Without it, each record has its own.
        target_field: The field of the target.
        targets_field: The field of several targets, a list, whose scores are aggregated.
        agg: The mean of their scores, or the largest.
        truncation: Drop the end of a text that the model has no positions for (--no-truncation makes it an error).
    """
    refuse_blank(target=target)
    if target is not None and targets_field is not None:
        raise UsageError("Give --target or --targets-field, not both.")
    if agg == "max" and targets_field is None:
        raise UsageError("--agg is for several targets of a source: --targets-field.")
    if targets_field is not None:
        reads = {"source": nonblank("source"), "targets": nonblank(targets_field, "strings")}
    else:
        reads = {"source": nonblank("source")} | ({"target": nonblank(target_field)} if target is None else {})
    options = dict(target=target, several=targets_field is not None, agg=agg, truncation=truncation)
    writes = ("score",) if targets_field is not None else ("score", "sum", "token_scores", "tokens")
    job = Job("score", model, options, reads, writes, lambda result: repr(result["score"]))
    return run_job(job, texts, files or FileOptions())


@dataclasses.dataclass(frozen=True)
class Scores:
    """A `Scorer` over records."""

    task: Any
    options: Mapping[str, Any]

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        sources = [record.inputs["source"] for record in records]
        truncation = self.options["truncation"]
        if self.options["several"]:
            targets = [record.inputs["targets"] for record in records]
            scores = self.task.multi_ref_score(sources, targets, agg=self.options["agg"], truncation=truncation)
            return [{"score": value} for value in scores]
        same = self.options["target"]
        targets = [record.inputs["target"] if same is None else same for record in records]
        return [dataclasses.asdict(each) for each in self.task(sources, targets, truncation=truncation)]


def load_scorer(source: str, options: Mapping[str, Any]) -> Run:
    from ..text import Scorer

    return Scores(load_task(Scorer, source, options["model"]), options)

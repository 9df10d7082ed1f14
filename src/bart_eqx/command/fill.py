"""`bart-eqx fill`: tokens in place of `<mask>`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from ..batch import Record, Run
from .errors import UsageError, as_options, one_line
from .files import FileOptions
from .generation_options import SearchOptions, TokenOptions, options_of
from .list_options import TokenList
from .model_options import ModelOptions, check_generation, load_task
from .run_job import run_job
from .tasks import Job, best_and_all, nonblank


def fill(
    *texts: str,
    infill: Annotated[bool, Parameter(negative="")] = False,
    top_k: int | None = None,
    targets: TokenList = None,
    model: ModelOptions,
    files: FileOptions | None = None,
    search: SearchOptions | None = None,
    tokens: TokenOptions | None = None,
) -> int:
    """Fill <mask> in texts, with a model such as bart-base or bart-large, before fine-tuning.

    By default the most probable single tokens for each mask. With --infill the model generates the whole text by beam
    search, with any number of tokens for a mask; the options of search are for that.

    As text: the text with its mask filled by the best token; for several masks, the best tokens, separated by tabs.

    For example:

        bart-eqx fill "UN Chief Says There Is No <mask> in Syria" -m bart-base
        bart-eqx fill "UN Chief Says There Is No <mask> in Syria" -m bart-base --to jsonl --targets " war, peace"
        bart-eqx fill in.jsonl -o out.jsonl -m bart-large --infill --beams 8

    Args:
        texts: The texts; or one file, with a text or a JSON object on each line; or nothing, to read standard input.
        infill: Any number of tokens for a mask, or none.
        top_k: The number of tokens for each mask, by default 5; with --infill the number of texts, by default 1.
        targets: The only tokens to consider: separated by commas, a JSON list, or @FILE with one on each line. Within a
            sentence, a word starts with its space.
    """
    generation = options_of(search, tokens)
    if not infill and generation:
        raise UsageError("Options of search and tokens are for --infill: single tokens are found without a search.")
    if infill and targets is not None:
        raise UsageError("--targets is for single tokens, and not for --infill.")
    top_k = (1 if infill else 5) if top_k is None else top_k
    if top_k < 1:
        raise UsageError(f"--top-k must be at least 1. Got {top_k}.")
    options = dict(infill=infill, top_k=top_k, targets=targets, generation=generation)
    writes = ("sequence", "score", "spans") if infill else ("score", "sequence", "token", "token_str")
    job = Job("fill", model, options, {"text": nonblank("text")}, (*writes, "results"), _text)
    return run_job(job, texts, files or FileOptions())


def _text(result: Mapping[str, Any]) -> str:
    if "sequence" in result:
        return result["sequence"]
    return "\t".join(tokens[0]["token_str"] for tokens in result["results"])


@dataclasses.dataclass(frozen=True)
class FilledMasks:
    """A `MaskFiller` over records."""

    task: Any
    options: Mapping[str, Any]

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        texts = [record.inputs["text"] for record in records]
        top_k = self.options["top_k"]
        if self.options["infill"]:
            return [best_and_all(each) for each in self.task.infill(texts, top_k=top_k, **self.options["generation"])]
        return [_fields(each) for each in self.task(texts, top_k=top_k, targets=self.options["targets"])]


def _fields(elements: list[Any]) -> dict[str, Any]:
    if isinstance(elements[0], list):  # several masks
        return {"results": [[dataclasses.asdict(element) for element in of_mask] for of_mask in elements]}
    return best_and_all(elements)


def load_filler(source: str, options: Mapping[str, Any]) -> Run:
    from ..text import MaskFiller

    task = load_task(MaskFiller, source, options["model"])
    if options["targets"] is not None:
        try:
            task.target_ids(options["targets"])
        except ValueError as error:
            raise UsageError(as_options(one_line(error), frozenset({"targets"}))) from None
    if options["infill"]:
        beams = max(4, options["top_k"], task.model.generation_config.num_beams)
        check_generation(task, dict(num_beams=beams, num_return_sequences=options["top_k"]) | options["generation"])
    return FilledMasks(task, options)

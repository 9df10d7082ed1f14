"""`bart-eqx embed`: a vector for each text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..batch import Record, Run
from .files import FileOptions
from .model_options import ModelOptions, load_task
from .run_job import run_job
from .tasks import Job, nonblank


def embed(
    *texts: str,
    pooling: Literal["mean", "last"] = "mean",
    normalize_embeddings: Annotated[bool, Parameter(negative="")] = False,
    truncation: bool = True,
    model: ModelOptions,
    files: FileOptions | None = None,
) -> int:
    """Compute a vector for each text.

    BART was not trained so that near vectors mean near texts. These are features for a classifier of your own.

    As text, a vector on each line, its numbers separated by spaces.

    For example:

        bart-eqx embed "a text" -m bart-base
        bart-eqx embed in.jsonl -o out.jsonl -m bart-base --normalize-embeddings

    Args:
        texts: The texts; or one file, with a text or a JSON object on each line; or nothing, to read standard input.
        pooling: The mean of the encoder's states, or the decoder's state at the last token, which BART's classifiers
            read.
        normalize_embeddings: Scale each vector to length 1.
        truncation: Drop the end of a text that the model has no positions for (--no-truncation makes it an error).
    """
    options = dict(pooling=pooling, normalize_embeddings=normalize_embeddings, truncation=truncation)
    text = lambda result: " ".join(map(repr, result["embedding"]))
    job = Job("embed", model, options, {"text": nonblank("text")}, ("embedding",), text)
    return run_job(job, texts, files or FileOptions())


@dataclasses.dataclass(frozen=True)
class Vectors:
    """An `Embedder` over records."""

    task: Any
    options: Mapping[str, Any]

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        vectors = self.task(
            [record.inputs["text"] for record in records],
            normalize_embeddings=self.options["normalize_embeddings"],
            truncation=self.options["truncation"],
        )
        # The fewest digits that are the same float32.
        return [{"embedding": [float(str(number)) for number in vector]} for vector in vectors]


def load_embedder(source: str, options: Mapping[str, Any]) -> Run:
    from ..text import Embedder

    return Vectors(load_task(Embedder, source, options["model"], pooling=options["pooling"]), options)

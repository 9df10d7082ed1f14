"""`bart-eqx summarize` and `bart-eqx generate`: texts from texts."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..batch import Record, Run
from .errors import UsageError
from .files import FileOptions
from .generation_options import SamplingOptions, SearchOptions, TokenOptions, options_of
from .list_options import TextList
from .model_options import ModelOptions, check_generation, load_task
from .run_job import run_job
from .tasks import Job, best_and_all, nonblank


_SEEDS = 2**32  # that are different keys of JAX


def summarize(
    *texts: str,
    language: str = "en",
    truncation: bool | None = None,
    prefix: str | None = None,
    seed: int | None = None,
    model: ModelOptions,
    files: FileOptions | None = None,
    search: SearchOptions | None = None,
    sampling: SamplingOptions | None = None,
    tokens: TokenOptions | None = None,
) -> int:
    """Summarise texts of any length, with a model such as bart-large-cnn, bart-large-xsum or a distilbart.

    A text that is longer than the model's positions is cut at sentences, and the summaries of its parts are joined.
    To a terminal, the summary of one text appears as it is generated, if the search is greedy (--beams 1).

    For example:

        bart-eqx summarize "a long text ..." -m bart-large-cnn
        bart-eqx summarize article.txt --from document -m bart-large-cnn
        bart-eqx summarize in.jsonl -o out.jsonl -m bart-large-cnn --field article --beams 2

    Args:
        texts: The texts; or one file, with a text or a JSON object on each line; or nothing, to read standard input.
        language: The code of the texts' language, for finding the ends of sentences.
        truncation: Drop the end of a text that is too long instead of cutting it into parts (--no-truncation makes it
            an error).
        prefix: Put in front of each text; by default what the checkpoint says.
        seed: For --do-sample. The same number draws the same tokens, given the same input and options.
    """
    options = dict(
        call=dict(language=language, truncation=truncation),
        prefix=prefix,
        seed=seed,
        generation=options_of(search, sampling, tokens),
    )
    job = Job(
        "summarize", model, options, {"text": nonblank("text")}, ("summary_text", "chunks"), lambda r: r["summary_text"]
    )
    return run_job(job, texts, files or FileOptions(), stream=_stream)


def generate(
    *texts: str,
    choices: TextList = None,
    truncation: bool = True,
    prefix: str | None = None,
    seed: int | None = None,
    model: ModelOptions,
    files: FileOptions | None = None,
    search: SearchOptions | None = None,
    sampling: SamplingOptions | None = None,
    tokens: TokenOptions | None = None,
) -> int:
    """Generate a text from each text, by whatever task the model was fine-tuned on; or choose one of given texts.

    To a terminal, the result of one text appears as it is generated, if the search is greedy (--beams 1).

    For example:

        bart-eqx generate 40217 -m demo
        bart-eqx generate in.jsonl -o out.jsonl -m ./my-model --beams 4 --num-return-sequences 4
        bart-eqx generate "a mention in a text" -m ./my-linker --choices @titles.txt

    Args:
        texts: The texts; or one file, with a text or a JSON object on each line; or nothing, to read standard input.
        choices: The only texts that may be generated: separated by commas, a JSON list, or @FILE with one on each line.
        truncation: Drop the end of a text that the model has no positions for (--no-truncation makes it an error).
        prefix: Put in front of each text; by default what the checkpoint says.
        seed: For --do-sample. The same number draws the same tokens, given the same input and options.
    """
    options = dict(
        call=dict(choices=choices, truncation=truncation),
        prefix=prefix,
        seed=seed,
        generation=options_of(search, sampling, tokens),
    )
    writes = ("generated_text", "score", "results")
    job = Job("generate", model, options, {"text": nonblank("text")}, writes, lambda r: r["generated_text"])
    return run_job(job, texts, files or FileOptions(), stream=_stream)


@dataclasses.dataclass(frozen=True)
class GeneratedTexts:
    """A task that generates, over records.

    Args:
        task: A `Summarizer` or `TextGenerator`.
        call: Options of its calls.
        key: For sampling.
    """

    task: Any
    call: Mapping[str, Any]
    key: Any

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        texts = [record.inputs["text"] for record in records]
        outputs = self.task(texts, **self.call, **self.drawing(records[0].line))
        return [best_and_all(each) if isinstance(each, list) else dataclasses.asdict(each) for each in outputs]

    def drawing(self, line: int) -> dict[str, Any]:
        """The key of records that are computed together, made from the line of the first: parts differ."""
        import jax

        return {} if self.key is None else dict(key=jax.random.fold_in(self.key, line))


def load_summarizer(source: str, options: Mapping[str, Any]) -> Run:
    from ..text import Summarizer

    return _load(Summarizer, source, options)


def load_generator(source: str, options: Mapping[str, Any]) -> Run:
    from ..text import TextGenerator

    return _load(TextGenerator, source, options)


def _load(cls: Any, source: str, options: Mapping[str, Any]) -> GeneratedTexts:
    import jax

    if options["seed"] is not None and not 0 <= options["seed"] < _SEEDS:
        raise UsageError(f"--seed must be from 0 to {_SEEDS - 1}. Got {options['seed']}.")
    key = None if options["seed"] is None else jax.random.key(options["seed"])
    task = load_task(cls, source, options["model"], prefix=options["prefix"], **options["generation"])
    check_generation(task, task.generation_options | ({} if key is None else dict(key=key)))
    return GeneratedTexts(task, options["call"], key)


def _stream(run: Any, text: str) -> bool:
    """Write the result of a text as it is generated; `False` if the search cannot."""
    config = run.task.model.generation_config.override(**run.task.generation_options)
    if config.num_beams > 1 or config.num_return_sequences > 1 or config.prompt_lookup_num_tokens is not None:
        return False
    for piece in run.task.stream(text, **run.call, **run.drawing(1)):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return True

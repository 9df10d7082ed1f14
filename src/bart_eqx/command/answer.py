"""`bart-eqx answer`: the part of a text that answers a question."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from ..batch import Record, Run
from .errors import UsageError, refuse_blank
from .files import FileOptions
from .model_options import ModelOptions, load_task
from .run_job import run_job
from .tasks import Job, best_and_all, nonblank


def answer(
    *texts: str,
    question: str | None = None,
    question_field: str = "question",
    top_k: int = 1,
    max_answer_len: int = 15,
    max_seq_len: int | None = None,
    doc_stride: int | None = None,
    handle_impossible_answer: Annotated[bool, Parameter(negative="")] = False,
    align_to_words: bool = True,
    model: ModelOptions,
    files: FileOptions | None = None,
) -> int:
    """Answer questions from texts, with a model that was fine-tuned on a data set such as SQuAD.

    As text, the best answer from each text. JSON also has its place and its score.

    For example:

        bart-eqx answer "Anna came to Paris in 1891." --question "When?" -m ./my-reader
        bart-eqx answer squad.jsonl -o out.jsonl -m ./my-reader --field context --question-field question

    Args:
        texts: The texts with the answers; or one file, with a text or a JSON object on each line; or nothing, to read
            standard input.
        question: The question to every text. Without it, each record has its own.
        question_field: The field of the question.
        top_k: The most answers.
        max_answer_len: The maximum number of tokens in an answer.
        max_seq_len: The maximum number of tokens in a window with its question; by default 384, or what the model
            allows.
        doc_stride: The tokens that a window shares with the next; by default 128, or half a window.
        handle_impossible_answer: "No answer" is an answer too.
        align_to_words: Extend answers to whole words.
    """
    refuse_blank(question=question)
    if max_seq_len is not None and max_seq_len < 1:
        raise UsageError(f"--max-seq-len must be at least 1. Got {max_seq_len}.")
    if top_k < 1 or max_answer_len < 1:
        raise UsageError(f"--top-k and --max-answer-len must be at least 1. Got {top_k} and {max_answer_len}.")
    call = dict(
        top_k=top_k,
        max_answer_len=max_answer_len,
        max_seq_len=max_seq_len,
        doc_stride=doc_stride,
        handle_impossible_answer=handle_impossible_answer,
        align_to_words=align_to_words,
    )
    reads = {"context": nonblank("context")} | ({"question": nonblank(question_field)} if question is None else {})
    writes = ("answer", "start", "end", "score", *(() if top_k == 1 else ("results",)))
    job = Job("answer", model, dict(question=question, call=call), reads, writes, lambda result: result["answer"])
    return run_job(job, texts, files or FileOptions())


@dataclasses.dataclass(frozen=True)
class Answers:
    """A `QuestionAnswerer` over records."""

    task: Any
    options: Mapping[str, Any]

    def __call__(self, records: Sequence[Record]) -> list[Any]:
        same = self.options["question"]
        questions = [record.inputs["question"] if same is None else same for record in records]
        contexts = [record.inputs["context"] for record in records]
        outputs = self.task(question=questions, context=contexts, **self.options["call"])
        return [best_and_all(each) if isinstance(each, list) else dataclasses.asdict(each) for each in outputs]


def load_answerer(source: str, options: Mapping[str, Any]) -> Run:
    from ..text import QuestionAnswerer

    return Answers(load_task(QuestionAnswerer, source, options["model"]), options)

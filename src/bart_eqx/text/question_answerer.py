"""`QuestionAnswerer`: the part of a text that answers a question."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Float, Integer

from ..lazy_beartype import CONF
from ..model.question_answering import BartForQuestionAnswering
from ..typing import Array, HostArray
from .checks import quoted
from .classifier import softmax
from .task import AbstractTask
from .tokens import Part, Tokens


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringOutputElement:
    """An answer: `context[start:end]`.

    Args:
        answer: The text. Empty if the context has no answer.
        start: Its first character in the context.
        end: The first character after it.
        score: The product of the probabilities that it starts and ends there, within its window of the context; summed
            over places and windows with the same answer, as in transformers, so that it may exceed 1.
    """

    answer: str
    start: int
    end: int
    score: float


class QuestionAnswerer(AbstractTask):
    """Answers from a text, by a model that was fine-tuned on a data set such as SQuAD.

    A long context is read in windows that overlap. Scores and answers are those of transformers 4's pipeline.
    """

    heads = (BartForQuestionAnswering,)

    @beartype(conf=CONF)
    def __call__(
        self,
        *,
        question: str | Sequence[str],
        context: str | Sequence[str],
        top_k: int = 1,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Any:
        """The answer to a question; to a list of questions, an answer for each.

        Args:
            question: One question, or a list.
            context: The text with the answer; for a list of questions, a text for each.
            top_k: The most answers. With more than 1, a list of them, the best first.
            max_answer_len: The maximum number of tokens in an answer.
            max_seq_len: The maximum number of tokens in a window with its question; by default 384, or what the model
                allows.
            doc_stride: The tokens that a window shares with the next; by default 128, or half a window.
            handle_impossible_answer: "No answer" is an answer too, with the score of the first token, `<s>`, in the
                window where that is least.
            align_to_words: Extend answers to whole words.

        Raises:
            FloatingPointError: if logits are NaN or infinite.
            ValueError: if a question or a context is empty, a question leaves no room for its context, or `question`
                and `context` differ in length; and as `Tokenizer` does.
        """
        if isinstance(question, str) != isinstance(context, str):
            raise ValueError("`question` and `context` must be two strings, or two lists of strings.")
        questions = [question] if isinstance(question, str) else question
        contexts = [context] if isinstance(context, str) else context
        if top_k < 1 or max_answer_len < 1:
            raise ValueError(f"`top_k` and `max_answer_len` must be at least 1. Got {top_k} and {max_answer_len}.")
        if max_seq_len is not None and max_seq_len < 1:
            raise ValueError(f"`max_seq_len` must be at least 1. Got {max_seq_len}.")
        for asked, given in zip(questions, contexts, strict=False):
            for name, text, other in (("question", asked, given), ("context", given, asked)):
                if not text.strip():
                    raise ValueError(f"The {name} for {quoted(other)} is empty.")
        width = min(max_seq_len or 384, self.engine.max_length)
        stride = min(width // 2, 128) if doc_stride is None else doc_stride
        rows = self.engine.tokenizer.tokenize(questions, contexts)
        windows = [_windows(row, width, stride, asked) for row, asked in zip(rows, questions, strict=True)]
        flat = [window for own in windows for window in own]

        def run_batch(input_ids: np.ndarray, attention_mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
            logits = [np.asarray(logits, np.float64) for logits in _span_logits(self.model, input_ids, attention_mask)]
            if not all(np.isfinite(each).all() for each in logits):
                raise FloatingPointError("The logits of an answer are NaN or infinite. Are the weights sound?")
            return list(zip(*logits, strict=True))

        logits = iter(self.engine.map(run_batch, flat, label="answering"))
        results = []
        for text, own in zip(contexts, windows, strict=True):
            answers: list[QuestionAnsweringOutputElement] = []
            null = 1.0
            for window in own:
                null = min(
                    null,
                    _add_answers(
                        answers,
                        text,
                        window,
                        *next(logits),
                        count=2 * top_k + 10 if align_to_words else top_k,
                        max_answer_len=max_answer_len,
                        align_to_words=align_to_words,
                    ),
                )
            if handle_impossible_answer:
                answers.append(QuestionAnsweringOutputElement("", 0, 0, null))
            answers.sort(key=lambda answer: -answer.score)
            results.append(answers[0] if top_k == 1 else answers[:top_k])
        return results[0] if isinstance(question, str) else results


def _windows(row: Tokens, width: int, stride: int, asked: str) -> list[Tokens]:
    """The question with each window of its context; neighbours share `stride` tokens."""
    question, context = row.parts
    room = width - row.frame.num_tokens - len(question)
    if room < 1:
        raise ValueError(
            f"The question {quoted(asked)} has {len(question)} tokens, and leaves its context no room in {width}."
        )
    if not 0 <= stride < room:
        raise ValueError(
            f"`doc_stride` must be less than the {room} tokens that the question leaves for a window. Got {stride}."
        )
    starts = range(0, max(len(context) - room, 0) + room - stride, room - stride)
    parts = [Part(context.encoding, start, min(start + room, len(context))) for start in starts]
    return [dataclasses.replace(row, parts=(question, part)) for part in parts]


def _add_answers(
    answers: list[QuestionAnsweringOutputElement],
    text: str,
    window: Tokens,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    *,
    count: int,
    max_answer_len: int,
    align_to_words: bool,
) -> float:
    """Add the `count` best answers of a window, or their scores to known answers. Returns the score of `<s>`."""
    sequence_ids = window.sequence_ids
    allowed = sequence_ids == 1
    allowed[0] = True  # `<s>`, where models put what has no answer
    starts, ends = (softmax(np.where(allowed, logits[: len(window)], -np.inf)) for logits in (start_logits, end_logits))
    null = float(starts[0] * ends[0])
    starts[0] = ends[0] = 0
    scores = np.tril(np.triu(starts[:, None] * ends), max_answer_len - 1)
    best = np.argsort(-scores, axis=None, kind="stable")[:count]
    context, first = window.parts[1], int(np.argmax(sequence_ids == 1))
    offsets = context.offsets
    words = context.encoding.word_ids[context.start : context.stop]
    for start, end in zip(*np.unravel_index(best, scores.shape), strict=True):
        if scores[start, end] == 0:  # outside of the context
            break
        left, right = int(start) - first, int(end) - first
        if align_to_words:
            while left > 0 and words[left - 1] == words[left]:
                left -= 1
            while right + 1 < len(words) and words[right + 1] == words[right]:
                right += 1
        span = int(offsets[left, 0]), int(offsets[right, 1])
        _add(answers, QuestionAnsweringOutputElement(text[slice(*span)], *span, float(scores[start, end])))
    return null


def _add(answers: list[QuestionAnsweringOutputElement], new: QuestionAnsweringOutputElement) -> None:
    for index, known in enumerate(answers):
        if known.answer.lower() == new.answer.lower():
            answers[index] = dataclasses.replace(known, score=known.score + new.score)
            return
    answers.append(new)


@eqx.filter_jit
def _span_logits(
    model: BartForQuestionAnswering,
    input_ids: Integer[HostArray, "rows src"],
    attention_mask: Integer[HostArray, "rows src"],
) -> tuple[Float[Array, "rows src"], Float[Array, "rows src"]]:
    output = model(input_ids, attention_mask)
    return output.start_logits.astype(jnp.float32), output.end_logits.astype(jnp.float32)

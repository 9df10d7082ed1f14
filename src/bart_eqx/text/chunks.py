"""Cutting a long text into parts that fit a model: at sentences where possible, and counted in tokens."""

import dataclasses
import importlib
import itertools
from collections.abc import Callable, Sequence
from types import ModuleType

from .tokenizer import Tokenizer


_MARGIN = 8  # tokens: the splitter's own count differs by the special tokens, and by what a cut changes


@dataclasses.dataclass(frozen=True)
class Span:
    """The characters `start` to `end` of a text."""

    start: int
    end: int


def chunks_of(text: str, tokenizer: Tokenizer, max_length: int, *, prefix: str, language: str) -> list[Span]:
    """Cut a text that is too long into parts of similar size, each of at most `max_length` tokens.

    Args:
        text: The text. The parts cover it, in order, but for white space between them.
        tokenizer: Counts tokens.
        max_length: The maximum number of tokens in a part, special tokens and `prefix` included.
        prefix: Put in front of every part.
        language: The code of the text's language, for its abbreviations: `"en"`, `"de"`, ...

    Raises:
        ImportError: if the libraries of the extra `text` are not installed.
        ValueError: if `max_length` leaves no room for text.
    """

    def count(span: Span) -> int:
        return len(tokenizer.tokenize([text[span.start : span.end]], prefix=prefix)[0])

    total = count(Span(0, len(text)))
    frame = len(tokenizer.tokenize([""], prefix=prefix)[0])
    room = max_length - frame
    if room < 2 * _MARGIN:
        raise ValueError(f"A text of {total} tokens cannot be cut into parts of {max_length}: they are too short.")
    pieces = [
        piece
        for sentence in _sentences(text, language)
        for piece in ([sentence] if count(sentence) <= max_length else _pieces(text, sentence, tokenizer, room))
    ]
    sizes = [count(piece) - frame for piece in pieces]
    # The mean size of the fewest possible parts: all are about as full, and the last one is not a scrap.
    wanted = sum(sizes) / -(-sum(sizes) // room)
    spans: list[Span] = []
    first, size = 0, 0
    for index, own in enumerate(sizes):
        if index > first and (size + own > room or size >= wanted):
            spans += _fitting(pieces[first:index], count, max_length)
            first, size = index, 0
        size += own
    return spans + _fitting(pieces[first:], count, max_length)


def _fitting(pieces: Sequence[Span], count: Callable[[Span], int], max_length: int) -> list[Span]:
    """These pieces as one span; as two, should their tokens together be more than their sum."""
    span = Span(pieces[0].start, pieces[-1].end)
    if len(pieces) == 1 or count(span) <= max_length:
        return [span]
    middle = len(pieces) // 2
    return _fitting(pieces[:middle], count, max_length) + _fitting(pieces[middle:], count, max_length)


def _sentences(text: str, language: str) -> list[Span]:
    sentences = _library("sentencex").segment(language, text)
    ends = [0, *itertools.accumulate(map(len, sentences))]
    assert ends[-1] == len(text), "sentencex must return the whole text"
    spans = [Span(start, end) for start, end in itertools.pairwise(ends)]
    return [span for span in spans if text[span.start : span.end].strip()]


def _pieces(text: str, sentence: Span, tokenizer: Tokenizer, room: int) -> list[Span]:
    """A sentence that is too long itself: at clauses, words, and in the end between characters."""
    splitter = _library("semantic_text_splitter").TextSplitter.from_huggingface_tokenizer(
        tokenizer.backend_of_characters, room - _MARGIN
    )
    offset = sentence.start
    found = splitter.chunk_indices(text[sentence.start : sentence.end])
    return [Span(offset + start, offset + start + len(piece)) for start, piece in found]


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Texts longer than the model's positions are cut with {name}. Install it with `pip install sentencex "
            "semantic-text-splitter`, or drop the ends of texts with `truncation=True`."
        ) from error

"""`Summarizer`: a summary of a text of any length."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from beartype import beartype

from ..lazy_beartype import CONF
from .chunks import Span, chunks_of
from .generation import AbstractGenerativeTask, generate_texts
from .streaming import stream_text, strip_pieces
from .tokens import Tokens


@dataclasses.dataclass(frozen=True)
class SummarizedChunk:
    """A part of a source, and its summary.

    Args:
        start: Its first character in the source.
        end: The first character after it.
        num_tokens: Its tokens, special tokens and prefix included.
        truncated: Its tokens that the model did not read.
        summary_text: The summary of the part.
    """

    start: int
    end: int
    num_tokens: int
    truncated: int
    summary_text: str


@dataclasses.dataclass(frozen=True)
class SummarizationOutput:
    """A summary.

    Args:
        summary_text: The summaries of all parts, one after the other.
        chunks: The parts: one where the text fits.
    """

    summary_text: str
    chunks: tuple[SummarizedChunk, ...]


class Summarizer(AbstractGenerativeTask):
    """Summaries, from a model such as bart-large-cnn, bart-large-xsum or a distilbart.

    A text that is longer than the model's positions is cut at sentences into parts of similar length, and the summaries
    of the parts are joined. `prefix` and `task_specific_params.summarization` in config.json are the defaults.
    """

    @classmethod
    def options_of(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        return dict((fields.get("task_specific_params") or {}).get("summarization") or {})

    @overload
    def __call__(self, texts: str, **options: Any) -> SummarizationOutput: ...  # pyright: ignore[reportOverlappingOverload]

    @overload
    def __call__(self, texts: Sequence[str], **options: Any) -> list[SummarizationOutput]: ...

    @beartype(conf=CONF)
    def __call__(
        self, texts: str | Sequence[str], *, truncation: bool | None = None, language: str = "en", **options: Any
    ) -> SummarizationOutput | list[SummarizationOutput]:
        """Summarise.

        Args:
            texts: One text, or a list.
            truncation: What happens to a text that is longer than the model's positions: by default it is cut into
                parts; with `True` its end is dropped; with `False` it is an error.
            language: The code of the texts' language, for finding the ends of sentences.
            **options: Options of [`bart_eqx.generate`][]. They override those of the constructor.

        Raises:
            ImportError: if a text is too long, and the extra `text` is not installed.
            ValueError: as `Tokenizer` and `generate` do.
        """
        if isinstance(texts, str):
            return self([texts], truncation=truncation, language=language, **options)[0]
        rows, places = self._parts(texts, truncation, language)
        options = self.generation_options | options
        generated = generate_texts(self.engine, self.model, rows, options, label="summarizing")
        chunks: list[list[SummarizedChunk]] = [[] for _ in texts]
        for (index, span), row, output in zip(places, rows, generated, strict=True):
            chunks[index].append(
                SummarizedChunk(span.start, span.end, len(row), row.truncated, output.texts[0].strip())
            )
        return [SummarizationOutput(" ".join(chunk.summary_text for chunk in of), tuple(of)) for of in chunks]

    @beartype(conf=CONF)
    def stream(
        self, text: str, *, truncation: bool | None = None, language: str = "en", **options: Any
    ) -> Iterator[str]:
        """Summarise one text, and yield the summary piece by piece, as soon as its tokens are chosen.

        Joined, the pieces are the `summary_text` of a call. (The parts of a long text are sampled from other keys than
        in a call.) Greedy search and sampling only.

        Args:
            text: The text.
            truncation: As for a call.
            language: As for a call.
            **options: As for a call; `num_beams=1`, if the checkpoint's settings have more.

        Raises:
            FloatingPointError, ImportError, TypeError, ValueError: as a call and [`bart_eqx.stream`][] do.
        """
        rows, _ = self._parts([text], truncation, language)
        options = self.generation_options | options
        first = stream_text(self.engine, self.model, rows[0], options)  # wrong options are an error at the call
        return self._summaries(first, rows[1:], options)

    def _summaries(self, first: Iterator[str], rest: Sequence[Tokens], options: dict[str, Any]) -> Iterator[str]:
        yield from strip_pieces(first)
        for index, row in enumerate(rest, 1):
            yield " "
            yield from strip_pieces(stream_text(self.engine, self.model, row, options, index=index))

    def _parts(
        self, texts: Sequence[str], truncation: bool | None, language: str
    ) -> tuple[list[Tokens], list[tuple[int, Span]]]:
        """The tokens of every part; and for each part, the index of its text and its span there."""
        engine = self.engine
        if truncation is not None:
            rows = engine.tokenize(texts, prefix=self.prefix, truncation=truncation)
            return rows, [(index, Span(0, len(text))) for index, text in enumerate(texts)]
        places: list[tuple[int, Span]] = []
        rows = engine.tokenizer.tokenize(texts, prefix=self.prefix)
        for index, (text, row) in enumerate(zip(texts, rows, strict=True)):
            spans = [Span(0, len(text))]
            if len(row) > engine.max_length:
                spans = chunks_of(text, engine.tokenizer, engine.max_length, prefix=self.prefix, language=language)
            places += [(index, span) for span in spans]
        if len(places) > len(rows):
            rows = engine.tokenize([texts[index][span.start : span.end] for index, span in places], prefix=self.prefix)
        return rows, places

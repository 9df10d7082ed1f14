"""`TextGenerator`: a text generated from a text, by whatever task a model was fine-tuned on; or one of given texts."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from beartype import beartype

from ..lazy_beartype import CONF
from .generation import AbstractGenerativeTask, generate_texts
from .streaming import stream_text


@dataclasses.dataclass(frozen=True)
class Text2TextGenerationOutput:
    """A generated text.

    Args:
        generated_text: The text.
        score: Beam search: its score, as in `GenerationResult.scores`.
    """

    generated_text: str
    score: float | None


class TextGenerator(AbstractGenerativeTask):
    """Texts from texts: translations, questions, corrections, whatever the model was fine-tuned on."""

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, texts: str, *, choices: Sequence[str] | None = None, truncation: bool = True, **options: Any
    ) -> Any: ...

    @overload
    def __call__(
        self, texts: Sequence[str], *, choices: Sequence[str] | None = None, truncation: bool = True, **options: Any
    ) -> list[Any]: ...

    @beartype(conf=CONF)
    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        choices: Sequence[str] | None = None,
        truncation: bool = True,
        **options: Any,
    ) -> Any:
        """Generate.

        Args:
            texts: One source, or a list.
            choices: The only texts that may be generated: names, labels, titles. They are tokenised as whole targets.
            truncation: Drop the end of a source that the model has no positions for; `False` makes it an error.
            **options: Options of [`bart_eqx.generate`][]. They override those of the constructor.

        Returns:
            For a source a `Text2TextGenerationOutput`, or with `num_return_sequences` a list of them, best first; for a
            list of sources, a list of these.

        Raises:
            ValueError: as `Tokenizer` and `generate` do; if there are no choices, or one is longer than the model
                allows.
        """
        if isinstance(texts, str):
            return self([texts], choices=choices, truncation=truncation, **options)[0]
        options = self.generation_options | options
        if choices is not None:
            options = self._restricted_to(choices, options)
        rows = self.engine.tokenize(texts, prefix=self.prefix, truncation=truncation)
        results = []
        for output in generate_texts(self.engine, self.model, rows, options, label="generating"):
            scores = output.scores or [None] * len(output.texts)
            each = [Text2TextGenerationOutput(text, score) for text, score in zip(output.texts, scores, strict=True)]
            results.append(each[0] if len(each) == 1 else each)
        return results

    @beartype(conf=CONF)
    def stream(
        self, text: str, *, choices: Sequence[str] | None = None, truncation: bool = True, **options: Any
    ) -> Iterator[str]:
        """Generate from one source, and yield the text piece by piece, as soon as its tokens are chosen.

        Joined, the pieces are the `generated_text` of a call. Greedy search and sampling only.

        Args:
            text: The source.
            choices: As for a call.
            truncation: As for a call.
            **options: As for a call.

        Raises:
            FloatingPointError, TypeError, ValueError: as [`bart_eqx.stream`][] does.
        """
        options = self.generation_options | options
        if choices is not None:
            options = self._restricted_to(choices, options)
        (row,) = self.engine.tokenize([text], prefix=self.prefix, truncation=truncation)
        return stream_text(self.engine, self.model, row, options)

    def _restricted_to(self, choices: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
        """The options of `generate` under which only `choices` can be generated."""
        if isinstance(choices, str) or not choices:
            raise ValueError("`choices` must be a list of at least one string.")
        if "prefix_allowed_tokens" in options:
            raise ValueError("Give `choices` or `prefix_allowed_tokens`, not both.")
        rows = self.engine.tokenizer.tokenize(choices)
        # Without `</s>`, which the search adds. The 2 are the start token and that end token.
        sequences = [row.input_ids[: len(row) - len(row.frame.between[-1])] for row in rows]
        longest = max(map(len, sequences)) + 2
        if longest > self.engine.max_length:
            index = int(np.argmax([len(sequence) for sequence in sequences]))
            raise ValueError(f"choices[{index}] needs {longest} tokens, and the model has {self.engine.max_length}.")
        others = options.keys() - {"max_length", "max_new_tokens", "min_length", "min_new_tokens"}
        only = dict(prefix_allowed_tokens=sequences, max_length=longest, min_length=0)
        return {name: options[name] for name in others} | only

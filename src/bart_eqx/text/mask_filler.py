"""`MaskFiller`: fills `<mask>` with the most probable token, or with any number of tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Float, Integer

from ..lazy_beartype import CONF
from ..model.conditional_generation import BartForConditionalGeneration
from ..typing import Array, HostArray
from .checks import quoted
from .generation import generate_texts
from .task import AbstractTask
from .tokenizer import Tokenizer
from .tokens import Tokens


@dataclasses.dataclass(frozen=True)
class FillMaskOutputElement:
    """A token in place of a mask.

    Args:
        score: Its probability.
        sequence: The text with it; other masks stay.
        token: Its id.
        token_str: Its text; a space in front says that it starts a word.
    """

    score: float
    sequence: str
    token: int
    token_str: str


@dataclasses.dataclass(frozen=True)
class InfilledSpan:
    """The text in place of a mask: the characters `start` to `end` of the sequence."""

    start: int
    end: int
    text: str


@dataclasses.dataclass(frozen=True)
class InfillOutput:
    """A text that the model wrote for one with masks.

    Args:
        sequence: The whole text.
        score: The score of its beam.
        spans: The text in place of each mask. `None` where it cannot be told: if the sequence does not repeat the text
            around the masks, or two masks are adjacent.
    """

    sequence: str
    score: float | None
    spans: tuple[InfilledSpan, ...] | None


class MaskFiller(AbstractTask):
    """Fills masks in a text, as BART was pre-trained to: a model such as bart-base or bart-large, before fine-tuning.

    A call returns single tokens with their probabilities. `infill` generates the whole text, with any number of tokens
    for a mask. In this task alone, special tokens in a text (`<mask>`) are tokenised as such.
    """

    heads = (BartForConditionalGeneration,)
    loads = ("BartModel",)

    def __init__(self, model: BartForConditionalGeneration, tokenizer: Tokenizer, *, batch_tokens: int = 4096):
        """
        Args:
            model: The model.
            tokenizer: Its tokenizer.
            batch_tokens: The maximum number of tokens in a batch, padding included.

        Raises:
            ValueError: if the tokenizer has no mask, or the model has no row for it.
        """
        super().__init__(model, tokenizer, batch_tokens=batch_tokens)
        mask, size = tokenizer.mask_token_id, model.config.vocab_size
        if mask is None or tokenizer.mask_token is None:
            raise ValueError("The tokenizer has no mask token: this model cannot fill masks.")
        if mask >= size:
            raise ValueError(
                f"{tokenizer.mask_token} has the id {mask}, and the model's vocabulary has the ids 0 to {size - 1}, as "
                "in checkpoints that were fine-tuned without it: choose one that was not, such as bart-base."
            )
        self._mask, self._mask_token_id = tokenizer.mask_token, mask

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, texts: str, *, top_k: int = 5, targets: Sequence[str] | None = None
    ) -> list[Any]: ...

    @overload
    def __call__(
        self, texts: Sequence[str], *, top_k: int = 5, targets: Sequence[str] | None = None
    ) -> list[list[Any]]: ...

    @beartype(conf=CONF)
    def __call__(
        self, texts: str | Sequence[str], *, top_k: int = 5, targets: Sequence[str] | None = None
    ) -> list[Any]:
        """The most probable tokens for each mask.

        Args:
            texts: One text, or a list, each with at least one mask.
            top_k: The number of tokens for each mask.
            targets: The only tokens to consider. Within a sentence, a word starts with its space: `" war"`.

        Returns:
            For a text with one mask, a list of `FillMaskOutputElement`, the most probable first; for one with several,
            a list of such lists.

        Raises:
            ValueError: if a text has no mask or does not fit, or a target is not one token; and as `Tokenizer` does.
        """
        if isinstance(texts, str):
            return self([texts], top_k=top_k, targets=targets)[0]
        rows = self._rows(texts)
        wanted = None if targets is None else self.target_ids(targets)
        top_k = min(top_k, self.model.config.vocab_size if wanted is None else len(wanted))
        if top_k < 1:
            raise ValueError(f"`top_k` must be at least 1. Got {top_k}.")
        most = max((row.input_ids.count(self._mask_token_id) for row in rows), default=1)
        num_masks = 2 ** (most - 1).bit_length()  # few programs

        def run_batch(input_ids: np.ndarray, attention_mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
            arguments = dict(mask_token_id=self._mask_token_id, num_masks=num_masks, top_k=top_k)
            scores, tokens = _most_probable(self.model, input_ids, attention_mask, wanted, **arguments)
            return list(zip(np.asarray(scores), np.asarray(tokens), strict=True))

        found = self.engine.map(run_batch, rows, label="filling")
        return [self._elements(row, scores, tokens) for row, (scores, tokens) in zip(rows, found, strict=True)]

    @overload
    def infill(  # pyright: ignore[reportOverlappingOverload]
        self, texts: str, *, top_k: int = 1, **options: Any
    ) -> list[InfillOutput]: ...

    @overload
    def infill(self, texts: Sequence[str], *, top_k: int = 1, **options: Any) -> list[list[InfillOutput]]: ...

    @beartype(conf=CONF)
    def infill(self, texts: str | Sequence[str], *, top_k: int = 1, **options: Any) -> list[Any]:
        """Write each text with its masks filled, by beam search: any number of tokens for a mask, or none.

        Args:
            texts: One text, or a list, each with at least one mask.
            top_k: The number of sequences for each text.
            **options: Options of [`bart_eqx.generate`][]. By default there are at least 4 beams, and a sequence may be
                as long as the model allows.

        Returns:
            For each text its sequences, the best first.

        Raises:
            ValueError: if a text has no mask or does not fit; and as `Tokenizer` and `generate` do.
        """
        if isinstance(texts, str):
            return self.infill([texts], top_k=top_k, **options)[0]
        rows = self._rows(texts)
        beams = max(4, top_k, self.model.generation_config.num_beams)
        defaults = dict(num_beams=beams, num_return_sequences=top_k)
        if not {"max_length", "max_new_tokens"} & options.keys():
            defaults["max_length"] = self.engine.max_length
        generated = generate_texts(self.engine, self.model, rows, defaults | options, label="infilling")
        results = []
        for text, output in zip(texts, generated, strict=True):
            scores = output.scores or [None] * len(output.texts)
            results.append(
                [
                    InfillOutput(sequence, score, spans_of(text, sequence, self._mask))
                    for sequence, score in zip(output.texts, scores, strict=True)
                ]
            )
        return results

    def _rows(self, texts: Sequence[str]) -> list[Tokens]:
        rows = self.engine.tokenize(texts, truncation=False, split_special_tokens=False)
        for text, row in zip(texts, rows, strict=True):
            if self._mask_token_id not in row.input_ids:
                raise ValueError(f"Each text must contain {self._mask}. Got {quoted(text)}.")
        return rows

    def target_ids(self, targets: Sequence[str]) -> np.ndarray:
        """The ids of texts that are one token each, int32 `[targets]`.

        Args:
            targets: The texts. Within a sentence, a word starts with its space.

        Raises:
            ValueError: if one is not a single token; and as `Tokenizer` does.
        """
        ids = []
        for row, target in zip(self.engine.tokenizer.tokenize(targets), targets, strict=True):
            (part,) = row.parts
            if len(part) != 1:
                pieces = [self.engine.tokenizer.decode([token]) for token in part.ids]
                raise ValueError(f"Each of `targets` must be one token. Got {target!r}, which is {pieces}.")
            ids += part.ids
        return np.array(ids, np.int32)

    def _elements(self, row: Tokens, scores: np.ndarray, tokens: np.ndarray) -> list[Any]:
        decode = self.engine.tokenizer.decode
        frame = row.frame.between
        places = [place for place, token in enumerate(row.input_ids) if token == self._mask_token_id]
        each = []
        for place, own_scores, own_tokens in zip(places, scores, tokens, strict=False):
            elements = []
            for score, token in zip(own_scores.tolist(), own_tokens.tolist(), strict=True):
                filled = [*row.input_ids[:place], token, *row.input_ids[place + 1 :]]
                sequence = decode(filled[len(frame[0]) : len(filled) - len(frame[-1])], skip_special_tokens=False)
                text = decode([token], skip_special_tokens=False)
                elements.append(FillMaskOutputElement(score, str(sequence), token, str(text)))
            each.append(elements)
        return each[0] if len(each) == 1 else each


@eqx.filter_jit
def _most_probable(
    model: BartForConditionalGeneration,
    input_ids: Integer[HostArray, "rows src"],
    attention_mask: Integer[HostArray, "rows src"],
    targets: Integer[HostArray, " targets"] | None,
    *,
    mask_token_id: int,
    num_masks: int,
    top_k: int,
) -> tuple[Float[Array, "rows masks top_k"], Integer[Array, "rows masks top_k"]]:
    """Probabilities and ids of the tokens at the first `num_masks` masks of each row. A row with fewer masks is filled
    up with other places."""
    states = model.model(input_ids, attention_mask).last_hidden_state
    places = jnp.argsort(input_ids != mask_token_id, axis=-1, stable=True)[:, :num_masks]
    logits = model.lm_logits(jnp.take_along_axis(states, places[..., None], axis=-2))
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    if targets is None:
        return jax.lax.top_k(probabilities, top_k)
    scores, chosen = jax.lax.top_k(probabilities[..., targets], top_k)
    return scores, jnp.asarray(targets)[chosen]


def spans_of(text: str, sequence: str, mask: str) -> tuple[InfilledSpan, ...] | None:
    """The spans of `sequence` in place of the masks of `text`; `None` if it does not repeat the text around them.

    A mask takes the space in front of it, so that the text in its place may begin with one. The span leaves it out.
    """
    first, *middle, last = (piece.strip() for piece in text.split(mask))
    stripped = sequence.lstrip()
    if not all(middle) or not stripped.startswith(first) or not sequence.rstrip().endswith(last):
        return None
    position = len(sequence) - len(stripped) + len(first)
    end_of_all = len(sequence.rstrip()) - len(last)
    spans = []
    for piece in (*middle, None):
        end = end_of_all if piece is None else sequence.find(piece, position, end_of_all)
        if end < position:
            return None
        filled = sequence[position:end]
        start = position + len(filled) - len(filled.lstrip())
        spans.append(InfilledSpan(start, max(start, position + len(filled.rstrip())), filled.strip()))
        position = end + len(piece or "")
    return tuple(spans)

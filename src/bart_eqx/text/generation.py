"""What the tasks that generate texts share."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from ..generation.generate import generate
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.language_model import AbstractLanguageModel
from .engine import Engine
from .task import AbstractTask
from .tokenizer import Tokenizer
from .tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Generated:
    """The texts generated for one source.

    Args:
        texts: One, or `num_return_sequences`, best first.
        scores: Beam search: the score of each, as in `GenerationResult.scores`.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...] | None


class AbstractGenerativeTask(AbstractTask):
    """A task whose results are generated texts."""

    heads = (BartForConditionalGeneration,)
    loads = ("BartModel",)
    advice = MappingProxyType(
        {
            "BartForCausalLM": "a decoder alone has no source; to continue a prompt, tokenise it, leave out its last "
            "`</s>`, and call `bart_eqx.generate(model, input_ids)`, whose `sequences` the tokenizer decodes"
        }
    )

    def __init__(
        self,
        model: BartForConditionalGeneration,
        tokenizer: Tokenizer,
        *,
        batch_tokens: int = 4096,
        prefix: str | None = None,
        **generation_options: Any,
    ):
        """
        Args:
            model: The model.
            tokenizer: Its tokenizer.
            batch_tokens: The maximum number of tokens in a batch, padding included.
            prefix: Put in front of each source; by default `tokenizer.prefix`.
            **generation_options: Options of [`bart_eqx.generate`][]: `num_beams`, `max_length`, ...
        """
        super().__init__(model, tokenizer, batch_tokens=batch_tokens)
        self.prefix = tokenizer.prefix if prefix is None else prefix
        self.generation_options = generation_options


def generate_texts(
    engine: Engine, model: AbstractLanguageModel, rows: Sequence[Tokens], options: Mapping[str, Any], *, label: str
) -> list[Generated]:
    """Generate from each row.

    Args:
        engine: Makes the batches, and decodes.
        model: An encoder-decoder, or a decoder alone, whose prompts the rows are then.
        rows: The sources.
        options: Options of [`generate`][bart_eqx.generate]. Each batch draws from its own key, made from `key` and the
            number of the batch: samples depend on how the texts fall into batches.
        label: The label of the progress bar.

    Raises:
        FloatingPointError: if a token was chosen although its scores were NaN, infinite or all masked.
        TypeError, ValueError: as `generate` does.
    """
    batches = itertools.count()

    def run_batch(input_ids: np.ndarray, attention_mask: np.ndarray) -> list[Generated]:
        result = generate(model, input_ids, attention_mask, **with_own_key(options, next(batches)))
        if not bool(np.all(result.finite)):
            raise FloatingPointError(
                "A token was chosen although its scores were NaN, infinite or all masked. Are the weights sound, and "
                "does an option forbid every token?"
            )
        texts = engine.tokenizer.decode(np.asarray(result.sequences))
        each = len(texts) // len(input_ids)
        scores = None if result.scores is None else np.asarray(result.scores, np.float64).tolist()
        groups = [slice(start, start + each) for start in range(0, len(texts), each)]
        return [Generated(tuple(texts[of]), None if scores is None else tuple(scores[of])) for of in groups]

    return engine.map(run_batch, rows, label=label)


def with_own_key(options: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The options for one of several calls of `generate`, with a key that none of the others has."""
    key = options.get("key")
    if not isinstance(key, jax.Array):  # `generate` refuses what is not a key
        return {**options}
    return {**options, "key": jax.random.fold_in(key, index)}

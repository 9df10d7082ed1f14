"""`generate`: from a source to the tokens that the model writes about it."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, Integer

from ..generation_config import GenerationConfig
from ..model.checks import check_token_ids
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.masks import as_boolean
from ..typing import Array, HostArray, Mask
from .greedy import greedy_search


# What changes the tokens of a greedy search, or asks for another search, and is not there yet; with the value that
# leaves it off. Fields that only beams or sampling read are no concern of a greedy search.
_NOT_YET = {
    "do_sample": False,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
}


class GenerationResult(eqx.Module):
    """What `generate` returns."""

    sequences: Integer[Array, "*batch max_len"]
    """From the start token on; after `</s>`, padding."""
    lengths: Integer[Array, "*batch"]
    """Tokens before the padding: the start token and `</s>` count."""
    scores: Float[Array, "*batch"] | None = None
    """Of beam search; `None` where there are no beams."""


def generate(
    model: BartForConditionalGeneration,
    input_ids: Integer[HostArray, "*batch src"],
    attention_mask: Mask[HostArray, "*batch src"] | None = None,
    *,
    generation_config: GenerationConfig | None = None,
    **options: Any,
) -> GenerationResult:
    """Write, token by token, with the cache, in one compiled loop.

    The loop ends when every row has written `</s>`, or at `max_length`. It compiles once for each shape of the source
    and each set of options.

    Args:
        model: Any `BartForConditionalGeneration`.
        input_ids: The source.
        attention_mask: Zero, or False, at padding. By default, as in transformers' PyTorch, every `pad_token_id` of the
            source is taken for padding (unless it is `eos_token_id` as well).
        generation_config: By default `model.generation_config`, which came with the checkpoint.
        **options: Fields of `GenerationConfig`, which override it.

    Raises:
        TypeError: for an option that `GenerationConfig` does not have.
        ValueError: for an option that is not implemented, an id outside the vocabulary, or a source or a `max_length`
            for which the model has no positions.
    """
    config = dataclasses.replace(generation_config or model.generation_config, **options)
    asked = {name: getattr(config, name) for name in _NOT_YET}
    if refused := [f"{name}={value!r}" for name, value in asked.items() if value != _NOT_YET[name]]:
        remedy = ", ".join(f"{name}={off!r}" for name, off in _NOT_YET.items())
        raise ValueError(
            f"Greedy search is the only one so far. Got {', '.join(refused)}, from the call or from the checkpoint's "
            f"generation_config. Turn them off with generate(..., {remedy})."
        )
    input_ids = jnp.asarray(check_token_ids("input_ids", input_ids, model.config.vocab_size))
    if attention_mask is not None:
        mask = as_boolean(attention_mask)
    elif config.pad_token_id != config.eos_token_id:
        mask = input_ids != config.pad_token_id
    else:
        mask = jnp.ones(input_ids.shape, bool)
    sequences, lengths = greedy_search(model, input_ids, mask, config)
    return GenerationResult(sequences, lengths)

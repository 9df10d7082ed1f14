"""`GenerationResult`: what a search has found, in the caller's batch axes, without padding in front of a prompt."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer, Shaped

from ..migration import TransformersOutput
from ..model.outputs import CausalLMOutputWithCrossAttentions
from ..typing import Array
from .arguments import Arguments
from .decode_loop import SearchResult
from .processors.token_trie import PrefixTrie


class GenerationResult(eqx.Module, TransformersOutput):
    """What `generate` returns. A row is a sequence; the `num_return_sequences` of a source follow one another.

    A field is `None` where it was not requested, or where the search does not have it.

    `steps` are the tokens after the prompt. If a row's prompt has `prompt` slots, start token included, of which
    `padding` are padded, step `t` chose token `prompt - padding + t` of `sequences`.
    """

    sequences: Integer[Array, "*rows max_len"]
    """The prompt and the generated tokens; `pad_token_id` after the end."""
    lengths: Integer[Array, "*rows"]
    """Tokens before the padding, prompt and end included."""
    finite: Bool[Array, "*rows"]
    """False if a token was chosen although its scores were NaN, infinite or all masked, or if the sequence is not among
    `prefix_allowed_tokens`. Discard the sequence."""
    scores: Float[Array, "*rows"] | None = None
    """Beam search: the sum of the log-probabilities, divided by the generated length to the power `length_penalty`."""
    beam_indices: Integer[Array, "*rows steps"] | None = None
    """Beam search: for each token, the parent beam: its index in `step_scores` flattened to `[batch * num_beams, ...]`;
    -1 after the end."""
    step_scores: Float[Array, "*beams steps vocab"] | None = None
    """With `output_scores`: the processed scores of every step. In beam search they are log-probabilities."""
    step_logits: Float[Array, "*beams steps vocab"] | None = None
    """With `output_logits`: the model's logits at every step."""
    cross_attentions: tuple[Float[Array, "*rows heads steps src"] | None, ...] | None = None
    """With `output_attentions`: for each layer and step, the weights over the source."""
    decoder_attentions: tuple[Float[Array, "*rows heads steps slots"] | None, ...] | None = None
    """With `output_attentions`: for each layer and step, the weights over the slots of the sequence. The padding of a
    prompt comes first here, with weights of zero: slot `s` is token `s - padding` of `sequences`."""
    decoder_hidden_states: tuple[Float[Array, "*rows steps dim"], ...] | None = None
    """With `output_hidden_states`: the embedded input and the output of every layer, at each step."""
    model_calls: Integer[Array, "*rows"] | None = None
    """Prompt lookup: calls of the decoder. Greedy search makes one per token."""


def generation_result(
    searched: SearchResult, states: CausalLMOutputWithCrossAttentions | None, call: Arguments
) -> GenerationResult:
    """The result of one call.

    Args:
        searched: From the search.
        states: Attentions and hidden states of its sequences, where they were requested.
        call: The arguments.
    """
    result = _assemble(
        searched,
        states,
        call.allowed,
        call.ending.pad_token_id,
        call.inputs.padding,
        call.prompt_length,
        call.batch,
    )
    return _trimmed(result, call)


@eqx.filter_jit
def _assemble(
    searched: SearchResult,
    states: CausalLMOutputWithCrossAttentions | None,
    allowed: PrefixTrie | None,
    pad: Integer[Array, ""],
    padding: Integer[Array, "batch 1"] | None,
    prompt_length: int,
    batch: tuple[int, ...],
) -> GenerationResult:
    """The result in the caller's batch axes, with padding moved from the front to the end, and the states of the steps
    only."""
    tokens, lengths, finite = searched.tokens, searched.lengths, searched.finite
    if allowed is not None:
        finite = finite & allowed.contains(tokens, lengths)
    if padding is not None:
        tokens = jnp.take_along_axis(tokens, jnp.argsort(tokens < 0, axis=-1, stable=True), axis=-1)
        lengths = jnp.maximum(lengths - padding, 0)
    records, calls = searched.records, searched.model_calls
    of_steps: Callable[..., Any] = lambda layers: jax.tree.map(lambda x: x[..., prompt_length - 1 :, :], layers)
    result = GenerationResult(
        sequences=jnp.where(tokens < 0, pad, tokens),
        lengths=lengths,
        finite=finite,
        scores=searched.scores,
        beam_indices=searched.beam_indices,
        step_scores=None if records is None else records.scores,
        step_logits=None if records is None else records.logits,
        cross_attentions=None if states is None else of_steps(states.cross_attentions),
        decoder_attentions=None if states is None else of_steps(states.attentions),
        decoder_hidden_states=None if states is None else of_steps(states.hidden_states),
        model_calls=None if calls is None else calls[:, None],
    )
    return jax.tree.map(lambda x: with_batch_axes(x, batch), result)


def with_batch_axes(x: Shaped[Array, "batch n ..."], batch: tuple[int, ...]) -> Array:
    """`x` with the caller's batch axes, the last of them `n` times as long."""
    n = x.shape[1]
    if n == 1:
        return x.reshape(*batch, *x.shape[2:])
    return x.reshape(*batch[:-1], n * (batch[-1] if batch else 1), *x.shape[2:])


def _trimmed(result: GenerationResult, call: Arguments) -> GenerationResult:
    """Without the slots and the source tokens that `pad_to_multiple_of` added."""
    if call.buffer == call.max_length and call.source_length == call.padded_source_length:
        return result
    length, steps, src = call.max_length, call.max_length - call.prompt_length, call.source_length
    trim: Callable[..., Any] = lambda arrays, *slices: jax.tree.map(lambda x: x[..., *slices], arrays)
    return dataclasses.replace(
        result,
        sequences=trim(result.sequences, slice(length)),
        beam_indices=trim(result.beam_indices, slice(steps)),
        step_scores=trim(result.step_scores, slice(steps), slice(None)),
        step_logits=trim(result.step_logits, slice(steps), slice(None)),
        cross_attentions=trim(result.cross_attentions, slice(steps), slice(src or None)),
        decoder_attentions=trim(result.decoder_attentions, slice(steps), slice(length - 1)),
        decoder_hidden_states=trim(result.decoder_hidden_states, slice(steps), slice(None)),
    )

"""`generate`: from a source to the tokens that the model writes about it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..generation_config import GenerationConfig
from ..model.outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions
from ..typing import Array, HostArray, Mask
from .ancestral import ancestral_search
from .beam_rules import FlaxRules, LengthScale, PyTorchRules, ScorerRules
from .beam_search import beam_search
from .checks import Semantics
from .constrained_rules import ConstrainedRules
from .constraints import ForcedWords
from .feeding import Writer
from .operands import floats
from .plan import Plan, make_plan, with_batch_axes
from .prompt_lookup import prompt_lookup_search
from .rescoring import states_of
from .results import Found


class GenerationResult(eqx.Module):
    """What `generate` returns. A row is a sequence: `num_return_sequences` for each source stand one after the other.

    `None` is what was not asked for, or what the search does not have.
    """

    sequences: Integer[Array, "*rows max_len"]
    """The prompt and what was written; after the end, `pad_token_id`."""
    lengths: Integer[Array, "*rows"]
    """Tokens before the padding, prompt and end included."""
    finite: Bool[Array, "*rows"]
    """False where a token was chosen among scores that are NaN, or infinite: the sequence means nothing then."""
    scores: Float[Array, "*rows"] | None = None
    """Of beam search: the sum of the log-probabilities over a power of the tokens, `length_penalty`."""
    beam_indices: Integer[Array, "*rows steps"] | None = None
    """Of beam search: the beam, a row of `step_scores` (with all batch axes as one), that each token was chosen for; -1
    after the end."""
    step_scores: Float[Array, "*beams steps vocab"] | None = None
    """With `output_scores`: what the processors left of the scores (of beams: the log-probabilities) at every step."""
    step_logits: Float[Array, "*beams steps vocab"] | None = None
    """With `output_logits`: the model's own scores."""
    cross_attentions: tuple[Float[Array, "*rows heads steps src"] | None, ...] | None = None
    """With `output_attentions`, of every layer: the weights with which each token after the prompt was chosen."""
    decoder_attentions: tuple[Float[Array, "*rows heads steps slots"] | None, ...] | None = None
    decoder_hidden_states: tuple[Float[Array, "*rows steps dim"], ...] | None = None
    """With `output_hidden_states`: the embedded input and the output of every layer."""
    model_calls: Integer[Array, "*rows"] | None = None
    """Of prompt lookup: calls of the decoder. There would have been one for every token after the prompt."""


def generate(
    model: Writer,
    input_ids: Integer[HostArray, "*batch src"] | None = None,
    attention_mask: Mask[HostArray, "*batch src"] | None = None,
    *,
    encoder_outputs: BaseModelOutput | None = None,
    encoder_attention_mask: Mask[HostArray, "*batch encoder_src"] | None = None,
    decoder_input_ids: Integer[HostArray, "*batch prompt"] | None = None,
    decoder_attention_mask: Mask[HostArray, "*batch prompt"] | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: Sequence[Callable[..., Array]] = (),
    prefix_allowed_tokens: Sequence[Any] | None = None,
    semantics: Semantics = "pytorch",
    pad_to_multiple_of: int | None = None,
    key: PRNGKeyArray | None = None,
    **options: Any,
) -> GenerationResult:
    """Write, token by token, with the cache, in one compiled loop.

    Greedy search, sampling, beam search, sampled, diverse and constrained beams, or prompt lookup: as `do_sample`,
    `num_beams`, `num_beam_groups`, `force_words_ids` and `prompt_lookup_num_tokens` say. The options and what each does
    are in `docs/generation.md`.

    The loop ends when every row has ended, or at `max_length`. It compiles once for each shape and each set of options
    that are on; another temperature, penalty, bias or token id does not compile again, another `top_k` or n-gram size
    does, and another length does not within the same `pad_to_multiple_of`. A compilation is announced by the logger
    `bart_eqx.generation`.

    Args:
        model: Any `BartForConditionalGeneration` or `BartForCausalLM`.
        input_ids: The source; for a decoder alone the prompt, by default `bos_token_id`.
        attention_mask: Zero, or False, at its padding. By default, as in transformers' PyTorch, every `pad_token_id` is
            taken for padding (unless it ends sequences as well).
        encoder_outputs: From `model.encode`, which is then not run. `input_ids` may stand beside it, for the options
            that read the source's tokens.
        encoder_attention_mask: For a decoder alone, the mask of its `encoder_outputs`.
        decoder_input_ids: A prompt for each row, to be continued. The start token is put before it where no row has it;
            not inside `jax.jit`, where that cannot be seen.
        decoder_attention_mask: Zero, or False, at the prompts' padding, on whichever side. A row with padding is
            continued as it would be alone, and is returned without it.
        generation_config: By default `model.generation_config`, which came with the checkpoint. Another one counts as a
            whole, its token ids too: `model.generation_config.override(...)` makes one that keeps the model's.
        logits_processor: Functions `(logits, tokens, length) -> logits` as in `bart_eqx.generation.processors`, applied
            after the ones that options ask for and before those of sampling.
        prefix_allowed_tokens: Token sequences of which one must follow the prompt, or a set of such for each row.
        semantics: "pytorch" writes what transformers 5 writes with PyTorch; "flax" what 4.57's Flax loops wrote.
        pad_to_multiple_of: Round the source's length and the room for tokens up, so that other lengths find a compiled
            loop. The result is the same.
        key: For sampling. The same key draws the same tokens, and a row's draws do not depend on the other rows.
        **options: Fields of `GenerationConfig`, which override it.

    Raises:
        TypeError: for an option that transformers does not have either.
        ValueError: for an option that is not implemented, options that contradict each other, sampling without a key,
            an id outside the vocabulary, or lengths for which the model has no positions.
    """
    plan = make_plan(
        model,
        input_ids,
        attention_mask,
        encoder_outputs=encoder_outputs,
        encoder_attention_mask=encoder_attention_mask,
        decoder_input_ids=decoder_input_ids,
        decoder_attention_mask=decoder_attention_mask,
        generation_config=generation_config,
        logits_processor=logits_processor,
        prefix_allowed_tokens=prefix_allowed_tokens,
        semantics=semantics,
        pad_to_multiple_of=pad_to_multiple_of,
        key=key,
        **options,
    )
    found = _search(model, plan)
    states = None
    if plan.config.output_attentions or plan.config.output_hidden_states:
        states = states_of(
            model,
            plan.request,
            found.tokens,
            output_attentions=plan.config.output_attentions,
            output_hidden_states=plan.config.output_hidden_states,
        )
    result = _readable(found, states, plan.limits.pad, plan.request.padding, plan.prompt_length, plan.batch)
    return _cut(result, plan)


def _cut(result: GenerationResult, plan: Plan) -> GenerationResult:
    """Without the room that `pad_to_multiple_of` has made."""
    if plan.buffer == plan.max_length and plan.source_length == plan.padded_source_length:
        return result
    length, steps, src = plan.max_length, plan.max_length - plan.prompt_length, plan.source_length
    cut: Callable[..., Any] = lambda arrays, *slices: jax.tree.map(lambda x: x[..., *slices], arrays)
    return dataclasses.replace(
        result,
        sequences=cut(result.sequences, slice(length)),
        beam_indices=cut(result.beam_indices, slice(steps)),
        step_scores=cut(result.step_scores, slice(steps), slice(None)),
        step_logits=cut(result.step_logits, slice(steps), slice(None)),
        cross_attentions=cut(result.cross_attentions, slice(steps), slice(src)),
        decoder_attentions=cut(result.decoder_attentions, slice(steps), slice(length - 1)),
        decoder_hidden_states=cut(result.decoder_hidden_states, slice(steps), slice(None)),
    )


def _search(model: Writer, plan: Plan) -> Found:
    c = plan.config
    records = dict(output_scores=c.output_scores, output_logits=c.output_logits)
    if c.prompt_lookup_num_tokens is not None:
        if c.output_scores or c.output_logits:
            raise ValueError("Prompt lookup keeps no scores. Turn `output_scores`, `output_logits` or the lookup off.")
        return prompt_lookup_search(
            model,
            plan.request,
            plan.source,
            plan.processors,
            plan.limits,
            num_tokens=c.prompt_lookup_num_tokens,
            max_ngram=c.max_matching_ngram_size or 2,
            buffer=plan.buffer,
        )
    if c.num_beams == 1:
        return ancestral_search(
            model,
            plan.request,
            plan.processors,
            plan.choice,
            plan.limits,
            num_sequences=c.num_return_sequences,
            buffer=plan.buffer,
            **records,
        )
    scale = LengthScale(plan.limits.max_length, floats(c.length_penalty), plan.prompt_length, c.early_stopping)
    if c.force_words_ids is not None:
        rules = ConstrainedRules(scale, ForcedWords.from_ids(c.force_words_ids), c.num_return_sequences)
    elif c.num_beam_groups > 1:
        rules = ScorerRules(scale)
    elif plan.semantics == "flax":
        rules = FlaxRules(scale)
    else:
        rules = PyTorchRules(scale)
    return beam_search(
        model,
        plan.request,
        plan.processors,
        rules,
        plan.limits,
        num_beams=c.num_beams,
        num_groups=c.num_beam_groups,
        num_return_sequences=c.num_return_sequences,
        buffer=plan.buffer,
        key=plan.key if c.do_sample else None,
        **records,
    )


@eqx.filter_jit
def _readable(
    found: Found,
    states: CausalLMOutputWithCrossAttentions | None,
    pad: Integer[Array, ""],
    padding: Integer[Array, "batch 1"] | None,
    prompt_length: int,
    batch: tuple[int, ...],
) -> GenerationResult:
    """Padding out of the prompt and behind the end, of the states those that tokens were chosen with, and the caller's
    batch axes."""
    tokens, lengths = found.tokens, found.lengths
    if padding is not None:
        tokens = jnp.take_along_axis(tokens, jnp.argsort(tokens < 0, axis=-1, stable=True), axis=-1)
        lengths = jnp.maximum(lengths - padding, 0)
    records, calls = found.records, found.model_calls
    chosen: Callable[..., Any] = lambda layers: jax.tree.map(lambda x: x[..., prompt_length - 1 :, :], layers)
    result = GenerationResult(
        sequences=jnp.where(tokens < 0, pad, tokens),
        lengths=lengths,
        finite=found.finite,
        scores=found.scores,
        beam_indices=found.beam_indices,
        step_scores=None if records is None else records.scores,
        step_logits=None if records is None else records.logits,
        cross_attentions=None if states is None else chosen(states.cross_attentions),
        decoder_attentions=None if states is None else chosen(states.attentions),
        decoder_hidden_states=None if states is None else chosen(states.hidden_states),
        model_calls=None if calls is None else calls[:, None],
    )
    return jax.tree.map(lambda x: with_batch_axes(x, batch), result)

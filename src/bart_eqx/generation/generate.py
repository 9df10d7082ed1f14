"""`generate` and `stream`: from a source to the tokens that the model generates."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxtyping import Float, Integer, PRNGKeyArray

from ..generation_config import GenerationConfig
from ..model.language_model import AbstractLanguageModel
from ..model.outputs import BaseModelOutput
from ..typing import Array, HostArray, Mask
from .arguments import Arguments, validated
from .beam_rules import AbstractBeamRules, BeamSettings, FlaxRules, PyTorchRules, ScorerRules
from .beam_search import beam_search
from .constrained_beams import ConstrainedRules, ForcedWords
from .decode_loop import SearchResult
from .model_calls import teacher_forced
from .processors.scores import int_setting
from .prompt_lookup import prompt_lookup
from .request import Request, Semantics, checked_by_hand
from .result import GenerationResult, generation_result, with_batch_axes
from .sample import AbstractChoice, Draw, FlaxDraw, Greedy, sample, sample_steps


@checked_by_hand
def generate(
    model: AbstractLanguageModel,
    input_ids: Integer[HostArray, "*batch src"] | Float[HostArray, "*batch rows columns"] | None = None,
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
    """Generate tokens with a key-value cache, in one compiled loop.

    The search is greedy, sampling, beam search, sampled, diverse or constrained beams, or prompt lookup, depending on
    `do_sample`, `num_beams`, `num_beam_groups`, `force_words_ids` and `prompt_lookup_num_tokens`. Every option is
    explained in `docs/generation.md`.

    Inputs whose batch axes a `NamedSharding` spreads over several devices stay there: each device generates its rows,
    and the result is sharded in the same way. Rows may be on devices of other processes.

    The loop ends when every row has ended, or at `max_length`. It compiles once for each shape and each set of options
    that are on. A new temperature, penalty, bias or token id does not recompile; a new `top_k` or n-gram size does; and
    a new length does unless it falls into the same multiple of `pad_to_multiple_of`. The logger `bart_eqx.generation`
    announces every compilation.

    Args:
        model: A `BartForConditionalGeneration`, a `BartForCausalLM`, or any other `AbstractLanguageModel`.
        input_ids: The source: token ids, or features for a model whose `source_ndim` is 2. For a decoder alone, the
            prompt, by default `bos_token_id`.
        attention_mask: Zero, or False, at padding of `input_ids`. By default, as in transformers' PyTorch, every
            `pad_token_id` is padding (unless it also ends sequences).
        encoder_outputs: From `model.encode`, which is then not called. `input_ids` may be given as well, for options
            that read the source's tokens.
        encoder_attention_mask: For a decoder alone: zero, or False, at padding of `encoder_outputs`.
        decoder_input_ids: A prompt for each row, which is continued. `decoder_start_token_id` is prepended where no row
            begins with it; traced prompts are not changed.
        decoder_attention_mask: Zero, or False, at padding of the prompts, on either side. A padded row is continued as
            it would be alone, and returned without its padding.
        generation_config: By default `model.generation_config`, which came with the checkpoint. Another one replaces it
            entirely, token ids included; `model.generation_config.override(...)` makes one that keeps the rest.
        logits_processor: Functions `(logits, tokens, length) -> logits` as in `bart_eqx.generation.processors`. They
            run after the processors of the options and before those of sampling. A function is part of the compiled
            program: a new one in each call, such as `logits_processor=[lambda ...]`, recompiles the loop every time.
            Define it once; where it needs values, make it an `equinox.Module` that holds them as arrays.
        prefix_allowed_tokens: Token sequences, one of which must follow the prompt; or one list of sequences per row.
            They begin after the start token, and may omit the end token.
        semantics: "pytorch" gives the tokens of transformers 5 with PyTorch; "flax" those of 4.57's Flax loops.
        pad_to_multiple_of: Round the source's length and `max_length` up internally, so that other lengths reuse a
            compiled loop. The result is the same.
        key: For sampling. The same key draws the same tokens, and a row's draws do not depend on the other rows.
        **options: Fields of `GenerationConfig`, which override those of `generation_config`. Inside `jax.jit` or
            `jax.vmap` penalties, `temperature` and the thresholds of sampling may be traced; their ranges are then not
            checked.

    Raises:
        TypeError: for an option that transformers does not have either.
        ValueError: for an option that is not implemented, options that contradict each other, sampling without a key,
            an id outside the vocabulary, lengths for which the model has no positions, or a sequence in
            `prefix_allowed_tokens` that other settings bar.
    """
    request = Request(
        model=model,
        input_ids=input_ids,
        attention_mask=attention_mask,
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
        options=options,
    )
    call = validated(request)
    searched = _search(model, call)
    states = None
    if call.config.output_attentions or call.config.output_hidden_states:
        states = teacher_forced(
            model,
            call.inputs,
            searched.tokens,
            output_attentions=call.config.output_attentions,
            output_hidden_states=call.config.output_hidden_states,
        )
    result = generation_result(searched, states, call)
    return result if call.sharding is None else call.sharding.put_batch(result)


@checked_by_hand
def stream(
    model: AbstractLanguageModel,
    input_ids: Integer[HostArray, "*batch src"] | Float[HostArray, "*batch rows columns"] | None = None,
    attention_mask: Mask[HostArray, "*batch src"] | None = None,
    *,
    key: PRNGKeyArray | None = None,
    **arguments: Any,
) -> Iterator[Integer[Array, "*rows"]]:
    """Generate as [`generate`][bart_eqx.generate] does, and yield each token as soon as it is chosen.

    Each step is one call of a compiled function, to which the cache is donated. It costs the dispatch of one call per
    token more than `generate`, and can be stopped at any time: at a stop string, or after a time limit.

    Args:
        model: As in `generate`, and so are all other arguments.
        input_ids: The source; for a decoder alone the prompt.
        attention_mask: Zero, or False, at padding of `input_ids`.
        key: For sampling.
        **arguments: All others of `generate`, options included.

    Yields:
        The next token of every row; `pad_token_id` in rows that have ended. The prompt is not repeated.

    Raises:
        TypeError: as `generate`; at the call, not at the first token.
        FloatingPointError: if a token would be chosen although its scores are NaN, infinite or all masked.
        ValueError: as `generate`; and for beam search and prompt lookup, which do not choose one token at a time.
    """
    named = dict(model=model, input_ids=input_ids, attention_mask=attention_mask, key=key)
    call = validated(Request.from_keywords(named | arguments))
    c = call.config
    if c.num_beams > 1 or c.prompt_lookup_num_tokens is not None:
        raise ValueError(
            "`stream` is for greedy search and sampling, which choose tokens one by one: num_beams=1, no prompt lookup."
        )
    if c.output_scores or c.output_logits or c.output_attentions or c.output_hidden_states:
        raise ValueError("`stream` yields tokens and nothing else. Turn off the output_* options, or call `generate`.")
    tokens = sample_steps(
        model,
        call.inputs,
        call.processors,
        _choice(call),
        call.ending,
        num_sequences=c.num_return_sequences,
        buffer=call.buffer,
    )
    in_batch_axes = (with_batch_axes(token, call.batch) for token in tokens)
    return in_batch_axes if call.sharding is None else map(call.sharding.put_batch, in_batch_axes)


def _search(model: AbstractLanguageModel, call: Arguments) -> SearchResult:
    c = call.config
    records = dict(output_scores=c.output_scores, output_logits=c.output_logits)
    if c.prompt_lookup_num_tokens is not None:
        if c.output_scores or c.output_logits:
            raise ValueError("Prompt lookup keeps no scores. Turn `output_scores`, `output_logits` or the lookup off.")
        return prompt_lookup(
            model,
            call.inputs,
            call.source,
            call.processors,
            call.ending,
            num_tokens=c.prompt_lookup_num_tokens,
            max_ngram=c.max_matching_ngram_size or 2,
            buffer=call.buffer,
        )
    if c.num_beams == 1:
        return sample(
            model,
            call.inputs,
            call.processors,
            _choice(call),
            call.ending,
            num_sequences=c.num_return_sequences,
            buffer=call.buffer,
            **records,
        )
    return beam_search(
        model,
        call.inputs,
        call.processors,
        call.number("diversity_penalty"),
        _beam_rules(call),
        call.ending,
        num_beams=c.num_beams,
        num_groups=c.num_beam_groups,
        num_return_sequences=c.num_return_sequences,
        buffer=call.buffer,
        key=call.key if c.do_sample else None,
        **records,
    )


def _choice(call: Arguments) -> AbstractChoice:
    if not call.config.do_sample:
        return Greedy()
    assert call.key is not None
    return FlaxDraw(call.key, int_setting(call.prompt_length)) if call.semantics == "flax" else Draw(call.key)


def _beam_rules(call: Arguments) -> AbstractBeamRules:
    c = call.config
    settings = BeamSettings(call.ending, call.number("length_penalty"), c.early_stopping)
    if c.force_words_ids is not None:
        return ConstrainedRules(settings, ForcedWords.from_ids(c.force_words_ids), c.num_return_sequences)
    if c.num_beam_groups > 1:
        return ScorerRules(settings)
    return FlaxRules(settings) if call.semantics == "flax" else PyTorchRules(settings)

"""How a search drives the model: prefill, then a step per token inside a `while_loop`.

Every search holds `[batch, beams, buffer]` token ids: `beams` sequences about each source, side by side. A sequence
fills the first slots of its buffer, and a slot without a token is -1.

The model sees one sequence per source, whose new tokens at each step are the last tokens of the beams. They are
branches of a tree (tree attention: arXiv:2305.09781): each attends to the prompt and to its own ancestors among the
slots of earlier steps, as a mask says. So the beams are rows of one query, to the source and to the cache alike; a
prompt is read and stored once; and when beams are reordered no key or value moves, only integers that name ancestors.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer

from ..kernels.rows import row_by_row
from ..model.cache import DecoderCache
from ..model.language_model import AbstractCausalLM, AbstractLanguageModel, AbstractSeq2SeqLM
from ..model.layers import LayerDrop
from ..model.outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions
from ..typing import Array


logger = logging.getLogger("bart_eqx.generation")  # announces every compilation


# What goes in, and what comes out.


class ModelInputs(eqx.Module):
    """The arrays of one call that the model reads. `None` where the model has no source, or it comes encoded."""

    prompt: Integer[Array, "batch prompt"]
    """The first tokens of every row."""
    prompt_mask: Bool[Array, "batch prompt"] | None
    """False at padding, on either side; `None` where no prompt is padded."""
    input_ids: Integer[Array, "batch src"] | Float[Array, "batch rows columns"] | None = None
    """The source: token ids, or features."""
    encoder_hidden_states: Float[Array, "batch src dim"] | None = None
    encoder_attention_mask: Bool[Array, "batch src"] | None = None

    @property
    def padding(self) -> Integer[Array, "batch 1"] | None:
        """The number of padded slots in each row's prompt; `None` where no prompt is padded."""
        if self.prompt_mask is None:
            return None
        return jnp.sum(~self.prompt_mask, axis=-1, keepdims=True, dtype=jnp.int32)


class Ending(eqx.Module):
    """When a sequence ends, and what fills its buffer from there on."""

    max_length: Integer[Array, ""]
    """The most slots a sequence may use, prompt included; at most the size of the buffer."""
    eos_token_ids: Integer[Array, " n"]
    """Each of these ends a sequence."""
    pad_token_id: Integer[Array, ""]

    def is_eos(self, tokens: Integer[Array, "*rows"]) -> Bool[Array, "*rows"]:
        return jnp.any(tokens[..., None] == self.eos_token_ids, axis=-1)


class StepRecords(eqx.Module):
    """The scores of the whole vocabulary at every step, where they were asked for."""

    scores: Float[Array, "batch beams steps vocab"] | None
    """After the processors."""
    logits: Float[Array, "batch beams steps vocab"] | None
    """The model's own."""

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: DTypeLike, *, scores: bool, logits: bool) -> "StepRecords":
        zeros = lambda wanted: jnp.zeros(shape, dtype) if wanted else None
        return cls(zeros(scores), zeros(logits))

    def write(
        self,
        step: Integer[Array, ""],
        scores: Float[Array, "batch beams vocab"],
        logits: Float[Array, "batch beams vocab"],
    ) -> "StepRecords":
        def put(record: Array | None, new: Array) -> Array | None:
            if record is None:
                return None
            return jax.lax.dynamic_update_slice_in_dim(record, new[:, :, None].astype(record.dtype), step, axis=2)

        return StepRecords(put(self.scores, scores), put(self.logits, logits))


class SearchResult(eqx.Module):
    """What every search returns: `found` sequences per source. `None` for what was not asked for, or does not apply."""

    tokens: Integer[Array, "batch found buffer"]
    lengths: Integer[Array, "batch found"]
    """Slots in use, with the padding in front of the prompt."""
    finite: Bool[Array, "batch found"]
    """Whether `can_choose` held for every token of the sequence, and none of them was barred."""
    scores: Float[Array, "batch found"] | None = None
    beam_indices: Integer[Array, "batch found steps"] | None = None
    records: StepRecords | None = None
    model_calls: Integer[Array, " batch"] | None = None


def all_comparable(scores: Float[Array, "*rows vocab"]) -> Bool[Array, "*rows"]:
    """Whether no score is NaN or plus infinity. (Minus infinity bars a token.)"""
    return jnp.all(scores < jnp.inf, axis=-1)


def can_choose(scores: Float[Array, "*rows vocab"]) -> Bool[Array, "*rows"]:
    """Whether the scores are comparable, and some token is not barred."""
    # 0 for a barred token, 1 for a possible one, 2 for NaN and infinity. For two reductions XLA on CPU copies scores.
    kinds = jnp.where(scores < jnp.inf, (scores > -jnp.inf).astype(jnp.int8), 2)
    return jnp.max(kinds, axis=-1) == 1


# The loop.


class AbstractLoopState(eqx.Module):
    """What one step of a search hands to the next: these, and what the search adds."""

    length: eqx.AbstractVar[Integer[Array, ""]]
    """Slots in use, the same in every row, ended or not. The next token goes into slot `length`."""
    cache: eqx.AbstractVar[DecoderCache]
    """Keys and values of all tokens but the last of each sequence, which the next step decodes."""


State = TypeVar("State", bound=AbstractLoopState)


# Each stage is compiled on its own. What these numbers cost and save is in `docs/performance.md`.
FIRST_STAGE, STAGE_GROWTH = 64, 4


def stage_ends(steps: int) -> list[int]:
    """The steps after which the cache is made longer; the last is `steps`."""
    ends, end = [], FIRST_STAGE
    while 2 * end <= steps:
        ends.append(end)
        end *= STAGE_GROWTH
    return [*ends, steps]


def with_slots(state: State, slots: int) -> State:
    """The state with a cache of `slots` slots."""
    return eqx.tree_at(lambda s: s.cache, state, state.cache.with_room(slots))


def staged_while_loop(
    going: Callable[[State], Bool[Array, ""]],
    step: Callable[[State], State],
    state: State,
    *,
    prompt_length: int,
    steps: int,
    slots: Callable[[int], int],
) -> State:
    """`jax.lax.while_loop(going, step, state)` for at most `steps` tokens after the prompt.

    It runs in stages, each with a longer cache, so that a step costs what has been written and not what may be.
    `slots` gives the size of the cache that so many steps need.
    """
    for end in stage_ends(steps):
        full = prompt_length + end
        state = jax.lax.while_loop(
            lambda state, full=full: going(state) & (state.length < full), step, with_slots(state, slots(end))
        )
    return state


def tree_slots(prompt_length: int, num_beams: int) -> Callable[[int], int]:
    """For `staged_while_loop`: the prompt but for its last token is cached once, and each step adds every beam's."""
    return lambda steps: prompt_length - 1 + steps * num_beams


# The model, which is called from here only.


def check_inference_mode(model: AbstractLanguageModel) -> None:
    """Raises `ValueError` if dropout or LayerDrop is on."""
    is_drop = lambda node: isinstance(node, (eqx.nn.Dropout, LayerDrop))
    if any(is_drop(x) and not x.inference and x.p != 0 for x in jax.tree.leaves(model, is_leaf=is_drop)):
        raise ValueError(
            "The model is in training mode, in which dropout needs a key at every step. Generate with "
            "`equinox.nn.inference_mode(model)`."
        )


def init_cache(model: AbstractLanguageModel, inputs: ModelInputs, slots: int) -> DecoderCache:
    """Encode the source, and allocate a cache of `slots` slots over it.

    For batch 1 the cache has no batch axis, and `_decode` adds and removes it: with that axis, XLA on CPU copies the
    whole cache four times in a greedy step (`docs/performance.md`).
    """
    check_inference_mode(model)  # while the search is traced: it costs a compiled call nothing
    batch = inputs.prompt.shape[0]
    states, mask = inputs.encoder_hidden_states, inputs.encoder_attention_mask
    if states is None and isinstance(model, AbstractSeq2SeqLM):
        assert inputs.input_ids is not None
        encode = lambda ids, mask: model.encode(ids, mask).last_hidden_state
        if model.source_ndim == 1:
            states = row_by_row(encode, inputs.input_ids, mask)
        else:  # of features, only the model knows which axis can be cut
            states = encode(inputs.input_ids, mask)
    if batch == 1:
        states, mask = jax.tree.map(lambda x: x[0], (states, mask))
    if isinstance(model, AbstractCausalLM):
        rows = None if batch == 1 else batch
        return model.init_cache(rows, max_length=slots, encoder_hidden_states=states, encoder_attention_mask=mask)
    assert isinstance(model, AbstractSeq2SeqLM) and states is not None
    return model.init_cache(BaseModelOutput(states), mask, max_length=slots)


def _decode(
    model: AbstractLanguageModel,
    tokens: Integer[Array, "batch new"],
    cache: DecoderCache,
    positions: Integer[Array, " new"],
    mask: Bool[Array, "batch new"] | Bool[Array, "batch new slots"] | None,
    padding: Integer[Array, "batch 1"] | None,
    **outputs: Any,
) -> tuple[CausalLMOutputWithCrossAttentions, DecoderCache]:
    """Decode `tokens`, of which -1 is masked. `positions` count slots; a row's own are counted without its padding."""
    alone = cache.attention_mask.ndim == 1
    if alone:
        tokens, mask, padding = jax.tree.map(lambda x: x[0], (tokens, mask, padding))
    # Drafts past the last position are thrown away. They must not turn the whole call into NaN.
    positions = jnp.minimum(positions, model.config.max_position_embeddings - 1)
    if padding is not None:
        positions = jnp.maximum(positions - padding, 0)
    ids = jnp.maximum(tokens, 0)  # a masked slot may hold any id, but it must be one
    output, cache = model.decode(ids, cache, decoder_attention_mask=mask, decoder_position_ids=positions, **outputs)
    return jax.tree.map(lambda x: x[None], output) if alone else output, cache


def _decode_in_order(
    model: AbstractLanguageModel,
    tokens: Integer[Array, "batch new"],
    cache: DecoderCache,
    padding: Integer[Array, "batch 1"] | None,
    **outputs: Any,
) -> tuple[CausalLMOutputWithCrossAttentions, DecoderCache]:
    """Decode `tokens`, each of which follows the one before it. Padding in front of a prompt is masked."""
    positions = cache.position + jnp.arange(tokens.shape[-1])
    mask = None if padding is None else tokens >= 0
    return _decode(model, tokens, cache, positions, mask, padding, **outputs)


def logits_dtype(cache: DecoderCache) -> DTypeLike:
    """Of the logits that `next_logits` and `chunk_logits` return: float32, or float64 in a float64 model."""
    return np.promote_types(cache.self_attn[0].keys.dtype, np.float32)


def prefill(
    model: AbstractLanguageModel, inputs: ModelInputs, num_beams: int, buffer: int
) -> tuple[Integer[Array, "batch beams buffer"], DecoderCache]:
    """Read the source, and the prompt but for its last token.

    Returns the tokens of every beam, in buffers of `buffer` slots, and the cache of what was read, once for all beams.
    Padding is moved to the front of a prompt, so that all rows go on in the same slot.
    """
    batch, prompt_length = inputs.prompt.shape
    prompt = inputs.prompt
    if inputs.prompt_mask is not None:
        order = jnp.argsort(inputs.prompt_mask, axis=-1, stable=True)
        mask = jnp.take_along_axis(inputs.prompt_mask, order, axis=-1)
        prompt = jnp.where(mask, jnp.take_along_axis(prompt, order, axis=-1), -1)
    empty = jnp.full((batch, buffer - prompt_length), -1, jnp.int32)
    tokens = jnp.concatenate([prompt.astype(jnp.int32), empty], axis=-1)

    cache = init_cache(model, inputs, max(prompt_length - 1, 1))
    if prompt_length > 1:
        _, cache = _decode_in_order(model, tokens[:, : prompt_length - 1], cache, inputs.padding)
    return jnp.broadcast_to(tokens[:, None], (batch, num_beams, buffer)), cache


def next_logits(
    model: AbstractLanguageModel,
    tokens: Integer[Array, "batch beams buffer"],
    length: Integer[Array, ""],
    cache: DecoderCache,
    ancestors: Integer[Array, "batch beams steps"],
    padding: Integer[Array, "batch 1"] | None,
) -> tuple[Float[Array, "batch beams vocab"], DecoderCache]:
    """Decode the last token of every beam: the logits of the token for slot `length`, and the longer cache.

    `ancestors[b, i, t]` is the beam whose token of step `t` the sequence of beam `i` has, this step included; -1 later.
    """
    num_beams = tokens.shape[1]
    prompt_length = tokens.shape[-1] - ancestors.shape[-1]
    steps = (cache.max_length - prompt_length + 1) // num_beams
    of_steps = jnp.repeat(ancestors[..., :steps], num_beams, axis=-1) == jnp.tile(jnp.arange(num_beams), steps)
    of_prompt = jnp.ones((*tokens.shape[:2], prompt_length - 1), bool)
    mask = jnp.concatenate([of_prompt, of_steps], axis=-1)

    last = jax.lax.dynamic_index_in_dim(tokens, length - 1, axis=-1, keepdims=False)
    positions = jnp.broadcast_to(length - 1, (num_beams,))
    output, cache = _decode(model, last, cache, positions, mask, padding)
    return output.logits.astype(logits_dtype(cache)), cache


def chunk_logits(
    model: AbstractLanguageModel,
    tokens: Integer[Array, "batch new"],
    cache: DecoderCache,
    padding: Integer[Array, "batch 1"] | None,
) -> tuple[Float[Array, "batch new vocab"], DecoderCache]:
    """Decode a chunk: the logits of what follows each of `tokens`, and the longer cache."""
    output, cache = _decode_in_order(model, tokens, cache, padding)
    return output.logits.astype(logits_dtype(cache)), cache


@eqx.filter_jit
def teacher_forced(
    model: AbstractLanguageModel,
    inputs: ModelInputs,
    tokens: Integer[Array, "batch found buffer"],
    *,
    output_attentions: bool,
    output_hidden_states: bool,
) -> CausalLMOutputWithCrossAttentions:
    """The attentions and hidden states of finished sequences, by reading all their tokens but the last once more.

    Cached steps and a whole pass give the same numbers, so that no search has to record them.
    """
    cache = init_cache(model, inputs, tokens.shape[-1] - 1)
    outputs = dict(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
    read = lambda sequence: _decode_in_order(model, sequence, cache, inputs.padding, **outputs)[0]
    return jax.vmap(read, in_axes=1, out_axes=1)(tokens[..., :-1])  # all read the same source

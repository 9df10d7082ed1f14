"""How a search drives the model, which is called from here only: `prefill`, then `next_logits` or `chunk_logits`.

Every search holds `[batch, beams, buffer]` token ids: `beams` sequences for each source, side by side. A sequence fills
the first slots of its buffer, and a slot without a token is -1.

The model sees one sequence per source, whose new tokens at each step are the last tokens of the beams. They are
branches of a tree (tree attention: arXiv:2305.09781): each attends to the prompt and to its own ancestors among the
slots of earlier steps, as a mask says. So the beams are rows of one query, to the source and to the cache alike; a
prompt is read and stored once; and when beams are reordered no key or value moves, only integers that name ancestors.

The mask at step 1, for a prompt of two tokens and two beams, which have both continued beam 0 of step 0:

    slots  | prompt[0] | step 0: beam 0, beam 1 | step 1: beam 0, beam 1
    beam 0 |     1     |           1       0    |           1       0
    beam 1 |     1     |           1       0    |           0       1

The prompt's last token has no slot of its own: every beam decodes it at step 0.
"""

from collections.abc import Callable
from typing import Any

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

    For batch 1 the cache has no batch axis, which `_decode` takes into account.
    """
    check_inference_mode(model)  # while the search is traced: it costs a compiled call nothing
    batch = inputs.prompt.shape[0]
    one_row = batch == 1
    states, mask = inputs.encoder_hidden_states, inputs.encoder_attention_mask
    if states is None and isinstance(model, AbstractSeq2SeqLM):
        assert inputs.input_ids is not None
        encode = lambda ids, mask: model.encode(ids, mask).last_hidden_state
        if model.source_ndim == 1:
            states = row_by_row(encode, inputs.input_ids, mask)
        else:  # of features, only the model knows which axis can be cut
            states = encode(inputs.input_ids, mask)
    if one_row:  # with an axis of one row, XLA on CPU copies the cache four times in a greedy step: docs/performance.md
        states, mask = jax.tree.map(lambda x: x[0], (states, mask))
    if isinstance(model, AbstractCausalLM):
        rows = None if one_row else batch
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
    """Decode `tokens` (-1 = padding). `positions` include padding; it is subtracted here."""
    one_row = cache.attention_mask.ndim == 1  # `init_cache` has left out the batch axis
    if one_row:
        tokens, mask, padding = jax.tree.map(lambda x: x[0], (tokens, mask, padding))
    # A draft may run past the last position. Its tokens are discarded, but must not turn the whole call into NaN.
    positions = jnp.minimum(positions, model.config.max_position_embeddings - 1)
    if padding is not None:
        positions = jnp.maximum(positions - padding, 0)
    ids = jnp.maximum(tokens, 0)  # what a masked slot holds does not matter, but it must be a token id
    output, cache = model.decode(ids, cache, decoder_attention_mask=mask, decoder_position_ids=positions, **outputs)
    return jax.tree.map(lambda x: x[None], output) if one_row else output, cache


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
    """The dtype of the logits that `next_logits` and `chunk_logits` return: float32, or float64 in a float64 model."""
    return np.promote_types(cache.self_attn[0].keys.dtype, np.float32)


def prefill(
    model: AbstractLanguageModel, inputs: ModelInputs, num_beams: int, buffer: int
) -> tuple[Integer[Array, "batch beams buffer"], DecoderCache]:
    """Encode the source, and decode the prompt without its last token.

    Returns the tokens of every beam, in buffers of `buffer` slots, and the cache, which all beams share. Padding is
    moved to the front of a prompt, so that all rows continue in the same slot.
    """
    batch, prompt_length = inputs.prompt.shape
    prompt = inputs.prompt
    if inputs.prompt_mask is not None:
        order = jnp.argsort(inputs.prompt_mask, axis=-1, stable=True)
        mask = jnp.take_along_axis(inputs.prompt_mask, order, axis=-1)
        prompt = jnp.where(mask, jnp.take_along_axis(prompt, order, axis=-1), -1)
    empty = jnp.full((batch, buffer - prompt_length), -1, jnp.int32)
    tokens = jnp.concatenate([prompt.astype(jnp.int32), empty], axis=-1)

    # A cache has at least one slot: after a prompt of one token it is still empty.
    cache = init_cache(model, inputs, max(prompt_length - 1, 1))
    if prompt_length > 1:
        _, cache = _decode_in_order(model, tokens[:, : prompt_length - 1], cache, inputs.padding)
    return jnp.broadcast_to(tokens[:, None], (batch, num_beams, buffer)), cache


def tree_slots(prompt_length: int, num_beams: int) -> Callable[[int], int]:
    """For `staged_while_loop`: slots = (prompt without its last token) + one per beam and step."""
    return lambda steps: prompt_length - 1 + steps * num_beams


def ancestor_mask(
    ancestors: Integer[Array, "batch beams steps"], prompt_length: int, slots: int
) -> Bool[Array, "batch beams slots"]:
    """The slots that each beam attends to: those of the prompt, and one for each step so far.

    At step `t` the model decodes the last token of every beam, and each new beam then continues one of them. The key
    and value of beam `i` are in slot `prompt_length - 1 + t * num_beams + i`. `ancestors[..., t]` is the beam that a
    sequence continued at step `t`, or itself at the current step; -1 at later steps.
    """
    batch, num_beams, _ = ancestors.shape
    steps = (slots - (prompt_length - 1)) // num_beams  # for which the cache has slots, at this stage of the loop
    of_steps = jnp.repeat(ancestors[..., :steps], num_beams, axis=-1) == jnp.tile(jnp.arange(num_beams), steps)
    of_prompt = jnp.ones((batch, num_beams, prompt_length - 1), bool)
    return jnp.concatenate([of_prompt, of_steps], axis=-1)


def next_logits(
    model: AbstractLanguageModel,
    tokens: Integer[Array, "batch beams buffer"],
    length: Integer[Array, ""],
    cache: DecoderCache,
    ancestors: Integer[Array, "batch beams steps"],
    padding: Integer[Array, "batch 1"] | None,
    prompt_length: int,
) -> tuple[Float[Array, "batch beams vocab"], DecoderCache]:
    """Decode the last token of every beam: the logits of the token for slot `length`, and the cache with its key and
    value. `ancestor_mask` explains `ancestors`."""
    num_beams = tokens.shape[1]
    mask = ancestor_mask(ancestors, prompt_length, cache.max_length)
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
    """Decode a chunk: the logits of the token after each of `tokens`, and the cache with their keys and values."""
    output, cache = _decode_in_order(model, tokens, cache, padding)
    return output.logits.astype(logits_dtype(cache)), cache


@eqx.filter_jit
def teacher_forced(
    model: AbstractLanguageModel,
    inputs: ModelInputs,
    tokens: Integer[Array, "batch returned buffer"],
    *,
    output_attentions: bool,
    output_hidden_states: bool,
) -> CausalLMOutputWithCrossAttentions:
    """The attentions and hidden states of finished sequences, from one pass over all their tokens but the last.

    A pass gives the same numbers as cached steps, so that no search has to record them. It encodes the source a second
    time, unless that came encoded.
    """
    cache = init_cache(model, inputs, tokens.shape[-1] - 1)
    outputs = dict(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
    decode = lambda sequence: _decode_in_order(model, sequence, cache, inputs.padding, **outputs)[0]
    return jax.vmap(decode, in_axes=1, out_axes=1)(tokens[..., :-1])  # over one encoded source

"""From the arguments of `generate` to what a search takes: everything is checked here, before anything is compiled."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Integer, PRNGKeyArray, Shaped

from ..generation_config import GenerationConfig
from ..model.causal_lm import BartForCausalLM
from ..model.checks import check_token_ids, is_known
from ..model.outputs import BaseModelOutput
from ..typing import Array, HostArray, Mask
from .ancestral import AbstractChoice, Draw, FlaxDraw, Likeliest
from .assemble import flax_processors, pytorch_processors
from .checks import Semantics, check_options, check_vocabulary, checked_length
from .feeding import Request, Writer
from .limits import Limits
from .operands import ids, integers
from .processors import LogitsProcessor
from .trie import PrefixTrie


@dataclasses.dataclass(frozen=True)
class Plan:
    """A call of `generate`, understood."""

    config: GenerationConfig
    request: Request
    source: Integer[Array, "batch src"] | None
    """The source's tokens, -1 at padding; of a decoder alone, those of its prompt."""
    processors: tuple[LogitsProcessor, ...]
    limits: Limits
    max_length: int
    buffer: int
    batch: tuple[int, ...]
    """The axes before the source's, which the result has as well."""
    source_length: int
    """Tokens of the source; 0 where there is none."""
    semantics: Semantics
    key: PRNGKeyArray | None

    @property
    def padded_source_length(self) -> int:
        mask = self.request.encoder_attention_mask
        return self.source_length if mask is None else mask.shape[-1]

    @property
    def prompt_length(self) -> int:
        return self.request.prompt.shape[-1]

    @property
    def choice(self) -> AbstractChoice:
        """How greedy search or sampling chooses."""
        if not self.config.do_sample:
            return Likeliest()
        assert self.key is not None
        return FlaxDraw(self.key, integers(self.prompt_length)) if self.semantics == "flax" else Draw(self.key)


def with_batch_axes(x: Shaped[Array, "batch n ..."], batch: tuple[int, ...]) -> Array:
    """`x` with the caller's batch axes, of which the last is `n` times as long."""
    n = x.shape[1]
    if n == 1:
        return x.reshape(*batch, *x.shape[2:])
    return x.reshape(*batch[:-1], n * (batch[-1] if batch else 1), *x.shape[2:])


def make_plan(
    model: Writer,
    input_ids: Integer[HostArray, "*batch src"] | None = None,
    attention_mask: Mask[HostArray, "*batch src"] | Mask[HostArray, "*batch encoder_src"] | None = None,
    *,
    encoder_outputs: BaseModelOutput | None = None,
    encoder_attention_mask: Mask[HostArray, "*batch encoder_src"] | None = None,
    decoder_input_ids: Integer[HostArray, "*batch prompt"] | None = None,
    decoder_attention_mask: Mask[HostArray, "*batch prompt"] | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: Sequence[LogitsProcessor] = (),
    prefix_allowed_tokens: Sequence[Any] | None = None,
    semantics: Semantics = "pytorch",
    pad_to_multiple_of: int | None = None,
    key: PRNGKeyArray | None = None,
    **options: Any,
) -> Plan:
    """The arguments are those of `generate`."""
    config = (generation_config or model.generation_config).override(**options)
    check_options(config, options, semantics, prefix_allowed_tokens is not None, key is not None)
    check_vocabulary(config, model.config.vocab_size)
    if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
        raise ValueError(f"`pad_to_multiple_of` must be at least 1. Got {pad_to_multiple_of}.")
    if input_ids is not None:
        input_ids = _tokens("input_ids", input_ids, model.config.vocab_size)
    mask = None if attention_mask is None or input_ids is None else _on_host(attention_mask) != 0
    if mask is None and input_ids is not None and semantics == "pytorch":
        if config.pad_token_id not in config.eos_token_ids:
            mask = input_ids != config.pad_token_id

    states = None if encoder_outputs is None else encoder_outputs.last_hidden_state
    if isinstance(model, BartForCausalLM):
        if decoder_input_ids is not None or decoder_attention_mask is not None:
            raise ValueError("A decoder alone takes its prompt as `input_ids`, with `attention_mask`.")
        if input_ids is None and attention_mask is not None:
            raise ValueError("`attention_mask` speaks of `input_ids`, and these were not given.")
        batch = () if states is None else states.shape[:-2]
        prompt = np.full((*batch, 1), config.bos_token_id, np.int32) if input_ids is None else input_ids
        prompt_mask, source = mask, None
        if encoder_attention_mask is not None and states is None:
            raise ValueError("`encoder_attention_mask` speaks of `encoder_outputs`, and these were not given.")
        source_mask = None if encoder_attention_mask is None else _on_host(encoder_attention_mask) != 0
    else:
        if encoder_attention_mask is not None:
            raise ValueError("Of an encoder-decoder, `attention_mask` is the source's. Give the mask there.")
        source, source_mask = input_ids, mask
        if states is not None:
            batch = states.shape[:-2]
            if source is None and attention_mask is not None:
                source_mask = _on_host(attention_mask) != 0
        elif source is not None:
            batch = source.shape[:-1]
        else:
            raise ValueError("Give `input_ids`, or `encoder_outputs` from `model.encode`.")
        prompt, prompt_mask = _decoder_prompt(model, config, decoder_input_ids, decoder_attention_mask, batch)
    prompt_mask = _without_need(prompt_mask)
    batch = prompt.shape[:-1]
    if states is not None:
        read = dict(prompt=prompt.shape[:-1]) | ({} if source is None else dict(input_ids=source.shape[:-1]))
        if wrong := [f"{name} {axes}" for name, axes in read.items() if axes != states.shape[:-2]]:
            raise ValueError(f"`encoder_outputs` has batch axes {states.shape[:-2]}, and others {', '.join(wrong)}.")
        for what in (source, source_mask):
            if what is not None and what.shape != states.shape[:-1]:
                raise ValueError(f"`encoder_outputs` are of {states.shape[:-1]} tokens; ids or mask {what.shape}.")
    if 0 in batch or (source is not None and source.shape[-1] == 0):
        raise ValueError("There is nothing to write about: no rows, or a source without tokens.")

    prompt_length = prompt.shape[-1]
    max_length = checked_length(model, config, prompt_length, semantics, "max_length" in options)
    buffer = max_length
    source_length = states.shape[-2] if states is not None else 0 if source is None else source.shape[-1]
    if pad_to_multiple_of is not None:
        positions = model.config.max_position_embeddings
        buffer = min(math.ceil(max_length / pad_to_multiple_of) * pad_to_multiple_of, positions + 1)
        if source is not None and states is None:
            source, source_mask = _padded(source, source_mask, config.pad_token_id, pad_to_multiple_of, positions)

    rows = math.prod(batch)
    flat = lambda x: None if x is None else x.reshape(rows, x.shape[-1])
    prompt, prompt_mask, source, source_mask = flat(prompt), flat(prompt_mask), flat(source), flat(source_mask)
    tokens = None
    if isinstance(model, BartForCausalLM):
        tokens = _masked(prompt, prompt_mask)
    elif source is not None:
        tokens = _masked(source, source_mask)
    given = lambda x: None if x is None else jax.device_put(x)
    request = Request(
        prompt=jax.device_put(prompt),
        prompt_mask=given(prompt_mask),
        input_ids=None if states is not None else given(source),
        encoder_hidden_states=None if states is None else states.reshape(rows, *states.shape[-2:]),
        encoder_attention_mask=given(source_mask),
    )
    if semantics == "flax":
        processors = flax_processors(
            config, prompt_length=prompt_length, max_length=max_length, custom=logits_processor
        )
    else:
        trie = None
        if prefix_allowed_tokens is not None:
            trie = _trie(prefix_allowed_tokens, config, prompt_length, rows, model.config.vocab_size)
        processors = pytorch_processors(
            config,
            prompt_length=prompt_length,
            max_length=max_length,
            source=tokens,
            trie=trie,
            custom=logits_processor,
        )
    limits = Limits(integers(max_length), ids(config.eos_token_ids), integers(config.pad_token_id))
    return Plan(config, request, tokens, processors, limits, max_length, buffer, batch, source_length, semantics, key)


def _decoder_prompt(
    model: Writer,
    config: GenerationConfig,
    decoder_input_ids: HostArray | None,
    decoder_attention_mask: HostArray | None,
    batch: tuple[int, ...],
) -> tuple[Integer[HostArray, "*batch prompt"], Bool[HostArray, "*batch prompt"] | None]:
    """The start token, or the caller's tokens. As in transformers the start token is put before them where no row has
    it, if that can be seen."""
    start = np.full((*batch, 1), config.decoder_start_token_id, np.int32)
    if decoder_input_ids is None:
        if decoder_attention_mask is not None:
            raise ValueError("`decoder_attention_mask` speaks of `decoder_input_ids`, and these were not given.")
        return start, None
    prompt = _tokens("decoder_input_ids", decoder_input_ids, model.config.vocab_size)
    if prompt.shape[:-1] != batch or prompt.shape[-1] == 0:
        raise ValueError(f"`decoder_input_ids` must be {(*batch, 'prompt')}, a token at least. Got {prompt.shape}.")
    mask = None if decoder_attention_mask is None else _on_host(decoder_attention_mask) != 0
    if is_known(prompt) and (mask is None or is_known(mask)):
        first = np.zeros(batch, int)[..., None] if mask is None else mask.argmax(-1)[..., None]
        if (np.take_along_axis(prompt, first, -1) != config.decoder_start_token_id).all():
            prompt = np.concatenate([start, prompt], axis=-1)
            mask = None if mask is None else np.concatenate([np.ones(start.shape, bool), mask], axis=-1)
    return prompt, mask


def _on_host(values: HostArray) -> Any:
    """In NumPy, which compiles nothing, where values are known."""
    return np.asarray(values) if is_known(values) else values


def _tokens(name: str, ids: HostArray, vocab_size: int) -> Any:
    """Checked, and of a type that has a -1."""
    return _on_host(check_token_ids(name, ids, vocab_size)).astype(np.int32)


def _without_need(mask: Any) -> Any:
    """The mask of a prompt, or `None` if it can be seen to mask nothing."""
    if mask is None or not is_known(mask):
        return mask
    if not mask.any(axis=-1).all():
        raise ValueError("A row of the prompt is all padding. Every row needs at least one token to go on from.")
    return None if mask.all() else mask


def _masked(tokens: Any, mask: Any) -> Integer[Array, "batch seq"]:
    if mask is not None:
        where = np.where if is_known(tokens) and is_known(mask) else jnp.where
        tokens = where(mask, tokens, -1)
    return jax.device_put(tokens)


def _padded(source: Any, mask: Any, pad_token_id: int, multiple: int, positions: int) -> tuple[Any, Any]:
    length = source.shape[-1]
    extra = max(min(math.ceil(length / multiple) * multiple, positions) - length, 0)
    mask = np.ones(source.shape, bool) if mask is None else mask
    after = [(0, 0)] * (source.ndim - 1) + [(0, extra)]
    pad = np.pad if is_known(source) and is_known(mask) else jnp.pad
    return pad(source, after, constant_values=pad_token_id), pad(mask, after)


def _trie(
    allowed: Sequence[Any], config: GenerationConfig, prompt_length: int, rows: int, vocab_size: int
) -> PrefixTrie:
    """One set of sequences for all rows, or a set for each."""
    plain = [item.tolist() if hasattr(item, "tolist") else item for item in allowed]
    try:
        nested = not isinstance(plain[0][0], (int, np.integer))
        sets = [[[int(token) for token in sequence] for sequence in one] for one in (plain if nested else [plain])]
    except (TypeError, IndexError) as error:
        raise ValueError(
            "`prefix_allowed_tokens` is a list of token sequences, such as [[5, 6], [5, 7]], none of them empty, or a "
            f"list of such lists, one for each row. Got {allowed!r}."
        ) from error
    if len(sets) not in (1, rows):
        raise ValueError(
            f"`prefix_allowed_tokens` has {len(sets)} sets of sequences for {rows} rows. Give one, or {rows}."
        )
    for sequences in sets:
        if not sequences or not all(sequences):
            raise ValueError("`prefix_allowed_tokens` needs at least one sequence, and no empty one.")
        if outside := [token for sequence in sequences for token in sequence if not 0 <= token < vocab_size]:
            raise ValueError(
                f"`prefix_allowed_tokens` has {outside}, but the model's tokens are 0 to {vocab_size - 1}."
            )
    return PrefixTrie.allowing(sets, config.eos_token_ids, prompt_length)

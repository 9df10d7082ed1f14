"""From the arguments of `generate` to what a search takes: everything is checked here, before anything is compiled."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Integer, PRNGKeyArray

from ..generation_config import GenerationConfig
from ..model.causal_lm import BartForCausalLM
from ..model.checks import check_token_ids, is_known
from ..model.masks import as_boolean
from ..model.outputs import BaseModelOutput
from ..typing import Array, HostArray, Mask
from .ancestral import AbstractChoice, Draw, FlaxDraw, Likeliest, Limits
from .assemble import flax_processors, ids, integers, pytorch_processors
from .feeding import Request, Writer
from .processors import LogitsProcessor
from .trie import PrefixTrie


Semantics = Literal["pytorch", "flax"]

_SAMPLING = "temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff".split()
_BEAMS = "early_stopping length_penalty".split()
_FLAX_READS = frozenset(
    "max_length max_new_tokens min_length decoder_start_token_id bos_token_id pad_token_id eos_token_id "
    "forced_bos_token_id forced_eos_token_id do_sample num_beams num_return_sequences early_stopping length_penalty "
    "temperature top_k top_p no_repeat_ngram_size suppress_tokens begin_suppress_tokens "
    "output_scores output_logits output_attentions output_hidden_states".split()
)


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
    semantics: Semantics
    key: PRNGKeyArray | None

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

    def with_batch_axes(self, x: Array) -> Array:
        """`[batch, n, ...]` with the caller's batch axes, of which the last is `n` times as long."""
        n = x.shape[1]
        if n == 1:
            return x.reshape(*self.batch, *x.shape[2:])
        return x.reshape(*self.batch[:-1], n * (self.batch[-1] if self.batch else 1), *x.shape[2:])


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
    _check_options(config, options, semantics, prefix_allowed_tokens is not None, key is not None)
    _check_vocabulary(config, model.config.vocab_size)
    if input_ids is not None:
        input_ids = jnp.asarray(check_token_ids("input_ids", input_ids, model.config.vocab_size))
    mask = _mask_or_none(attention_mask, input_ids)
    if mask is None and input_ids is not None and semantics == "pytorch":
        if config.pad_token_id not in config.eos_token_ids:
            mask = input_ids != config.pad_token_id

    states = None if encoder_outputs is None else encoder_outputs.last_hidden_state
    if isinstance(model, BartForCausalLM):
        if decoder_input_ids is not None or decoder_attention_mask is not None:
            raise ValueError("A decoder alone takes its prompt as `input_ids`, with `attention_mask`.")
        batch = () if states is None else states.shape[:-2]
        prompt = jnp.full((*batch, 1), config.bos_token_id) if input_ids is None else input_ids
        prompt_mask, source = mask, None
        source_mask = None if encoder_attention_mask is None else as_boolean(encoder_attention_mask)
    else:
        if encoder_attention_mask is not None:
            raise ValueError("Of an encoder-decoder, `attention_mask` is the source's. Give the mask there.")
        if states is None:
            if input_ids is None:
                raise ValueError("Give `input_ids`, or `encoder_outputs` from `model.encode`.")
            batch = input_ids.shape[:-1]
        else:
            batch = states.shape[:-2]
        if input_ids is None and attention_mask is not None:
            mask = as_boolean(attention_mask)
        source, source_mask = input_ids, mask
        prompt, prompt_mask = _decoder_prompt(model, config, decoder_input_ids, decoder_attention_mask, batch)
    batch = prompt.shape[:-1]
    if states is not None and states.shape[:-2] != batch:
        raise ValueError(f"`encoder_outputs` has batch axes {states.shape[:-2]}, and the tokens have {batch}.")
    if prompt_mask is not None and is_known(prompt_mask):
        if not np.asarray(prompt_mask).any(axis=-1).all():
            raise ValueError("A row of the prompt is all padding. Every row needs at least one token to go on from.")
        if np.asarray(prompt_mask).all():
            prompt_mask = None

    prompt_length = prompt.shape[-1]
    max_length = _length(model, config, prompt_length, semantics, "max_length" in options)
    buffer = max_length
    if pad_to_multiple_of is not None:
        positions = model.config.max_position_embeddings
        buffer = min(math.ceil(max_length / pad_to_multiple_of) * pad_to_multiple_of, positions + 1)
        if source is not None:
            source, source_mask = _padded(source, source_mask, config.pad_token_id, pad_to_multiple_of, positions)

    rows = math.prod(batch)
    request = Request(
        prompt=prompt.reshape(rows, -1),
        prompt_mask=None if prompt_mask is None else prompt_mask.reshape(rows, -1),
        input_ids=None if source is None or states is not None else source.reshape(rows, -1),
        encoder_hidden_states=None if states is None else states.reshape(rows, *states.shape[-2:]),
        encoder_attention_mask=None if source_mask is None else source_mask.reshape(rows, -1),
    )
    tokens = None
    if isinstance(model, BartForCausalLM):
        tokens = _masked(request.prompt, request.prompt_mask)
    elif source is not None:
        tokens = _masked(source.reshape(rows, -1), request.encoder_attention_mask)
    if semantics == "flax":
        processors = flax_processors(
            config, prompt_length=prompt_length, max_length=max_length, custom=logits_processor
        )
    else:
        trie = None
        if prefix_allowed_tokens is not None:
            trie = _trie(prefix_allowed_tokens, config, prompt_length, rows)
        processors = pytorch_processors(
            config,
            prompt_length=prompt_length,
            max_length=max_length,
            source=None if tokens is None else tokens[:, None],
            trie=trie,
            custom=logits_processor,
        )
    limits = Limits(integers(max_length), ids(config.eos_token_ids), integers(config.pad_token_id))
    return Plan(config, request, tokens, processors, limits, max_length, buffer, batch, semantics, key)


def _check_options(
    config: GenerationConfig, options: dict[str, Any], semantics: Semantics, has_trie: bool, sampling_key: bool
) -> None:
    if config.do_sample and not sampling_key:
        raise ValueError(
            "Sampling draws from `key`. Give one, as in generate(..., do_sample=True, key=jax.random.key(0))."
        )
    idle = [] if config.do_sample else [(name, "do_sample=True") for name in _SAMPLING]
    idle += [] if config.num_beams > 1 else [(name, "num_beams > 1") for name in _BEAMS]
    idle += [] if config.prompt_lookup_num_tokens else [("max_matching_ngram_size", "prompt_lookup_num_tokens")]
    default = GenerationConfig()
    for name, needs in idle:
        if name in options and options[name] != getattr(default, name):
            warnings.warn(f"`{name}={options[name]!r}` has no effect without `{needs}`.", stacklevel=4)
    if semantics == "flax":
        names = {field.name for field in dataclasses.fields(config)} - _FLAX_READS
        unread = sorted(name for name in names if getattr(config, name) != getattr(default, name))
        if unread or has_trie:
            what = ", ".join([*unread, *(["prefix_allowed_tokens"] if has_trie else [])])
            raise ValueError(f'`semantics="flax"` knows what transformers 4.57\'s Flax loops know. They ignore {what}.')
        if config.do_sample and (config.num_beams > 1 or config.num_return_sequences > 1):
            raise ValueError('`semantics="flax"` draws one sequence per row, without beams. Use the default semantics.')
        if len(config.eos_token_ids) != 1:
            raise ValueError(f'`semantics="flax"` needs exactly one `eos_token_id`. Got {config.eos_token_ids}.')


def _check_vocabulary(config: GenerationConfig, vocab_size: int) -> None:
    def tokens(value: Any) -> list[int]:
        return [value] if isinstance(value, int) else [token for item in value or () for token in tokens(item)]

    named = {name: tokens(getattr(config, name)) for name in (
        "decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id", "forced_bos_token_id",
        "forced_eos_token_id", "bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens",
    )}  # fmt: skip
    named["sequence_bias"] = [token for sequence in config.sequence_biases for token in sequence]
    for name, found in named.items():
        if outside := [token for token in found if not 0 <= token < vocab_size]:
            raise ValueError(f"`{name}` has {outside}, but the model's tokens are 0 to {vocab_size - 1}.")
    if set(named["force_words_ids"]) & set(config.eos_token_ids):
        raise ValueError("`force_words_ids` must not have the token that ends a sequence.")


def _mask_or_none(mask: HostArray | None, tokens: Array | None) -> Bool[Array, "*batch seq"] | None:
    return None if mask is None or tokens is None else as_boolean(mask)


def _decoder_prompt(
    model: Writer,
    config: GenerationConfig,
    decoder_input_ids: HostArray | None,
    decoder_attention_mask: HostArray | None,
    batch: tuple[int, ...],
) -> tuple[Integer[Array, "*batch prompt"], Bool[Array, "*batch prompt"] | None]:
    """The start token, or the caller's tokens. As in transformers the start token is put before them where no row has
    it, if that can be seen."""
    start = jnp.full((*batch, 1), config.decoder_start_token_id, jnp.int32)
    if decoder_input_ids is None:
        if decoder_attention_mask is not None:
            raise ValueError("`decoder_attention_mask` speaks of `decoder_input_ids`, and these were not given.")
        return start, None
    prompt = jnp.asarray(check_token_ids("decoder_input_ids", decoder_input_ids, model.config.vocab_size))
    if prompt.shape[:-1] != batch or prompt.shape[-1] == 0:
        raise ValueError(f"`decoder_input_ids` must be {(*batch, 'prompt')}, a token at least. Got {prompt.shape}.")
    mask = _mask_or_none(decoder_attention_mask, prompt)
    if is_known(prompt) and (mask is None or is_known(mask)):
        first = np.zeros(batch, int)[..., None] if mask is None else np.asarray(mask).argmax(-1)[..., None]
        if (np.take_along_axis(np.asarray(prompt), first, -1) != config.decoder_start_token_id).all():
            prompt = jnp.concatenate([start, prompt], axis=-1)
            mask = None if mask is None else jnp.concatenate([jnp.ones(start.shape, bool), mask], axis=-1)
    return prompt, mask


def _length(model: Writer, config: GenerationConfig, prompt_length: int, semantics: Semantics, explicit: bool) -> int:
    """Slots at most. A `max_length` of 20 that was asked for is 20 tokens after the prompt in the Flax loops."""
    positions = model.config.max_position_embeddings
    if config.max_new_tokens is not None:
        length = prompt_length + config.max_new_tokens
    elif semantics == "flax" and explicit and config.max_length == GenerationConfig.max_length:
        length = min(config.max_length + prompt_length, positions)
    else:
        length = config.max_length
    if length <= prompt_length:
        raise ValueError(
            f"The prompt has {prompt_length} tokens, and max_length={length} counts them: there is nothing to write. "
            f"Raise `max_length`, or say `max_new_tokens`."
        )
    if length - 1 > positions:
        raise ValueError(
            f"The model has max_position_embeddings={positions}, and the last token needs no position: a sequence has "
            f"at most {positions + 1} tokens. Got max_length={length}."
        )
    least = max(config.min_length, prompt_length + (config.min_new_tokens or 0))
    if least > length:
        raise ValueError(f"A sequence of at most {length} tokens cannot have at least {least}. Lower `min_length`.")
    return length


def _masked(tokens: Integer[Array, "batch seq"], mask: Bool[Array, "batch seq"] | None) -> Integer[Array, "batch seq"]:
    return tokens if mask is None else jnp.where(mask, tokens, -1)


def _padded(
    source: Integer[Array, "*batch src"],
    mask: Bool[Array, "*batch src"] | None,
    pad_token_id: int,
    multiple: int,
    positions: int,
) -> tuple[Integer[Array, "*batch padded"], Bool[Array, "*batch padded"]]:
    length = source.shape[-1]
    extra = max(min(math.ceil(length / multiple) * multiple, positions) - length, 0)
    mask = jnp.ones(source.shape, bool) if mask is None else mask
    after = [(0, 0)] * (source.ndim - 1) + [(0, extra)]
    return jnp.pad(source, after, constant_values=pad_token_id), jnp.pad(mask, after)


def _trie(allowed: Sequence[Any], config: GenerationConfig, prompt_length: int, rows: int) -> PrefixTrie:
    """One set of sequences for all rows, or a set for each."""
    nested = bool(len(allowed)) and bool(len(allowed[0])) and not isinstance(allowed[0][0], (int, np.integer))
    sets = allowed if nested else [allowed]
    if len(sets) not in (1, rows):
        raise ValueError(
            f"`prefix_allowed_tokens` has {len(sets)} sets of sequences for {rows} rows. Give one, or {rows}."
        )
    return PrefixTrie.allowing(sets, config.eos_token_ids, prompt_length)

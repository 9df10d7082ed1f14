"""The arguments of one call of `generate` or `stream`: read, checked, and put on the device, before a search."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..generation_config import GenerationConfig
from ..model.checks import check_token_ids, is_known
from ..model.language_model import AbstractCausalLM, AbstractLanguageModel
from ..typing import Array, HostArray
from .checks import (
    Semantics,
    check_arguments,
    check_options,
    check_shapes,
    check_vocabulary,
    checked_length,
    split_traced,
)
from .decode_loop import Ending, ModelInputs
from .processors.from_config import flax_processors, number, pytorch_processors
from .processors.scores import LogitsProcessor, int_setting
from .processors.token_trie import PrefixTrie
from .sharding import RowSharding


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The validated arguments of one call."""

    config: GenerationConfig
    traced: Mapping[str, Float[Array, ""]]
    """Settings that the caller has traced. Those of `config` are placeholders."""
    inputs: ModelInputs
    source: Integer[Array, "batch src"] | None
    """The source's tokens, -1 at padding; for a decoder alone, those of its prompt."""
    processors: tuple[LogitsProcessor, ...]
    ending: Ending
    max_length: int
    """Slots of a whole sequence, prompt included."""
    buffer: int
    """`max_length`, rounded up to `pad_to_multiple_of`."""
    batch: tuple[int, ...]
    """The caller's batch axes. `inputs` has one axis for them."""
    source_length: int
    """Source tokens before rounding up; 0 without a source."""
    semantics: Semantics
    key: PRNGKeyArray | None
    sharding: RowSharding | None
    """Where the rows lie; `None` on a single device."""

    def number(self, name: str) -> Float[Array, ""]:
        """A setting as an array."""
        return number(self.config, self.traced, name)

    @property
    def padded_source_length(self) -> int:
        mask = self.inputs.encoder_attention_mask
        return self.source_length if mask is None else mask.shape[-1]

    @property
    def prompt_length(self) -> int:
        return self.inputs.prompt.shape[-1]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token ids and their mask, in NumPy where their values are known: NumPy compiles nothing."""

    ids: Integer[HostArray, "*batch seq"]
    mask: Bool[HostArray, "*batch seq"] | None
    """False at padding; `None` where there is none."""

    def padded(self, multiple: int, limit: int, pad_token_id: int) -> "Tokens":
        """Padded behind to a multiple of `multiple` tokens, but to `limit` at most."""
        length = self.ids.shape[-1]
        extra = max(min(math.ceil(length / multiple) * multiple, limit) - length, 0)
        mask = np.ones(self.ids.shape, bool) if self.mask is None else self.mask
        after = [(0, 0)] * (self.ids.ndim - 1) + [(0, extra)]
        pad: Any = np.pad if is_known(self.ids) and is_known(mask) else jnp.pad
        return Tokens(pad(self.ids, after, constant_values=pad_token_id), pad(mask, after))

    def marked(self) -> Integer[HostArray, "*batch seq"]:
        """The ids, and -1 at padding."""
        if self.mask is None:
            return self.ids
        where: Any = np.where if is_known(self.ids) and is_known(self.mask) else jnp.where
        return where(self.mask, self.ids, -1)


@dataclasses.dataclass(frozen=True)
class Texts:
    """What a call gives the model to read, in the caller's batch axes. `check_shapes` compares them."""

    prompt: Tokens
    source: Tokens | None
    """The source's ids, where they were given; for a decoder alone always `None`."""
    encoder_hidden_states: Float[HostArray, "... src dim"] | None
    encoder_attention_mask: Bool[HostArray, "... mask_src"] | None


def validated(given: Mapping[str, Any]) -> Arguments:
    """Read the arguments of `generate`, by name, with its `**options` under `options`.

    Raises:
        TypeError, ValueError: as `generate` does.
    """
    check_arguments(given)
    encoded = given["encoder_outputs"]
    sharding = RowSharding.of(
        [
            (given["input_ids"], 1),
            (None if encoded is None else encoded.last_hidden_state, 2),
            *[(given[name], 1) for name in ("decoder_input_ids", "attention_mask", "decoder_attention_mask")],
        ]
    )
    model, semantics = given["model"], given["semantics"]
    options, traced = split_traced(given["options"])
    multiple, allowed = given["pad_to_multiple_of"], given["prefix_allowed_tokens"]
    config = (given["generation_config"] or model.generation_config).override(**options)
    decoder_alone = isinstance(model, AbstractCausalLM)
    has = dict(has_trie=allowed is not None, has_key=given["key"] is not None)
    check_options(config, options, semantics, decoder_alone=decoder_alone, **has)
    check_vocabulary(config, model.config.vocab_size)

    texts = (_decoder_texts if decoder_alone else _encoder_decoder_texts)(model, config, given)
    prompt, source, states = texts.prompt, texts.source, texts.encoder_hidden_states
    source_mask = texts.encoder_attention_mask
    batch = prompt.ids.shape[:-1]
    check_shapes(prompt.ids, None if source is None else source.ids, source_mask, states)

    prompt_length = prompt.ids.shape[-1]
    max_length = checked_length(model, config, prompt_length, semantics, "max_length" in options)
    buffer = max_length
    source_length = states.shape[-2] if states is not None else 0 if source is None else source.ids.shape[-1]
    if multiple is not None:
        positions = model.config.max_position_embeddings
        buffer = min(math.ceil(max_length / multiple) * multiple, positions + 1)
        if source is not None and states is None:
            source = source.padded(multiple, positions, config.pad_token_id)
            source_mask = source.mask

    rows = math.prod(batch)
    place = jax.device_put if sharding is None else sharding.put_rows
    put = lambda x: place(x.reshape(rows, x.shape[-1]))
    put_given = lambda x: None if x is None else put(x)
    inputs = ModelInputs(
        prompt=put(prompt.ids),
        prompt_mask=put_given(prompt.mask),
        input_ids=None if states is not None or source is None else put(source.ids),
        encoder_hidden_states=None if states is None else place(states.reshape(rows, *states.shape[-2:])),
        encoder_attention_mask=put_given(source_mask),
    )
    read = prompt if decoder_alone else source
    tokens = None if read is None else put(read.marked())
    lengths = dict(prompt_length=prompt_length, max_length=max_length)
    if semantics == "flax":
        processors = flax_processors(config, traced, **lengths, custom=given["logits_processor"])
    else:
        trie = None
        if allowed is not None:
            sets = _allowed_sets(allowed, rows, model.config.vocab_size)
            trie = PrefixTrie.allowing(sets, config.eos_token_ids, prompt_length)
        processors = pytorch_processors(
            config, traced, **lengths, source=tokens, trie=trie, custom=given["logits_processor"]
        )
    return Arguments(
        config=config,
        traced=traced,
        inputs=inputs,
        source=tokens,
        processors=processors,
        ending=Ending(int_setting(max_length), int_setting(config.eos_token_ids), int_setting(config.pad_token_id)),
        max_length=max_length,
        buffer=buffer,
        batch=batch,
        source_length=source_length,
        semantics=semantics,
        key=given["key"],
        sharding=sharding,
    )


def _decoder_texts(model: AbstractLanguageModel, config: GenerationConfig, given: Mapping[str, Any]) -> Texts:
    """Of a decoder alone: `input_ids` are its prompt, and `encoder_outputs` have a mask of their own."""
    if given["decoder_input_ids"] is not None or given["decoder_attention_mask"] is not None:
        raise ValueError("A decoder alone takes its prompt as `input_ids`, with `attention_mask`.")
    outputs, source_mask = given["encoder_outputs"], given["encoder_attention_mask"]
    if source_mask is not None and outputs is None:
        raise ValueError("`encoder_attention_mask` was given without `encoder_outputs`.")
    states = None if outputs is None else outputs.last_hidden_state
    prompt = _input_tokens(model, config, given)
    if prompt is None:
        if given["attention_mask"] is not None:
            raise ValueError("`attention_mask` was given without `input_ids`.")
        batch = () if states is None else states.shape[:-2]
        prompt = Tokens(np.full((*batch, 1), config.bos_token_id, np.int32), None)
    return Texts(
        prompt=_with_needed_mask(prompt),
        source=None,
        encoder_hidden_states=states,
        encoder_attention_mask=None if source_mask is None else _on_host(source_mask) != 0,
    )


def _encoder_decoder_texts(model: AbstractLanguageModel, config: GenerationConfig, given: Mapping[str, Any]) -> Texts:
    """Of an encoder-decoder: `input_ids`, `encoder_outputs` or both are the source, and the prompt is the decoder's."""
    if given["encoder_attention_mask"] is not None:
        raise ValueError("For an encoder-decoder, give the source's mask as `attention_mask`.")
    if not model.config.is_encoder_decoder:
        raise ValueError(
            "The model's config says is_encoder_decoder=False, and the model is an encoder-decoder. Fix that field, or "
            "load the decoder alone as a AbstractCausalLM."
        )
    outputs, mask = given["encoder_outputs"], given["attention_mask"]
    states = None if outputs is None else outputs.last_hidden_state
    source = _input_tokens(model, config, given)
    if states is not None:
        batch = states.shape[:-2]
    elif source is not None:
        batch = source.ids.shape[:-1]
    else:
        raise ValueError("Give `input_ids`, or `encoder_outputs` from `model.encode`.")
    if source is not None:
        source_mask = source.mask
    else:
        source_mask = None if mask is None else _on_host(mask) != 0
    return Texts(
        prompt=_with_needed_mask(_decoder_prompt(model, config, given, batch)),
        source=source,
        encoder_hidden_states=states,
        encoder_attention_mask=source_mask,
    )


def _input_tokens(model: AbstractLanguageModel, config: GenerationConfig, given: Mapping[str, Any]) -> Tokens | None:
    """`input_ids` with `attention_mask`. Without a mask every `pad_token_id` is padding, as in transformers' PyTorch,
    unless it ends sequences as well."""
    if given["input_ids"] is None:
        return None
    ids = _token_ids("input_ids", given["input_ids"], model.config.vocab_size)
    mask = None
    if given["attention_mask"] is not None:
        mask = _on_host(given["attention_mask"]) != 0
    elif given["semantics"] == "pytorch" and config.pad_token_id not in config.eos_token_ids:
        mask = ids != config.pad_token_id
    return Tokens(ids, mask)


def _decoder_prompt(
    model: AbstractLanguageModel, config: GenerationConfig, given: Mapping[str, Any], batch: tuple[int, ...]
) -> Tokens:
    """`decoder_start_token_id`, or the caller's tokens. As in transformers the start token is put before them where no
    row has it; traced tokens are taken as they are."""
    start = np.full((*batch, 1), config.decoder_start_token_id, np.int32)
    mask = given["decoder_attention_mask"]
    if given["decoder_input_ids"] is None:
        if mask is not None:
            raise ValueError("`decoder_attention_mask` was given without `decoder_input_ids`.")
        return Tokens(start, None)
    prompt = _token_ids("decoder_input_ids", given["decoder_input_ids"], model.config.vocab_size)
    if prompt.shape[:-1] != batch or prompt.shape[-1] == 0:
        raise ValueError(
            f"`decoder_input_ids` must have shape {(*batch, 'prompt')}, with at least one token. Got {prompt.shape}."
        )
    mask = None if mask is None else _on_host(mask) != 0
    if is_known(prompt) and (mask is None or is_known(mask)):
        first = np.zeros(batch, int)[..., None] if mask is None else mask.argmax(-1)[..., None]
        if (np.take_along_axis(prompt, first, -1) != config.decoder_start_token_id).all():
            prompt = np.concatenate([start, prompt], axis=-1)
            mask = None if mask is None else np.concatenate([np.ones(start.shape, bool), mask], axis=-1)
    return Tokens(prompt, mask)


def _with_needed_mask(prompt: Tokens) -> Tokens:
    """A mask that is known to mask nothing is dropped."""
    if prompt.mask is None or not is_known(prompt.mask):
        return prompt
    if not prompt.mask.any(axis=-1).all():
        raise ValueError("A row of the prompt is all padding. Every row needs at least one token to go on from.")
    return Tokens(prompt.ids, None) if prompt.mask.all() else prompt


def _on_host(values: HostArray) -> Any:
    return np.asarray(values) if is_known(values) else values


def _token_ids(name: str, ids: HostArray, vocab_size: int) -> Any:
    """Checked, and of a dtype that has a -1."""
    return _on_host(check_token_ids(name, ids, vocab_size)).astype(np.int32)


def _allowed_sets(allowed: Sequence[Any], rows: int, vocab_size: int) -> list[list[list[int]]]:
    """`prefix_allowed_tokens` as sets of sequences: one for all rows, or one for each row."""
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
    return sets

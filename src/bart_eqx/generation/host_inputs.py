"""The source and the prompt of a call, with their masks, before they go to the device."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer

from ..config import BartConfig
from ..generation_config import GenerationConfig
from ..model.checks import check_token_ids, is_known
from ..typing import HostArray
from .request import Request


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token ids and their mask, in NumPy where their values are known, so that no small programs are compiled."""

    ids: Integer[HostArray, "*batch seq"]
    mask: Bool[HostArray, "*batch seq"] | None
    """False at padding; `None` where there is none."""

    def padded(self, multiple: int, limit: int, pad_token_id: int) -> "Tokens":
        """Padded at the end to a multiple of `multiple` tokens, but to at most `limit`."""
        length = self.ids.shape[-1]
        extra = max(min(math.ceil(length / multiple) * multiple, limit) - length, 0)
        mask = np.ones(self.ids.shape, bool) if self.mask is None else self.mask
        after = [(0, 0)] * (self.ids.ndim - 1) + [(0, extra)]
        pad: Any = np.pad if is_known(self.ids) and is_known(mask) else jnp.pad
        return Tokens(pad(self.ids, after, constant_values=pad_token_id), pad(mask, after))

    def marked(self) -> Integer[HostArray, "*batch seq"]:
        """The ids, with -1 at padding."""
        if self.mask is None:
            return self.ids
        where: Any = np.where if is_known(self.ids) and is_known(self.mask) else jnp.where
        return where(self.mask, self.ids, -1)


@dataclasses.dataclass(frozen=True)
class HostInputs:
    """The source and the prompt, in the caller's batch axes. `check_shapes` compares their shapes."""

    prompt: Tokens
    source: Tokens | None
    """The token ids of the source, where they were given; `None` for a decoder alone."""
    features: Float[HostArray, "... rows columns"] | None
    """The source of a model that reads features, such as spectrograms."""
    encoder_hidden_states: Float[HostArray, "... src dim"] | None
    encoder_attention_mask: Bool[HostArray, "... mask_src"] | None


def decoder_inputs(request: Request, config: GenerationConfig) -> HostInputs:
    """For a decoder alone: `input_ids` are its prompt, and `encoder_attention_mask` is that of `encoder_outputs`."""
    if request.decoder_input_ids is not None or request.decoder_attention_mask is not None:
        raise ValueError("A decoder alone takes its prompt as `input_ids`, with `attention_mask`.")
    states, source_mask = request.encoder_hidden_states, request.encoder_attention_mask
    if source_mask is not None and states is None:
        raise ValueError("`encoder_attention_mask` was given without `encoder_outputs`.")
    prompt = _input_tokens(request, config)
    if prompt is None:
        if request.attention_mask is not None:
            raise ValueError("`attention_mask` was given without `input_ids`.")
        batch = () if states is None else states.shape[:-2]
        prompt = Tokens(np.full((*batch, 1), config.bos_token_id, np.int32), None)
    return HostInputs(
        prompt=_with_needed_mask(prompt),
        source=None,
        features=None,
        encoder_hidden_states=states,
        encoder_attention_mask=None if source_mask is None else _on_host(source_mask) != 0,
    )


def encoder_decoder_inputs(request: Request, config: GenerationConfig) -> HostInputs:
    """For an encoder-decoder: `input_ids`, `encoder_outputs` or both are the source."""
    if request.encoder_attention_mask is not None:
        raise ValueError("For an encoder-decoder, give the source's mask as `attention_mask`.")
    if isinstance(request.model.config, BartConfig) and not request.model.config.is_encoder_decoder:
        raise ValueError(
            "The model's config says is_encoder_decoder=False, and the model is an encoder-decoder. Fix that field, or "
            "load the decoder alone as a BartForCausalLM."
        )
    states, mask = request.encoder_hidden_states, request.attention_mask
    features = request.input_ids if request.reads_features else None
    source = None if request.reads_features else _input_tokens(request, config)
    if states is not None:
        batch = states.shape[:-2]
    elif source is not None:
        batch = source.ids.shape[:-1]
    elif features is not None:
        batch = features.shape[:-2]
    else:
        raise ValueError("Give `input_ids`, or `encoder_outputs` from `model.encode`.")
    if source is not None:
        source_mask = source.mask
    else:
        source_mask = None if mask is None else _on_host(mask) != 0
    return HostInputs(
        prompt=_with_needed_mask(_decoder_prompt(request, config, batch)),
        source=source,
        features=features if states is None else None,
        encoder_hidden_states=states,
        encoder_attention_mask=source_mask,
    )


def _input_tokens(request: Request, config: GenerationConfig) -> Tokens | None:
    """`input_ids` with `attention_mask`. Without a mask every `pad_token_id` is padding, as in transformers' PyTorch,
    unless it ends sequences as well."""
    if request.input_ids is None:
        return None
    ids = _token_ids("input_ids", request.input_ids, request.model.config.vocab_size)
    mask = None
    if request.attention_mask is not None:
        mask = _on_host(request.attention_mask) != 0
    elif request.semantics == "pytorch" and config.pad_token_id not in config.eos_token_ids:
        mask = ids != config.pad_token_id
    return Tokens(ids, mask)


def _decoder_prompt(request: Request, config: GenerationConfig, batch: tuple[int, ...]) -> Tokens:
    """`decoder_start_token_id`, or the caller's tokens. As in transformers, the start token is prepended if no row
    begins with it. Traced tokens are not changed."""
    start = np.full((*batch, 1), config.decoder_start_token_id, np.int32)
    mask = request.decoder_attention_mask
    if request.decoder_input_ids is None:
        if mask is not None:
            raise ValueError("`decoder_attention_mask` was given without `decoder_input_ids`.")
        return Tokens(start, None)
    prompt = _token_ids("decoder_input_ids", request.decoder_input_ids, request.model.config.vocab_size)
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
    """Without a mask that is known to mask nothing."""
    if prompt.mask is None or not is_known(prompt.mask):
        return prompt
    if not prompt.mask.any(axis=-1).all():
        raise ValueError("A row of the prompt is all padding. Every row needs at least one token to continue.")
    return Tokens(prompt.ids, None) if prompt.mask.all() else prompt


def _on_host(values: HostArray) -> Any:
    return np.asarray(values) if is_known(values) else values


def _token_ids(name: str, ids: HostArray, vocab_size: int) -> Any:
    """The ids, checked, and as int32, which has -1."""
    return _on_host(check_token_ids(name, ids, vocab_size)).astype(np.int32)

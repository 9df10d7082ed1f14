"""Checks of a call before its search: types, options that contradict each other, token ids, shapes, lengths."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from ..generation_config import GenerationConfig
from ..generation_options import BEAMS, SAMPLING
from ..model.checks import warn_at_caller
from ..model.language_model import AbstractLanguageModel
from ..model.outputs import BaseModelOutput
from ..model.signature import described
from ..typing import Array, HostArray
from .request import Request, Semantics


_FLAX_READS = frozenset(
    "max_length max_new_tokens min_length decoder_start_token_id bos_token_id pad_token_id eos_token_id "
    "forced_bos_token_id forced_eos_token_id do_sample num_beams num_return_sequences early_stopping length_penalty "
    "temperature top_k top_p no_repeat_ngram_size suppress_tokens begin_suppress_tokens "
    "output_scores output_logits output_attentions output_hidden_states unusable".split()
)

# Settings that may be traced, and a placeholder for each, with which the option is on. What is compiled depends on
# whether it is on, not on the number.
_TRACEABLE = dict(
    temperature=0.5,
    top_p=0.5,
    min_p=0.5,
    top_h=0.5,
    typical_p=0.5,
    epsilon_cutoff=0.5,
    eta_cutoff=0.5,
    repetition_penalty=2.0,
    encoder_repetition_penalty=2.0,
    length_penalty=2.0,
    diversity_penalty=2.0,
)


def check_arguments(request: Request) -> None:
    """Check the types of all arguments of `generate`, the dtypes of arrays, and the shapes of masks.

    Raises:
        TypeError, ValueError: as `generate` does.
    """
    if not isinstance(request.model, AbstractLanguageModel):
        raise TypeError(
            "`model` must be a language model, as BartForConditionalGeneration, BartForCausalLM or another "
            f"AbstractLanguageModel. Got {described(request.model)}."
        )
    if request.reads_features:
        _check_array("input_ids", request.input_ids, "floats [*batch, rows, columns]", jnp.floating, ndim=2)
    else:
        _check_array("input_ids", request.input_ids, "integers [*batch, src]", jnp.integer)
    _check_array("decoder_input_ids", request.decoder_input_ids, "integers [*batch, prompt]", jnp.integer)
    # A mask over features has the shape of the encoder's states, of which a model may make fewer.
    source_ids = None if request.reads_features else request.input_ids
    _check_mask("attention_mask", request.attention_mask, "input_ids", source_ids)
    _check_mask(
        "decoder_attention_mask", request.decoder_attention_mask, "decoder_input_ids", request.decoder_input_ids
    )
    _check_mask("encoder_attention_mask", request.encoder_attention_mask)
    outputs = request.encoder_outputs
    if outputs is not None:
        if not isinstance(outputs, BaseModelOutput):
            raise TypeError(f"`encoder_outputs` must be what `model.encode` returns. Got {described(outputs)}.")
        name = "encoder_outputs.last_hidden_state"
        _check_array(name, outputs.last_hidden_state, "floats [*batch, src, dim]", jnp.floating, ndim=2)
    if not isinstance(request.generation_config, GenerationConfig | None):
        kind = described(request.generation_config)
        raise TypeError(
            f"`generation_config` must be a GenerationConfig, as GenerationConfig.from_dict makes one. Got {kind}."
        )
    if request.semantics not in ("pytorch", "flax"):
        raise ValueError(f'`semantics` must be "pytorch" or "flax". Got {request.semantics!r:.80}.')
    custom = request.logits_processor
    if not isinstance(custom, Sequence) or not all(map(callable, custom)):
        raise TypeError(f"`logits_processor` must be a list of functions. Got {described(custom)}.")
    multiple = request.pad_to_multiple_of
    if multiple is not None and (not isinstance(multiple, int) or multiple < 1):
        raise ValueError(f"`pad_to_multiple_of` must be at least 1. Got {multiple!r:.80}.")
    key = request.key
    if key is not None and not (isinstance(key, Array) and _is_key(key)):
        raise TypeError(f"`key` must be one JAX key, as from jax.random.key(0). Got {described(key)}.")


def _check_mask(name: str, mask: Any, ids_name: str = "", ids: Any = None) -> None:
    """The mask of `ids`, where they were given."""
    _check_array(name, mask, "booleans or integers, False or zero at padding", jnp.integer, jnp.bool_)
    if mask is not None and ids is not None and mask.shape != ids.shape:
        raise ValueError(f"`{name}` must have the shape of `{ids_name}`, {ids.shape}. Got {mask.shape}.")


def _check_array(name: str, value: Any, wanted: str, *dtypes: Any, ndim: int = 1) -> None:
    if value is None:
        return
    if not isinstance(value, (Array, np.ndarray)):
        raise TypeError(
            f"`{name}` must be a NumPy or JAX array of {wanted}. Got {described(value)}; numpy.asarray converts it."
        )
    if not any(jnp.issubdtype(value.dtype, dtype) for dtype in dtypes) or value.ndim < ndim:
        raise TypeError(f"`{name}` must be an array of {wanted}. Got {described(value)}.")


def _is_key(key: Array) -> bool:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.shape == ()
    return key.dtype == np.uint32 and key.shape == (2,)


def split_traced(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Float[Array, ""]]]:
    """The options, with placeholders for traced values; and the traced values by name, in float32.

    Raises:
        TypeError: if an option is traced that decides what is compiled.
    """
    traced = {name: value for name, value in options.items() if isinstance(value, Tracer)}
    if fixed := sorted(traced.keys() - _TRACEABLE.keys()):
        raise TypeError(
            f"`{fixed[0]}` is traced by jax.jit, jax.vmap or jax.grad, and must be a plain value: it decides what is "
            f"compiled. These may be traced: {', '.join(_TRACEABLE)}."
        )
    for name, value in traced.items():
        if value.shape != ():
            raise ValueError(f"`{name}` must be a single number. Got {described(value)}.")
    plain = {name: _TRACEABLE[name] if name in traced else value for name, value in options.items()}
    return plain, {name: jnp.asarray(value, jnp.float32) for name, value in traced.items()}


def check_options(
    config: GenerationConfig,
    options: dict[str, Any],
    semantics: Semantics,
    *,
    decoder_alone: bool,
    has_trie: bool,
    has_key: bool,
) -> None:
    """Refuse options that contradict each other, and warn of those without effect. `config` has all settings, `options`
    only those of this call."""
    if config.do_sample and not has_key:
        raise ValueError(
            "Sampling draws from `key`. Give one, as in generate(..., do_sample=True, key=jax.random.key(0))."
        )
    idle = [] if config.do_sample else [(name, "do_sample=True") for name in SAMPLING]
    idle += [] if config.num_beams > 1 else [(name, "num_beams > 1") for name in BEAMS]
    idle += [] if config.prompt_lookup_num_tokens else [("max_matching_ngram_size", "prompt_lookup_num_tokens")]
    default = GenerationConfig()
    for name, needs in idle:
        if options.get(name) is not None and options[name] != getattr(default, name):
            warn_at_caller(f"`{name}={options[name]!r}` has no effect without `{needs}`.")
    if has_key and not config.do_sample:
        warn_at_caller("`key` has no effect without `do_sample=True`.")
    start = "decoder_start_token_id" if decoder_alone else "bos_token_id"  # the other kind of model starts with it
    if options.get(start) is not None:
        kind = "a decoder alone" if decoder_alone else "an encoder-decoder"
        warn_at_caller(f"`{start}={options[start]!r}` has no effect on {kind}.")
    if semantics == "flax":
        names = {field.name for field in dataclasses.fields(config)} - _FLAX_READS
        unread = sorted(name for name in names if getattr(config, name) != getattr(default, name))
        unread += ["prefix_allowed_tokens"] if has_trie else []
        if unread:
            raise ValueError(
                f'`semantics="flax"` has the options of transformers 4.57\'s Flax loops, which ignore '
                f"{', '.join(unread)}."
            )
        if config.do_sample and (config.num_beams > 1 or config.num_return_sequences > 1):
            raise ValueError('`semantics="flax"` draws one sequence per row, without beams. Use the default semantics.')
        if len(config.eos_token_ids) != 1:
            raise ValueError(f'`semantics="flax"` needs exactly one `eos_token_id`. Got {config.eos_token_ids}.')


def _flat(tokens: Any) -> list[int]:
    """A token, a nested list of tokens or `None`, as a flat list."""
    return [tokens] if isinstance(tokens, int) else [token for item in tokens or () for token in _flat(item)]


def check_vocabulary(config: GenerationConfig, vocab_size: int) -> None:
    named = {name: _flat(getattr(config, name)) for name in (
        "decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id", "forced_bos_token_id",
        "forced_eos_token_id", "bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens",
    )}  # fmt: skip
    named["sequence_bias"] = [token for sequence in config.sequence_biases for token in sequence]
    for name, ids in named.items():
        check_tokens(name, ids, vocab_size)
    if set(named["force_words_ids"]) & set(config.eos_token_ids):
        raise ValueError("`force_words_ids` must not have the token that ends a sequence.")


def check_tokens(name: str, tokens: Sequence[int], vocab_size: int) -> None:
    if outside := [token for token in tokens if not 0 <= token < vocab_size]:
        raise ValueError(f"`{name}` has {outside!s:.80}, but the model's tokens are 0 to {vocab_size - 1}.")


def check_shapes(
    prompt: HostArray, source: HostArray | None, source_mask: HostArray | None, encoder_hidden_states: HostArray | None
) -> None:
    """Check ids and masks against each other and against `encoder_outputs`."""
    if encoder_hidden_states is not None:
        batch, tokens = encoder_hidden_states.shape[:-2], encoder_hidden_states.shape[:-1]
        axes = dict(prompt=prompt.shape[:-1]) | ({} if source is None else dict(input_ids=source.shape[:-1]))
        if wrong := [f"{name} {shape}" for name, shape in axes.items() if shape != batch]:
            raise ValueError(f"`encoder_outputs` has batch axes {batch}, and others {', '.join(wrong)}.")
        for array in (source, source_mask):
            if array is not None and array.shape != tokens:
                raise ValueError(f"`encoder_outputs` are of {tokens} tokens; ids or mask {array.shape}.")
    if 0 in prompt.shape[:-1] or (source is not None and source.shape[-1] == 0):
        raise ValueError("The batch or the source is empty.")


def checked_length(
    model: AbstractLanguageModel, config: GenerationConfig, prompt_length: int, semantics: Semantics, explicit: bool
) -> int:
    """The slots of a whole sequence, prompt included. `explicit`: whether the call itself set `max_length`. In the Flax
    loops an explicit 20, which is also the default, means 20 tokens after the prompt."""
    positions = model.config.max_position_embeddings
    if config.max_new_tokens is not None:
        length = prompt_length + config.max_new_tokens
    elif semantics == "flax" and explicit and config.max_length == GenerationConfig.max_length:
        length = min(config.max_length + prompt_length, positions)
    else:
        length = config.max_length
    if length <= prompt_length:
        raise ValueError(
            f"The prompt has {prompt_length} tokens, and max_length={length} counts them: none is left to generate. "
            f"Raise `max_length`, or set `max_new_tokens`."
        )
    if length - 1 > positions:
        raise ValueError(
            f"The model has max_position_embeddings={positions}, and the last token needs no position: a sequence has "
            f"at most {positions + 1} tokens. Got max_length={length}."
        )
    least = max(config.min_length, prompt_length + (config.min_new_tokens or 0))
    if least > length:
        raise ValueError(
            f"A sequence of at most {length} tokens cannot have at least {least}. Lower `min_length` or "
            f"`min_new_tokens`, which may have come with the checkpoint."
        )
    return length

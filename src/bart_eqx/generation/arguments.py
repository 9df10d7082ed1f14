"""From a `Request` to the `Arguments` of a search: checked, and on the device."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Float, Integer, PRNGKeyArray

from ..generation_config import GenerationConfig
from ..model.language_model import AbstractCausalLM
from ..typing import Array
from .allowed_sequences import check_reachable, parse_sets, with_end
from .checks import check_arguments, check_options, check_shapes, check_vocabulary, checked_length, split_traced
from .decode_loop import EndAndPadding
from .host_inputs import decoder_inputs, encoder_decoder_inputs
from .model_calls import ModelInputs
from .processors.from_config import flax_processors, number, pytorch_processors
from .processors.scores import LogitsProcessor, int_setting
from .processors.token_trie import PrefixTrie
from .request import Request, Semantics
from .sharding import RowSharding


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The validated arguments of one call, for a search."""

    config: GenerationConfig
    traced: Mapping[str, Float[Array, ""]]
    """Settings that the caller has traced, for which `config` has placeholders."""
    inputs: ModelInputs
    source: Integer[Array, "batch src"] | None
    """The source's tokens, -1 at padding; for a decoder alone, those of its prompt."""
    processors: tuple[LogitsProcessor, ...]
    allowed: PrefixTrie | None
    """The processor for `prefix_allowed_tokens`, which is also among `processors`."""
    ending: EndAndPadding
    max_length: int
    """Slots of a whole sequence, prompt included."""
    buffer: int
    """`max_length`, rounded up to `pad_to_multiple_of`."""
    batch: tuple[int, ...]
    """The caller's batch axes, which are one axis in `inputs`."""
    source_length: int
    """Source tokens before rounding up; 0 without a source, and where the source is features."""
    semantics: Semantics
    key: PRNGKeyArray | None
    sharding: RowSharding | None
    """How the rows are sharded; `None` on a single device."""

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


def validated(request: Request) -> Arguments:
    """Check a request, and put its arrays on the device.

    Raises:
        TypeError, ValueError: as `generate` does.
    """
    check_arguments(request)
    sharding = _row_sharding(request)
    model, semantics = request.model, request.semantics
    options, traced = split_traced(request.options)
    multiple, allowed = request.pad_to_multiple_of, request.prefix_allowed_tokens
    config = (request.generation_config or model.generation_config).override(**options)
    decoder_alone = isinstance(model, AbstractCausalLM)
    check_options(
        config,
        options,
        semantics,
        decoder_alone=decoder_alone,
        has_trie=allowed is not None,
        has_key=request.key is not None,
    )
    check_vocabulary(config, model.config.vocab_size)

    if decoder_alone:
        host_inputs = decoder_inputs(request, config)
    else:
        host_inputs = encoder_decoder_inputs(request, config)
    prompt, source, features = host_inputs.prompt, host_inputs.source, host_inputs.features
    states, source_mask = host_inputs.encoder_hidden_states, host_inputs.encoder_attention_mask
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
    device_put = jax.device_put if sharding is None else sharding.put_rows
    # With one batch axis; the last `ndim` axes are not batch axes. A lambda, because beartype writes the checks of an
    # inner function again in every call.
    put_rows: Callable[..., Any] = lambda x, ndim=1: (
        None if x is None else device_put(x.reshape(rows, *x.shape[x.ndim - ndim :]))
    )

    if source is not None and states is None:
        to_encode = put_rows(source.ids)
    else:
        to_encode = put_rows(features, ndim=2)
    inputs = ModelInputs(
        prompt=put_rows(prompt.ids),
        prompt_mask=put_rows(prompt.mask),
        input_ids=to_encode,
        encoder_hidden_states=put_rows(states, ndim=2),
        encoder_attention_mask=put_rows(source_mask),
    )
    # The tokens that processors and prompt lookup read as those of the source.
    looked_up = prompt if decoder_alone else source
    source_tokens = None if looked_up is None else put_rows(looked_up.marked())
    lengths = dict(prompt_length=prompt_length, max_length=max_length)
    trie = None
    if semantics == "flax":
        processors = flax_processors(config, traced, **lengths, custom=request.logits_processor)
    else:
        if allowed is not None:
            sets = parse_sets(allowed, rows, model.config.vocab_size)
            check_reachable(sets, config, prompt, looked_up, max_length)
            ended = [[with_end(sequence, config.eos_token_ids) for sequence in sequences] for sequences in sets]
            trie = PrefixTrie.allowing(ended, config.eos_token_ids, prompt_length)
        processors = pytorch_processors(
            config, traced, **lengths, source=source_tokens, trie=trie, custom=request.logits_processor
        )
    return Arguments(
        config=config,
        traced=traced,
        inputs=inputs,
        source=source_tokens,
        processors=processors,
        allowed=trie,
        ending=EndAndPadding(
            int_setting(max_length), int_setting(config.eos_token_ids), int_setting(config.pad_token_id)
        ),
        max_length=max_length,
        buffer=buffer,
        batch=batch,
        source_length=source_length,
        semantics=semantics,
        key=request.key,
        sharding=sharding,
    )


def _row_sharding(request: Request) -> RowSharding | None:
    return RowSharding.of(
        [
            (request.input_ids, 2 if request.reads_features else 1),
            (request.encoder_hidden_states, 2),
            (request.decoder_input_ids, 1),
            (request.attention_mask, 1),
            (request.decoder_attention_mask, 1),
            (request.encoder_attention_mask, 1),
        ]
    )

"""The interface between a model and `generate`."""

import abc
from typing import Any, Protocol

import equinox as eqx
from jaxtyping import Float, Integer, PRNGKeyArray, Shaped

from ..generation_config import GenerationConfig
from ..typing import HostArray, Mask
from .cache import DecoderCache
from .outputs import BaseModelOutput


class LanguageModelConfig(Protocol):
    """The two sizes that a search reads."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_position_embeddings(self) -> int:
        """Positions of the decoder."""
        ...


class AbstractLanguageModel(eqx.Module):
    """A model that predicts the next token, with a cache. Subclass one of the two below."""

    config: eqx.AbstractVar[LanguageModelConfig]
    generation_config: eqx.AbstractVar[GenerationConfig]
    """The settings of `generate`, where a call does not override them."""

    @abc.abstractmethod
    def decode(
        self,
        decoder_input_ids: Integer[HostArray, "*batch new"],
        cache: DecoderCache,
        *,
        decoder_attention_mask: Mask[HostArray, "*batch mask_len"] | Mask[HostArray, "*batch new slots"] | None = None,
        decoder_position_ids: Integer[HostArray, "*#batch new"] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Any:
        """`(output, cache)`: the logits after each new token, and the cache with these tokens.

        The arguments are those of [`BartModel.decode`][bart_eqx.BartModel.decode]. `output` is a
        `CausalLMOutputWithCrossAttentions`.
        """


class AbstractSeq2SeqLM(AbstractLanguageModel):
    """An encoder-decoder: `generate` takes its source."""

    source_ndim: eqx.AbstractClassVar[int]
    """The axes of one source: 1 for token ids `[src]`, 2 for features `[rows, columns]`, a spectrogram for example."""

    @abc.abstractmethod
    def encode(
        self,
        input_ids: Shaped[HostArray, "*batch_and_source"],
        attention_mask: Mask[HostArray, "*batch src"] | None = None,
    ) -> BaseModelOutput:
        """The states of the source: token ids `[*batch, src]`, or features `[*batch, rows, columns]`.

        Of token ids there is one state for each, independent of other rows and of padding behind the tokens: rows may
        be encoded alone, without their padding.
        """

    @abc.abstractmethod
    def init_cache(
        self,
        encoder_outputs: BaseModelOutput,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        *,
        max_length: int,
    ) -> DecoderCache:
        """An empty cache with `max_length` slots over an encoded source."""


class AbstractCausalLM(AbstractLanguageModel):
    """A decoder alone: `generate` takes its prompt."""

    @abc.abstractmethod
    def init_cache(
        self,
        batch_size: int | None,
        *,
        max_length: int,
        encoder_hidden_states: Float[HostArray, "*batch src dim"] | None = None,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
    ) -> DecoderCache:
        """An empty cache with `max_length` slots in each of `batch_size` rows; `None` for one sequence."""

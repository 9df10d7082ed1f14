"""`BartForConditionalGeneration`: BART with a language-modelling head."""

from collections.abc import Callable
from typing import Any, ClassVar, overload

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from ..config import BartConfig
from ..generation_config import GenerationConfig
from ..typing import Array, HostArray, Mask
from .bart import BartModel
from .cache import DecoderCache
from .head import AbstractBartHead, init_lm_head
from .language_model import AbstractSeq2SeqLM
from .layers import AbstractLinear
from .outputs import (
    BaseModelOutput,
    BaseModelOutputWithCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    Seq2SeqLMOutput,
)
from .signature import one_sentence_errors


class BartForConditionalGeneration(AbstractBartHead, AbstractSeq2SeqLM):
    """BART with a language-modelling head: summaries, translations, infilling; see `bart_eqx.generate`."""

    model: BartModel
    lm_head: AbstractLinear | None
    """`None` where the head is tied: it then reads `model.shared`, the one copy of the embedding."""
    final_logits_bias: Float[Array, "1 vocab"]
    """Never trained, as in the reference: it stands behind a `stop_gradient`."""
    generation_config: GenerationConfig
    """A leaf of the PyTree that is not an array, as a function in `equinox.nn.MLP` is: `eqx.tree_at` replaces it."""
    source_ndim: ClassVar[int] = 1

    @one_sentence_errors
    def __init__(
        self,
        config: BartConfig,
        *,
        generation_config: GenerationConfig | None = None,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        """
        Args:
            config: The sizes of the model.
            generation_config: The settings of `generate`; by default they have the token ids of `config`.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        model_key, head_key = jr.split(key)
        self.model = BartModel(config, dtype=dtype, key=model_key)
        self.lm_head = init_lm_head(config, dtype=dtype, key=head_key)
        self.final_logits_bias = jnp.zeros((1, config.vocab_size), dtype)
        self.generation_config = generation_config or GenerationConfig.from_model_config(config)

    @one_sentence_errors
    def lm_logits(self, states: Float[Array, "*batch tgt dim"]) -> Float[Array, "*batch tgt vocab"]:
        """The head: logits over the vocabulary from the decoder's last hidden states."""
        logits = self.model.shared.logits(states) if self.lm_head is None else self.lm_head(states)
        return logits + jax.lax.stop_gradient(self.final_logits_bias[0])

    @overload
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
    ) -> tuple[CausalLMOutputWithCrossAttentions, DecoderCache]: ...

    @overload
    def decode(
        self,
        decoder_input_ids: Integer[HostArray, "*batch new"],
        cache: None = None,
        *,
        encoder_outputs: BaseModelOutput,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        decoder_attention_mask: Mask[HostArray, "*batch mask_len"] | Mask[HostArray, "*batch new slots"] | None = None,
        decoder_position_ids: Integer[HostArray, "*#batch new"] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> CausalLMOutputWithCrossAttentions: ...

    @one_sentence_errors
    def decode(
        self,
        decoder_input_ids: Integer[HostArray, "*batch new"],
        cache: DecoderCache | None = None,
        *,
        encoder_outputs: BaseModelOutput | None = None,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        decoder_attention_mask: Mask[HostArray, "*batch mask_len"] | Mask[HostArray, "*batch new slots"] | None = None,
        decoder_position_ids: Integer[HostArray, "*#batch new"] | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> CausalLMOutputWithCrossAttentions | tuple[CausalLMOutputWithCrossAttentions, DecoderCache]:
        """As [`BartModel.decode`][bart_eqx.BartModel.decode], with `logits` `[*batch, new, vocab]` for states."""
        decode: Callable[..., Any] = self.model.decode  # its two overloads are those of this method
        decoded = decode(
            decoder_input_ids,
            cache,
            encoder_outputs=encoder_outputs,
            encoder_attention_mask=encoder_attention_mask,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )
        if cache is None:
            return self._with_logits(decoded)
        states, extended = decoded
        return self._with_logits(states), extended

    def _with_logits(self, decoded: BaseModelOutputWithCrossAttentions) -> CausalLMOutputWithCrossAttentions:
        return CausalLMOutputWithCrossAttentions(
            logits=self.lm_logits(decoded.last_hidden_state),
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )

    @one_sentence_errors
    def __call__(
        self,
        input_ids: Integer[HostArray, "*batch src"],
        attention_mask: Mask[HostArray, "*batch src"] | None = None,
        decoder_input_ids: Integer[HostArray, "*batch tgt"] | None = None,
        decoder_attention_mask: Mask[HostArray, "*batch tgt"] | None = None,
        position_ids: Integer[HostArray, "*#batch src"] | None = None,
        decoder_position_ids: Integer[HostArray, "*#batch tgt"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> Seq2SeqLMOutput:
        """As [`BartModel.__call__`][bart_eqx.BartModel.__call__], with `logits` `[*batch, tgt, vocab]`."""
        out = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            position_ids,
            decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )
        return Seq2SeqLMOutput(logits=self.lm_logits(out.last_hidden_state), **out.states())

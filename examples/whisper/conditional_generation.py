"""`WhisperForConditionalGeneration`: what `bart_eqx.generate` and `bart_eqx.stream` take."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer, PRNGKeyArray

import bart_eqx
from bart_eqx.model.layers import Linear
from bart_eqx.model.outputs import CausalLMOutputWithCrossAttentions, Seq2SeqLMOutput
from bart_eqx.typing import HostArray, Mask

from .config import WhisperConfig
from .model import WhisperModel


class WhisperForConditionalGeneration(bart_eqx.AbstractSeq2SeqLM):
    """Whisper with its language-modelling head: `FlaxWhisperForConditionalGeneration` of transformers."""

    model: WhisperModel
    lm_head: bart_eqx.AbstractLinear | None
    """`None` where the head is tied to the table of tokens."""
    generation_config: bart_eqx.GenerationConfig
    config: WhisperConfig = eqx.field(static=True)
    source_ndim: ClassVar[int] = 2

    def __init__(
        self,
        config: WhisperConfig,
        *,
        generation_config: bart_eqx.GenerationConfig | None = None,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        """
        Args:
            config: The sizes of the model.
            generation_config: The settings of `generate`; by default they have the token ids of `config`.
            dtype: Of the parameters.
            key: For the initial weights.
        """
        model_key, head_key = jr.split(key)
        self.model = WhisperModel(config, dtype=dtype, key=model_key)
        head: dict[str, Any] = dict(use_bias=False, init_std=config.init_std, dtype=dtype, key=head_key)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.d_model, config.vocab_size, **head)
        self.generation_config = generation_config or bart_eqx.GenerationConfig.from_model_config(config)
        self.config = config

    def encode(
        self, input_ids: Float[HostArray, "*batch mel frames"], attention_mask: Any = None, **options: Any
    ) -> bart_eqx.BaseModelOutput:
        """As `WhisperModel.encode`.

        Raises:
            ValueError: if there is a mask, or the spectrograms have another shape than the model's.
        """
        if attention_mask is not None:
            raise ValueError("Whisper reads silence like all else, and its encoder has no mask. Leave it out.")
        return self.model.encode(input_ids, **options)

    def init_cache(
        self,
        encoder_outputs: bart_eqx.BaseModelOutput,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        *,
        max_length: int,
    ) -> bart_eqx.DecoderCache:
        """`max_length` empty slots over sources that `encode` has read."""
        states = encoder_outputs.last_hidden_state
        table, decoder = self.model.tokens, self.model.decoder
        return decoder.init_cache(table, states.shape[:-2], max_length, states, encoder_attention_mask)

    def lm_logits(self, states: Float[Array, "*batch tgt dim"]) -> Float[Array, "*batch tgt vocab"]:
        return self.model.tokens.logits(states) if self.lm_head is None else self.lm_head(states)

    def decode(
        self,
        decoder_input_ids: Integer[HostArray, "*batch new"],
        cache: bart_eqx.DecoderCache,
        *,
        decoder_attention_mask: Any = None,
        decoder_position_ids: Any = None,
        **options: Any,
    ) -> tuple[CausalLMOutputWithCrossAttentions, bart_eqx.DecoderCache]:
        """As `WhisperModel.decode`, with logits `[*batch, new, vocab]`."""
        decoded, cache = self.model.decode(
            decoder_input_ids, cache, decoder_attention_mask, decoder_position_ids, **options
        )
        return CausalLMOutputWithCrossAttentions(
            logits=self.lm_logits(decoded.last_hidden_state),
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        ), cache

    def __call__(
        self,
        input_features: Float[HostArray, "*batch mel frames"],
        decoder_input_ids: Integer[HostArray, "*batch tgt"],
        *masks: Any,
        **options: Any,
    ) -> Seq2SeqLMOutput:
        """As `WhisperModel`, with logits `[*batch, tgt, vocab]`."""
        out = self.model(input_features, decoder_input_ids, *masks, **options)
        return Seq2SeqLMOutput(logits=self.lm_logits(out.last_hidden_state), **out.states())

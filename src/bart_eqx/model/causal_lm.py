"""`BartForCausalLM`: the decoder alone, as a language model, or over the states of another encoder."""

from typing import overload

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from ..config import BartConfig
from ..generation_config import GenerationConfig
from ..migration import TransformersModel
from ..typing import Array, Dim, HostArray, Mask
from .cache import DecoderCache
from .checks import check_token_ids
from .decoder import BartDecoder
from .embeddings import AbstractEmbedding, Embedding
from .head import init_lm_head
from .language_model import AbstractCausalLM
from .layers import AbstractLinear
from .outputs import BaseModelOutputWithCrossAttentions, CausalLMOutputWithCrossAttentions
from .signature import one_sentence_errors


class BartDecoderWrapper(eqx.Module):
    """Holds the decoder under the name that it has in a checkpoint, `model.decoder`."""

    decoder: BartDecoder

    @property
    def embed_tokens(self) -> AbstractEmbedding:
        assert self.decoder.embed_tokens is not None
        return self.decoder.embed_tokens

    def __call__(
        self,
        input_ids: Integer[HostArray, "*batch new"],
        attention_mask: Mask[HostArray, "*batch mask_len"] | Mask[HostArray, "*batch new slots"] | None = None,
        position_ids: Integer[HostArray, "*#batch new"] | None = None,
        encoder_hidden_states: Float[HostArray, "*batch src dim"] | None = None,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        *,
        cache: DecoderCache | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[BaseModelOutputWithCrossAttentions, DecoderCache]:
        """The last hidden states, and the cache after these tokens. Arguments of `BartForCausalLM`."""
        if cache is not None and not (encoder_hidden_states is None and encoder_attention_mask is None):
            raise ValueError("A cache holds its source: give `encoder_hidden_states` to `init_cache`, not here.")
        if encoder_attention_mask is not None and encoder_hidden_states is None:
            raise ValueError("`encoder_attention_mask` was given without `encoder_hidden_states`.")
        *batch, new = input_ids.shape
        if cache is None:
            states = None if encoder_hidden_states is None else jnp.asarray(encoder_hidden_states)
            cache = self.decoder.init_cache(self.embed_tokens, tuple(batch), new, states, encoder_attention_mask)
        return self.decoder(
            self.embed_tokens(input_ids),
            cache,
            attention_mask,
            position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )


class BartForCausalLM(AbstractCausalLM, TransformersModel):
    """A BART decoder with a language-modelling head.

    Its layers keep their cross attention, which is used where `encoder_hidden_states` are given and skipped otherwise.
    """

    model: BartDecoderWrapper
    lm_head: AbstractLinear | None
    """`None` where the head is tied: it then reads `model.decoder.embed_tokens`, the one copy of the embedding."""
    config: BartConfig = eqx.field(static=True)
    generation_config: GenerationConfig
    """A leaf of the PyTree that is not an array, as a function in `equinox.nn.MLP` is: `eqx.tree_at` replaces it."""

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
            config: The sizes of the model, of which the encoder's are not used.
            generation_config: The settings of `generate`; by default they have the token ids of `config`.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        embed_key, decoder_key, head_key = jr.split(key, 3)
        embed_tokens = Embedding(
            config.vocab_size, config.d_model, init_std=config.init_std, dtype=dtype, key=embed_key
        )
        self.model = BartDecoderWrapper(
            BartDecoder.from_config(config, embed_tokens=embed_tokens, dtype=dtype, key=decoder_key)
        )
        self.lm_head = init_lm_head(config, dtype=dtype, key=head_key)
        self.config = config
        self.generation_config = generation_config or GenerationConfig.from_model_config(config)

    @property
    def embed_tokens(self) -> AbstractEmbedding:
        return self.model.embed_tokens

    @one_sentence_errors
    def lm_logits(self, states: Float[Array, "*batch tgt dim"]) -> Float[Array, "*batch tgt vocab"]:
        """The head: logits over the vocabulary from the last hidden states."""
        return self.embed_tokens.logits(states) if self.lm_head is None else self.lm_head(states)

    @one_sentence_errors
    def init_cache(
        self,
        batch_size: int | None,
        *,
        max_length: Dim,
        encoder_hidden_states: Float[HostArray, "*batch src dim"] | None = None,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
    ) -> DecoderCache:
        """An empty cache with room for `max_length` tokens in each of `batch_size` rows; `None` for one sequence.

        Raises:
            ValueError: if `max_length` is more than `config.max_position_embeddings`.
        """
        batch = () if batch_size is None else (batch_size,)
        states = None if encoder_hidden_states is None else jnp.asarray(encoder_hidden_states)
        return self.model.decoder.init_cache(self.embed_tokens, batch, max_length, states, encoder_attention_mask)

    @one_sentence_errors
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
    ) -> tuple[CausalLMOutputWithCrossAttentions, DecoderCache]:
        """A call over a cache, with the name and the arguments of an encoder-decoder's method."""
        return self(
            decoder_input_ids,
            decoder_attention_mask,
            decoder_position_ids,
            cache=cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )

    @overload
    def __call__(
        self,
        input_ids: Integer[HostArray, "*batch new"],
        attention_mask: Mask[HostArray, "*batch mask_len"] | Mask[HostArray, "*batch new slots"] | None = None,
        position_ids: Integer[HostArray, "*#batch new"] | None = None,
        *,
        cache: DecoderCache,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[CausalLMOutputWithCrossAttentions, DecoderCache]: ...

    @overload
    def __call__(
        self,
        input_ids: Integer[HostArray, "*batch new"],
        attention_mask: Mask[HostArray, "*batch mask_len"] | Mask[HostArray, "*batch new slots"] | None = None,
        position_ids: Integer[HostArray, "*#batch new"] | None = None,
        encoder_hidden_states: Float[HostArray, "*batch src dim"] | None = None,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        *,
        cache: None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> CausalLMOutputWithCrossAttentions: ...

    @one_sentence_errors
    def __call__(
        self,
        input_ids: Integer[HostArray, "*batch new"],
        attention_mask: Mask[HostArray, "*batch mask_len"] | Mask[HostArray, "*batch new slots"] | None = None,
        position_ids: Integer[HostArray, "*#batch new"] | None = None,
        encoder_hidden_states: Float[HostArray, "*batch src dim"] | None = None,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        *,
        cache: DecoderCache | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> CausalLMOutputWithCrossAttentions | tuple[CausalLMOutputWithCrossAttentions, DecoderCache]:
        """Score the next token after each of `input_ids`.

        Args:
            input_ids: With a cache, the tokens after those that it holds: a step, a chunk, or a prefix.
            attention_mask: Zero, or False, at padding: of these tokens, or of every slot of the cache. Or
                `[*batch, new, slots]`, as in [`BartModel.decode`][bart_eqx.BartModel.decode].
            position_ids: By default a token's position is its slot, also where tokens are masked.
            encoder_hidden_states: What cross attention reads; without a cache, which has its own.
            encoder_attention_mask: Zero, or False, at padding of `encoder_hidden_states`.
            cache: From `init_cache`, or from the last call. It is not changed; the extended one is returned.
            output_attentions: Return the attention weights of every layer.
            output_hidden_states: Return the embedded input and the output of every layer.
            key: For dropout and LayerDrop, in training mode.

        Returns:
            The output, with `logits` `[*batch, new, vocab]`, and with a cache also the cache after these tokens.

        Raises:
            ValueError: if encoder states are given as well as a cache, or their mask without them; if the tokens do not
                fit in the cache, or an id is outside its table. Traced values cannot be checked, and become NaN
                instead.
        """
        input_ids = check_token_ids("input_ids", input_ids, self.config.vocab_size)
        decoded, extended = self.model(
            input_ids,
            attention_mask,
            position_ids,
            encoder_hidden_states,
            encoder_attention_mask,
            cache=cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )
        output = CausalLMOutputWithCrossAttentions(
            logits=self.lm_logits(decoded.last_hidden_state),
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )
        return output if cache is None else (output, extended)

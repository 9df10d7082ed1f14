"""`BartModel`: encoder and decoder around one table of token embeddings. The heads are built on it, by composition."""

from typing import overload

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Integer, PRNGKeyArray

from ..config import BartConfig
from ..migration import TransformersModel
from ..typing import Dim, HostArray, Mask
from .cache import DecoderCache
from .checks import check_token_ids
from .decoder import BartDecoder
from .embeddings import AbstractEmbedding, Embedding
from .encoder import BartEncoder
from .masks import shift_tokens_right
from .outputs import BaseModelOutput, BaseModelOutputWithCrossAttentions, Seq2SeqModelOutput
from .signature import one_sentence_errors


class BartModel(eqx.Module, TransformersModel):
    """BART (arXiv:1910.13461) without a head: `FlaxBartModel` of transformers.

    Every method takes one sequence `[seq]`, a batch `[batch, seq]`, or any number of leading axes, and is pure: use it
    under `equinox.filter_jit`, `jax.vmap`, `equinox.filter_grad`.

    A model is made, and loaded, in inference mode. To train it, `equinox.nn.inference_mode(model, value=False)` turns
    on dropout and LayerDrop, which then need the `key` of each call.
    """

    shared: AbstractEmbedding
    """The table of token embeddings. An encoder or decoder with its own `embed_tokens` uses that. Untied models saved
    by transformers 5 have them."""
    encoder: BartEncoder
    decoder: BartDecoder
    config: BartConfig = eqx.field(static=True)

    @one_sentence_errors
    def __init__(self, config: BartConfig, *, dtype: DTypeLike = jnp.float32, key: PRNGKeyArray):
        """
        Args:
            config: The sizes of the model.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        shared_key, encoder_key, decoder_key = jr.split(key, 3)
        self.shared = Embedding(
            config.vocab_size, config.d_model, init_std=config.init_std, dtype=dtype, key=shared_key
        )
        self.encoder = BartEncoder.from_config(config, dtype=dtype, key=encoder_key)
        self.decoder = BartDecoder.from_config(config, dtype=dtype, key=decoder_key)
        self.config = config

    @property
    def _decoder_table(self) -> AbstractEmbedding:
        return self.shared if self.decoder.embed_tokens is None else self.decoder.embed_tokens

    @one_sentence_errors
    def encode(
        self,
        input_ids: Integer[HostArray, "*batch src"],
        attention_mask: Mask[HostArray, "*batch src"] | None = None,
        position_ids: Integer[HostArray, "*#batch src"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> BaseModelOutput:
        """Run the encoder.

        Args:
            input_ids: Token ids.
            attention_mask: Zero, or False, at padding. All are tokens by default: nothing is inferred from the ids.
            position_ids: 0, 1, 2, ... by default, also where tokens are masked.
            output_attentions: Return the attention weights of every layer, `[*batch, heads, src, src]`.
            output_hidden_states: Return the embedded input and the output of every layer, `[*batch, src, dim]`.
            key: For dropout and LayerDrop, in training mode.

        Raises:
            ValueError: if there are more tokens than positions, or an id is outside its table. Ids and positions are
                checked outside `jax.jit` only; inside it such a token makes the outputs NaN.
        """
        input_ids = check_token_ids("input_ids", input_ids, self.config.vocab_size)
        table = self.shared if self.encoder.embed_tokens is None else self.encoder.embed_tokens
        return self.encoder(
            table(input_ids),
            attention_mask,
            position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )

    @one_sentence_errors
    def init_cache(
        self,
        encoder_outputs: BaseModelOutput,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        *,
        max_length: Dim,
    ) -> DecoderCache:
        """An empty cache with room for `max_length` target tokens, over a source that `encode` has read.

        The keys and values of cross attention are projected here, once; no later call reads the source again.

        Args:
            encoder_outputs: From `encode`.
            encoder_attention_mask: Zero, or False, at source padding.
            max_length: The number of slots.

        Raises:
            ValueError: if `max_length` is more than `config.max_position_embeddings`.
        """
        states = encoder_outputs.last_hidden_state
        return self.decoder.init_cache(
            self._decoder_table,
            states.shape[:-2],
            max_length,
            states,
            encoder_attention_mask,
            encoder_outputs.position_ids,
        )

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
    ) -> tuple[BaseModelOutputWithCrossAttentions, DecoderCache]: ...

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
    ) -> BaseModelOutputWithCrossAttentions: ...

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
    ) -> BaseModelOutputWithCrossAttentions | tuple[BaseModelOutputWithCrossAttentions, DecoderCache]:
        """Run the decoder: over a `cache`, or over `encoder_outputs` for a whole target at once.

        Args:
            decoder_input_ids: With a cache, the tokens after those that it holds: a step, a chunk, or a prefix.
            cache: From `init_cache`, or from the last call. It is not changed; the extended one is returned.
            encoder_outputs: From `encode`; without a cache.
            encoder_attention_mask: Zero, or False, at source padding; without a cache, which has its own.
            decoder_attention_mask: Zero, or False, at target padding: of the new tokens, or of every slot of the cache.
                Or `[*batch, new, slots]`: which slots each new token may attend to, its own among them. No causal mask
                is added to that: the new tokens may be the branches of a tree (`docs/design.md`).
            decoder_position_ids: By default a token's position is its slot, also where tokens are masked.
            output_attentions: Return the attention weights of every layer: `[*batch, heads, new, slots]` and, to the
                source, `[*batch, heads, new, src]`.
            output_hidden_states: Return the embedded input and the output of every layer, `[*batch, new, dim]`.
            key: For dropout and LayerDrop, in training mode.

        Returns:
            The output, and with a cache also the cache after these tokens.

        Raises:
            ValueError: if neither or both of `cache` and `encoder_outputs` are given, the tokens do not fit in the
                cache, or an id is outside its table. Traced values cannot be checked, and become NaN instead.
        """
        decoder_input_ids = check_token_ids("decoder_input_ids", decoder_input_ids, self.config.vocab_size)
        if cache is not None and encoder_outputs is None and encoder_attention_mask is None:
            past = cache
        elif cache is None and encoder_outputs is not None:
            past = self.init_cache(encoder_outputs, encoder_attention_mask, max_length=decoder_input_ids.shape[-1])
        else:
            raise ValueError(
                "`decode` takes a `cache`, which holds its source, or else `encoder_outputs` with their "
                f"`encoder_attention_mask`. Got cache={'None' if cache is None else 'a cache'}, encoder_outputs="
                f"{'None' if encoder_outputs is None else 'given'}, encoder_attention_mask="
                f"{'None' if encoder_attention_mask is None else 'given'}."
            )
        output, extended = self.decoder(
            self._decoder_table(decoder_input_ids),
            past,
            decoder_attention_mask,
            decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=key,
        )
        return output if cache is None else (output, extended)

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
    ) -> Seq2SeqModelOutput:
        """Encoder and decoder, teacher-forced. The arguments are those of `encode` and `decode`.

        Args:
            input_ids: Source token ids.
            attention_mask: Zero, or False, at source padding.
            decoder_input_ids: Target token ids; by default the source, shifted right by `shift_tokens_right`.
            decoder_attention_mask: Zero, or False, at target padding.
            position_ids: Source positions, 0, 1, 2, ... by default.
            decoder_position_ids: Target positions, 0, 1, 2, ... by default.
            output_attentions: Return all attention weights.
            output_hidden_states: Return all hidden states.
            key: For dropout and LayerDrop, in training mode.

        Raises:
            ValueError: as `encode` and `decode` do.
        """
        if decoder_input_ids is None:
            decoder_input_ids = shift_tokens_right(
                input_ids, self.config.pad_token_id, self.config.decoder_start_token_id
            )
        encoder_key, decoder_key = (None, None) if key is None else jr.split(key)
        encoded = self.encode(
            input_ids,
            attention_mask,
            position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=encoder_key,
        )
        decoded = self.decode(
            decoder_input_ids,
            encoder_outputs=encoded,
            encoder_attention_mask=attention_mask,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=decoder_key,
        )
        return Seq2SeqModelOutput.joining(encoded, decoded)

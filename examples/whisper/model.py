"""`WhisperModel`: BART's encoder and decoder with pre-norm layers, and convolutions in front of the encoder."""

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

import bart_eqx
from bart_eqx.model.checks import check_token_ids
from bart_eqx.model.decoder import BartDecoder
from bart_eqx.model.embeddings import AbstractEmbedding, Embedding, LearnedPositionalEmbedding
from bart_eqx.model.encoder import BartEncoder
from bart_eqx.model.layers import LayerNorm
from bart_eqx.model.outputs import BaseModelOutputWithCrossAttentions, Seq2SeqModelOutput
from bart_eqx.typing import HostArray

from .config import WhisperConfig
from .convolutions import Convolutions, sinusoids


Side = TypeVar("Side", BartEncoder, BartDecoder)


class WhisperModel(eqx.Module):
    """Whisper (arXiv:2212.04356) without a head: `FlaxWhisperModel` of transformers."""

    convolutions: Convolutions
    encoder: BartEncoder
    decoder: BartDecoder
    config: WhisperConfig = eqx.field(static=True)

    def __init__(self, config: WhisperConfig, *, dtype: DTypeLike = jnp.float32, key: PRNGKeyArray):
        """
        Args:
            config: The sizes of the model.
            dtype: Of the parameters.
            key: For the initial weights.
        """
        keys, dim = jr.split(key, 5), config.d_model
        new: dict[str, Any] = dict(init_std=config.init_std, dtype=dtype)
        pre_norm: dict[str, Any] = dict(residual=bart_eqx.PreNorm(), dtype=dtype)
        encoder = BartEncoder.from_config(config.bart, **pre_norm, key=keys[0])
        tokens = Embedding(config.vocab_size, dim, **new, key=keys[1])
        decoder = BartDecoder.from_config(config.bart, embed_tokens=tokens, **pre_norm, key=keys[2])
        positions = LearnedPositionalEmbedding(config.max_target_positions, dim, offset=0, **new, key=keys[3])
        sines = LearnedPositionalEmbedding(config.max_source_positions, dim, offset=0, **new, key=keys[3])
        sines = eqx.tree_at(lambda table: table.weight, sines, sinusoids(*sines.weight.shape).astype(dtype))
        self.convolutions = Convolutions(config.num_mel_bins, dim, **new, key=keys[4])
        self.encoder = _of_whisper(encoder, sines)
        self.decoder = _of_whisper(decoder, positions)
        self.config = config

    @property
    def tokens(self) -> AbstractEmbedding:
        """The table of token embeddings."""
        assert self.decoder.embed_tokens is not None
        return self.decoder.embed_tokens

    def encode(self, input_features: Float[HostArray, "*batch mel frames"], **options: Any) -> bart_eqx.BaseModelOutput:
        """The states of log-mel spectrograms, one for every two frames. `options` are those of `BartEncoder`.

        Raises:
            ValueError: if the spectrograms have another shape than the model's.
        """
        mel, frames = self.config.num_mel_bins, 2 * self.config.max_source_positions
        if input_features.shape[-2:] != (mel, frames):
            raise ValueError(
                f"`input_features` must be [*batch, mel={mel}, frames={frames}]: pad a short recording with silence, "
                f"and cut a long one. Got {list(input_features.shape)}."
            )
        sines: Any = lambda encoder: encoder.embed_positions.weight
        encoder = eqx.tree_at(sines, self.encoder, replace_fn=jax.lax.stop_gradient)  # they are not trained
        return encoder(self.convolutions(jnp.asarray(input_features)), **options)

    def init_cache(
        self, batch_size: int | None, max_length: int, encoder_outputs: bart_eqx.BaseModelOutput
    ) -> bart_eqx.DecoderCache:
        """As in transformers and in distil-whisper: `max_length` empty slots in each of `batch_size` rows.

        The keys and values of cross-attention, which they compute at every step, are computed here.

        Args:
            batch_size: That of `encoder_outputs`; `None` for a source without a batch axis.
            max_length: The number of slots.
            encoder_outputs: From `encode`.
        """
        axes, states = () if batch_size is None else (batch_size,), encoder_outputs.last_hidden_state
        return self.decoder.init_cache(self.tokens, axes, max_length, states)

    def decode(
        self,
        decoder_input_ids: Integer[HostArray, "*batch new"],
        cache: bart_eqx.DecoderCache,
        attention_mask: Any = None,
        position_ids: Any = None,
        **options: Any,
    ) -> tuple[BaseModelOutputWithCrossAttentions, bart_eqx.DecoderCache]:
        """The states of new tokens, and the cache with them. The arguments are those of `BartDecoder`."""
        ids = check_token_ids("decoder_input_ids", decoder_input_ids, self.config.vocab_size)
        return self.decoder(self.tokens(ids), cache, attention_mask, position_ids, **options)

    def __call__(
        self,
        input_features: Float[HostArray, "*batch mel frames"],
        decoder_input_ids: Integer[HostArray, "*batch tgt"],
        decoder_attention_mask: Any = None,
        decoder_position_ids: Any = None,
        *,
        key: PRNGKeyArray | None = None,
        **outputs: bool,
    ) -> Seq2SeqModelOutput:
        """Teacher-forced, as `bart_eqx.BartModel`. `outputs` are `output_attentions` and `output_hidden_states`."""
        encoder_key, decoder_key = (None, None) if key is None else jr.split(key)
        encoded = self.encode(input_features, **outputs, key=encoder_key)
        *batch, tgt = decoder_input_ids.shape
        cache = self.decoder.init_cache(self.tokens, tuple(batch), tgt, encoded.last_hidden_state)
        decoded, _ = self.decode(
            decoder_input_ids, cache, decoder_attention_mask, decoder_position_ids, **outputs, key=decoder_key
        )
        return Seq2SeqModelOutput.joining(encoded, decoded)


def _of_whisper(side: Side, positions: LearnedPositionalEmbedding) -> Side:
    """The stack without biases of keys, with a norm after it and none in front, and with other positions."""
    is_attention = lambda node: isinstance(node, bart_eqx.BartAttention)
    no_key_bias: Any = lambda node: eqx.tree_at(lambda a: a.k_proj.bias, node, None) if is_attention(node) else node
    return dataclasses.replace(
        side,
        layers=jax.tree.map(no_key_bias, side.layers, is_leaf=is_attention),
        layernorm_embedding=eqx.nn.Identity(),
        layer_norm=LayerNorm(positions.weight.shape[1], dtype=positions.weight.dtype),
        embed_positions=positions,
    )

"""The decoder: target tokens, as vectors, to one state for each, reading and extending a cache.

There is one path. A step, a chunk, a prefix and a whole sequence differ only in how many tokens come in and how many
slots the cache has; teacher forcing is a single chunk into a cache of exactly its length.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..config import BartConfig
from ..typing import Array, HostArray, split_or_none
from .attention import AbstractAttention, BartAttention
from .cache import DecoderCache, KVCache
from .layers import (
    ACTIVATION_FUNCTIONS,
    AbstractEmbedding,
    AbstractLinear,
    LayerDrop,
    LayerNorm,
    LearnedPositionalEmbedding,
    Linear,
    feed_forward,
)
from .masks import causal_mask, padding_mask
from .outputs import BaseModelOutputWithCrossAttentions


class BartDecoderLayer(eqx.Module):
    """Causal self-attention, attention to the source, feed-forward; each added to its input and then normalised."""

    self_attn: AbstractAttention
    self_attn_layer_norm: LayerNorm
    encoder_attn: AbstractAttention
    encoder_attn_layer_norm: LayerNorm
    fc1: AbstractLinear
    fc2: AbstractLinear
    final_layer_norm: LayerNorm
    dropout: eqx.nn.Dropout
    activation_dropout: eqx.nn.Dropout
    activation_fn: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        *,
        activation_function: str,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        init_std: float,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        self_key, cross_key, fc1_key, fc2_key = jr.split(key, 4)
        self.self_attn = BartAttention(
            dim, num_heads, dropout=attention_dropout, init_std=init_std, dtype=dtype, key=self_key
        )
        self.self_attn_layer_norm = LayerNorm(dim, dtype=dtype)
        self.encoder_attn = BartAttention(
            dim, num_heads, dropout=attention_dropout, init_std=init_std, dtype=dtype, key=cross_key
        )
        self.encoder_attn_layer_norm = LayerNorm(dim, dtype=dtype)
        self.fc1 = Linear(dim, ffn_dim, init_std=init_std, dtype=dtype, key=fc1_key)
        self.fc2 = Linear(ffn_dim, dim, init_std=init_std, dtype=dtype, key=fc2_key)
        self.final_layer_norm = LayerNorm(dim, dtype=dtype)
        self.dropout = eqx.nn.Dropout(dropout, inference=True)
        self.activation_dropout = eqx.nn.Dropout(activation_dropout, inference=True)
        self.activation_fn = ACTIVATION_FUNCTIONS[activation_function]

    def __call__(
        self,
        x: Float[Array, "*batch new dim"],
        past: KVCache,
        position: Integer[Array, ""],
        mask: Bool[Array, "*batch 1 new max_len"],
        source: KVCache | None,
        source_mask: Bool[Array, "*batch 1 1 src"] | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[
        Float[Array, "*batch new dim"],
        KVCache,
        Float[Array, "*batch heads new max_len"] | None,
        Float[Array, "*batch heads new src"] | None,
    ]:
        self_weights_key, self_key, cross_weights_key, cross_key, activation_key, ffn_key = split_or_none(key, 6)
        past = past.write(*self.self_attn.project_kv(x), position)
        found, self_weights = self.self_attn.attend(x, past.keys, past.values, mask, key=self_weights_key)
        x = self.self_attn_layer_norm(x + self.dropout(found, key=self_key))
        cross_weights = None
        if source is not None:
            found, cross_weights = self.encoder_attn.attend(
                x, source.keys, source.values, source_mask, key=cross_weights_key
            )
            x = self.encoder_attn_layer_norm(x + self.dropout(found, key=cross_key))
        y = feed_forward(x, self.fc1, self.activation_fn, self.activation_dropout, self.fc2, key=activation_key)
        return self.final_layer_norm(x + self.dropout(y, key=ffn_key)), past, self_weights, cross_weights


class BartDecoder(eqx.Module):
    """Positions added, a norm, a stack of layers over a `DecoderCache`."""

    embed_tokens: AbstractEmbedding | None
    """The target's own token table, as of a decoder that stands alone; `None` where that is `BartModel.shared`."""
    embed_positions: LearnedPositionalEmbedding
    layernorm_embedding: LayerNorm
    layers: tuple[BartDecoderLayer, ...]
    dropout: eqx.nn.Dropout
    layerdrop: LayerDrop
    embed_scale: float = eqx.field(static=True)

    def __init__(
        self,
        config: BartConfig,
        *,
        embed_tokens: AbstractEmbedding | None = None,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        positions_key, layers_key = jr.split(key)
        self.embed_tokens = embed_tokens
        self.embed_positions = LearnedPositionalEmbedding(
            config.max_position_embeddings, config.d_model, init_std=config.init_std, dtype=dtype, key=positions_key
        )
        self.layernorm_embedding = LayerNorm(config.d_model, dtype=dtype)
        self.layers = tuple(
            BartDecoderLayer(
                config.d_model,
                config.decoder_attention_heads,
                config.decoder_ffn_dim,
                activation_function=config.activation_function,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                activation_dropout=config.activation_dropout,
                init_std=config.init_std,
                dtype=dtype,
                key=layer_key,
            )
            for layer_key in jr.split(layers_key, config.decoder_layers)
        )
        self.dropout = eqx.nn.Dropout(config.dropout, inference=True)
        self.layerdrop = LayerDrop(config.decoder_layerdrop, inference=True)
        self.embed_scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0

    def init_cache(
        self,
        batch: tuple[int, ...],
        max_length: int,
        encoder_hidden_states: Float[Array, "*batch src dim"] | None,
        encoder_attention_mask: Bool[Array, "*batch src"] | None,
    ) -> DecoderCache:
        """An empty cache for `max_length` tokens, over a source whose keys and values are projected here, once."""
        if not 1 <= max_length <= self.embed_positions.num_positions:
            raise ValueError(
                f"A cache holds at least one token and at most max_position_embeddings="
                f"{self.embed_positions.num_positions}. Got max_length={max_length}: shorten the decoder's input, or "
                f"`max_length`."
            )
        table = self.embed_positions.weight
        tokens = jax.ShapeDtypeStruct((*batch, max_length, table.shape[-1]), table.dtype)
        # Asking the attention itself for the shapes serves one that shares keys between heads just as well.
        shapes = [eqx.filter_eval_shape(layer.self_attn.project_kv, tokens) for layer in self.layers]
        cross_attn = None
        if encoder_hidden_states is not None:
            cross_attn = tuple(KVCache(*layer.encoder_attn.project_kv(encoder_hidden_states)) for layer in self.layers)
        return DecoderCache(
            # Each buffer is an allocation of its own, so that the cache can be donated.
            self_attn=tuple(KVCache(jnp.zeros(k.shape, k.dtype), jnp.zeros(v.shape, v.dtype)) for k, v in shapes),
            cross_attn=cross_attn,
            attention_mask=jnp.ones((*batch, max_length), bool),
            encoder_attention_mask=encoder_attention_mask,
            position=jnp.zeros((), jnp.int32),
        )

    def __call__(
        self,
        inputs_embeds: Float[Array, "*batch new dim"],
        cache: DecoderCache,
        attention_mask: Bool[Array, "*batch mask_len"] | Bool[Array, "*batch new max_len"] | None = None,
        position_ids: Integer[HostArray, "*#batch new"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[BaseModelOutputWithCrossAttentions, DecoderCache]:
        """Decode the `new` tokens after those that the cache holds.

        `attention_mask` speaks of the new tokens; or, if it is as long as the cache, of every slot; or, with an axis
        more, of every slot for each new token. `position_ids` are the tokens' slots by default.

        Raises:
            ValueError: if the tokens do not fit in the cache. Where `cache.position` is traced this cannot be seen; the
                output, and all that the cache then holds, is NaN.
        """
        new, max_length = inputs_embeds.shape[-2], cache.max_length
        pairs = None
        if attention_mask is not None and attention_mask.ndim == inputs_embeds.ndim:
            attention_mask, pairs = None, attention_mask
            if pairs.shape[-2:] != (new, max_length):
                raise ValueError(
                    f"A decoder mask with an axis for the new tokens covers every slot of the cache: [..., {new}, "
                    f"{max_length}]. Got {list(pairs.shape)}."
                )
        attention_mask = cache.accept(new, attention_mask)
        slots = cache.position + jnp.arange(new)
        position_ids = slots if position_ids is None else jnp.asarray(position_ids)
        # Past the table's end, hence NaN, where the tokens do not fit.
        position_ids = jnp.where(slots[-1] < max_length, position_ids, self.embed_positions.num_positions)

        embed_key, layers_key = split_or_none(key, 2)
        x = inputs_embeds * self.embed_scale + self.embed_positions(position_ids)
        x = self.dropout(self.layernorm_embedding(x), key=embed_key)

        if pairs is None:
            mask = padding_mask(attention_mask) & causal_mask(slots, jnp.arange(max_length))
        else:
            mask = padding_mask(attention_mask) & pairs[..., None, :, :]
        source_mask = None if cache.encoder_attention_mask is None else padding_mask(cache.encoder_attention_mask)
        sources = (None,) * len(self.layers) if cache.cross_attn is None else cache.cross_attn

        hidden_states, attentions, cross_attentions, pasts = [x], [], [], []
        layer_keys = split_or_none(layers_key, len(self.layers))
        for layer, past, source, layer_key in zip(self.layers, cache.self_attn, sources, layer_keys, strict=True):
            inside_key, drop_key = split_or_none(layer_key, 2)
            y, past, self_weights, cross_weights = eqx.filter_jit(layer)(  # layers alike are traced once
                x, past, cache.position, mask, source, source_mask, key=inside_key
            )
            x = self.layerdrop(y, x, key=drop_key)
            hidden_states.append(x)
            attentions.append(self_weights)
            cross_attentions.append(cross_weights)
            pasts.append(past)
        output = BaseModelOutputWithCrossAttentions(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions and cache.cross_attn is not None else None,
        )
        cache = DecoderCache(
            self_attn=tuple(pasts),
            cross_attn=cache.cross_attn,
            attention_mask=attention_mask,
            encoder_attention_mask=cache.encoder_attention_mask,
            position=cache.position + new,
        )
        return output, cache

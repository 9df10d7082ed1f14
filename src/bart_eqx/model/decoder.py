"""The decoder: embeddings of target tokens in, one state for each out, over a cache that is read and extended.

Every call takes the same path: new tokens are written into a cache and attend to it. A step, a chunk, a prefix and a
whole target differ only in the number of tokens; for teacher forcing a cache of exactly the target's length is made.
"""

import abc
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..config import BartConfig, LayerConfig
from ..typing import Array, Dim, HostArray, Mask
from .activations import ACTIVATION_FUNCTIONS
from .attention import AbstractAttention, BartAttention, attend, project_kv
from .cache import DecoderCache, KVCache
from .checks import check_axes, nan_unless
from .embeddings import AbstractEmbedding, AbstractPositionalEmbedding, LearnedPositionalEmbedding
from .float16 import warn_of_float16_training
from .layers import AbstractLinear, AbstractResidual, LayerDrop, LayerNorm, Linear, PostNorm, feed_forward
from .masks import causal_mask, padding_mask
from .outputs import BaseModelOutputWithCrossAttentions
from .signature import one_sentence_errors


class EncodedSource(eqx.Module):
    """The encoded source, as one layer's cross attention reads it."""

    cache: KVCache
    """From `project_source`."""
    mask: Bool[Array, "*batch 1 1 src"] | None
    """True at tokens, False at padding."""
    positions: Integer[Array, "*batch src"]


class AbstractDecoderLayer(eqx.Module):
    """Interface for replacing a `BartDecoderLayer`: by a wrapper, or by a layer of another kind."""

    @abc.abstractmethod
    def empty_past(self, states: jax.ShapeDtypeStruct) -> KVCache:
        """An empty cache for self-attention. Of `states`, `[*batch, max_len, dim]`, only shape and dtype are given."""

    @abc.abstractmethod
    def project_source(
        self, encoder_hidden_states: Float[Array, "*batch src dim"], positions: Integer[Array, "*batch src"]
    ) -> KVCache:
        """The keys and values of cross attention: computed once for each source."""

    @abc.abstractmethod
    def __call__(
        self,
        x: Float[Array, "*batch new dim"],
        past: KVCache,
        start: Integer[Array, ""],
        mask: Bool[Array, "*batch 1 new max_len"],
        positions: Integer[Array, "*batch new"],
        past_positions: Integer[Array, "*batch max_len"],
        source: EncodedSource | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[
        Float[Array, "*batch new dim"],
        KVCache,
        Float[Array, "*batch heads new max_len"] | None,
        Float[Array, "*batch heads new src"] | None,
    ]:
        """Decode the `new` tokens that go into the slots from `start` on.

        Args:
            x: Their states before this layer.
            past: Keys and values of earlier tokens, from `empty_past` or the last call.
            start: The slot of the first new token.
            mask: True where a new token may attend to a slot, its own among them.
            positions: Positions of the new tokens.
            past_positions: Positions of the tokens in all slots, the new ones included.
            source: What cross attention reads; `None` for a decoder without an encoder.
            key: For dropout.

        Returns:
            The states after this layer; `past` with the new tokens; the weights of self-attention and of cross
            attention, or `None`.
        """


class BartDecoderLayer(AbstractDecoderLayer):
    """Causal self-attention, attention to the source, feed-forward, each with a residual connection."""

    self_attn: AbstractAttention
    self_attn_layer_norm: LayerNorm
    encoder_attn: AbstractAttention
    encoder_attn_layer_norm: LayerNorm
    fc1: AbstractLinear
    fc2: AbstractLinear
    final_layer_norm: LayerNorm
    residual: AbstractResidual
    dropout: eqx.nn.Dropout
    activation_dropout: eqx.nn.Dropout
    activation_fn: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        config: LayerConfig,
        *,
        residual: AbstractResidual | None = None,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        """
        Args:
            config: Sizes and rates: `BartConfig.decoder_layer`.
            residual: Where the norms stand: `PostNorm()`, which is BART's and the default, or `PreNorm()`.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        self_key, cross_key, fc1_key, fc2_key = jr.split(key, 4)
        linear = partial(Linear, init_std=config.init_std, dtype=dtype)
        attention = partial(
            BartAttention,
            config.dim,
            config.num_heads,
            dropout=config.attention_dropout,
            init_std=config.init_std,
            dtype=dtype,
        )
        self.self_attn = attention(key=self_key)
        self.self_attn_layer_norm = LayerNorm(config.dim, dtype=dtype)
        self.encoder_attn = attention(key=cross_key)
        self.encoder_attn_layer_norm = LayerNorm(config.dim, dtype=dtype)
        self.fc1 = linear(config.dim, config.ffn_dim, key=fc1_key)
        self.fc2 = linear(config.ffn_dim, config.dim, key=fc2_key)
        self.final_layer_norm = LayerNorm(config.dim, dtype=dtype)
        self.residual = PostNorm() if residual is None else residual
        self.dropout = eqx.nn.Dropout(config.dropout, inference=True)
        self.activation_dropout = eqx.nn.Dropout(config.activation_dropout, inference=True)
        self.activation_fn = ACTIVATION_FUNCTIONS[config.activation_function]

    def empty_past(self, states: jax.ShapeDtypeStruct) -> KVCache:
        positions = jax.ShapeDtypeStruct(states.shape[:-1], jnp.int32)
        # Ask the attention: with grouped queries it has fewer heads of keys.
        keys, values = eqx.filter_eval_shape(project_kv, self.self_attn, states, positions)
        # Each buffer is allocated separately, so that the cache can be donated.
        return KVCache(jnp.zeros(keys.shape, keys.dtype), jnp.zeros(values.shape, values.dtype))

    def project_source(
        self, encoder_hidden_states: Float[Array, "*batch src dim"], positions: Integer[Array, "*batch src"]
    ) -> KVCache:
        return KVCache(*project_kv(self.encoder_attn, encoder_hidden_states, positions))

    def __call__(
        self,
        x: Float[Array, "*batch new dim"],
        past: KVCache,
        start: Integer[Array, ""],
        mask: Bool[Array, "*batch 1 new max_len"],
        positions: Integer[Array, "*batch new"],
        past_positions: Integer[Array, "*batch max_len"],
        source: EncodedSource | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[
        Float[Array, "*batch new dim"],
        KVCache,
        Float[Array, "*batch heads new max_len"] | None,
        Float[Array, "*batch heads new src"] | None,
    ]:
        keys = [None] * 6 if key is None else jr.split(key, 6)
        self_weights_key, self_key, cross_weights_key, cross_key, activation_key, ffn_key = keys
        y = self.residual.before(x, self.self_attn_layer_norm)
        past = past.write(*project_kv(self.self_attn, y, positions), start)
        y, self_weights = attend(
            self.self_attn, y, past.keys, past.values, mask, positions, past_positions, key=self_weights_key
        )
        x = self.residual.after(x, self.dropout(y, key=self_key), self.self_attn_layer_norm)
        cross_weights = None
        if source is not None:
            y, cross_weights = attend(
                self.encoder_attn,
                self.residual.before(x, self.encoder_attn_layer_norm),
                source.cache.keys,
                source.cache.values,
                source.mask,
                positions,
                source.positions,
                key=cross_weights_key,
            )
            x = self.residual.after(x, self.dropout(y, key=cross_key), self.encoder_attn_layer_norm)
        y = self.residual.before(x, self.final_layer_norm)
        y = feed_forward(y, self.fc1, self.activation_fn, self.activation_dropout, self.fc2, key=activation_key)
        x = self.residual.after(x, self.dropout(y, key=ffn_key), self.final_layer_norm)
        return x, past, self_weights, cross_weights


@eqx.filter_jit
def run_decoder_layer(
    layer: AbstractDecoderLayer,
    x: Float[Array, "*batch new dim"],
    past: KVCache,
    start: Integer[Array, ""],
    mask: Bool[Array, "*batch 1 new max_len"],
    positions: Integer[Array, "*batch new"],
    past_positions: Integer[Array, "*batch max_len"],
    source: EncodedSource | None,
    *,
    key: PRNGKeyArray | None,
) -> tuple[
    Float[Array, "*batch new dim"],
    KVCache,
    Float[Array, "*batch heads new max_len"] | None,
    Float[Array, "*batch heads new src"] | None,
]:
    """`layer(...)`. Layers of one structure are traced once; shapes are checked whether or not `layer` checks them."""
    return layer(x, past, start, mask, positions, past_positions, source, key=key)


class BartDecoder(eqx.Module):
    """Embeddings and positions, a norm, a stack of layers over a `DecoderCache`.

    The decoder of another model can be assembled from the same parts.
    """

    embed_tokens: AbstractEmbedding | None
    """A token table for the target alone, for example in `BartForCausalLM`; `None` where it is `BartModel.shared`."""
    embed_positions: AbstractPositionalEmbedding | None
    """`None` where positions are left to attention."""
    layernorm_embedding: Callable[[Array], Array]
    layers: tuple[AbstractDecoderLayer, ...]
    layer_norm: Callable[[Array], Array]
    """After the stack: BART has none, that is, `equinox.nn.Identity()`."""
    dropout: eqx.nn.Dropout
    layerdrop: LayerDrop
    embed_scale: float = eqx.field(static=True)

    @classmethod
    def from_config(
        cls,
        config: BartConfig,
        *,
        embed_tokens: AbstractEmbedding | None = None,
        residual: AbstractResidual | None = None,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ) -> "BartDecoder":
        """BART's decoder, with random weights of `dtype` from `key`. `residual` is that of its layers."""
        positions_key, layers_key = jr.split(key)
        return cls(
            embed_tokens=embed_tokens,
            embed_positions=LearnedPositionalEmbedding(
                config.max_position_embeddings, config.d_model, init_std=config.init_std, dtype=dtype, key=positions_key
            ),
            layernorm_embedding=LayerNorm(config.d_model, dtype=dtype),
            layers=tuple(
                BartDecoderLayer(config.decoder_layer, residual=residual, dtype=dtype, key=layer_key)
                for layer_key in jr.split(layers_key, config.decoder_layers)
            ),
            layer_norm=eqx.nn.Identity(),
            dropout=eqx.nn.Dropout(config.dropout, inference=True),
            layerdrop=LayerDrop(config.decoder_layerdrop, inference=True),
            embed_scale=config.embed_scale,
        )

    @one_sentence_errors
    def init_cache(
        self,
        embed_tokens: AbstractEmbedding,
        batch: tuple[Dim, ...],
        max_length: Dim,
        encoder_hidden_states: Float[Array, "*batch src dim"] | None = None,
        encoder_attention_mask: Mask[HostArray, "*batch src"] | None = None,
        encoder_position_ids: Integer[Array, "*batch src"] | None = None,
    ) -> DecoderCache:
        """An empty cache for `max_length` tokens, over a source whose keys and values are projected here, once.

        Args:
            embed_tokens: The token table, for the dtype of its vectors: `self.embed_tokens`, or the model's.
            batch: The batch axes.
            max_length: The number of slots.
            encoder_hidden_states: The source; `None` for a decoder without an encoder.
            encoder_attention_mask: Zero, or False, at source padding.
            encoder_position_ids: The positions of the source's tokens, by default 0, 1, 2, ...

        Raises:
            ValueError: if `max_length` is less than 1, or more than there are positions; if the source has other batch
                axes than `batch`.
            TypeError: if `max_length` is not a size.
        """
        if isinstance(max_length, bool) or not (isinstance(max_length, int) or jax.export.is_symbolic_dim(max_length)):
            raise TypeError(f"`max_length` must be an integer. Got {max_length!r:.80}.")
        if encoder_hidden_states is not None:
            check_axes("The source", encoder_hidden_states.shape[:-2], "the target", batch)
        positions = None if self.embed_positions is None else self.embed_positions.num_positions
        too_long = positions is not None and isinstance(max_length, int) and max_length > positions
        if too_long or (isinstance(max_length, int) and max_length < 1):
            raise ValueError(
                f"A cache holds at least one token and at most max_position_embeddings={positions}. Got "
                f"max_length={max_length}: shorten the decoder's input, or `max_length`."
            )
        encoder_positions, cross_attn = None, None
        if encoder_hidden_states is not None:
            src, encoder_positions = encoder_hidden_states.shape[-2], encoder_position_ids
            if encoder_positions is None:
                encoder_positions = jnp.broadcast_to(jnp.arange(src, dtype=jnp.int32), (*batch, src))
            cross_attn = tuple(layer.project_source(encoder_hidden_states, encoder_positions) for layer in self.layers)
        embedded = eqx.filter_eval_shape(embed_tokens, jax.ShapeDtypeStruct((*batch, max_length), jnp.int32))
        # Where dtypes differ, the cache has the widest: no state is wider.
        parameters = jax.tree.leaves(eqx.filter(self, eqx.is_inexact_array))
        dtype = max((x.dtype for x in (embedded, *parameters)), key=lambda dtype: jnp.finfo(dtype).bits)
        states = jax.ShapeDtypeStruct(embedded.shape, dtype)
        return DecoderCache(
            self_attn=tuple(layer.empty_past(states) for layer in self.layers),
            cross_attn=cross_attn,
            attention_mask=jnp.ones((*batch, max_length), bool),
            positions=jnp.zeros((*batch, max_length), jnp.int32),
            encoder_attention_mask=None
            if encoder_attention_mask is None
            else jnp.asarray(encoder_attention_mask).astype(bool),
            encoder_positions=encoder_positions,
            position=jnp.zeros((), jnp.int32),
        )

    @one_sentence_errors
    def __call__(
        self,
        inputs_embeds: Float[Array, "*batch new dim"],
        cache: DecoderCache,
        attention_mask: Mask[HostArray, "*batch mask_len"] | Mask[HostArray, "*batch new max_len"] | None = None,
        position_ids: Integer[HostArray, "*#batch new"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[BaseModelOutputWithCrossAttentions, DecoderCache]:
        """Decode the `new` tokens after those that the cache holds.

        Args:
            inputs_embeds: The embeddings of the new tokens.
            cache: From `init_cache`, or from the last call.
            attention_mask: Zero, or False, at padding: of the new tokens, or of every slot of the cache. With one more
                axis, which slots each new token may attend to; no causal mask is added to that.
            position_ids: By default a token's position is its slot.
            output_attentions: Return the attention weights of every layer.
            output_hidden_states: Return the embedded input and the output of every layer.
            key: For dropout and LayerDrop, in training mode.

        Raises:
            ValueError: if the tokens have other batch axes than the cache, or do not fit in it. Where `cache.position`
                is traced this cannot be seen; the output, and all that the cache then holds, is NaN.
        """
        *batch, new, _ = inputs_embeds.shape
        check_axes("The new tokens", tuple(batch), "the cache", cache.attention_mask.shape[:-1])
        cache.check_fits(new)
        slots = cache.position + jnp.arange(new, dtype=jnp.int32)
        slot_mask, mask = _masks(
            cache, slots, None if attention_mask is None else jnp.asarray(attention_mask).astype(bool)
        )
        position_ids = slots if position_ids is None else jnp.asarray(position_ids, jnp.int32)
        positions = jnp.broadcast_to(position_ids, (*batch, new))
        cache_positions = cache.positions_with(positions)

        embed_key, layers_key = (None, None) if key is None else jr.split(key)
        x = inputs_embeds * self.embed_scale
        if self.embed_positions is not None:
            x = x + self.embed_positions(position_ids)
        x = self.dropout(self.layernorm_embedding(x), key=embed_key)
        x = nan_unless(slots[-1] < cache.max_length, x, "The tokens do not fit in the cache.")

        hidden_states, attentions, cross_attentions, pasts = [], [], [], []
        sources: list[EncodedSource | None] = [None] * len(self.layers)
        if cache.cross_attn is not None:
            assert cache.encoder_positions is not None
            source_mask = padding_mask(cache.encoder_attention_mask)
            sources = [EncodedSource(kv, source_mask, cache.encoder_positions) for kv in cache.cross_attn]
        layer_keys = [None] * len(self.layers) if layers_key is None else jr.split(layers_key, len(self.layers))
        for layer, past, source, layer_key in zip(self.layers, cache.self_attn, sources, layer_keys, strict=True):
            inside_key, drop_key = (None, None) if layer_key is None else jr.split(layer_key)
            if output_hidden_states:
                hidden_states.append(x)
            y, past, self_weights, cross_weights = run_decoder_layer(
                layer,
                x,
                past,
                cache.position,
                mask,
                positions,
                cache_positions,
                source,
                key=inside_key,
            )
            x = self.layerdrop(y, x, key=drop_key)
            if output_attentions:
                attentions.append(self_weights)
                cross_attentions.append(cross_weights)
            pasts.append(past)
        training = not (self.dropout.inference and self.layerdrop.inference)
        x = warn_of_float16_training(self.layer_norm(x), training)

        output = BaseModelOutputWithCrossAttentions(
            last_hidden_state=x,
            hidden_states=(*hidden_states, x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions and cache.cross_attn is not None else None,
        )
        cache = DecoderCache(
            self_attn=tuple(pasts),
            cross_attn=cache.cross_attn,
            attention_mask=slot_mask,
            positions=cache_positions,
            encoder_attention_mask=cache.encoder_attention_mask,
            encoder_positions=cache.encoder_positions,
            position=cache.position + new,
        )
        return output, cache


def _masks(
    cache: DecoderCache, slots: Integer[Array, " new"], attention_mask: Bool[Array, "..."] | None
) -> tuple[Bool[Array, "*batch max_len"], Bool[Array, "*batch 1 new max_len"]]:
    """False at padding, for every slot of the cache after the tokens in `slots`; and the slots that each of these
    tokens may attend to. `attention_mask` is that of `BartDecoder.__call__`."""
    new, max_length = slots.shape[0], cache.max_length
    if attention_mask is not None and attention_mask.ndim > cache.attention_mask.ndim:
        if attention_mask.shape[-2:] != (new, max_length):
            raise ValueError(
                f"A decoder mask with an axis for the new tokens covers every slot of the cache: [..., {new}, "
                f"{max_length}]. Got {list(attention_mask.shape)}."
            )
        slot_mask, may_attend = cache.attention_mask, attention_mask[..., None, :, :]
    else:
        slot_mask = cache.mask_with(new, attention_mask)
        may_attend = causal_mask(slots, jnp.arange(max_length, dtype=jnp.int32))
    return slot_mask, slot_mask[..., None, None, :] & may_attend

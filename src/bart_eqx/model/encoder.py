"""The encoder: source tokens, as vectors, to one state for each."""

import math
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..config import BartConfig
from ..typing import Array, HostArray, split_or_none
from .attention import AbstractAttention, BartAttention
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
from .masks import padding_mask
from .outputs import BaseModelOutput
from .rows import in_turn, may_take_turns


# On CPU, so many tokens and more go through the layers in parts whose vectors take so many bytes, or a row
# (`docs/performance.md`).
MANY, PART = 4096, 3 << 19


class BartEncoderLayer(eqx.Module):
    """Self-attention, then feed-forward; each is added to its input and then normalised (post-norm)."""

    self_attn: AbstractAttention
    self_attn_layer_norm: LayerNorm
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
        attn_key, fc1_key, fc2_key = jr.split(key, 3)
        self.self_attn = BartAttention(
            dim, num_heads, dropout=attention_dropout, init_std=init_std, dtype=dtype, key=attn_key
        )
        self.self_attn_layer_norm = LayerNorm(dim, dtype=dtype)
        self.fc1 = Linear(dim, ffn_dim, init_std=init_std, dtype=dtype, key=fc1_key)
        self.fc2 = Linear(ffn_dim, dim, init_std=init_std, dtype=dtype, key=fc2_key)
        self.final_layer_norm = LayerNorm(dim, dtype=dtype)
        self.dropout = eqx.nn.Dropout(dropout, inference=True)
        self.activation_dropout = eqx.nn.Dropout(activation_dropout, inference=True)
        self.activation_fn = ACTIVATION_FUNCTIONS[activation_function]

    def __call__(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch src dim"], Float[Array, "*batch heads src src"] | None]:
        weights_key, attn_key, activation_key, ffn_key = split_or_none(key, 4)
        keys, values = self.self_attn.project_kv(x)
        found, weights = self.self_attn.attend(x, keys, values, mask, key=weights_key)
        x = self.self_attn_layer_norm(x + self.dropout(found, key=attn_key))
        y = feed_forward(x, self.fc1, self.activation_fn, self.activation_dropout, self.fc2, key=activation_key)
        return self.final_layer_norm(x + self.dropout(y, key=ffn_key)), weights


class BartEncoder(eqx.Module):
    """Positions added, a norm, a stack of layers."""

    embed_tokens: AbstractEmbedding | None
    """The source's own token table; `None` where that is `BartModel.shared`."""
    embed_positions: LearnedPositionalEmbedding
    layernorm_embedding: LayerNorm
    layers: tuple[BartEncoderLayer, ...]
    dropout: eqx.nn.Dropout
    layerdrop: LayerDrop
    embed_scale: float = eqx.field(static=True)

    def __init__(self, config: BartConfig, *, dtype: DTypeLike = jnp.float32, key: PRNGKeyArray):
        positions_key, layers_key = jr.split(key)
        self.embed_tokens = None
        self.embed_positions = LearnedPositionalEmbedding(
            config.max_position_embeddings, config.d_model, init_std=config.init_std, dtype=dtype, key=positions_key
        )
        self.layernorm_embedding = LayerNorm(config.d_model, dtype=dtype)
        self.layers = tuple(
            BartEncoderLayer(
                config.d_model,
                config.encoder_attention_heads,
                config.encoder_ffn_dim,
                activation_function=config.activation_function,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                activation_dropout=config.activation_dropout,
                init_std=config.init_std,
                dtype=dtype,
                key=layer_key,
            )
            for layer_key in jr.split(layers_key, config.encoder_layers)
        )
        self.dropout = eqx.nn.Dropout(config.dropout, inference=True)
        self.layerdrop = LayerDrop(config.encoder_layerdrop, inference=True)
        self.embed_scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0

    def __call__(
        self,
        inputs_embeds: Float[Array, "*batch src dim"],
        attention_mask: Bool[Array, "*batch src"] | None = None,
        position_ids: Integer[HostArray, "*#batch src"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> BaseModelOutput:
        """`position_ids` are 0, 1, 2, ... by default, also where tokens are masked.

        Raises:
            ValueError: if there are more tokens than positions, or a position that does not exist.
        """
        if position_ids is None:
            position_ids = self.embed_positions.ids_for(inputs_embeds.shape[-2])
        embed_key, layers_key = split_or_none(key, 2)
        x = inputs_embeds * self.embed_scale + self.embed_positions(position_ids)
        x = self.dropout(self.layernorm_embedding(x), key=embed_key)
        mask = None if attention_mask is None else padding_mask(attention_mask)

        through_layers = partial(
            self._through_layers,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            key=layers_key,
        )
        *batch, src, _ = x.shape
        count = math.prod(batch)
        if key is None and count * src >= MANY and may_take_turns(tuple(batch)):
            rows = math.ceil(count / math.ceil(x.nbytes / PART))
            return in_turn(lambda some: through_layers(*some), (x, mask), tuple(batch), rows=rows)
        return through_layers(x, mask)

    def _through_layers(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        *,
        output_attentions: bool,
        output_hidden_states: bool,
        key: PRNGKeyArray | None,
    ) -> BaseModelOutput:
        hidden_states, attentions = [x], []
        for layer, layer_key in zip(self.layers, split_or_none(key, len(self.layers)), strict=True):
            inside_key, drop_key = split_or_none(layer_key, 2)
            y, weights = eqx.filter_jit(layer)(x, mask, key=inside_key)  # layers alike are traced once
            x = self.layerdrop(y, x, key=drop_key)
            hidden_states.append(x)
            attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

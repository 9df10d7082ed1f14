"""The encoder: embeddings of source tokens in, one state for each out."""

import abc
import dataclasses
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

from ..config import BartConfig, LayerConfig
from ..kernels.rows import in_parts
from ..typing import Array, HostArray, Mask
from .activations import ACTIVATION_FUNCTIONS
from .attention import AbstractAttention, BartAttention, attend, project_kv
from .embeddings import AbstractEmbedding, AbstractPositionalEmbedding, LearnedPositionalEmbedding
from .float16 import warn_of_float16_training
from .layers import AbstractLinear, AbstractResidual, LayerDrop, LayerNorm, Linear, PostNorm, feed_forward
from .masks import padding_mask
from .outputs import BaseModelOutput
from .signature import one_sentence_errors


class AbstractEncoderLayer(eqx.Module):
    """Interface for replacing a `BartEncoderLayer`: by a wrapper, or by a layer of another kind."""

    @abc.abstractmethod
    def __call__(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        positions: Integer[Array, "*batch src"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch src dim"], Float[Array, "*batch heads src src"] | None]:
        """The states after this layer, and the attention weights, or `None`. `mask` is True at tokens.

        Each row of the batch is computed independently of the others: on CPU a few may be computed at a time.
        """


class BartEncoderLayer(AbstractEncoderLayer):
    """Self-attention, then feed-forward, each with a residual connection: in BART, added and then normalised."""

    self_attn: AbstractAttention
    self_attn_layer_norm: LayerNorm
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
            config: Sizes and rates: `BartConfig.encoder_layer`.
            residual: Where the norms stand: `PostNorm()`, which is BART's and the default, or `PreNorm()`.
            dtype: The dtype of the parameters.
            key: For the initial weights.
        """
        attn_key, fc1_key, fc2_key = jr.split(key, 3)
        linear = partial(Linear, init_std=config.init_std, dtype=dtype)
        self.self_attn = BartAttention(
            config.dim,
            config.num_heads,
            dropout=config.attention_dropout,
            init_std=config.init_std,
            dtype=dtype,
            key=attn_key,
        )
        self.self_attn_layer_norm = LayerNorm(config.dim, dtype=dtype)
        self.fc1 = linear(config.dim, config.ffn_dim, key=fc1_key)
        self.fc2 = linear(config.ffn_dim, config.dim, key=fc2_key)
        self.final_layer_norm = LayerNorm(config.dim, dtype=dtype)
        self.residual = PostNorm() if residual is None else residual
        self.dropout = eqx.nn.Dropout(config.dropout, inference=True)
        self.activation_dropout = eqx.nn.Dropout(config.activation_dropout, inference=True)
        self.activation_fn = ACTIVATION_FUNCTIONS[config.activation_function]

    def __call__(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        positions: Integer[Array, "*batch src"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch src dim"], Float[Array, "*batch heads src src"] | None]:
        weights_key, attn_key, activation_key, ffn_key = [None] * 4 if key is None else jr.split(key, 4)
        y = self.residual.before(x, self.self_attn_layer_norm)
        keys, values = project_kv(self.self_attn, y, positions)
        y, weights = attend(self.self_attn, y, keys, values, mask, positions, positions, key=weights_key)
        x = self.residual.after(x, self.dropout(y, key=attn_key), self.self_attn_layer_norm)
        y = self.residual.before(x, self.final_layer_norm)
        y = feed_forward(y, self.fc1, self.activation_fn, self.activation_dropout, self.fc2, key=activation_key)
        return self.residual.after(x, self.dropout(y, key=ffn_key), self.final_layer_norm), weights


@eqx.filter_jit
def run_encoder_layer(
    layer: AbstractEncoderLayer,
    x: Float[Array, "*batch src dim"],
    mask: Bool[Array, "*batch 1 1 src"] | None,
    positions: Integer[Array, "*batch src"],
    *,
    key: PRNGKeyArray | None,
) -> tuple[Float[Array, "*batch src dim"], Float[Array, "*batch heads src src"] | None]:
    """`layer(...)`. Layers of one structure are traced once; shapes are checked whether or not `layer` checks them."""
    return layer(x, mask, positions, key=key)


class BartEncoder(eqx.Module):
    """Embeddings and positions, a norm, a stack of layers.

    The encoder of another model can be assembled from the same parts.
    """

    embed_tokens: AbstractEmbedding | None
    """A token table for the source alone; `None` where it is `BartModel.shared`."""
    embed_positions: AbstractPositionalEmbedding | None
    """`None` where positions are left to attention."""
    layernorm_embedding: Callable[[Array], Array]
    layers: tuple[AbstractEncoderLayer, ...]
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
        residual: AbstractResidual | None = None,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ) -> "BartEncoder":
        """BART's encoder, with random weights of `dtype` from `key`. `residual` is that of its layers."""
        positions_key, layers_key = jr.split(key)
        return cls(
            embed_tokens=None,
            embed_positions=LearnedPositionalEmbedding(
                config.max_position_embeddings, config.d_model, init_std=config.init_std, dtype=dtype, key=positions_key
            ),
            layernorm_embedding=LayerNorm(config.d_model, dtype=dtype),
            layers=tuple(
                BartEncoderLayer(config.encoder_layer, residual=residual, dtype=dtype, key=layer_key)
                for layer_key in jr.split(layers_key, config.encoder_layers)
            ),
            layer_norm=eqx.nn.Identity(),
            dropout=eqx.nn.Dropout(config.dropout, inference=True),
            layerdrop=LayerDrop(config.encoder_layerdrop, inference=True),
            embed_scale=config.embed_scale,
        )

    @one_sentence_errors
    def __call__(
        self,
        inputs_embeds: Float[Array, "*batch src dim"],
        attention_mask: Mask[HostArray, "*batch src"] | None = None,
        position_ids: Integer[HostArray, "*#batch src"] | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> BaseModelOutput:
        """
        Args:
            inputs_embeds: The embeddings of the source's tokens, or features of the model's width.
            attention_mask: Zero, or False, at padding. All are tokens by default.
            position_ids: 0, 1, 2, ... by default, also where tokens are masked.
            output_attentions: Return the attention weights of every layer.
            output_hidden_states: Return the embedded input and the output of every layer.
            key: For dropout and LayerDrop, in training mode.

        Raises:
            ValueError: if there are more tokens than positions, or a position that does not exist.
        """
        *batch, src, _ = inputs_embeds.shape
        embed_key, layers_key = (None, None) if key is None else jr.split(key)
        x = inputs_embeds * self.embed_scale
        positions = jnp.asarray(jnp.arange(src) if position_ids is None else position_ids, jnp.int32)
        if self.embed_positions is not None:
            if position_ids is None:
                self.embed_positions.check_length(src)
            x = x + self.embed_positions(positions)
        x = self.dropout(self.layernorm_embedding(x), key=embed_key)

        mask, positions = padding_mask(attention_mask), jnp.broadcast_to(positions, (*batch, src))
        run_layers = eqx.Partial(
            self.run_layers, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        if layers_key is None:
            output = in_parts(run_layers, x, mask, positions)
        else:  # with a key, every part would draw the same dropout
            output = run_layers(x, mask, positions, key=layers_key)
        training = not (self.dropout.inference and self.layerdrop.inference)
        return dataclasses.replace(
            output,
            last_hidden_state=warn_of_float16_training(output.last_hidden_state, training),
            position_ids=None if position_ids is None else positions,
        )

    def run_layers(
        self,
        x: Float[Array, "*batch src dim"],
        mask: Bool[Array, "*batch 1 1 src"] | None,
        positions: Integer[Array, "*batch src"],
        *,
        output_attentions: bool,
        output_hidden_states: bool,
        key: PRNGKeyArray | None = None,
    ) -> BaseModelOutput:
        """The stack of layers, from embedded tokens to the last states."""
        hidden_states, attentions = [], []
        layer_keys = [None] * len(self.layers) if key is None else jr.split(key, len(self.layers))
        for layer, layer_key in zip(self.layers, layer_keys, strict=True):
            inside_key, drop_key = (None, None) if layer_key is None else jr.split(layer_key)
            if output_hidden_states:
                hidden_states.append(x)
            y, weights = run_encoder_layer(layer, x, mask, positions, key=inside_key)
            x = self.layerdrop(y, x, key=drop_key)
            if output_attentions:
                attentions.append(weights)
        x = self.layer_norm(x)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=(*hidden_states, x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

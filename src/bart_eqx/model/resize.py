"""A vocabulary of another size: `resize_token_embeddings`."""

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float, PRNGKeyArray

from ..config import BartConfig
from ..generation_config import TOKENS
from ..kernels.matmul import quantize_rows
from ..typing import Array
from .causal_lm import BartForCausalLM
from .conditional_generation import BartForConditionalGeneration
from .embeddings import Embedding
from .language_model import AbstractLanguageModel
from .layers import Linear
from .quantized import QuantizedEmbedding, QuantizedLinear
from .reconfigure import configured_part, with_config


Model = TypeVar("Model", bound=eqx.Module)
_VARIANCE = 1e-9  # of new rows, relative to the old ones: that of transformers' `mean_resizing`


def resize_token_embeddings(model: Model, vocab_size: int, *, key: PRNGKeyArray | None = None) -> Model:
    """The model with a vocabulary of another size: rows are added at the end of its token tables, or removed there.

    An untied language-modelling head, `final_logits_bias` and `config.vocab_size` follow. The rows that remain, and
    everything else, are unchanged.

    New rows are those of transformers (since 4.46): drawn from a normal distribution with the mean of the table's old
    rows and 1e-9 times their covariance, so that a new token starts as an average one. New entries of
    `final_logits_bias` are zero. Of a model with int8 weights, the new rows are rounded as `quantize` rounds.

    Args:
        model: A model of one of the five classes, in any mode.
        vocab_size: The new number of tokens.
        key: Draws new rows. Without it, there can be fewer rows only.

    Raises:
        TypeError: if `model` is of another class, or a table or head was replaced by another module.
        ValueError: if rows are to be added without a `key`; if a special token of `model.config` or
            `model.generation_config` has an id that the new vocabulary lacks.
    """
    nodes = _vocabulary(model)
    bart_config: BartConfig = configured_part(model, "resize_token_embeddings").config
    _check_tokens("config", bart_config, vocab_size)
    if isinstance(model, AbstractLanguageModel):
        _check_tokens("generation_config", model.generation_config, vocab_size)
    keys = [None] * len(nodes) if key is None else list(jr.split(key, len(nodes)))
    resized = [_with_rows(node, vocab_size, node_key) for node, node_key in zip(nodes, keys, strict=True)]
    model = eqx.tree_at(_vocabulary, model, resized)
    if isinstance(model, BartForConditionalGeneration):
        bias = model.final_logits_bias[:, :vocab_size]
        bias = jnp.pad(bias, ((0, 0), (0, vocab_size - bias.shape[1])))
        model = eqx.tree_at(lambda tree: tree.final_logits_bias, model, bias)
    return with_config(model, dataclasses.replace(bart_config, vocab_size=vocab_size))


def new_rows(table: Float[Array, "rows dim"], count: int, key: PRNGKeyArray) -> Float[Array, "count dim"]:
    """Rows for new tokens, as `resize_token_embeddings` draws them, in the table's dtype."""
    wide = table.astype(jnp.promote_types(table.dtype, jnp.float32))
    mean = jnp.mean(wide, axis=0)
    variances, axes = jnp.linalg.eigh((wide - mean).T @ (wide - mean) / len(wide))
    deviations = jnp.sqrt(_VARIANCE * jnp.maximum(variances, 0))  # rounding makes a variance of zero negative
    noise = (deviations * jr.normal(key, (count, len(mean)), wide.dtype)) @ axes.T
    return (mean + noise).astype(table.dtype)


def _vocabulary(model: Any) -> list[Any]:
    """The modules with a row for each token."""
    bart = configured_part(model, "resize_token_embeddings")
    if isinstance(bart, BartForCausalLM):
        nodes = [bart.model.decoder.embed_tokens, bart.lm_head]
    else:
        nodes = [bart.shared, bart.encoder.embed_tokens, bart.decoder.embed_tokens]
        nodes += [model.lm_head] if isinstance(model, BartForConditionalGeneration) else []
    return [node for node in nodes if node is not None]


def _with_rows(module: Any, rows: int, key: PRNGKeyArray | None) -> Any:
    """A table, or a head without a bias, with another number of rows."""
    match module:
        case Embedding() | Linear(bias=None):
            old = module.weight
            weight = old[:rows]
            if (added := rows - len(old)) > 0:
                weight = jnp.concatenate([old, new_rows(old, added, _given(key, added))])
            return eqx.tree_at(lambda node: node.weight, module, weight)
        case QuantizedEmbedding() | QuantizedLinear(bias=None):
            old, old_scale = module.weight, module.weight_scale
            weight, scale = old[:rows], old_scale[:rows]
            if (added := rows - len(old)) > 0:
                table = old_scale[:, None] * old.astype(old_scale.dtype)
                new, new_scale = quantize_rows(new_rows(table, added, _given(key, added)))
                weight, scale = jnp.concatenate([old, new]), jnp.concatenate([old_scale, new_scale])
            return eqx.tree_at(lambda node: (node.weight, node.weight_scale), module, (weight, scale))
    raise TypeError(
        f"`resize_token_embeddings` changes BART's own tables, and heads without a bias. This one is a "
        f"{type(module).__name__}: resize before it is replaced."
    )


def _given(key: PRNGKeyArray | None, added: int) -> PRNGKeyArray:
    if key is None:
        raise ValueError(f"`key` draws the rows of {added} new tokens: give one, as jax.random.key(0).")
    return key


def _check_tokens(owner: str, settings: Any, vocab_size: int) -> None:
    for name in sorted(TOKENS):
        token = getattr(settings, name)
        ids = [token] if isinstance(token, int) else token or []
        if outside := [index for index in ids if index >= vocab_size]:
            raise ValueError(
                f"A vocabulary of {vocab_size} tokens has 0 to {vocab_size - 1}, and `{name}` in the model's `{owner}` "
                f"is {outside[0]}: keep more rows, or load the model with another `{owner}`."
            )

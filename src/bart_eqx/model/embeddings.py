"""Tables of vectors: one for each token, one for each position."""

import abc

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from ..kernels.matmul import matmul
from ..typing import Array, Dim, HostArray
from .checks import check_not_explicit, check_range


class AbstractEmbedding(eqx.Module):
    """Interface for replacing the table of token embeddings."""

    @abc.abstractmethod
    def __call__(self, ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        """The vectors of tokens. An id outside the table gives NaN, never the vector of another id."""

    @abc.abstractmethod
    def logits(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch vocab"]:
        """The product of `x` with every vector: the tied language-modelling head."""


class Embedding(AbstractEmbedding):
    """A table of token embeddings, as checkpoints store it."""

    weight: Float[Array, "vocab dim"]

    def __init__(self, vocab: int, dim: int, *, init_std: float, dtype: DTypeLike = jnp.float32, key: PRNGKeyArray):
        """
        Args:
            vocab: The number of tokens.
            dim: The width of a vector.
            init_std: Standard deviation of the initial weights.
            dtype: The dtype of the table.
            key: For the initial weights.
        """
        self.weight = init_std * jr.normal(key, (vocab, dim), dtype)

    def __call__(self, ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        check_not_explicit("the embedding", self.weight)
        return self.weight.at[jnp.asarray(ids)].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def logits(self, x: Float[Array, "*batch {self.weight.shape[1]}"]) -> Float[Array, "*batch vocab"]:
        return matmul(x, self.weight)


class AbstractPositionalEmbedding(eqx.Module):
    """Interface for replacing a table of positions: by a fixed one, or by one that is computed."""

    num_positions: eqx.AbstractVar[int]
    """The number of positions from 0 on."""

    @abc.abstractmethod
    def __call__(self, position_ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        """The vectors of positions. A position that does not exist is a ValueError, or NaN where it is traced."""

    def check_length(self, length: Dim) -> None:
        """
        Raises:
            ValueError: if a sequence of `length` tokens has more tokens than there are positions.
        """
        if isinstance(length, int) and length > self.num_positions:
            raise ValueError(
                f"A sequence may have at most max_position_embeddings={self.num_positions} tokens. Got {length}: "
                f"truncate it, or split it."
            )


class LearnedPositionalEmbedding(AbstractPositionalEmbedding):
    """A vector for each position; position `p` is row `p + offset` of the table.

    BART's `offset` is 2: fairseq numbered positions from its padding id + 1, and the checkpoints keep those two rows.
    Positions -2 and -1 therefore exist; a left-padded sequence may use them for its padding.
    """

    weight: Float[Array, "rows dim"]
    offset: int = eqx.field(static=True)

    def __init__(
        self,
        positions: int,
        dim: int,
        *,
        offset: int = 2,
        init_std: float,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        """
        Args:
            positions: The number of positions from 0 on.
            dim: The width of a vector.
            offset: The row of position 0.
            init_std: Standard deviation of the initial weights.
            dtype: The dtype of the table.
            key: For the initial weights.
        """
        self.weight = init_std * jr.normal(key, (positions + offset, dim), dtype)
        self.offset = offset

    @property
    def num_positions(self) -> int:
        return self.weight.shape[0] - self.offset

    def __call__(self, position_ids: Integer[HostArray, "*batch seq"]) -> Float[Array, "*batch seq dim"]:
        """The vectors of positions. A position outside the table gives NaN.

        Raises:
            ValueError: if a position is outside the table, and `position_ids` are not traced.
        """
        position_ids = check_range("position_ids", position_ids, -self.offset, self.num_positions, "Shift them.")
        rows = jnp.asarray(position_ids) + self.offset
        return self.weight.at[rows].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

"""Beams, candidates for their next token, and the hypotheses that they leave behind."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Integer, PRNGKeyArray, PyTree

from ..kernels.top_k import top_k
from ..typing import Array
from .constraints import Progress
from .limits import Limits


def pick(tree: PyTree[Array], which: Integer[Array, "batch n"]) -> PyTree[Array]:
    """Of every row and every leaf, the beams that are asked for."""
    return jax.tree.map(lambda leaf: jax.vmap(lambda row, index: row[index])(leaf, which), tree)


class Hypotheses(eqx.Module):
    """Sequences of every row, with scores that are comparable across lengths."""

    tokens: Integer[Array, "batch n buffer"]
    scores: Float[Array, "batch n"]
    lengths: Integer[Array, "batch n"]
    complete: Bool[Array, "batch n"]
    """False in a place that none has taken yet."""
    beam_indices: Integer[Array, "batch n steps"]

    def best(self, n: int) -> "Hypotheses":
        """The `n` best, the best first; of equals those that are complete, and then the earlier."""
        return pick(self, jnp.lexsort((~self.complete, -self.scores))[:, :n])

    def joined(self, others: "Hypotheses") -> "Hypotheses":
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), self, others)


class Candidates(eqx.Module):
    """The likeliest continuations of a row's beams, the likeliest first (or in the order in which they were drawn)."""

    parents: Integer[Array, "batch k"]
    """The beams that they continue."""
    ids: Integer[Array, "batch k"]
    """The tokens that they add."""
    scores: Float[Array, "batch k"]
    """The sums of the log-probabilities."""
    ends: Bool[Array, "batch k"]
    """Whether the token ends a sequence."""

    @classmethod
    def best(
        cls, totals: Float[Array, "batch beams vocab"], k: int, limits: Limits, key: PRNGKeyArray | None
    ) -> "Candidates":
        """The `k` likeliest, or with a key `k` draws without replacement: the Gumbel-top-k trick (arXiv:1903.06059)."""
        batch, beams, vocab = totals.shape
        flat = totals.reshape(batch, beams * vocab)
        if key is None:
            scores, index = top_k(flat, k)
        else:
            noise = jax.vmap(lambda row: jr.gumbel(jr.fold_in(key, row), flat.shape[1:], flat.dtype))(jnp.arange(batch))
            index = top_k(flat + noise, k)[1]
            scores = jnp.take_along_axis(flat, index, axis=-1)
        ids = index % vocab
        return cls(index // vocab, ids, scores, limits.is_eos(ids))


class BeamGroup(eqx.Module):
    """Beams of every row that compete with one another. A plain beam search has one group."""

    tokens: Integer[Array, "batch beams buffer"]
    scores: Float[Array, "batch beams"]
    """The sums of the log-probabilities."""
    beam_indices: Integer[Array, "batch beams steps"]
    """Which beam of all (of `batch * num_beams`) each token was chosen for; -1 where there is no token yet."""
    own_indices: Integer[Array, "batch beams"]
    """What these beams are called there."""
    finished: Hypotheses
    open: Bool[Array, " batch"]
    """Rows whose hypotheses may still get better."""
    progress: Progress | None
    """How far each beam has come with the words that it must contain."""

    def continued(
        self,
        parents: Integer[Array, "batch n"],
        ids: Integer[Array, "batch n"],
        length: Integer[Array, ""],
        prompt_length: int,
    ) -> tuple[Integer[Array, "batch n buffer"], Integer[Array, "batch n steps"]]:
        """The tokens and beam indices of continuations."""
        put = jax.lax.dynamic_update_slice_in_dim
        tokens = put(pick(self.tokens, parents), ids[..., None].astype(self.tokens.dtype), length, axis=-1)
        beams = pick(self.own_indices, parents)[..., None]
        return tokens, put(pick(self.beam_indices, parents), beams, length - prompt_length, axis=-1)

    def as_hypotheses(
        self, scores: Float[Array, "batch beams"], complete: Bool[Array, "batch beams"], length: Integer[Array, ""]
    ) -> Hypotheses:
        """The beams as they stand, with scores of another kind."""
        lengths = jnp.broadcast_to(length, scores.shape)
        return Hypotheses(self.tokens, scores, lengths, complete, self.beam_indices)

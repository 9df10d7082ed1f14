"""The state of a beam search: beams, the continuations to choose from, and the hypotheses so far."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Integer, PRNGKeyArray, PyTree

from ..kernels.top_k import top_k
from ..model.cache import DecoderCache
from ..typing import Array
from .decode_loop import AbstractLoopState, StepRecords


# No sum of log-probabilities is as low. That of a masked beam is -1e7 or less: `AbstractBeamRules.mask_bias`.
IMPOSSIBLE = -5e6


def gather(tree: PyTree[Array], indices: Integer[Array, "batch n"]) -> PyTree[Array]:
    """From every leaf `[batch, beams, ...]` the beams `indices`, `[batch, n, ...]`."""
    return jax.tree.map(lambda leaf: jax.vmap(lambda row, index: row[index])(leaf, indices), tree)


class Hypotheses(eqx.Module):
    """`n` finished sequences of every row, with length-normalised scores."""

    tokens: Integer[Array, "batch n buffer"]
    scores: Float[Array, "batch n"]
    lengths: Integer[Array, "batch n"]
    complete: Bool[Array, "batch n"]
    """False in an empty slot."""
    possible: Bool[Array, "batch n"]
    """False where a token was masked out, or the sequence continues a beam that was."""
    beam_indices: Integer[Array, "batch n steps"]

    def best(self, n: int) -> "Hypotheses":
        """The `n` best, best first. Of equal scores the complete ones come first, and then the earlier ones."""
        return gather(self, jnp.lexsort((~self.complete, -self.scores))[:, :n])

    def joined(self, others: "Hypotheses") -> "Hypotheses":
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), self, others)


class Continuations(eqx.Module):
    """`k` ways to continue a row's beams by one token."""

    parents: Integer[Array, "batch k"]
    """The beam that is continued, in `[0, beams)`."""
    ids: Integer[Array, "batch k"]
    """The token that is appended."""
    scores: Float[Array, "batch k"]
    """The sum of the log-probabilities."""

    @classmethod
    def best(cls, totals: Float[Array, "batch beams vocab"], k: int, key: PRNGKeyArray | None) -> "Continuations":
        """The `k` likeliest, likeliest first; or, with a key, `k` draws without replacement, in the order of drawing
        (the Gumbel-top-k trick, arXiv:1903.06059). `totals` are the scores of all continuations."""
        batch, beams, vocab = totals.shape
        flat = totals.reshape(batch, beams * vocab)
        if key is None:
            scores, index = top_k(flat, k)
        else:
            noise = jax.vmap(lambda row: jr.gumbel(jr.fold_in(key, row), flat.shape[1:], flat.dtype))(jnp.arange(batch))
            index = top_k(flat + noise, k)[1]
            scores = jnp.take_along_axis(flat, index, axis=-1)
        return cls(index // vocab, index % vocab, scores)


class Progress(eqx.Module):
    """How far a sequence has come with the words of `force_words_ids`, numbered in the order given."""

    queue: Integer[Array, "*rows words"]
    """The key by which pending words are tried, lowest first; `NOT_PENDING` for other words."""
    turn: Integer[Array, "*rows"]
    """The queue key of the next word that breaks off."""
    node: Integer[Array, "*rows"]
    """The node of the trie that the word in progress has reached; -1 if none is in progress."""


class BeamGroup(eqx.Module):
    """Beams of every row that compete with one another. A plain beam search has one group."""

    tokens: Integer[Array, "batch beams buffer"]
    scores: Float[Array, "batch beams"]
    """The sum of each beam's log-probabilities."""
    beam_indices: Integer[Array, "batch beams steps"]
    """For each step, the parent beam, in `[0, batch * num_beams)`; -1 at later steps."""
    own_indices: Integer[Array, "batch beams"]
    """The indices of these beams in `[0, batch * num_beams)`."""
    finished: Hypotheses
    open: Bool[Array, " batch"]
    """Rows whose hypotheses may still get better."""
    progress: Progress | None
    """`None` without `force_words_ids`."""
    prompt_length: int = eqx.field(static=True)

    def append(
        self, continuations: Continuations, length: Integer[Array, ""]
    ) -> tuple[Integer[Array, "batch k buffer"], Integer[Array, "batch k steps"]]:
        """The tokens and the beam indices of each continuation."""
        put = jax.lax.dynamic_update_slice_in_dim
        parents, ids = continuations.parents, continuations.ids
        tokens = put(gather(self.tokens, parents), ids[..., None].astype(self.tokens.dtype), length, axis=-1)
        parent_indices = gather(self.own_indices, parents)[..., None]
        return tokens, put(gather(self.beam_indices, parents), parent_indices, length - self.prompt_length, axis=-1)

    def with_hypotheses(
        self,
        continuations: Continuations,
        scores: Float[Array, "batch k"],
        complete: Bool[Array, "batch k"],
        length: Integer[Array, ""],
    ) -> Hypotheses:
        """The best of the finished hypotheses and these continuations, whose `scores` are length-normalised."""
        tokens, beam_indices = self.append(continuations, length)
        lengths = jnp.broadcast_to(length + 1, scores.shape)
        new = Hypotheses(tokens, scores, lengths, complete, continuations.scores > IMPOSSIBLE, beam_indices)
        return self.finished.joined(new).best(self.finished.scores.shape[-1])

    def advanced(
        self,
        continuations: Continuations,
        finished: Hypotheses,
        is_open: Bool[Array, " batch"],
        length: Integer[Array, ""],
    ) -> "BeamGroup":
        """The group whose beams are these continuations, one for each beam."""
        tokens, beam_indices = self.append(continuations, length)
        return BeamGroup(
            tokens=tokens,
            scores=continuations.scores,
            beam_indices=beam_indices,
            own_indices=self.own_indices,
            finished=finished,
            open=is_open,
            progress=self.progress,
            prompt_length=self.prompt_length,
        )

    def as_hypotheses(
        self, scores: Float[Array, "batch beams"], complete: Bool[Array, "batch beams"], length: Integer[Array, ""]
    ) -> Hypotheses:
        """The running beams, with length-normalised `scores`."""
        lengths = jnp.broadcast_to(length, scores.shape)
        return Hypotheses(self.tokens, scores, lengths, complete, self.scores > IMPOSSIBLE, self.beam_indices)


class BeamSearchState(AbstractLoopState):
    """The loop state of beam search."""

    groups: tuple[BeamGroup, ...]
    length: Integer[Array, ""]
    unfinished: Bool[Array, ""]
    """Whether to take another step."""
    finite: Bool[Array, " batch"]
    """Whether `all_comparable` held for every beam at every step."""
    cache: DecoderCache
    """In the order of decoding: when beams are reordered, it is not."""
    records: StepRecords

    @property
    def tokens(self) -> Integer[Array, "batch beams buffer"]:
        return jnp.concatenate([group.tokens for group in self.groups], axis=1)

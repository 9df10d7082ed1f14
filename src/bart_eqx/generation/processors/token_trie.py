"""A set of token sequences as a trie in arrays: what may follow a prefix is a lookup inside the compiled loop."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer

from ...typing import Array
from .scores import AbstractLogitsProcessor, int_setting, marked


class Trie(eqx.Module):
    """The edges of one trie or of several, each with a root of its own. Nodes are numbers.

    Memory is linear in the edges, and a lookup compares all of them: it is meant for up to about ten thousand tokens.
    """

    parents: Integer[Array, " edges"]
    """The node that an edge leaves."""
    tokens: Integer[Array, " edges"]
    children: Integer[Array, " edges"]
    """The node that it reaches."""
    roots: Integer[Array, " trees"]

    @classmethod
    def from_edges(cls, edges: Sequence[tuple[int, int]], trees: int, min_edges: int = 0) -> "Trie":
        """`trees` tries from the edges of `edges_of`, filled up to `min_edges`: equal shapes share a program."""
        fill = max(min_edges - len(edges), 0)
        ends = np.array([*edges, *[(-2, -1)] * fill], np.int32).reshape(-1, 2)  # no node is -2
        return cls(
            parents=int_setting(ends[:, 0]),
            tokens=int_setting(ends[:, 1]),
            children=int_setting(range(trees, trees + len(ends))),
            roots=int_setting(range(trees)),
        )

    def leaving(self, nodes: Integer[Array, "*rows"]) -> Bool[Array, "*rows edges"]:
        """The edges that leave a node; no edge leaves node -1."""
        return nodes[..., None] == self.parents

    def step(self, nodes: Integer[Array, "*rows"], tokens: Integer[Array, "*rows"]) -> Integer[Array, "*rows"]:
        """The node that a token leads to; -1 if there is no such edge."""
        taken = self.leaving(nodes) & (tokens[..., None] == self.tokens)
        return jnp.max(jnp.where(taken, self.children, -1), axis=-1, initial=-1)


def edges_of(trees: Sequence[Sequence[Sequence[int]]]) -> list[tuple[int, int]]:
    """Parent node and token of every edge, in the order in which the sequences use them first.

    Nodes are numbered: first the roots, one for each set of sequences, then the edges' children, in the edges' order.
    """
    edges: dict[tuple[int, int], int] = {}
    for root, sequences in enumerate(trees):
        for sequence in sequences:
            node = root
            for token in sequence:
                node = edges.setdefault((node, token), len(trees) + len(edges))
    return list(edges)


class PrefixTrie(AbstractLogitsProcessor):
    """Allows only a set of sequences after the prompt, each followed by the end.

    What transformers does by calling `prefix_allowed_tokens_fn` at every step (arXiv:2010.00904), as data.
    """

    trie: Trie
    depth: Integer[Array, ""]
    """The length of the longest sequence, end included."""
    prompt_length: Integer[Array, ""]
    eos: Integer[Array, " n"]

    @classmethod
    def allowing(
        cls, sets: Sequence[Sequence[Sequence[int]]], eos_token_ids: Sequence[int], prompt_length: int
    ) -> "PrefixTrie":
        """One set of sequences for every row, or a single one for all rows. Each sequence has its end."""
        edges = edges_of(sets)
        return cls(
            trie=Trie.from_edges(edges, len(sets), min_edges=2 ** max(len(edges) - 1, 15).bit_length()),
            depth=int_setting(max(len(sequence) for sequences in sets for sequence in sequences)),
            prompt_length=int_setting(prompt_length),
            eos=int_setting(eos_token_ids),
        )

    def _walk(
        self, tokens: Integer[Array, "batch beams buffer"], length: Integer[Array, ""] | Integer[Array, "batch beams"]
    ) -> Integer[Array, "batch beams"]:
        """The node that the tokens from the prompt to slot `length` lead to; -1 outside the trie."""

        def step(i: Integer[Array, ""], nodes: Integer[Array, "batch beams"]) -> Integer[Array, "batch beams"]:
            slot = self.prompt_length + i
            token = jax.lax.dynamic_index_in_dim(tokens, jnp.minimum(slot, tokens.shape[-1] - 1), -1, keepdims=False)
            return jnp.where(slot < length, self.trie.step(nodes, token), nodes)

        start = jnp.broadcast_to(self.trie.roots[:, None], tokens.shape[:-1])
        return jax.lax.fori_loop(0, self.depth, step, start)

    def __call__(
        self,
        logits: Float[Array, "batch beams vocab"],
        tokens: Integer[Array, "batch beams buffer"],
        length: Integer[Array, ""],
    ) -> Float[Array, "batch beams vocab"]:
        nodes = self._walk(tokens, length)
        # Beams that have left the trie, such as those that are padding, may only end.
        nodes = jnp.where(length - self.prompt_length > self.depth, -1, nodes)
        edges = self.trie.leaving(nodes)
        allowed = marked(jnp.where(edges, self.trie.tokens, -1), logits.shape[-1])
        outside = ~jnp.any(edges, axis=-1, keepdims=True)
        allowed = jnp.where(outside, marked(self.eos[:1], logits.shape[-1]), allowed)
        return jnp.where(allowed, logits, -jnp.inf)

    def contains(
        self, tokens: Integer[Array, "batch returned buffer"], lengths: Integer[Array, "batch returned"]
    ) -> Bool[Array, "batch returned"]:
        """Whether a sequence of the set follows the prompt, with its end, in the first `lengths` slots."""
        nodes = self._walk(tokens, lengths)
        return (nodes >= 0) & ~jnp.any(self.trie.leaving(nodes), axis=-1)

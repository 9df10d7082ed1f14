"""A set of token sequences as a tree, in arrays: what may follow a prefix is a lookup inside the compiled loop."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer

from ..typing import Array
from .operands import ids, integers
from .processors import AbstractLogitsProcessor, marked


class Trie(eqx.Module):
    """The edges of a tree, or of several with a root each.

    Memory is linear in the edges, and a lookup compares all of them: made for up to some ten thousand tokens.
    """

    parents: Integer[Array, " edges"]
    tokens: Integer[Array, " edges"]
    children: Integer[Array, " edges"]
    roots: Integer[Array, " trees"]

    @classmethod
    def from_edges(cls, edges: Sequence[tuple[int, int]], trees: int, room: int = 0) -> "Trie":
        """So many trees from `edges_of`, with `room` for so many edges at least: equal room is an equal program."""
        spare = max(room - len(edges), 0)
        ends = np.array([*edges, *[(-2, -1)] * spare], np.int32).reshape(-1, 2)  # no node is -2
        return cls(
            parents=integers(ends[:, 0]),
            tokens=integers(ends[:, 1]),
            children=integers(range(trees, trees + len(ends))),
            roots=integers(range(trees)),
        )

    def leaving(self, nodes: Integer[Array, "*rows"]) -> Bool[Array, "*rows edges"]:
        """Which edges start at a node; none at -1."""
        return nodes[..., None] == self.parents

    def step(self, nodes: Integer[Array, "*rows"], tokens: Integer[Array, "*rows"]) -> Integer[Array, "*rows"]:
        """Where a token leads; -1 where it leads nowhere."""
        taken = self.leaving(nodes) & (tokens[..., None] == self.tokens)
        return jnp.max(jnp.where(taken, self.children, -1), axis=-1, initial=-1)


def edges_of(trees: Sequence[Sequence[Sequence[int]]]) -> list[tuple[int, int]]:
    """Parent and token of every edge, in the order in which the sequences name them.

    Nodes are numbered: first the roots, one for each set of sequences, then the children of the edges, in their order.
    """
    edges: dict[tuple[int, int], int] = {}
    for root, sequences in enumerate(trees):
        for sequence in sequences:
            node = root
            for token in sequence:
                node = edges.setdefault((node, token), len(trees) + len(edges))
    return list(edges)


class PrefixTrie(AbstractLogitsProcessor):
    """Allows only the given sequences, which follow the prompt and are then ended; see `generate`.

    It does what transformers' `prefix_allowed_tokens_fn` does with such a set (arXiv:2010.00904), as data.
    """

    trie: Trie
    depth: Integer[Array, ""]
    prompt_length: Integer[Array, ""]
    eos: Integer[Array, " n"]

    @classmethod
    def allowing(
        cls, sets: Sequence[Sequence[Sequence[int]]], eos_token_ids: Sequence[int], prompt_length: int
    ) -> "PrefixTrie":
        """One set of sequences for every row, or a single one for all rows."""
        ended = [
            [[*sequence, *([] if sequence[-1] in eos_token_ids else eos_token_ids[:1])] for sequence in sequences]
            for sequences in sets
        ]
        edges = edges_of(ended)
        return cls(
            trie=Trie.from_edges(edges, len(sets), room=2 ** max(len(edges) - 1, 15).bit_length()),
            depth=integers(max(len(sequence) for sequences in ended for sequence in sequences)),
            prompt_length=integers(prompt_length),
            eos=ids(eos_token_ids),
        )

    def __call__(
        self,
        logits: Float[Array, "batch beams vocab"],
        tokens: Integer[Array, "batch beams buffer"],
        length: Integer[Array, ""],
    ) -> Float[Array, "batch beams vocab"]:
        def walk(i: Integer[Array, ""], nodes: Integer[Array, "batch beams"]) -> Integer[Array, "batch beams"]:
            slot = self.prompt_length + i
            token = jax.lax.dynamic_index_in_dim(tokens, jnp.minimum(slot, tokens.shape[-1] - 1), -1, keepdims=False)
            return jnp.where(slot < length, self.trie.step(nodes, token), nodes)

        start = jnp.broadcast_to(self.trie.roots[:, None], tokens.shape[:-1])
        nodes = jax.lax.fori_loop(0, self.depth, walk, start)
        # What has left the tree, as beams that are padding have, can only end.
        nodes = jnp.where(length - self.prompt_length > self.depth, -1, nodes)
        edges = self.trie.leaving(nodes)
        allowed = marked(jnp.where(edges, self.trie.tokens, -1), logits.shape[-1])
        lost = ~jnp.any(edges, axis=-1, keepdims=True)
        allowed = jnp.where(lost, marked(self.eos[:1], logits.shape[-1]), allowed)
        barred = jnp.where(allowed, logits, -jnp.inf)
        # Where earlier processors have barred all that is allowed, the set goes first.
        stuck = jnp.all(barred == -jnp.inf, axis=(-2, -1), keepdims=True)
        return jnp.where(stuck, jnp.where(allowed, 0.0, -jnp.inf).astype(logits.dtype), barred)

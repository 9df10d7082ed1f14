"""How far a sequence has come with the words that it must contain: a state that every token moves.

The rules are those of transformers' `beam_constraints.py` (4.55, the last with it), which speak of lists; here the same
state is a few integers for every beam. Words are begun in the order in which they are pending, one is in progress at a
time, and a word whose progress breaks goes to the end of the queue.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Integer

from ..typing import Array
from .operands import integers
from .trie import Trie, edges_of


class Progress(eqx.Module):
    """Of every sequence, with the words numbered as they were given."""

    queue: Integer[Array, "*rows words"]
    """The lower, the sooner a pending word is tried; `NOT_PENDING` for the one in progress and the complete ones."""
    turn: Integer[Array, "*rows"]
    """The place in the queue for the next word that breaks."""
    node: Integer[Array, "*rows"]
    """Where the word in progress stands in the tree; -1 if none is in progress."""


NOT_PENDING = 2**30


class ForcedWords(eqx.Module):
    """The words of `force_words_ids`. Each is a tree: of one branch, or of alternatives of which one must occur."""

    trie: Trie
    word: Integer[Array, " nodes"]
    """The word that a node of the tree belongs to."""
    node_depth: Integer[Array, " nodes"]
    is_leaf: Bool[Array, " nodes"]
    height: Integer[Array, " words"]
    """Tokens of a word, of its longest alternative."""

    @classmethod
    def from_ids(cls, force_words_ids: Sequence[Sequence[int] | Sequence[Sequence[int]]]) -> "ForcedWords":
        given: Any = force_words_ids
        words = [[list(word)] if isinstance(word[0], int) else [list(ids) for ids in word] for word in given]
        edges = edges_of(words)
        word_of, depth_of = list(range(len(words))), [0] * len(words)
        for parent, _ in edges:  # a node's edge comes before those that leave it, and its number is the next one
            word_of.append(word_of[parent])
            depth_of.append(depth_of[parent] + 1)
        parents = {parent for parent, _ in edges}
        leaves = [node not in parents for node in range(len(word_of))]
        if sum(leaves) != sum(map(len, words)):
            raise ValueError("`force_words_ids`: an alternative must not be the beginning of another, nor occur twice.")
        return cls(
            trie=Trie.from_edges(edges, len(words)),
            word=integers(word_of),
            node_depth=integers(depth_of),
            is_leaf=jax.device_put(np.asarray(leaves)),
            height=integers([max(map(len, alternatives)) for alternatives in words]),
        )

    def start(self, rows: tuple[int, ...]) -> Progress:
        words = self.height.shape[0]
        return Progress(
            queue=jnp.broadcast_to(jnp.arange(words, dtype=jnp.int32), (*rows, words)),
            turn=jnp.full(rows, words, jnp.int32),
            node=jnp.full(rows, -1, jnp.int32),
        )

    def is_complete(self, progress: Progress) -> Bool[Array, "*rows"]:
        return jnp.all(progress.queue == NOT_PENDING, axis=-1) & (progress.node < 0)

    def bank(self, progress: Progress) -> Integer[Array, "*rows"]:
        """How far a sequence has come, in tokens: complete words count as the longest one does."""
        longest = jnp.max(self.height)
        busy = progress.node >= 0
        complete = jnp.sum(progress.queue == NOT_PENDING, axis=-1, dtype=jnp.int32) - busy
        in_progress = longest - (self.height[self.word[progress.node]] - self.node_depth[progress.node])
        return complete * longest + jnp.where(busy, in_progress, 0)

    def advancing(self, progress: Progress) -> Bool[Array, "*rows edges"]:
        """Which edges a token could take: of the word in progress, or else of all that are pending."""
        pending = progress.queue < NOT_PENDING  # a word's root has the word's own number
        is_root = self.trie.parents < pending.shape[-1]
        roots = is_root & jnp.take(pending, self.word[self.trie.parents], axis=-1)
        return jnp.where((progress.node >= 0)[..., None], self.trie.leaving(progress.node), roots)

    def advance(self, progress: Progress, tokens: Integer[Array, "*rows"]) -> Progress:
        """The progress with one more token."""
        words = jnp.arange(progress.queue.shape[-1])
        busy = progress.node >= 0
        taken = self.advancing(progress) & (tokens[..., None] == self.trie.tokens)
        # Of several pending words that begin with this token, the first in the queue.
        order = jnp.where(busy[..., None], 0, jnp.take(progress.queue, self.word[self.trie.parents], axis=-1))
        best = jnp.argmin(jnp.where(taken, order, NOT_PENDING), axis=-1)
        advances = jnp.any(taken, axis=-1)
        node = jnp.where(advances, self.trie.children[best], -1)
        begun = advances & ~busy
        broken = busy & ~advances
        begun_word = words == self.word[self.trie.parents[best]][..., None]
        broken_word = words == self.word[progress.node][..., None]
        queue = jnp.where(begun[..., None] & begun_word, NOT_PENDING, progress.queue)
        queue = jnp.where(broken[..., None] & broken_word, progress.turn[..., None], queue)
        return Progress(
            queue=queue,
            turn=progress.turn + broken,
            node=jnp.where(advances & self.is_leaf[node], -1, node),
        )

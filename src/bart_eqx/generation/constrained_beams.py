"""Beam search with words that must occur: `ConstrainedBeamSearchScorer` and `beam_constraints.py` of transformers 4.55.

There a sequence's progress is lists of Python objects; here it is a few integers for every beam. Pending words form a
queue, one word is in progress at a time, and a word that breaks off goes to the end of the queue.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer

from ..typing import Array
from .beam_rules import AbstractBeamRules, BeamSettings, ScorerRules
from .beams import BeamGroup, Continuations, Hypotheses, Progress, gather
from .processors.scores import int_setting
from .processors.token_trie import Trie, edges_of


NOT_PENDING = 2**30


class ForcedWords(eqx.Module):
    """The words of `force_words_ids`. Each is a trie: a single branch, or alternatives, one of which must occur."""

    trie: Trie
    word: Integer[Array, " nodes"]
    """The word that a node of the trie belongs to."""
    node_depth: Integer[Array, " nodes"]
    is_leaf: Bool[Array, " nodes"]
    height: Integer[Array, " words"]
    """The number of tokens of a word, or of its longest alternative."""

    @classmethod
    def from_ids(cls, force_words_ids: Sequence[Sequence[int] | Sequence[Sequence[int]]]) -> "ForcedWords":
        given: Any = force_words_ids
        words = [[list(word)] if isinstance(word[0], int) else [list(ids) for ids in word] for word in given]
        edges = edges_of(words)
        word_of, depth_of = list(range(len(words))), [0] * len(words)
        for parent, _ in edges:  # in the order of the nodes that they reach
            word_of.append(word_of[parent])
            depth_of.append(depth_of[parent] + 1)
        parents = {parent for parent, _ in edges}
        leaves = [node not in parents for node in range(len(word_of))]
        if sum(leaves) != sum(map(len, words)):
            raise ValueError("`force_words_ids`: an alternative must not be the beginning of another, nor occur twice.")
        return cls(
            trie=Trie.from_edges(edges, len(words)),
            word=int_setting(word_of),
            node_depth=int_setting(depth_of),
            is_leaf=jax.device_put(np.asarray(leaves)),
            height=int_setting([max(map(len, alternatives)) for alternatives in words]),
        )

    def start(self, rows: tuple[int, ...]) -> Progress:
        """All words pending, for `rows` sequences."""
        words = self.height.shape[0]
        return Progress(
            queue=jnp.broadcast_to(jnp.arange(words, dtype=jnp.int32), (*rows, words)),
            turn=jnp.full(rows, words, jnp.int32),
            node=jnp.full(rows, -1, jnp.int32),
        )

    def is_complete(self, progress: Progress) -> Bool[Array, "*rows"]:
        return jnp.all(progress.queue == NOT_PENDING, axis=-1) & (progress.node < 0)

    def bank(self, progress: Progress) -> Integer[Array, "*rows"]:
        """The number of tokens of the words so far. A complete word counts as the longest word."""
        longest = jnp.max(self.height)
        busy = progress.node >= 0
        complete = jnp.sum(progress.queue == NOT_PENDING, axis=-1, dtype=jnp.int32) - busy.astype(jnp.int32)
        in_progress = longest - (self.height[self.word[progress.node]] - self.node_depth[progress.node])
        return complete * longest + jnp.where(busy, in_progress, 0)

    def advancing(self, progress: Progress) -> Bool[Array, "*rows edges"]:
        """The edges along which a token advances a word: the one in progress, or else any that is pending."""
        pending = progress.queue < NOT_PENDING  # a word's root has the word's number
        is_root = self.trie.parents < pending.shape[-1]
        roots = is_root & jnp.take(pending, self.word[self.trie.parents], axis=-1)
        return jnp.where((progress.node >= 0)[..., None], self.trie.leaving(progress.node), roots)

    def advance(self, progress: Progress, tokens: Integer[Array, "*rows"]) -> Progress:
        """The progress with one more token."""
        words = jnp.arange(progress.queue.shape[-1])
        busy = progress.node >= 0
        taken = self.advancing(progress) & (tokens[..., None] == self.trie.tokens)
        # Of several pending words that begin with this token, the one that comes first in the queue.
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
            turn=progress.turn + broken.astype(jnp.int32),
            node=jnp.where(advances & self.is_leaf[node], -1, node),
        )


class ConstrainedRules(AbstractBeamRules):
    """`ScorerRules`, with two changes: only a beam that has all its words may end, and every beam is also continued by
    the tokens that advance a word.

    Continuations that have come equally far with their words are a *bank*. The new beams are the best of each bank,
    then the second best of each, and so on: dynamic beam allocation (arXiv:1804.06609).
    """

    settings: BeamSettings
    mask_bias: ClassVar[float] = ScorerRules.mask_bias
    empty_score: ClassVar[float] = ScorerRules.empty_score
    words: ForcedWords
    num_return_sequences: int = eqx.field(static=True)

    def start_progress(self, prompt: Integer[Array, "batch beams prompt"]) -> Progress:
        """The progress that the prompt makes."""
        progress = self.words.start(prompt.shape[:-1])
        for slot in range(prompt.shape[-1]):
            progress = self.words.advance(progress, prompt[..., slot])
        return progress

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Continuations,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        assert group.progress is not None
        scorer = ScorerRules(self.settings)
        may_end = jnp.take_along_axis(self.words.is_complete(group.progress), candidates.parents, axis=-1)
        finished, is_open, unfinished = scorer.close(group, candidates, may_end, length)
        likely = scorer.running(candidates, group.scores.shape[-1])
        chosen, progress = self.allocate(group, likely, totals)
        advanced = group.advanced(chosen, finished, is_open, length)
        return eqx.tree_at(lambda g: g.progress, advanced, progress), unfinished

    def allocate(
        self, group: BeamGroup, likely: Continuations, totals: Float[Array, "batch beams vocab"]
    ) -> tuple[Continuations, Progress]:
        """The new beams, from the likely continuations and those that advance a word; and their progress."""
        assert group.progress is not None
        batch, beams, _ = totals.shape
        trie = self.words.trie
        edges = trie.tokens.shape[0]

        # Every beam continued by every token of every word. Most of these do not advance a word: they are not admitted.
        flat = lambda x: jnp.broadcast_to(x, (batch, beams, edges)).reshape(batch, beams * edges)
        advancing = Continuations(
            flat(jnp.arange(beams)[:, None]), flat(trie.tokens), flat(jnp.take(totals, trie.tokens, axis=-1))
        )
        admitted = self.words.advancing(group.progress).reshape(batch, beams * edges)
        everything = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), likely, advancing)
        admitted = jnp.concatenate([jnp.ones(likely.ids.shape, bool), admitted], axis=1)
        kept = admitted & ~self._repeated(group, everything, admitted)

        # Sorted by bank, most advanced first, and within a bank by score.
        progress = self.words.advance(gather(group.progress, everything.parents), everything.ids)
        banks = jnp.where(kept, self.words.bank(progress), -1)
        order = jnp.lexsort((-((banks * 100).astype(everything.scores.dtype) + everything.scores), ~kept))
        sorted_banks = jnp.take_along_axis(banks, order, axis=-1)

        # The rank of each within its bank, by which the beams are chosen.
        position = jnp.arange(banks.shape[-1])
        new_bank = jnp.concatenate([jnp.ones((batch, 1), bool), sorted_banks[:, 1:] != sorted_banks[:, :-1]], axis=-1)
        rank = position - jax.lax.cummax(jnp.where(new_bank, position, 0), axis=1)
        rank = jnp.where(sorted_banks >= 0, rank, position.shape[0])
        chosen = jnp.take_along_axis(order, jnp.argsort(rank, axis=-1, stable=True)[:, :beams], axis=-1)

        # Where no word can be advanced, the likely continuations stay in their order.
        none_advances = ~jnp.any(kept[:, beams:], axis=-1, keepdims=True)
        chosen = jnp.where(none_advances, jnp.arange(beams), chosen)
        return gather(everything, chosen), gather(progress, chosen)

    def _repeated(
        self, group: BeamGroup, continuations: Continuations, admitted: Bool[Array, "batch k"]
    ) -> Bool[Array, "batch k"]:
        """True for a continuation that makes the same sequence as an earlier one. The likely ones are never dropped."""
        beams = group.scores.shape[-1]
        same_past = jnp.all(group.tokens[:, :, None] == group.tokens[:, None], axis=-1)
        same_parent = jax.vmap(lambda same, parents: same[parents][:, parents])(same_past, continuations.parents)
        same = same_parent & (continuations.ids[:, :, None] == continuations.ids[:, None])
        position = jnp.arange(continuations.ids.shape[-1])
        earlier = (position[None, :] < position[:, None]) & admitted[:, None, :]
        return jnp.any(same & earlier, axis=-1) & (position >= beams)

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        assert group.progress is not None
        complete = self.words.is_complete(group.progress)
        too_few = jnp.sum(complete, axis=-1, keepdims=True) < self.num_return_sequences  # then any beam is admitted
        return ScorerRules(self.settings).with_running(group, complete | too_few, length)

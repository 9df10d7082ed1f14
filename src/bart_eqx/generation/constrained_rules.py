"""Beam search with words that must occur: the rules of `ConstrainedBeamSearchScorer` in transformers 4.55."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..typing import Array
from .beam_rules import AbstractBeamRules, LengthScale, ScorerRules, at, moved
from .beams import BeamGroup, Candidates, Hypotheses, pick
from .constraints import ForcedWords, Progress


class ConstrainedRules(AbstractBeamRules):
    """As `ScorerRules`, with two changes.

    Only a beam that has all its words may end. And every beam is continued also by the tokens that bring it nearer to
    its words: of all continuations, the best are taken in turn from every bank, those that have come equally far.
    """

    scale: LengthScale
    out_of_race: ClassVar[float] = ScorerRules.out_of_race
    nothing: ClassVar[float] = ScorerRules.nothing
    words: ForcedWords
    num_return_sequences: int = eqx.field(static=True)

    def progress(self, tokens: Integer[Array, "batch beams buffer"]) -> Progress:
        progress = self.words.start(tokens.shape[:-1])
        for slot in range(self.scale.prompt_length):
            progress = self.words.advance(progress, tokens[..., slot])
        return progress

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Candidates,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        assert group.progress is not None
        scorer = ScorerRules(self.scale)
        may_end = at(self.words.is_complete(group.progress), candidates.parents)
        finished, is_open, going = scorer.close(group, candidates, may_end, length)

        order = scorer.running(candidates, group.scores.shape[-1])
        likely = Continuations(at(candidates.parents, order), at(candidates.ids, order), at(candidates.scores, order))
        chosen, progress = self.in_turn(group, likely, totals)
        prompt_length = self.scale.prompt_length
        new = moved(group, chosen.parents, chosen.ids, chosen.scores, finished, is_open, length, prompt_length)
        return eqx.tree_at(lambda g: g.progress, new, progress), going

    def in_turn(
        self, group: BeamGroup, likely: "Continuations", totals: Float[Array, "batch beams vocab"]
    ) -> tuple["Continuations", Progress]:
        assert group.progress is not None
        batch, beams, _ = totals.shape
        trie = self.words.trie
        edges = trie.tokens.shape[0]

        # Every beam, continued by every token of every word: most of these are not admitted.
        flat = lambda x: jnp.broadcast_to(x, (batch, beams, edges)).reshape(batch, beams * edges)
        nearer = Continuations(
            flat(jnp.arange(beams)[:, None]), flat(trie.tokens), flat(jnp.take(totals, trie.tokens, axis=-1))
        )
        admitted = self.words.advancing(group.progress).reshape(batch, beams * edges)
        everything = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), likely, nearer)
        admitted = jnp.concatenate([jnp.ones(likely.ids.shape, bool), admitted], axis=1)
        kept = admitted & ~self._seen_before(group, everything, admitted)

        progress = self.words.advance(pick(group.progress, everything.parents), everything.ids)
        banks = jnp.where(kept, self.words.bank(progress), -1)
        rank = jnp.lexsort((-(banks * 100 + everything.scores), ~kept))
        sorted_banks = at(banks, rank)
        place = jnp.arange(banks.shape[-1])
        new_bank = jnp.concatenate([jnp.ones((batch, 1), bool), sorted_banks[:, 1:] != sorted_banks[:, :-1]], axis=-1)
        turn = place - jax.lax.cummax(jnp.where(new_bank, place, 0), axis=1)
        turn = jnp.where(sorted_banks >= 0, turn, place.shape[0])
        in_turn = at(rank, jnp.argsort(turn, axis=-1, stable=True)[:, :beams])

        # Where no beam has anything to advance, the likely ones stay in their order.
        nothing = ~jnp.any(kept[:, beams:], axis=-1, keepdims=True)
        in_turn = jnp.where(nothing, jnp.arange(beams), in_turn)
        return pick(everything, in_turn), pick(progress, in_turn)

    def _seen_before(
        self, group: BeamGroup, continuations: "Continuations", admitted: Bool[Array, "batch k"]
    ) -> Bool[Array, "batch k"]:
        """Which continuations give a sequence that an earlier one gives as well. The likely ones stay in any case."""
        beams = group.scores.shape[-1]
        same_past = jnp.all(group.tokens[:, :, None] == group.tokens[:, None], axis=-1)
        same_parent = jax.vmap(lambda same, parents: same[parents][:, parents])(same_past, continuations.parents)
        same = same_parent & (continuations.ids[:, :, None] == continuations.ids[:, None])
        place = jnp.arange(continuations.ids.shape[-1])
        earlier = (place[None, :] < place[:, None]) & admitted[:, None, :]
        return jnp.any(same & earlier, axis=-1) & (place >= beams)

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        assert group.progress is not None
        complete = self.words.is_complete(group.progress)
        few = jnp.sum(complete, axis=-1, keepdims=True) < self.num_return_sequences  # then the others will have to do
        return ScorerRules(self.scale).with_running(group, complete | few, length)


class Continuations(eqx.Module):
    """Beams and tokens to continue them with."""

    parents: Integer[Array, "batch k"]
    ids: Integer[Array, "batch k"]
    scores: Float[Array, "batch k"]

"""Which continuations a beam search keeps as beams, which become hypotheses, and when it stops.

There are three sets of rules because three implementations differ in exactly this. `PyTorchRules` are those of
`GenerationMixin._beam_search` in transformers 5.23, `FlaxRules` those of `FlaxGenerationMixin._beam_search` in 4.57,
and `ScorerRules` those of `BeamSearchScorer` in 4.55, the last release with group beam search.

| term | meaning |
|---|---|
| open | a row whose hypotheses may still be replaced by better ones |
| finished | the hypotheses of a row so far, at most as many as it has beams |
| complete | whether a slot of `finished` holds a hypothesis, or a candidate becomes one |
| worst | the lowest score in `finished` |
| attainable | the best score a running beam is assumed able to reach; where it does not beat `worst`, a row can stop |
| unfinished | whether the search takes another step |
| `early_stopping=True` | `num_beams` hypotheses are enough |
| `early_stopping=False` | attainable is a beam's score at its present length: a heuristic |
| `early_stopping="never"` | with a positive `length_penalty`, attainable is that at `max_length`: a true bound |
"""

import abc
import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..typing import Array
from .beams import BeamGroup, Continuations, Hypotheses, gather
from .decode_loop import EndAndPadding


EarlyStopping = bool | Literal["never"]


class BeamSettings(eqx.Module):
    """The settings of all rules. The score of a hypothesis is its log-probability divided by a power of its length."""

    ending: EndAndPadding
    length_penalty: Float[Array, ""]
    """The exponent of the length, which counts tokens after the prompt."""
    early_stopping: EarlyStopping = eqx.field(static=True)

    def normalised(
        self, scores: Float[Array, "*rows"], length: Integer[Array, ""], prompt_length: int
    ) -> Float[Array, "*rows"]:
        return scores / (length - prompt_length).astype(scores.dtype) ** self.length_penalty

    def attainable(
        self, scores: Float[Array, "*rows"], length: Integer[Array, ""], prompt_length: int
    ) -> Float[Array, "*rows"]:
        """The best score a running beam of `length` slots is assumed able to reach."""
        if self.early_stopping == "never":
            length = jnp.where(self.length_penalty > 0, self.ending.max_length, length)
        return self.normalised(scores, length, prompt_length)


class AbstractBeamRules(eqx.Module):
    """How a beam search chooses."""

    settings: eqx.AbstractVar[BeamSettings]
    mask_bias: eqx.AbstractClassVar[float]
    """Added to the score of a beam or candidate that is masked out. The references add it, where one might set minus
    infinity: among masked ones the better is still chosen first."""
    empty_score: eqx.AbstractClassVar[float]
    """The score in an empty slot of the hypotheses."""

    @abc.abstractmethod
    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Continuations,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        """The group with one more token in each beam, and whether it is unfinished.

        `totals` are the scores of all continuations, and `candidates` the best of them, best first.
        """

    @abc.abstractmethod
    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        """The hypotheses of this group from which the search returns the best."""


class PyTorchRules(AbstractBeamRules):
    """A hypothesis must be among the `num_beams` best candidates. Reaching `max_length` ends it, as EOS does."""

    settings: BeamSettings
    mask_bias: ClassVar[float] = -1e9
    empty_score: ClassVar[float] = -1e9

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Continuations,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        settings, mask_bias = self.settings, self.mask_bias
        num_beams = group.scores.shape[-1]
        stop_when_full = settings.early_stopping is True
        ends = settings.ending.is_eos(candidates.ids) | (length + 1 >= settings.ending.max_length)

        running_scores, order = jax.lax.top_k(candidates.scores + jnp.where(ends, mask_bias, 0.0), num_beams)
        running = eqx.tree_at(lambda c: c.scores, gather(candidates, order), running_scores)

        complete = ends & (jnp.arange(ends.shape[-1]) < num_beams)
        full = jnp.all(group.finished.complete, axis=-1) & stop_when_full
        scores = settings.normalised(candidates.scores, length + 1, group.prompt_length)
        for masked in (full[:, None], ~group.open[:, None], ~complete):
            scores = scores + jnp.where(masked, mask_bias, 0.0)
        finished = group.with_hypotheses(candidates, scores, complete, length)

        worst = jnp.where(finished.complete, jnp.min(finished.scores, axis=-1, keepdims=True), self.empty_score)
        attainable = settings.attainable(running.scores[:, :1], length + 1, group.prompt_length)
        is_open = group.open & jnp.any(attainable > worst, axis=-1)
        unfinished = jnp.any(is_open) & ~(jnp.all(finished.complete) & stop_when_full) & ~jnp.all(ends)
        return group.advanced(running, finished, is_open, length), unfinished

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        return group.finished


class FlaxRules(AbstractBeamRules):
    """Any candidate that ends is a hypothesis. A row without any returns its beams, their scores not normalised."""

    settings: BeamSettings
    mask_bias: ClassVar[float] = -1e7
    empty_score: ClassVar[float] = -1e7

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Continuations,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        settings, mask_bias = self.settings, self.mask_bias
        stop_when_full = settings.early_stopping is True
        ends = settings.ending.is_eos(candidates.ids)

        running_scores, order = jax.lax.top_k(
            candidates.scores + jnp.where(ends, mask_bias, 0.0), group.scores.shape[-1]
        )
        running = eqx.tree_at(lambda c: c.scores, gather(candidates, order), running_scores)

        full = jnp.all(group.finished.complete, axis=-1, keepdims=True) & stop_when_full
        scores = settings.normalised(candidates.scores, length + 1, group.prompt_length)
        scores = scores + jnp.where(~ends | full, mask_bias, 0.0)
        finished = group.with_hypotheses(candidates, scores, ends, length)

        worst = jnp.where(finished.complete, jnp.min(finished.scores, axis=-1, keepdims=True), self.empty_score)
        improvable = jnp.any(settings.attainable(running.scores[:, :1], length + 1, group.prompt_length) > worst)
        still_open = ~(jnp.all(finished.complete) & stop_when_full)
        unfinished = (length + 1 < settings.ending.max_length) & still_open & improvable
        return group.advanced(running, finished, group.open, length), unfinished

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        complete = group.finished.complete
        running = group.as_hypotheses(group.scores, jnp.ones_like(complete), length)
        finished = eqx.tree_at(  # an empty slot has no tokens, not even a prompt
            lambda h: (h.tokens, h.lengths),
            group.finished,
            (jnp.where(complete[..., None], group.finished.tokens, -1), jnp.where(complete, group.finished.lengths, 0)),
        )
        choose = jax.vmap(lambda any_complete, a, b: jax.tree.map(lambda x, y: jnp.where(any_complete, x, y), a, b))
        return choose(jnp.any(complete, axis=-1), finished, running)


class ScorerRules(AbstractBeamRules):
    """A row is closed once it has `num_beams` hypotheses that are good enough. A row still open at the end adds its
    running beams to them."""

    settings: BeamSettings
    mask_bias: ClassVar[float] = -1e9
    empty_score: ClassVar[float] = -math.inf

    def running(self, candidates: Continuations, num_beams: int) -> Continuations:
        """The `num_beams` best candidates that do not end."""
        ends = self.settings.ending.is_eos(candidates.ids)
        return gather(candidates, jnp.argsort(ends, axis=-1, stable=True)[:, :num_beams])

    def close(
        self, group: BeamGroup, candidates: Continuations, may_end: Bool[Array, "batch k"], length: Integer[Array, ""]
    ) -> tuple[Hypotheses, Bool[Array, " batch"], Bool[Array, ""]]:
        """The hypotheses with the candidates that end and may end; the rows still open; whether the group is
        unfinished."""
        settings, num_beams, prompt_length = self.settings, group.scores.shape[-1], group.prompt_length
        among_best = jnp.arange(candidates.ids.shape[-1]) < num_beams
        complete = settings.ending.is_eos(candidates.ids) & among_best & may_end & group.open[:, None]
        normalised = settings.normalised(candidates.scores, length + 1, prompt_length)
        scores = jnp.where(complete, normalised, self.empty_score)
        finished = group.with_hypotheses(candidates, scores, complete, length)
        full = jnp.all(finished.complete, axis=-1)
        best = settings.attainable(candidates.scores[:, 0], length + 1, prompt_length)
        good = (settings.early_stopping is True) | (jnp.min(finished.scores, axis=-1) >= best)
        is_open = group.open & ~(full & good)
        return finished, is_open, jnp.any(is_open) & (length + 1 < settings.ending.max_length)

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Continuations,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        finished, is_open, unfinished = self.close(group, candidates, jnp.ones(candidates.ids.shape, bool), length)
        running = self.running(candidates, group.scores.shape[-1])
        return group.advanced(running, finished, is_open, length), unfinished

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        return self.with_running(group, jnp.ones(group.scores.shape, bool), length)

    def with_running(
        self, group: BeamGroup, admitted: Bool[Array, "batch beams"], length: Integer[Array, ""]
    ) -> Hypotheses:
        """The hypotheses and, in rows still open, the admitted beams."""
        admitted = admitted & group.open[:, None]
        scores = self.settings.normalised(group.scores, length, group.prompt_length)
        running = group.as_hypotheses(jnp.where(admitted, scores, self.empty_score), admitted, length)
        last_first = jax.tree.map(
            lambda x: x[:, ::-1], group.finished.joined(running)
        )  # of equal scores the last is best, as where the reference pops from a list
        return last_first.best(group.scores.shape[-1])

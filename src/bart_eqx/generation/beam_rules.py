"""Which continuations a beam search keeps as beams, which become hypotheses, and when it stops.

Three sets of rules, because three implementations differ in exactly this. `PyTorchRules` are those of
`GenerationMixin._beam_search` in transformers 5.23, `FlaxRules` those of `FlaxGenerationMixin._beam_search` in 4.57,
and `ScorerRules` those of `BeamSearchScorer` in 4.55, the last release with group beam search.
"""

import abc
import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..typing import Array
from .beams import BeamGroup, Continuations, Hypotheses, Progress, gather
from .decode_loop import Ending


EarlyStopping = bool | Literal["never"]


class BeamSettings(eqx.Module):
    """What all rules read. A hypothesis is scored by its log-probability over a power of its length."""

    ending: Ending
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
        """The score that running beams of `length` slots are assumed to reach at best."""
        if self.early_stopping == "never":
            length = jnp.where(self.length_penalty > 0, self.ending.max_length, length)
        return self.normalised(scores, length, prompt_length)


class AbstractBeamRules(eqx.Module):
    """How a beam search chooses."""

    settings: eqx.AbstractVar[BeamSettings]
    barred_score: eqx.AbstractClassVar[float]
    """The score of a beam that must not be chosen, or what is added to it."""
    empty_score: eqx.AbstractClassVar[float]
    """The score in a place that no hypothesis has taken."""

    @abc.abstractmethod
    def start_progress(self, prompt: Integer[Array, "batch beams prompt"]) -> Progress | None:
        """The progress that the prompt makes with forced words; `None` for rules without them."""

    @abc.abstractmethod
    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Continuations,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        """The group with one more token in each beam, and whether to go on.

        `totals` are the scores of all continuations, and `candidates` the best of them, best first.
        """

    @abc.abstractmethod
    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        """The hypotheses that the search returns of this group."""


class PyTorchRules(AbstractBeamRules):
    """A hypothesis must be among the `num_beams` best candidates. Reaching `max_length` ends it, as EOS does."""

    settings: BeamSettings
    barred_score: ClassVar[float] = -1e9
    empty_score: ClassVar[float] = -1e9

    def start_progress(self, prompt: Integer[Array, "batch beams prompt"]) -> None:
        return None

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Continuations,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        settings, barred = self.settings, self.barred_score
        num_beams = group.scores.shape[-1]
        stop_when_full = settings.early_stopping is True
        ends = settings.ending.is_eos(candidates.ids) | (length + 1 >= settings.ending.max_length)

        running_scores, order = jax.lax.top_k(candidates.scores + jnp.where(ends, barred, 0.0), num_beams)
        running = eqx.tree_at(lambda c: c.scores, gather(candidates, order), running_scores)

        complete = ends & (jnp.arange(ends.shape[-1]) < num_beams)
        full = jnp.all(group.finished.complete, axis=-1) & stop_when_full
        scores = settings.normalised(candidates.scores, length + 1, group.prompt_length)
        for bars in (full[:, None], ~group.open[:, None], ~complete):
            scores = scores + jnp.where(bars, barred, 0.0)
        finished = group.with_hypotheses(candidates, scores, complete, length)

        worst = jnp.where(finished.complete, jnp.min(finished.scores, axis=-1, keepdims=True), barred)
        attainable = settings.attainable(running.scores[:, :1], length + 1, group.prompt_length)
        is_open = group.open & jnp.any(attainable > worst, axis=-1)
        going = jnp.any(is_open) & ~(jnp.all(finished.complete) & stop_when_full) & ~jnp.all(ends)
        return group.advanced(running, finished, is_open, length), going

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        return group.finished


class FlaxRules(AbstractBeamRules):
    """Any candidate that ends is a hypothesis. A row without one returns its beams, their scores not normalised."""

    settings: BeamSettings
    barred_score: ClassVar[float] = -1e7
    empty_score: ClassVar[float] = -1e7

    def start_progress(self, prompt: Integer[Array, "batch beams prompt"]) -> None:
        return None

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Continuations,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        settings, barred = self.settings, self.barred_score
        stop_when_full = settings.early_stopping is True
        ends = settings.ending.is_eos(candidates.ids)

        running_scores, order = jax.lax.top_k(candidates.scores + jnp.where(ends, barred, 0.0), group.scores.shape[-1])
        running = eqx.tree_at(lambda c: c.scores, gather(candidates, order), running_scores)

        full = jnp.all(group.finished.complete, axis=-1, keepdims=True) & stop_when_full
        scores = settings.normalised(candidates.scores, length + 1, group.prompt_length)
        scores = scores + jnp.where(~ends | full, barred, 0.0)
        finished = group.with_hypotheses(candidates, scores, ends, length)

        worst = jnp.where(finished.complete, jnp.min(finished.scores, axis=-1, keepdims=True), barred)
        improvable = jnp.any(settings.attainable(running.scores[:, :1], length + 1, group.prompt_length) > worst)
        still_open = ~(jnp.all(finished.complete) & stop_when_full)
        going = (length + 1 < settings.ending.max_length) & still_open & improvable
        return group.advanced(running, finished, group.open, length), going

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        taken = group.finished.complete
        running = group.as_hypotheses(group.scores, jnp.ones_like(taken), length)
        finished = eqx.tree_at(  # an empty place has no tokens, not even a prompt
            lambda h: (h.tokens, h.lengths),
            group.finished,
            (jnp.where(taken[..., None], group.finished.tokens, -1), jnp.where(taken, group.finished.lengths, 0)),
        )
        choose = jax.vmap(lambda any_taken, a, b: jax.tree.map(lambda x, y: jnp.where(any_taken, x, y), a, b))
        return choose(jnp.any(taken, axis=-1), finished, running)


class ScorerRules(AbstractBeamRules):
    """A row closes when its hypotheses are full and good enough. A row that never does adds its beams at the end."""

    settings: BeamSettings
    barred_score: ClassVar[float] = -1e9
    empty_score: ClassVar[float] = -math.inf

    def start_progress(self, prompt: Integer[Array, "batch beams prompt"]) -> None:
        return None

    def running(self, candidates: Continuations, num_beams: int) -> Continuations:
        """The `num_beams` best candidates that do not end."""
        ends = self.settings.ending.is_eos(candidates.ids)
        return gather(candidates, jnp.argsort(ends, axis=-1, stable=True)[:, :num_beams])

    def close(
        self, group: BeamGroup, candidates: Continuations, may_end: Bool[Array, "batch k"], length: Integer[Array, ""]
    ) -> tuple[Hypotheses, Bool[Array, " batch"], Bool[Array, ""]]:
        """The hypotheses with the candidates that end and may end; the rows still open; whether to go on."""
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
        finished, is_open, going = self.close(group, candidates, jnp.ones(candidates.ids.shape, bool), length)
        running = self.running(candidates, group.scores.shape[-1])
        return group.advanced(running, finished, is_open, length), going

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        return self.with_running(group, jnp.ones(group.scores.shape, bool), length)

    def with_running(
        self, group: BeamGroup, admitted: Bool[Array, "batch beams"], length: Integer[Array, ""]
    ) -> Hypotheses:
        """The hypotheses, and in rows still open the admitted beams as well."""
        admitted = admitted & group.open[:, None]
        scores = self.settings.normalised(group.scores, length, group.prompt_length)
        running = group.as_hypotheses(jnp.where(admitted, scores, self.empty_score), admitted, length)
        last_first = jax.tree.map(lambda x: x[:, ::-1], group.finished.joined(running))  # as a Python list is popped
        return last_first.best(group.scores.shape[-1])

"""Which candidates a beam search goes on with, which are finished, and when it stops.

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
from .beams import BeamGroup, Candidates, Hypotheses
from .constraints import Progress


EarlyStopping = bool | Literal["never"]


class LengthScale(eqx.Module):
    """Makes sums of log-probabilities comparable across lengths: divided by a power of the tokens after the prompt."""

    max_length: Integer[Array, ""]
    length_penalty: Float[Array, ""]
    prompt_length: int = eqx.field(static=True)
    early_stopping: EarlyStopping = eqx.field(static=True)

    def normalised(self, scores: Float[Array, "*rows"], length: Integer[Array, ""]) -> Float[Array, "*rows"]:
        return scores / (length - self.prompt_length).astype(scores.dtype) ** self.length_penalty

    def attainable(self, scores: Float[Array, "*rows"], length: Integer[Array, ""]) -> Float[Array, "*rows"]:
        """What running beams may come to, as far as it can be told."""
        if self.early_stopping == "never":
            length = jnp.where(self.length_penalty > 0, self.max_length, length)
        return self.normalised(scores, length)


class AbstractBeamRules(eqx.Module):
    scale: eqx.AbstractVar[LengthScale]
    out_of_race: eqx.AbstractClassVar[float]
    """What a beam's score is, or is lowered by, to keep it from being chosen."""
    nothing: eqx.AbstractClassVar[float]
    """The score of a place that no hypothesis has taken."""

    @abc.abstractmethod
    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Candidates,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        """The group with one token more in each beam, and whether to go on.

        `totals` are the scores of all continuations, of which `candidates` are the best.
        """

    def progress(self, tokens: Integer[Array, "batch beams buffer"]) -> Progress | None:
        """What is kept of every beam beside its tokens and scores, for beams that have a prompt and nothing more."""
        return None

    @abc.abstractmethod
    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        """What the search returns of this group."""


def finished_by(
    group: BeamGroup,
    candidates: Candidates,
    scores: Float[Array, "batch k"],
    complete: Bool[Array, "batch k"],
    length: Integer[Array, ""],
    prompt_length: int,
) -> Hypotheses:
    """The best hypotheses, now that candidates come with these scores, of which some are complete."""
    tokens, beam_indices = group.continued(candidates.parents, candidates.ids, length, prompt_length)
    lengths = jnp.broadcast_to(length + 1, scores.shape)
    new = Hypotheses(tokens, scores, lengths, complete, beam_indices)
    return group.finished.joined(new).best(group.finished.scores.shape[-1])


def moved(
    group: BeamGroup,
    parents: Integer[Array, "batch beams"],
    ids: Integer[Array, "batch beams"],
    scores: Float[Array, "batch beams"],
    finished: Hypotheses,
    is_open: Bool[Array, " batch"],
    length: Integer[Array, ""],
    prompt_length: int,
) -> BeamGroup:
    tokens, beam_indices = group.continued(parents, ids, length, prompt_length)
    return BeamGroup(tokens, scores, beam_indices, group.own_indices, finished, is_open, group.progress)


def at(values: Array, order: Integer[Array, "batch n"]) -> Array:
    return jnp.take_along_axis(values, order, axis=-1)


class PyTorchRules(AbstractBeamRules):
    """A hypothesis must be among the `num_beams` best candidates; reaching `max_length` finishes it as the end does."""

    scale: LengthScale
    out_of_race: ClassVar[float] = -1e9
    nothing: ClassVar[float] = -1e9

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Candidates,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        scale, barred = self.scale, self.out_of_race
        num_beams = group.scores.shape[-1]
        stop_when_full = scale.early_stopping is True
        ends = candidates.ends | (length + 1 >= scale.max_length)

        running, order = jax.lax.top_k(candidates.scores + barred * ends, num_beams)

        complete = ends & (jnp.arange(ends.shape[-1]) < num_beams)
        full = jnp.all(group.finished.complete, axis=-1) & stop_when_full
        scores = scale.normalised(candidates.scores, length + 1)
        scores = scores + barred * full[:, None] + barred * ~group.open[:, None] + barred * ~complete
        finished = finished_by(group, candidates, scores, complete, length, scale.prompt_length)

        worst = jnp.where(finished.complete, jnp.min(finished.scores, axis=-1, keepdims=True), barred)
        improvable = jnp.any(scale.attainable(running[:, :1], length + 1) > worst, axis=-1)
        is_open = group.open & improvable
        going = jnp.any(is_open) & ~(jnp.all(finished.complete) & stop_when_full) & ~jnp.all(ends)
        parents = at(candidates.parents, order)
        new = moved(group, parents, at(candidates.ids, order), running, finished, is_open, length, scale.prompt_length)
        return new, going

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        return group.finished


class FlaxRules(AbstractBeamRules):
    """Any ending candidate is a hypothesis; a row without one returns its beams, their scores not normalised."""

    scale: LengthScale
    out_of_race: ClassVar[float] = -1e7
    nothing: ClassVar[float] = -1e7

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Candidates,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        scale, barred = self.scale, self.out_of_race
        stop_when_full = scale.early_stopping is True
        running, order = jax.lax.top_k(candidates.scores + barred * candidates.ends, group.scores.shape[-1])

        full = jnp.all(group.finished.complete, axis=-1, keepdims=True) & stop_when_full
        scores = scale.normalised(candidates.scores, length + 1) + barred * (~candidates.ends | full)
        finished = finished_by(group, candidates, scores, candidates.ends, length, scale.prompt_length)

        worst = jnp.where(finished.complete, jnp.min(finished.scores, axis=-1, keepdims=True), barred)
        improvable = jnp.any(scale.attainable(running[:, :1], length + 1) > worst)
        still_open = ~(jnp.all(finished.complete) & stop_when_full)
        going = (length + 1 < scale.max_length) & still_open & improvable
        parents = at(candidates.parents, order)
        new = moved(
            group, parents, at(candidates.ids, order), running, finished, group.open, length, scale.prompt_length
        )
        return new, going

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        some = jnp.any(group.finished.complete, axis=-1)
        running = group.as_hypotheses(group.scores, jnp.ones_like(group.finished.complete), length)
        taken = group.finished.complete
        finished = eqx.tree_at(  # a place that none has taken is empty, without a prompt
            lambda h: (h.tokens, h.lengths),
            group.finished,
            (jnp.where(taken[..., None], group.finished.tokens, -1), jnp.where(taken, group.finished.lengths, 0)),
        )
        choose = jax.vmap(lambda has, a, b: jax.tree.map(lambda x, y: jnp.where(has, x, y), a, b))
        return choose(some, finished, running)


class ScorerRules(AbstractBeamRules):
    """A row is closed when its hypotheses are full and good enough; one that never is adds its beams at the end."""

    scale: LengthScale
    out_of_race: ClassVar[float] = -1e9
    nothing: ClassVar[float] = -math.inf

    def running(self, candidates: Candidates, num_beams: int) -> Integer[Array, "batch beams"]:
        """The best candidates that do not end."""
        return jnp.argsort(candidates.ends, axis=-1, stable=True)[:, :num_beams]

    def close(
        self, group: BeamGroup, candidates: Candidates, may_end: Bool[Array, "batch k"], length: Integer[Array, ""]
    ) -> tuple[Hypotheses, Bool[Array, " batch"], Bool[Array, ""]]:
        """The hypotheses with those candidates that end and may; the rows still open; whether to go on."""
        scale, num_beams = self.scale, group.scores.shape[-1]
        among_best = jnp.arange(candidates.ends.shape[-1]) < num_beams
        complete = candidates.ends & among_best & may_end & group.open[:, None]
        scores = jnp.where(complete, scale.normalised(candidates.scores, length + 1), self.nothing)
        finished = finished_by(group, candidates, scores, complete, length, scale.prompt_length)
        full = jnp.all(finished.complete, axis=-1)
        best = scale.attainable(candidates.scores[:, 0], length + 1)
        good = (scale.early_stopping is True) | (jnp.min(finished.scores, axis=-1) >= best)
        is_open = group.open & ~(full & good)
        return finished, is_open, jnp.any(is_open) & (length + 1 < scale.max_length)

    def advance(
        self,
        group: BeamGroup,
        totals: Float[Array, "batch beams vocab"],
        candidates: Candidates,
        length: Integer[Array, ""],
    ) -> tuple[BeamGroup, Bool[Array, ""]]:
        finished, is_open, going = self.close(group, candidates, jnp.ones_like(candidates.ends), length)
        order = self.running(candidates, group.scores.shape[-1])
        parents, scores = at(candidates.parents, order), at(candidates.scores, order)
        prompt_length = self.scale.prompt_length
        new = moved(group, parents, at(candidates.ids, order), scores, finished, is_open, length, prompt_length)
        return new, going

    def finish(self, group: BeamGroup, length: Integer[Array, ""]) -> Hypotheses:
        return self.with_running(group, jnp.ones(group.scores.shape, bool), length)

    def with_running(
        self, group: BeamGroup, admitted: Bool[Array, "batch beams"], length: Integer[Array, ""]
    ) -> Hypotheses:
        """The hypotheses of open rows with those of their beams that are admitted."""
        admitted = admitted & group.open[:, None]
        scores = jnp.where(admitted, self.scale.normalised(group.scores, length), self.nothing)
        running = group.as_hypotheses(scores, admitted, length)
        last_first = jax.tree.map(lambda x: x[:, ::-1], group.finished.joined(running))  # as a Python list is popped
        return last_first.best(group.scores.shape[-1])

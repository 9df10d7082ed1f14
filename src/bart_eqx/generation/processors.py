"""What changes the scores of the next token: pure functions of (scores, tokens so far, how many).

Every processor is a PyTree that is called as `processor(logits, tokens, length)`:

- `logits`, `[*rows, vocab]`: the scores of the token to come; under beam search log-probabilities.
- `tokens`, `[*rows, buffer]`: the row's tokens in its first `length` slots. A slot that holds no token, be it still
  empty or padding before a shorter prompt, is -1, and so matches nothing.
- `length`: how many slots are taken, the same in every row. The token to come goes into slot `length`.

Numbers in a processor are arrays, hence traced: another number does not recompile. Each is the processor of the same
name in transformers' `logits_process.py` (5.23), with which the tests compare them.
"""

import abc
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..typing import Array


LogitsProcessor = Callable[
    [Float[Array, "*rows vocab"], Integer[Array, "*rows buffer"], Integer[Array, ""]], Float[Array, "*rows vocab"]
]


class AbstractLogitsProcessor(eqx.Module):
    """A processor with numbers of its own. Any function of the same arguments will do as well."""

    @abc.abstractmethod
    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]: ...


def apply(
    processors: Sequence[LogitsProcessor],
    logits: Float[Array, "*rows vocab"],
    tokens: Integer[Array, "*rows buffer"],
    length: Integer[Array, ""],
) -> Float[Array, "*rows vocab"]:
    for processor in processors:
        logits = processor(logits, tokens, length)
    return logits


def marked(ids: Integer[Array, "*rows n"], vocab: int) -> Bool[Array, "*rows vocab"]:
    """Which tokens of the vocabulary are among `ids`; -1 is none."""
    absent = jnp.zeros((*ids.shape[:-1], vocab + 1), bool)
    ids = jnp.where(ids >= 0, ids, vocab)  # the spare column takes what is no token
    return jnp.put_along_axis(absent, ids, True, axis=-1, inplace=False)[..., :vocab]


def forced(
    logits: Float[Array, "*rows vocab"], now: Bool[Array, "*#rows"], ids: Integer[Array, " n"]
) -> Float[Array, "*rows vocab"]:
    """Where `now`: 0 for `ids`, and nothing else possible."""
    choice = jnp.where(marked(ids, logits.shape[-1]), 0.0, -jnp.inf).astype(logits.dtype)
    return jnp.where(now[..., None], choice, logits)


def last_tokens(
    tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""], n: int
) -> Integer[Array, "*rows n"]:
    """The last `n` of `length` tokens; -1 before the first."""
    before = jnp.full((*tokens.shape[:-1], n), -1, tokens.dtype)
    return jax.lax.dynamic_slice_in_dim(jnp.concatenate([before, tokens], axis=-1), length, n, axis=-1)


def followers(
    history: Integer[Array, "*#rows seq"],
    tokens: Integer[Array, "*rows buffer"],
    length: Integer[Array, ""],
    size: int,
) -> Integer[Array, "*rows windows"]:
    """What followed in `history` wherever its tokens were the last `size - 1` of `tokens`; -1 elsewhere.

    Windows are compared with the end of the row: linear in the length, without a table of n-grams.
    """
    windows = max(history.shape[-1] - size + 1, 0)
    ending = last_tokens(tokens, length, size - 1)
    matches = jnp.broadcast_to(jnp.all(ending >= 0, axis=-1)[..., None], (*tokens.shape[:-1], windows))
    for i in range(size - 1):
        matches = matches & (history[..., i : i + windows] == ending[..., i : i + 1])
    return jnp.where(matches, history[..., size - 1 : size - 1 + windows], -1)


class SequenceBias(AbstractLogitsProcessor):
    """Adds `bias` to the last token of a sequence where its first tokens stand before it.

    The sequences of one length; those of several lengths are several processors. A bias of minus infinity makes it
    transformers' `NoBadWordsLogitsProcessor`.
    """

    prefixes: Integer[Array, "n size_minus_1"]
    last: Integer[Array, " n"]
    bias: Float[Array, " n"]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        ending = last_tokens(tokens, length, self.prefixes.shape[-1])
        matches = jnp.all(ending[..., None, :] == self.prefixes, axis=-1)
        biases = jnp.where(matches, self.bias, 0.0).astype(logits.dtype)
        return logits + jnp.zeros_like(logits).at[..., self.last].add(biases)


class DiversityPenalty(AbstractLogitsProcessor):
    """Takes `penalty` off a token for each beam of an earlier group that has just chosen it (arXiv:1610.02424)."""

    penalty: Float[Array, ""]
    chosen: Integer[Array, "batch n"] | None = None
    """What earlier groups have chosen; beam search fills it in, group by group."""

    def __call__(
        self,
        logits: Float[Array, "batch beams vocab"],
        tokens: Integer[Array, "batch beams buffer"],
        length: Integer[Array, ""],
    ) -> Float[Array, "batch beams vocab"]:
        if self.chosen is None:
            return logits
        rows = jnp.arange(logits.shape[0])[:, None]
        counts = jnp.zeros((logits.shape[0], logits.shape[-1]), logits.dtype).at[rows, self.chosen].add(1.0)
        return logits - self.penalty * counts[:, None]


class RepetitionPenalty(AbstractLogitsProcessor):
    """Divides the positive scores of tokens that were written by `penalty`, and multiplies the negative ones by it."""

    penalty: Float[Array, ""]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return _penalised(logits, marked(tokens, logits.shape[-1]), self.penalty)


class EncoderRepetitionPenalty(AbstractLogitsProcessor):
    """The opposite for the tokens of the source: above 1 it favours them. Padding is no token."""

    penalty: Float[Array, ""]
    source: Integer[Array, "batch 1 src"]

    def __call__(
        self,
        logits: Float[Array, "batch beams vocab"],
        tokens: Integer[Array, "batch beams buffer"],
        length: Integer[Array, ""],
    ) -> Float[Array, "batch beams vocab"]:
        return _penalised(logits, marked(self.source, logits.shape[-1]), 1 / self.penalty)


def _penalised(
    logits: Float[Array, "*rows vocab"], which: Bool[Array, "*#rows vocab"], penalty: Float[Array, ""]
) -> Float[Array, "*rows vocab"]:
    return jnp.where(which, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


class NoRepeatNGram(AbstractLogitsProcessor):
    """Bars every token that would complete an n-gram of the row for the second time."""

    size: int = eqx.field(static=True)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        barred = marked(followers(tokens, tokens, length, self.size), logits.shape[-1])
        return jnp.where(barred, -jnp.inf, logits)


class EncoderNoRepeatNGram(AbstractLogitsProcessor):
    """Bars every token that would complete an n-gram of the source. Padding is no token."""

    source: Integer[Array, "batch 1 src"]
    size: int = eqx.field(static=True)

    def __call__(
        self,
        logits: Float[Array, "batch beams vocab"],
        tokens: Integer[Array, "batch beams buffer"],
        length: Integer[Array, ""],
    ) -> Float[Array, "batch beams vocab"]:
        barred = marked(followers(self.source, tokens, length, self.size), logits.shape[-1])
        return jnp.where(barred, -jnp.inf, logits)


class MinLength(AbstractLogitsProcessor):
    """Bars the end of a sequence while `length < min_length`."""

    min_length: Integer[Array, ""]
    eos: Integer[Array, " n"]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return jnp.where((length < self.min_length) & marked(self.eos, logits.shape[-1]), -jnp.inf, logits)


class ForcedBos(AbstractLogitsProcessor):
    """Makes `token` the only one possible where the row has a start token and nothing more."""

    token: Integer[Array, ""]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return forced(logits, jnp.sum(tokens >= 0, axis=-1) == 1, self.token[None])


class ForcedEos(AbstractLogitsProcessor):
    """Makes `eos` the only tokens possible where there is room for one more."""

    max_length: Integer[Array, ""]
    eos: Integer[Array, " n"]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return forced(logits, length == self.max_length - 1, self.eos)


class RemoveInvalid(AbstractLogitsProcessor):
    """Makes numbers of what is none: 0 of NaN, the largest and smallest of the infinities."""

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return jnp.nan_to_num(logits, nan=0.0)


class ExponentialDecayLengthPenalty(AbstractLogitsProcessor):
    """Beyond `start` tokens, adds `|score| * (factor ** excess - 1)` to the end of a sequence."""

    start: Integer[Array, ""]
    factor: Float[Array, ""]
    eos: Integer[Array, " n"]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        excess = jnp.maximum(length - self.start, 0)
        scores = logits[..., self.eos]
        penalty = jnp.abs(scores) * (self.factor**excess - 1)
        return logits.at[..., self.eos].add(jnp.where(jnp.isfinite(scores), penalty, 0.0))


class Suppress(AbstractLogitsProcessor):
    """Bars `ids`; with `at`, for the token of that slot only."""

    ids: Integer[Array, " n"]
    at: Integer[Array, ""] | None = None

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        barred = marked(self.ids, logits.shape[-1])
        return jnp.where(barred if self.at is None else barred & (length == self.at), -jnp.inf, logits)


class Normalise(AbstractLogitsProcessor):
    """Makes log-probabilities again of scores that others have changed."""

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return jax.nn.log_softmax(logits, axis=-1)

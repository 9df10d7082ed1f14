"""Processors that change the scores of some tokens: penalties, biases, and tokens that are masked out or forced."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer

from ...typing import Array


LogitsProcessor = Callable[
    [Float[Array, "*rows vocab"], Integer[Array, "*rows buffer"], Integer[Array, ""]], Float[Array, "*rows vocab"]
]


class AbstractLogitsProcessor(eqx.Module):
    """A processor with settings. Any function with this signature is a processor too."""

    @abc.abstractmethod
    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]: ...


def float_setting(values: float | Sequence[Any]) -> Array:
    """A float32 array, made with NumPy: `jnp.asarray` would compile a small program for each shape."""
    return jax.device_put(np.asarray(values, np.float32))


def int_setting(values: int | Sequence[Any] | np.ndarray) -> Array:
    """An int32 array, made in the same way."""
    return jax.device_put(np.asarray(values, np.int32))


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
    """True for the tokens of the vocabulary that are in `ids`, where -1 stands for no token."""
    absent = jnp.zeros((*ids.shape[:-1], vocab + 1), bool)
    ids = jnp.where(ids >= 0, ids, vocab)  # -1 goes to a spare column
    return jnp.put_along_axis(absent, ids, True, axis=-1, inplace=False)[..., :vocab]


def forced(
    logits: Float[Array, "*rows vocab"], now: Bool[Array, "*#rows"], ids: Integer[Array, " n"]
) -> Float[Array, "*rows vocab"]:
    """In the rows where `now` holds: 0 for `ids`, minus infinity for all other tokens."""
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
    """The token that followed each occurrence in `history` of the last `size - 1` tokens; -1 elsewhere.

    Every window of `history` is compared with the end of `tokens`: linear in the length, without a table of n-grams.
    """
    windows = max(history.shape[-1] - size + 1, 0)
    ending = last_tokens(tokens, length, size - 1)
    matches = jnp.broadcast_to(jnp.all(ending >= 0, axis=-1)[..., None], (*tokens.shape[:-1], windows))
    for i in range(size - 1):
        matches = matches & (history[..., i : i + windows] == ending[..., i : i + 1])
    return jnp.where(matches, history[..., size - 1 : size - 1 + windows], -1)


class SequenceBias(AbstractLogitsProcessor):
    """Adds `bias` to the score of a sequence's last token where the row ends with its other tokens.

    One processor per length of sequence. With a bias of minus infinity it is transformers' `NoBadWordsLogitsProcessor`.
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


class RepetitionPenalty(AbstractLogitsProcessor):
    """Divides the positive scores of tokens that the row has by `penalty`, and multiplies the negative ones by it."""

    penalty: Float[Array, ""]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return _penalised(logits, marked(tokens, logits.shape[-1]), self.penalty)


class EncoderRepetitionPenalty(AbstractLogitsProcessor):
    """The inverse for tokens of the source: a penalty above 1 favours them. `source` is -1 at padding."""

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
    """Masks out every token that would repeat an n-gram of the row."""

    size: int = eqx.field(static=True)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        masked = marked(followers(tokens, tokens, length, self.size), logits.shape[-1])
        return jnp.where(masked, -jnp.inf, logits)


class EncoderNoRepeatNGram(AbstractLogitsProcessor):
    """Masks out every token that would complete an n-gram of the source. `source` is -1 at padding."""

    source: Integer[Array, "batch 1 src"]
    size: int = eqx.field(static=True)

    def __call__(
        self,
        logits: Float[Array, "batch beams vocab"],
        tokens: Integer[Array, "batch beams buffer"],
        length: Integer[Array, ""],
    ) -> Float[Array, "batch beams vocab"]:
        masked = marked(followers(self.source, tokens, length, self.size), logits.shape[-1])
        return jnp.where(masked, -jnp.inf, logits)


class MinLength(AbstractLogitsProcessor):
    """Masks out `eos` while `length < min_length`."""

    min_length: Integer[Array, ""]
    eos: Integer[Array, " n"]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return jnp.where((length < self.min_length) & marked(self.eos, logits.shape[-1]), -jnp.inf, logits)


class ForcedBos(AbstractLogitsProcessor):
    """Forces `token` where the row has a start token and nothing more."""

    token: Integer[Array, ""]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return forced(logits, jnp.sum(tokens >= 0, axis=-1) == 1, self.token[None])


class ForcedEos(AbstractLogitsProcessor):
    """Forces one of `eos` into the last slot."""

    max_length: Integer[Array, ""]
    eos: Integer[Array, " n"]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return forced(logits, length == self.max_length - 1, self.eos)


class RemoveInvalid(AbstractLogitsProcessor):
    """Replaces NaN by 0, and infinities by the largest and smallest finite values."""

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return jnp.nan_to_num(logits, nan=0.0)


class ExponentialDecayLengthPenalty(AbstractLogitsProcessor):
    """Beyond slot `start`, adds `|score| * (factor ** excess - 1)` to the scores of `eos`."""

    start: Integer[Array, ""]
    factor: Float[Array, ""]
    eos: Integer[Array, " n"]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        excess = jnp.maximum(length - self.start, 0)
        scores = logits[..., self.eos]
        penalty = jnp.abs(scores) * (self.factor ** excess.astype(self.factor.dtype) - 1)
        return logits.at[..., self.eos].add(jnp.where(jnp.isfinite(scores), penalty, 0.0))


class Suppress(AbstractLogitsProcessor):
    """Masks out `ids`; with `slot`, only as the token of that slot."""

    ids: Integer[Array, " n"]
    slot: Integer[Array, ""] | None = None

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        masked = marked(self.ids, logits.shape[-1])
        return jnp.where(masked if self.slot is None else masked & (length == self.slot), -jnp.inf, logits)


class Normalise(AbstractLogitsProcessor):
    """Turns the scores into log-probabilities again."""

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return jax.nn.log_softmax(logits, axis=-1)

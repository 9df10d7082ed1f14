"""Whisper's logits processors: when timestamps may, must and must not come; tokens that are forced into their slots."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from bart_eqx.generation.processors.scores import AbstractLogitsProcessor, forced


class TimestampRules(AbstractLogitsProcessor):
    """As `WhisperTimeStampLogitsProcessor` of transformers 5.24.

    Timestamps are the tokens after `no_timestamps`. The first token is one; they come in pairs, or one before the end,
    and do not decrease; and where they are together likelier than any other token, one of them is next.
    """

    no_timestamps: Integer[Array, ""]
    eos: Integer[Array, ""]
    begin: Integer[Array, ""]
    """The slot after the prompt."""
    max_initial: Integer[Array, ""]
    """The first timestamp is at most this one, counted from 0."""

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        zero, ids, slots = self.no_timestamps + 1, jnp.arange(logits.shape[-1]), jnp.arange(tokens.shape[-1])
        stamped = (tokens >= zero) & (slots >= self.begin)
        latest = jnp.max(jnp.where(stamped, slots, -1), axis=-1, keepdims=True)
        opened, closed = opened_and_closed(tokens, length, zero, self.begin)
        least = jnp.take_along_axis(tokens, jnp.maximum(latest, 0), axis=-1) + ~opened
        masked = (latest >= 0) & (ids >= zero) & (ids < least)
        masked |= (length == self.begin) & ((ids < zero) | (ids > zero + self.max_initial))
        return with_timestamps(logits, masked | opened & (ids < self.eos) | closed & (ids >= zero), zero)


class FlaxTimestampRules(AbstractLogitsProcessor):
    """As `FlaxWhisperTimeStampLogitsProcessor` of transformers 4.57: the first token need not be a timestamp, and
    timestamps may decrease. For its `begin`, that class counts one more than the forced tokens."""

    no_timestamps: Integer[Array, ""]
    eos: Integer[Array, ""]
    begin: Integer[Array, ""]
    max_initial: Integer[Array, ""]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        zero, ids = self.no_timestamps + 1, jnp.arange(logits.shape[-1])
        opened, closed = opened_and_closed(tokens, length, zero, self.begin)
        masked = (length == self.begin) & (ids > zero + self.max_initial)
        return with_timestamps(logits, masked | opened & (ids < self.eos) | closed & (ids >= zero), zero)


def opened_and_closed(
    tokens: Integer[Array, "*rows buffer"],
    length: Integer[Array, ""],
    zero: Integer[Array, ""],
    begin: Integer[Array, ""],
) -> tuple[Bool[Array, "*rows 1"], Bool[Array, "*rows 1"]]:
    """Whether a row ends with the first timestamp of a pair, and whether it ends with the second."""
    ends = lambda n: jax.lax.dynamic_slice_in_dim(tokens, length - n, 1, axis=-1) >= zero
    last = ends(1) & (length - begin >= 1)
    before_it = ends(2) | (length - begin < 2)
    return last & ~before_it, last & before_it


def with_timestamps(
    logits: Float[Array, "*rows vocab"], masked: Bool[Array, "*#rows vocab"], zero: Integer[Array, ""]
) -> Float[Array, "*rows vocab"]:
    """Without the `masked` tokens and the one that turns timestamps off; without any text where timestamps, from `zero`
    on, are together likelier than any text."""
    ids = jnp.arange(logits.shape[-1])
    logits = jnp.where(masked | (ids == zero - 1), -jnp.inf, logits)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    stamps = jax.nn.logsumexp(log_probs, axis=-1, where=ids >= zero, keepdims=True)
    likelier = stamps > jnp.max(log_probs, axis=-1, where=ids < zero, initial=-jnp.inf, keepdims=True)
    return jnp.where(likelier & (ids < zero), -jnp.inf, logits)


class ForcedTokens(AbstractLogitsProcessor):
    """`forced_decoder_ids`, as transformers' Flax forces them: each into its slot, and in beam search with the score 0.
    transformers 5 has them in the prompt instead."""

    ids: Integer[Array, " slots"]
    """For each slot, the token; -1 forces none."""

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        token = self.ids.at[length].get(mode="fill", fill_value=-1)
        return forced(logits, jnp.broadcast_to(token >= 0, logits.shape[:-1]), token[None])

"""Processors of sampling: they sharpen the distribution, or cut off its tail.

`keep` is the number of likeliest tokens that no cut removes: 1; or, in beam sampling, one more than there are EOS ids,
so that every beam can be continued.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ...kernels.top_k import top_k
from ...typing import Array
from .scores import AbstractLogitsProcessor


def without(logits: Float[Array, "*rows vocab"], cut: Bool[Array, "*rows vocab"]) -> Float[Array, "*rows vocab"]:
    """The scores, minus infinity where `cut` holds."""
    return jnp.where(cut, -jnp.inf, logits)


def below_best(values: Float[Array, "*rows vocab"], n: int) -> Bool[Array, "*rows vocab"]:
    """True for values that are less than the `n`-th largest."""
    return values < top_k(values, min(n, values.shape[-1]))[0][..., -1:]


def entropy(logits: Float[Array, "*rows vocab"]) -> Float[Array, "*rows 1"]:
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    probs = jnp.exp(log_probs)
    return -jnp.sum(jnp.where(probs > 0, probs * log_probs, 0.0), axis=-1, keepdims=True)


class Temperature(AbstractLogitsProcessor):
    """Divides the scores by `temperature`."""

    temperature: Float[Array, ""]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return logits / self.temperature


class TopH(AbstractLogitsProcessor):
    """Keeps the likeliest tokens up to the share `top_h` of the entropy of the 100 likeliest (arXiv:2509.02510)."""

    top_h: Float[Array, ""]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        best, ids = top_k(logits, min(100, logits.shape[-1]))
        log_probs = jax.nn.log_softmax(best, axis=-1)
        probs = jnp.exp(log_probs)
        terms = jnp.where(probs > 0, -probs * log_probs, 0.0)
        kept = (jnp.cumsum(terms, axis=-1) <= self.top_h * entropy(best)) & (probs > 0)
        kept = kept.at[..., 0].set(True)
        return without(logits, jnp.put_along_axis(jnp.ones(logits.shape, bool), ids, ~kept, axis=-1, inplace=False))


class TopK(AbstractLogitsProcessor):
    """Keeps the `k` likeliest tokens, and any that tie with the last of them."""

    k: int = eqx.field(static=True)
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return without(logits, below_best(logits, max(self.k, self.keep)))


class TopP(AbstractLogitsProcessor):
    """Nucleus sampling: keeps the fewest likeliest tokens whose probabilities reach `p` (arXiv:1904.09751)."""

    p: Float[Array, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        order = jnp.argsort(logits, axis=-1)
        ascending = jnp.take_along_axis(logits, order, axis=-1)
        cut = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1) <= 1 - self.p
        cut = cut.at[..., -self.keep :].set(False)
        return without(logits, jnp.put_along_axis(cut, order, cut, axis=-1, inplace=False))


class MinP(AbstractLogitsProcessor):
    """Cuts tokens that are less probable than `min_p` times the likeliest (arXiv:2407.01082)."""

    min_p: Float[Array, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        probs = jax.nn.softmax(logits, axis=-1)
        improbable = probs < self.min_p * jnp.max(probs, axis=-1, keepdims=True)
        return without(logits, improbable & below_best(probs, self.keep))


class Typical(AbstractLogitsProcessor):
    """Keeps the tokens whose surprise is nearest to the entropy, up to the probability `mass` (arXiv:2202.00666)."""

    mass: Float[Array, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        distance = jnp.abs(-jax.nn.log_softmax(logits, axis=-1) - entropy(logits))
        order = jnp.argsort(distance, axis=-1)
        nearest = jnp.take_along_axis(distance, order, axis=-1)
        mass = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1), axis=-1)
        last = jnp.minimum(jnp.sum(mass < self.mass, axis=-1, keepdims=True), logits.shape[-1] - 1)
        farthest = jnp.maximum(jnp.take_along_axis(nearest, last, axis=-1), nearest[..., self.keep - 1 : self.keep])
        return without(logits, distance > farthest)


class EpsilonCutoff(AbstractLogitsProcessor):
    """Cuts tokens that are less probable than `epsilon` (arXiv:2210.15191)."""

    epsilon: Float[Array, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return without(logits, (jax.nn.softmax(logits, axis=-1) < self.epsilon) & below_best(logits, self.keep))


class EtaCutoff(AbstractLogitsProcessor):
    """`EpsilonCutoff` with a threshold that falls as the entropy rises (arXiv:2210.15191)."""

    epsilon: Float[Array, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        eta = jnp.minimum(self.epsilon, jnp.sqrt(self.epsilon) * jnp.exp(-entropy(logits)))
        return without(logits, (jax.nn.softmax(logits, axis=-1) < eta) & below_best(logits, self.keep))

"""Processors that sampling alone reads: they sharpen the distribution, or cut off its tail.

Called and named as in `processors.py`. `keep` is how many of the likeliest tokens survive whatever the cut: 1, or under
beam sampling one more than there are tokens that end a sequence, so that every beam can go on.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from ..kernels.top_k import top_k
from ..typing import Array
from .processors import AbstractLogitsProcessor


def without(logits: Float[Array, "*rows vocab"], cut: Bool[Array, "*rows vocab"]) -> Float[Array, "*rows vocab"]:
    return jnp.where(cut, -jnp.inf, logits)


def below_best(values: Float[Array, "*rows vocab"], n: int) -> Bool[Array, "*rows vocab"]:
    """Whether a value is less than the `n` largest."""
    return values < top_k(values, min(n, values.shape[-1]))[0][..., -1:]


def entropy(logits: Float[Array, "*rows vocab"]) -> Float[Array, "*rows 1"]:
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    probs = jnp.exp(log_probs)
    return -jnp.sum(jnp.where(probs > 0, probs * log_probs, 0.0), axis=-1, keepdims=True)


class Temperature(AbstractLogitsProcessor):
    temperature: Float[Array, ""]

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return logits / self.temperature


class TopH(AbstractLogitsProcessor):
    """Keeps the likeliest tokens up to the share `top_h` of the entropy of the first hundred (arXiv:2509.02510)."""

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
    """Keeps the `k` likeliest tokens, and those that are as likely as the last of them."""

    k: int = eqx.field(static=True)
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return without(logits, below_best(logits, max(self.k, self.keep)))


class TopP(AbstractLogitsProcessor):
    """Keeps the fewest of the likeliest tokens that have the share `p` of the probability (arXiv:1904.09751)."""

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
    """Cuts tokens less likely than the share `min_p` of the likeliest one's probability (arXiv:2407.01082)."""

    min_p: Float[Array, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        probs = jax.nn.softmax(logits, axis=-1)
        few = probs < self.min_p * jnp.max(probs, axis=-1, keepdims=True)
        return without(logits, few & below_best(probs, self.keep))


class Typical(AbstractLogitsProcessor):
    """Keeps the tokens whose surprise is nearest to the entropy, with the share `mass` (arXiv:2202.00666)."""

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
    """Cuts tokens less likely than `epsilon` (arXiv:2210.15191)."""

    epsilon: Float[Array, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        return without(logits, (jax.nn.softmax(logits, axis=-1) < self.epsilon) & below_best(logits, self.keep))


class EtaCutoff(AbstractLogitsProcessor):
    """As `EpsilonCutoff`, with a bar that falls where the distribution is flat (arXiv:2210.15191)."""

    epsilon: Float[Array, ""]
    keep: int = eqx.field(static=True, default=1)

    def __call__(
        self, logits: Float[Array, "*rows vocab"], tokens: Integer[Array, "*rows buffer"], length: Integer[Array, ""]
    ) -> Float[Array, "*rows vocab"]:
        eta = jnp.minimum(self.epsilon, jnp.sqrt(self.epsilon) * jnp.exp(-entropy(logits)))
        return without(logits, (jax.nn.softmax(logits, axis=-1) < eta) & below_best(logits, self.keep))

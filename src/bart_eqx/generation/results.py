"""What a search returns."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer

from ..typing import Array


def all_numbers(scores: Float[Array, "*rows vocab"]) -> Bool[Array, "*rows"]:
    """Whether a token can be chosen: no score is NaN, or infinite and not barred (which is negative infinity)."""
    return jnp.all(scores < jnp.inf, axis=-1)


class Found(eqx.Module):
    """The sequences of every row, as a search has them; `None` for what was not asked for, or has no meaning."""

    tokens: Integer[Array, "batch found buffer"]
    lengths: Integer[Array, "batch found"]
    """Slots that are taken, padding before the prompt included."""
    finite: Bool[Array, "batch found"]
    """Whether `all_numbers` held at every step."""
    scores: Float[Array, "batch found"] | None = None
    beam_indices: Integer[Array, "batch found steps"] | None = None
    records: "Records | None" = None
    model_calls: Integer[Array, " batch"] | None = None


class Records(eqx.Module):
    """The scores of the whole vocabulary at every step, before and after the processors."""

    scores: Float[Array, "batch beams steps vocab"] | None
    logits: Float[Array, "batch beams steps vocab"] | None

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: DTypeLike, *, scores: bool, logits: bool) -> "Records":
        new = lambda asked: jnp.zeros(shape, dtype) if asked else None
        return cls(new(scores), new(logits))

    def write(
        self,
        step: Integer[Array, ""],
        scores: Float[Array, "batch beams vocab"],
        logits: Float[Array, "batch beams vocab"],
    ) -> "Records":
        put = lambda record, new: (
            None
            if record is None
            else jax.lax.dynamic_update_slice_in_dim(record, new[:, :, None].astype(record.dtype), step, axis=2)
        )
        return Records(put(self.scores, scores), put(self.logits, logits))

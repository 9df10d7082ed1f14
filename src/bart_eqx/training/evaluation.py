"""A loss on examples that are not trained on."""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax

from .step import Loss


def mean_loss(model: Any, loss: Loss, data: Iterable[Any]) -> float:
    """The mean of a loss over batches: the sum of all sums, divided once by the sum of all counts.

    Args:
        model: In inference mode.
        loss: `loss(model, batch, key) -> (sum, count)`. Reuse the function: another one compiles another program.
        data: Batches `[micro, batch, ...]`: `batches(..., epochs=1)`. With a `transform`, each iteration draws the same
            noise.

    Raises:
        ValueError: if nothing counts.
    """
    total = count = 0.0
    for batch in data:
        sums, counts = _sums(model, loss, batch)
        total += float(sums.sum())
        count += float(counts.sum())
    if count == 0:
        raise ValueError("`data` must have a label that counts.")
    return total / count


@eqx.filter_jit
def _sums(model: Any, loss: Loss, batch: Any) -> tuple[jax.Array, jax.Array]:
    """Of each micro-batch."""
    return jax.lax.map(lambda micro: loss(model, micro, None), batch)

"""The cross entropy of a vocabulary, without the logits of every token and every word at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from ..model.checks import check_not_explicit
from ..model.signature import one_sentence_errors
from ..typing import Array, HostArray


IGNORED = -100
"""The label of a position that does not count, as in transformers and in PyTorch."""


@one_sentence_errors
def cross_entropy(
    lm_logits: Callable[[Float[Array, "batch tgt dim"]], Float[Array, "batch tgt vocab"]],
    states: Float[Array, "*batch tgt dim"],
    labels: Integer[HostArray, "*batch tgt"],
    *,
    label_smoothing: float = 0.0,
    rows: int = 512,
) -> Float[Array, ""]:
    """The mean over all labels that count of -log p(label), in nats and in at least float32.

    `-log_softmax(lm_logits(states))` needs batch x tgt x vocab numbers, and its gradient as many again: 1.2 GB for 8
    targets of 128 tokens. Here the head is applied to a part of the target at a time; and once more in the backward
    pass, if there are several parts. The batch is not cut: one that is sharded over devices stays so.

    Args:
        lm_logits: The head: the method of a `BartForConditionalGeneration` or a `BartForCausalLM`, or any other.
        states: The decoder's last hidden states: `model.model(...).last_hidden_state`.
        labels: The token that should follow at each position, or -100 where none counts.
        label_smoothing: What share of the probability the target spreads evenly over the vocabulary (arXiv:1512.00567).
        rows: The head is applied to this many states at a time, or to one of each target if there are more targets.

    Returns:
        The loss; 0 where no label counts, and NaN where a label is neither -100 nor a word of the vocabulary.

    Raises:
        ValueError: if `label_smoothing` is not in [0, 1], `rows` is not positive, or the states are sharded over a mesh
            axis of type Explicit.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"`label_smoothing` must be in [0, 1]. Got {label_smoothing}.")
    if rows < 1:
        raise ValueError(f"`rows` must be at least 1. Got {rows}.")
    check_not_explicit("`states`", states)
    wide = np.promote_types(states.dtype, np.float32)

    def loss_of(states: Float[Array, "batch part dim"], labels: Integer[Array, "batch part"]) -> Float[Array, ""]:
        logits = lm_logits(states).astype(wide)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        words = jnp.where(labels < 0, logits.shape[-1], labels)[..., None]  # no negative index: it would wrap
        of_labels = jnp.take_along_axis(logits, words, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
        target = (1 - label_smoothing) * of_labels + label_smoothing * jnp.mean(logits, axis=-1)
        return jnp.sum(jnp.where(labels == IGNORED, 0, normaliser - target))

    states = states.reshape(-1, *states.shape[-2:])
    labels = jnp.asarray(labels).reshape(states.shape[:-1])
    count = jnp.sum(labels != IGNORED)
    batch, tgt, dim = states.shape
    part = max(1, min(tgt, rows // max(batch, 1)))
    missing = -tgt % part
    states = jnp.pad(states, ((0, 0), (0, missing), (0, 0)))
    labels = jnp.pad(labels, ((0, 0), (0, missing)), constant_values=IGNORED)
    if part >= tgt:  # nothing is saved by applying the head twice
        total = loss_of(states, labels)
    else:
        parts = states.reshape(batch, -1, part, dim), labels.reshape(batch, -1, part)
        parts = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), parts)
        total = jnp.sum(jax.lax.map(lambda part: jax.checkpoint(loss_of)(*part), parts))
    return total / jnp.maximum(count, 1)

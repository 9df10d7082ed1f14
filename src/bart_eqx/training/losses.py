"""The cross entropy of a vocabulary, without a score for every token and every word at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer

from ..typing import Array, HostArray, at_least_float32


IGNORED = -100
"""The label of a position that does not count, as in transformers and in PyTorch."""


def cross_entropy(
    lm_logits: Callable[[Float[Array, "rows dim"]], Float[Array, "rows vocab"]],
    states: Float[Array, "*batch tgt dim"],
    labels: Integer[HostArray, "*batch tgt"],
    *,
    label_smoothing: float = 0.0,
    rows: int = 512,
) -> Float[Array, ""]:
    """The mean over all labels that count of -log p(label), in nats and in at least float32.

    `-log_softmax(lm_logits(states))` needs batch x tgt x vocab numbers, and its gradient as many again: 1.2 GB for 8
    targets of 128 tokens. Here the head is applied to `rows` positions at a time; and once more in the backward pass,
    if there are more positions than that.

    Args:
        lm_logits: The head: the method of a `BartForConditionalGeneration` or a `BartForCausalLM`, or any other.
        states: The decoder's last hidden states: `model.model(...).last_hidden_state`.
        labels: The token that should follow at each position, or -100 where none counts.
        label_smoothing: What share of the probability the target spreads evenly over the vocabulary (arXiv:1512.00567).
        rows: Positions at a time.

    Returns:
        The loss; 0 where no label counts, and NaN where a label is neither -100 nor a word of the vocabulary.

    Raises:
        ValueError: if `label_smoothing` is not in [0, 1], or `rows` is not positive.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"`label_smoothing` must be in [0, 1]. Got {label_smoothing}.")
    if rows < 1:
        raise ValueError(f"`rows` must be at least 1. Got {rows}.")
    wide = at_least_float32(states.dtype)

    def of_rows(states: Float[Array, "rows dim"], labels: Integer[Array, " rows"]) -> Float[Array, ""]:
        logits = lm_logits(states).astype(wide)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        of_labels = logits.at[jnp.arange(labels.size), labels]
        found = of_labels.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        target = (1 - label_smoothing) * found + label_smoothing * jnp.mean(logits, axis=-1)
        return jnp.sum(jnp.where(labels == IGNORED, 0, normaliser - target))

    flat_states, flat_labels = states.reshape(-1, states.shape[-1]), jnp.asarray(labels).reshape(-1)
    count = jnp.sum(flat_labels != IGNORED)
    rows = min(rows, max(flat_labels.size, 1))
    missing = -flat_labels.size % rows
    flat_states = jnp.pad(flat_states, ((0, missing), (0, 0)))
    flat_labels = jnp.pad(flat_labels, (0, missing), constant_values=IGNORED)

    chunks = flat_states.reshape(-1, rows, flat_states.shape[-1]), flat_labels.reshape(-1, rows)
    if chunks[0].shape[0] == 1:  # nothing is saved by applying the head twice
        total = of_rows(flat_states, flat_labels)
    else:
        total = jnp.sum(jax.lax.map(lambda chunk: jax.checkpoint(of_rows)(*chunk), chunks))
    return total / jnp.maximum(count, 1)

"""Losses over a vocabulary, without the logits of every token and every word at once.

A sum comes with the number of labels that it is over: sums and numbers add up over micro-batches and devices, and are
divided once. A mean of means is another loss wherever the numbers differ.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, PyTree

from ..model.checks import check_not_explicit
from ..model.signature import one_sentence_errors
from ..typing import Array, HostArray


IGNORED = -100
"""The label of a position that does not count, as in transformers and in PyTorch."""

TokenLoss = Callable[[Float[Array, "*batch vocab"], Integer[Array, "*batch"]], Float[Array, "*batch"]]
"""The loss of each label, from logits in at least float32. Labels that are -100 may have any."""
LMHead = Callable[[Float[Array, "batch tgt dim"]], Float[Array, "batch tgt vocab"]]


def negative_log_likelihood(
    logits: Float[Array, "*batch vocab"], labels: Integer[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """-log p(label), in nats. NaN where a label is not in the vocabulary."""
    return jax.nn.logsumexp(logits, axis=-1) - _of_labels(logits, labels)


def fairseq_label_smoothing(
    logits: Float[Array, "*batch vocab"], labels: Integer[Array, "*batch"], *, epsilon: float
) -> Float[Array, "*batch"]:
    """The cross entropy with a target that gives `epsilon` evenly to all words, and the rest to the label.

    As fairseq's `label_smoothed_nll_loss` when BART was trained, and as `torch.nn.CrossEntropyLoss(label_smoothing=)`.
    (Later versions give `epsilon` to the other words only, and so have the gradients of `flax_label_smoothing`.)

    Args:
        logits: Of each position.
        labels: The tokens that should follow.
        epsilon: In [0, 1] (arXiv:1512.00567).

    Raises:
        ValueError: if `epsilon` is not in [0, 1].
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"`epsilon` must be in [0, 1]. Got {epsilon}.")
    target = (1 - epsilon) * _of_labels(logits, labels) + epsilon * jnp.mean(logits, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - target


def flax_label_smoothing(
    logits: Float[Array, "*batch vocab"], labels: Integer[Array, "*batch"], *, epsilon: float
) -> Float[Array, "*batch"]:
    """The divergence from a target that gives `epsilon` evenly to all words but the label, and the rest to the label.

    As the Flax examples of transformers (`run_summarization_flax.py`): the cross entropy, less its smallest possible
    value, the target's entropy. It is 0 where the model predicts the target.

    Args:
        logits: Of each position.
        labels: The tokens that should follow.
        epsilon: In [0, 1).

    Raises:
        ValueError: if `epsilon` is not in [0, 1).
    """
    if not 0 <= epsilon < 1:
        raise ValueError(f"`epsilon` must be in [0, 1). Got {epsilon}.")
    others = logits.shape[-1] - 1
    each = epsilon / others
    entropy = -(1 - epsilon) * math.log(1 - epsilon) - others * each * math.log(each + 1e-20)
    target = (1 - epsilon - each) * _of_labels(logits, labels) + each * jnp.sum(logits, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - target - entropy


def _of_labels(logits: Float[Array, "*batch vocab"], labels: Integer[Array, "*batch"]) -> Float[Array, "*batch"]:
    words = jnp.where(labels < 0, logits.shape[-1], labels)[..., None]  # no negative index: it would wrap
    return jnp.take_along_axis(logits, words, axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]


@one_sentence_errors
def token_loss_sum(
    token_loss: TokenLoss,
    lm_logits: LMHead,
    states: Float[Array, "*batch tgt dim"],
    labels: Integer[HostArray, "*batch tgt"],
    *,
    rows: int = 512,
) -> tuple[Float[Array, ""], Integer[Array, ""]]:
    """The sum of a loss over all labels that count, and their number.

    `token_loss(lm_logits(states), labels)` needs batch x tgt x vocab numbers, and its gradient as many again: 1.2 GB
    for 8 targets of 128 tokens. Here the head is applied to a part of the target at a time; and once more in the
    backward pass, if there are several parts. The batch is not cut: one that is sharded over devices stays so.

    Args:
        token_loss: The loss of each label: `negative_log_likelihood`, `functools.partial(flax_label_smoothing,
            epsilon=0.1)`, or any other.
        lm_logits: The head: the method of a `BartForConditionalGeneration` or a `BartForCausalLM`, or any other.
        states: The decoder's last hidden states: `model.model(...).last_hidden_state`.
        labels: The token that should follow at each position, or -100 where none counts.
        rows: The head is applied to this many states at a time, or to one of each target if there are more targets.

    Returns:
        The sum, in at least float32, and the number of labels that are not -100. The sum is NaN where a label is
        neither -100 nor a word of the vocabulary.

    Raises:
        ValueError: if `rows` is not positive, or the states are sharded over a mesh axis of type Explicit.
    """
    return sum_in_parts(lambda states, labels: token_loss(wide(lm_logits(states)), labels), states, labels, rows=rows)


@one_sentence_errors
def cross_entropy(
    lm_logits: LMHead,
    states: Float[Array, "*batch tgt dim"],
    labels: Integer[HostArray, "*batch tgt"],
    *,
    label_smoothing: float = 0.0,
    rows: int = 512,
) -> Float[Array, ""]:
    """The mean over all labels that count of -log p(label), in nats and in at least float32.

    It is [`token_loss_sum`][bart_eqx.training.token_loss_sum] of
    [`fairseq_label_smoothing`][bart_eqx.training.fairseq_label_smoothing], divided.

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
    token_loss = functools.partial(fairseq_label_smoothing, epsilon=label_smoothing)
    total, count = token_loss_sum(token_loss, lm_logits, states, labels, rows=rows)
    return total / jnp.maximum(count, 1)


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """In at least float32."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def sum_in_parts(
    losses: Callable[[Any, Integer[Array, "batch part"]], Float[Array, "batch part"]],
    states: PyTree[Float[Array, "*batch tgt _"]],
    labels: Integer[HostArray, "*batch tgt"],
    *,
    rows: int,
) -> tuple[Float[Array, ""], Integer[Array, ""]]:
    """`(sum(losses(states, labels)), count)` over the labels that count, for a part of `tgt` at a time.

    Args:
        losses: The loss of each position, of its own states and label alone.
        states: One array, or several.
        labels: -100 where none counts.
        rows: The positions of a part, over the whole batch.

    Raises:
        ValueError: as `token_loss_sum` does.
    """
    if rows < 1:
        raise ValueError(f"`rows` must be at least 1. Got {rows}.")
    for array in jax.tree.leaves(states):
        check_not_explicit("`states`", array)

    def sum_of(states: Any, labels: Integer[Array, "batch part"]) -> Float[Array, ""]:
        return jnp.sum(jnp.where(labels == IGNORED, 0, losses(states, labels)))

    states = jax.tree.map(lambda x: x.reshape(-1, *x.shape[-2:]), states)
    labels = jnp.asarray(labels).reshape(-1, labels.shape[-1])
    count = jnp.sum(labels != IGNORED)
    batch, tgt = labels.shape
    part = max(1, min(tgt, rows // max(batch, 1)))
    if part >= tgt:  # nothing is saved by applying the head twice
        return sum_of(states, labels), count
    missing = -tgt % part
    states = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, missing), (0, 0))), states)
    labels = jnp.pad(labels, ((0, 0), (0, missing)), constant_values=IGNORED)
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(batch, -1, part, *x.shape[2:]), 1, 0), (states, labels))
    return jnp.sum(jax.lax.map(lambda part: jax.checkpoint(sum_of)(*part), parts)), count

"""A model and a loss for tests of training that compile in a moment, and examples of ragged lengths."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


VOCAB = 40


class BagOfWords(eqx.Module):
    """Predicts every target token from the sum of the source's embeddings."""

    embedding: jax.Array
    bias: jax.Array
    dropout: eqx.nn.Dropout
    ids: tuple[int, ...]  # a leaf that is no float

    def __init__(self, dtype: Any = jnp.float32, rate: float = 0.0):
        self.embedding = 0.3 * jax.random.normal(jax.random.key(0), (VOCAB, 8), dtype)
        self.bias = jnp.zeros(VOCAB, dtype)
        self.dropout = eqx.nn.Dropout(rate)
        self.ids = (1, 2)

    def __call__(self, batch: Any, key: Any) -> jax.Array:
        summed = jnp.sum(self.embedding[batch["input_ids"]] * batch["attention_mask"][..., None], axis=-2)
        return self.dropout(summed, key=key) @ self.embedding.T + self.bias


def word_loss(model: Any, batch: Any, key: Any) -> tuple[jax.Array, jax.Array]:
    logits = model(batch, key)
    log_probs = jax.nn.log_softmax(logits.astype(np.promote_types(logits.dtype, np.float32)))
    labels = batch["labels"]
    counts = labels != -100
    chosen = jnp.take_along_axis(log_probs, jnp.where(counts, labels, 0), axis=-1)
    return -jnp.sum(jnp.where(counts, chosen, 0)), jnp.sum(counts)


def ragged_examples(count: int, src: int = 30, tgt: int = 12, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    tokens = lambda most: rng.integers(4, VOCAB, rng.integers(2, most + 1)).astype(np.int32)
    return [{"input_ids": tokens(src), "labels": tokens(tgt)} for _ in range(count)]


def ragged_batch(rows: int, src: int = 9, tgt: int = 5, vocab: int = VOCAB) -> dict[str, np.ndarray]:
    """Rows with very unequal numbers of labels, one of them with none."""
    rng = np.random.default_rng(rows)
    ids = rng.integers(4, vocab, (rows, src)).astype(np.int32)
    labels = rng.integers(4, vocab, (rows, tgt)).astype(np.int32)
    mask = (np.arange(src) < rng.integers(3, src + 1, rows)[:, None]).astype(np.int32)
    ids[mask == 0] = 1
    labels[np.arange(tgt) >= (np.arange(rows) % (tgt + 1))[:, None]] = -100
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def in_micro_batches(batch: dict[str, np.ndarray], micro: int) -> dict[str, np.ndarray]:
    return {name: array.reshape(micro, -1, *array.shape[1:]) for name, array in batch.items()}

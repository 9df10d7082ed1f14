"""`Embedder`: a vector for each text."""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Float, Integer

from ..lazy_beartype import CONF
from ..model.bart import BartModel
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.question_answering import BartForQuestionAnswering
from ..model.sequence_classification import BartForSequenceClassification
from ..typing import Array, HostArray
from .task import AbstractTask
from .tokenizer import Tokenizer


Pooling = Literal["mean", "last"]


class Embedder(AbstractTask):
    """Vectors of texts: the mean of the encoder's states, or the decoder's state at the last `</s>`.

    BART was not trained so that near vectors mean near texts. These are features for a classifier of your own; for
    search, use a model that was trained for it.
    """

    heads = (BartModel, BartForConditionalGeneration, BartForSequenceClassification, BartForQuestionAnswering)

    def __init__(self, model: Any, tokenizer: Tokenizer, *, batch_tokens: int = 4096, pooling: Pooling = "mean"):
        """
        Args:
            model: A model of any class with an encoder.
            tokenizer: Its tokenizer.
            batch_tokens: The maximum number of tokens in a batch, padding included.
            pooling: `"mean"` of the encoder's states at all tokens, special tokens included; or `"last"`, the decoder's
                state at the last token, which BART's classifiers read.
        """
        super().__init__(model, tokenizer, batch_tokens=batch_tokens)
        if pooling not in _POOL:
            raise ValueError(f'`pooling` must be "mean" or "last". Got {pooling!r}.')
        self.pooling: Pooling = pooling

    @beartype(conf=CONF)
    def __call__(
        self, texts: str | Sequence[str], *, normalize_embeddings: bool = False, truncation: bool = True
    ) -> np.ndarray:
        """A vector `[dim]` for a text, or `[texts, dim]` for a list, float32.

        Args:
            texts: One text, or a list.
            normalize_embeddings: Scale each vector to length 1.
            truncation: Drop the end of a text that the model has no positions for; `False` makes it an error.

        Raises:
            ValueError: as `Tokenizer` does.
        """
        if isinstance(texts, str):
            return self([texts], normalize_embeddings=normalize_embeddings, truncation=truncation)[0]
        body = self.model if isinstance(self.model, BartModel) else self.model.model
        pool = _POOL[self.pooling]
        run_batch = lambda input_ids, attention_mask: list(np.asarray(pool(body, input_ids, attention_mask)))
        vectors = self.engine.map(run_batch, self.engine.tokenize(texts, truncation=truncation), label="embedding")
        stacked = np.stack(vectors) if vectors else np.zeros((0, self.model.config.d_model), np.float32)
        return stacked / np.linalg.norm(stacked, axis=-1, keepdims=True) if normalize_embeddings else stacked


@eqx.filter_jit
def _mean(
    model: BartModel, input_ids: Integer[HostArray, "rows src"], attention_mask: Integer[HostArray, "rows src"]
) -> Float[Array, "rows dim"]:
    states = model.encode(input_ids, attention_mask).last_hidden_state.astype(jnp.float32)
    weights = jnp.asarray(attention_mask, jnp.float32)
    # `where`, and not a product: a state at padding may be NaN.
    total = jnp.sum(jnp.where(weights[..., None] > 0, states, 0), axis=-2)
    return total / jnp.sum(weights, axis=-1, keepdims=True)


@eqx.filter_jit
def _last(
    model: BartModel, input_ids: Integer[HostArray, "rows src"], attention_mask: Integer[HostArray, "rows src"]
) -> Float[Array, "rows dim"]:
    states = model(input_ids, attention_mask).last_hidden_state.astype(jnp.float32)
    last = jnp.sum(jnp.asarray(attention_mask), axis=-1) - 1
    return jnp.take_along_axis(states, last[:, None, None], axis=-2)[:, 0]


_POOL = {"mean": _mean, "last": _last}

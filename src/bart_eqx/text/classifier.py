"""`Classifier`: the class of a text, or of a pair of texts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Float, Integer

from ..lazy_beartype import CONF
from ..model.sequence_classification import BartForSequenceClassification
from ..typing import Array, HostArray
from .engine import Engine
from .task import AbstractTask
from .tokenizer import Tokenizer
from .tokens import Tokens
from .truncation import Truncation


Function = Literal["softmax", "sigmoid", "none"]
# `problem_type` in config.json.
_FUNCTIONS: Mapping[str | None, Function] = {
    "multi_label_classification": "sigmoid",
    "regression": "none",
    "single_label_classification": "softmax",
}


@dataclasses.dataclass(frozen=True)
class TextClassificationOutputElement:
    """A label and its score.

    Args:
        label: The name of the class, from the model's `config.id2label`.
        score: Its probability; with `function_to_apply="none"`, its logit.
    """

    label: str
    score: float


class Classifier(AbstractTask):
    """Labels of a text or of a pair of texts, from a model that was fine-tuned on such labels."""

    heads = (BartForSequenceClassification,)
    example = ", or train it: `bart-eqx train classify`"

    def __init__(
        self,
        model: BartForSequenceClassification,
        tokenizer: Tokenizer,
        *,
        batch_tokens: int = 4096,
        function_to_apply: Function | None = None,
    ):
        """
        Args:
            model: The model.
            tokenizer: Its tokenizer.
            batch_tokens: The maximum number of tokens in a batch, padding included.
            function_to_apply: From logits to scores: `"softmax"` where one label holds, `"sigmoid"` where any number
                does, `"none"` for a regression. By default as `problem_type` in config.json says, or else a sigmoid for
                a single label and softmax for several.

        Raises:
            ValueError: if `function_to_apply` is none of these.
        """
        super().__init__(model, tokenizer, batch_tokens=batch_tokens)
        if function_to_apply not in (None, "softmax", "sigmoid", "none"):
            raise ValueError(f'`function_to_apply` must be "softmax", "sigmoid" or "none". Got {function_to_apply!r}.')
        self.function_to_apply: Function = function_to_apply or (
            "sigmoid" if model.config.num_labels == 1 else "softmax"
        )

    @classmethod
    def options_of(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        return dict(function_to_apply=_FUNCTIONS.get(fields.get("problem_type")))

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, text: str, pair: str | None = None, *, top_k: int | None = None, truncation: Truncation | bool = True
    ) -> list[TextClassificationOutputElement]: ...

    @overload
    def __call__(
        self,
        text: Sequence[str],
        pair: Sequence[str] | None = None,
        *,
        top_k: int | None = None,
        truncation: Truncation | bool = True,
    ) -> list[list[TextClassificationOutputElement]]: ...

    @beartype(conf=CONF)
    def __call__(
        self,
        text: str | Sequence[str],
        pair: str | Sequence[str] | None = None,
        *,
        top_k: int | None = None,
        truncation: Truncation | bool = True,
    ) -> list[Any]:
        """The labels of a text, the most probable first; of a list, such a list for each text.

        Args:
            text: One text, or a list.
            pair: The second text of the pair, or of each.
            top_k: The number of labels to return; by default all.
            truncation: As for `Tokenizer`: where tokens are dropped that the model has no positions for.

        Raises:
            ValueError: if `top_k` is less than 1; and as `Tokenizer` does.
        """
        if pair is not None and isinstance(pair, str) != isinstance(text, str):
            raise ValueError("`text` and `pair` must be two strings, or two lists of strings.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` must be at least 1. Got {top_k}.")
        texts = [text] if isinstance(text, str) else text
        pairs = [pair] if isinstance(pair, str) else pair
        rows = self.engine.tokenize(texts, pairs, truncation=truncation)
        logits = class_logits(self.engine, self.model, rows, label="classifying")
        scores = {"softmax": softmax, "sigmoid": _sigmoid, "none": np.asarray}[self.function_to_apply](logits)
        results = [self._labels(row)[:top_k] for row in scores]
        return results[0] if isinstance(text, str) else results

    def _labels(self, scores: np.ndarray) -> list[TextClassificationOutputElement]:
        names = self.model.config.id2label
        order = np.argsort(-scores, kind="stable")
        return [TextClassificationOutputElement(names[index], float(scores[index])) for index in order]


def class_logits(
    engine: Engine, model: BartForSequenceClassification, rows: Sequence[Tokens], *, label: str
) -> np.ndarray:
    """Logits `[rows, labels]`, float64."""

    def run_batch(input_ids: np.ndarray, attention_mask: np.ndarray) -> list[np.ndarray]:
        return list(np.asarray(_logits(model, input_ids, attention_mask), np.float64))

    logits = engine.map(run_batch, rows, label=label)
    return np.stack(logits) if logits else np.zeros((0, model.config.num_labels))


@eqx.filter_jit
def _logits(
    model: BartForSequenceClassification,
    input_ids: Integer[HostArray, "rows src"],
    attention_mask: Integer[HostArray, "rows src"],
) -> Float[Array, "rows labels"]:
    return model(input_ids, attention_mask).logits.astype(jnp.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))

"""`ZeroShotClassifier`: which of given labels hold for a text, by a model of natural language inference."""

import dataclasses
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from beartype import beartype

from ..lazy_beartype import CONF
from ..model.sequence_classification import BartForSequenceClassification
from .classifier import class_logits, softmax
from .hypotheses import check_labels, check_template
from .task import AbstractTask
from .tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ZeroShotClassificationOutputElement:
    """A label and its probability."""

    label: str
    score: float


class ZeroShotClassifier(AbstractTask):
    """Labels that the model was not trained on, by natural language inference: bart-large-mnli, for example.

    Each label becomes a hypothesis, and the model says whether the text entails it. Text and hypothesis attend to each
    other, so a text with five labels costs five rows; rows of all texts share batches.
    """

    heads = (BartForSequenceClassification,)
    example = ", such as bart-large-mnli"

    def __init__(self, model: BartForSequenceClassification, tokenizer: Tokenizer, *, batch_tokens: int = 4096):
        """
        Args:
            model: With a label whose name starts with "entail", in any case, in `config.id2label`.
            tokenizer: Its tokenizer.
            batch_tokens: The maximum number of tokens in a batch, padding included.

        Raises:
            ValueError: if no label, or several, start with "entail".
        """
        super().__init__(model, tokenizer, batch_tokens=batch_tokens)
        names = [name.lower() for name in model.config.id2label]
        entailment = [index for index, name in enumerate(names) if name.startswith("entail")]
        if len(entailment) != 1:
            raise ValueError(
                'ZeroShotClassifier needs one label that starts with "entail". The labels of this model are '
                f"{', '.join(model.config.id2label[:10])}: choose a model of natural language inference, or name them "
                "in `config.id2label`."
            )
        self.entailment_id = entailment[0]
        contradiction = [index for index, name in enumerate(names) if name.startswith("contradict")]
        # Without that name, transformers' rule.
        self.contradiction_id = contradiction[0] if contradiction else len(names) - 1 if self.entailment_id == 0 else 0

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self,
        text: str,
        labels: Sequence[str],
        *,
        multi_label: bool = False,
        hypothesis_template: str = "This example is {}.",
        truncation: bool = True,
    ) -> list[ZeroShotClassificationOutputElement]: ...

    @overload
    def __call__(
        self,
        text: Sequence[str],
        labels: Sequence[str] | Sequence[Sequence[str]],
        *,
        multi_label: bool = False,
        hypothesis_template: str = "This example is {}.",
        truncation: bool = True,
    ) -> list[list[ZeroShotClassificationOutputElement]]: ...

    @beartype(conf=CONF)
    def __call__(
        self,
        text: str | Sequence[str],
        labels: Sequence[str] | Sequence[Sequence[str]],
        *,
        multi_label: bool = False,
        hypothesis_template: str = "This example is {}.",
        truncation: bool = True,
    ) -> list[Any]:
        """The labels of a text, the most probable first; of a list, such a list for each text.

        Args:
            text: One text, or a list.
            labels: For all texts; or for each text its own list.
            multi_label: Any number of labels may hold: each has a probability of its own, entailment against
                contradiction. By default one holds, and the probabilities of a text sum to 1.
            hypothesis_template: A sentence with `{}` for the label.
            truncation: Drop the end of a text that the model has no positions for; `False` makes it an error.

        Raises:
            ValueError: if there are no labels, one is empty or there twice, or the template has no place for them; and
                as `Tokenizer` does.
        """
        texts = [text] if isinstance(text, str) else text
        each = _labels_of_each([labels] if isinstance(text, str) else labels, len(texts))
        check_template(hypothesis_template)
        premises = [text for text, own in zip(texts, each, strict=True) for _ in own]
        hypotheses = [hypothesis_template.format(label) for own in each for label in own]
        rows = self.engine.tokenize(premises, hypotheses, truncation="only_first" if truncation else False)
        logits = class_logits(self.engine, self.model, rows, label="classifying")
        results, start = [], 0
        for own in each:
            scores = self._scores(logits[start : start + len(own)], multi_label)
            start += len(own)
            order = np.argsort(-scores, kind="stable")
            results.append([ZeroShotClassificationOutputElement(own[at], float(scores[at])) for at in order])
        return results[0] if isinstance(text, str) else results

    def _scores(self, logits: np.ndarray, multi_label: bool) -> np.ndarray:
        """The probability of each label of one text, from `[labels, classes]`."""
        if multi_label or len(logits) == 1:
            return softmax(logits[:, [self.contradiction_id, self.entailment_id]])[:, 1]
        return softmax(logits[:, self.entailment_id])


def _labels_of_each(labels: Sequence[Any], count: int) -> list[list[str]]:
    """A list of labels for each of `count` texts, from such lists, or from one for all."""
    each = [labels] * count if all(isinstance(label, str) for label in labels) else labels
    if isinstance(labels, str) or any(isinstance(own, str) for own in each):
        raise TypeError("`labels` must be a list of strings, or for several texts a list of such lists.")
    if len(each) != count:
        raise ValueError(f"`labels` must have a list for each text. Got {len(each)} lists for {count} texts.")
    each = [list(own) for own in each]
    for own in each[:1] if all(own == each[0] for own in each) else each:
        check_labels(own)
    return each

"""Predictions compared with references: ROUGE for texts, accuracy for labels."""

import dataclasses
import importlib
import logging
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from beartype import beartype

from ..lazy_beartype import CONF
from .progress import progress_of_rows


logger = logging.getLogger("bart_eqx.text")
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_CONFIDENCE, _SAMPLES, _SEED = 0.95, 1000, 0
_NORMAL = 1.959963984540054  # its quantile at 0.975


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over all records, with its 95% confidence interval.

    Args:
        mean: From 0 to 1.
        low: The lower end of the interval.
        high: The upper end.
    """

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class RougeScore:
    """One kind of ROUGE.

    Args:
        precision: The fraction of the prediction that is in the reference.
        recall: The fraction of the reference that is in the prediction.
        fmeasure: Their harmonic mean, record by record: the number that papers give, times 100.
    """

    precision: Estimate
    recall: Estimate
    fmeasure: Estimate


@dataclasses.dataclass(frozen=True)
class RougeOutput:
    """ROUGE of all predictions.

    Args:
        rouge1: ROUGE of single words.
        rouge2: ROUGE of pairs of words.
        rougeL: ROUGE of the longest common subsequence of two texts.
        rougeLsum: The same, sentence by sentence. For CNN/DailyMail, papers call this ROUGE-L.
        num_records: The number of predictions.
    """

    rouge1: RougeScore
    rouge2: RougeScore
    rougeL: RougeScore
    rougeLsum: RougeScore
    num_records: int


@dataclasses.dataclass(frozen=True)
class AccuracyOutput:
    """The accuracy of all predictions.

    Args:
        accuracy: The fraction that is right. The interval is Wilson's.
        num_correct: The number that is right.
        num_records: The number of predictions.
    """

    accuracy: Estimate
    num_correct: int
    num_records: int


@beartype(conf=CONF)
def rouge(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    *,
    use_stemmer: bool = True,
    language: str | None = "en",
) -> RougeOutput:
    """ROUGE (Lin, 2004), by Google's library rouge-score.

    The defaults are those of published numbers: words are stemmed, and `rougeLsum` compares sentences. Intervals are
    the library's, from 1,000 bootstrap samples with a fixed seed. Words are runs of a to z and 0 to 9: this is a metric
    for English.

    Args:
        predictions: The texts of a model. One without words scores 0.
        references: One text for each prediction; or a list of texts, of which the one with the best F-measure counts,
            for each kind of ROUGE.
        use_stemmer: Compare words by their stems, after Porter.
        language: The language code for splitting the lines of a text into sentences. `None`: every line is one
            sentence.

    Raises:
        ImportError: if the extra `evaluate` is not installed: rouge-score, and for a `language` sentencex.
        TypeError: if `predictions` or `references` is a string.
        ValueError: if there are no predictions, a different number of references, or a reference has no words.
    """
    _check_counts(predictions, references)
    targets = [[own] if isinstance(own, str) else list(own) for own in references]
    for index, own in enumerate(targets):
        if not own or not all(map(_has_words, own)):
            raise ValueError(
                f"references[{index}] must have words of the letters a to z. Got {references[index]!r:.80}. Leave the "
                "record out; for another alphabet, use another metric."
            )
    if empty := sum(not _has_words(text) for text in predictions):
        logger.warning("%d of %d predictions have no words: they score 0.", empty, len(predictions))
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(ROUGE_TYPES, use_stemmer=use_stemmer)
    aggregator = _library("rouge_score.scoring").BootstrapAggregator(_CONFIDENCE, _SAMPLES)
    lines = (lambda text: text) if language is None else _one_sentence_a_line(language)
    scores = []
    with progress_of_rows("comparing", len(predictions)) as done:
        for own, prediction in zip(targets, predictions, strict=True):
            scores.append(scorer.score_multi([lines(text) for text in own], lines(prediction)))
            aggregator.add_scores(scores[-1])
            done(1)
    intervals = _with_seed(aggregator.aggregate)

    def of(kind: str) -> RougeScore:
        means = np.mean([score[kind] for score in scores], axis=0)
        parts = zip(means, intervals[kind].low, intervals[kind].high, strict=True)
        return RougeScore(*(Estimate(*map(float, part)) for part in parts))

    return RougeOutput(*map(of, ROUGE_TYPES), num_records=len(predictions))


@beartype(conf=CONF)
def accuracy(predictions: Sequence[str], references: Sequence[str]) -> AccuracyOutput:
    """The fraction of predictions that equal their references, character by character.

    Args:
        predictions: Labels, or other texts of which one is right.
        references: One for each prediction.

    Raises:
        TypeError: if `predictions` or `references` is a string.
        ValueError: if there are no predictions, or a different number of references.
    """
    _check_counts(predictions, references)
    count = len(predictions)
    correct = sum(map(str.__eq__, predictions, references))
    part, spread = correct / count, _NORMAL**2 / count
    # Wilson (1927). Unlike the normal interval, it has a width where all predictions are right.
    middle = (part + spread / 2) / (1 + spread)
    half = math.sqrt(part * (1 - part) * spread + spread**2 / 4) / (1 + spread)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return AccuracyOutput(Estimate(part, min(low, part), max(high, part)), correct, count)  # rounded, 1.0 may be less


def _check_counts(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    if isinstance(predictions, str) or isinstance(references, str):
        raise TypeError("`predictions` and `references` must be lists of strings. Got a string.")
    if len(predictions) != len(references):
        raise ValueError(
            f"`predictions` and `references` must be equally many. Got {len(predictions)} and {len(references)}."
        )
    if not predictions:
        raise ValueError("There are no predictions to evaluate.")


def _has_words(text: str) -> bool:
    return re.search("[a-z0-9]", text.lower()) is not None


def _one_sentence_a_line(language: str) -> Any:
    segment = _library("sentencex").segment

    def lines(text: str) -> str:
        return "\n".join(_sentences(text, segment, language))

    return lines


def _sentences(text: str, segment: Any, language: str) -> Iterator[str]:
    for line in text.splitlines():
        for sentence in segment(language, line):
            if stripped := sentence.strip():
                yield stripped


def _with_seed(aggregate: Any) -> Any:
    """Call `aggregate`, which draws from NumPy's global generator: the same at each call, and undone afterwards."""
    state = np.random.get_state()
    np.random.seed(_SEED)
    try:
        return aggregate()
    finally:
        np.random.set_state(state)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "ROUGE needs rouge-score, and sentencex to find sentences. Install the extra `evaluate`: `pip install "
            "rouge-score sentencex`."
        ) from error

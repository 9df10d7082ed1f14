"""`Scorer`: how probable a model finds a target, given a source. BARTScore (arXiv:2106.11520)."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Float, Integer

from ..lazy_beartype import CONF
from ..model.conditional_generation import BartForConditionalGeneration
from ..model.masks import shift_tokens_right
from ..model.outputs import BaseModelOutput
from ..typing import Array, HostArray
from .task import AbstractTask
from .tokens import Tokens


_TARGET_COST = 2.0  # of a target token, in source tokens


@dataclasses.dataclass(frozen=True)
class ScorerOutput:
    """How probable a target is.

    Args:
        score: The mean log-probability of its tokens: BARTScore. It is negative even for identical texts, since no
            model is certain.
        sum: The sum of these: the log-probability of the whole target.
        token_scores: The log-probability of each token, special tokens included.
        tokens: The texts of these tokens.
    """

    score: float
    sum: float
    token_scores: tuple[float, ...]
    tokens: tuple[str, ...]


class Scorer(AbstractTask):
    """Log-probabilities of targets given sources, from a model such as bart-large-cnn.

    `scorer(document, summary)` is faithfulness, `scorer(reference, hypothesis)` precision, and
    `scorer(hypothesis, reference)` recall, in the words of BARTScore.
    """

    heads = (BartForConditionalGeneration,)
    loads = ("BartModel",)

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, source: str, target: str, *, truncation: bool = True
    ) -> ScorerOutput: ...

    @overload
    def __call__(
        self, source: Sequence[str], target: Sequence[str], *, truncation: bool = True
    ) -> list[ScorerOutput]: ...

    @beartype(conf=CONF)
    def __call__(self, source: str | Sequence[str], target: str | Sequence[str], *, truncation: bool = True) -> Any:
        """Score a target, or a list of targets, each given its source.

        Args:
            source: One text, or a list.
            target: One text, or a list with one for each source.
            truncation: Drop the end of a text that the model has no positions for; `False` makes it an error.

        Raises:
            ValueError: if `source` and `target` differ in length; and as `Tokenizer` does.
        """
        if isinstance(source, str) != isinstance(target, str):
            raise ValueError("`source` and `target` must be two strings, or two lists of strings.")
        sources = [source] if isinstance(source, str) else source
        targets = [target] if isinstance(target, str) else target
        if len(sources) != len(targets):
            raise ValueError(f"`source` and `target` must be equally many. Got {len(sources)} and {len(targets)}.")
        results = self._scored(sources, targets, truncation)
        return results[0] if isinstance(source, str) else results

    @beartype(conf=CONF)
    def multi_ref_score(
        self,
        source: str | Sequence[str],
        targets: Sequence[str] | Sequence[Sequence[str]],
        *,
        agg: Literal["mean", "max"] = "mean",
        truncation: bool = True,
    ) -> Any:
        """The mean, or the largest, of the scores of several targets given one source.

        Args:
            source: One text, or a list.
            targets: The references: a list of them, or for a list of sources such a list for each.
            agg: `"mean"` or `"max"`.
            truncation: As for a call.

        Returns:
            A float, or a list of floats.

        Raises:
            ValueError: if a source has no targets, or `source` and `targets` differ in length; and as `Tokenizer` does.
        """
        if isinstance(source, str):
            return self.multi_ref_score([source], [targets], agg=agg, truncation=truncation)[0]  # pyright: ignore
        if len(source) != len(targets) or any(isinstance(own, str) or not own for own in targets):
            raise ValueError("`targets` must have a list for each source, each of at least one text.")
        sources = [text for text, own in zip(source, targets, strict=True) for _ in own]
        scored = iter(self._scored(sources, [target for own in targets for target in own], truncation))
        combine = {"mean": np.mean, "max": np.max}[agg]
        return [float(combine([next(scored).score for _ in own])) for own in targets]

    def _scored(self, sources: Sequence[str], targets: Sequence[str], truncation: bool) -> list[ScorerOutput]:
        engine = self.engine
        rows, labels = (engine.tokenize(texts, truncation=truncation) for texts in (sources, targets))
        groups: dict[str, list[int]] = {}  # the targets of each distinct source, which is encoded once
        for index, source in enumerate(sources):
            groups.setdefault(source, []).append(index)
        of_source = list(groups.values())
        lengths = [(len(rows[own[0]]), max(len(labels[index]) for index in own)) for own in of_source]
        ratio = _ratio(lengths)

        def run(indices: Sequence[int], width: int) -> list[list[np.ndarray]]:
            limit = engine.max_length
            tgt = min(-(-width // ratio), limit)
            input_ids, attention_mask = engine.pad([rows[of_source[i][0]] for i in indices], min(width, limit))
            # The targets of a batch of sources are scored in batches of the same size. Copies of sources are left out.
            pairs = [(place, target) for place, i in enumerate(dict.fromkeys(indices)) for target in of_source[i]]
            scores: list[list[np.ndarray]] = [[] for _ in indices]
            states = None
            for start in range(0, len(pairs), len(indices)):
                batch = pairs[start : start + len(indices)]
                filled = batch + batch[:1] * (len(indices) - len(batch))
                target_ids, _ = engine.pad([labels[target] for _, target in filled], tgt)
                places = np.array([place for place, _ in filled], np.int32)
                if states is None:
                    result, states = _encode_and_score(self.model, input_ids, attention_mask, places, target_ids)
                else:
                    result = _score(self.model, states, attention_mask, places, target_ids)
                for (place, _), row in zip(batch, np.asarray(result, np.float64), strict=False):
                    scores[place].append(row)
            return scores

        widths = [max(source, target * ratio) for source, target in lengths]
        scored = engine.map_indices(run, widths, max_width=engine.max_length * ratio, label="scoring")
        outputs: list[Any] = [None] * len(targets)
        for own, scores in zip(of_source, scored, strict=True):
            for index, row in zip(own, scores, strict=True):
                outputs[index] = self._output(labels[index], row[: len(labels[index])])
        return outputs

    def _output(self, label: Tokens, scores: np.ndarray) -> ScorerOutput:
        decode = self.engine.tokenizer.decode
        tokens = decode([[token] for token in label.input_ids], skip_special_tokens=False)
        return ScorerOutput(float(scores.mean()), float(scores.sum()), tuple(scores.tolist()), tuple(tokens))


def _ratio(lengths: Sequence[tuple[int, int]]) -> int:
    """The number of source tokens for each target token in the arrays of a batch; one number for all batches.

    The width of a pair is that of its source, or its target's times this ratio if that is more, so that each width is
    one program. The ratio is the one with the least padding, where a target token, with the head, costs as much as two
    source tokens.
    """
    sources, targets = np.array(lengths).reshape(-1, 2).T
    return min((1, 2, 4, 8), key=lambda ratio: np.maximum(sources, targets * ratio).sum() * (1 + _TARGET_COST / ratio))


@eqx.filter_jit
def _encode_and_score(
    model: BartForConditionalGeneration,
    input_ids: Integer[HostArray, "sources src"],
    attention_mask: Integer[HostArray, "sources src"],
    places: Integer[HostArray, " rows"],
    target_ids: Integer[HostArray, "rows tgt"],
) -> tuple[Float[Array, "rows tgt"], Float[Array, "sources src dim"]]:
    """As `_log_probabilities`, and the states of the sources."""
    states = model.encode(input_ids, attention_mask).last_hidden_state
    return _log_probabilities(model, states, attention_mask, places, target_ids), states


def _log_probabilities(
    model: BartForConditionalGeneration,
    states: Float[Array, "sources src dim"],
    attention_mask: Integer[HostArray, "sources src"],
    places: Integer[HostArray, " rows"],
    target_ids: Integer[HostArray, "rows tgt"],
) -> Float[Array, "rows tgt"]:
    """The log-probability of each target token, given the source at `places` and the tokens before it."""
    config = model.config
    before = shift_tokens_right(target_ids, config.pad_token_id, config.decoder_start_token_id)
    encoded = BaseModelOutput(last_hidden_state=states[places])
    mask = jnp.asarray(attention_mask)[places]
    decoded = model.model.decode(before, encoder_outputs=encoded, encoder_attention_mask=mask).last_hidden_state

    def of_row(row: tuple[Float[Array, "tgt dim"], Integer[Array, " tgt"]]) -> Float[Array, " tgt"]:
        logits = model.lm_logits(row[0]).astype(jnp.float32)  # one row at a time: each token has 50,265
        chosen = jnp.take_along_axis(logits, row[1][:, None], axis=-1)[:, 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    return jax.lax.map(of_row, (decoded, jnp.asarray(target_ids)))


_score = eqx.filter_jit(_log_probabilities)

"""BART's pre-training noise (arXiv:1910.13461), with the semantics of fairseq's `DenoisingDataset`.

The steps, in this order: permute sentences, mask spans, insert, rotate. The target is the untouched text. This is
NumPy on the host: it needs neither JAX nor a training library.

The noise of an example depends on a seed and the example's index alone. A run that resumes, or that has another number
of workers, sees the same bytes. fairseq draws from other generators: the distributions are its own, the draws are not.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, no_type_check

import numpy as np
from beartype import beartype
from jaxtyping import Bool, Float, Int32, Int64, Integer

from ..lazy_beartype import CONF


SMALLEST = 1e-7
"""The table of span lengths ends with the first probability below this."""
LAMBDAS = (0.1, 16.0)
"""Beyond e**-16, the table would end at length 0, as all its probabilities are below `SMALLEST`."""


@beartype(conf=CONF)
@dataclasses.dataclass(frozen=True)
class DenoisingConfig:
    """What noise, in fairseq's names, and which token ids.

    The defaults are those of facebook/bart-large: the noise of the command in facebookresearch/fairseq#1899, the ids of
    its vocabulary.

    Args:
        mask: The words to mask, as a fraction of the words: at least one of a text that has any.
        poisson_lambda: The mean length of a span, in words, from 0.1 to 16. `None`: each span is one word.
        replace_length: What a span becomes: one token (1), nothing (0), or as many tokens as it has (-1).
        mask_random: The fraction of spans, and of insertions, that become random tokens instead of `<mask>`.
        insert: Tokens to insert, as a fraction of the tokens.
        rotate: The fraction of texts that are rotated to begin at a random token; `<s>` stays.
        permute_sentences: The fraction of a text's sentences that change places with each other.
        vocab_size: Random tokens are drawn from [1, vocab_size), special tokens among them.
        bos_token_id: The first token of every text.
        eos_token_id: The last token of every text.
        mask_token_id: What a span becomes.
        full_stop_token_id: Ends a sentence, where the token before it is another one.

    Raises:
        ValueError: if a fraction is not in [0, 1], `poisson_lambda` is not in [0.1, 16], or an id is outside the
            vocabulary. All faults are reported together.
    """

    mask: float = 0.3
    poisson_lambda: float | None = 3.5
    replace_length: Literal[-1, 0, 1] = 1
    mask_random: float = 0.1
    insert: float = 0.0
    rotate: float = 0.0
    permute_sentences: float = 1.0
    vocab_size: int = 50265
    bos_token_id: int = 0
    eos_token_id: int = 2
    mask_token_id: int = 50264
    full_stop_token_id: int = 4

    def __post_init__(self) -> None:
        faults = []
        for name in ("mask", "mask_random", "insert", "rotate", "permute_sentences"):
            if not 0 <= getattr(self, name) <= 1:
                faults.append(f"`{name}` must be in [0, 1]. Got {getattr(self, name)}.")
        low, high = LAMBDAS
        if self.poisson_lambda is not None and not low <= self.poisson_lambda <= high:
            faults.append(f"`poisson_lambda` must be None or in [{low}, {high}]. Got {self.poisson_lambda}.")
        for name in ("bos_token_id", "eos_token_id", "mask_token_id", "full_stop_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                faults.append(f"`{name}` must be in [0, vocab_size={self.vocab_size}). Got {getattr(self, name)}.")
        if self.vocab_size < 2:
            faults.append(f"`vocab_size` must be at least 2. Got {self.vocab_size}.")
        if faults:
            raise ValueError("This DenoisingConfig cannot be used:\n" + "\n".join(f"- {fault}" for fault in faults))


class Denoiser:
    """Makes noised sources of token-id sequences. Its methods take 0.1 ms for 512 tokens: a check of their signatures
    would take four times as long, so that they have none.

    ```python
    denoiser = Denoiser(DenoisingConfig(), word_starts=tokenizer.word_starts(), seed=0)
    source = denoiser.noised(tokens, index=0)
    for source, target in denoiser(sequences): ...
    source = denoiser.noise(tokens, generator)  # for a loader that has its own generator for each example
    ```
    """

    config: DenoisingConfig
    word_starts: Bool[np.ndarray, " vocab"] | None
    seed: int

    @beartype(conf=CONF)
    def __init__(
        self, config: DenoisingConfig, *, word_starts: Bool[np.ndarray, " vocab"] | None = None, seed: int = 0
    ):
        """
        Args:
            config: What noise.
            word_starts: For each token id, whether a word starts with it: `Tokenizer.word_starts()`. A span covers
                whole words. `None`: every token is a word.
            seed: In [0, 2**64).

        Raises:
            ValueError: if `word_starts` has another length than the vocabulary, or `seed` is out of range.
        """
        if word_starts is not None and len(word_starts) != config.vocab_size:
            raise ValueError(
                f"`word_starts` must have an entry for each token of vocab_size={config.vocab_size}. Got "
                f"{len(word_starts)}."
            )
        if not 0 <= seed < 2**64:
            raise ValueError(f"`seed` must be in [0, 2**64). Got {seed}.")
        self.config = config
        self.word_starts = word_starts
        self.seed = seed

    @no_type_check
    def __call__(
        self, sequences: Iterable[Integer[np.ndarray, " tgt"] | Sequence[int]], *, first_index: int = 0
    ) -> Iterator[tuple[Int32[np.ndarray, " src"], Int32[np.ndarray, " tgt"]]]:
        """`(source, target)` for each sequence; the first has the index `first_index`, which a resumed run gives."""
        for index, tokens in enumerate(sequences, first_index):
            yield self.noised(tokens, index), np.asarray(tokens, np.int32)

    @no_type_check
    def noised(self, tokens: Integer[np.ndarray, " tgt"] | Sequence[int], index: int) -> Int32[np.ndarray, " src"]:
        """The noised source of one text. `tokens` is not changed.

        Args:
            tokens: The text with its `<s>` and `</s>`, as a tokenizer makes it.
            index: The number of the example in the whole run, in [0, 2**64): that of an epoch counts on, so that each
                epoch has its own noise.

        Raises:
            ValueError: as `noise` does.
        """
        return self.noise(tokens, np.random.Generator(np.random.Philox(key=np.array([self.seed, index], np.uint64))))

    @no_type_check
    def noise(
        self, tokens: Integer[np.ndarray, " tgt"] | Sequence[int], rng: np.random.Generator
    ) -> Int32[np.ndarray, " src"]:
        """The noised source of one text, drawn from `rng`. `tokens` is not changed.

        Args:
            tokens: The text with its `<s>` and `</s>`, as a tokenizer makes it.
            rng: A generator of this example's own.

        Raises:
            ValueError: if the text does not begin with `<s>` and end with `</s>`, or has an id outside the vocabulary.
        """
        config = self.config
        tokens = self._checked(tokens)
        if config.permute_sentences > 0:
            tokens = self._permute_sentences(tokens, rng)
        if config.mask > 0:
            tokens = self._mask_spans(tokens, rng)
        if config.insert > 0:
            tokens = self._insert(tokens, math.ceil(len(tokens) * config.insert), rng)
        if config.rotate > 0 and rng.random() < config.rotate:
            offset = rng.integers(1, len(tokens))
            tokens = np.concatenate([tokens[:1], tokens[offset:-1], tokens[1:offset], tokens[-1:]])
        return tokens

    @no_type_check
    def _checked(self, tokens: Integer[np.ndarray, " tgt"] | Sequence[int]) -> Int32[np.ndarray, " tgt"]:
        """A copy."""
        config, given = self.config, np.asarray(tokens)
        framed = given.ndim == 1 and len(given) >= 2 and given.dtype.kind in "iu"
        if not framed or given[0] != config.bos_token_id or given[-1] != config.eos_token_id:
            raise ValueError(
                f"A text must be token ids [tgt] that begin with bos_token_id={config.bos_token_id} and end with "
                f"eos_token_id={config.eos_token_id}, as a tokenizer makes it. Got {given.tolist()!r:.80}."
            )
        if given.max() >= config.vocab_size or given.min() < 0:
            raise ValueError(
                f"Token ids must be in [0, vocab_size={config.vocab_size}). Got {given.min()} to {given.max()}."
            )
        return given.astype(np.int32)

    @no_type_check
    def _permute_sentences(
        self, tokens: Int32[np.ndarray, " tgt"], rng: np.random.Generator
    ) -> Int32[np.ndarray, " tgt"]:
        """A sentence ends at a full stop, or at the last token before `</s>`, that does not follow a full stop."""
        stops = tokens == self.config.full_stop_token_id
        stops[-2] = True
        ends = (np.flatnonzero(stops[1:] & ~stops[:-1]) + 2).tolist()
        if len(ends) < 2:
            return tokens
        sentences = [tokens[begin:end] for begin, end in zip([1, *ends[:-1]], ends, strict=True)]
        moved = rng.permutation(len(ends))[: math.ceil(len(ends) * self.config.permute_sentences)].tolist()
        order = list(range(len(ends)))
        for place, sentence in zip(sorted(moved), moved, strict=True):
            order[place] = sentence
        # What follows the last end stays in its place.
        return np.concatenate([tokens[:1], *[sentences[sentence] for sentence in order], tokens[ends[-1] :]])

    @no_type_check
    def _mask_spans(self, tokens: Int32[np.ndarray, " tgt"], rng: np.random.Generator) -> Int32[np.ndarray, " src"]:
        """Spans begin at distinct words, may overlap, and have a given number of words together."""
        config = self.config
        if self.word_starts is None:
            bounds = np.arange(1, len(tokens))
        else:
            is_start = self.word_starts.take(tokens)
            is_start[0], is_start[-1] = False, True  # the last word ends before `</s>`
            bounds = is_start.nonzero()[0]
        starts, words = bounds[:-1], len(bounds) - 1
        budget = math.ceil(words * config.mask)
        if budget == 0:
            return tokens
        lengths = self._span_lengths(budget, rng)
        spans = lengths[lengths > 0]
        first = rng.permutation(words)[: len(spans)]
        is_random = rng.random(len(spans)) < config.mask_random

        # Word `w` is covered if a span that begins at or before it ends behind it.
        reach = np.zeros(words + 1, np.int64)
        reach[first + 1] = first + spans
        reach = np.maximum.accumulate(reach)
        covered = reach[1:] > np.arange(words)
        text, word_lengths = slice(bounds[0], -1), bounds[1:] - starts
        keep = np.ones(len(tokens), bool)
        if config.replace_length == -1:
            # Where spans overlap, the one that begins first decides what the token becomes, so it is written last.
            order = np.argsort(-first)
            ends = np.cumsum(spans[order])
            places = np.arange(ends[-1]) + np.repeat(first[order] - (ends - spans[order]), spans[order])
            becomes_random = np.zeros(words + int(spans.max()), bool)
            becomes_random[places] = np.repeat(is_random[order], spans[order])
            tokens[text][covered.repeat(word_lengths)] = config.mask_token_id
            random_places = bounds[0] + np.flatnonzero((covered & becomes_random[:words]).repeat(word_lengths))
        else:
            keep[text] = ~covered.repeat(word_lengths)
            random_places = bounds[:0]
            if config.replace_length == 1:  # the first token of a span stays, unless it is inside another span
                outer = reach[first] <= first
                begins = starts[first[outer]]
                keep[begins] = True
                tokens[begins] = config.mask_token_id
                random_places = begins[is_random[outer]]
        tokens[random_places] = self._random_tokens(len(random_places), rng)
        return self._insert(tokens[keep], len(lengths) - len(spans), rng)

    @no_type_check
    def _span_lengths(self, budget: int, rng: np.random.Generator) -> Int64[np.ndarray, " spans"]:
        """Lengths that sum to `budget`, of which the last is cut to fit. A length of 0 is an insertion."""
        if self.config.poisson_lambda is None:
            return np.ones(budget, np.int64)
        draws = 16 + int(1.25 * budget / self.config.poisson_lambda)
        lengths, ends = np.empty(0, np.int64), np.zeros(1, np.int64)
        while ends[-1] < budget:
            lengths = np.concatenate([lengths, np.searchsorted(self._cumulative, rng.random(draws), side="right")])
            ends = np.cumsum(lengths)
        last = int(np.searchsorted(ends, budget))
        lengths = lengths[: last + 1]
        lengths[last] -= ends[last] - budget
        return lengths

    @functools.cached_property
    def _cumulative(self) -> Float[np.ndarray, " lengths"]:
        assert self.config.poisson_lambda is not None
        cumulative = np.cumsum(span_probabilities(self.config.poisson_lambda))
        return cumulative / cumulative[-1]

    @no_type_check
    def _insert(
        self, tokens: Int32[np.ndarray, " src"], count: int, rng: np.random.Generator
    ) -> Int32[np.ndarray, " more"]:
        """`count` more tokens, at places between the first and the last: `<mask>`, or random ones."""
        if count == 0:
            return tokens
        size = len(tokens) + count
        places = rng.permutation(size - 2)[:count] + 1
        longer = np.empty(size, np.int32)
        is_old = np.ones(size, bool)
        is_old[places] = False
        longer[is_old] = tokens
        longer[places] = self.config.mask_token_id
        random_count = math.ceil(count * self.config.mask_random)
        longer[places[:random_count]] = self._random_tokens(random_count, rng)
        return longer

    @no_type_check
    def _random_tokens(self, count: int, rng: np.random.Generator) -> Int64[np.ndarray, " tokens"]:
        return rng.integers(1, self.config.vocab_size, count) if count else np.empty(0, np.int64)


def span_probabilities(poisson_lambda: float) -> Float[np.ndarray, " lengths"]:
    """The probability of each span length 0, 1, 2, ...: Poisson's, cut after the first that is below 1e-7."""
    table = [math.exp(-poisson_lambda)]
    while table[-1] >= SMALLEST:
        table.append(table[-1] * poisson_lambda / len(table))
    return np.array(table) / sum(table)

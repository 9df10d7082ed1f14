"""fairseq's noise: each step against its definition, and what is drawn against its distribution. Seeds are fixed."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from scipy.stats import chisquare

from bart_eqx.text import Tokenizer
from bart_eqx.training import Denoiser, DenoisingConfig, seq2seq_batch, span_probabilities


BOS, EOS, STOP, MASK, RANDOM, VOCAB = 0, 2, 4, 99, 7777, 100
NOTHING: dict[str, Any] = dict(
    mask=0.0, mask_random=0.0, permute_sentences=0.0, vocab_size=VOCAB, mask_token_id=MASK, full_stop_token_id=STOP
)


def config(**changes: Any) -> DenoisingConfig:
    return DenoisingConfig(**(NOTHING | changes))


def text(*tokens: int) -> np.ndarray:
    return np.array([BOS, *tokens, EOS])


def numbered(length: int) -> np.ndarray:
    """A text of `length` distinct tokens, so that each can be found again."""
    return text(*range(5, 5 + length))


def sources(denoiser: Denoiser, tokens: np.ndarray, count: int) -> list[np.ndarray]:
    return [denoiser.noised(tokens, index) for index in range(count)]


def is_likely(counts: Iterable[int], expected: Any) -> bool:
    """Pearson's test; with a fixed seed it fails always or never."""
    counts = np.array(list(counts))
    return chisquare(counts, np.asarray(expected) / np.sum(expected) * counts.sum()).pvalue > 0.01


class Marked(Denoiser):
    """Random tokens that are seen to be."""

    def _random_tokens(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return np.full(count, RANDOM)


def masked_in_steps(denoiser: Denoiser, tokens: np.ndarray, rng: np.random.Generator) -> list[int]:
    """The definition: all spans advance together, by one token a step, and what is written later stays."""
    settings, last = denoiser.config, len(tokens) - 1
    table = denoiser.word_starts
    starts = [i for i in range(1, last) if table is None or table[tokens[i]]]
    budget = math.ceil(len(starts) * settings.mask)
    if budget == 0:
        return tokens.tolist()
    lengths = denoiser._span_lengths(budget, rng)
    assert lengths.sum() == budget and (lengths[:-1].sum() < budget)
    spans = [int(length) for length in lengths if length > 0]
    chosen = rng.permutation(len(starts))[: len(spans)]
    becomes = [RANDOM if u < settings.mask_random else MASK for u in rng.random(len(spans))]
    out, keep = tokens.tolist(), [True] * len(tokens)
    active = [(starts[word], length, kind) for word, length, kind in zip(chosen, spans, becomes, strict=True)]
    for place, _, kind in active:
        out[place], keep[place] = kind, settings.replace_length != 0
    while active:
        moved = []
        for place, length, kind in active:
            length -= (place + 1) in starts
            if place + 1 == last or length == 0:
                continue
            moved.append((place + 1, length, kind))
        for place, _, kind in moved:
            if settings.replace_length == -1:
                out[place] = kind
            else:
                keep[place] = False
        active = moved
    kept = np.array([token for token, stays in zip(out, keep, strict=True) if stays], np.int32)
    return denoiser._insert(kept, len(lengths) - len(spans), rng).tolist()


@pytest.mark.parametrize("replace_length", [-1, 0, 1])
@pytest.mark.parametrize("words", ["tokens", "whole words"])
def test_spans_are_those_of_the_definition(replace_length: Any, words: str) -> None:
    draw = np.random.default_rng(3)
    starts = None if words == "tokens" else draw.random(VOCAB) < 0.6
    for index in range(150):
        mask, poisson_lambda = (0.1, 0.5, 1.0)[index % 3], (None, 0.5, 3.5)[index // 3 % 3]
        settings = config(mask=mask, poisson_lambda=poisson_lambda, replace_length=replace_length, mask_random=0.4)
        denoiser = Marked(settings, word_starts=starts)
        tokens = text(*draw.integers(5, 90, draw.integers(0, 40)))
        wanted = masked_in_steps(denoiser, tokens, np.random.default_rng(index))
        assert denoiser.noise(tokens, np.random.default_rng(index)).tolist() == wanted


def test_span_lengths() -> None:
    """Poisson's table, cut after the first entry below 1e-7; drawn so, lengths of 0 among them."""
    table = span_probabilities(3.5)
    poisson = np.array([math.exp(-3.5) * 3.5**k / math.factorial(k) for k in range(30)])
    assert len(table) == 1 + np.argmax(poisson < 1e-7) and table.sum() == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(table, poisson[: len(table)] / poisson[: len(table)].sum(), rtol=1e-12)
    assert len(span_probabilities(16.0)) > 40
    lengths = Denoiser(config(mask=1.0))._span_lengths(200_000, np.random.default_rng(0))[:-1]
    counts = np.bincount(lengths, minlength=len(table))
    assert is_likely([*counts[:10], counts[10:].sum()], [*table[:10], table[10:].sum()])


def test_insertions() -> None:
    """As many as there are spans of length 0 before the budget is spent, here drawn one by one."""
    denoiser = Denoiser(config(mask=0.3, replace_length=-1))
    tokens = numbered(70)
    found = Counter(len(source) - len(tokens) for source in sources(denoiser, tokens, 3000))
    draw, wanted = np.random.default_rng(1), Counter()
    for _ in range(30_000):
        total, zeros = 0, 0
        while total < 21:
            length = draw.poisson(3.5)
            total, zeros = total + length, zeros + (length == 0)
        wanted[zeros] += 1
    few = lambda counts: [counts[0], counts[1], sum(count for zeros, count in counts.items() if zeros > 1)]
    assert is_likely(few(found), few(wanted))


def test_the_budget_is_exact() -> None:
    """Spans of one word cannot overlap: `ceil(words * mask)` of them, uniformly over the words."""
    denoiser = Denoiser(config(mask=0.3, poisson_lambda=None, replace_length=-1))
    counts = np.zeros(19)
    for source in sources(denoiser, numbered(19), 2000):
        assert (source == MASK).sum() == 6 and len(source) == 21
        counts += source[1:-1] == MASK
    assert is_likely(counts.astype(int), np.ones(19))


def test_random_tokens() -> None:
    """A span is random with the probability `mask_random`, of insertions a fixed part is; uniform in [1, vocab)."""
    one_word = config(mask=1.0, poisson_lambda=None, mask_random=0.25, replace_length=1)
    rows = np.array(sources(Denoiser(one_word), numbered(50), 400))[:, 1:-1]
    assert is_likely([(rows != MASK).sum(), (rows == MASK).sum()], [0.25 * (VOCAB - 2) / (VOCAB - 1), 0.75 + 0.25 / 99])
    drawn = rows[rows != MASK]
    assert is_likely(np.bincount(drawn, minlength=VOCAB)[1:MASK], np.ones(VOCAB - 2))
    for source in sources(Marked(config(insert=0.5, mask_random=0.3)), numbered(18), 20):
        assert (source == RANDOM).sum() == 3 and (source == MASK).sum() == 7  # ceil(10 * 0.3) of ceil(20 * 0.5)


def test_insertions_are_uniform() -> None:
    denoiser = Denoiser(config(insert=0.1))
    counts = np.zeros(11)
    for source in sources(denoiser, numbered(8), 3000):  # one token, between the first and the last
        assert len(source) == 11 and source[0] == BOS and source[-1] == EOS
        assert source[source != MASK].tolist() == numbered(8).tolist()
        counts += source == MASK
    assert counts[0] == counts[-1] == 0 and is_likely(counts[1:-1].astype(int), np.ones(9))


def test_sentences_are_permuted_uniformly() -> None:
    sentences = [[5, STOP], [6, 7, STOP], [8, 9]]
    tokens = text(*itertools.chain(*sentences))
    orders = {tuple(itertools.chain(*order)): 0 for order in itertools.permutations(sentences)}
    for source in sources(Denoiser(config(permute_sentences=1.0)), tokens, 3000):
        orders[tuple(source[1:-1].tolist())] += 1
    assert is_likely(orders.values(), np.ones(6))


def test_a_part_of_the_sentences() -> None:
    """ceil(4 x 0.5) of them may change places, any two."""
    tokens = text(5, STOP, 6, STOP, 7, STOP, 8, STOP)
    found = Counter(
        tuple(source[source > STOP].tolist())
        for source in sources(Denoiser(config(permute_sentences=0.5)), tokens, 4000)
    )
    swapped = {order: count for order, count in found.items() if order != (5, 6, 7, 8)}
    assert len(swapped) == 6 and all(sum(map(int.__ne__, order, (5, 6, 7, 8))) == 2 for order in swapped)
    assert is_likely([found[5, 6, 7, 8], *swapped.values()], [6, *[1] * 6])


@pytest.mark.parametrize(
    "sentences, rest",
    [
        ([[5, STOP], [STOP, 6, 7]], []),  # of several full stops the first one ends a sentence
        ([[5, 6, STOP]], [STOP]),  # what follows the last end stays in its place
        ([[5, STOP]], [6]),  # as one token does, of which full stops are in front
        ([[STOP], [5, 6]], []),
    ],
)
def test_where_sentences_end(sentences: list[list[int]], rest: list[int]) -> None:
    """fairseq's rule: at a full stop, or the last token, that does not follow a full stop."""
    tokens = text(*itertools.chain(*sentences), *rest)
    orders = {tuple(s[1:-1].tolist()) for s in sources(Denoiser(config(permute_sentences=1.0)), tokens, 30)}
    assert orders == {(*itertools.chain(*order), *rest) for order in itertools.permutations(sentences)}


def test_rotation() -> None:
    """Every offset alike, one of which changes nothing beside that of the end; `<s>` and `</s>` stay."""
    denoiser = Denoiser(config(rotate=0.5))
    tokens = numbered(5)
    found = Counter(tuple(source.tolist()) for source in sources(denoiser, tokens, 3000))
    rotated = [(BOS, *tokens[i:-1].tolist(), *tokens[1:i].tolist(), EOS) for i in range(2, 6)]
    assert found.keys() == {tuple(tokens.tolist()), *rotated}
    # Offsets 1 to 6: the first and the last rotate nothing.
    assert is_likely(
        [found[tuple(tokens.tolist())], *[found[order] for order in rotated]], [0.5 + 1 / 6, *[1 / 12] * 4]
    )


def test_noise_depends_on_seed_and_index_alone() -> None:
    settings = DenoisingConfig(mask=0.3, insert=0.1, rotate=0.5, replace_length=-1)
    rng = np.random.default_rng(0)
    texts = [np.array([0, *rng.integers(3, 50264, n), 2]) for n in rng.integers(0, 60, 12)]
    whole = [source.tolist() for source, _ in Denoiser(settings, seed=5)(texts)]
    resumed = [source.tolist() for source, _ in Denoiser(settings, seed=5)(texts[7:], first_index=7)]
    backwards = [Denoiser(settings, seed=5).noised(texts[i], i).tolist() for i in reversed(range(12))]
    assert resumed == whole[7:] and backwards[::-1] == whole
    assert [source.tolist() for source, _ in Denoiser(settings, seed=6)(texts)] != whole
    again = numbered(40)
    assert len({Denoiser(settings).noised(again, index).tobytes() for index in (0, 1, 2**63)}) == 3


@pytest.mark.parametrize("replace_length", [-1, 0, 1])
def test_small_texts(replace_length: Any) -> None:
    """The whole noise of bart-large: on no token, on one, on all, and where no word starts."""
    all_steps = dict(mask=1.0, permute_sentences=1.0, rotate=1.0, insert=0.0, replace_length=replace_length)
    denoiser = Denoiser(config(**all_steps))
    for index in range(20):
        assert denoiser.noised([BOS, EOS], index).tolist() == [BOS, EOS]
        one = denoiser.noised(text(5), index)
        assert one[0] == BOS and one[-1] == EOS and 5 not in one
        every = denoiser.noised(numbered(30), index)
        assert every[0] == BOS and every[-1] == EOS
        assert replace_length == -1 or len(every) < 30
        no_start = Denoiser(config(**all_steps | dict(rotate=0.0)), word_starts=np.zeros(VOCAB, bool))
        assert no_start.noised(numbered(6), index).tolist() == numbered(6).tolist()
    # What precedes the first word is never masked.
    late = Denoiser(config(mask=1.0, replace_length=0, poisson_lambda=None), word_starts=np.arange(VOCAB) == 7)
    assert late.noised(numbered(6), 0).tolist() == [BOS, 5, 6, EOS]


def test_the_text_is_not_changed() -> None:
    tokens = numbered(30).astype(np.int32)
    ((source, target),) = Denoiser(config(mask=0.5, replace_length=-1, permute_sentences=1.0))([tokens])
    assert target.tolist() == tokens.tolist() == numbered(30).tolist() and source.tolist() != target.tolist()
    assert source.dtype == target.dtype == np.int32


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: config(mask=1.5), r"`mask` must be in \[0, 1\]. Got 1.5"),
        (lambda: config(rotate=-0.1), "`rotate`"),
        (lambda: config(poisson_lambda=20.0), r"`poisson_lambda` must be None or in \[0.1, 16.0\]. Got 20"),
        (lambda: config(mask_token_id=100), r"`mask_token_id` must be in \[0, vocab_size=100\)"),
        (lambda: Denoiser(config(), word_starts=np.ones(7, bool)), "vocab_size=100. Got 7"),
        (lambda: Denoiser(config(), seed=-1), "`seed` must be in"),
        (lambda: Denoiser(config()).noised([], 0), "begin with bos_token_id=0"),
        (lambda: Denoiser(config()).noised([BOS], 0), "begin with bos_token_id=0"),
        (lambda: Denoiser(config()).noised([5, 6, EOS], 0), "end with eos_token_id=2"),
        (lambda: Denoiser(config()).noised([BOS, 5.0, EOS], 0), "token ids"),
        (lambda: Denoiser(config()).noised(text(5, 100), 0), r"\[0, vocab_size=100\). Got 0 to 100"),
        (lambda: Denoiser(config()).noised(text(5, -1), 0), "Got -1 to 5"),
        (lambda: seq2seq_batch([], pad_token_id=1, decoder_start_token_id=2), "at least one"),
        (
            lambda: seq2seq_batch([([1], [1])], pad_token_id=1, decoder_start_token_id=2, pad_to_multiple_of=0),
            "least 1",
        ),
    ],
)
def test_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_word_starts() -> None:
    """Byte-level BPE's tokens with a space in front, and special tokens; a model's rows without a token."""
    tokenizer = Tokenizer.from_pretrained(Path(__file__).parent / "data/bart-tokenizer")
    ids = np.asarray(tokenizer("Once upon a midnight dreary, I").input_ids)
    texts = [str(tokenizer.decode([token], skip_special_tokens=False)) for token in ids]
    starts = tokenizer.word_starts()
    assert starts[ids].tolist() == [text[0] == " " or text in ("<s>", "</s>") for text in texts]
    assert starts.shape == (50265,) and 25_000 < starts.sum() < 40_000
    assert tokenizer.for_vocabulary(50270).word_starts()[50265:].tolist() == [True] * 5


def test_word_starts_of_other_kinds() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[PAD]": 0, "sing": 1, "##ing": 2}, unk_token="[PAD]"))
    backend.add_special_tokens(["[PAD]"])
    tokenizer = Tokenizer(backend, pad_token="[PAD]")
    with pytest.raises(ValueError, match="This tokenizer's is None: make the table"):
        tokenizer.word_starts()
    backend.decoder = tokenizers.decoders.WordPiece(prefix="##")
    assert tokenizer.word_starts().tolist() == [True, True, False]


def test_a_batch() -> None:
    pairs = [(np.array([0, 5, 99, 2]), np.array([0, 5, 6, 7, 2])), (np.array([0, 2]), [0, 8, 2])]
    batch = seq2seq_batch(pairs, pad_token_id=1, decoder_start_token_id=2, pad_to_multiple_of=3)
    assert batch["input_ids"].tolist() == [[0, 5, 99, 2, 1, 1], [0, 2, 1, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[0, 5, 6, 7, 2, -100], [0, 8, 2, -100, -100, -100]]
    assert batch["decoder_input_ids"].tolist() == [[2, 0, 5, 6, 7, 2], [2, 0, 8, 2, 1, 1]]
    assert all(array.dtype == np.int32 for array in batch.values())

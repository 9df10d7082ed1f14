"""What others have published about the checkpoints on the Hub, as data, and how it is checked.

The values are those of transformers' own tests (`tests/models/bart/test_modeling_bart.py` and, up to 4.52,
`test_modeling_flax_bart.py`) and documentation, and of fairseq's `examples/bart/README.md`, with their tolerances.
"""

import ast
import dataclasses
import functools
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bart_eqx
from bart_eqx.checkpoint.errors import SourceNotFoundError, UnsupportedCheckpointError
from bart_eqx.checkpoint.find import find
from bart_eqx.checkpoint.formats.shards import Format
from bart_eqx.text import Classifier, MaskFiller, Tokenizer


# The articles are news, and not ours to copy.
ARTICLES = "https://raw.githubusercontent.com/huggingface/transformers/v4.57.1/tests/models/bart/test_modeling_bart.py"
ATOL = 1e-3


class Check(Protocol):
    """Raises `AssertionError` unless what is published holds for a checkpoint."""

    def __call__(self, model: Any, tokenizer: Tokenizer) -> None: ...


@dataclasses.dataclass(frozen=True)
class Ids:
    """A text is these tokens."""

    text: str
    ids: Sequence[int]

    def __call__(self, model: Any, tokenizer: Tokenizer) -> None:
        assert tokenizer(self.text).input_ids.tolist() == list(self.ids)


@dataclasses.dataclass(frozen=True)
class HiddenStates:
    """The decoder's first three values at the first three tokens."""

    input_ids: Sequence[int]
    values: Sequence[Sequence[float]]

    def __call__(self, model: Any, tokenizer: Tokenizer) -> None:
        states = eqx.filter_jit(model.model)(jnp.array(self.input_ids)).last_hidden_state
        np.testing.assert_allclose(states[:3, :3], self.values, rtol=0, atol=ATOL)


@dataclasses.dataclass(frozen=True)
class Logits:
    """The logits of the first row of a batch. Its second row is padded, which changes nothing."""

    input_ids: Sequence[Sequence[int]]
    first: Sequence[float]

    def __call__(self, model: Any, tokenizer: Tokenizer) -> None:
        ids = jnp.array(self.input_ids)
        mask = ids != model.config.pad_token_id
        logits = eqx.filter_jit(model)(ids, mask).logits
        np.testing.assert_allclose(logits[0], self.first, rtol=0, atol=ATOL)
        alone = eqx.filter_jit(model)(ids[1, : int(mask[1].sum())]).logits
        np.testing.assert_allclose(logits[1], alone, rtol=0, atol=ATOL)


@dataclasses.dataclass(frozen=True)
class Labels:
    """The most probable class of each pair of texts."""

    pairs: Sequence[tuple[str, str]]
    classes: Sequence[int]

    def __call__(self, model: Any, tokenizer: Tokenizer) -> None:
        first, second = (list(side) for side in zip(*self.pairs, strict=True))
        found = [labels[0].label for labels in Classifier(model, tokenizer)(first, second)]
        assert found == [model.config.id2label[index] for index in self.classes]


@dataclasses.dataclass(frozen=True)
class Fills:
    """The five most probable tokens for a mask, or, with `any_order`, some of them."""

    text: str
    tokens: Sequence[str]
    any_order: bool = False

    def __call__(self, model: Any, tokenizer: Tokenizer) -> None:
        found = [each.token_str for each in MaskFiller(model, tokenizer)(self.text, top_k=5)]
        assert set(self.tokens) <= set(found) if self.any_order else found == list(self.tokens)


@dataclasses.dataclass(frozen=True)
class Article:
    """An article by the name that it has in transformers' tests."""

    name: str


@dataclasses.dataclass(frozen=True)
class Generates:
    """What is generated for some texts ends like this, special tokens left out."""

    sources: Sequence[str | Article]
    endings: Sequence[str]
    options: dict[str, Any]

    def __call__(self, model: Any, tokenizer: Tokenizer) -> None:
        texts = [articles(ARTICLES)[each.name] if isinstance(each, Article) else each for each in self.sources]
        batch = tokenizer(texts, max_length=model.config.max_position_embeddings, split_special_tokens=False)
        result = bart_eqx.generate(model, batch.input_ids, batch.attention_mask, **self.options)
        found = [_without_space(text) for text in tokenizer.decode(result.sequences)]
        for text, ending in zip(found, self.endings, strict=True):
            assert text.endswith(ending), f"{text!r} must end with {ending!r}"


@dataclasses.dataclass(frozen=True)
class PaddedPrefix:
    """What is generated after a prefix of the decoder with `padding` padded slots between its two tokens.

    PyTorch's BART counts padding as positions and bart_eqx does not: here, what is generated is the same as without
    padding. PyTorch's text is that of a table of positions from which those of the padding are cut out.
    """

    source: str
    padding: int
    pytorch: str
    options: dict[str, Any]

    def __call__(self, model: Any, tokenizer: Tokenizer) -> None:
        start, first, pad = (getattr(model.config, f"{name}_token_id") for name in ("decoder_start", "bos", "pad"))
        ids = tokenizer([self.source], split_special_tokens=False).input_ids
        padded = jnp.array([[start, *[pad] * self.padding, first]])
        plain = jnp.array([[start, first]])
        generate = functools.partial(bart_eqx.generate, input_ids=ids, **self.options)
        written = generate(model, decoder_input_ids=plain)
        beside = generate(model, decoder_input_ids=padded, decoder_attention_mask=padded != pad)
        assert tokenizer.decode(beside.sequences) == tokenizer.decode(written.sequences)
        where = lambda model: model.model.decoder.embed_positions.weight
        cut = model.model.decoder.embed_positions.offset + 1  # the row of the second token
        table = jnp.concatenate([where(model)[:cut], where(model)[cut + self.padding :]])
        table = jnp.pad(table, ((0, self.padding), (0, 0)), mode="edge")  # positions that the text does not reach
        as_pytorch = generate(eqx.tree_at(where, model, table), decoder_input_ids=plain)
        assert tokenizer.decode(as_pytorch.sequences) == [self.pytorch]


_CARE = (0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2)
_CARE_PADDED = (0, 31414, 232, 328, 740, 1140, 69, 46078, 1588, 2, 1)
_HELLO = Ids("Hello world!", (0, 31414, 232, 328, 2))
_UN = "UN Chief Says There Is No <mask> in Syria"
_NEWS = tuple(map(Article, ("FRANCE_ARTICLE", "SHORTER_ARTICLE", "IRAN_ARTICLE", "ARTICLE_SUBWAY")))
_POWER = (
    " PG&E stated it scheduled the blackouts in response to forecasts for high winds amid dry conditions. The aim is "
    "to reduce the risk of wildfires. Nearly 800 thousand customers were scheduled to be affected by the shutoffs "
    "which were expected to last through at least midday tomorrow."
)
_XSUM = dict(num_beams=2, max_length=62, min_length=11, length_penalty=1.0, no_repeat_ngram_size=3, early_stopping=True)
_PARTS = (
    "This sentence is made of three parts. Each part is important on its own. One part is about animals, the other "
    "part about planes, and the last part about housing."
)

PUBLISHED: dict[str, tuple[type[eqx.Module], tuple[Check, ...]]] = {
    "facebook/bart-base": (
        bart_eqx.BartForConditionalGeneration,
        (_HELLO, Fills(" I went to the <mask>.", (" bathroom",), any_order=True)),
    ),
    "facebook/bart-large": (
        bart_eqx.BartForConditionalGeneration,
        (
            _HELLO,
            HiddenStates(_CARE, ((0.7144, 0.8143, -1.2813), (0.7144, 0.8143, -1.2813), (-0.0467, 2.5911, -2.1845))),
            Fills(" I went to the <mask>.", (" bathroom", " gym", " wrong", " movies", " hospital")),
            Generates(
                (_UN,),
                ("UN Chief Says There Is No Plan to Stop Chemical Weapons in Syria",),
                dict(forced_bos_token_id=0),
            ),
            PaddedPrefix(
                *(_UN, 3, "UN Chief Says There Is No Plan B for Peace in Syria"),
                dict(forced_bos_token_id=0, max_new_tokens=20),
            ),
        ),
    ),
    "facebook/bart-large-mnli": (
        bart_eqx.BartForSequenceClassification,
        (
            _HELLO,
            Logits((_CARE, _CARE_PADDED), (0.1907, 1.4342, -1.0289)),
            Labels(
                (
                    ("BART is a seq2seq model.", "BART is not sequence to sequence."),
                    ("BART is denoising autoencoder.", "BART is version of autoencoder."),
                ),
                (0, 2),
            ),
        ),
    ),
    "facebook/bart-large-cnn": (
        bart_eqx.BartForConditionalGeneration,
        (
            Generates(
                _NEWS,
                (
                    "All 150 on board Germanwings Flight 9525 were killed.",
                    "But Palestinian Foreign Minister Riad al-Malki said it was a move toward greater justice.",
                    "Bergen says the goal was to block Iran from building a nuclear weapon.",
                    "If convicted, she faces up to four years in prison.",
                ),
                dict(num_beams=2),
            ),
            Generates(
                _NEWS,
                (
                    "All 150 on board the Germanwings flight were killed.",
                    "But Palestinian Foreign Minister Riad al-Malki said it was a move toward greater justice.",
                    "Bergen: The most misleading assertion is that the negotiations' objective at the outset was the "
                    "total elimination of any nuclear program.",
                    "If convicted, Barrientos faces up to four years in prison.",
                ),
                dict(num_beams=2, semantics="flax"),
            ),
        ),
    ),
    "facebook/bart-large-xsum": (
        bart_eqx.BartForConditionalGeneration,
        (
            Generates(
                (_POWER,),
                (
                    "California's largest power company has begun shutting off electricity to thousands of customers "
                    "in the state.",
                ),
                _XSUM,
            ),
        ),
    ),
    "sshleifer/distilbart-cnn-6-6": (
        bart_eqx.BartForConditionalGeneration,
        (
            Generates(
                (_PARTS,),
                ("This sentence is made of three parts. One part is about animals, the other part",),
                dict(num_beams=2, max_length=20, semantics="flax"),
            ),
        ),
    ),
}


def verify(source: str | Path, cls: type[eqx.Module], checks: Sequence[Check]) -> None:
    """Load a checkpoint in float32, with its tokenizer, and make every check."""
    model = bart_eqx.from_pretrained(source, cls, dtype=jnp.float32)
    tokenizer = Tokenizer.from_pretrained(source)
    for check in checks:
        check(model, tokenizer)


def compare_formats(source: str | Path, cls: type[eqx.Module]) -> tuple[list[str], list[str]]:
    """Assert that all files of weights give the same parameters.

    Returns:
        The files that were read, and why others were not.
    """
    first, read, left = None, [], []
    for format in get_args(Format):
        try:
            found = find(source, prefer=format)
        except (SourceNotFoundError, UnsupportedCheckpointError) as error:
            left.append(str(error))
            continue
        model = bart_eqx.from_pretrained(found.weights, cls, dtype=jnp.float32)
        parameters = jax.tree.map(np.asarray, eqx.filter(model, eqx.is_array))
        read.append(found.weights.name)
        if first is None:
            first = parameters
        different = [
            jax.tree_util.keystr(path)
            for (path, one), other in zip(
                jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(parameters), strict=True
            )
            if not np.array_equal(one, other)
        ]
        assert not different, f"{read[0]} and {read[-1]} differ in {', '.join(different[:5])}"
    return read, left


def why_unreachable(url: str) -> str | None:
    """Why nothing answers at an address, or `None` if something does."""
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return str(error)
    return None


@functools.cache
def articles(url: str) -> dict[str, str]:
    """The strings that a Python file assigns to names. The file is not run."""
    with urllib.request.urlopen(url, timeout=60) as file:
        tree = ast.parse(file.read())
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    return {
        target.id: node.value.value
        for node in assigned
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def _without_space(text: str) -> str:
    """Without spaces before punctuation, as the published texts are."""
    return re.sub(r" ([.,?!])", r"\1", text.strip())

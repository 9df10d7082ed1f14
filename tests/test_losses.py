"""Every loss against an independent formula, or PyTorch's stored values; sums of parts are the sum of the whole."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bart_eqx
from bart_eqx.training import (
    causal_lm_loss,
    fairseq_label_smoothing,
    flax_label_smoothing,
    multi_label_loss,
    negative_log_likelihood,
    question_answering_loss,
    regression_loss,
    seq2seq_loss,
    single_label_loss,
    token_loss_sum,
)
from bart_eqx.training.task_losses import teacher_forcing
from support import precision, random_model, relative_error


REFERENCES = Path(__file__).parent / "references"
DIM, VOCAB, EPSILON = 5, 23, 0.1


def log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Of labels that count; the last axis of logits is the vocabulary."""
    return jnp.sum(jax.nn.one_hot(labels, VOCAB, dtype=logits.dtype) * jax.nn.log_softmax(logits), axis=-1)


def fairseq(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`label_smoothed_nll_loss`: the label's loss, and the sum of all words'."""
    all_words = -jnp.sum(jax.nn.log_softmax(logits), axis=-1)
    return (1 - EPSILON) * -log_likelihood(logits, labels) + EPSILON / VOCAB * all_words


def flax(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`loss_fn` of run_summarization_flax.py: optax's cross entropy with soft labels, and a constant."""
    low = EPSILON / (VOCAB - 1)
    constant = -((1 - EPSILON) * jnp.log(1 - EPSILON) + (VOCAB - 1) * low * jnp.log(low + 1e-20))
    soft = jnp.where(jax.nn.one_hot(labels, VOCAB, dtype=bool), 1 - EPSILON, low)
    return optax.softmax_cross_entropy(logits, soft.astype(logits.dtype)) - constant


TOKEN_LOSSES: dict[str, tuple[Any, Any]] = {
    "none": (negative_log_likelihood, lambda logits, labels: -log_likelihood(logits, labels)),
    "fairseq": (partial(fairseq_label_smoothing, epsilon=EPSILON), fairseq),
    "flax": (partial(flax_label_smoothing, epsilon=EPSILON), flax),
}


def states_and_labels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, VOCAB, (4, 7))
    labels[0, 3:] = labels[2, :] = -100
    return rng.standard_normal((VOCAB, DIM)), rng.standard_normal((4, 7, DIM)), labels


def test_token_losses() -> None:
    """Sum and gradients in float64, in parts of two positions; and the sums of a batch that was split."""
    with precision(np.float64):
        weight, states, labels = (jnp.asarray(array) for array in states_and_labels())

        @jax.jit
        def each(weight: Any, states: Any, labels: Any) -> Any:
            counts, found = labels != -100, {}
            for name, (ours, theirs) in TOKEN_LOSSES.items():
                in_parts = lambda w, x, ours=ours: token_loss_sum(ours, lambda x: x @ w.T, x, labels, rows=8)
                whole = lambda w, x, theirs=theirs: (jnp.sum(theirs(x @ w.T, labels), where=counts), jnp.sum(counts))
                run = lambda function: jax.value_and_grad(function, (0, 1), has_aux=True)(weight, states)
                found[name] = run(in_parts), run(whole)
            return found

        results = each(weight, states, labels)
        halves = [each(weight, states, labels.at[i::2].set(-100)) for i in (0, 1)]
        for name, (found, wanted) in results.items():
            assert found[0][1] == wanted[0][1] == 17
            for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                assert relative_error(one, other) < 1e-13, name
            (one, one_count), (other, other_count) = (half[name][0][0] for half in halves)
            assert one_count + other_count == 17 and 0 < one_count < 17
            assert relative_error(one + other, found[0][0]) < 1e-13


def test_flax_smoothing_is_zero_at_its_target() -> None:
    target = np.where(np.arange(VOCAB) == 3, 1 - EPSILON, EPSILON / (VOCAB - 1))
    logits, label = jnp.asarray(np.log(target), jnp.float32), jnp.asarray(3)
    assert abs(flax_label_smoothing(logits, label, epsilon=EPSILON)) < 1e-6
    assert flax_label_smoothing(logits, label, epsilon=0.0) == negative_log_likelihood(logits, label)


@pytest.mark.parametrize("function, wrong", [(fairseq_label_smoothing, 1.5), (flax_label_smoothing, 1.0)])
def test_epsilon_out_of_range(function: Any, wrong: float) -> None:
    with pytest.raises(ValueError, match=rf"`epsilon` must be in \[0, 1.*Got {wrong}"):
        function(jnp.zeros((2, VOCAB)), jnp.zeros(2, int), epsilon=wrong)


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCES / "losses-torch.npz"))


@pytest.fixture(scope="module")
def classifier() -> bart_eqx.BartForSequenceClassification:
    return bart_eqx.from_pretrained(REFERENCES / "torch-classifier", bart_eqx.BartForSequenceClassification)


@pytest.fixture(scope="module")
def answerer(stored: dict[str, np.ndarray]) -> bart_eqx.BartForQuestionAnswering:
    model = bart_eqx.from_pretrained(
        REFERENCES / "torch-classifier", bart_eqx.BartForQuestionAnswering, key=jax.random.key(0)
    )
    weights = jnp.asarray(stored["qa_outputs.weight"]), jnp.asarray(stored["qa_outputs.bias"])
    return eqx.tree_at(lambda model: (model.qa_outputs.weight, model.qa_outputs.bias), model, weights)


@pytest.fixture(scope="module")
def writer() -> bart_eqx.BartForConditionalGeneration:
    return bart_eqx.from_pretrained(REFERENCES / "torch-untied", bart_eqx.BartForConditionalGeneration)


def batch_of(stored: dict[str, np.ndarray], **targets: Any) -> dict[str, Any]:
    return dict(input_ids=stored["input_ids"], attention_mask=stored["attention_mask"], **targets)


def emptied(batch: dict[str, Any], *rows: int) -> dict[str, Any]:
    """The batch with rows as those that fill it up: padding, a mask of zeros, targets of -100."""
    fill = dict(input_ids=1, attention_mask=0)
    batch = {name: array.copy() for name, array in batch.items()}
    for name, array in batch.items():
        array[list(rows)] = fill.get(name, -100)
    return batch


@pytest.mark.parametrize(
    "problem, loss, count",
    [
        ("single_label_classification", single_label_loss, 2),
        ("multi_label_classification", multi_label_loss, 9),
        ("regression", regression_loss, 9),
    ],
)
def test_classification(problem: str, loss: Any, count: int, stored: dict[str, np.ndarray], classifier: Any) -> None:
    """transformers' losses; and rows that only fill a batch up do not count, so that those of its parts add up."""
    batch = batch_of(stored, labels=stored[f"{problem}.labels"])
    total, counted = loss(classifier, batch)
    assert counted == count
    np.testing.assert_allclose(total / counted, stored[f"{problem}.loss"], rtol=2e-6)
    parts = [loss(classifier, emptied(batch, *rows)) for rows in ([0, 1], [2])]
    assert parts[0][0] + parts[1][0] == pytest.approx(float(total), rel=1e-5)
    assert parts[0][1] + parts[1][1] == count and 0 < parts[0][1] < count


def test_the_gradient_of_an_empty_row(stored: dict[str, np.ndarray], classifier: Any) -> None:
    """It has no `</s>`, of whose state the class is read: nothing becomes NaN."""
    batch = emptied(batch_of(stored, labels=stored["single_label_classification.labels"]), 1)
    head_of = lambda model: model.classification_head
    loss = lambda head: single_label_loss(eqx.tree_at(head_of, classifier, head), batch)
    gradients = eqx.filter_grad(loss, has_aux=True)(head_of(classifier))[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_regression_of_one_number(classifier: bart_eqx.BartForSequenceClassification) -> None:
    """Labels may be `[batch]` or `[batch, 1]`."""
    head: Any = classifier.classification_head.out_proj
    leaves = lambda model: (model.classification_head.out_proj.weight, model.classification_head.out_proj.bias)
    one = eqx.tree_at(leaves, classifier, (head.weight[:1], head.bias[:1]))
    loss = lambda *shape: eqx.filter_eval_shape(
        regression_loss, one, dict(input_ids=np.array([[0, 5, 2]]), labels=np.ones(shape, np.float32))
    )
    assert loss(1) == loss(1, 1)
    with pytest.raises(ValueError, match=r"`labels` must be floats \[1, 1\]. Got float32\[2\]"):
        loss(2)


def test_question_answering(stored: dict[str, np.ndarray], answerer: bart_eqx.BartForQuestionAnswering) -> None:
    loss = question_answering_loss
    for case, count in (("inside", 6), ("beyond", 4)):
        batch = batch_of(stored, **{name: stored[f"{case}.{name}"] for name in ("start_positions", "end_positions")})
        total, counted = loss(answerer, batch)
        assert counted == count
        np.testing.assert_allclose(total / counted, stored[f"{case}.loss"], rtol=2e-6)
    assert loss(answerer, emptied(batch, 0))[1] == count - 2
    assert jnp.isnan(loss(answerer, batch | dict(start_positions=np.array([0, -1, 2])))[0])


def test_seq2seq(stored: dict[str, np.ndarray], writer: bart_eqx.BartForConditionalGeneration) -> None:
    """PyTorch's values. Padding does not count: as -100, as the padding token, or by the mask."""
    labels = stored["seq2seq.labels"]
    token_losses = (negative_log_likelihood, partial(fairseq_label_smoothing, epsilon=0.1))
    losses = lambda model, batch: [seq2seq_loss(model, batch, token_loss=one, rows=3) for one in token_losses]
    counts = labels != -100
    for case, mask in (
        (labels, labels == labels),
        (np.where(counts, labels, 1), labels == labels),
        (np.where(counts, labels, 7), counts),
    ):
        batch = batch_of(stored, labels=case, decoder_attention_mask=mask.astype(int))
        for (total, count), name in zip(losses(writer, batch), ("loss", "smoothed"), strict=True):
            assert count == counts.sum() == 11
            np.testing.assert_allclose(total / count, stored[f"seq2seq.{name}"], rtol=2e-6)


def next_token_loss(model: Any, batch: dict[str, Any], counts: np.ndarray) -> Any:
    """`run_clm_flax.py`: logits without the last, labels without the first."""
    inputs = {name: array for name, array in batch.items() if name != "labels"}
    log_probs = jax.nn.log_softmax(model(**inputs).logits[:, :-1])
    targets = jax.nn.one_hot(batch["labels"][:, 1:], VOCAB, dtype=log_probs.dtype)
    return -jnp.sum(jnp.sum(targets * log_probs, axis=-1), where=counts[:, 1:])


def test_causal_lm() -> None:
    """Value and gradients in float64, in parts of one position. Padding, on either side, does not count."""
    config = bart_eqx.BartConfig(
        vocab_size=VOCAB, d_model=8, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8,
        encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8, max_position_embeddings=16,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(4, VOCAB, (4, 7)), np.ones((4, 7), int)
    mask[1, 5:] = mask[2, :2] = mask[3] = 0
    ids[mask == 0] = config.pad_token_id
    labels, counts = ids.copy(), mask == 1
    labels[0, 3], labels[0, 5], labels[1, 6] = -100, config.pad_token_id, 9
    counts[:, 0] = counts[0, [3, 5]] = counts[2, 2] = False
    source: dict[str, Any] = dict(
        encoder_hidden_states=rng.standard_normal((4, 3, 8)), encoder_attention_mask=mask[:, 4:]
    )
    batch: dict[str, Any] = dict(input_ids=ids, attention_mask=mask, labels=labels, **source)
    ours = eqx.filter_value_and_grad(partial(causal_lm_loss, rows=4), has_aux=True)
    both = eqx.filter_jit(
        lambda model, batch: (ours(model, batch), eqx.filter_value_and_grad(next_token_loss)(model, batch, counts))
    )
    with precision(np.float64):
        model = random_model(bart_eqx.BartForCausalLM, config, np.float64)
        ((total, count), found), (value, wanted) = both(model, batch)
        assert count == counts.sum() == 12 and relative_error(total, value) < 1e-13
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
        uncounted = dict(batch, labels=np.where(counts, labels, -100))
        (again, count), _ = both(model, uncounted)[0]
        assert again == total and count == 12
        with pytest.raises(ValueError, match=r"`attention_mask` must be \[4, 7\]. Got int64\[7\]"):
            causal_lm_loss(model, batch | dict(attention_mask=mask[0]))
        smoothed = partial(causal_lm_loss, token_loss=partial(fairseq_label_smoothing, epsilon=EPSILON))
        assert eqx.filter_eval_shape(smoothed, model, dict(input_ids=ids, labels=labels))[1].shape == ()


def test_where_padding_is_the_end() -> None:
    """The end of a text is learned also where the tokenizer pads with it."""
    config = bart_eqx.BartConfig(pad_token_id=2)
    _, labels = teacher_forcing(config, dict(input_ids=np.array([[0, 2]]), labels=np.array([[5, 2, -100]])))
    assert labels.tolist() == [[5, 2, -100]]


LABELS = np.array([[5, 6, 2]])
Call = Callable[[Any, Any, Any], Any]
WRONG: dict[str, tuple[Call, type[Exception], str]] = {
    "no labels": (
        lambda c, a, w: seq2seq_loss(w, dict(input_ids=LABELS)),
        ValueError,
        "must have labels. Got input_ids",
    ),
    "unknown": (
        lambda c, a, w: seq2seq_loss(w, dict(input_ids=LABELS, labels=LABELS, token_type_ids=LABELS)),
        ValueError,
        "Got token_type_ids: remove",
    ),
    "no ends": (
        lambda c, a, w: question_answering_loss(a, dict(input_ids=LABELS, start_positions=LABELS[:, 0])),
        ValueError,
        "must have end_positions",
    ),
    "class names": (
        lambda c, a, w: single_label_loss(c, dict(input_ids=LABELS, labels=np.ones(1))),
        ValueError,
        r"`labels` must be integers \[1\]. Got float\d+\[1\]",
    ),
    "classes": (
        lambda c, a, w: multi_label_loss(c, dict(input_ids=LABELS, labels=np.array([1]))),
        ValueError,
        r"`labels` must be floats \[1, 3\]. Got int\d+\[1\]",
    ),
    "model": (
        lambda c, a, w: seq2seq_loss(c, {}),
        TypeError,
        "`model` must be a BartForConditionalGeneration. Got Bart",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls(name: str, classifier: Any, answerer: Any, writer: Any) -> None:
    call, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        eqx.filter_eval_shape(call, classifier, answerer, writer)

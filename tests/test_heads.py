"""Classification and question answering."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from support import random_model, relative_error


# Pairs as BART's tokenizer encodes them, <s> A </s></s> B </s>: three `</s>` each, at different positions.
PAIRS = np.array([[0, 5, 6, 2, 2, 7, 8, 2], [0, 9, 2, 2, 10, 2, 1, 1]])


@pytest.fixture(scope="module")
def classifier(config: bart_eqx.BartConfig) -> bart_eqx.BartForSequenceClassification:
    return random_model(bart_eqx.BartForSequenceClassification, config)


def test_a_pair_is_read_at_its_last_eos(classifier: bart_eqx.BartForSequenceClassification) -> None:
    mask = (PAIRS != 1).astype(int)
    eager = classifier(PAIRS, mask).logits
    states = classifier.model(PAIRS, mask).last_hidden_state
    wanted = classifier.classification_head(states[jnp.array([0, 1]), jnp.array([7, 5])])
    np.testing.assert_array_equal(eager, wanted)
    # Measured: 6.4e-7, because the compiler fuses some products.
    assert relative_error(eqx.filter_jit(classifier)(PAIRS, mask).logits, eager) <= 2e-6


def test_counts_of_eos_may_differ(classifier: bart_eqx.BartForSequenceClassification) -> None:
    ids = np.array([[0, 5, 6, 2, 7, 2], [0, 5, 6, 7, 8, 2]])
    run = eqx.filter_jit(classifier)
    logits = run(ids).logits
    for row in range(2):
        assert relative_error(run(ids[row]).logits, logits[row]) <= 2e-6


def test_no_eos(classifier: bart_eqx.BartForSequenceClassification) -> None:
    ids = np.array([[0, 5, 6, 2], [0, 5, 6, 7]])
    with pytest.raises(ValueError, match="must contain `</s>`, eos_token_id=2"):
        classifier(ids)
    logits = eqx.filter_jit(classifier)(ids).logits
    assert jnp.isfinite(logits[0]).all() and jnp.isnan(logits[1]).all()


def test_a_masked_eos_is_padding(classifier: bart_eqx.BartForSequenceClassification) -> None:
    """Rows padded with `</s>`, on either side, are read as without their padding; a row whose only `</s>` is masked has
    no class."""
    ids = np.array([[0, 9, 8, 2, 2, 2, 2], [0, 9, 8, 7, 6, 5, 2]])
    mask = np.array([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    run = eqx.filter_jit(classifier)
    alone = [classifier(ids[0, :4]).logits, classifier(ids[1]).logits]
    for call in (classifier, run):
        for kind in (int, bool):
            logits = call(ids, mask.astype(kind)).logits
            assert relative_error(logits[0], alone[0]) <= 2e-6
            assert relative_error(logits[1], alone[1]) <= 2e-6
    assert relative_error(classifier(ids).logits[0], alone[0]) > 0.01  # without a mask they are tokens

    hidden = np.array([[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match="at a token that `attention_mask` shows"):
        classifier(ids, hidden)
    logits = run(ids, hidden).logits
    assert jnp.isnan(logits[0]).all() and jnp.isfinite(logits[1]).all()
    # Known ids with a traced mask cannot be refused.
    logits = eqx.filter_jit(lambda mask: classifier(ids, mask).logits)(hidden)
    assert jnp.isnan(logits[0]).all() and jnp.isfinite(logits[1]).all()


def test_heads_decode_to_states(config: bart_eqx.BartConfig) -> None:
    """As in Hugging Face's classes, `encode`, `decode` and `init_cache` are those of the inner model."""
    for cls in (bart_eqx.BartForSequenceClassification, bart_eqx.BartForQuestionAnswering):
        head = random_model(cls, config)
        encoded = eqx.filter_jit(head.encode)(PAIRS)
        decode = eqx.filter_jit(head.decode)
        whole = decode(PAIRS, encoder_outputs=encoded).last_hidden_state
        out, cache = decode(PAIRS, head.init_cache(encoded, max_length=8))
        np.testing.assert_array_equal(out.last_hidden_state, whole)
        assert int(cache.position) == 8 and head.config == config


def test_question_answering(config: bart_eqx.BartConfig) -> None:
    model = random_model(bart_eqx.BartForQuestionAnswering, config)
    out = eqx.filter_jit(model)(PAIRS)
    logits = model.qa_outputs(eqx.filter_jit(model.model)(PAIRS).last_hidden_state)
    np.testing.assert_array_equal(out.start_logits, logits[..., 0])
    np.testing.assert_array_equal(out.end_logits, logits[..., 1])

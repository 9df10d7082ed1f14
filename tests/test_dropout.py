"""Dropout of every kind, and LayerDrop: off in inference mode, drawn from the key in training mode."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import bart_eqx
from bart_eqx.model.layers import LayerDrop
from support import CLASSES, configured, random_model


IDS = np.array([[5, 6, 7, 8, 2], [9, 4, 6, 2, 1]])
RATES = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
OFF: dict[str, Any] = dict.fromkeys((*RATES, "classifier_dropout"), 0.0)


def with_rates(**rates: float) -> bart_eqx.BartConfig:
    return configured("unequal", **(OFF | rates))


def first_output(model: Any, key: Any) -> jax.Array:
    return jax.tree.leaves(eqx.filter_jit(model)(IDS, key=key))[-1]


@pytest.mark.parametrize("cls", CLASSES)
def test_made_and_loaded_models_are_in_inference_mode(cls: Any) -> None:
    config = with_rates(dropout=0.5, attention_dropout=0.5, encoder_layerdrop=0.5, decoder_layerdrop=0.5)
    for model in (eqx.filter_jit(cls)(config, key=jr.key(0)), random_model(cls, config)):
        modes = [leaf.inference for leaf in jax.tree.leaves(model, is_leaf=is_switch) if is_switch(leaf)]
        assert len(modes) > 5 and all(modes)


def is_switch(leaf: Any) -> bool:
    return hasattr(leaf, "inference")


def test_inference_mode_ignores_the_key() -> None:
    config = with_rates(dropout=0.5, attention_dropout=0.5, encoder_layerdrop=0.5, decoder_layerdrop=0.5)
    model = random_model(bart_eqx.BartModel, config)
    np.testing.assert_array_equal(first_output(model, jr.key(1)), first_output(model, None))


@pytest.mark.parametrize("rate", [*RATES, "classifier_dropout"])
def test_each_rate_is_applied(rate: str) -> None:
    """Hugging Face's Flax never applies `attention_dropout`, and crashes on either LayerDrop."""
    model = random_model(bart_eqx.BartForSequenceClassification, with_rates(**{rate: 0.5}))
    training = eqx.nn.inference_mode(model, value=False)
    run = eqx.filter_jit(lambda key: training(IDS, key=key).logits)
    outputs = [np.asarray(run(jr.key(seed))) for seed in (7, 7, 11, 3, 4)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.isfinite(outputs).all() and len(np.unique(outputs, axis=0)) > 1
    with pytest.raises(RuntimeError, match="requires a key"):
        eqx.filter_jit(training)(IDS)


def test_no_rate_needs_no_key() -> None:
    model = eqx.nn.inference_mode(random_model(bart_eqx.BartModel, with_rates()), value=False)
    assert jnp.isfinite(first_output(model, None)).all()


def test_attention_dropout_drops_weights_and_keeps_their_sum() -> None:
    """The expected share of the applied weights is zero; the returned weights are those before dropout."""
    attention = bart_eqx.BartAttention(4, 1, dropout=0.25, init_std=1.0, key=jr.key(0))
    attention = eqx.nn.inference_mode(attention, value=False)
    # With one-hot values, the output is the dropped weights.
    identity = jnp.eye(4)
    attention = eqx.tree_at(lambda a: (a.v_proj.weight, a.out_proj.weight), attention, (identity, identity))
    positions, queries = jnp.arange(4), jnp.arange(20_000)
    keys, _ = attention.project_kv(jnp.zeros((4, 4)), positions)
    x = jnp.zeros((20_000, 4))
    out, weights = attention.attend(x, keys, identity[None], None, queries, positions, key=jr.key(1))
    np.testing.assert_allclose(weights, 0.25)
    dropped = float(jnp.mean(out == 0))
    assert dropped == pytest.approx(0.25, abs=0.01)  # 80,000 draws: a standard deviation of 0.0015
    assert float(out.sum(-1).mean()) == pytest.approx(1, abs=0.01)


def test_layerdrop_skips_at_its_rate() -> None:
    drop = LayerDrop(0.3)
    skipped = jax.vmap(lambda key: drop(jnp.ones((1,)), jnp.zeros((1,)), key=key))(jr.split(jr.key(0), 20_000))
    assert float(1 - skipped.mean()) == pytest.approx(0.3, abs=0.015)  # a standard deviation of 0.0032
    assert (eqx.nn.inference_mode(drop)(jnp.ones(1), jnp.zeros(1), key=None) == 1).all()


def test_a_skipped_layer_passes_its_input() -> None:
    """Every output in training mode equals that of the model without some of its layers."""
    model = random_model(bart_eqx.BartModel, with_rates(decoder_layerdrop=0.5))
    layers = model.decoder.layers
    thinned = [(), layers[:1], layers[1:], layers]
    outputs = []
    for keep in thinned:
        thin = eqx.tree_at(lambda m: m.decoder.layers, model, keep)
        outputs.append(eqx.filter_jit(thin)(IDS).last_hidden_state)
    training = eqx.nn.inference_mode(model, value=False)
    seen = set()
    run = eqx.filter_jit(lambda key: training(IDS, key=key).last_hidden_state)
    for seed in range(24):
        out = run(jr.key(seed))
        distances = [float(jnp.abs(out - wanted).max()) for wanted in outputs]
        assert min(distances) < 1e-4 and sorted(distances)[1] > 1e-2
        seen.add(int(np.argmin(distances)))
    assert seen == {0, 1, 2, 3}  # the chance that one is missing after 24 draws is 0.4 %


def test_gradients_pass_around_a_skipped_layer() -> None:
    model = random_model(bart_eqx.BartModel, with_rates(encoder_layerdrop=0.999))
    training = eqx.nn.inference_mode(model, value=False)
    first = lambda model: model.encode(IDS, key=jr.key(0)).last_hidden_state[0, 0, 0]
    grads = eqx.filter_jit(eqx.filter_grad(first))(training)
    assert jnp.abs(grads.shared.weight).max() > 0
    assert not grads.encoder.layers[0].fc1.weight.any()

"""A stack of layers as one scan: the same loss, the same tokens, and less memory."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import bart_eqx
from bart_eqx.training import cross_entropy
from examples.rotary import RotaryAttention
from examples.stacked import stack, unstack
from extension_checks import check_cached_equals_full, check_generates, self_attentions
from support import configured, ragged_inputs, random_model, relative_error


CONFIG = configured(
    "unequal", d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, encoder_layers=4, decoder_layers=3
)


@pytest.fixture(scope="module")
def bart() -> bart_eqx.BartForConditionalGeneration:
    return random_model(bart_eqx.BartForConditionalGeneration, CONFIG)


def loss(model: Any, key: Any = None) -> jax.Array:
    inputs = ragged_inputs(CONFIG)
    ids, target = inputs["input_ids"], inputs["decoder_input_ids"]
    states = model.model(ids, inputs["attention_mask"], target, key=key).last_hidden_state
    return cross_entropy(model.lm_logits, states, np.roll(target, -1))


def check_loss_and_gradients(model: Any, limit: float) -> None:
    wanted, of_layers = eqx.filter_jit(eqx.filter_value_and_grad(loss))(model)
    got, of_stack = eqx.filter_jit(eqx.filter_value_and_grad(loss))(stack(model))
    assert abs(float(got) - float(wanted)) <= limit
    leaves = zip(jax.tree.leaves(unstack(of_stack)), jax.tree.leaves(of_layers), strict=True)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(of_layers))
    assert all(float(jnp.max(jnp.abs(one - other))) <= 2e-6 * largest for one, other in leaves)


def test_loss_and_gradients(bart: Any) -> None:
    """Gradients measured 6e-7. In so small a model XLA may sum the products of a loop in another order."""
    check_loss_and_gradients(bart, 1e-5)


@pytest.mark.slow
@pytest.mark.optimised
def test_the_loss_to_the_last_bit() -> None:
    """At bart-base's widths. Gradients measured 3.2e-7."""
    heads = dict(encoder_attention_heads=12, decoder_attention_heads=12)
    ffn = dict(encoder_ffn_dim=3072, decoder_ffn_dim=3072)
    config = configured("unequal", d_model=768, encoder_layers=3, decoder_layers=3, **heads, **ffn)
    check_loss_and_gradients(random_model(bart_eqx.BartForConditionalGeneration, config), 0)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_tokens(bart: Any, num_beams: int) -> None:
    inputs = ragged_inputs(CONFIG)
    got, wanted = (
        bart_eqx.generate(model, inputs["input_ids"], inputs["attention_mask"], num_beams=num_beams, max_length=12)
        for model in (stack(bart), bart)
    )
    assert np.array_equal(got.sequences, wanted.sequences) and np.array_equal(got.lengths, wanted.lengths)


def test_cached_equals_full(bart: Any) -> None:
    check_cached_equals_full(stack(bart))


def test_of_another_attention(bart: Any) -> None:
    """What stands in the layers is stacked: rotary positions generate from inside a scan."""
    rotary = eqx.tree_at(self_attentions, bart, list(map(RotaryAttention, self_attentions(bart))))
    check_generates(stack(rotary))


def test_unstacked(bart: Any, tmp_path: Path) -> None:
    again = unstack(stack(bart))
    assert eqx.tree_equal(again, bart)
    bart_eqx.save_pretrained(again, tmp_path / "model")
    with pytest.raises(bart_eqx.CheckpointError, match="whose modules were replaced"):
        bart_eqx.save_pretrained(stack(bart), tmp_path / "stacked")


def test_dropout(bart: Any) -> None:
    """Every layer draws for itself, from the key; `inference_mode` reaches into the stack."""
    training = eqx.nn.inference_mode(stack(bart), value=False)
    first, again, other = (float(loss(training, jax.random.key(seed))) for seed in (0, 0, 1))
    assert first == again != other
    with pytest.raises(RuntimeError, match="requires a key"):
        loss(training)
    assert float(loss(eqx.nn.inference_mode(training))) == float(loss(stack(bart)))
    layer = training.model.encoder.layers[0]
    arrays, settings = eqx.partition(layer.layers, eqx.is_array)
    x = jnp.ones((5, 32))
    for i, key in enumerate(jax.random.split(jax.random.key(0), 4)):
        one = eqx.combine(jax.tree.map(lambda leaf: leaf[i], arrays), settings)  # noqa: B023
        x = one(x, None, jnp.arange(5), key=key)[0]
    got, _ = layer(jnp.ones((5, 32)), None, jnp.arange(5), key=jax.random.key(0))
    assert relative_error(got, x) <= 5e-6  # measured 1.1e-6


def test_memory() -> None:
    """Of the gradient: with eight layers, less than half of what the unrolled ones need."""
    deep: Any = random_model(bart_eqx.BartModel, configured("unequal", encoder_layers=8))

    def temporaries(model: Any) -> int:
        arrays, static = eqx.partition(model, eqx.is_inexact_array)
        ids = jnp.full((8, 23), 5)
        total = lambda arrays: jnp.sum(jnp.sin(eqx.combine(arrays, static).encode(ids).last_hidden_state))
        analysis = jax.jit(jax.grad(total)).lower(arrays).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert temporaries(stack(deep)) < temporaries(deep) / 2


def test_layers_that_cannot_be_stacked(bart: Any) -> None:
    where = lambda m: m.model.encoder.layers[1].self_attn
    with pytest.raises(ValueError, match="Only layers that are alike"):
        stack(eqx.tree_at(where, bart, RotaryAttention(where(bart))))
    wide = lambda m: m.model.encoder.layers[1].fc1.weight
    with pytest.raises(ValueError, match="Only layers that are alike"):
        stack(eqx.tree_at(wide, bart, jnp.ones((18, 32))))
    drops = random_model(bart_eqx.BartForConditionalGeneration, configured("unequal", decoder_layerdrop=0.5))
    with pytest.raises(ValueError, match="Got a rate of 0.5"):
        stack(drops)


def test_wrong_shape(bart: Any) -> None:
    """Inside the scan, as outside of it."""
    stacked = stack(bart)
    where = lambda m: m.model.decoder.layers[0].layers.fc1.weight
    with pytest.raises(TypeCheckError, match="width of the weights"):
        loss(eqx.tree_at(where, stacked, jnp.ones((3, 13, 31))))

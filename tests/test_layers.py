"""Layers, masks and shifted targets, against NumPy."""

import math
import re
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Bool, Float, Integer, PRNGKeyArray

import bart_eqx
from bart_eqx.config import ACTIVATIONS as ACTIVATION_NAMES
from bart_eqx.model.activations import ACTIVATION_FUNCTIONS
from bart_eqx.model.layers import LayerNorm, Linear
from bart_eqx.model.masks import causal_mask
from bart_eqx.typing import Array
from support import precision, ragged_inputs, random_model, relative_error


def test_linear(key: jax.Array) -> None:
    linear = Linear(3, 5, init_std=1.0, key=key)
    linear = eqx.tree_at(lambda linear: linear.bias, linear, jnp.arange(5.0))
    x = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)
    wanted = x @ np.asarray(linear.weight).T + np.arange(5)
    np.testing.assert_allclose(linear(jnp.asarray(x)), wanted, rtol=0, atol=1e-6)
    assert Linear(3, 5, use_bias=False, init_std=1.0, key=key).bias is None


def test_layer_norm_of_a_large_mean() -> None:
    """Here the mean of squares minus the square of the mean would lose the variance to rounding."""
    x = np.random.default_rng(0).standard_normal((4, 64)) + 1000
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    assert np.abs(LayerNorm(64)(jnp.asarray(x, jnp.float32)) - wanted).max() < 1e-3  # float32 spacing at 1000: 6e-5


ACTIVATIONS = np.load(Path(__file__).parent / "references/activations.npz")
IN_ACT2FN = [name.removeprefix("output.") for name in ACTIVATIONS.files if name.startswith("output.")]


@pytest.mark.parametrize("name", IN_ACT2FN)
def test_activations(name: str) -> None:
    """Each entry of transformers' table is here with its values, or refused: those with parameters of their own."""
    x, wanted = ACTIVATIONS["x"], ACTIVATIONS[f"output.{name}"]
    if np.isnan(wanted).all():
        with pytest.raises(ValueError, match=f"must have no parameters of its own.*Got '{name}'"):
            bart_eqx.BartConfig(activation_function=name)
        return
    assert bart_eqx.BartConfig(activation_function=name).activation_function == name
    function = ACTIVATION_FUNCTIONS[name]
    with precision(np.float64):  # `gelu_fast` writes sqrt(2 / pi) with ten digits
        np.testing.assert_allclose(function(jnp.asarray(x)), wanted, rtol=1e-10, atol=1e-11)
    # The two GELUs differ by 5e-4 at most, so this tells them apart.
    np.testing.assert_allclose(function(jnp.asarray(x, jnp.float32)), wanted, rtol=2e-6, atol=2e-6)
    for dtype in (jnp.bfloat16, jnp.float16):
        narrow = function(jnp.asarray(x, dtype))
        assert narrow.dtype == dtype
        of_rounded = np.asarray(function(jnp.asarray(x, dtype).astype(jnp.float32)))
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(narrow, np.float32), of_rounded, rtol=8 * eps, atol=8 * eps)


def test_the_names_of_activations() -> None:
    """`config.py`, which imports no JAX, lists the functions once more."""
    assert set(ACTIVATION_NAMES) == set(ACTIVATION_FUNCTIONS) <= set(IN_ACT2FN)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_gelu_is_rounded_once(dtype: type) -> None:
    """Within half a unit in the last place, plus float32's rounding of `1 + erf`. `jax.nn.gelu` computes in the dtype
    itself and is off by 4 and 5 units."""
    x = jnp.linspace(-3, 8, 1001).astype(dtype)
    wanted = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in np.asarray(x, np.float64)])
    error = np.abs(np.asarray(ACTIVATION_FUNCTIONS["gelu"](x), np.float64) - wanted)
    assert np.all(error <= 0.5 * jnp.finfo(dtype).eps * np.abs(wanted) + 2e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_of_narrow_biases_and_norms_are_summed_in_float32(dtype: Any) -> None:
    """JAX alone sums them in 16 bits, and XLA on CPU takes twenty times as long."""
    linear, norm = Linear(4, 6, init_std=0.02, dtype=dtype, key=jax.random.key(0)), LayerNorm(6, dtype=dtype)
    x = jax.random.normal(jax.random.key(1), (2, 8, 4), dtype)
    pull = eqx.filter_grad(lambda parts: jnp.sum(parts[1](parts[0](x)) * x[..., :1], dtype=jnp.float32))
    of_linear, of_norm = pull((linear, norm))
    assert of_linear.bias.dtype == of_norm.weight.dtype == of_norm.bias.dtype == dtype
    program = str(jax.make_jaxpr(lambda parts: pull(parts))((linear, norm)))
    sums = re.findall(r"(\w+)\[6\] = reduce_sum", program)
    assert len(sums) == 3 and set(sums) == {"f32"}
    exact = np.asarray(x[..., 0], np.float64).sum()
    assert np.abs(np.asarray(of_norm.bias, np.float64) - exact).max() <= jnp.finfo(dtype).eps * abs(exact)


def test_causal_mask() -> None:
    mask = causal_mask(jnp.arange(2, 4), jnp.arange(5))
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


@pytest.mark.parametrize("jit", [False, True])
def test_shift_tokens_right(jit: bool) -> None:
    shift = jax.jit(bart_eqx.shift_tokens_right, static_argnums=(1, 2)) if jit else bart_eqx.shift_tokens_right
    ids = np.array([[71, 82, 18, 33, 2, 1, 1], [68, 34, 26, -100, 58, 30, 82]])
    wanted = [[2, 71, 82, 18, 33, 2, 1], [2, 68, 34, 26, 1, 58, 30]]
    np.testing.assert_array_equal(shift(ids, 1, 2), wanted)
    np.testing.assert_array_equal(shift(ids[0], 1, 2), wanted[0])
    # Larger, with a leading axis added: XLA miscompiles an in-place shift of this form.
    ids = np.random.default_rng(0).integers(0, 99, (8, 16))
    wanted = np.concatenate([np.full((8, 1), 2), ids[:, :-1]], axis=1)
    np.testing.assert_array_equal(shift(ids, 1, 2)[None], wanted[None])


class OneKeyHead(bart_eqx.AbstractAttention):
    """A researcher's attention: all query heads share one head of keys and values (arXiv:1911.02150)."""

    inner: bart_eqx.BartAttention

    def project_kv(
        self, source: Float[Array, "*batch kv dim"], positions: Integer[Array, "*batch kv"]
    ) -> tuple[Float[Array, "*batch 1 head_dim kv"], Float[Array, "*batch 1 kv head_dim"]]:
        keys, values = self.inner.project_kv(source, positions)
        return keys[..., :1, :, :], values[..., :1, :, :]

    def attend(
        self,
        x: Float[Array, "*batch q dim"],
        keys: Float[Array, "*batch 1 head_dim kv"],
        values: Float[Array, "*batch 1 kv head_dim"],
        mask: Bool[Array, "*batch #heads #q kv"] | None,
        query_positions: Integer[Array, "*batch q"],
        key_positions: Integer[Array, "*batch kv"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "*batch q dim"], Float[Array, "*batch heads q kv"] | None]:
        heads = self.inner.num_heads
        keys, values = jnp.repeat(keys, heads, axis=-3), jnp.repeat(values, heads, axis=-3)
        out, _ = self.inner.attend(x, keys, values, mask, query_positions, key_positions, key=key)
        return out, None


def test_attention_can_be_swapped(config: bart_eqx.BartConfig) -> None:
    """With another attention everywhere, the cache has its shapes, and cached equals uncached."""
    model = random_model(bart_eqx.BartForConditionalGeneration, config)

    def attentions(model: Any) -> list[Any]:
        decoder = model.model.decoder.layers
        return [layer.self_attn for layer in decoder] + [layer.encoder_attn for layer in decoder]

    swapped = eqx.tree_at(attentions, model, [OneKeyHead(attention) for attention in attentions(model)])
    inputs = ragged_inputs(config)
    whole = swapped(**inputs, output_attentions=True)
    assert whole.cross_attentions == (None, None)
    assert relative_error(whole.logits, model(**inputs).logits) > 0.1
    mask = inputs["attention_mask"]
    cache = swapped.init_cache(swapped.encode(inputs["input_ids"], mask), mask, max_length=9)
    assert cache.self_attn[0].keys.shape == (3, 1, 10, 9)
    first, cache = swapped.decode(
        inputs["decoder_input_ids"][:, :4], cache, decoder_attention_mask=inputs["decoder_attention_mask"][:, :4]
    )
    last, cache = swapped.decode(
        inputs["decoder_input_ids"][:, 4:], cache, decoder_attention_mask=inputs["decoder_attention_mask"][:, 4:]
    )
    assert relative_error(jnp.concatenate([first.logits, last.logits], axis=1), whole.logits) <= 5e-6

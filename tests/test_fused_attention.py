"""`fuse_attention`, with XLA's implementation, which runs everywhere. `make accelerator` runs cuDNN's."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from bart_eqx.kernels import fused_attention
from support import CONFIGS, ragged_inputs, random_model, relative_error


CONFIG = bart_eqx.BartConfig(**CONFIGS["unequal"])  # heads whose scale is no power of two


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> bart_eqx.BartForConditionalGeneration:
    monkeypatch.setattr(fused_attention, "FEW_QUERIES", 2)
    return random_model(bart_eqx.BartForConditionalGeneration, CONFIG)


def test_computes_the_same(model: bart_eqx.BartForConditionalGeneration) -> None:
    """With padding, in encoder, decoder and cross attention; logits measured 4e-7, gradients 6e-7."""
    inputs = ragged_inputs(CONFIG)
    run = eqx.filter_jit(lambda model, inputs: model(**inputs, output_attentions=True))
    wanted, got = run(model, inputs), run(bart_eqx.fuse_attention(model, "xla"), inputs)
    assert wanted.encoder_attentions[0] is not None
    for weights in (got.encoder_attentions, got.decoder_attentions, got.cross_attentions):
        assert len(weights) > 0 and all(of_layer is None for of_layer in weights)
    assert relative_error(got.logits, wanted.logits) <= 5e-6

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(parameters: Any, fused: bool) -> jax.Array:
        model = bart_eqx.fuse_attention(parameters, "xla") if fused else parameters
        return jnp.mean(jnp.tanh(model(**inputs).logits))

    for ours, theirs in zip(*map(jax.tree.leaves, (gradient(model, True), gradient(model, False))), strict=True):
        assert float(jnp.abs(ours - theirs).max()) <= 5e-6 * max(float(jnp.abs(theirs).max()), 1e-3)


def test_a_bias_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_attention, "FEW_QUERIES", 2)
    random = np.random.default_rng(0)
    shapes = (2, 3, 5, 8), (2, 3, 8, 7), (2, 3, 7, 8), (2, 3, 5, 7)
    queries, keys, values, bias = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in shapes)
    mask = jnp.asarray(random.random((2, 1, 1, 7)) < 0.6)
    off = eqx.nn.Dropout(0.0)
    kernels = fused_attention.FusedDotProduct("xla"), fused_attention.DotProduct()
    got, wanted = (kernel(queries, keys, values, mask, off, bias=bias, key=None)[0] for kernel in kernels)
    assert relative_error(got, wanted) <= 5e-6


@pytest.mark.parametrize("options", [{}, dict(num_beams=4)], ids=["greedy", "beams"])
def test_generates_the_same(model: bart_eqx.BartForConditionalGeneration, options: dict[str, Any]) -> None:
    ids = ragged_inputs(CONFIG)["input_ids"]
    fused = bart_eqx.fuse_attention(model, "xla")
    wanted, got = (bart_eqx.generate(model, ids, max_length=9, **options).sequences for model in (model, fused))
    assert np.array_equal(got, wanted)


def test_few_queries_have_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_attention, "FEW_QUERIES", 64)
    fused = bart_eqx.fuse_attention(random_model(bart_eqx.BartForConditionalGeneration, CONFIG), "xla")
    out = fused.encode(ragged_inputs(CONFIG)["input_ids"], output_attentions=True)
    assert out.attentions is not None and out.attentions[0] is not None


def test_parameters_keep_their_names(model: bart_eqx.BartForConditionalGeneration, tmp_path: Any) -> None:
    fused = bart_eqx.fuse_attention(model, "xla")
    bart_eqx.save_pretrained(fused, tmp_path / "fused")
    again = bart_eqx.from_pretrained(tmp_path / "fused", bart_eqx.BartForConditionalGeneration)
    assert eqx.tree_equal(again, model)


def test_refused(model: bart_eqx.BartForConditionalGeneration) -> None:
    ids = ragged_inputs(CONFIG)["input_ids"]
    with pytest.raises(ValueError, match="needs bfloat16 or float16; the queries are float32"):
        bart_eqx.fuse_attention(model).encode(ids)
    with pytest.raises(ValueError, match="found no `BartAttention`"):
        bart_eqx.fuse_attention(dict(a=1))
    config = dataclasses.replace(CONFIG, attention_dropout=0.1)
    dropping = bart_eqx.BartForConditionalGeneration(config, key=jax.random.key(0))
    dropping = eqx.nn.inference_mode(bart_eqx.fuse_attention(dropping, "xla"), False)
    with pytest.raises(ValueError, match="no dropout, and `attention_dropout` is 0.1"):
        dropping.encode(ids, key=jax.random.key(0))

"""The five classes: shapes, leading axes, traces, and errors that name what is wrong."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import bart_eqx
from support import CLASSES, ragged_inputs, random_model, relative_error


Model = bart_eqx.BartForConditionalGeneration


def result_of(out: Any) -> jax.Array:
    for name in ("logits", "start_logits", "last_hidden_state"):
        if hasattr(out, name):
            return getattr(out, name)
    raise AssertionError(out)


@pytest.mark.parametrize("cls", CLASSES)
def test_one_sequence_a_batch_and_vmap_agree(cls: Any, config: bart_eqx.BartConfig) -> None:
    """They give the same numbers, with one trace each."""
    model = random_model(cls, config)
    ids = ragged_inputs(config)["input_ids"]

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=2)
    def run(model: Any, ids: np.ndarray) -> jax.Array:
        return result_of(model(ids))

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def mapped(model: Any, ids: np.ndarray) -> jax.Array:
        return jax.vmap(lambda row: result_of(model(row)))(ids)

    batch = run(model, ids)
    single = jnp.stack([run(model, row) for row in ids])
    # Measured: at most 1.3e-7, from rounding in products of other shapes.
    assert relative_error(single, batch) <= 2e-6
    assert relative_error(mapped(model, ids), batch) <= 2e-6
    assert relative_error(mapped(model, ids), run(model, ids)) <= 2e-6  # without another trace


def test_any_leading_axes_and_no_jit(model: Model, config: bart_eqx.BartConfig) -> None:
    ids = ragged_inputs(config)["input_ids"]
    batch = eqx.filter_jit(model)(ids).logits
    # Measured: 7.7e-7; compiled, some products are fused.
    assert relative_error(eqx.filter_jit(model)(ids[None]).logits[0], batch) <= 2e-6
    assert relative_error(model(ids).logits, batch) <= 2e-6


def test_fields_are_there_when_asked_for(model: Model, config: bart_eqx.BartConfig) -> None:
    inputs = ragged_inputs(config)
    bare = model(**inputs)
    assert bare.decoder_hidden_states is bare.encoder_attentions is bare.cross_attentions is None
    out = model(**inputs, output_attentions=True, output_hidden_states=True)
    np.testing.assert_array_equal(out.logits, bare.logits)
    assert [x.shape for x in out.encoder_hidden_states or ()] == [(3, 11, 30)] * (1 + config.encoder_layers)
    assert [x.shape for x in out.decoder_hidden_states or ()] == [(3, 7, 30)] * (1 + config.decoder_layers)
    assert [x.shape for x in out.encoder_attentions or () if x is not None] == [(3, 5, 11, 11)]
    assert [x.shape for x in out.decoder_attentions or () if x is not None] == [(3, 3, 7, 7)] * 2
    assert [x.shape for x in out.cross_attentions or () if x is not None] == [(3, 3, 7, 11)] * 2
    np.testing.assert_array_equal(out.encoder_hidden_states[-1], out.encoder_last_hidden_state)  # pyright: ignore


def test_encode_then_decode_is_the_whole(model: Model, config: bart_eqx.BartConfig) -> None:
    inputs = ragged_inputs(config)
    encoded = model.encode(inputs["input_ids"], inputs["attention_mask"])
    decoded = model.decode(
        inputs["decoder_input_ids"],
        encoder_outputs=encoded,
        encoder_attention_mask=inputs["attention_mask"],
        decoder_attention_mask=inputs["decoder_attention_mask"],
    )
    np.testing.assert_array_equal(decoded.logits, model(**inputs).logits)


@pytest.mark.parametrize("cls", CLASSES[:4])
def test_padding_holds_nothing(cls: Any, config: bart_eqx.BartConfig) -> None:
    """Other tokens at padding, of source or target, leave every output at a token bitwise unchanged."""
    model = eqx.filter_jit(random_model(cls, config))
    inputs = ragged_inputs(config)
    if cls is bart_eqx.BartForSequenceClassification:
        targets = jnp.asarray(inputs["input_ids"])  # explicit, because they would be made from the changed source
        inputs |= dict(decoder_input_ids=targets, decoder_attention_mask=inputs["attention_mask"])
    clean = result_of(model(**inputs))
    garbage = np.where(inputs["attention_mask"] == 0, 50, inputs["input_ids"])
    assert (garbage != inputs["input_ids"]).sum() == 9
    dirty = result_of(model(**(inputs | dict(input_ids=garbage))))
    np.testing.assert_array_equal(dirty, clean)

    target_mask = np.asarray(inputs["decoder_attention_mask"])
    garbage = np.where(target_mask == 0, 51, inputs["decoder_input_ids"])
    dirty = result_of(model(**(inputs | dict(decoder_input_ids=garbage))))
    if cls is bart_eqx.BartForSequenceClassification:
        np.testing.assert_array_equal(dirty, clean)
    else:
        np.testing.assert_array_equal(dirty[target_mask == 1], clean[target_mask == 1])


@pytest.mark.parametrize("length", [12, 17])
def test_more_padding_changes_nothing(model: Model, config: bart_eqx.BartConfig, length: int) -> None:
    inputs = ragged_inputs(config)
    extra = ((0, 0), (0, length - 11))
    padded: dict[str, Any] = inputs | dict(
        input_ids=np.pad(inputs["input_ids"], extra, constant_values=50),
        attention_mask=np.pad(inputs["attention_mask"], extra),
    )
    # Measured: 8.9e-7, because longer sums round differently.
    assert relative_error(model(**padded).logits, model(**inputs).logits) <= 2e-6


@pytest.mark.parametrize("mask_dtype", [bool, np.int32, np.uint8, np.int64])
def test_masks_of_every_kind(model: Model, config: bart_eqx.BartConfig, mask_dtype: Any) -> None:
    inputs = ragged_inputs(config)
    masks: dict[str, Any] = {
        name: inputs[name].astype(mask_dtype) for name in ("attention_mask", "decoder_attention_mask")
    }
    np.testing.assert_array_equal(model(**(inputs | masks)).logits, model(**inputs).logits)


class TestErrors:
    def test_a_wrong_shape_names_the_axes(self, model: Model) -> None:
        with pytest.raises(TypeCheckError, match=r"attention_mask(.|\n)*\*batch src"):
            model(np.ones((2, 5), int), np.ones((2, 4), int))
        with pytest.raises(TypeCheckError, match=r"decoder_attention_mask(.|\n)*\*batch tgt"):
            model(
                np.ones((2, 5), int),
                decoder_input_ids=np.ones((2, 3), int),
                decoder_attention_mask=np.ones((2, 5), int),
            )
        with pytest.raises(TypeCheckError, match="decoder_input_ids"):
            model(np.ones((2, 5), int), decoder_input_ids=np.ones((3, 5), int))

    def test_floats_are_not_ids_and_no_masks(self, model: Model) -> None:
        with pytest.raises(TypeError, match="input_ids"):
            model(np.ones((2, 5)))
        with pytest.raises(TypeError, match="attention_mask"):
            model(np.ones((2, 5), int), np.zeros((2, 5)))

    @pytest.mark.parametrize("token", [-1, -100, 97])
    def test_a_token_outside_the_vocabulary(self, model: Model, token: int) -> None:
        with pytest.raises(ValueError, match=rf"`input_ids` must be in \[0, 97\). Got {token}"):
            model(np.array([5, token]))
        with pytest.raises(ValueError, match=rf"`decoder_input_ids` must be in \[0, 97\). Got {token}"):
            model(np.array([5, 6]), decoder_input_ids=np.array([5, token]))
        # Traced ids cannot raise: rows that attend to the token are NaN, and other rows are unaffected.
        logits = eqx.filter_jit(model)(jnp.array([[5, token], [5, 6]])).logits
        assert jnp.isnan(logits[0]).all() and jnp.isfinite(logits[1]).all()

    def test_traced_tokens_are_an_error_on_request(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BART_EQX_ERROR_IF", "1")
        with pytest.raises(RuntimeError, match=r"`input_ids` must be in \[0, 97\)"):
            eqx.filter_jit(lambda ids: model.encode(ids).last_hidden_state)(jnp.array([5, 97]))

    def test_a_source_longer_than_the_positions(self, model: Model) -> None:
        assert model.encode(np.full(23, 5)).last_hidden_state.shape == (23, 30)
        for run in (model.encode, eqx.filter_jit(model.encode)):
            with pytest.raises(ValueError, match="at most max_position_embeddings=23 tokens. Got 24"):
                run(np.full(24, 5))
        with pytest.raises(ValueError, match="at most max_position_embeddings=23. Got max_length=24"):
            model(np.full(5, 5), decoder_input_ids=np.full(24, 5))

    def test_nothing_to_read(self, model: Model) -> None:
        """A batch of no rows is allowed, a source of no tokens is an error, and a row of padding only has no NaN."""
        run = eqx.filter_jit(model)
        assert run(np.zeros((0, 5), int)).logits.shape == (0, 5, 97)
        with pytest.raises(ValueError, match="holds at least one token"):
            model(np.zeros((2, 0), int))
        assert jnp.isfinite(run(np.full((2, 4), 5), np.zeros((2, 4), int)).logits).all()

    def test_positions_outside_the_table(self, model: Model) -> None:
        with pytest.raises(ValueError, match=r"`position_ids` must be in \[-2, 23\). Got 23"):
            model.encode(np.full(3, 5), position_ids=np.array([0, 1, 23]))

    def test_neither_cache_nor_source(self, model: Model) -> None:
        with pytest.raises(ValueError, match="encoder_outputs=None"):
            model.decode(np.array([5]))  # pyright: ignore
        encoded = model.encode(np.array([5, 6]))
        cache = model.init_cache(encoded, max_length=3)
        with pytest.raises(ValueError, match="cache=a cache"):
            model.decode(np.array([5]), cache, encoder_outputs=encoded)  # pyright: ignore
        with pytest.raises(ValueError, match="encoder_attention_mask=given"):
            model.decode(np.array([5]), cache, encoder_attention_mask=np.ones(2, int))  # pyright: ignore

    def test_causal_lm(self, config: bart_eqx.BartConfig) -> None:
        model = random_model(bart_eqx.BartForCausalLM, config)
        states = jnp.zeros((4, config.d_model))
        with pytest.raises(ValueError, match="without `encoder_hidden_states`"):
            model(np.array([5]), encoder_attention_mask=np.ones(4, int))
        with pytest.raises(ValueError, match="A cache holds its source"):
            model(np.array([5]), None, None, states, cache=model.init_cache(None, max_length=3))


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        (dict(), 406_291_456),
        (dict(d_model=768, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=3072, decoder_ffn_dim=3072)
         | dict(encoder_attention_heads=12, decoder_attention_heads=12), 139_420_416),
    ],
    ids=["bart-large", "bart-base"],
)  # fmt: skip
def test_real_sizes(fields: dict, parameters: int) -> None:
    """Built and run without memory: the checkpoints' number of parameters, and the shapes of the outputs."""
    config = bart_eqx.BartConfig(**fields)
    model = eqx.filter_eval_shape(Model, config, key=jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model.model, lambda x: hasattr(x, "size"))))
    assert count == parameters
    out = eqx.filter_eval_shape(lambda model, ids: model(ids), model, jax.ShapeDtypeStruct((2, 1024), jnp.int32))
    assert out.logits.shape == (2, 1024, 50265)


def test_initialisation(config: bart_eqx.BartConfig, key: jax.Array) -> None:
    """Weights are normal with `init_std` and all from different keys; biases are zero, norms one."""
    params = eqx.filter(Model(config, key=key), eqx.is_array)
    firsts = [float(leaf.reshape(-1)[0]) for leaf in jax.tree.leaves(params) if leaf.ndim == 2 and leaf.any()]
    assert len(set(firsts)) == len(firsts) > 20
    assert float(params.model.shared.weight.std()) == pytest.approx(config.init_std, rel=0.05)
    layer = params.model.decoder.layers[0]
    assert not layer.encoder_attn.k_proj.bias.any() and (layer.final_layer_norm.weight == 1).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(config: bart_eqx.BartConfig, dtype: Any) -> None:
    """Every output has the parameters' dtype, and logits are near those in float32."""
    wide = random_model(Model, config)
    narrow = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, wide)
    inputs = ragged_inputs(config)
    out = eqx.filter_jit(narrow)(**inputs, output_attentions=True, output_hidden_states=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype(dtype)}
    # Measured: 2.1e-2 in bfloat16 (8 bits of mantissa), 3.6e-3 in float16 (11 bits).
    limit = {"bfloat16": 1e-1, "float16": 1e-2}[jnp.dtype(dtype).name]
    assert relative_error(out.logits.astype(np.float32), eqx.filter_jit(wide)(**inputs).logits) <= limit

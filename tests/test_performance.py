"""What makes it fast must not be seen in what comes out."""

import dataclasses
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from bart_eqx.generation import encoding, stages
from bart_eqx.generation.top_k import top_k
from bart_eqx.model import attention as attention_file, encoder as encoder_file
from bart_eqx.model.cache import KVCache
from bart_eqx.model.layers import Linear, project, rows_times_matrix
from bart_eqx.model.quantized import QuantizedEmbedding, QuantizedLinear, project_rounded, rounded
from support import random_model, relative_error


CONFIG = bart_eqx.BartConfig(
    vocab_size=61,
    max_position_embeddings=40,
    d_model=24,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=3,
    decoder_attention_heads=2,
    encoder_ffn_dim=20,
    decoder_ffn_dim=28,
    forced_eos_token_id=None,
)
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="looks for what XLA does on CPU")
ON_ONE_CPU = pytest.mark.skipif(
    jax.default_backend() != "cpu" or jax.device_count() > 1, reason="rows take turns on one CPU only"
)
OPTIONS: dict[str, Any] = dict(max_length=14, min_length=9, num_beams=3, num_return_sequences=2)


@pytest.fixture(scope="module")
def model() -> bart_eqx.BartForConditionalGeneration:
    return random_model(bart_eqx.BartForConditionalGeneration, CONFIG)


def source(rows: int = 3, width: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and a mask under which the rows end at different places; the last has nothing in its first half."""
    ids = np.random.default_rng(0).integers(4, 61, (rows, width))
    lengths = np.linspace(width, 2, rows).astype(int)
    mask = np.arange(width) < lengths[:, None]
    mask[-1] = np.arange(width) >= width // 2
    return ids, mask


@pytest.mark.parametrize("steps, ends", [(1, [1]), (127, [127]), (128, [64, 128]), (1023, [64, 256, 1023])])
def test_stages(steps: int, ends: list[int]) -> None:
    assert stages.stage_ends(steps) == ends


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(max_length=14, min_length=9), id="greedy"),
        pytest.param(OPTIONS, id="beams", marks=pytest.mark.slow),
        pytest.param(dict(max_length=14, prompt_lookup_num_tokens=2), id="lookup", marks=pytest.mark.slow),
    ],
)
def test_stages_are_not_seen(
    model: bart_eqx.BartForConditionalGeneration, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = source()
    prompt = np.array([[2, 7, 9]] * 3)
    wanted = bart_eqx.generate(model, ids, mask, decoder_input_ids=prompt, **options)
    monkeypatch.setattr(stages, "FIRST", 2)
    monkeypatch.setattr(stages, "GROWTH", 2)
    jax.clear_caches()
    assert stages.stage_ends(11) == [2, 4, 11]
    staged = bart_eqx.generate(model, ids, mask, decoder_input_ids=prompt, **options)
    assert np.array_equal(staged.sequences, wanted.sequences)
    jax.clear_caches()


def test_encoding_follows_the_tokens(
    model: bart_eqx.BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row, each at the width that it needs: the states of a batch at once, wherever there are tokens."""
    monkeypatch.setattr(encoding, "WORTHWHILE", 4)
    ids, mask = source(rows=4)
    encode = lambda mask: eqx.filter_jit(lambda m: encoding.encoded(m, jnp.asarray(ids), mask))(model)
    for given in (None, jnp.asarray(mask)):
        wanted = model.encode(ids, given).last_hidden_state
        where = mask if given is not None else np.ones_like(mask)
        assert relative_error(encode(given)[where], wanted[where]) <= 5e-6
    assert np.all(np.asarray(encode(jnp.asarray(mask)))[2, 6:] == 0)  # five tokens: computed at half the width
    monkeypatch.setattr(encoding, "WORTHWHILE", 12)
    assert np.all(np.asarray(encode(jnp.asarray(mask)))[2, 6:] != 0)  # eleven are too few to go row by row


@ON_ONE_CPU
class TestLargeRows:
    """Attention over the rows of a batch one by one: the same numbers, and their gradients."""

    @pytest.mark.parametrize("mask", [None, "padding", "pairs"])
    def test_the_same(
        self, model: bart_eqx.BartForConditionalGeneration, mask: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In float64 within 4 eps of the largest number; measured 1."""
        attention = model.model.encoder.layers[0].self_attn
        random = np.random.default_rng(0)
        with jax.enable_x64(True):
            attention = in_float64(attention)
            x, source = (jnp.asarray(random.standard_normal((3, 2, n, 24))) for n in (5, 7))
            shapes = {"padding": (3, 2, 1, 1, 7), "pairs": (1, 2, 1, 5, 7)}
            allowed = None if mask is None else jnp.asarray(random.random(shapes[mask]) < 0.6)

            @eqx.filter_value_and_grad(has_aux=True)
            def attend(arrays: tuple[Any, ...]) -> tuple[jax.Array, Any]:
                attention, x, source = arrays
                found = attention.attend(x, *attention.project_kv(source), allowed)
                return jnp.sum(jnp.sin(found[0])), found

            (_, wanted), wanted_gradients = attend((attention, x, source))
            assert not loops(attend, (attention, x, source))
            monkeypatch.setattr(attention_file, "LARGE", 3 * 5 * 7 * 8)
            assert loops(attend, (attention, x, source))
            (_, got), gradients = attend((attention, x, source))
            for a, b in ((got[0], wanted[0]), (got[1], wanted[1]), (flat(gradients), flat(wanted_gradients))):
                assert relative_error(a, b) <= 4 * np.finfo(np.float64).eps

    def test_when(self, model: bart_eqx.BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not for a row alone, for rows that are smaller, nor where dropout draws for the whole batch."""
        attention = model.model.encoder.layers[0].self_attn
        x = jnp.zeros((2, 5, 24))
        attend = lambda attention, x: attention.attend(x, *attention.project_kv(x), None, key=jax.random.key(0))[0]
        monkeypatch.setattr(attention_file, "LARGE", 3 * 5 * 5 * 4)
        drops = eqx.tree_at(lambda a: a.dropout, attention, eqx.nn.Dropout(0.1, inference=False))
        assert loops(attend, attention, x)
        assert not loops(attend, attention, x[0]) and not loops(attend, attention, x[:, :4])
        assert not loops(attend, drops, x) and loops(attend, eqx.nn.inference_mode(drops), x)


@ON_ONE_CPU
class TestManyTokens:
    """The encoder's layers over a part of the rows at a time: the same numbers, and their gradients."""

    @pytest.mark.parametrize("batch", [(5,), (2, 3)], ids=["a row is left", "in two axes"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_the_same(
        self,
        model: bart_eqx.BartForConditionalGeneration,
        batch: tuple[int, ...],
        masked: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """In float64 within 4 eps of the largest number; measured 1.83."""
        random = np.random.default_rng(0)
        ids, mask = random.integers(4, 61, (*batch, 11)), None
        if masked:
            mask = np.arange(11) < random.integers(2, 12, (*batch, 1))
        with jax.enable_x64(True):
            bart = in_float64(model.model)

            @eqx.filter_value_and_grad(has_aux=True)
            def encode(bart: bart_eqx.BartModel) -> tuple[jax.Array, Any]:
                found = bart.encode(ids, mask, output_attentions=True, output_hidden_states=True)
                return jnp.sum(jnp.sin(found.last_hidden_state)), found

            (_, wanted), wanted_gradients = encode(bart)
            assert not loops(encode, bart)
            monkeypatch.setattr(encoder_file, "MANY", 55)
            monkeypatch.setattr(encoder_file, "PART", 22 * 24 * 8)
            assert loops(encode, bart)
            (_, got), gradients = encode(bart)
            assert jax.tree.structure(got) == jax.tree.structure(wanted)
            pairs = [*zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)]
            for a, b in (*pairs, (flat(gradients), flat(wanted_gradients))):
                assert a.shape == b.shape and relative_error(a, b) <= 4 * np.finfo(np.float64).eps

    def test_when(self, model: bart_eqx.BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not for one sequence, for fewer tokens, nor where a key may be drawn from."""
        monkeypatch.setattr(encoder_file, "MANY", 22)
        encode = lambda ids: lambda model, **key: model.encode(ids, **key).last_hidden_state
        ids = np.full((2, 11), 5)
        assert loops(encode(ids), model)
        assert not loops(encode(ids[:, :10]), model) and not loops(encode(np.full(22, 5)), model)
        assert not loops(lambda model, key: encode(ids)(model, key=key), model, jax.random.key(0))


def in_float64(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(np.float64) if eqx.is_inexact_array(x) else x, tree)


def flat(tree: Any) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def loops(function: Any, *arguments: Any) -> bool:
    program, *_ = eqx.filter_make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
    return "scan[" in str(program)


@pytest.mark.parametrize("n", [300, 640, 5003, 5025])
@pytest.mark.parametrize("distinct", [3, 10**6])
def test_top_k_by_chunks(n: int, distinct: int) -> None:
    """Equals too, in the same order."""
    scores = np.random.default_rng(n).integers(0, distinct, (4, n)).astype(np.float32)
    scores[0, 7:] = -np.inf
    best, at = jax.jit(top_k, static_argnums=1)(scores, 5)
    wanted, wanted_at = jax.lax.top_k(scores, 5)
    assert np.array_equal(best, wanted) and np.array_equal(at, wanted_at)


def test_top_k_of_equals_in_different_chunks() -> None:
    """The first of them counts, although another's chunk has a larger score beside it."""
    scores = np.zeros((1, 1000), np.float32)
    scores[0, [5, 6, 20, 200, 201, 202, 210]] = 7, 7, 8, 7, 7, 7, 10
    assert top_k(jnp.asarray(scores), 4)[1].tolist() == [[210, 20, 5, 6]]


@pytest.mark.slow
@ON_CPU
@pytest.mark.parametrize("rows", [1, 2])
def test_the_cache_is_written_in_place(model: bart_eqx.BartForConditionalGeneration, rows: int) -> None:
    """Keys and values of two layers are four writes. Where one is done twice, for what reads it and for the next step,
    XLA copies the cache for both."""
    ids = np.full((rows, 5), 7)
    arrays, static = eqx.partition(model, eqx.is_array)
    write = lambda arrays: bart_eqx.generate(eqx.combine(arrays, static), ids, max_length=40).sequences
    program = str(jax.jit(write).lower(arrays).compile().as_text())
    assert len(re.findall(rf"= f32\[({rows},)?2,(12,39|39,12)\]\S* dynamic-update-slice\(", program)) == 4


def test_layers_alike_are_traced_once() -> None:
    traced: list[str] = []

    class Noticed(bart_eqx.AbstractAttention):
        inner: bart_eqx.AbstractAttention
        where: str = eqx.field(static=True)

        def project_kv(self, source: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self.inner.project_kv(source)

        def attend(self, x: jax.Array, *args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array | None]:
            traced.append(self.where)
            return self.inner.attend(x, *args, **kwargs)

    model = random_model(bart_eqx.BartModel, dataclasses.replace(CONFIG, encoder_layers=3, decoder_layers=4))
    where = lambda m: [x.self_attn for x in m.encoder.layers] + [x.self_attn for x in m.decoder.layers]
    names = ["encoder"] * 3 + ["decoder"] * 4
    model = eqx.tree_at(where, model, [Noticed(x, name) for x, name in zip(where(model), names, strict=True)])
    ids, _ = source()
    for _ in range(2):  # as it stands, without `jit`: and then it need not be traced again
        model(ids)
    assert traced == ["encoder", "decoder"]


@ON_CPU
@pytest.mark.parametrize("dtype, wide", [("f32", "f32"), ("bf16", "f32"), ("s8", "s32")])
@pytest.mark.parametrize("rows", [1, 5, 64, 65])
def test_few_rows_come_second(rows: int, dtype: str, wide: str) -> None:
    """XLA exchanges the operands of a product that is transposed, and then takes twice as long."""
    types = {"f32": jnp.float32, "bf16": jnp.bfloat16, "s8": jnp.int8, "s32": jnp.int32}
    x, matrix = jnp.zeros((rows, 20), types[dtype]), jnp.zeros((24, 20), types[dtype])
    program = jax.jit(rows_times_matrix, static_argnums=2).lower(x, matrix, types[wide]).as_text(dialect="hlo")
    taken = 2 if rows == 1 and dtype != wide else rows
    product = f"{wide}[24,{taken}]" if rows <= 64 else f"{wide}[{rows},24]"
    assert re.findall(r"= (\w+\[[\d,]+\])\S* dot\(", program) == [product]
    if dtype == "f32":
        compiled = str(jax.jit(rows_times_matrix, static_argnums=2).lower(x, matrix, types[wide]).compile().as_text())
        assert set(re.findall(r"= (f32\[[\d,]+\])\S* dot\(", compiled)) == {product}


@ON_CPU
def test_narrow_matrices_stay_narrow() -> None:
    """Also where the rows lie transposed, as one product leaves them to the next: for such, XLA widens the matrix."""
    x, first, second = (jnp.zeros(shape, jnp.bfloat16) for shape in ((4, 64), (256, 64), (128, 256)))
    twice = lambda x, first, second: project(jnp.sin(project(x, first)), second)
    program = str(jax.jit(twice).lower(x, first, second).compile().as_text())
    assert not re.findall(r"f32\[(?:256,64|128,256)\]", program)


@ON_CPU
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_caches_are_written_narrow(dtype: type) -> None:
    """XLA would widen all slots, write one, and narrow all of them again."""
    kv = KVCache(jnp.zeros((3, 12, 17), dtype), jnp.zeros((3, 17, 12), dtype))
    new = jnp.full((3, 12, 1), 2, dtype), jnp.full((3, 1, 12), 3, dtype)
    write = jax.jit(lambda kv, new, start: kv.write(*new, start))
    program = str(write.lower(kv, new, jnp.asarray(5)).compile().as_text())
    assert dtype == jnp.float32 or not re.findall(r"f32\[3,(?:12,17|17,12)\]", program)
    written = write(kv, new, jnp.asarray(5))
    slots = np.arange(17) == 5
    assert written.keys.dtype == dtype and np.array_equal(written.keys[0, 0], 2 * slots)
    assert written.values.dtype == dtype and np.array_equal(written.values[0, :, 0], 3 * slots)

    weights = jnp.asarray(np.random.default_rng(0).integers(1, 9, (2, 3, 12, 17)), dtype)

    @jax.grad
    def gradients(arrays: tuple[KVCache, tuple[jax.Array, jax.Array]]) -> jax.Array:
        kv, new = arrays
        kv = kv.write(*new, jnp.asarray(5))
        return jnp.sum(weights[0] * kv.keys) + jnp.sum(weights[1] * jnp.swapaxes(kv.values, 1, 2))

    of_kv, (of_keys, of_values) = gradients((kv, new))
    assert np.array_equal(of_kv.keys, weights[0] * ~slots) and np.array_equal(of_keys, weights[0, ..., 5:6])
    assert np.array_equal(jnp.swapaxes(of_kv.values, 1, 2), weights[1] * ~slots)
    assert np.array_equal(jnp.swapaxes(of_values, 1, 2), weights[1, ..., 5:6])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_every_form_is_the_product(backend: str, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 4 eps; measured 1.5, of sums of 20."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    weight = jnp.asarray(np.random.default_rng(0).standard_normal((24, 20)), dtype)
    for rows in (1, 5, 64, 65):
        x = jnp.asarray(np.random.default_rng(rows).standard_normal((rows, 20)), dtype)
        wanted = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
        assert relative_error(project(x, weight), wanted) <= 4 * jnp.finfo(dtype).eps
    assert relative_error(project(x[0], weight), wanted[0]) <= 4 * jnp.finfo(dtype).eps


class TestQuantize:
    def test_rounding(self) -> None:
        """Half a step of each row's own scale at most, and the exact product of what was rounded."""
        x = np.random.default_rng(0).standard_normal((7, 50)).astype(np.float32) * np.logspace(-3, 3, 7)[:, None]
        x[3] = 0
        x = x.astype(np.float32)
        integers, scale = rounded(jnp.asarray(x))
        assert integers.dtype == jnp.int8 and np.array_equal(
            np.max(np.abs(integers), axis=-1), [127] * 3 + [0] + [127] * 3
        )
        assert np.all(
            np.abs(x - np.asarray(integers) * np.asarray(scale)[:, None]) <= 0.501 * np.asarray(scale)[:, None]
        )

    @pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("rows", [2, 32])
    def test_no_number_stays_none(self, rows: int, value: float) -> None:
        """Of many rows, `jnp.max` on CPU has no NaN: XLA's fast maximum leaves it out."""
        x = np.random.default_rng(0).standard_normal((rows, 768)).astype(np.float32)
        x[1, 500] = value
        weight, weight_scale = rounded(jnp.ones((3, 768)))
        product = np.asarray(jax.jit(project_rounded)(jnp.asarray(x), weight, weight_scale))
        assert np.all(np.isnan(product[1])) and np.all(np.isfinite(np.delete(product, 1, axis=0)))

    def test_linear(self, model: bart_eqx.BartForConditionalGeneration) -> None:
        """One row, many, and no leading axis: as in float64 from the same integers."""
        linear = model.model.decoder.layers[0].fc1
        assert isinstance(linear, Linear)
        quantized = QuantizedLinear(linear)
        weight = np.asarray(quantized.weight, np.float64) * np.asarray(quantized.weight_scale, np.float64)[:, None]
        for shape in ((24,), (1, 24), (2, 5, 24)):
            x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
            scale = np.max(np.abs(x), axis=-1, keepdims=True).astype(np.float64) / 127
            wanted = (np.round(x / scale) * scale) @ weight.T + np.asarray(linear.bias, np.float64)
            assert relative_error(quantized(jnp.asarray(x)), wanted) <= 5e-6

    def test_model(self, model: bart_eqx.BartForConditionalGeneration) -> None:
        """Every linear map and the embedding; the logits within 5 % of their range (2.3 % measured)."""
        small = bart_eqx.quantize(model)
        assert isinstance(small.model.shared, QuantizedEmbedding)
        is_linear = lambda node: isinstance(node, QuantizedLinear)
        assert sum(map(is_linear, jax.tree.leaves(small, is_leaf=is_linear))) == 6 + 2 * 10
        ids, mask = source()
        assert 0 < relative_error(small(ids, mask).logits, model(ids, mask).logits) <= 0.05
        assert np.all(np.isnan(eqx.filter_jit(small)(jnp.array([[4, 61]])).logits))
        with pytest.raises(ValueError, match="found no weights to round"):
            bart_eqx.quantize(small)

    @pytest.mark.slow
    def test_the_demo_still_spells(self) -> None:
        model = bart_eqx.from_pretrained("demo", bart_eqx.BartForConditionalGeneration)
        small = bart_eqx.quantize(model)
        ids = np.array([[0, *(20 + np.array(digits)), 2] for digits in np.ndindex(10, 10, 2)])
        for num_beams in (1, 4):
            wanted = bart_eqx.generate(model, ids, num_beams=num_beams).sequences
            got = bart_eqx.generate(small, ids, num_beams=num_beams).sequences
            assert np.array_equal(got, wanted)

    @pytest.mark.parametrize("tied", [True, False])
    def test_saved_and_loaded(self, tied: bool, tmp_path: Any) -> None:
        config = bart_eqx.BartConfig.from_dict(CONFIG.to_dict() | dict(tie_word_embeddings=tied))
        small = bart_eqx.quantize(random_model(bart_eqx.BartForConditionalGeneration, config))
        bart_eqx.save_pretrained(small, tmp_path)
        loaded = bart_eqx.from_pretrained(tmp_path)
        assert eqx.tree_equal(loaded, small)
        half: Any = bart_eqx.from_pretrained(tmp_path, dtype=jnp.bfloat16)
        assert half.model.shared.weight.dtype == jnp.int8 and half.model.shared.weight_scale.dtype == jnp.bfloat16
        other = bart_eqx.from_pretrained(tmp_path, bart_eqx.BartForSequenceClassification, key=jax.random.key(0))
        assert isinstance(other.classification_head.dense, QuantizedLinear)
        with pytest.raises(bart_eqx.CheckpointError, match="no int8 weights"):
            bart_eqx.save_pretrained(small, tmp_path / "flax", to="flax")

    def test_weights_of_another_kind(self, model: bart_eqx.BartForConditionalGeneration, tmp_path: Any) -> None:
        bart_eqx.save_pretrained(bart_eqx.quantize(model), tmp_path)
        config = (tmp_path / "config.json").read_text()
        (tmp_path / "config.json").write_text(config.replace('"int8"', '"int4"'))
        with pytest.raises(ValueError, match="`quantization_config` must be None"):
            bart_eqx.from_pretrained(tmp_path)
        bart_eqx.save_pretrained(model, tmp_path)
        fields = (tmp_path / "config.json").read_text().replace("{", '{"quantization_config": ' + QUANTIZED + ",", 1)
        (tmp_path / "config.json").write_text(fields)
        with pytest.raises(bart_eqx.CheckpointError, match="not int8: "):
            bart_eqx.from_pretrained(tmp_path)


QUANTIZED = '{"quant_method": "bart_eqx", "weights": "int8"}'

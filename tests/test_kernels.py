"""Every kernel against the line of mathematics that it equals, and where each is used."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import bart_eqx
from bart_eqx.kernels import attention as attention_file, plain, rows as rows_file
from bart_eqx.kernels.attention import DotProduct
from bart_eqx.kernels.matmul import int8_matmul, matmul, quantize_rows
from bart_eqx.kernels.narrow_product import narrow_product
from bart_eqx.kernels.rows import row_by_row
from bart_eqx.kernels.slots import write_slots
from bart_eqx.kernels.top_k import argmax, top_k
from bart_eqx.model.cache import KVCache
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
NO_DROPOUT = eqx.nn.Dropout(0.1, inference=True)
DTYPES = [np.float32, jnp.bfloat16, np.float16, np.float64]


@pytest.fixture(scope="module")
def model() -> bart_eqx.BartForConditionalGeneration:
    return random_model(bart_eqx.BartForConditionalGeneration, CONFIG)


def numbers(random: np.random.Generator, *shape: int, dtype: Any, nan: bool = False) -> jax.Array:
    x = random.standard_normal(shape)
    if nan and x.size:
        x.flat[random.integers(x.size)] = random.choice([np.nan, np.inf, -np.inf])
    return jnp.asarray(x, dtype)


def both(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """What the kernel returns, and what its reference does."""
    with plain():
        reference = jax.jit(function)(*arguments)
    return jax.jit(function)(*arguments), reference


def check_equal(got: Any, wanted: Any, tolerance: Any) -> None:
    """Within `tolerance` of the largest number, NaN and infinities in the same places."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        known = np.isfinite(b)
        assert np.array_equal(np.isfinite(a), known) and np.array_equal(a[~known], b[~known], equal_nan=True)
        assert not known.any() or np.abs(a[known] - b[known]).max() <= tolerance * max(np.abs(b[known]).max(), 1e-30)


class TestEqualsItsReference:
    """Random shapes, dtypes and NaN. Tolerances are in units of the dtype's eps; beside each, the largest measured."""

    shapes = settings(max_examples=15, deadline=None, derandomize=True)

    @shapes
    @given(st.data(), st.sampled_from(DTYPES), st.booleans())
    def test_matmul(self, data: st.DataObject, dtype: Any, nan: bool) -> None:
        """Measured 1.0."""
        batch = data.draw(st.sampled_from([(), (1,), (5,), (2, 3), (64,), (65,), (3, 40)]))
        random = np.random.default_rng(data.draw(st.integers(0, 99)))
        with jax.enable_x64(dtype == np.float64):
            x, weight = numbers(random, *batch, 20, dtype=dtype, nan=nan), numbers(random, 24, 20, dtype=dtype)
            check_equal(*both(matmul, x, weight), 2 * jnp.finfo(dtype).eps)

    @shapes
    @given(st.data(), st.sampled_from(DTYPES[:3]), st.booleans())
    def test_int8_matmul(self, data: st.DataObject, dtype: Any, nan: bool) -> None:
        """Sums of integers are exact, and so are the two forms equal."""
        batch = data.draw(st.sampled_from([(), (1,), (5,), (2, 3), (64,), (65,)]))
        random = np.random.default_rng(data.draw(st.integers(0, 99)))
        x = numbers(random, *batch, 20, dtype=dtype, nan=nan)
        check_equal(*both(int8_matmul, x, *quantize_rows(numbers(random, 24, 20, dtype=dtype))), jnp.finfo(dtype).eps)

    @shapes
    @given(st.data(), st.sampled_from(DTYPES), st.booleans())
    def test_write_slots(self, data: st.DataObject, dtype: Any, nan: bool) -> None:
        """To the last bit."""
        random = np.random.default_rng(data.draw(st.integers(0, 99)))
        with jax.enable_x64(dtype == np.float64):
            x, new = (numbers(random, 2, 3, length, dtype=dtype, nan=nan) for length in (9, 2))
            write = lambda x, new, start: write_slots(x, new, start, axis=-1)
            check_equal(*both(write, x, new, jnp.asarray(data.draw(st.integers(0, 7)))), 0)

    @shapes
    @given(st.data(), st.booleans())
    def test_top_k(self, data: st.DataObject, nan: bool) -> None:
        """Exactly: values, indices, and the order of equal scores."""
        n, k = data.draw(st.sampled_from([300, 640, 5003, 5025])), data.draw(st.integers(1, 9))
        random = np.random.default_rng(data.draw(st.integers(0, 99)))
        scores = random.integers(0, data.draw(st.sampled_from([3, 10**6])), (4, n)).astype(np.float32)
        scores[0, 7:] = -np.inf
        if nan:
            scores[1, random.integers(n)], scores[2, random.integers(n, size=3)] = np.nan, np.inf
            scores[3, random.integers(n)] = -np.float32(np.nan)
        check_equal(*both(lambda scores: top_k(scores, k), jnp.asarray(scores)), 0)

    @shapes
    @given(st.data(), st.sampled_from(DTYPES), st.booleans())
    def test_argmax(self, data: st.DataObject, dtype: Any, nan: bool) -> None:
        """The first of equal scores; of NaN, of either sign, before infinity; of a row that is all masked."""
        n = data.draw(st.sampled_from([300, 5003]))
        random = np.random.default_rng(data.draw(st.integers(0, 99)))
        scores = random.integers(-9, data.draw(st.sampled_from([-5, 10**4])), (2, 3, n)).astype(np.float64)
        scores[0, 0], scores[0, 1, 7:] = -np.inf, -np.inf
        scores[0, 2, random.integers(n, size=2)] = np.inf
        if nan:
            scores[1, 0, random.integers(n, size=3)] = np.nan, np.inf, np.inf
            scores[1, 1, random.integers(n, size=3)] = -np.nan, np.inf, np.nan
        with jax.enable_x64(dtype == np.float64):
            check_equal(*both(argmax, jnp.asarray(scores, dtype)), 0)

    @ON_ONE_CPU
    @pytest.mark.parametrize(
        ("dtype", "mask", "bias"),
        [
            *itertools.product([np.float32], [None, "padding", "pairs"], [False, True]),
            *((dtype, "padding", True) for dtype in DTYPES if dtype != np.float32),
        ],
    )
    def test_attention(self, dtype: Any, mask: str | None, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Values and gradients, measured 1."""
        random = np.random.default_rng(0)
        shapes = {"padding": (3, 2, 1, 1, 7), "pairs": (3, 2, 1, 5, 7)}
        with jax.enable_x64(dtype == np.float64):
            queries, keys, values = (
                numbers(random, 3, 2, 3, *shape, dtype=dtype) for shape in ((5, 8), (8, 7), (7, 8))
            )
            allowed = None if mask is None else jnp.asarray(random.random(shapes[mask]) < 0.6)
            added = numbers(random, 3, 2, 3, 5, 7, dtype=dtype) if bias else None

            def attend(queries: Any, keys: Any, values: Any) -> Any:
                run = lambda q, k, v: DotProduct()(q, k, v, allowed, NO_DROPOUT, bias=added, key=None)
                loss = lambda q, k, v: jnp.sum(jnp.sin(run(q, k, v)[0]))
                outputs = run(queries, keys, values)
                return outputs, jax.grad(loss, (0, 1, 2))(queries, keys, values)

            assert not loops(attend, queries, keys, values)
            monkeypatch.setattr(attention_file, "LARGE_SCORES", 3 * 5 * 7 * 4)
            assert loops(attend, queries, keys, values)
            check_equal(*both(attend, queries, keys, values), 4 * jnp.finfo(dtype).eps)

    def test_a_bias_is_added_to_the_scores(self) -> None:
        """As of two more channels: queries of one, and keys that are the bias. Masked keys stay masked."""
        random = np.random.default_rng(0)
        queries, keys, values = (numbers(random, 2, 3, *s, dtype=np.float32) for s in ((5, 8), (8, 7), (7, 8)))
        bias, mask = numbers(random, 2, 3, 1, 7, dtype=np.float32), jnp.asarray(random.random((2, 1, 5, 7)) < 0.6)
        context, weights = DotProduct()(queries, keys, values, mask, NO_DROPOUT, bias=100 * bias, key=None)
        one_more = jnp.concatenate([queries, jnp.full((2, 3, 5, 1), 100.0)], -1), jnp.concatenate([keys, bias], -2)
        wanted = DotProduct()(*one_more, jnp.concatenate([values] * 2, -1)[..., :9], mask, NO_DROPOUT, key=None)
        assert relative_error(weights, wanted[1]) <= 1e-5 and relative_error(context, wanted[0][..., :8]) <= 1e-5

    @ON_ONE_CPU
    @pytest.mark.parametrize("batch", [(5,), (2, 3)], ids=["a row is left", "in two axes"])
    @pytest.mark.parametrize("masked", [False, True])
    def test_encoder_in_parts(
        self,
        model: bart_eqx.BartForConditionalGeneration,
        batch: tuple[int, ...],
        masked: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Outputs and gradients in float64, measured 1.83."""
        random = np.random.default_rng(0)
        ids, mask = random.integers(4, 61, (*batch, 11)), None
        if masked:
            mask = np.arange(11) < random.integers(2, 12, (*batch, 1))
        monkeypatch.setattr(rows_file, "MANY_TOKENS", 55)
        monkeypatch.setattr(rows_file, "PART_BYTES", 22 * 24 * 8)
        with jax.enable_x64(True):
            arrays, static = eqx.partition(in_float64(model.model), eqx.is_array)

            def encode(arrays: Any) -> tuple[Any, Any]:
                encoded = lambda arrays: eqx.combine(arrays, static).encode(
                    ids, mask, output_attentions=True, output_hidden_states=True
                )
                return encoded(arrays), jax.grad(lambda a: jnp.sum(jnp.sin(encoded(a).last_hidden_state)))(arrays)

            assert loops(encode, arrays)
            (got, gradients), (wanted, wanted_gradients) = both(encode, arrays)
            check_equal(got, wanted, 4 * np.finfo(np.float64).eps)
            check_equal(flat(gradients), flat(wanted_gradients), 4 * np.finfo(np.float64).eps)

    @ON_ONE_CPU
    def test_row_by_row(self, model: bart_eqx.BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
        """The states of tokens; rows that end early at a part of the width, and zeros behind."""
        monkeypatch.setattr(rows_file, "LONG", 4)
        ids, mask = source(rows=4)
        encode = lambda ids, mask: model.encode(ids, mask).last_hidden_state
        for given_mask in (None, jnp.asarray(mask)):
            each = lambda ids, given_mask=given_mask: row_by_row(encode, ids, given_mask)
            got, wanted = both(each, jnp.asarray(ids))
            where = mask if given_mask is not None else np.ones_like(mask)
            assert relative_error(got[where], wanted[where]) <= 5e-6
        assert np.all(np.asarray(got)[2, 6:] == 0)  # five tokens: computed at half the width
        monkeypatch.setattr(rows_file, "LONG", 12)  # eleven tokens are too few to go row by row
        assert np.all(np.asarray(jax.jit(lambda ids: each(ids))(jnp.asarray(ids)))[2, 6:] != 0)

    @ON_ONE_CPU
    def test_short_rows_in_groups(
        self, model: bart_eqx.BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every state of every row, although the last group repeats a row; small batches are one group."""
        ids, mask = source(rows=5)
        encode = lambda ids, mask: model.encode(ids, mask).last_hidden_state
        for given_mask in (None, jnp.asarray(mask)):
            each = lambda ids, given_mask=given_mask: row_by_row(encode, ids, given_mask)
            assert not loops(each, jnp.asarray(ids))
            with monkeypatch.context() as patched:
                patched.setattr(rows_file, "GROUP_TOKENS", 33)
                patched.setattr(rows_file, "MOST_GROUP_TOKENS", 33)
                assert rows_file.group_size(*ids.shape) == 3
                got, wanted = both(each, jnp.asarray(ids))
                assert loops(each, jnp.asarray(ids))
            assert relative_error(got, wanted) <= 5e-6

    def test_groups_are_full(self) -> None:
        """Hardly a row is computed twice, and no group is larger than it may be."""
        for src, batch in itertools.product((4, 20, 33, 48, 56, 97, 127), range(40, 400, 9)):
            if batch * src <= rows_file.MOST_GROUP_TOKENS:
                continue
            rows = rows_file.group_size(batch, src)
            assert 0.3 * rows_file.GROUP_TOKENS < rows * src <= rows_file.MOST_GROUP_TOKENS
            assert -batch % rows <= 0.06 * batch


@ON_ONE_CPU
def test_a_row_without_a_token_is_encoded_whole(
    model: bart_eqx.BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queries attend to all of its padding, so that no state of it may be left out."""
    monkeypatch.setattr(rows_file, "LONG", 4)
    ids, mask = source()
    mask[1] = False
    encode = lambda ids: row_by_row(lambda i, m: model.encode(i, m).last_hidden_state, ids, jnp.asarray(mask))
    got, wanted = both(encode, jnp.asarray(ids))
    assert relative_error(got[1], wanted[1]) <= 5e-6


def test_without_a_cpu_there_are_no_kernels_for_it(
    model: bart_eqx.BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`JAX_PLATFORMS=cuda` leaves JAX without a CPU backend, and asking for its devices is an error."""

    def no_cpu(backend: str | None = None) -> int:
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "device_count", no_cpu)
    monkeypatch.setattr(rows_file, "LONG", 4)
    monkeypatch.setattr(attention_file, "LARGE_SCORES", 100)
    monkeypatch.setattr(rows_file, "MANY_TOKENS", 22)
    ids, mask = source()
    assert bart_eqx.generate(model, ids, mask, max_length=5).finite.all()


class TestWhereUsed:
    """What was lowered for a CPU has the kernels, inside `plain()` or for another platform it has none."""

    @ON_ONE_CPU
    def test_attention(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not for a single row, for small scores, nor where dropout draws for the whole batch."""
        monkeypatch.setattr(attention_file, "LARGE_SCORES", 3 * 5 * 5 * 4)
        drops = eqx.nn.Dropout(0.1, inference=False)

        def attend(queries: jax.Array, dropout: eqx.nn.Dropout = NO_DROPOUT) -> Any:
            keys = jnp.swapaxes(queries, -1, -2)
            return DotProduct()(queries, keys, queries, None, dropout, key=jax.random.key(0))[0]

        queries = jnp.zeros((2, 3, 5, 8))
        assert loops(attend, queries)
        assert not loops(attend, queries[:1]) and not loops(attend, queries[:, :, :4])
        assert not loops(lambda q: attend(q, drops), queries)
        assert loops(lambda q: attend(q, eqx.nn.inference_mode(drops)), queries)

    @ON_ONE_CPU
    def test_encoder(self, model: bart_eqx.BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not for one sequence, for fewer tokens, nor where a key may be drawn from."""
        monkeypatch.setattr(rows_file, "MANY_TOKENS", 22)
        encode = lambda ids, **key: model.encode(ids, **key).last_hidden_state
        ids = jnp.full((2, 11), 5)
        assert loops(encode, ids)
        assert not loops(encode, ids[:, :10]) and not loops(encode, jnp.full(22, 5))
        assert not loops(lambda ids: encode(ids, key=jax.random.key(0)), ids)

    @pytest.mark.parametrize("platform", ["cuda", "tpu"])
    @pytest.mark.parametrize("what", ["encode", "decode", "generate"])
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
    def test_export_for_another_platform(
        self,
        model: bart_eqx.BartForConditionalGeneration,
        platform: str,
        what: str,
        dtype: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """No barrier, no bitcast, no loop and no branch that the plain form does not have."""
        monkeypatch.setattr(rows_file, "MANY_TOKENS", 22)
        monkeypatch.setattr(rows_file, "LONG", 4)
        monkeypatch.setattr(attention_file, "LARGE_SCORES", 100)
        small = bart_eqx.quantize(model) if dtype == jnp.int8 else in_dtype(model, dtype)
        ids = jnp.full((3, 11), 5)
        encoded = jax.eval_shape(lambda: small.encode(ids))
        cache = jax.eval_shape(lambda encoded: small.init_cache(encoded, max_length=9), encoded)
        programs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "encode": (lambda ids: small.encode(ids).last_hidden_state, (ids,)),
            "decode": (lambda cache, ids: small.decode(ids, cache)[0].logits, (cache, ids[:, :1])),
            "generate": (lambda ids: bart_eqx.generate(small, ids, num_beams=2, max_length=9).sequences, (ids,)),
        }
        function, arguments = programs[what]
        counts = lambda: count_operations(exported(function, arguments, platform))
        found = counts()
        with plain():
            assert found == counts()
        if what != "generate":  # whose plain form is a loop itself
            assert found["while"] == 0
        assert found["optimization_barrier"] == found["bitcast_convert"] == 0
        on_cpu = count_operations(exported(function, arguments, "cpu"))
        assert on_cpu["optimization_barrier"] > 0  # the test would see one


@pytest.mark.parametrize("what", ["encode", "forward", "decode"])
def test_export_with_symbolic_shapes(model: bart_eqx.BartForConditionalGeneration, what: str) -> None:
    """One program for every batch and every length; measured 5e-7."""
    batch, src, tgt = jax.export.symbolic_shape("b, s, t", constraints=["s <= 40", "t <= 9"])
    ids = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)

    def decode(input_ids: jax.Array, decoder_input_ids: jax.Array) -> jax.Array:
        cache = model.init_cache(model.encode(input_ids), max_length=9)
        return model.decode(decoder_input_ids, cache)[0].logits

    functions: dict[str, Callable[..., jax.Array]] = {
        "encode": lambda i, d: model.encode(i, i != 1).last_hidden_state + d.shape[1],
        "forward": lambda i, d: model(i, i != 1, d).logits,
        "decode": decode,
    }
    function, given = functions[what], source()[0].astype(np.int32)
    program = jax.export.export(jax.jit(function), platforms=["cpu", "cuda"])(ids(batch, src), ids(batch, tgt))
    for rows, length in ((3, 4), (2, 1)):
        arguments = jnp.asarray(given[:rows]), jnp.asarray(given[:rows, :length])
        assert relative_error(program.call(*arguments), function(*arguments)) <= 5e-6


def exported(function: Callable[..., Any], arguments: tuple[Any, ...], platform: str) -> str:
    # A new function each time: what was exported inside `plain()` is not to be found again outside.
    return jax.export.export(jax.jit(lambda *a: function(*a)), platforms=[platform])(*arguments).mlir_module()


def count_operations(program: str) -> dict[str, int]:
    names = ("optimization_barrier", "bitcast_convert", "while")
    return {name: len(re.findall(rf"stablehlo\.{name}\b", program)) for name in names}


def source(rows: int = 3, width: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and a mask under which the rows end at different places; the last has nothing in its first half."""
    ids = np.random.default_rng(0).integers(4, 61, (rows, width))
    lengths = np.linspace(width, 2, rows).astype(int)
    mask = np.arange(width) < lengths[:, None]
    mask[-1] = np.arange(width) >= width // 2
    return ids, mask


def in_dtype(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, tree)


def in_float64(tree: Any) -> Any:
    return in_dtype(tree, np.float64)


def flat(tree: Any) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def loops(function: Any, *arguments: Any) -> bool:
    """Whether there are more loops than in the plain form: random numbers are drawn in loops, too."""
    count = lambda: jax.jit(lambda *a: function(*a)).lower(*arguments).as_text().count("stablehlo.while")
    found = count()
    with plain():
        return found > count()


def test_top_k_of_equals_in_different_chunks() -> None:
    """The first of them counts, although another's chunk has a larger score beside it."""
    scores = np.zeros((1, 1000), np.float32)
    scores[0, [5, 6, 20, 200, 201, 202, 210]] = 7, 7, 8, 7, 7, 7, 10
    assert top_k(jnp.asarray(scores), 4)[1].tolist() == [[210, 20, 5, 6]]


@ON_CPU
@pytest.mark.parametrize("dtype, wide", [("f32", "f32"), ("bf16", "f32"), ("s8", "s32")])
@pytest.mark.parametrize("rows", [1, 5, 64, 65])
def test_few_rows_come_second(rows: int, dtype: str, wide: str) -> None:
    """XLA swaps the operands of a product that is transposed, and then takes twice as long."""
    x = jnp.zeros((rows, 20), jnp.bfloat16 if dtype == "bf16" else jnp.float32)
    if dtype == "s8":
        lowered = jax.jit(int8_matmul).lower(x, jnp.zeros((24, 20), jnp.int8), jnp.zeros(24))
    else:
        lowered = jax.jit(matmul).lower(x, jnp.zeros((24, 20), x.dtype))
    taken = 2 if rows == 1 and dtype != wide else rows
    product = f"{wide}[24,{taken}]" if rows <= 64 else f"{wide}[{rows},24]"
    assert re.findall(r"= (\w+\[[\d,]+\])\S* dot\(", lowered.as_text(dialect="hlo")) == [product]
    if dtype == "f32":
        assert set(re.findall(r"= (f32\[[\d,]+\])\S* dot\(", str(lowered.compile().as_text()))) == {product}


@ON_CPU
def test_narrow_matrices_stay_narrow() -> None:
    """Also where the rows lie transposed, as one product leaves them to the next: for such, XLA widens the matrix."""
    x, first, second = (jnp.zeros(shape, jnp.bfloat16) for shape in ((4, 64), (256, 64), (128, 256)))
    twice = lambda x, first, second: matmul(jnp.sin(matmul(x, first)), second)
    program = str(jax.jit(twice).lower(x, first, second).compile().as_text())
    assert not re.findall(r"f32\[(?:256,64|128,256)\]", program)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("rows", [3, 80])
def test_gradients_of_narrow_products_are_narrow_products(rows: int, dtype: Any) -> None:
    """JAX's own derivative widens them, at half the rate of a GPU. Their sums are float32, and are rounded once."""
    random = np.random.default_rng(0)
    x, weight, cotangent = (numbers(random, *shape, dtype=dtype) for shape in ((rows, 20), (24, 20), (rows, 24)))
    pulled = jax.jit(lambda *operands: jax.vjp(matmul, *operands)[1](cotangent))
    wide = lambda array: np.asarray(array, np.float64)
    exact = wide(cotangent) @ wide(weight), wide(cotangent).T @ wide(x)
    for ours, sums in zip(pulled(x, weight), exact, strict=True):
        assert ours.dtype == dtype
        rounding = float(jnp.finfo(dtype).eps) / 2 * np.abs(sums)
        assert (np.abs(wide(ours) - sums) <= 1.001 * rounding + 1e-6 * np.abs(sums).max()).all()
    products = re.findall(r"dot_general.*: \((.*)\) ->", pulled.lower(x, weight).as_text())
    assert len(products) >= 2 and not any("f32" in operands for operands in products)

    pushed = jax.jvp(matmul, (x, weight), (2 * x, weight))[1]
    check_equal(pushed, 3 * matmul(x, weight), 2 * jnp.finfo(dtype).eps)  # measured 1
    frozen = jax.make_jaxpr(lambda x: jax.vjp(lambda x: matmul(x, weight), x)[1](cotangent))(x)
    assert str(frozen).count("narrow_product[") == 1


@ON_CPU
def test_gradients_of_narrow_products_stay_narrow() -> None:
    """XLA widens bfloat16 matrices in all forms of a product but two."""
    x, weight, cotangent = (jnp.zeros(shape, jnp.bfloat16) for shape in ((96, 64), (256, 64), (96, 256)))
    pulled = lambda *operands: jax.vjp(matmul, *operands)[1](cotangent)
    program = str(jax.jit(pulled).lower(x, weight).compile().as_text())
    assert "f32[96,64]" in program and "f32[256,64]" in program  # the gradients, before they are rounded
    assert "f32[96,256]" not in program and not re.findall(r"f32\[\S* (convert|fusion)\(%(x|weight)", program)


@pytest.mark.parametrize("contract", [(1, 1), (1, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_every_derivative_of_a_narrow_product(dtype: Any, contract: tuple[int, int]) -> None:
    """Those of `dot_general`, forward, backward, twice, and under `vmap`."""
    random = np.random.default_rng(0)
    shape = lambda axis, size: (size, 6) if axis == 1 else (6, size)
    a, b = numbers(random, *shape(contract[0], 4), dtype=dtype), numbers(random, *shape(contract[1], 5), dtype=dtype)
    cotangent = numbers(random, 4, 5, dtype=dtype)
    dimensions = ((contract[:1], contract[1:]), ((), ()))
    ours = lambda a, b: narrow_product(a, b, contract=contract)
    theirs = lambda a, b: jax.lax.dot_general(a, b, dimensions)

    def derivatives(product: Any) -> Any:
        squared = lambda a, b: jnp.sum(cotangent * product(a, b) ** 2)
        gradients = jax.grad(squared, argnums=(0, 1))
        return (
            jax.jvp(product, (a, b), (2 * a, b)),
            jax.vjp(product, a, b)[1](cotangent),
            jax.jvp(gradients, (a, b), (b.sum() * a, b)),  # forward over reverse
            jax.grad(lambda a, b: jnp.sum(gradients(a, b)[1] ** 2))(a, b),  # reverse over reverse
            jax.vmap(gradients, in_axes=(0, None))(jnp.stack([a, 2 * a]), b),
            jax.grad(lambda a: jnp.sum(jax.vmap(product, in_axes=(0, None))(jnp.stack([a, 2 * a]), b)))(a),
        )

    check_equal(jax.jit(lambda: derivatives(ours))(), jax.jit(lambda: derivatives(theirs))(), 4 * jnp.finfo(dtype).eps)


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

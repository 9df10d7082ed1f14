"""The attentions of `examples/`, each against its definition, written out in loops."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import bart_eqx
from examples.alibi import ALiBiAttention
from examples.grouped_keys import GroupedKeysAttention
from examples.long_documents import BlockedWindow, with_positions
from examples.rotary import RotaryAttention, rotated
from examples.sliding_window import SlidingWindow
from extension_checks import CONFIG, check_cached_equals_full, check_generates, self_attentions
from support import configured, ragged_inputs, random_model, relative_error


HEADS, HEAD_DIM = 4, 8
SLOPES = [1 / 4, 1 / 16, 1 / 64, 1 / 256]  # the paper's for four heads
KINDS: dict[str, Callable[[bart_eqx.BartAttention], bart_eqx.AbstractAttention]] = {
    "rotary": RotaryAttention,
    "alibi": ALiBiAttention,
    "window": lambda attention: SlidingWindow(attention, 2),
    "grouped": lambda attention: GroupedKeysAttention(attention, 2),
    "rotary in a window": lambda attention: SlidingWindow(RotaryAttention(attention, 100.0), 2),
}


def rotary_score(base: float) -> Callable[..., float]:
    def score(q: np.ndarray, k: np.ndarray, distance: int, head: int) -> float:
        """The real part of a product of complex numbers, turned by the distance."""
        half = HEAD_DIM // 2
        turn = np.exp(1j * distance * base ** (-np.arange(half) / half))
        return float(((q[:half] + 1j * q[half:]) * np.conj(k[:half] + 1j * k[half:]) * turn).real.sum())

    return score


def product(q: np.ndarray, k: np.ndarray, distance: int, head: int) -> float:
    return float(q @ k)


def alibi_score(q: np.ndarray, k: np.ndarray, distance: int, head: int) -> float:
    return float(q @ k) - SLOPES[head] * abs(distance) * HEAD_DIM**0.5  # which is divided by that


SCORES = {
    "rotary": rotary_score(10000.0),
    "alibi": alibi_score,
    "window": product,
    "grouped": product,
    "rotary in a window": rotary_score(100.0),
}


def by_definition(
    kind: str, attention: bart_eqx.BartAttention, x: np.ndarray, positions: np.ndarray, causal: bool
) -> np.ndarray:
    """For one sequence, one query, one head and one key at a time, in float64."""
    parameters: Any = attention
    linear = lambda name: [np.asarray(p, np.float64) for p in jax.tree.leaves(getattr(parameters, name))]
    project = lambda name: (x @ linear(name)[0].T + linear(name)[1]).reshape(len(x), HEADS, HEAD_DIM)
    q, k, v = (project(name) for name in ("q_proj", "k_proj", "v_proj"))
    if kind == "grouped":  # heads 0 and 1 share their mean, and heads 2 and 3
        k, v = (np.repeat(y.reshape(len(x), 2, 2, HEAD_DIM).mean(2), 2, axis=1) for y in (k, v))
    context = np.zeros_like(q)
    for i in range(len(x)):
        near = lambda j: "window" not in kind or abs(positions[i] - positions[j]) <= 2  # noqa: B023
        keys = [j for j in range(len(x)) if near(j) and not (causal and j > i)]
        for head in range(HEADS):
            scores = [SCORES[kind](q[i, head], k[j, head], positions[i] - positions[j], head) for j in keys]
            weights = np.exp(np.array(scores) / HEAD_DIM**0.5)
            context[i, head] = weights / weights.sum() @ v[keys, head]
    weight, bias = linear("out_proj")
    return context.reshape(len(x), -1) @ weight.T + bias


@pytest.fixture(scope="module")
def bart() -> bart_eqx.BartForConditionalGeneration:
    return random_model(bart_eqx.BartForConditionalGeneration, CONFIG)


def without_positions(model: Any) -> Any:
    tables = lambda m: (m.model.encoder.embed_positions, m.model.decoder.embed_positions)
    return eqx.tree_at(tables, model, (None, None))


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, bart: bart_eqx.BartForConditionalGeneration) -> Any:
    """On both sides, and without BART's own positions."""
    attentions = list(map(KINDS[request.param], self_attentions(bart)))
    return without_positions(eqx.tree_at(self_attentions, bart, attentions))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_definition(bart: bart_eqx.BartForConditionalGeneration, kind: str, causal: bool) -> None:
    """Two sequences, one of which starts at position 3. Measured 2.4e-7."""
    x = np.random.default_rng(0).standard_normal((2, 9, 32)).astype(np.float32)
    positions = np.arange(9) + np.array([[0], [3]])
    positions[0, 5:] += 1
    mask = jnp.tril(jnp.ones((2, 1, 9, 9), bool)) if causal else None
    inner: Any = bart.model.decoder.layers[0]
    attention = KINDS[kind](inner.self_attn)
    keys, values = attention.project_kv(jnp.asarray(x), jnp.asarray(positions))
    got, weights = attention.attend(jnp.asarray(x), keys, values, mask, jnp.asarray(positions), jnp.asarray(positions))
    wanted = [by_definition(kind, inner.self_attn, *row, causal) for row in zip(x, positions, strict=True)]
    assert relative_error(got, np.stack(wanted)) <= 1e-6
    assert weights is not None and weights.shape == (2, HEADS, 9, 9)


def test_cached_equals_full(model: Any) -> None:
    check_cached_equals_full(model)


def test_greedy_and_four_beams(model: Any) -> None:
    check_generates(model)


def test_grouped_keys_need_less_cache(bart: bart_eqx.BartForConditionalGeneration) -> None:
    attentions = [KINDS["grouped"](attention) for attention in self_attentions(bart)]
    model = eqx.tree_at(self_attentions, bart, attentions)
    cache = model.init_cache(model.encode(np.array([5, 6, 2])), max_length=7)
    assert cache.self_attn[0].keys.shape == (2, HEAD_DIM, 7) and cache.self_attn[0].values.shape == (2, 7, HEAD_DIM)


class TestWrongShapes:
    """Inside the user's own module: the error names the axes."""

    def replaced(self, bart: Any, attention: Any) -> Any:
        return eqx.tree_at(lambda m: m.model.encoder.layers[0].self_attn, bart, attention)(np.array([5, 6, 7, 2]))

    def test_rotary(self, bart: Any) -> None:
        """Keys that are not transposed before they are rotated."""
        attention, positions = self_attentions(bart)[0], jnp.arange(9)
        keys, _ = attention.project_kv(jnp.ones((9, 32)), positions)
        with pytest.raises(TypeCheckError, match=r"\*batch seq"):
            rotated(keys, positions, 100.0)
        with pytest.raises(TypeCheckError, match=r"\*batch kv"):
            RotaryAttention(attention).project_kv(jnp.ones((9, 32)), jnp.arange(8))

    def test_alibi(self, bart: Any) -> None:
        wrong = eqx.tree_at(lambda a: a.slopes, ALiBiAttention(self_attentions(bart)[0]), jnp.ones(3))
        with pytest.raises(TypeCheckError, match=r"\*batch #heads #q kv"):
            self.replaced(bart, wrong)

    def test_grouped_keys(self, bart: Any) -> None:
        """Three heads of keys for four of queries."""
        with pytest.raises(TypeError):
            GroupedKeysAttention(self_attentions(bart)[0], 3)
        attention = GroupedKeysAttention(self_attentions(bart)[0], 2)
        where = lambda a: (a.attention.v_proj.weight, a.attention.v_proj.bias)
        wrong = eqx.tree_at(where, attention, (jnp.ones((12, 32)), jnp.ones(12)))
        with pytest.raises(TypeCheckError, match=r"\*batch kv_heads kv head_dim"):
            self.replaced(bart, wrong)

    def test_windows(self, bart: Any) -> None:
        class Transposed(bart_eqx.AbstractAttention):
            attention: bart_eqx.AbstractAttention

            def project_kv(self, source, positions):
                keys, values = self.attention.project_kv(source, positions)
                return jnp.swapaxes(keys, -1, -2), values

            def attend(self, x, keys, values, mask, query_positions, key_positions, *, key=None):
                return self.attention.attend(x, keys, values, mask, query_positions, key_positions, key=key)

        with pytest.raises(TypeCheckError, match=r"\*batch kv_heads head_dim kv"):
            self.replaced(bart, SlidingWindow(Transposed(self_attentions(bart)[0]), 2))

    def test_blocks_in_a_decoder(self, bart: Any) -> None:
        """Which has fewer queries than keys."""
        where = lambda m: m.model.decoder.layers[0].self_attn
        model = eqx.tree_at(where, bart, BlockedWindow(where(bart), 2))
        cache = model.init_cache(model.encode(np.array([5, 6, 2])), max_length=7)
        with pytest.raises(TypeCheckError, match=r"\*batch heads head_dim src"):
            model.decode(np.array([2, 5]), cache)


class TestLongDocuments:
    @pytest.mark.parametrize("window", [1, 2, 4, 11, 20])
    def test_blocks(self, bart: Any, window: int) -> None:
        """The same states at tokens as of all scores, for lengths that blocks divide and do not divide."""
        inputs = ragged_inputs(CONFIG)
        where = lambda m: [layer.self_attn for layer in m.model.encoder.layers]
        all_scores, blocked = (
            eqx.tree_at(where, bart, [kind(attention, window) for attention in where(bart)])
            for kind in (SlidingWindow, BlockedWindow)
        )
        for mask in (inputs["attention_mask"], None):
            got, wanted = (m.encode(inputs["input_ids"], mask).last_hidden_state for m in (blocked, all_scores))
            tokens = np.ones_like(inputs["input_ids"]) if mask is None else mask
            assert relative_error(got * tokens[..., None], wanted * tokens[..., None]) <= 5e-6

    def test_4096_tokens(self) -> None:
        """A changed token changes the states in its window and no others; the model generates."""
        config = configured("unequal", max_position_embeddings=64, d_model=30)
        model = with_positions(random_model(bart_eqx.BartForConditionalGeneration, config), 4096)
        table: Any = model.model.encoder.embed_positions
        assert table.num_positions == 4096 and np.array_equal(table.weight[2:66], table.weight[2 + 64 * 63 :])
        where = lambda m: [layer.self_attn for layer in m.model.encoder.layers]
        model = eqx.tree_at(where, model, [BlockedWindow(attention, 32) for attention in where(model)])
        ids = np.random.default_rng(0).integers(12, 97, 4096)
        encode = eqx.filter_jit(lambda ids: model.encode(ids).last_hidden_state)
        states = encode(ids)
        changed = encode(np.where(np.arange(4096) == 2000, 5, ids))
        differ = np.flatnonzero(np.any(np.asarray(states != changed), axis=-1))
        assert differ.min() == 2000 - 32 and differ.max() == 2000 + 32  # one layer: a window to each side
        for num_beams in (1, 4):
            result = bart_eqx.generate(model, ids, num_beams=num_beams, max_length=12)
            assert result.finite
        with pytest.raises(ValueError, match="max_position_embeddings=4096 tokens. Got 4097"):
            model.encode(np.append(ids, 5))

    def test_memory_is_linear(self, bart: Any) -> None:
        """A row of 4,096 tokens needs less than its scores would: 4 heads of 4,096 x 4,096."""
        attention = BlockedWindow(self_attentions(bart)[0], 64)
        x, positions = jnp.zeros((4096, 32)), jnp.arange(4096)

        @jax.jit
        def run(x: jax.Array) -> jax.Array:
            return attention.attend(x, *attention.project_kv(x, positions), None, positions, positions)[0]

        analysis = run.lower(x).compile().memory_analysis()
        assert analysis is not None and analysis.temp_size_in_bytes < 4 * 4096 * 4096

"""What a researcher replaces: attention that reads positions, layers of another kind, and parts of a wrong shape."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import bart_eqx
from bart_eqx.model.decoder import BartDecoder
from bart_eqx.model.embeddings import Embedding, LearnedPositionalEmbedding
from bart_eqx.model.layers import LayerNorm, Linear
from bart_eqx.model.outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions
from bart_eqx.training import rematerialise
from support import configured, ragged_inputs, random_model, relative_error


CONFIG = configured("unequal", d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, encoder_layers=2)
LIMIT = 5e-6  # as of the cache: the largest measured is 1.4e-6


class Rotary(bart_eqx.AbstractAttention):
    """Queries and keys are rotated by their positions (arXiv:2104.09864)."""

    inner: bart_eqx.BartAttention

    def rotated(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Of `[*batch, heads, seq, head_dim]`."""
        half = x.shape[-1] // 2
        angles = positions[..., None, :, None] / 100 ** (jnp.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        turned = a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles)
        return jnp.concatenate(turned, axis=-1)

    def project_kv(self, source: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys, values = self.inner.project_kv(source, positions)
        return jnp.swapaxes(self.rotated(jnp.swapaxes(keys, -1, -2), positions), -1, -2), values

    def attend(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        mask: jax.Array | None,
        query_positions: jax.Array,
        key_positions: jax.Array,
        *,
        key: Any = None,
    ) -> tuple[jax.Array, jax.Array]:
        inner = self.inner
        queries = self.rotated(inner.split_heads(inner.q_proj(x)), query_positions)
        scores = queries @ keys * keys.shape[-2] ** -0.5
        weights = jax.nn.softmax(jnp.where(True if mask is None else mask, scores, -1e9), axis=-1)
        return inner.out_proj(jnp.swapaxes(weights @ values, -2, -3).reshape(x.shape)), weights


class Window(bart_eqx.AbstractAttention):
    """A query attends to keys at most two positions away."""

    inner: bart_eqx.BartAttention

    def project_kv(self, source: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.inner.project_kv(source, positions)

    def attend(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        mask: jax.Array | None,
        query_positions: jax.Array,
        key_positions: jax.Array,
        *,
        key: Any = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        near = jnp.abs(query_positions[..., None] - key_positions[..., None, :])[..., None, :, :] <= 2
        mask = near if mask is None else near & mask
        return self.inner.attend(x, keys, values, mask, query_positions, key_positions, key=key)


def with_attention(kind: Any) -> bart_eqx.BartForConditionalGeneration:
    """BART with another self-attention on both sides, and no positions of its own."""
    model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
    where = lambda m: [layer.self_attn for side in (m.model.encoder, m.model.decoder) for layer in side.layers]
    model = eqx.tree_at(where, model, [kind(attention) for attention in where(model)])
    tables = lambda m: (m.model.encoder.embed_positions, m.model.decoder.embed_positions)
    return eqx.tree_at(tables, model, (None, None))


@pytest.fixture(scope="module", params=[Rotary, Window], ids=["rotary", "window"])
def model(request: pytest.FixtureRequest) -> bart_eqx.BartForConditionalGeneration:
    return with_attention(request.param)


class TestPositions:
    @pytest.mark.parametrize("cuts", [[4, 7], [1, 2, 3, 4, 5, 6, 7], [6, 7]])
    def test_cached_equals_full(self, model: bart_eqx.BartForConditionalGeneration, cuts: list[int]) -> None:
        inputs = ragged_inputs(CONFIG)
        ids, mask = inputs["decoder_input_ids"], inputs["attention_mask"]
        whole = model(inputs["input_ids"], mask, ids).logits
        cache = model.init_cache(model.encode(inputs["input_ids"], mask), mask, max_length=10)
        parts, start = [], 0
        for end in cuts:
            output, cache = model.decode(ids[:, start:end], cache)
            parts.append(output.logits)
            start = end
        assert relative_error(jnp.concatenate(parts, axis=1), whole) <= LIMIT
        assert np.array_equal(cache.positions[:, :7], [[*range(7)]] * 3)

    @pytest.mark.parametrize("num_beams", [1, 3])
    def test_a_padded_prompt_is_continued_as_alone(
        self, model: bart_eqx.BartForConditionalGeneration, num_beams: int
    ) -> None:
        ids = np.array([[5, 6, 7, 8, 9, 2]] * 2)
        options: dict[str, Any] = dict(max_length=14, min_length=12, num_beams=num_beams)
        together = bart_eqx.generate(
            model,
            ids,
            decoder_input_ids=np.array([[2, 20, 21, 22, 23], [1, 1, 1, 2, 24]]),
            decoder_attention_mask=np.array([[1] * 5, [0, 0, 0, 1, 1]]),
            **options,
        )
        # The padded row has room for three tokens fewer.
        options |= dict(max_length=11, min_length=9)
        alone = bart_eqx.generate(model, ids[1:], decoder_input_ids=np.array([[2, 24]]), **options)
        assert np.array_equal(together.sequences[1, :11], alone.sequences[0])

    @pytest.mark.parametrize("num_beams", [1, 4])
    def test_beams_have_the_positions_of_their_sequences(
        self, model: bart_eqx.BartForConditionalGeneration, num_beams: int
    ) -> None:
        """The score of every beam is that of its sequence, read in one piece without a cache. Measured 6e-7."""
        ids = ragged_inputs(CONFIG)["input_ids"]
        result = bart_eqx.generate(
            model,
            ids,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_length=9,
            min_length=9,
            output_logits=True,
            forced_eos_token_id=None,
        )
        sequences = np.asarray(result.sequences).reshape(3, num_beams, 9)
        mask = ids != CONFIG.pad_token_id
        for row in range(3):
            for beam in range(num_beams):
                sequence = sequences[row, beam]
                logits = model(ids[row], mask[row], sequence[:-1]).logits
                if num_beams == 1:
                    assert result.step_logits is not None
                    assert relative_error(result.step_logits[row], logits) <= LIMIT
                else:
                    assert result.scores is not None
                    scores = jax.nn.log_softmax(logits, axis=-1)
                    total = sum(float(scores[i, token]) for i, token in enumerate(sequence[1:]))
                    assert float(result.scores[row * num_beams + beam]) == pytest.approx(total / 8, rel=1e-5)


class Noticing(bart_eqx.AbstractAttention):
    """Keeps the positions that it is called with."""

    inner: bart_eqx.AbstractAttention
    seen: list[Any] = eqx.field(static=True)

    def project_kv(self, source: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        jax.debug.callback(lambda p: self.seen.append(("source", p.tolist())), positions)
        return self.inner.project_kv(source, positions)

    def attend(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        mask: jax.Array | None,
        query_positions: jax.Array,
        key_positions: jax.Array,
        *,
        key: Any = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        jax.debug.callback(lambda q, k: self.seen.append((q.tolist(), k.tolist())), query_positions, key_positions)
        return self.inner.attend(x, keys, values, mask, query_positions, key_positions, key=key)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_cross_attention_has_the_positions_of_the_source(dtype: Any) -> None:
    """Those that `encode` was given, in an integer dtype that need not hold the table's offset."""
    model, seen = random_model(bart_eqx.BartModel, dataclasses.replace(CONFIG, max_position_embeddings=300)), []
    where = lambda m: m.decoder.layers[0].encoder_attn
    model = eqx.tree_at(where, model, Noticing(where(model), seen))
    ids, positions = np.array([5, 6, 2]), np.array([3, 4, 255], dtype)
    got = model(ids, decoder_input_ids=np.array([2, 7]), position_ids=positions)
    jax.effects_barrier()
    assert ("source", [3, 4, 255]) in seen and ([0, 1], [3, 4, 255]) in seen
    wanted = model(ids, decoder_input_ids=np.array([2, 7]), position_ids=positions.astype(np.int32))
    assert np.array_equal(got.last_hidden_state, wanted.last_hidden_state)


class Wrapped(bart_eqx.AbstractDecoderLayer):
    """A plain wrapper, as of a researcher who counts, scales or records."""

    layer: bart_eqx.AbstractDecoderLayer

    def empty_past(self, states: jax.ShapeDtypeStruct) -> bart_eqx.KVCache:
        return self.layer.empty_past(states)

    def project_source(self, encoder_hidden_states: jax.Array, positions: jax.Array) -> bart_eqx.KVCache:
        return self.layer.project_source(encoder_hidden_states, positions)

    def __call__(self, *args: Any, key: Any = None) -> Any:
        return self.layer(*args, key=key)


class PreNorm(bart_eqx.AbstractEncoderLayer):
    """Normalised before attention, and not after it; no feed-forward block."""

    norm: LayerNorm
    attention: bart_eqx.AbstractAttention

    def __call__(self, x: jax.Array, mask: Any, positions: jax.Array, *, key: Any = None) -> Any:
        y = self.norm(x)
        keys, values = self.attention.project_kv(y, positions)
        y, weights = self.attention.attend(y, keys, values, mask, positions, positions, key=key)
        return x + y, weights


class Sines(bart_eqx.AbstractPositionalEmbedding):
    """Positions that are computed, and no parameter."""

    num_positions: int
    dim: int = eqx.field(static=True)

    def __call__(self, position_ids: Any) -> jax.Array:
        return jnp.sin(jnp.asarray(position_ids)[..., None] * 1.2 ** -jnp.arange(self.dim))


class TestLayers:
    def test_a_wrapper(self) -> None:
        """`init_cache`, beams and rematerialisation ask nothing of a layer that its interface does not have."""
        model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
        layers = lambda m: m.model.decoder.layers
        wrapped = eqx.tree_at(layers, model, tuple(map(Wrapped, layers(model))))
        ids = ragged_inputs(CONFIG)["input_ids"]
        for num_beams in (1, 3):
            got, wanted = (bart_eqx.generate(m, ids, num_beams=num_beams, max_length=9) for m in (wrapped, model))
            assert np.array_equal(got.sequences, wanted.sequences)
        assert relative_error(rematerialise(wrapped)(ids).logits, model(ids).logits) <= LIMIT

    def test_computed_positions(self) -> None:
        """In either stack, in place of a learned table: as a cache, as one call, and no further than they go."""
        model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
        stacks = lambda m: (m.model.encoder, m.model.decoder)
        sines = [dataclasses.replace(stack, embed_positions=Sines(9, 32)) for stack in stacks(model)]
        computed = eqx.tree_at(stacks, model, sines)
        table = Sines(9, 32)(np.arange(9))
        learned = eqx.tree_at(
            lambda m: [stack.embed_positions.weight for stack in stacks(m)],
            model,
            [jnp.pad(table, ((2, 0), (0, 0)))] * 2,
        )
        ids = ragged_inputs(CONFIG)["input_ids"][:, :9]
        got, wanted = (bart_eqx.generate(m, ids, max_length=9) for m in (computed, learned))
        assert np.array_equal(got.sequences, wanted.sequences)
        assert relative_error(computed(ids).logits, learned(ids).logits) <= LIMIT
        with pytest.raises(ValueError, match="at most max_position_embeddings=9 tokens. Got 10"):
            computed(np.full((1, 10), 5))

    def test_another_kind(self) -> None:
        """Pre-norm layers, a norm after the stack, positions from row 0 of their table: all arguments of the stack."""
        model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
        encoder, norm = model.model.encoder, LayerNorm(32)
        layers = tuple(PreNorm(norm, layer.self_attn) for layer in encoder.layers)
        table = LearnedPositionalEmbedding(11, 32, offset=0, init_std=1.0, key=jax.random.key(0))
        where = lambda e: (e.layers, e.layer_norm, e.embed_positions, e.layernorm_embedding)
        other = eqx.tree_at(where, encoder, (layers, norm, table, eqx.nn.Identity()))
        x = jax.random.normal(jax.random.key(1), (2, 11, 32))
        got = rematerialise(other)(x, output_hidden_states=True)

        wanted = x + table.weight
        for layer in layers:
            y = norm(wanted)
            positions = jnp.broadcast_to(jnp.arange(11), (2, 11))
            kv = layer.attention.project_kv(y, positions)
            wanted += layer.attention.attend(y, *kv, None, positions, positions)[0]
        assert relative_error(got.last_hidden_state, norm(wanted)) <= LIMIT
        assert got.hidden_states is not None
        assert np.array_equal(got.hidden_states[-1], got.last_hidden_state) and len(got.hidden_states) == 3
        with pytest.raises(ValueError, match="max_position_embeddings=11 tokens. Got 12"):
            other(jnp.zeros((12, 32)))

    def test_pre_norm(self) -> None:
        """By its definition. `test_example_whisper.py` compares both sides with Whisper's."""
        layer = bart_eqx.BartEncoderLayer(CONFIG.encoder_layer, residual=bart_eqx.PreNorm(), key=jax.random.key(0))
        positions = jnp.broadcast_to(jnp.arange(5), (2, 5))

        @eqx.filter_jit
        def both(layer: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = layer.self_attn_layer_norm(x)
            keys, values = layer.self_attn.project_kv(y, positions)
            middle = x + layer.self_attn.attend(y, keys, values, None, positions, positions)[0]
            y = layer.fc2(jax.nn.gelu(layer.fc1(layer.final_layer_norm(middle)), approximate=False))
            return layer(x, None, positions)[0], middle + y

        got, wanted = both(layer, 3 * jax.random.normal(jax.random.key(1), (2, 5, 32)) + 1)
        assert relative_error(got, wanted) <= LIMIT
        assert isinstance(
            bart_eqx.BartEncoderLayer(CONFIG.encoder_layer, key=jax.random.key(0)).residual, bart_eqx.PostNorm
        )

    def test_a_narrow_decoder_with_one_wide_norm(self) -> None:
        """The cache has the widest dtype of the parameters, so that cached equals full."""
        model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG, jnp.bfloat16)
        where = lambda m: m.model.decoder.layernorm_embedding
        wide = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, where(model))
        model = eqx.tree_at(where, model, wide)
        ids, target = np.array([5, 6, 2]), np.array([2, 8, 9, 10])
        cache = model.init_cache(model.encode(ids), max_length=6)
        parts = []
        for token in target:
            output, cache = model.decode(np.array([token]), cache)
            parts.append(output.logits)
        assert cache.self_attn[0].keys.dtype == jnp.float32
        assert relative_error(jnp.concatenate(parts), model(ids, decoder_input_ids=target).logits) <= 1e-2
        assert bart_eqx.generate(model, ids, max_length=8).finite


class TestWrongShapes:
    """A class without annotations returns a wrong shape: the error names the axes, at the seam."""

    class TransposedKeys(bart_eqx.AbstractAttention):
        inner: bart_eqx.AbstractAttention

        def project_kv(self, source, positions):
            keys, values = self.inner.project_kv(source, positions)
            return jnp.swapaxes(keys, -1, -2), values

        def attend(self, x, keys, values, mask, query_positions, key_positions, *, key=None):
            return self.inner.attend(x, keys, values, mask, query_positions, key_positions, key=key)

    class NarrowOutput(bart_eqx.AbstractAttention):
        inner: bart_eqx.AbstractAttention

        def project_kv(self, source, positions):
            return self.inner.project_kv(source, positions)

        def attend(self, x, keys, values, mask, query_positions, key_positions, *, key=None):
            y, weights = self.inner.attend(x, keys, values, mask, query_positions, key_positions, key=key)
            return y[..., :-1], weights

    class ShortLayer(bart_eqx.AbstractEncoderLayer):
        layer: bart_eqx.AbstractEncoderLayer

        def __call__(self, x, mask, positions, *, key=None):
            y, weights = self.layer(x, mask, positions, key=key)
            return y[..., :-1, :], weights

    @pytest.mark.parametrize("side", ["encoder", "decoder"])
    @pytest.mark.parametrize("kind, axes", [(TransposedKeys, "kv_heads head_dim kv"), (NarrowOutput, r"\*batch q dim")])
    def test_attention(self, side: str, kind: Any, axes: str) -> None:
        model = random_model(bart_eqx.BartModel, CONFIG)
        where = lambda m: getattr(m, side).layers[0].self_attn
        with pytest.raises(TypeCheckError, match=axes):
            eqx.tree_at(where, model, kind(where(model)))(np.array([5, 6, 2]))

    def test_layer(self) -> None:
        model = random_model(bart_eqx.BartModel, CONFIG)
        where = lambda m: m.encoder.layers[0]
        with pytest.raises(TypeCheckError, match=r"\*batch src dim"):
            eqx.tree_at(where, model, self.ShortLayer(where(model)))(np.array([5, 6, 2]))

    def test_linear(self) -> None:
        """`Linear` says which width it takes."""
        model = random_model(bart_eqx.BartModel, CONFIG)
        where = lambda m: m.encoder.layers[0].fc1.weight
        with pytest.raises(TypeCheckError, match=r"the width of the weights, in_dim=31. Got float32\[3, 32\]"):
            eqx.tree_at(where, model, jnp.zeros((17, 31)))(np.array([5, 6, 2]))


class Listener(bart_eqx.AbstractSeq2SeqLM):
    """An encoder-decoder of another kind: features `[rows, columns]`, which a linear map halves, and BART's decoder."""

    config: bart_eqx.BartConfig = eqx.field(static=True)
    generation_config: bart_eqx.GenerationConfig
    decoder: BartDecoder
    columns: Linear
    source_ndim: ClassVar[int] = 2

    def encode(self, input_ids: Any, attention_mask: Any = None) -> BaseModelOutput:
        pairs = jnp.asarray(input_ids).reshape(*input_ids.shape[:-2], -1, 2 * input_ids.shape[-1])
        return BaseModelOutput(self.columns(pairs))

    def init_cache(
        self, encoder_outputs: BaseModelOutput, encoder_attention_mask: Any = None, *, max_length: int
    ) -> bart_eqx.DecoderCache:
        states, table = encoder_outputs.last_hidden_state, self.decoder.embed_tokens
        assert table is not None
        return self.decoder.init_cache(table, states.shape[:-2], max_length, states, encoder_attention_mask)

    def decode(
        self,
        decoder_input_ids: Any,
        cache: bart_eqx.DecoderCache,
        *,
        decoder_attention_mask: Any = None,
        decoder_position_ids: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        key: Any = None,
    ) -> Any:
        table = self.decoder.embed_tokens
        assert table is not None
        out, cache = self.decoder(table(decoder_input_ids), cache, decoder_attention_mask, decoder_position_ids)
        return CausalLMOutputWithCrossAttentions(table.logits(out.last_hidden_state)), cache


@pytest.mark.parametrize("options", [dict(), dict(num_beams=3), dict(pad_to_multiple_of=8)], ids=str)
def test_another_model_generates(options: dict[str, Any]) -> None:
    """`generate` and `stream` ask for `encode`, `init_cache`, `decode` and two sizes; a source may be features."""
    keys = jax.random.split(jax.random.key(0), 3)
    table = Embedding(CONFIG.vocab_size, 32, init_std=1.0, key=keys[0])
    model = Listener(
        config=CONFIG,
        generation_config=bart_eqx.GenerationConfig.from_model_config(CONFIG),
        decoder=BartDecoder.from_config(CONFIG, embed_tokens=table, key=keys[1]),
        columns=Linear(10, 32, init_std=1.0, key=keys[2]),
    )
    features = np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)
    result = bart_eqx.generate(model, features, max_length=7, **options)
    for row in range(2):
        alone = bart_eqx.generate(model, features[row], max_length=7, **options)
        assert np.array_equal(alone.sequences, result.sequences[row]) and result.finite[row]
        cache, written = model.init_cache(model.encode(features[row]), max_length=7), [2]
        if not options:
            for token in bart_eqx.stream(model, features[row], max_length=7):
                output, cache = model.decode(np.array(written[-1:]), cache)
                written.append(int(jnp.argmax(output.logits[-1])))
                assert int(token) == written[-1] or len(written) == 7  # the last is forced
    with pytest.raises(TypeError, match=r"floats \[\*batch, rows, columns\]"):
        bart_eqx.generate(model, np.array([5, 6, 2]))


def test_the_parts_of_a_decoder_are_its_arguments() -> None:
    decoder = BartDecoder.from_config(CONFIG, key=jax.random.key(0))
    again = BartDecoder(**{name: getattr(decoder, name) for name in BartDecoder.__dataclass_fields__})
    assert eqx.tree_equal(decoder, again)

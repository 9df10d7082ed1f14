"""The cache: a target split into any calls gives the numbers of one call."""

import itertools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from support import ragged_inputs, random_model, relative_error


Model = bart_eqx.BartForConditionalGeneration

LENGTH = 6
SPLITS = [
    np.diff([0, *cuts, LENGTH]).tolist()
    for count in range(LENGTH)
    for cuts in itertools.combinations(range(1, LENGTH), count)
]

# Measured over all splits, and over all splits of nine tokens: at most 8.3e-7.
LIMIT = 5e-6


@pytest.fixture(scope="module")
def decode(model: Model) -> Any:
    """One program for each chunk length and batch shape; positions are traced."""

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=2 * LENGTH + 6)
    def decode(ids: Any, cache: Any, mask: Any = None, positions: Any = None) -> Any:
        return model.decode(ids, cache, decoder_attention_mask=mask, decoder_position_ids=positions)

    return decode


@eqx.filter_jit
def whole(model: Model, *inputs: Any) -> Any:
    return model(*inputs)


@eqx.filter_jit
def whole_encoder(model: Model, ids: Any, mask: Any) -> Any:
    return model.encode(ids, mask)


def test_there_are_all_splits() -> None:
    assert len(SPLITS) == 2 ** (LENGTH - 1) and all(sum(split) == LENGTH for split in SPLITS)


@pytest.mark.parametrize("batch", [True, False], ids=["batch of 3, ragged", "one sequence"])
def test_every_split(model: Model, config: bart_eqx.BartConfig, decode: Any, batch: bool) -> None:
    inputs = ragged_inputs(config, tgt=LENGTH)
    if not batch:
        inputs = {name: array[1] for name, array in inputs.items()}
    encoded = whole_encoder(model, inputs["input_ids"], inputs["attention_mask"])
    wanted = whole(model, *inputs.values()).logits
    empty = model.init_cache(encoded, inputs["attention_mask"], max_length=LENGTH + 4)
    ids, mask = inputs["decoder_input_ids"], inputs["decoder_attention_mask"]
    for split in SPLITS:
        cache, logits, start = empty, [], 0
        for new in split:
            chunk = slice(start, start + new)
            out, cache = decode(ids[..., chunk], cache, mask[..., chunk])
            logits.append(out.logits)
            start += new
        assert relative_error(jnp.concatenate(logits, axis=-2), wanted) <= LIMIT, split
        assert int(cache.position) == LENGTH
    assert int(empty.position) == 0 and not any(kv.keys.any() for kv in empty.self_attn)  # not modified


def test_encode_and_decode_without_jit(model: Model, config: bart_eqx.BartConfig) -> None:
    """With operations one by one, as in Hugging Face's `test_encode` and `test_decode`."""
    inputs = ragged_inputs(config)
    ids, mask, targets = inputs["input_ids"], inputs["attention_mask"], inputs["decoder_input_ids"]
    encoded = whole_encoder(model, ids, mask)
    cache = model.init_cache(encoded, mask, max_length=9)
    compiled, _ = eqx.filter_jit(model.decode)(targets, cache)
    with jax.disable_jit():
        one_by_one = model.encode(ids, mask)
        decoded, _ = model.decode(targets, model.init_cache(one_by_one, mask, max_length=9))
    assert relative_error(one_by_one.last_hidden_state, encoded.last_hidden_state) <= LIMIT
    assert relative_error(decoded.logits, compiled.logits) <= LIMIT


@pytest.mark.parametrize("new", [1, 4])
def test_masks_may_cover_every_slot(model: Model, config: bart_eqx.BartConfig, decode: Any, new: int) -> None:
    """As in Hugging Face's Flax: as long as the cache, and the same at every step."""
    inputs = ragged_inputs(config, tgt=8)
    encoded = whole_encoder(model, inputs["input_ids"], inputs["attention_mask"])
    cache = model.init_cache(encoded, inputs["attention_mask"], max_length=20)
    mask = np.pad(inputs["decoder_attention_mask"], ((0, 0), (0, 12)), constant_values=1)
    logits = []
    for start in range(0, 8, new):
        out, cache = decode(inputs["decoder_input_ids"][:, start : start + new], cache, mask)
        logits.append(out.logits)
    assert relative_error(jnp.concatenate(logits, axis=1), model(**inputs).logits) <= LIMIT


def test_ragged_prefixes(model: Model, config: bart_eqx.BartConfig, decode: Any) -> None:
    """Left-padded prefixes of unequal length are continued as each would be alone."""
    inputs = ragged_inputs(config, tgt=5)
    source, source_mask, tokens = inputs["input_ids"], inputs["attention_mask"], inputs["decoder_input_ids"]
    lengths = (5, 3, 1)
    prefix = np.stack([np.roll(row, 5 - n) for row, n in zip(tokens, lengths, strict=True)])
    mask = np.stack([np.arange(5) >= 5 - n for n in lengths])
    positions = np.cumsum(mask, axis=-1) - 1  # -1 at padding, as in Hugging Face's Flax
    cache = model.init_cache(model.encode(source, source_mask), source_mask, max_length=9)
    out, cache = decode(prefix, cache, mask, positions)
    for step, token in enumerate((13, 14, 15)):
        together, cache = decode(np.full((3, 1), token), cache, None, positions[:, -1:] + 1 + step)
        for row, n in enumerate(lengths):
            alone = np.concatenate([tokens[row, :n], [13, 14, 15][: step + 1]])
            padded = np.pad(alone, (0, 8 - len(alone)), constant_values=50)  # later tokens are masked
            wanted = whole(model, source[row], source_mask[row], padded).logits[len(alone) - 1]
            assert relative_error(together.logits[row, -1], wanted) <= LIMIT


def test_garbage_in_padded_source_positions(model: Model, config: bart_eqx.BartConfig, decode: Any) -> None:
    inputs = ragged_inputs(config)
    mask = inputs["attention_mask"]
    dirty = np.where(mask == 0, 60, inputs["input_ids"])
    results = []
    for ids in (inputs["input_ids"], dirty):
        cache = model.init_cache(model.encode(ids, mask), mask, max_length=LENGTH + 4)
        results.append(decode(inputs["decoder_input_ids"][:, :2], cache, np.ones((3, 2), int))[0].logits)
    np.testing.assert_array_equal(*results)


def test_overflow_is_refused(model: Model, decode: Any) -> None:
    cache = model.init_cache(model.encode(np.array([5, 6])), max_length=3)
    out, cache = model.decode(np.array([5, 6]), cache)
    with pytest.raises(ValueError, match="has 3 slots, of which 2 are taken. Got 2 new tokens"):
        model.decode(np.array([7, 8]), cache)
    with pytest.raises(ValueError, match="Got 4 new tokens"):
        eqx.filter_jit(model.decode)(np.array([5, 6, 7, 8]), cache)
    # The position is traced, so the overflow cannot raise: all outputs are NaN.
    out, after = eqx.filter_jit(model.decode)(np.array([7, 8]), cache)
    assert jnp.isnan(out.logits).all()
    with pytest.raises(ValueError, match="at most max_position_embeddings=23. Got max_length=24"):
        model.init_cache(model.encode(np.array([5, 6])), max_length=24)
    with pytest.raises(ValueError, match="Got max_length=0"):
        model.init_cache(model.encode(np.array([5, 6])), max_length=0)
    out, cache = model.decode(np.array([7]), cache)  # the last slot can be used
    assert jnp.isfinite(out.logits).all()


def test_a_mask_of_another_length_is_refused(model: Model) -> None:
    cache = model.init_cache(model.encode(np.array([5, 6])), max_length=6)
    with pytest.raises(ValueError, match="covers the 2 new tokens, or all 6 slots of the cache. Got 3"):
        model.decode(np.array([5, 6]), cache, decoder_attention_mask=np.ones(3, int))


def test_the_source_is_projected_once(model: Model) -> None:
    """A step multiplies nothing of the source's length with a weight: only attention reads the source."""
    cache = model.init_cache(model.encode(np.full(19, 5)), max_length=4)
    jaxpr = jax.make_jaxpr(lambda cache, ids: model.decode(ids, cache)[0].logits)(cache, jnp.array([5]))

    def products(jaxpr: Any) -> Iterator[Any]:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield eqn
            for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")):
                if hasattr(inner, "jaxpr"):  # a layer, which is jitted
                    yield from products(inner.jaxpr)

    found = list(products(jaxpr.jaxpr))
    assert any(19 in operand.aval.shape for product in found for operand in product.invars)
    for product in found:
        shapes = [operand.aval.shape for operand in product.invars]
        if any(19 in shape for shape in shapes):
            assert all(len(shape) == 3 for shape in shapes), shapes  # [heads, ...]: no weight has three axes


def test_no_new_token_is_refused(model: Model) -> None:
    cache = model.init_cache(model.encode(np.array([5, 6])), max_length=4)
    with pytest.raises(ValueError, match="no new tokens"):
        model.decode(np.zeros(0, int), cache)


def test_the_cache_can_be_donated(model: Model, config: bart_eqx.BartConfig) -> None:
    encoded = model.encode(np.array([5, 6, 7]))

    @eqx.filter_jit(donate="all-except-first")
    def step(model: Model, ids: jax.Array, cache: bart_eqx.DecoderCache) -> Any:
        out, cache = model.decode(ids, cache)
        return out.logits, cache

    for make in (model.init_cache, eqx.filter_jit(model.init_cache)):
        cache = make(encoded, max_length=5)
        donated = cache.self_attn[0].keys
        logits, cache = step(model, jnp.array([5]), cache)
        assert donated.is_deleted() and jnp.isfinite(logits).all()


def test_vmap_over_caches(model: Model, config: bart_eqx.BartConfig) -> None:
    inputs = ragged_inputs(config, tgt=3)

    def run(ids: Any, mask: Any, targets: Any) -> jax.Array:
        cache = model.init_cache(model.encode(ids, mask), mask, max_length=3)
        first, cache = model.decode(targets[:2], cache)
        last, cache = model.decode(targets[2:], cache)
        return jnp.concatenate([first.logits, last.logits])

    arguments = inputs["input_ids"], inputs["attention_mask"], inputs["decoder_input_ids"]
    assert relative_error(jax.jit(jax.vmap(run))(*arguments), whole(model, *arguments).logits) <= LIMIT


def test_causal_lm(config: bart_eqx.BartConfig) -> None:
    model = random_model(bart_eqx.BartForCausalLM, config)
    inputs = ragged_inputs(config)
    ids, mask = inputs["decoder_input_ids"], inputs["decoder_attention_mask"]
    states = jnp.asarray(np.random.default_rng(0).standard_normal((3, 11, 30)), jnp.float32)
    source = dict(encoder_hidden_states=states, encoder_attention_mask=inputs["attention_mask"])
    for given in ({}, source):
        whole = model(ids, mask, **given).logits
        cache = model.init_cache(3, max_length=10, **given)
        assert (cache.cross_attn is None) == (not given)
        first, cache = model(ids[:, :4], mask[:, :4], cache=cache)
        last, cache = model(ids[:, 4:], mask[:, 4:], cache=cache)
        assert relative_error(jnp.concatenate([first.logits, last.logits], axis=1), whole) <= LIMIT
    alone = model(ids[0], cache=model.init_cache(None, max_length=10))[0].logits
    assert relative_error(alone, model(ids[0]).logits) <= LIMIT


def test_branches_of_a_tree(model: Model, config: bart_eqx.BartConfig) -> None:
    """Two beams in one cache, each attending to its ancestors, equal two rows with a cache each."""
    inputs = ragged_inputs(config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    repeated = whole_encoder(model, np.repeat(ids, 2, axis=0), np.repeat(mask, 2, axis=0))
    apart = model.init_cache(repeated, np.repeat(mask, 2, axis=0), max_length=3)
    tree = model.init_cache(whole_encoder(model, ids, mask), mask, max_length=6)
    assert tree.cross_attn is not None and tree.cross_attn[0].keys.shape == (3, 3, 10, 11)
    tokens = np.arange(12, 30).reshape(3, 2, 3)
    ancestors = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]], bool)
    decode = eqx.filter_jit(model.decode)
    for step in range(3):
        wanted, apart = decode(tokens.reshape(6, 3)[:, step : step + 1], apart, output_attentions=True)
        out, tree = decode(
            tokens[..., step],
            tree,
            decoder_attention_mask=np.broadcast_to(ancestors, (3, 2, 6)),
            decoder_position_ids=np.array([step, step]),
            output_attentions=True,
        )
        ancestors = ancestors | np.roll(ancestors, 2, axis=-1)
        assert relative_error(out.logits.reshape(wanted.logits.shape), wanted.logits) <= LIMIT
        assert out.cross_attentions is not None and wanted.cross_attentions is not None
        for ours, theirs in zip(out.cross_attentions, wanted.cross_attentions, strict=True):
            assert ours is not None and theirs is not None
            ours = jnp.moveaxis(ours, 2, 1).reshape(theirs.shape)
            assert relative_error(ours, theirs) <= LIMIT
    full = model.init_cache(whole_encoder(model, ids, mask), mask, max_length=6)
    with pytest.raises(ValueError, match=r"covers every slot of the cache: \[..., 2, 6\]. Got \[3, 2, 5\]"):
        model.decode(tokens[..., 0], full, decoder_attention_mask=np.ones((3, 2, 5), bool))

"""A step of training: what is added and divided, what is trained, what is donated, what is compiled."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

import bart_eqx
from bart_eqx.parallel import make_mesh
from bart_eqx.training import CNN_DM, RECIPES, XSUM, Recipe, decay_mask, make_train_step, seq2seq_loss
from support import CLASSES, configured, precision, random_model
from training_support import BagOfWords, in_micro_batches, ragged_batch, word_loss


KEY = jax.random.key(7)
BATCH = ragged_batch(8)


def start(model: Any = None, optimizer: Any = None, **options: Any) -> Any:
    return make_train_step(model or BagOfWords(), word_loss, optimizer or optax.sgd(0.1), key=KEY, **options)


def mean_loss(model: Any) -> jax.Array:
    total, count = word_loss(model, BATCH, KEY)
    return total / count


def mean_gradient(step: Any, state: Any, batch: Any) -> Any:
    loss_sum, count, gradients = eqx.filter_jit(lambda step, state, batch: step.gradients(state, batch))(
        step, state, batch
    )
    return loss_sum / count, jax.tree.map(lambda g: np.asarray(g / count), gradients)


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-6), pytest.param("float64", 1e-14, marks=pytest.mark.slow)])
def test_micro_batches_are_one_batch(dtype: str, limit: float) -> None:
    """Loss and gradients, relative to the largest; measured 1.4e-7 and 1.9e-16. A mean of means differs by 1.6."""
    with precision(dtype):
        step, state = start(BagOfWords(jnp.dtype(dtype)))
        wanted = eqx.filter_jit(eqx.filter_value_and_grad(mean_loss))(BagOfWords(jnp.dtype(dtype)))
        for micro in (1, 2, 4, 8):
            found = mean_gradient(step, state, in_micro_batches(BATCH, micro))
            for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                assert one.dtype == dtype
                assert np.abs(one - other).max() <= limit * np.abs(other).max()


@pytest.mark.slow
@pytest.mark.parametrize("dtype, limit", [("float32", 1e-6), ("float64", 1e-12)])
def test_micro_batches_of_a_bart(dtype: str, limit: float) -> None:
    """All gradients as one vector."""
    rates = dict(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    with precision(dtype):
        model = random_model(bart_eqx.BartForConditionalGeneration, configured("unequal", **rates), np.dtype(dtype))
        step, state = make_train_step(model, seq2seq_loss, optax.sgd(0.1), key=KEY)
        batch = ragged_batch(8, vocab=97)
        flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        vectors = [flat(mean_gradient(step, state, in_micro_batches(batch, micro))[1]) for micro in (1, 2, 4, 8)]
        for vector in vectors[1:]:
            assert np.linalg.norm(vector - vectors[0]) < limit * np.linalg.norm(vectors[0])


def test_metrics_and_update() -> None:
    """Of the mean over all tokens; the learning rate is that of this update, where the optimiser tells."""
    value, gradients = eqx.filter_jit(eqx.filter_value_and_grad(mean_loss))(BagOfWords())
    step, state = start()
    state, metrics = step(state, in_micro_batches(BATCH, 4))
    assert metrics.count == np.sum(BATCH["labels"] != -100) and metrics.learning_rate is None
    assert np.isclose(metrics.loss, value, rtol=1e-6)
    assert np.isclose(metrics.gradient_norm, optax.tree.norm(gradients), rtol=1e-6)
    np.testing.assert_allclose(state.params.bias, -0.1 * gradients.bias, rtol=1e-5, atol=1e-8)
    assert state.step == 1

    recipe = Recipe(learning_rate=0.4, warmup_steps=4, total_steps=10)
    step, state = start(optimizer=recipe.optimizer())
    for rate in (0.0, 0.1, 0.2):
        state, metrics = step(state, in_micro_batches(BATCH, 4))
        assert np.isclose(metrics.learning_rate, rate)


def test_a_step_in_which_nothing_counts() -> None:
    step, state = start()
    before = np.asarray(state.params.embedding)
    nothing = BATCH | dict(labels=np.full_like(BATCH["labels"], -100))
    state, metrics = step(state, in_micro_batches(nothing, 2))
    assert metrics.loss == 0 and metrics.gradient_norm == 0 and (state.params.embedding == before).all()


def test_keys() -> None:
    """Each step and micro-batch has its own key, which depends on the run's key and the step alone."""
    draw = lambda model, batch, key: (jax.random.uniform(key) + 0 * jnp.sum(model.bias), jnp.ones(()))
    step, state = make_train_step(BagOfWords(), draw, optax.sgd(0.0), key=KEY)
    sums = []
    for _ in range(3):
        state, metrics = step(state, in_micro_batches(BATCH, 2))
        sums.append(metrics.loss_sum)
    keys = [jax.random.split(jax.random.fold_in(KEY, number), 2) for number in range(3)]
    np.testing.assert_allclose(sums, [jnp.sum(jax.vmap(jax.random.uniform)(pair)) for pair in keys], rtol=1e-6)
    assert len({float(total) for total in sums}) == 3


def test_the_state_is_donated_and_nothing_else() -> None:
    model, batch = BagOfWords(), jax.tree.map(jnp.asarray, in_micro_batches(BATCH, 2))
    step, state = make_train_step(model, word_loss, optax.adam(1e-3), key=KEY)
    held = jax.tree.leaves(state)
    arrays = lambda state: [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.ndim]
    pointers = {leaf.unsafe_buffer_pointer() for leaf in arrays(state)}
    state, _ = step(state, batch)
    assert all(leaf.is_deleted() for leaf in held)
    assert {leaf.unsafe_buffer_pointer() for leaf in arrays(state)} == pointers and len(pointers) == 6
    kept = jax.tree.leaves((eqx.filter(model, eqx.is_array), batch, KEY, step.rest))
    assert not any(leaf.is_deleted() for leaf in kept if eqx.is_array(leaf))
    assert step.model(state).dropout.inference and not step.rest.dropout.inference


def test_it_is_compiled_once_for_each_shape() -> None:
    traces = 0

    def counted(model: Any, batch: Any, key: Any) -> Any:
        nonlocal traces
        traces += 1
        return word_loss(model, batch, key)

    step, state = make_train_step(BagOfWords(), counted, CNN_DM.optimizer(), key=KEY)
    of_one = 0
    for rows in (8, 8, 8, 16, 16, 8):
        before = traces
        state, _ = step(state, in_micro_batches(ragged_batch(rows), 2))
        of_one = of_one or traces
        assert traces == before + of_one * (before in (0, of_one) and before // of_one == (rows == 16))


NAMED = lambda name: name == "bias"
AS_A_TREE = eqx.tree_at(lambda model: model.bias, jax.tree.map(lambda _: False, BagOfWords()), True)


@pytest.mark.parametrize("trainable", [NAMED, AS_A_TREE])
def test_what_is_frozen_stays_and_has_no_moments(trainable: Any) -> None:
    model = BagOfWords()
    step, state = start(model, optax.adamw(0.1, weight_decay=0.1), trainable=trainable)
    assert [leaf.shape for leaf in jax.tree.leaves(state.params)] == [model.bias.shape]
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == 2 * model.bias.size + 1
    for _ in range(3):
        state, _ = step(state, in_micro_batches(BATCH, 2))
    trained = step.model(state)
    assert (trained.embedding == model.embedding).all() and (trained.bias != model.bias).any()


@pytest.mark.parametrize("cls", CLASSES)
def test_decay(cls: Any) -> None:
    """All parameters but biases and norms, as the names say."""
    model = eqx.filter_eval_shape(cls, configured("unequal"), key=KEY)
    found = {
        keystr(path, simple=True, separator="."): decays for path, decays in tree_leaves_with_path(decay_mask(model))
    }
    shapes = {keystr(path, simple=True, separator="."): x for path, x in tree_leaves_with_path(model)}
    arrays = {name for name, x in shapes.items() if isinstance(x, jax.ShapeDtypeStruct)}
    decaying = {name for name in arrays if found[name]}
    assert decaying == {name for name in arrays if name.endswith("weight") and "norm" not in name} and decaying < arrays


def test_a_mesh() -> None:
    """Of one device: the numbers of none, and all of the state is on it. `sharded_meshes.py` has eight devices."""
    mesh = make_mesh(devices=jax.devices()[:1])
    (step, state), (other, on_mesh) = start(trainable=NAMED), start(trainable=NAMED, mesh=mesh)
    for _ in range(2):
        state, wanted = step(state, in_micro_batches(BATCH, 2))
        on_mesh, metrics = other(on_mesh, in_micro_batches(BATCH, 2))
        assert np.isclose(metrics.loss, wanted.loss, rtol=1e-6)
    arrays = jax.tree.leaves((on_mesh, eqx.filter(other.rest, eqx.is_array)))
    assert len(arrays) >= 4 and all(array.sharding.mesh == mesh for array in arrays)


def test_bfloat16_over_float32() -> None:
    """The model inside the loss is bfloat16; what is kept is float32."""
    seen = []

    def loss(model: Any, batch: Any, key: Any) -> Any:
        seen.append({leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))})
        return word_loss(model, batch, key)

    step, state = make_train_step(BagOfWords(), loss, optax.adam(1e-3), key=KEY, compute_dtype=jnp.bfloat16)
    state, metrics = step(state, in_micro_batches(BATCH, 2))
    assert all(dtypes == {jnp.dtype(jnp.bfloat16)} for dtypes in seen)
    floats = jax.tree.leaves(eqx.filter((state.params, state.opt_state), eqx.is_inexact_array))
    assert {leaf.dtype for leaf in floats} == {jnp.dtype(jnp.float32)} and metrics.loss_sum.dtype == jnp.float32


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(model=BagOfWords(jnp.float16)), "float16 has no number below.*dtype=jnp.float32"),
        (dict(compute_dtype=jnp.float16), "must be bfloat16.*Got float16"),
        (dict(compute_dtype=jnp.int8), "Got int8"),
        (dict(trainable=lambda name: name == "weight"), "chose none of 2: embedding, bias"),
    ],
)
def test_what_cannot_be_trained(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start(**wrong)


def test_wrong_batches_and_losses() -> None:
    step, state = start()
    with pytest.raises(ValueError, match=r"\[micro, batch, ...\]"):
        step(state, in_micro_batches(BATCH, 2) | dict(labels=BATCH["labels"]))
    mean: Any = lambda model, batch, key: word_loss(model, batch, key)[0]
    step, state = make_train_step(BagOfWords(), mean, optax.sgd(0.1), key=KEY)
    with pytest.raises(ValueError, match="must return a sum and a count"):
        step(state, in_micro_batches(BATCH, 2))


def fairseq_rate(updates: int, lr: float, warmup: int, total: int) -> float:
    """`PolynomialDecayLRSchedule.step_update`, with its defaults."""
    if warmup > 0 and updates <= warmup:
        return updates / float(warmup) * lr
    if updates >= total:
        return 0.0
    return lr * (1 - (updates - warmup) / (total - warmup))


@pytest.mark.parametrize("recipe", [CNN_DM, XSUM, RECIPES["pretraining"], Recipe(1e-3, warmup_steps=0, total_steps=9)])
def test_schedules(recipe: Recipe) -> None:
    schedule = recipe.schedule()
    for updates in {
        0,
        1,
        3,
        recipe.warmup_steps,
        recipe.warmup_steps + 1,
        recipe.total_steps - 1,
        recipe.total_steps + 5,
    }:
        wanted = fairseq_rate(updates, recipe.learning_rate, recipe.warmup_steps, recipe.total_steps)
        assert np.isclose(schedule(updates), wanted, rtol=1e-4, atol=1e-6 * recipe.learning_rate)


def test_the_optimiser_of_a_recipe() -> None:
    """Three updates against the formulas: gradients clipped, Adam, decay of what is no bias."""
    recipe = Recipe(0.1, warmup_steps=0, total_steps=10, weight_decay=0.2, clip_norm=0.5, eps=1e-3)
    optimizer = recipe.optimizer()
    update = jax.jit(optimizer.update)
    params = dict(weight=np.array([1.0, -2.0]), bias=np.array([3.0]))
    mean, square = ({name: 0 * value for name, value in params.items()} for _ in range(2))
    given: Any = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    state = optimizer.init(given)
    for number in range(3):
        gradients = dict(weight=np.array([0.3, number]), bias=np.array([-0.1]))
        updates, state = update(jax.tree.map(jnp.asarray, gradients), state, given)
        given = optax.apply_updates(given, updates)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))
        rate = 0.1 * (1 - number / 10)
        for name, gradient in gradients.items():
            gradient = gradient * min(1, 0.5 / norm)
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            adam = mean[name] / (1 - 0.9 ** (number + 1)) / (np.sqrt(square[name] / (1 - 0.999 ** (number + 1))) + 1e-3)
            params[name] = params[name] - rate * (adam + (0.2 * params[name] if name == "weight" else 0))
    for name, wanted in params.items():
        np.testing.assert_allclose(given[name], wanted, rtol=1e-5)


def test_a_recipe_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="`warmup_steps`.*Got 10 and 10"):
        Recipe(0.1, warmup_steps=10, total_steps=10)


@pytest.mark.slow
def test_the_loss_in_bfloat16_is_that_of_float32(record_property: Any) -> None:
    """Over 200 steps of a small BART that learns to copy, with dropout: float32 with another key differs more."""
    config = bart_eqx.BartConfig(
        vocab_size=40,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=16,
        init_std=0.1,
    )
    model = bart_eqx.BartForConditionalGeneration(config, key=KEY)
    optimizer = Recipe(5e-3, warmup_steps=20, total_steps=200, clip_norm=1.0).optimizer()
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 40, (200, 1, 32, 8)).astype(np.int32)
    made = [dict(input_ids=row, attention_mask=np.ones_like(row), labels=row) for row in ids]

    def curve(key: Any, **options: Any) -> np.ndarray:
        step, state = make_train_step(model, seq2seq_loss, optimizer, key=key, **options)
        losses = []
        for batch in made:
            state, metrics = step(state, batch)
            losses.append(metrics)
        return np.array([float(metrics.loss_sum) / float(metrics.count) for metrics in losses])

    float32, other = curve(KEY), curve(jax.random.key(1))
    bfloat16 = curve(KEY, compute_dtype=jnp.bfloat16)
    rounding, noise = (float(np.sqrt(np.mean((one - float32) ** 2))) for one in (bfloat16, other))
    ends = [float(losses[-20:].mean()) for losses in (float32, other, bfloat16)]
    record_property("rms", f"bfloat16 {rounding:.4f}, another key {noise:.4f}; ends {np.round(ends, 3)}")
    assert ends[0] < 0.5 * float32[0]
    assert rounding < noise

"""The loss in parts equals the loss in one piece; recomputed layers equal layers whose results are kept."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bart_eqx
from bart_eqx.training import cross_entropy, rematerialise
from support import configured, random_model, relative_error


DIM, VOCAB = 7, 41


@pytest.fixture(scope="module")
def head() -> Any:
    weight = jax.random.normal(jax.random.key(0), (VOCAB, DIM))
    return lambda weight: lambda states: states @ weight.T, weight


def states_and_labels(*shape: int) -> tuple[jax.Array, np.ndarray]:
    labels = np.random.default_rng(1).integers(0, VOCAB, shape)
    labels[..., -2:] = -100
    return jax.random.normal(jax.random.key(2), (*shape, DIM)), labels


def in_one_piece(logits: jax.Array, labels: np.ndarray, label_smoothing: float) -> jax.Array:
    """The definition of `torch.nn.CrossEntropyLoss(ignore_index=-100, label_smoothing=...)`."""
    log_probs = jax.nn.log_softmax(logits)
    wanted = (1 - label_smoothing) * jax.nn.one_hot(labels, logits.shape[-1]) + label_smoothing / logits.shape[-1]
    losses = -jnp.sum(wanted * log_probs, axis=-1)
    return jnp.sum(losses, where=labels != -100) / np.sum(labels != -100)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shape, rows", [((11,), 4), ((3, 5), 5), ((3, 5), 1), ((2, 3, 4), 1000)])
def test_cross_entropy(head: Any, shape: tuple[int, ...], rows: int, label_smoothing: float) -> None:
    """Value and gradients, within 1e-6 of the largest; measured 2e-7."""
    scores, weight = head
    states, labels = states_and_labels(*shape)
    parts = lambda weight, states: cross_entropy(
        scores(weight), states, labels, label_smoothing=label_smoothing, rows=rows
    )
    whole = lambda weight, states: in_one_piece(scores(weight)(states), labels, label_smoothing)
    found = jax.jit(jax.value_and_grad(parts, (0, 1)))(weight, states)
    wanted = jax.jit(jax.value_and_grad(whole, (0, 1)))(weight, states)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert relative_error(one, other) < 1e-6


def test_scores_are_never_all_there() -> None:
    """The gradient for 600 positions and a vocabulary of 4000 needs less memory than 600 x 4000 logits."""
    states, labels = states_and_labels(20, 30)
    weight = jnp.ones((4000, DIM))

    def memory(loss: Any) -> int:
        gradient = jax.jit(jax.grad(loss, (0, 1)))
        analysis = gradient.lower(weight, states).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    parts = lambda weight, states: cross_entropy(lambda states: states @ weight.T, states, labels, rows=30)
    whole = lambda weight, states: in_one_piece(states @ weight.T, labels, 0.0)
    assert memory(parts) < 4 * 600 * 4000 < memory(whole)


def test_labels_that_do_not_exist(head: Any) -> None:
    scores, weight = head
    states, labels = states_and_labels(6)
    for wrong in (-1, VOCAB):
        assert jnp.isnan(cross_entropy(scores(weight), states, np.where(np.arange(6) == 2, wrong, labels)))
    none = np.full(6, -100)
    loss, gradient = jax.value_and_grad(lambda weight: cross_entropy(scores(weight), states, none))(weight)
    assert loss == 0 and not jnp.any(gradient)


@pytest.mark.parametrize("wrong, message", [(dict(label_smoothing=1.5), r"\[0, 1\]. Got 1.5"), (dict(rows=0), "Got 0")])
def test_wrong_arguments(head: Any, wrong: dict[str, Any], message: str) -> None:
    states, labels = states_and_labels(6)
    with pytest.raises(ValueError, match=message):
        cross_entropy(head[0](head[1]), states, labels, **wrong)


def test_of_a_model(model: bart_eqx.BartForConditionalGeneration) -> None:
    """The README's loss: a tied head, its bias, and the two gradients of the shared embedding."""
    ids = np.array([[5, 6, 7, 8, 2], [9, 4, 6, 2, 1]])
    labels = np.array([[11, 12, 13, 2], [14, 2, -100, -100]])
    decoder_ids = bart_eqx.shift_tokens_right(labels, 1, 2)

    def parts(model: Any) -> jax.Array:
        states = model.model(ids, decoder_input_ids=decoder_ids).last_hidden_state
        return cross_entropy(model.lm_logits, states, labels, rows=3)

    whole = lambda model: in_one_piece(model(ids, decoder_input_ids=decoder_ids).logits, labels, 0.0)
    found = eqx.filter_jit(eqx.filter_value_and_grad(parts))(model)
    wanted = eqx.filter_jit(eqx.filter_value_and_grad(whole))(model)
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    assert all(relative_error(one, other) < 2e-5 for one, other in leaves if jnp.any(other))


IDS = np.array([[5, 6, 7, 8, 2], [9, 4, 6, 2, 1]])
LABELS = np.array([[11, 12, 13, 2], [14, 2, -100, -100]])


def cast(model: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, model)


def loss_of(model: Any, key: Any = None) -> jax.Array:
    decoder_ids = bart_eqx.shift_tokens_right(LABELS, 1, 2)
    states = model.model(IDS, decoder_input_ids=decoder_ids, key=key).last_hidden_state
    return cross_entropy(model.lm_logits, states, LABELS)


@pytest.fixture
def shallow() -> bart_eqx.BartForConditionalGeneration:
    config = configured("unequal", encoder_layers=1, decoder_layers=1)
    return random_model(bart_eqx.BartForConditionalGeneration, config)


@pytest.mark.parametrize("jit", [False, True])
def test_a_float16_model_in_training_mode(shallow: bart_eqx.BartForConditionalGeneration, jit: bool) -> None:
    """The warning is at the caller's line, and there is none for a model that is not trained, or not in float16."""
    wrap: Any = eqx.filter_jit if jit else lambda function: function
    narrow, key = cast(shallow, jnp.float16), jax.random.key(0)
    training = lambda model: eqx.nn.inference_mode(model, value=False)
    with pytest.warns(UserWarning, match="float16 model runs in training mode. float16 has no .*float32") as warned:
        wrap(loss_of)(training(narrow), key)
    assert {(w.filename, w.lineno) for w in warned} == {(__file__, loss_of.__code__.co_firstlineno + 2)}
    trace = lambda *args: eqx.filter_eval_shape(wrap(loss_of), *args)  # a warning is an error here
    trace(narrow)
    trace(training(cast(shallow, jnp.bfloat16)), key)
    trace(training(shallow), key)


@pytest.mark.parametrize("order", ["grad of jit", "jit of grad", "grad"])
def test_the_gradient_of_a_float16_model(shallow: bart_eqx.BartForConditionalGeneration, order: str) -> None:
    """Also in inference mode; not where what is differentiated does not go through the model."""
    grad, jit = eqx.filter_grad, eqx.filter_jit
    gradient = {"grad of jit": grad(jit(loss_of)), "jit of grad": jit(grad(loss_of)), "grad": grad(loss_of)}[order]
    narrow = cast(shallow, jnp.float16)
    with pytest.warns(UserWarning, match="The gradient of a float16 model is computed") as warned:
        eqx.filter_eval_shape(gradient, narrow)
    assert {w.filename for w in warned} == {__file__}
    eqx.filter_eval_shape(gradient, cast(shallow, jnp.bfloat16))  # a warning is an error here
    scaled = {
        "grad of jit": grad(jit(lambda scale: scale * loss_of(narrow))),
        "jit of grad": jit(grad(lambda scale: scale * loss_of(narrow))),
        "grad": grad(lambda scale: scale * loss_of(narrow)),
    }[order]
    assert eqx.filter_eval_shape(scaled, jnp.asarray(2.0)).shape == ()


def test_bfloat16_over_float32_parameters(model: bart_eqx.BartForConditionalGeneration) -> None:
    """The recipe of `docs/training.md`: gradients are float32 and those of float32 but for bfloat16's rounding, and
    updates too small for bfloat16 add up."""
    mixed = eqx.filter_jit(eqx.filter_value_and_grad(lambda model: loss_of(cast(model, jnp.bfloat16))))
    loss, gradients = mixed(model)
    wanted_loss, wanted = eqx.filter_jit(eqx.filter_value_and_grad(loss_of))(model)
    leaves = jax.tree.leaves(eqx.filter(gradients, eqx.is_array))
    assert loss.dtype == jnp.float32 and all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert abs(loss - wanted_loss) < 0.05 * wanted_loss
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))])
    ours, theirs = flat(gradients), flat(wanted)
    assert ours @ theirs > 0.99 * np.linalg.norm(ours) * np.linalg.norm(theirs)

    optimiser = optax.adam(1e-4)
    trained, state = model, optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    for _ in range(10):
        loss, gradients = mixed(trained)
        updates, state = optimiser.update(gradients, state)
        trained = eqx.apply_updates(trained, updates)
        losses.append(float(loss))
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    weight = lambda model: np.asarray(model.model.decoder.layers[0].fc1.weight)
    moved = weight(trained) - weight(model)
    assert np.abs(moved).max() > 5e-4  # ten steps of up to 1e-4, of which bfloat16 would round away most


@pytest.mark.slow
@pytest.mark.parametrize("cls", [bart_eqx.BartForConditionalGeneration, bart_eqx.BartForCausalLM])
def test_rematerialise(cls: Any) -> None:
    """The same outputs and gradients, in training mode too, and less kept for the backward pass."""
    rates = dict(dropout=0.2, attention_dropout=0.2, activation_dropout=0.2, decoder_layerdrop=0.5)
    model = eqx.nn.inference_mode(random_model(cls, configured("unequal", encoder_layers=3, **rates)), value=False)
    ids = np.array([[5, 6, 7, 8, 2], [9, 4, 6, 2, 1]])
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    total = lambda model: jnp.sum(jnp.square(model(ids, key=jax.random.key(3)).logits))
    kept = lambda arrays: total(eqx.combine(arrays, static))
    twice = lambda arrays: total(rematerialise(eqx.combine(arrays, static)))
    found, wanted = (jax.jit(jax.value_and_grad(loss))(arrays) for loss in (twice, kept))
    assert relative_error(found[0], wanted[0]) < 1e-6
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(wanted[1]))
    for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * largest)  # that of a key bias is only rounding

    def residuals(loss: Any) -> int:
        _, backward = jax.vjp(loss, arrays)
        parameters = {id(leaf) for leaf in jax.tree.leaves(arrays)}
        return sum(leaf.nbytes for leaf in jax.tree.leaves(backward) if id(leaf) not in parameters)

    assert residuals(twice) < residuals(kept) / 3
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    products = lambda arrays: total(rematerialise(eqx.combine(arrays, static), policy=policy))
    assert residuals(twice) < residuals(products) < residuals(kept)


def test_a_view_is_not_saved(model: bart_eqx.BartForConditionalGeneration, tmp_path: Path) -> None:
    with pytest.raises(bart_eqx.CheckpointError, match="replaced cannot be loaded again"):
        bart_eqx.save_pretrained(rematerialise(model), tmp_path / "view")
    assert not (tmp_path / "view").exists()

"""Distillation against its formula over whole logits; students that are a teacher's layers; labels that it writes."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bart_eqx
from bart_eqx.training import (
    Distillation,
    distil_whisper_layers,
    distil_whisper_supervised_layers,
    distilbart_layers,
    distilbart_supervised_layers,
    pseudo_labels,
    shrink,
)
from support import CLASSES, configured, precision, random_model, relative_error


SMALL = configured(
    "unequal", d_model=10, encoder_attention_heads=2, decoder_attention_heads=1, encoder_layers=1, decoder_layers=2,
    vocab_size=31, encoder_ffn_dim=6, decoder_ffn_dim=6,
)  # fmt: skip
BATCH = dict(
    input_ids=np.array([[0, 5, 6, 7, 2], [0, 8, 2, 1, 1], [0, 9, 10, 2, 1], [1, 1, 1, 1, 1]]),
    attention_mask=np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]]),
    labels=np.array([[0, 11, 12, 2], [13, 2, -100, -100], [14, 15, 2, -100], [-100] * 4]),
)


def teacher_of(dtype: Any = np.float32) -> Any:
    return random_model(bart_eqx.BartForConditionalGeneration, SMALL, dtype)


def by_the_formula(student: Any, teacher: Any, batch: dict[str, np.ndarray]) -> jax.Array:
    """0.8 CE + T² KL at T = 2 + the errors of the student's decoder layer, and of its encoder layer."""
    labels, shown = batch["labels"], batch["attention_mask"]
    inputs = dict(
        input_ids=batch["input_ids"],
        attention_mask=shown,
        decoder_input_ids=bart_eqx.shift_tokens_right(labels, 1, 2),
        output_hidden_states=True,
    )
    ours, theirs = student(**inputs), teacher(**inputs)
    p, log_q = jax.nn.softmax(theirs.logits / 2), jax.nn.log_softmax(ours.logits / 2)
    tokens = 4 * jnp.sum(p * (jnp.log(p) - log_q), axis=-1)
    tokens -= 0.8 * jnp.sum(jax.nn.one_hot(labels, 31) * jax.nn.log_softmax(ours.logits), axis=-1)
    error = lambda one, other: jnp.mean((one - other) ** 2, axis=-1)
    tokens += error(ours.decoder_hidden_states[1], theirs.decoder_hidden_states[2])
    source = error(ours.encoder_hidden_states[1], theirs.encoder_hidden_states[1])
    of_rows = [(labels[row] != -100).sum() * jnp.mean(source[row, : shown[row].sum()]) for row in range(3)]
    return jnp.sum(tokens * (labels != -100)) + sum(of_rows)


def test_the_formula() -> None:
    """The sum, and its change along a direction, in float64, in parts of one position; and the sums of a batch that was
    split."""
    with precision(np.float64):
        teacher = teacher_of(np.float64)
        noisy = lambda leaf: leaf * 1.1 if eqx.is_inexact_array(leaf) else leaf
        student = jax.tree.map(noisy, shrink(teacher, decoder_layers=[1]))
        loss = Distillation(teacher, encoder_layers=(0,), decoder_layers=(1,), rows=4)
        step = eqx.filter_jit(
            lambda student, loss, batch: eqx.filter_value_and_grad(loss, has_aux=True)(student, batch)
        )
        (total, count), gradient = step(student, loss, BATCH)
        formula = eqx.filter_jit(lambda student: by_the_formula(student, teacher, BATCH))
        assert count == 9 and relative_error(total, formula(student)) < 1e-13
        arrays, rest = eqx.partition(student, eqx.is_inexact_array)
        flat, unravel = ravel_pytree(arrays)
        way = unravel(jnp.asarray(np.random.default_rng(0).standard_normal(flat.shape)))
        # It has no gradient.
        way = ravel_pytree(eqx.tree_at(lambda tree: tree.final_logits_bias, way, replace_fn=jnp.zeros_like))[0]
        at = lambda step: formula(eqx.combine(unravel(flat + step * way), rest))
        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        assert relative_error(ravel_pytree(gradient)[0] @ way, slope) < 1e-7
        parts = [{name: array[[i, 3, 3, 3]] for name, array in BATCH.items()} for i in range(3)]
        sums, counts = zip(*(step(student, loss, part)[0] for part in parts), strict=True)
        assert sum(counts) == 9 and relative_error(sum(sums), total) < 1e-12


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(temperature=0.0), "`temperature` must be positive. Got 0"),
        (dict(kl_weight=-1.0), "`kl_weight` must not be negative"),
        (dict(decoder_layers=(0, 2)), "`decoder_layers` must be layers of the teacher, 0 to 1. Got 2"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(teacher_of(), **options)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(vocab_size=37), "one vocabulary. Got vocab_size=37 and 31"),
        (dict(decoder_layers=1), "for each of the student's 1 layers. Got 2"),
        (dict(d_model=12), "d_model=12 and 10: leave `decoder_layers` out"),
    ],
)
def test_a_student_that_does_not_fit(changes: dict[str, Any], message: str) -> None:
    fields = {k: v for k, v in SMALL.to_dict().items() if k not in ("model_type", "label2id", "id2label")}
    config = bart_eqx.BartConfig(**(fields | changes))
    student = eqx.filter_eval_shape(bart_eqx.BartForConditionalGeneration, config, key=jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        Distillation(teacher_of(), decoder_layers=(0, 1))(student, BATCH)


def test_tables() -> None:
    """Values that make_student.py and distil-whisper's scripts document."""
    assert distilbart_layers(12, 6) == (0, 2, 4, 7, 9, 11) and distilbart_layers(12, 3) == (0, 6, 11)
    assert distilbart_layers(12, 12) == tuple(range(12)) == distil_whisper_layers(12, 12)
    assert distilbart_supervised_layers(12, 6) == (1, 3, 5, 8, 10, 11)
    assert distil_whisper_layers(32, 2) == (0, 31) and distil_whisper_layers(12, 6) == (0, 2, 4, 6, 8, 11)
    assert distil_whisper_layers(12, 1) == (11,) and distil_whisper_supervised_layers(12, 3) == (3, 7, 11)
    for table in (distilbart_layers, distilbart_supervised_layers):
        for teacher, student in ((6, 3), (12, 3), (16, 4)):
            layers = table(teacher, student)
            assert len(layers) == student and sorted(set(layers)) == list(layers) and layers[-1] == teacher - 1
        with pytest.raises(ValueError, match="12 → 5: choose"):
            table(12, 5)
    with pytest.raises(ValueError, match=r"`student` must be in \[1, teacher=12\]. Got 13"):
        distil_whisper_layers(12, 13)


@pytest.mark.parametrize("cls", CLASSES)
def test_shrink(cls: Any, tmp_path: Path) -> None:
    """The layers in their order, the configuration, the rest as it was; saved and loaded as any model."""
    config = configured("unequal", encoder_layers=3, decoder_layers=3)
    teacher = random_model(cls, config)
    has_encoder = cls is not bart_eqx.BartForCausalLM
    chosen = dict(encoder_layers=(2, 0), decoder_layers=(0, 2)) if has_encoder else dict(decoder_layers=(0, 2))
    student = shrink(teacher, **chosen)
    assert student.config.decoder_layers == 2 and student.config.encoder_layers == (2 if has_encoder else 3)
    names = {"encoder": (2, 0), "decoder": (0, 2)}
    theirs, ours = bart_eqx.to_flax(teacher), bart_eqx.to_flax(student)
    if cls is not bart_eqx.BartModel:
        head = {name: tree for name, tree in theirs.items() if name != "model"}
        assert eqx.tree_equal({name: tree for name, tree in ours.items() if name != "model"}, head)
        theirs, ours = theirs["model"], ours["model"]
    for side, layers in names.items():
        if side in theirs:
            kept = {str(i): theirs[side]["layers"].pop(str(layer)) for i, layer in enumerate(layers)}
            assert eqx.tree_equal(ours[side].pop("layers"), kept)
            theirs[side].pop("layers")
    assert eqx.tree_equal(ours, theirs)
    assert not any(
        one is other for one in jax.tree.leaves(student) if eqx.is_array(one) for other in jax.tree.leaves(teacher)
    )
    bart_eqx.save_pretrained(student, tmp_path / "student")
    assert eqx.tree_equal(bart_eqx.from_pretrained(tmp_path / "student", cls), student)


@pytest.mark.parametrize(
    "layers, message",
    [
        (dict(encoder_layers=[]), r"`encoder_layers` must be distinct layers, 0 to 0. Got \[\]"),
        (dict(decoder_layers=[1, 1]), "distinct layers"),
        (dict(decoder_layers=[0, 2]), r"0 to 1. Got \[0, 2\]"),
        (dict(decoder_layers=[-1]), r"Got \[-1\]"),
    ],
)
def test_layers_that_do_not_exist(layers: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shrink(teacher_of(), **layers)


def test_models_that_do_not_shrink() -> None:
    decoder = random_model(bart_eqx.BartForCausalLM, SMALL)
    with pytest.raises(ValueError, match="has no encoder: leave `encoder_layers` out"):
        shrink(decoder, encoder_layers=[0])
    with pytest.raises(TypeError, match="`shrink` takes a model of one of the five classes.*Got a Linear"):
        shrink(eqx.nn.Linear(2, 2, key=jax.random.key(0)), decoder_layers=[0])


def test_pseudo_labels() -> None:
    """A student generates; what follows its start token are labels, and its mean loss on them is finite."""
    student = shrink(teacher_of(), decoder_layers=[1])
    ids, mask = BATCH["input_ids"][:3], BATCH["attention_mask"][:3]
    options: dict[str, Any] = dict(max_length=7, num_beams=1)
    labels = pseudo_labels(student, ids, mask, **options)
    result = bart_eqx.generate(student, ids, mask, **options)
    assert labels.shape == (3, 6)
    for row, sequence, length in zip(labels, result.sequences, result.lengths, strict=True):
        assert row[: length - 1].tolist() == sequence[1:length].tolist() and (row[length - 1 :] == -100).all()

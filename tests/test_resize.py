"""Vocabularies of another size: `resize_token_embeddings`, and `from_pretrained(..., ignore_mismatched_sizes=True)`."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bart_eqx
from bart_eqx import CheckpointError, from_pretrained, generate, quantize, resize_token_embeddings, save_pretrained
from bart_eqx.checkpoint.pytree import named_parameters, with_own_tables
from bart_eqx.model.resize import new_rows
from support import CLASSES, configured, random_model


Model = bart_eqx.BartForConditionalGeneration
SOURCE = np.array([12, 13, 14, 2])


def of_vocabulary(model: Any) -> dict[str, np.ndarray]:
    """The arrays with a row, or an entry, for each token; the vocabulary is their first axis."""
    found = {name: np.asarray(array) for name, array in named_parameters(model).items()}
    parts = ("shared", "embed_tokens", "lm_head", "final_logits_bias")
    tables = {name: array for name, array in found.items() if any(part in name for part in parts)}
    return {name: array[0] if name == "final_logits_bias" else array for name, array in tables.items()}


def vary(cls: Any, kind: str) -> Any:
    """A model whose vocabulary is held as `kind` says."""
    model = random_model(cls, configured("unequal" if kind == "tied" else "untied"))
    if kind == "own tables" and cls is not bart_eqx.BartForCausalLM:
        model = with_own_tables(model, ["encoder", "decoder"])
        bart: Any = lambda tree: tree if cls is bart_eqx.BartModel else tree.model
        own: Any = lambda tree: (bart(tree).encoder.embed_tokens.weight, bart(tree).decoder.embed_tokens.weight)
        model = eqx.tree_at(own, model, tuple(factor * table for factor, table in zip((2, 3), own(model), strict=True)))
    return quantize(model) if kind == "int8" else model


KINDS = pytest.mark.parametrize("kind", ["tied", "untied", "own tables", "int8"])


class TestResize:
    @KINDS
    @pytest.mark.parametrize("cls", CLASSES)
    def test_rows(self, cls: Any, kind: str, key: jax.Array) -> None:
        """Rows in common are kept, new ones are the mean of the old, new biases zero; nothing else changes."""
        model = vary(cls, kind)
        before = of_vocabulary(model)
        assert before.keys() == {name for name, array in named_parameters(model).items() if 97 in array.shape}
        for size in (90, 97, 103):
            resized = resize_token_embeddings(model, size, key=key)
            assert resized.config == dataclasses.replace(model.config, vocab_size=size)
            after = of_vocabulary(resized)
            assert after.keys() == before.keys()
            for name, old in before.items():
                new, common = after[name], min(97, size)
                assert new.dtype == old.dtype and new.shape == (size, *old.shape[1:])
                np.testing.assert_array_equal(new[:common], old[:common])
                if size > 97 and name == "final_logits_bias":
                    assert not new[97:].any()
                elif size > 97 and kind != "int8":
                    np.testing.assert_allclose(new[97:], np.tile(old.mean(axis=0), (6, 1)), atol=1e-3)
                    assert len(np.unique(new[97:], axis=0)) == 6
            rest = {name: a for name, a in named_parameters(model).items() if name not in before}
            for name, array in rest.items():
                np.testing.assert_array_equal(named_parameters(resized)[name], array)
            assert jax.tree.structure(eqx.filter(resized, eqx.is_array, inverse=True)) == jax.tree.structure(
                eqx.filter(resize_token_embeddings(resized, size), eqx.is_array, inverse=True)
            )
        assert model.config.vocab_size == 97

    @KINDS
    @pytest.mark.parametrize("cls", [Model, bart_eqx.BartForCausalLM, bart_eqx.BartForSequenceClassification])
    def test_it_computes_and_is_saved(self, cls: Any, kind: str, key: jax.Array, tmp_path: Path) -> None:
        model = vary(cls, kind)
        before = jax.tree.leaves(eqx.filter(model(SOURCE), eqx.is_array))
        for size in (90, 103):
            resized = resize_token_embeddings(model, size, key=key)
            after = jax.tree.leaves(eqx.filter(resized(SOURCE), eqx.is_array))
            for old, new in zip(before, after, strict=True):
                common = min(old.shape[-1], new.shape[-1])
                np.testing.assert_allclose(new[..., :common], old[..., :common], rtol=1e-5, atol=1e-5)
                assert new.shape[-1] == (size if old.shape[-1] == 97 else old.shape[-1])
            save_pretrained(resized, tmp_path / str(size))
            assert eqx.tree_equal(from_pretrained(tmp_path / str(size)), resized)


def test_new_rows_are_drawn_as_in_transformers(key: jax.Array) -> None:
    """Around the mean of the old ones, with 1e-9 times their covariance."""
    rng = np.random.default_rng(0)
    table = 5 + rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6))
    rows = np.asarray(new_rows(jnp.asarray(table, jnp.float32), 20_000, key), np.float64)
    np.testing.assert_allclose(rows.mean(axis=0), table.mean(axis=0), rtol=1e-5)
    # Around zero float32 does not round the small differences away.
    rows = np.asarray(new_rows(jnp.asarray(table - table.mean(axis=0), jnp.float32), 20_000, key), np.float64)
    expected = np.cov(table.T, bias=True)
    np.testing.assert_allclose(np.cov(rows.T) / 1e-9, expected, atol=0.05 * expected.max())
    few = new_rows(jnp.ones((3, 6), jnp.bfloat16), 2, key)  # of a covariance that is singular
    assert few.dtype == jnp.bfloat16 and (few == 1).all()


def test_keys(key: jax.Array) -> None:
    model = random_model(Model, configured("untied"))
    one, again, other = (resize_token_embeddings(model, 99, key=k) for k in (key, key, jax.random.key(7)))
    assert eqx.tree_equal(one, again)
    for name in ("model.shared.weight", "lm_head.weight"):
        assert not np.array_equal(of_vocabulary(one)[name], of_vocabulary(other)[name])
    with pytest.raises(ValueError, match=r"`key` draws the rows of 2 new tokens: give one, as jax.random.key\(0\)"):
        resize_token_embeddings(model, 99)
    assert eqx.tree_equal(resize_token_embeddings(model, 97), model)


def test_special_tokens_must_remain(key: jax.Array) -> None:
    model: Any = random_model(Model, configured("other_ids"))  # decoder_start_token_id=11
    with pytest.raises(
        ValueError, match="11 tokens has 0 to 10, and `decoder_start_token_id` in the model's `config` is"
    ):
        resize_token_embeddings(model, 11)
    assert resize_token_embeddings(model, 12).config.vocab_size == 12
    settings = model.generation_config.override(eos_token_id=[7, 50])
    changed = eqx.tree_at(lambda m: m.generation_config, model, settings)
    with pytest.raises(ValueError, match="`eos_token_id` in the model's `generation_config` is 50"):
        resize_token_embeddings(changed, 50)
    for size in (0, -3):
        with pytest.raises(ValueError, match=f"A vocabulary of {size} tokens"):
            resize_token_embeddings(model, size)


def test_what_else_the_model_is_remains(key: jax.Array) -> None:
    """Training mode, replaced layers, settings: all that a new model from the configuration would not have."""
    model: Any = random_model(Model, configured("unequal"))
    model = eqx.nn.inference_mode(model, value=False)
    model = eqx.tree_at(lambda m: m.generation_config, model, bart_eqx.GenerationConfig(num_beams=3, max_length=9))
    model = eqx.tree_at(lambda m: m.model.encoder.layers, model, ())
    resized = resize_token_embeddings(model, 99, key=key)
    assert resized.model.encoder.layers == () and not resized.model.encoder.dropout.inference
    assert resized.generation_config == model.generation_config
    assert generate(eqx.nn.inference_mode(resized), SOURCE).sequences.shape == (9,)
    assert eqx.filter_eval_shape(resize_token_embeddings, model, 90).config.vocab_size == 90
    assert eqx.filter_jit(resize_token_embeddings)(model, 90).final_logits_bias.shape == (1, 90)


def test_replaced_tables(key: jax.Array) -> None:
    class Other(bart_eqx.AbstractEmbedding):
        def __call__(self, ids: Any) -> Any: ...

        def logits(self, x: Any) -> Any: ...

    model = random_model(Model, configured("unequal"))
    with pytest.raises(TypeError, match="changes BART's own tables.* This one is a Other: resize before"):
        resize_token_embeddings(eqx.tree_at(lambda m: m.model.shared, model, Other()), 99, key=key)
    with pytest.raises(TypeError, match="takes a model of one of the five classes.* Got a BartEncoder"):
        resize_token_embeddings(model.model.encoder, 99, key=key)


def test_tables_changed_by_hand(tmp_path: Path) -> None:
    """`tree_at` leaves the configuration as it was; the error names the way."""
    model: Any = random_model(Model, configured("unequal"))
    changed = eqx.tree_at(lambda m: m.model.shared.weight, model, jnp.ones((99, 30)))
    with pytest.raises(CheckpointError, match="`resize_token_embeddings` changes the vocabulary.*model.shared.weight"):
        save_pretrained(changed, tmp_path)


class TestLoading:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        save_pretrained(random_model(Model, configured("unequal")), tmp_path)
        return tmp_path

    @pytest.mark.parametrize("kind", ["tied", "untied", "own tables"])
    @pytest.mark.parametrize("cls", CLASSES)
    def test_more_and_fewer_rows(
        self, cls: Any, kind: str, tmp_path: Path, key: jax.Array, caplog: pytest.LogCaptureFixture
    ) -> None:
        stored = vary(cls, kind)
        save_pretrained(stored, tmp_path)
        for size in (90, 103):
            config = dataclasses.replace(stored.config, vocab_size=size)
            caplog.clear()
            with caplog.at_level(logging.WARNING, "bart_eqx"):
                loaded = from_pretrained(tmp_path, config=config, key=key, ignore_mismatched_sizes=True)
            assert type(loaded) is cls and loaded.config == config
            before, after = of_vocabulary(stored), of_vocabulary(loaded)
            assert before.keys() == after.keys()
            for name, old in before.items():
                common = min(97, size)
                np.testing.assert_array_equal(after[name][:common], old[:common])
                if size > 97 and name == "final_logits_bias":
                    assert not after[name][97:].any()
                elif size > 97:
                    np.testing.assert_allclose(after[name][97:], np.tile(old.mean(axis=0), (6, 1)), atol=1e-3)
                what = "entries" if name == "final_logits_bias" else "rows"
                change = "97 to 102 are new" if size > 97 else "90 to 96 are left out"
                assert f"`{name.removeprefix('model.')}` has 97 {what}, and {what} {change}" in caplog.text
            assert "not in the checkpoint" not in caplog.text and "of another shape" not in caplog.text

    def test_new_special_tokens(self, folder: Path, key: jax.Array) -> None:
        """Their rows are among the new ones."""
        config = dataclasses.replace(configured("unequal"), vocab_size=99, decoder_start_token_id=98)
        loaded = from_pretrained(folder, Model, config=config, key=key, ignore_mismatched_sizes=True)
        assert generate(loaded, SOURCE, max_length=6, decoder_start_token_id=98).sequences[0] == 98

    def test_only_on_request(self, folder: Path) -> None:
        config = dataclasses.replace(configured("unequal"), vocab_size=99)
        message = (
            r"of another shape: `final_logits_bias` \(1, 97\) in place of \(1, 99\), `model.shared.weight` \(97, 30\) "
            r"in place of \(99, 30\)\. For another vocab_size, .*ignore_mismatched_sizes=True.*resize_token_embeddings`"
        )
        with pytest.raises(CheckpointError, match=message):
            from_pretrained(folder, config=config)
        with pytest.raises(CheckpointError, match="`shared.weight` has 97 rows, and vocab_size is 99: pass a `key`"):
            from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
        fewer = dataclasses.replace(config, vocab_size=50)
        assert from_pretrained(folder, Model, config=fewer, ignore_mismatched_sizes=True).config == fewer
        wider = dataclasses.replace(config, d_model=15)
        with pytest.raises(CheckpointError, match=r"`model.shared.weight` \(97, 30\) in place of \(99, 15\)"):
            from_pretrained(folder, config=wider, ignore_mismatched_sizes=True)

    def test_a_bias_of_the_old_size(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        """As PyTorch leaves it where only the embedding was resized: it is in the checkpoint, and is not new."""
        tensors = load_file(folder / "model.safetensors")
        bias = tensors["final_logits_bias"]
        tensors["final_logits_bias"] = bias[:, :90]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            CheckpointError, match=r"another shape: `final_logits_bias` \(1, 90\) in place of \(1, 97\)\."
        ):
            from_pretrained(folder)
        with caplog.at_level(logging.WARNING, "bart_eqx"):
            loaded = from_pretrained(folder, Model, ignore_mismatched_sizes=True)
        assert "`final_logits_bias` has 90 entries, and entries 90 to 96 are new" in caplog.text
        assert "not in the checkpoint" not in caplog.text
        np.testing.assert_array_equal(loaded.final_logits_bias[:, :90], bias[:, :90])
        assert not loaded.final_logits_bias[:, 90:].any()

    def test_int8(self, tmp_path: Path, key: jax.Array) -> None:
        save_pretrained(vary(Model, "int8"), tmp_path)
        config = dataclasses.replace(configured("untied"), vocab_size=99)
        with pytest.raises(CheckpointError, match="of another shape: .*`resize_token_embeddings` changes those of"):
            from_pretrained(tmp_path, config=config, key=key, ignore_mismatched_sizes=True)

    def test_a_head_of_another_size_is_not_missing(
        self, tmp_path: Path, key: jax.Array, caplog: pytest.LogCaptureFixture
    ) -> None:
        save_pretrained(random_model(bart_eqx.BartForSequenceClassification, configured("unequal")), tmp_path)
        wider = configured("unequal", num_labels=42)
        with pytest.raises(CheckpointError, match="has classification_head.* of another shape: pass a `key` to init"):
            from_pretrained(tmp_path, config=wider, ignore_mismatched_sizes=True)
        with caplog.at_level(logging.WARNING, "bart_eqx"):
            from_pretrained(tmp_path, config=wider, key=key, ignore_mismatched_sizes=True)
        assert "of another shape in the checkpoint, and initialised: classification_head.out_proj." in caplog.text
        assert "classification_head.out_proj.weight (3, 30) in place of (42, 30)" in caplog.text
        assert "not in the checkpoint" not in caplog.text

    def test_a_folder_of_flax(self, tmp_path: Path, key: jax.Array) -> None:
        shutil.copytree(Path(__file__).parent / "references/flax-msgpack", tmp_path / "flax")
        fields = json.loads((tmp_path / "flax/config.json").read_text()) | dict(vocab_size=45)
        (tmp_path / "flax/config.json").write_text(json.dumps(fields))
        loaded = from_pretrained(tmp_path / "flax", Model, key=key, ignore_mismatched_sizes=True)
        assert loaded.model.shared.weight.shape == (45, 8)  # pyright: ignore[reportAttributeAccessIssue]

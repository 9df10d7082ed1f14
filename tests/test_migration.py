"""What is written from habit of transformers: an error that says what to write here."""

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import bart_eqx
import migration_page
from bart_eqx.migration import ARGUMENTS, TransformersModel, TransformersOutput
from support import CLASSES, CONFIGS


Model = Any  # to a type checker, none of these habits exist
IDS = jnp.array([[0, 24, 20, 22, 2]])
KEY = jax.random.key(0)
LONGEST = 600  # characters of an error

# The habit, the error, and what it must say.
HABITS: dict[str, tuple[Callable[[Model], Any], type[Exception], str]] = {
    "from_pretrained": (
        lambda model: bart_eqx.BartModel.from_pretrained("facebook/bart-base"),  # pyright: ignore
        AttributeError,
        "bart_eqx.from_pretrained(source, cls)",
    ),
    "from_pretrained of an instance": (
        lambda model: model.from_pretrained("facebook/bart-base"),
        AttributeError,
        "bart_eqx.from_pretrained(source, cls)",
    ),
    "from_pt": (lambda model: bart_eqx.from_pretrained("demo", from_pt=True), TypeError, "`prefer`"),  # pyright: ignore
    "num_labels": (
        lambda model: bart_eqx.from_pretrained("demo", num_labels=2),  # pyright: ignore
        TypeError,
        "dataclasses.replace(config, ...)",
    ),
    "_do_init": (lambda model: bart_eqx.from_pretrained("demo", _do_init=False), TypeError, "filter_eval_shape"),  # pyright: ignore
    "generate": (lambda model: model.generate(IDS, prng_key=KEY), AttributeError, "bart_eqx.generate(model, input_ids"),
    "prng_key": (lambda model: bart_eqx.generate(model, IDS, prng_key=KEY), ValueError, "`key`"),
    "trace": (lambda model: bart_eqx.generate(model, IDS, trace=False), ValueError, "jax.disable_jit"),
    "generate(params=)": (lambda model: bart_eqx.generate(model, IDS, params={}), ValueError, "in the model"),
    "item by name": (lambda model: model(IDS)["logits"], TypeError, "`.logits`"),
    "item by number": (lambda model: model(IDS)[0], TypeError, "`.logits`"),
    "unpacking": (lambda model: tuple(model(IDS)), TypeError, "`.logits`"),
    "item of encoder outputs": (lambda model: model.encode(IDS)[0], TypeError, "`.last_hidden_state`"),
    "item of a result": (
        lambda model: bart_eqx.generate(model, IDS)["sequences"],  # pyright: ignore
        TypeError,
        "`.sequences`",
    ),
    "to_tuple": (lambda model: model(IDS).to_tuple(), AttributeError, "`out.logits`"),
    "loss": (lambda model: model(IDS).loss, AttributeError, "bart_eqx.training.cross_entropy"),
    "past_key_values of an output": (lambda model: model(IDS).past_key_values, AttributeError, "`decode`"),
    "train": (lambda model: model(IDS, train=True), TypeError, "inference_mode(model, value=False)"),
    "dropout_rng": (lambda model: model(IDS, dropout_rng=KEY), TypeError, "`key`"),
    "params": (lambda model: model(IDS, params={}), TypeError, "bart_eqx.from_flax"),
    "params of encode": (lambda model: model.encode(IDS, params={}), TypeError, "bart_eqx.from_flax"),
    "return_dict": (lambda model: model(IDS, return_dict=False), TypeError, "`out.logits`"),
    "labels": (lambda model: model(IDS, labels=IDS), TypeError, "bart_eqx.training.cross_entropy"),
    "token_type_ids": (lambda model: model(IDS, token_type_ids=IDS), TypeError, "BART has none"),
    "inputs_embeds": (lambda model: model(inputs_embeds=IDS), TypeError, "model.model.encoder"),
    "init_cache": (lambda model: model.init_cache(1, 20, model.encode(IDS)), TypeError, "`encoder_outputs`"),
    "init_cache by name": (
        lambda model: model.init_cache(batch_size=1, max_length=20, encoder_outputs=model.encode(IDS)),
        TypeError,
        "`encoder_outputs`",
    ),
    "past_key_values": (
        lambda model: model.decode(IDS, encoder_outputs=model.encode(IDS), past_key_values={}),
        TypeError,
        "model.init_cache",
    ),
    "params of a model": (lambda model: model.params, AttributeError, "bart_eqx.to_flax(model)"),
    "to_bf16": (lambda model: model.to_bf16(model), AttributeError, "astype(dtype)"),
    "save_pretrained": (lambda model: model.save_pretrained("x"), AttributeError, "bart_eqx.save_pretrained"),
    "resize_token_embeddings": (
        lambda model: model.resize_token_embeddings(50300),
        AttributeError,
        "bart_eqx.resize_token_embeddings(model, vocab_size, key=key)",
    ),
    "push_to_hub": (lambda model: model.push_to_hub("x"), AttributeError, "huggingface_hub.upload_folder"),
    "save_pretrained(push_to_hub=)": (
        lambda model: bart_eqx.save_pretrained(model, "x", push_to_hub=True),  # pyright: ignore
        TypeError,
        "huggingface_hub.upload_folder",
    ),
    "enable_gradient_checkpointing": (
        lambda model: model.enable_gradient_checkpointing(),
        AttributeError,
        "bart_eqx.training.rematerialise(model)",
    ),
}


@pytest.mark.parametrize("habit", HABITS)
def test_the_error_says_what_to_write(habit: str) -> None:
    call, error, way = HABITS[habit]
    model = bart_eqx.from_pretrained("demo")
    with pytest.raises(error, match=re.escape(way)) as caught:
        call(model)
    assert len(str(caught.value)) < LONGEST and "\n" not in str(caught.value)


def test_every_method_with_other_arguments() -> None:
    """All five classes, and every method that transformers has too."""
    for cls in CLASSES:
        for name in ("__call__", "encode", "init_cache", "decode"):
            method = getattr(cls, name, None)
            if inspect.isfunction(method):
                with pytest.raises(TypeError, match="`train` is an argument of transformers"):
                    method(None, IDS, train=True)


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name != "encoder_outputs"])  # `init_cache` has that
def test_each_argument(name: str) -> None:
    model: Model = bart_eqx.from_pretrained("demo")
    with pytest.raises(TypeError, match=f"`{name}` is an argument of transformers. Here, ") as caught:
        model.init_cache(**{name: None})
    assert len(str(caught.value)) < LONGEST


def test_what_an_error_names_exists() -> None:
    attributes = [vars(cls) for cls in (TransformersModel, TransformersOutput)]
    ways = [*ARGUMENTS.values()]
    ways += [value.way for names in attributes for value in names.values() if hasattr(value, "way")]
    named = set(re.findall(r"(bart_eqx|equinox|jax)\.([\w.]+)", " ".join(ways)))
    assert len(named) >= 8
    for package, path in named:
        found: Any = {"bart_eqx": bart_eqx, "equinox": eqx, "jax": jax}[package]
        for name in path.split("."):
            found = getattr(found, name)


def test_an_argument_that_is_nobody_s() -> None:
    model: Model = bart_eqx.from_pretrained("demo")
    with pytest.raises(TypeError, match="has no argument `foo`"):
        model(IDS, foo=1)


def test_models_and_outputs_are_what_they_were() -> None:
    """The attributes are not there for `hasattr`, and neither PyTrees nor signatures know them."""
    model: Model = bart_eqx.BartForCausalLM(bart_eqx.BartConfig(**CONFIGS["unequal"]), key=KEY)
    out = model(IDS)
    for thing, names in ((model, ("generate", "params", "from_pretrained")), (out, ("keys", "to_tuple", "loss"))):
        assert not any(hasattr(thing, name) or hasattr(type(thing), name) for name in names)
        assert eqx.tree_equal(copy.deepcopy(thing), thing)
    assert eqx.tree_equal(pickle.loads(pickle.dumps(out)), out)
    assert [type(leaf) for leaf in jax.tree.leaves(out)] == [type(out.logits)]
    assert "cache" in inspect.signature(model.__call__).parameters


def test_a_subclass_may_have_the_name() -> None:
    class Mine(bart_eqx.BartForQuestionAnswering):
        params: int = 3

        def generate(self) -> int:
            return self.params

    build: Any = Mine
    model = build(bart_eqx.BartConfig(**CONFIGS["unequal"]), key=KEY)
    assert model.generate() == model.params == 3


def test_the_calls_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`oracle/test_migration.py` compares them with those of transformers."""
    monkeypatch.chdir(tmp_path)
    assert migration_page.run({}, None, lambda ours, theirs: None) >= 30

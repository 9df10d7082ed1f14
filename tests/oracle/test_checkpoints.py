"""Folders of transformers load here, and ours load there, in each format."""

import json
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import bart_eqx
from bart_eqx.convert import convert
from support import CLASSES, flatten, relative_error

from .conftest import hf_model, our_model
from .test_forward import LIMITS, inputs_for


NAMES = [cls.__name__ for cls in CLASSES]


def outputs(model: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    out = model(**inputs)
    return [
        np.asarray(getattr(out, name)) for name in ("logits", "start_logits", "last_hidden_state") if hasattr(out, name)
    ]


def assert_agree(one: Any, other: Any, inputs: dict[str, np.ndarray]) -> None:
    for ours, theirs in zip(outputs(one, inputs), outputs(other, inputs), strict=True):
        assert relative_error(ours, theirs) <= LIMITS["float32"]


@pytest.mark.parametrize("options", [dict(), dict(safe_serialization=True), dict(max_shard_size="20kB")], ids=str)
@pytest.mark.parametrize("cls_name", NAMES)
def test_theirs_to_ours_to_theirs(cls_name: str, options: dict, tmp_path: Path) -> None:
    """Their Flax folder to our model to our folder in PyTorch's layout to their model: outputs and parameters agree."""
    reference = hf_model(cls_name, "untied")
    reference.save_pretrained(tmp_path / "theirs", **options)
    model = bart_eqx.from_pretrained(tmp_path / "theirs", getattr(bart_eqx, cls_name))
    inputs = inputs_for(cls_name, model.config)
    assert_agree(model, reference, inputs)

    bart_eqx.save_pretrained(model, tmp_path / "ours")
    again = bart_eqx.from_pretrained(tmp_path / "ours")
    for name, array in flatten(bart_eqx.to_flax(model)).items():
        np.testing.assert_array_equal(flatten(bart_eqx.to_flax(again))[name], array)
    theirs = getattr(transformers, f"Flax{cls_name}").from_pretrained(tmp_path / "ours", from_pt=True)
    for name, array in flatten(theirs.params).items():
        np.testing.assert_array_equal(array, flatten(reference.params)[name])


@pytest.mark.parametrize("config_name", ["unequal", "untied"])
@pytest.mark.parametrize("cls_name", NAMES)
def test_hugging_face_flax_loads_what_we_write(cls_name: str, config_name: str, tmp_path: Path) -> None:
    model = our_model(cls_name, config_name)
    bart_eqx.save_pretrained(model, tmp_path, to="flax")
    theirs = getattr(transformers, f"Flax{cls_name}").from_pretrained(tmp_path)
    assert flatten(theirs.params).keys() == flatten(hf_model(cls_name, config_name).params).keys()
    assert_agree(model, theirs, inputs_for(cls_name, model.config))


@pytest.mark.parametrize("cls_name", NAMES)
def test_from_flax_and_back_is_exact(cls_name: str) -> None:
    params = flatten(hf_model(cls_name, "gelu_new").params)
    again = flatten(bart_eqx.to_flax(our_model(cls_name, "gelu_new")))
    assert again.keys() == params.keys()
    for name, array in params.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


def test_configurations_of_transformers() -> None:
    """We read every field that transformers writes in a configuration, and transformers reads ours."""
    for fields in (dict(), dict(num_labels=7, forced_bos_token_id=0, num_beams=4, length_penalty=2.0)):
        theirs = transformers.BartConfig(**fields)
        ours = bart_eqx.BartConfig.from_dict(theirs.to_dict())
        for name, value in ours.to_dict().items():
            if name not in ("id2label", "label2id", "num_labels"):
                assert getattr(theirs, name) == value, name
        assert ours.num_labels == theirs.num_labels
        transformers.BartConfig.from_dict(ours.to_dict())


@pytest.mark.parametrize("form", ["whole", "sharded", "safetensors", "chunked", "fp16", "bf16"])
@pytest.mark.parametrize("cls_name", NAMES)
def test_what_the_converter_makes_is_the_same_model(
    cls_name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their model, converted and loaded again, in every form that they write: parameters equal to the last bit."""
    reference = hf_model(cls_name, "unequal")
    dtype = {"fp16": jnp.float16, "bf16": jnp.bfloat16}.get(form, jnp.float32)
    params = jax.tree.map(lambda array: jnp.asarray(array, dtype), reference.params)
    options = {"sharded": dict(max_shard_size="20kB"), "safetensors": dict(safe_serialization=True)}
    if form == "chunked":
        monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)
    reference.save_pretrained(tmp_path / "theirs", params=params, **options.get(form, {}))
    monkeypatch.undo()
    if form == "chunked":
        assert b"__msgpack_chunked_array__" in (tmp_path / "theirs/flax_model.msgpack").read_bytes()
    fields = json.loads((tmp_path / "theirs/config.json").read_text())
    (tmp_path / "theirs/config.json").write_text(json.dumps(fields | {"architectures": [cls_name]}))

    done = convert(tmp_path / "theirs", tmp_path / "ours", to="flax")
    assert done.dtype == jnp.dtype(dtype).name
    again = getattr(transformers, f"Flax{cls_name}").from_pretrained(tmp_path / "ours")
    expected = flatten(params)
    found = flatten(again.params)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    if form == "whole":
        assert_agree(again, reference, inputs_for(cls_name, bart_eqx.from_pretrained(tmp_path / "ours").config))


def test_every_field_that_hugging_face_writes(tmp_path: Path) -> None:
    """Its whole BartConfig with its whole GenerationConfig inside, as nothing that stops a model from loading."""
    reference = hf_model("BartForConditionalGeneration", "unequal")
    own = dict(initializer_range=0.02, hidden_size=30, num_attention_heads=5, output_attentions=True)
    settings = transformers.GenerationConfig(max_time=3.0, penalty_alpha=0.6, mine="x").to_dict()
    everything = vars(transformers.BartConfig(**reference.config.to_dict())) | own
    config = bart_eqx.BartConfig.from_dict(settings | everything, ignore=["mine"])
    assert config == bart_eqx.BartConfig.from_dict(reference.config.to_dict())
    kept = bart_eqx.GenerationConfig.from_dict(settings, config)
    assert dict(kept.unusable).keys() == {"max_time", "mine", "penalty_alpha"}


def test_hugging_face_loads_a_conversion_with_ignored_fields(tmp_path: Path) -> None:
    reference = hf_model("BartForConditionalGeneration", "unequal")
    reference.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs/config.json"
    own = dict(grapheme_chars="abc", task_specific_params={"summarization": {"max_length": 9}})
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    convert(tmp_path / "theirs", tmp_path / "ours", to="flax", ignore=["grapheme_chars"])
    theirs = transformers.FlaxBartForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert {name: getattr(theirs.config, name) for name in own} == own
    for name, array in flatten(theirs.params).items():
        np.testing.assert_array_equal(array, flatten(reference.params)[name])

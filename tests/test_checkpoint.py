"""Checkpoints: every format is read, both formats are written, and everything else is refused with a reason."""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bart_eqx
from bart_eqx import CheckpointError, from_flax, from_pretrained, quantize, save_pretrained, to_flax
from bart_eqx.checkpoint.architectures import ARCHITECTURES, int8_parameters, parameter_shapes
from bart_eqx.checkpoint.errors import VerificationError
from bart_eqx.checkpoint.formats.msgpack import read_msgpack
from bart_eqx.checkpoint.formats.prefetch import prefetch
from bart_eqx.checkpoint.formats.safetensors import read_safetensors
from bart_eqx.checkpoint.pytree import (
    CLASSES as CLASSES_BY_NAME,
    AnyBart,
    builder,
    named_parameters,
    skeleton_of,
    with_own_tables,
)
from support import CLASSES, configured, flatten, random_model, randomised, unflatten, values, write_file


REFERENCES = Path(__file__).parent / "references"
Model = bart_eqx.BartForConditionalGeneration


def parameters(model: Any) -> dict[str, np.ndarray]:
    return flatten(to_flax(model))


def assert_equal(one: Any, other: Any) -> None:
    one, other = parameters(one), parameters(other)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


@pytest.fixture(scope="module")
def stored() -> Model:
    """The model of all the folders `tests/references/flax-*`."""
    config = bart_eqx.BartConfig.from_dict(json.loads((REFERENCES / "flax-msgpack/config.json").read_text()))
    return random_model(Model, config)


class TestFormats:
    @pytest.mark.parametrize("folder", ["flax-msgpack", "flax-msgpack-sharded", "flax-safetensors", "converted"])
    def test_each_reads_the_same(self, stored: Model, folder: str) -> None:
        model = from_pretrained(REFERENCES / folder)
        assert type(model) is Model
        assert_equal(model, stored)

    @pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
    def test_half_precision(self, stored: Model, name: str, dtype: Any) -> None:
        """The dtype of the file is kept unless another is requested."""
        folder = REFERENCES / f"flax-msgpack-{name}"
        cast = {n: np.asarray(array, dtype) for n, array in parameters(stored).items()}
        kept, wide = parameters(from_pretrained(folder)), parameters(from_pretrained(folder, dtype=jnp.float32))
        for n, array in cast.items():
            assert kept[n].dtype == dtype and wide[n].dtype == np.float32
            np.testing.assert_array_equal(kept[n], array)
            np.testing.assert_array_equal(wide[n], array.astype(np.float32))

    def test_converted_bytes_are_those_that_pytorch_has_read(self, stored: Model, tmp_path: Path) -> None:
        save_pretrained(stored, tmp_path)
        assert (tmp_path / "model.safetensors").read_bytes() == (
            REFERENCES / "converted/model.safetensors"
        ).read_bytes()

    def test_mixed_dtypes_become_the_widest(self, config: bart_eqx.BartConfig) -> None:
        params = randomised({n: a.shape for n, a in parameters(random_model(Model, config)).items()})
        params["model.shared.embedding"] = params["model.shared.embedding"].astype(np.float16)
        model = from_flax(unflatten(params), config, Model)
        assert {array.dtype.name for array in parameters(model).values()} == {"float32"}

    def test_msgpack_wins_over_safetensors(self, stored: Model, tmp_path: Path) -> None:
        """As in transformers' Flax."""
        shutil.copytree(REFERENCES / "flax-msgpack", tmp_path, dirs_exist_ok=True)
        (tmp_path / "model.safetensors").write_bytes(b"nothing")
        assert_equal(from_pretrained(tmp_path), stored)


class TestRoundTrips:
    @pytest.mark.parametrize("config_name", ["unequal", "untied"])
    @pytest.mark.parametrize("cls", CLASSES)
    def test_to_flax_and_back_is_exact(self, cls: Any, config_name: str) -> None:
        config = configured(config_name)
        model = random_model(cls, config)
        params = to_flax(model)
        assert_equal(from_flax(params, config, cls), model)
        again = flatten(to_flax(from_flax(params, config, cls)))
        for name, array in flatten(params).items():
            np.testing.assert_array_equal(again[name], array)
        assert ("lm_head.kernel" in again) == (
            (config_name == "untied" and "LM" in cls.__name__) or (cls is Model and config_name == "untied")
        )

    @pytest.mark.parametrize("to", ["safetensors", "flax"])
    @pytest.mark.parametrize("config_name", ["unequal", "untied", "other_ids"])
    @pytest.mark.parametrize("cls", CLASSES)
    def test_save_and_load(self, cls: Any, config_name: str, to: Any, tmp_path: Path) -> None:
        model = random_model(cls, configured(config_name))
        save_pretrained(model, tmp_path, to=to)
        loaded = from_pretrained(tmp_path)
        assert type(loaded) is cls and loaded.config == model.config
        assert_equal(loaded, model)
        assert eqx.tree_equal(loaded, model)  # dropout, activations and settings too

    def test_generation_config(self, config: bart_eqx.BartConfig, tmp_path: Path) -> None:
        settings = bart_eqx.GenerationConfig(max_length=17, num_beams=3, forced_eos_token_id=2)
        model = Model(config, generation_config=settings, key=jax.random.key(0))
        save_pretrained(model, tmp_path)
        loaded: Any = from_pretrained(tmp_path)
        assert loaded.generation_config == settings
        (tmp_path / "generation_config.json").unlink()
        fields = json.loads((tmp_path / "config.json").read_text()) | dict(num_beams=5, max_length=9)
        (tmp_path / "config.json").write_text(json.dumps(fields))
        loaded = from_pretrained(tmp_path)
        legacy = loaded.generation_config
        assert (legacy.num_beams, legacy.max_length, legacy.forced_eos_token_id) == (5, 9, 2)

    @pytest.mark.parametrize("to", ["safetensors", "flax"])
    @pytest.mark.parametrize("cls", [bart_eqx.BartForConditionalGeneration, bart_eqx.BartForCausalLM])
    def test_a_replaced_generation_config(
        self, cls: Any, to: Any, config: bart_eqx.BartConfig, tmp_path: Path, key: jax.Array
    ) -> None:
        """It is a leaf and no parameter: the new one is saved, and gradients have none."""
        model, new = random_model(cls, config), bart_eqx.GenerationConfig(max_length=31, num_beams=2)
        changed = eqx.tree_at(lambda m: m.generation_config, model, new)
        assert named_parameters(changed).keys() == named_parameters(model).keys()
        save_pretrained(changed, tmp_path, to=to)
        loaded: Any = from_pretrained(tmp_path)
        assert loaded.generation_config == new != model.generation_config
        assert_equal(loaded, model)
        assert eqx.tree_equal(loaded, changed)
        grads = eqx.filter_grad(lambda m: sum(leaf.sum() for leaf in named_parameters(m).values()))(changed)
        assert grads.generation_config is None
        assert parameters(grads).keys() == parameters(model).keys()

    def test_gradients_have_names_too(self, model: Model) -> None:
        grads = eqx.filter_grad(lambda m: m.encode(np.array([5, 6])).last_hidden_state.sum())(model)
        assert parameters(grads).keys() == parameters(model).keys()

    def test_untied_writes_the_embedding_under_each_name(self, tmp_path: Path) -> None:
        """transformers 5 reads three tables if the head is untied, and initialises missing ones at random."""
        save_pretrained(random_model(Model, configured("untied")), tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        for name in ("encoder", "decoder"):
            np.testing.assert_array_equal(tensors[f"model.{name}.embed_tokens.weight"], tensors["model.shared.weight"])
        save_pretrained(random_model(Model, configured("unequal")), tmp_path)
        assert [name for name in load_file(tmp_path / "model.safetensors") if "embed_tokens" in name] == []


def test_the_classes_are_the_public_ones() -> None:
    """They are listed in `architectures.py`, in `pytree.py` and in `__init__.pyi`."""
    public = {name for name in dir(bart_eqx) if re.fullmatch(r"Bart(Model|For\w+)", name)}
    assert ARCHITECTURES.keys() == CLASSES_BY_NAME.keys() == public
    for name, architecture in ARCHITECTURES.items():
        assert architecture.generates == issubclass(CLASSES_BY_NAME[name], bart_eqx.AbstractLanguageModel)


def test_types() -> None:
    """To a type checker (`make types`), a loaded model is of the given class, or of any."""
    assert_type(from_pretrained("demo"), AnyBart)
    assert_type(from_pretrained("demo", bart_eqx.BartForCausalLM), bart_eqx.BartForCausalLM)


@pytest.mark.parametrize("own", [(), ("encoder",), ("encoder", "decoder")])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("config_name", ["unequal", "untied"])
@pytest.mark.parametrize("cls", CLASSES)
def test_the_table_of_parameters_is_what_the_classes_have(cls: Any, config_name: str, int8: bool, own: Any) -> None:
    config = configured(config_name)
    own = () if cls is bart_eqx.BartForCausalLM else own
    found = named_parameters(skeleton_of(builder(cls, config, own_tables=own, int8=int8)))
    shapes = parameter_shapes(ARCHITECTURES[cls.__name__], config, own)
    rounded = int8_parameters(shapes) if int8 else {}
    scales = {f"{name}_scale": shape[:1] for name, shape in rounded.items()}
    assert {name: leaf.shape for name, leaf in found.items()} == shapes | scales
    assert {name for name, leaf in found.items() if leaf.dtype == jnp.int8} == rounded.keys()
    if not int8:
        assert list(found) == list(shapes)


def test_labels_that_transformers_5_leaves_out(config: bart_eqx.BartConfig, tmp_path: Path) -> None:
    """It omits two labels as if they were its default, which is three: it cannot load its own file."""
    model = random_model(bart_eqx.BartForSequenceClassification, configured("unequal", num_labels=2))
    save_pretrained(model, tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    left = {name: value for name, value in fields.items() if name not in ("id2label", "label2id", "num_labels")}
    (tmp_path / "config.json").write_text(json.dumps(left))
    assert eqx.tree_equal(from_pretrained(tmp_path), model)


class TestHeads:
    """Every class from the checkpoint of every other."""

    @pytest.mark.parametrize("cls", CLASSES[1:])
    def test_from_a_base_checkpoint_and_back(
        self, cls: Any, config: bart_eqx.BartConfig, tmp_path: Path, key: jax.Array, caplog: pytest.LogCaptureFixture
    ) -> None:
        base = random_model(bart_eqx.BartModel, config)
        save_pretrained(base, tmp_path / "base")
        new = {"classification_head", "qa_outputs"} & {
            name.partition(".")[0] for name in parameters(cls(config, key=key))
        }
        if new:
            with pytest.raises(CheckpointError, match=f"lacks the head of a {cls.__name__} .*{min(new)}.*pass a `key`"):
                from_pretrained(tmp_path / "base", cls)
        with caplog.at_level(logging.WARNING, "bart_eqx"):
            head: Any = from_pretrained(tmp_path / "base", cls, key=key)
        for name in new:
            assert f"{name}.weight" in caplog.text or f"{name}.dense.weight" in caplog.text
            again = from_pretrained(tmp_path / "base", cls, key=key)
            other = from_pretrained(tmp_path / "base", cls, key=jax.random.key(1))
            assert eqx.tree_equal(getattr(head, name), getattr(again, name))
            assert not eqx.tree_equal(getattr(head, name), getattr(other, name))
        if cls is bart_eqx.BartForCausalLM:
            np.testing.assert_array_equal(head.embed_tokens.weight, base.shared.weight)
            assert "dropped: encoder." in caplog.text
        else:
            assert eqx.tree_equal(head.model, base)
            save_pretrained(head, tmp_path / "head")
            assert eqx.tree_equal(from_pretrained(tmp_path / "head", bart_eqx.BartModel), base)

    @pytest.mark.parametrize("to", ["safetensors", "flax"])
    def test_from_another_head(self, config: bart_eqx.BartConfig, tmp_path: Path, key: jax.Array, to: Any) -> None:
        writer = random_model(Model, config)
        save_pretrained(writer, tmp_path, to=to)
        classifier = from_pretrained(tmp_path, bart_eqx.BartForSequenceClassification, key=key)
        assert eqx.tree_equal(classifier.model, writer.model)
        alone = from_pretrained(tmp_path, bart_eqx.BartForCausalLM)
        assert eqx.tree_equal(alone.model.decoder.layers, writer.model.decoder.layers)
        states = jnp.ones((1, 30))
        np.testing.assert_array_equal(alone.lm_logits(states) + writer.final_logits_bias[0], writer.lm_logits(states))

    def test_an_encoder_cannot_be_made_up(self, config: bart_eqx.BartConfig, tmp_path: Path, key: jax.Array) -> None:
        save_pretrained(random_model(bart_eqx.BartForCausalLM, config), tmp_path)
        with pytest.raises(CheckpointError, match=r"missing: .*`encoder.layers.0.fc1.weight` \(17, 30\)"):
            from_pretrained(tmp_path, bart_eqx.BartModel, key=key)

    def test_a_head_of_another_size(self, config: bart_eqx.BartConfig, tmp_path: Path, key: jax.Array) -> None:
        save_pretrained(random_model(bart_eqx.BartForSequenceClassification, config), tmp_path)
        wider = configured("unequal", num_labels=42)
        with pytest.raises(
            CheckpointError, match=r"`classification_head.out_proj.weight` \(3, 30\) in place of \(42, 30\)"
        ):
            from_pretrained(tmp_path, config=wider, key=key)
        model: Any = from_pretrained(tmp_path, config=wider, key=key, ignore_mismatched_sizes=True)
        assert model(np.array([5, 2])).logits.shape == (42,)

    def test_several_architectures(self, stored: Model, tmp_path: Path) -> None:
        """facebook/bart-large names three; the head in the file decides."""
        shutil.copytree(REFERENCES / "flax-msgpack", tmp_path, dirs_exist_ok=True)
        fields = json.loads((tmp_path / "config.json").read_text())
        fields["architectures"] = ["BartModel", "BartForConditionalGeneration", "BartForSequenceClassification"]
        (tmp_path / "config.json").write_text(json.dumps(fields))
        assert type(from_pretrained(tmp_path)) is Model
        fields["architectures"] = ["BartForTokenClassification"]
        (tmp_path / "config.json").write_text(json.dumps(fields))
        with pytest.raises(CheckpointError, match="pass the class"):
            from_pretrained(tmp_path)


class TestTheEmbedding:
    ALIASES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")

    @pytest.mark.parametrize("kept", ALIASES)
    @pytest.mark.parametrize("prefix", ["model.", ""])
    def test_any_one_name_will_do(self, stored: Model, kept: str, prefix: str, tmp_path: Path) -> None:
        """transformers saves one of four names, and which one depends on its version."""
        shutil.copytree(REFERENCES / "converted", tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        embedding = tensors.pop("model.shared.weight")
        tensors = {name.replace("model.", prefix, 1): array for name, array in tensors.items()}
        tensors[kept if kept.startswith("lm_head") else prefix + kept] = embedding
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert_equal(from_pretrained(tmp_path), stored)

    def test_all_names_at_once(self, stored: Model, tmp_path: Path) -> None:
        shutil.copytree(REFERENCES / "converted", tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        for name in self.ALIASES:
            tensors[name if name.startswith("lm_head") else f"model.{name}"] = tensors["model.shared.weight"].copy()
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert_equal(from_pretrained(tmp_path), stored)
        tensors["lm_head.weight"][3, 4] += 1
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="`lm_head.weight` and `shared.weight` must be equal"):
            from_pretrained(tmp_path)

    def test_three_tables_are_kept_apart(self, tmp_path: Path) -> None:
        """As transformers 5 saves them, byte for byte."""
        folder = REFERENCES / "torch-untied"
        model: Any = from_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        for side in ("encoder", "decoder"):
            own = getattr(model.model, side).embed_tokens.weight
            np.testing.assert_array_equal(own, tensors[f"model.{side}.embed_tokens.weight"])
            assert not np.array_equal(own, model.model.shared.weight)
        save_pretrained(model, tmp_path)
        assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
        assert eqx.tree_equal(from_pretrained(tmp_path), model)
        alone = from_pretrained(folder, bart_eqx.BartForCausalLM)
        table = named_parameters(alone)["model.decoder.embed_tokens.weight"]
        np.testing.assert_array_equal(table, tensors["model.decoder.embed_tokens.weight"])
        with pytest.raises(CheckpointError, match="Flax's BART has one token embedding"):
            save_pretrained(model, tmp_path / "flax", to="flax")
        small = quantize(model)
        save_pretrained(small, tmp_path / "int8")
        assert eqx.tree_equal(from_pretrained(tmp_path / "int8"), small)

    @pytest.mark.parametrize("same", ["encoder", "decoder", "both"])
    def test_equal_tables_are_one(self, same: str, tmp_path: Path) -> None:
        shutil.copytree(REFERENCES / "torch-untied", tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        sides = ("encoder", "decoder") if same == "both" else (same,)
        for side in sides:
            tensors[f"model.{side}.embed_tokens.weight"] = tensors["model.shared.weight"].copy()
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        model: Any = from_pretrained(tmp_path)
        for side in ("encoder", "decoder"):
            assert (getattr(model.model, side).embed_tokens is None) == (side in sides)

    def test_own_tables_need_an_untied_config(self, stored: Model, tmp_path: Path) -> None:
        model = with_own_tables(stored, ["encoder"])
        with pytest.raises(CheckpointError, match="set it to False"):
            save_pretrained(model, tmp_path / "new")

    def test_it_is_one_leaf(self, stored: Model) -> None:
        names = [name for name in parameters(stored) if "embed_tokens" in name or "shared" in name or "lm_head" in name]
        assert names == ["model.shared.embedding"]
        grads = eqx.filter_jit(eqx.filter_grad(lambda m: m(np.array([5, 6])).logits[0, 30]))(stored)
        used = jnp.abs(grads.model.shared.weight).max(axis=1) > 0
        assert used[5] and used[6] and used[30]  # read as input, and as the head


def packed(tree: Any) -> bytes:
    content = msgpack.packb(tree)
    assert isinstance(content, bytes)
    return content


class TestMsgpack:
    def test_every_extension_and_dtype(self, tmp_path: Path) -> None:
        """Flax's extension types for arrays, by their definition in flax/serialization.py."""
        arrays = {
            name: np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, name, name))
            for name in ("float32", "float16", "bfloat16", "float64", "int32", "uint8", "bool")
        }
        tree: dict[str, Any] = {
            name: msgpack.ExtType(1, msgpack.packb((a.shape, name, a.tobytes()))) for name, a in arrays.items()
        }
        tree["scalar"] = msgpack.ExtType(3, msgpack.packb(((), "float32", np.float32(7).tobytes())))
        path = tmp_path / "file.msgpack"
        path.write_bytes(packed({"outer": {"inner": tree}}))
        read = values(read_msgpack(path))
        for name, array in arrays.items():
            assert read[f"outer.inner.{name}"].dtype == array.dtype
            np.testing.assert_array_equal(read[f"outer.inner.{name}"], array)
        assert read["outer.inner.scalar"] == 7 and read["outer.inner.scalar"].shape == ()

    def test_chunks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Arrays of more than 1 GiB are split; in this test, of more than 64 bytes."""
        monkeypatch.setattr("bart_eqx.checkpoint.formats.msgpack._MAX_CHUNK", 64)
        arrays = {"a.b": np.arange(51, dtype=np.float32).reshape(3, 17), "a.c": np.ones(4, np.float32)}
        path = tmp_path / "file.msgpack"
        write_file(path, arrays)
        tree = msgpack.unpackb(path.read_bytes())
        assert tree["a"]["b"]["__msgpack_chunked_array__"] is True
        assert tree["a"]["b"]["shape"] == {"0": 3, "1": 17} and sorted(tree["a"]["b"]["chunks"]) == ["0", "1", "2", "3"]
        read = values(read_msgpack(path))
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
        del tree["a"]["b"]["chunks"]["2"]
        path.write_bytes(packed(tree))
        with pytest.raises(CheckpointError, match="the chunks of `a.b` do not make an array"):
            read_msgpack(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\x81\xa1", "not a complete msgpack file"),
            (packed({"a": 1.0}) + b"\x00", "1 bytes after the"),
            (packed([1, 2]), "not a complete msgpack file"),
            (packed({"a": {"b": 3}}), "`a.b` must be an array. Got int"),
            (packed({"a": msgpack.ExtType(9, b"")}), "must be an extension of type 1 or 3.* Got type 9"),
            (packed({"a": msgpack.ExtType(1, msgpack.packb(((2,), "object", b"12")))}), "dtype 'object'"),
            (packed({"a": msgpack.ExtType(1, msgpack.packb(((3,), "float32", b"1234")))}), "has 4 bytes"),
            (packed({"a": msgpack.ExtType(1, msgpack.packb(((-1,), "uint8", b"")))}), r"invalid shape \[-1\]"),
            (packed({"a": msgpack.ExtType(1, b"\xc1")}), "not a complete msgpack file"),
            (packed({"a": msgpack.ExtType(2, msgpack.packb((1.5, -2.0)))}), "Got type 2"),
        ],
    )
    def test_damaged(self, content: bytes, message: str, tmp_path: Path) -> None:
        path = tmp_path / "flax_model.msgpack"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            read_msgpack(path)
        assert str(path) in str(caught.value)


class TestSafetensors:
    def test_a_transposed_view(self, tmp_path: Path) -> None:
        """Version 0.8.0 of the library silently writes another matrix."""
        view = np.arange(6, dtype=np.float32).reshape(2, 3).T
        write_file(tmp_path / "file.safetensors", {"a": view, "scalar": np.full((), 3, np.float32)})
        read = values(read_safetensors(tmp_path / "file.safetensors"))
        np.testing.assert_array_equal(read["a"], view)
        assert read["scalar"].shape == ()

    @pytest.mark.parametrize("content", [b"", b"1234567", (99).to_bytes(8, "little") + b"{}", b"\xff" * 64])
    def test_damaged(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{tmp_path}/file (cannot be read as safetensors|is empty)"):
            read_safetensors(tmp_path / "file")


class TestRefusals:
    """Nothing is guessed: an error names everything that does not fit."""

    def edit(self, tmp_path: Path, change: Any) -> Path:
        shutil.copytree(REFERENCES / "converted", tmp_path / "edited")
        path = tmp_path / "edited/model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        return tmp_path / "edited"

    def test_missing_unexpected_and_misshapen_together(self, tmp_path: Path) -> None:
        def change(tensors: dict[str, np.ndarray]) -> None:
            del tensors["model.decoder.layers.1.fc1.bias"]
            tensors["model.encoder.layers.5.fc1.bias"] = np.ones(5, np.float32)
            tensors["model.shared.weight"] = np.ones((40, 8), np.float32)
            tensors["model.encoder.layers.0.fc2.bias"] = np.ones(8, np.int32)

        with pytest.raises(CheckpointError) as caught:
            from_pretrained(self.edit(tmp_path, change))
        for part in (
            "missing: `model.decoder.layers.1.fc1.bias` (7,).",
            "unexpected: `model.encoder.layers.5.fc1.bias`;",
            "of another shape: `model.shared.weight` (40, 8) in place of (41, 8);",
            "not floating-point: `model.encoder.layers.0.fc2.bias` int32;",
        ):
            assert part in str(caught.value)

    def test_overflow_of_half_precision(self, tmp_path: Path) -> None:
        def change(tensors: dict[str, np.ndarray]) -> None:
            tensors["model.shared.weight"][0, 0] = 1e6

        folder = self.edit(tmp_path, change)
        with pytest.raises(CheckpointError, match=r"`model.shared.weight` holds 1000000, which overflows in float16"):
            from_pretrained(folder, dtype=jnp.float16)
        assert from_pretrained(folder, Model, dtype=jnp.bfloat16).final_logits_bias.dtype == jnp.bfloat16

    def test_dtypes_that_are_none(self) -> None:
        with pytest.raises(ValueError, match="needs 64-bit mode"):
            from_pretrained(REFERENCES / "converted", dtype=jnp.float64)
        with pytest.raises(ValueError, match="must be floating-point"):
            from_pretrained(REFERENCES / "converted", dtype=jnp.int32)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("config.json", None, "config.json is missing"),
            ("config.json", "{", "is not valid JSON"),
            ("config.json", "version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
            ("config.json", "[" * 100_000, "is not valid JSON"),
            ("config.json", "[]", "must hold a JSON object. Got list"),
            ("model.safetensors", None, "has none of flax_model.msgpack"),
            ("model.safetensors.index.json", "{}", "must hold a `weight_map`"),
            ("model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}', "files in its own folder"),
            ("model.safetensors.index.json", '{"weight_map": {"a": "/x.safetensors"}}', "files in its own folder"),
            ("model.safetensors.index.json", '{"weight_map": {"a": "x.bin"}}', "must name .safetensors files"),
            ("model.safetensors.index.json", '{"weight_map": {"a": "x.safetensors"}}', "do not exist: x.safetensors"),
        ],
    )
    def test_folders(self, name: str, content: str | None, message: str, tmp_path: Path) -> None:
        shutil.copytree(REFERENCES / "converted", tmp_path, dirs_exist_ok=True)
        if "index" in name:
            (tmp_path / "model.safetensors").unlink()
        if content is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_text(content)
        with pytest.raises(CheckpointError, match=message):
            from_pretrained(tmp_path)

    def test_a_shard_repeats_another(self, tmp_path: Path) -> None:
        shutil.copytree(REFERENCES / "torch-classifier-sharded", tmp_path, dirs_exist_ok=True)
        shards = sorted(tmp_path.glob("*-of-*.safetensors"))
        save_file(load_file(shards[0]) | load_file(shards[1]), shards[1], metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="holds arrays of another file again"):
            from_pretrained(tmp_path)

    def test_sources(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CheckpointError, match="must be one of .msgpack, .safetensors, .bin"):
            from_pretrained(tmp_path / "file")
        with pytest.raises(CheckpointError, match="There is no folder"):
            from_pretrained(tmp_path / "nowhere")
        with pytest.raises(CheckpointError, match="has no revision 'main'"):
            from_pretrained(tmp_path, revision="main")
        with pytest.raises(CheckpointError, match="neither a folder nor the id.*bart-base"):
            from_pretrained("a/b/c")

    def test_weights_that_would_be_shadowed(self, stored: Model, tmp_path: Path) -> None:
        save_pretrained(stored, tmp_path, to="flax")
        with pytest.raises(CheckpointError, match="has other weights, flax_model.msgpack"):
            save_pretrained(stored, tmp_path)

    def test_a_file_of_that_name(self, stored: Model, tmp_path: Path) -> None:
        (tmp_path / "model").write_text("mine")
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_pretrained(stored, tmp_path / "model")

    @pytest.mark.parametrize("damaged", [lambda block: block[:-5] + b"?" + block[-4:], lambda block: block[:-1]])
    def test_a_bad_disk(
        self, damaged: Callable[[bytes], bytes], stored: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file is read back before it gets its name."""
        monkeypatch.setattr(
            "bart_eqx.checkpoint.formats.writer._write_all",
            lambda descriptor, block: os.write(descriptor, damaged(bytes(block))),
        )
        with pytest.raises(VerificationError, match="does not read back as it was written"):
            save_pretrained(stored, tmp_path)
        with pytest.raises(VerificationError, match="does not read back as it was written"):
            save_pretrained(stored, tmp_path / "new")
        assert list(tmp_path.iterdir()) == []


def test_permissions_follow_the_umask(stored: Model, tmp_path: Path) -> None:
    save_pretrained(stored, tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {plain.stat().st_mode}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "plain"
    ]  # fmt: skip


def test_arrays_are_prefetched_in_order_and_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bart_eqx.checkpoint.formats.prefetch._MAX_BYTES", 10)
    sizes = {"a": 4, "b": 6, "c": 4, "large": 50, "d": 1, "e": 9, "f": 3}
    begun: list[str] = []

    def make(name: str) -> str:
        begun.append(name)
        return name

    used = []
    for name in prefetch(make, sizes):
        used.append(name)
        time.sleep(0.05)  # enough for all reads that may start
        assert sum(sizes[other] for other in set(begun) - set(used) - {"large"}) <= 10 + 9
    assert used == list(sizes) and begun[0] == "large" and sorted(begun) == sorted(sizes)
    assert list(prefetch(make, {})) == []

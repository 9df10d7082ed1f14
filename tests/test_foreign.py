"""What other libraries leave in a folder: names inside a wrapper, adapters, exports. Each error says whose it is and
what to do, in a sentence or two.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bart_eqx
from bart_eqx.checkpoint.errors import DamagedFileError, MismatchError, SourceNotFoundError, UnsupportedCheckpointError
from bart_eqx.checkpoint.formats import torch_pickle
from bart_eqx.convert import convert
from support import configured, random_model


REFERENCES = Path(__file__).parent / "references"
LIMIT = 600  # characters of a message


def renamed(folder: Path, rename: Callable[[str], str]) -> Path:
    """The folder of a model whose parameters have other names."""
    shutil.copytree(REFERENCES / "converted", folder)
    arrays = {rename(name): array for name, array in load_file(folder / "model.safetensors").items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def inside_layers(wrapper: str) -> Callable[[str], str]:
    """Each layer wrapped, as FSDP and activation checkpointing do."""

    def rename(name: str) -> str:
        parts = name.split(".")
        return ".".join([*parts[:4], wrapper, *parts[4:]]) if "layers" in parts else name

    return rename


class TestNames:
    """76 parameters: the message names the prefix and how to remove it, and no parameter of the file but a few."""

    @pytest.mark.parametrize(
        "prefix",
        ["module.", "_orig_mod.", "bart.", "model.", "base_model.", "module._orig_mod.", "net.generator.", "params."],
    )
    def test_a_common_prefix(self, prefix: str, tmp_path: Path) -> None:
        folder = renamed(tmp_path / "source", lambda name: prefix + name)
        for load in (bart_eqx.from_pretrained, lambda source: convert(source, tmp_path / "target")):
            with pytest.raises(MismatchError) as caught:
                load(folder)
            message = str(caught.value)
            assert f"all 76 names begin with `{prefix}`" in message and f"name.removeprefix('{prefix}')" in message
            assert "missing" not in message and "unexpected" not in message and len(message) - len(str(folder)) < 300
        arrays = load_file(folder / "model.safetensors")
        stripped = {name.removeprefix(prefix): array for name, array in arrays.items()}
        save_file(stripped, folder / "model.safetensors", metadata={"format": "pt"})
        bart_eqx.from_pretrained(folder)

    @pytest.mark.parametrize("prefix", ["bart.", "model.", "encoder_decoder."])
    def test_a_model_without_a_head(self, prefix: str, tmp_path: Path) -> None:
        """Under `model.` it has its own names."""
        base = random_model(bart_eqx.BartModel, configured("unequal"))
        bart_eqx.save_pretrained(base, tmp_path)
        arrays = load_file(tmp_path / "model.safetensors")
        save_file({prefix + name: a for name, a in arrays.items()}, tmp_path / "model.safetensors", {"format": "pt"})
        if prefix == "model.":
            bart_eqx.from_pretrained(tmp_path)
            return
        with pytest.raises(MismatchError, match=f"all 75 names begin with `{prefix}`"):
            bart_eqx.from_pretrained(tmp_path)

    def test_a_prefix_of_most(self, tmp_path: Path) -> None:
        """A classifier of one's own around a BART."""
        folder = renamed(tmp_path / "source", lambda name: f"bart.{name}")
        arrays = load_file(folder / "model.safetensors") | {"classifier.weight": np.ones((3, 8), np.float32)}
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            MismatchError, match=r"76 of 77 names begin with `bart.`.* The others are `classifier.weight`"
        ):
            bart_eqx.from_pretrained(folder)

    @pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
    @pytest.mark.parametrize("prefix", ["", "net."])
    def test_a_wrapper_inside(self, wrapper: str, prefix: str, tmp_path: Path) -> None:
        folder = renamed(tmp_path / "source", lambda name: prefix + inside_layers(wrapper)(name))
        with pytest.raises(MismatchError) as caught:
            bart_eqx.from_pretrained(folder)
        message = str(caught.value)
        assert f"`{wrapper}.`" in message and f".replace('{wrapper}.', '')" in message and len(message) < LIMIT
        assert ("removeprefix('net.')" in message) == bool(prefix)

    def test_fsdp_as_it_nests(self, tmp_path: Path) -> None:
        """Around the model, the decoder and each layer, and checkpointing inside: the advice gives the right names."""

        def rename(name: str) -> str:
            name = inside_layers("_fsdp_wrapped_module._checkpoint_wrapped_module")(name)
            name = name.replace("model.decoder.", "model.decoder._fsdp_wrapped_module.")
            return f"module._fsdp_wrapped_module.{name}"

        folder = renamed(tmp_path / "source", rename)
        with pytest.raises(MismatchError) as caught:
            bart_eqx.from_pretrained(folder)
        arrays = load_file(folder / "model.safetensors")
        advice = str(caught.value).split("`")[-2]
        save_file(eval(advice, {"arrays": arrays}), folder / "model.safetensors", metadata={"format": "pt"})
        bart_eqx.from_pretrained(folder)

    def test_two_models(self, tmp_path: Path) -> None:
        folder = renamed(tmp_path / "source", lambda name: f"student.{name}")
        arrays = load_file(folder / "model.safetensors")
        arrays |= {name.replace("student", "teacher"): array for name, array in arrays.items()}
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(MismatchError, match="of 2 models, which begin with `student.`, `teacher.`"):
            bart_eqx.from_pretrained(folder)

    @pytest.mark.parametrize(
        ("name", "whose"),
        [
            (
                "base_model.model.model.decoder.layers.0.self_attn.q_proj.lora_A.weight",
                "adapter's names.*merge_and_unload",
            ),
            ("model.decoder.layers.0.fc1.base_layer.weight", "adapter's names.*merge_and_unload"),
            ("prompt_embeddings", "adapter's names.*merge_and_unload"),
            ("model.decoder.layers.0.fc1.qweight", "quantised by .*bart_eqx.quantize"),
            ("model.decoder.layers.0.fc1.weight.absmax", "quantised by .*bart_eqx.quantize"),
            ("model.decoder.layers.0.fc1.SCB", "quantised by .*bart_eqx.quantize"),
        ],
    )
    def test_adapters_and_quantisers(self, name: str, whose: str, tmp_path: Path) -> None:
        folder = renamed(tmp_path / "source", lambda name: name)
        arrays = load_file(folder / "model.safetensors") | {name: np.ones((2, 8), np.float32)}
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UnsupportedCheckpointError, match=whose):
            bart_eqx.from_pretrained(folder)

    def test_an_unexpected_array_has_the_name_of_the_file(self, tmp_path: Path) -> None:
        folder = renamed(tmp_path / "source", lambda name: name.replace("layers.1.fc1.bias", "layers.1.fc3.bias"))
        with pytest.raises(MismatchError, match="unexpected: `model.decoder.layers.1.fc3.bias`;"):
            bart_eqx.from_pretrained(folder)


class TestFlaxTrees:
    @pytest.mark.parametrize("path", [("params",), ("model",), ("params", "params"), ("state", "params")])
    def test_a_branch(self, path: tuple[str, ...], model: Any) -> None:
        tree = bart_eqx.to_flax(model)
        for name in reversed(path):
            tree = {name: tree}
        with pytest.raises(MismatchError) as caught:
            bart_eqx.from_flax(tree, model.config, type(model))
        message = str(caught.value)
        assert f"all 76 names begin with `{'.'.join(path)}.`" in message and len(message) < 300
        params = eval(message.split("`")[-2], {"params": tree})
        bart_eqx.from_flax(params, model.config, type(model))

    @pytest.mark.parametrize(
        ("state", "branch"),
        [
            (lambda p: {"step": np.int32(3), "params": p, "opt_state": ({"mu": p}, ())}, "state['params']"),
            (
                lambda p: {"step": 3, "params": {"params": p}, "opt_state": {"0": {"mu": p}, "1": {}}},
                "state['params']['params']",
            ),
            (lambda p: {"params": p, "step": 0}, "state['params']"),
            (lambda p: {"target": p, "state": {"step": 0}}, "state['target']"),
        ],
    )
    def test_a_training_state(self, state: Callable[[Any], Mapping[str, Any]], branch: str, model: Any) -> None:
        with pytest.raises(UnsupportedCheckpointError) as caught:
            bart_eqx.from_flax(state(bart_eqx.to_flax(model)), model.config, type(model))
        assert "a training state of Flax" in str(caught.value) and f"`{branch}`" in str(caught.value)

    def test_a_saved_training_state(self, tmp_path: Path) -> None:
        """`flax.serialization.to_bytes(state)`: the step is a number, and an optimiser without a state an empty map."""
        folder = tmp_path / "source"
        shutil.copytree(REFERENCES / "flax-msgpack", folder)
        path = folder / "flax_model.msgpack"
        params = msgpack.unpackb(path.read_bytes(), ext_hook=msgpack.ExtType)
        state = {"step": 3, "params": params, "opt_state": {"0": {"count": 3, "mu": params}, "1": {}}}
        path.write_bytes(msgpack.packb(state) or b"")
        with pytest.raises(UnsupportedCheckpointError) as caught:
            bart_eqx.from_pretrained(folder)
        assert str(path) in str(caught.value) and "`state['params']`" in str(caught.value)
        assert "ownload" not in str(caught.value)

    def test_a_saved_branch(self, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        shutil.copytree(REFERENCES / "flax-msgpack", folder)
        path = folder / "flax_model.msgpack"
        params = msgpack.unpackb(path.read_bytes(), ext_hook=msgpack.ExtType)
        path.write_bytes(msgpack.packb({"params": params}) or b"")
        with pytest.raises(MismatchError, match=r"all 76 names begin with `params.`: .*`params\['params'\]`"):
            bart_eqx.from_pretrained(folder)


class _Torch:
    """As much of torch as reads a pickle."""

    Tensor = np.ndarray

    def __init__(self, state: Any):
        self.state = state

    def load(self, path: Path, **_: Any) -> Any:
        return self.state


@pytest.mark.parametrize("branch", ["state_dict", "model_state_dict", "model", "module"])
def test_the_checkpoint_of_a_trainer(branch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    monkeypatch.setattr(torch_pickle, "require_torch", lambda file: None)
    state = {"epoch": 3, branch: {"model.shared.weight": np.ones(2)}, "optimizer": {}}
    monkeypatch.setattr(torch_pickle.importlib, "import_module", lambda name: _Torch(state))
    with pytest.raises(
        UnsupportedCheckpointError, match=rf"in '{branch}': .*`torch.save\(state\['{branch}'\], path\)`"
    ):
        torch_pickle.read_torch_pickle(tmp_path / "pytorch_model.bin")


# Each with what the error says of it: whose it is, and what to do. A slash makes a folder.
FOREIGN: list[tuple[list[str], str]] = [
    (["encoder_model.onnx", "decoder_model_merged.onnx"], r"encoder_model.onnx \(ONNX\).*an export"),
    (["onnx/encoder_model_quantized.onnx"], r"onnx/encoder_model_quantized.onnx \(ONNX\).*an export"),
    (["model.onnx", "model.onnx_data"], r"\(ONNX\).*an export"),
    (["openvino_encoder_model.xml", "openvino_encoder_model.bin"], r"\(OpenVINO\).*an export"),
    (["openvino/openvino_model.xml"], r"\(OpenVINO\).*an export"),
    (["ggml-model-q4_0.gguf"], r"\(llama.cpp \(GGUF\)\).*an export"),
    (["model.bin", "shared_vocabulary.json"], r"model.bin \(CTranslate2\).*an export"),
    (["tf_model.h5"], r"\(TensorFlow\).*from_tf=True.*refs/pr/N"),
    (["tf_model-00001-of-00002.h5", "tf_model.h5.index.json"], r"\(TensorFlow\).*from_tf=True"),
    (["model.tflite"], r"\(TensorFlow Lite\).*an export"),
    (["saved_model/saved_model.pb"], r"\(TensorFlow or Keras\).*save_pretrained"),
    (["model.weights.h5", "task.json"], r"\(TensorFlow or Keras\)"),
    (["model.ckpt.index", "model.ckpt.data-00000-of-00001"], r"\(TensorFlow or Keras\)"),
    (["rust_model.ot"], r"\(rust-bert\).*an export"),
    (["model.pt", "dict.txt"], r"model.pt \(fairseq\).*convert_bart_original_pytorch"),
    (["checkpoint_best.pt"], r"\(fairseq\).*convert_bart_original_pytorch_checkpoint_to_pytorch.py"),
    (["bart.base.pt"], r"\(fairseq\)"),
    (["epoch=3-step=400.ckpt"], r"\(PyTorch Lightning\).*the model inside"),
    (["mindspore_model.ckpt"], r"\(MindSpore\)"),
    (["global_step12/mp_rank_00_model_states.pt"], r"\(DeepSpeed\).*zero_to_fp32.py"),
    (["pytorch_model_fsdp_0/__0_0.distcp"], r"\(PyTorch's distributed checkpoints\).*accelerate merge-weights"),
    (["model.mlpackage/Manifest.json"], r"\(Core ML\).*an export"),
    (["coreml/decoder.mlmodelc"], r"\(Core ML\)"),
    (["rank0.engine"], r"\(TensorRT\).*an export"),
    (["model.neuron"], r"\(AWS Neuron\).*an export"),
    (["model.pte"], r"\(PyTorch's compilers\).*an export"),
    (["model_state.pdparams"], r"\(PaddlePaddle\)"),
    (["weights.npz"], r"\(NumPy\).*save_file"),
    (["checkpoint_1000"], r"\(Orbax or Flax's training\).*from_flax"),
    (["default/manifest.ocdbt"], r"\(Orbax or Flax's training\).*from_flax"),
    (["bart.large.tar.gz"], r"\(an archive\).*unpack it"),
    (["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"], r"Trainer, without.*copy the model's"),
    (["best.pth"], r"\(a pickle of an unknown program\).*name it pytorch_model.bin"),
    (["tf_model.h5", "rust_model.ot", "onnx/model.onnx"], r"tf_model.h5 .*; onnx/model.onnx .*; rust_model.ot"),
]


def folder_of(folder: Path, files: list[str]) -> Path:
    folder.mkdir()
    shutil.copy(REFERENCES / "converted/config.json", folder)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"?")
    return folder


class TestFolders:
    @pytest.mark.parametrize(("files", "message"), FOREIGN, ids=[files[0] for files, _ in FOREIGN])
    def test_another_library_s_weights(self, files: list[str], message: str, tmp_path: Path) -> None:
        folder = folder_of(tmp_path / "source", files)
        with pytest.raises(UnsupportedCheckpointError, match=message) as caught:
            convert(folder, tmp_path / "target")
        assert f"'{folder}' has its weights in " in str(caught.value) and len(str(caught.value)) < LIMIT
        assert "not read here" in str(caught.value)

    @pytest.mark.parametrize(
        "name", ["model.onnx", "model.bin", "openvino_model.bin", "model.gguf", "training_args.bin"]
    )
    def test_as_a_file(self, name: str, tmp_path: Path) -> None:
        folder = folder_of(tmp_path / "source", [name])
        with pytest.raises(UnsupportedCheckpointError, match=rf"{name} \(.*\) is not read here: "):
            convert(folder / name, tmp_path / "target")

    @pytest.mark.parametrize("with_config", [True, False])
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"base_model_name_or_path": "facebook/bart-base", "peft_type": "LORA"},
                "of 'facebook/bart-base'.*merge_and",
            ),
            ({"model_name": "facebook/bart-large", "config": {}}, "of 'facebook/bart-large'.*merge_and"),
            ({"base_model_name_or_path": None, "peft_type": "IA3"}, "that it does not name.*merge_and"),
            ({"base_model_name_or_path": "x", "peft_type": "PREFIX_TUNING"}, "of 'x', which is not supported"),
        ],
    )
    def test_adapters(self, fields: dict[str, Any], message: str, with_config: bool, tmp_path: Path) -> None:
        """They name their base. Their folders mostly have no config.json."""
        folder = folder_of(tmp_path / "source", ["adapter_model.safetensors", "training_args.bin"])
        (folder / "adapter_config.json").write_text(json.dumps(fields))
        if not with_config:
            (folder / "config.json").unlink()
        with pytest.raises(UnsupportedCheckpointError, match=f"no model but an adapter .*{message}"):
            convert(folder, tmp_path / "target")

    def test_a_model_beside_them(self, tmp_path: Path) -> None:
        """Is read."""
        folder = tmp_path / "source"
        shutil.copytree(REFERENCES / "converted", folder)
        for name in ("adapter_config.json", "model.onnx", "model.bin", "tf_model.h5"):
            (folder / name).write_bytes(b"?")
        convert(folder, tmp_path / "target")

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["model-00001-of-00002.safetensors"], "not their index, model.safetensors.index.json: download it too"),
            (["flax_model-00001-of-00002.msgpack"], "not their index, flax_model.msgpack.index.json: download it too"),
            (
                ["checkpoint-500/model.safetensors", "checkpoint-900/model.safetensors"],
                "it, checkpoint-500, checkpoint-900",
            ),
            (["pytorch/pytorch_model.bin", "onnx/model.onnx"], "inside it, pytorch: choose one with `--subfolder`"),
            (["model.fp16.safetensors"], "weights of another name .*: model.fp16.safetensors. Give that file"),
            (["params.msgpack"], "weights of another name .*: params.msgpack"),
        ],
    )
    def test_weights_that_are_elsewhere(self, files: list[str], message: str, tmp_path: Path) -> None:
        folder = folder_of(tmp_path / "source", files)
        with pytest.raises(SourceNotFoundError, match=message):
            convert(folder, tmp_path / "target")

    def test_other_folders_are_not_searched(self, tmp_path: Path) -> None:
        """The current directory, for example, may hold anything."""
        folder = folder_of(tmp_path / "source", ["photos/holiday.zip", "tests/data.npz", "notes.txt"])
        with pytest.raises(SourceNotFoundError, match="has none of flax_model.msgpack"):
            convert(folder, tmp_path / "target")


def unigram(count: int, **added: int) -> dict[str, Any]:
    """A tokenizer.json of SentencePiece's kind: pairs of a token and its score."""
    tokens = [{"content": token, "id": index} for token, index in added.items()]
    return {"model": {"type": "Unigram", "vocab": [[f"t{i}", -1.5 * i] for i in range(count)]}, "added_tokens": tokens}


ADDED = {"added_tokens_decoder": {"41": {"content": "<m>"}}}


class TestTokenizers:
    """The embedding has 41 rows."""

    @pytest.mark.parametrize(
        ("files", "beyond"),
        [
            ({"tokenizer.json": unigram(41)}, None),
            ({"tokenizer.json": unigram(42)}, "'t41'"),
            ({"tokenizer.json": unigram(41, mask=41)}, "'mask'"),
            ({"tokenizer.json": unigram(60)}, "'t41', 't42', 't43', 't44', 't45', and 14 more"),
            ({"vocab.txt": "".join(f"t{i}\n" for i in range(41))}, None),
            ({"vocab.txt": "\n".join(f"t{i}" for i in range(42))}, "'t41'"),
            ({"vocab.txt": "".join(f"t{i}\r\n" for i in range(42))}, "'t41'"),
            ({"vocab.txt": "".join(f"t{i}\x0b\u2028\n" for i in range(41))}, None),
            ({"vocab.txt": "a\nb\n", "added_tokens.json": {"<mask>": 41}}, "'<mask>'"),
            ({"vocab.json": {"a": 0}, "added_tokens.json": {"<mask>": 41}}, "'<mask>'"),
            ({"vocab.json": {"a": 0}, "tokenizer_config.json": ADDED}, "'<m>'"),
            ({"vocab.json": {"a": 0, "b": 41}}, "'b'"),
            ({"tokenizer.json": unigram(41), "vocab.txt": "x\n" * 50}, None),
            ({"spiece.model": "anything"}, None),
        ],
    )
    def test_counts(self, files: dict[str, Any], beyond: str | None, tmp_path: Path) -> None:
        """Every file is copied."""
        folder = tmp_path / "source"
        shutil.copytree(REFERENCES / "converted", folder)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_bytes(text.encode())
        done = convert(folder, tmp_path / "target")
        assert done.warnings == (() if beyond is None else (f"tokens without a row in the embedding: {beyond}",))
        for name in files:
            assert (tmp_path / "target" / name).read_bytes() == (folder / name).read_bytes()

    @pytest.mark.parametrize(
        "vocabulary", [["ab", "cd"], [["a"]], [["a", 0.5, 1]], [[1, 0.5]], {"a": "0"}, {"a": True}, {"a": None}, 7]
    )
    def test_another_structure(self, vocabulary: Any, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        shutil.copytree(REFERENCES / "converted", folder)
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
        with pytest.raises(DamagedFileError, match="does not have the expected structure"):
            convert(folder, tmp_path / "target")

    def test_a_length_without_limit(self, tmp_path: Path) -> None:
        """Python writes `Infinity`, which is no JSON: the file is copied, and only its added tokens are not counted."""
        folder = tmp_path / "source"
        shutil.copytree(REFERENCES / "converted", folder)
        (folder / "vocab.json").write_text('{"a": 41}')
        (folder / "tokenizer_config.json").write_text('{"model_max_length": Infinity}')
        unread, beyond = convert(folder, tmp_path / "target").warnings
        assert "added tokens were not compared" in unread and beyond.endswith("embedding: 'a'")
        assert (tmp_path / "target/tokenizer_config.json").exists()

    @pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "spiece.model"])
    def test_larger_than_10_mib(self, name: str, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        shutil.copytree(REFERENCES / "converted", folder)
        if name == "merges.txt" or name == "spiece.model":
            (folder / name).write_bytes(b"x" * (11 * 2**20))
        else:
            fields = {"vocab.json": {"a": 41}, "tokenizer.json": unigram(42)}[name]
            (folder / name).write_text(json.dumps(fields) + " " * (11 * 2**20))
        done = convert(folder, tmp_path / "target")
        assert (tmp_path / "target" / name).stat().st_size == (folder / name).stat().st_size
        assert len(done.warnings) == (name.endswith("json"))

    def test_too_large_to_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bart_eqx.checkpoint.tokenizer._MAX_COUNTED", 100)
        folder = tmp_path / "source"
        shutil.copytree(REFERENCES / "converted", folder)
        (folder / "tokenizer.json").write_text(json.dumps(unigram(42)))
        done = convert(folder, tmp_path / "target")
        assert done.warnings == ("tokenizer.json: too large for its tokens to be compared with the embedding",)
        assert (tmp_path / "target/tokenizer.json").exists()

"""What other libraries leave in a folder: names inside a wrapper, adapters, exports. Each error says whose it is and
what to do, in a sentence or two.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bart_eqx
from bart_eqx.checkpoint.errors import MismatchError, UnsupportedCheckpointError
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

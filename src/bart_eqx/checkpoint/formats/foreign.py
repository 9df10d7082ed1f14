"""Weights that are not read here: which library wrote them, and what to do instead."""

import fnmatch
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from ..errors import SourceNotFoundError, UnsupportedCheckpointError
from .json import read_json


ADAPTER = "adapter_config.json"
_NOT_MERGED = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT")
_SHOWN = 3  # files in an error message
# Folders inside a checkpoint that hold weights; others may hold anything.
_FOLDERS = ("onnx*", "openvino*", "coreml*", "tflite", "gguf", "ct2*", "ctranslate2*", "saved_model", "tensorrt*")
_FOLDERS += ("global_step*", "pytorch_model_fsdp*", "default", "params", "checkpoint_*")


class _Format(NamedTuple):
    """A format of another library.

    Args:
        patterns: Patterns of the names of its files and folders.
        library: Whose it is.
        remedy: What to do.
    """

    patterns: tuple[str, ...]
    library: str
    remedy: str


_EXPORT = "take the checkpoint of which it is an export; its model card or `_name_or_path` in config.json names that"
_SAVE = "load it with that library, and save the model as safetensors with transformers' `save_pretrained`"
_BOT = ". If the Hub's bot has opened a pull request with safetensors, give its `refs/pr/N` as the revision"
# The first that matches counts. Formats from which the weights can be saved again come first.
_FORMATS = (
    _Format(
        ("tf_model*.h5", "tf_model.h5.index.json"),
        "TensorFlow",
        f"load it with transformers 4 (`from_tf=True`), and save it as safetensors{_BOT}",
    ),
    _Format(("*_model_states.pt", "*_optim_states.pt"), "DeepSpeed", "join it with its `zero_to_fp32.py`"),
    _Format(("*.distcp",), "PyTorch's distributed checkpoints", "join it with `accelerate merge-weights`"),
    _Format(
        ("model.pt", "checkpoint[0-9_]*.pt", "bart*.pt"),
        "fairseq",
        "convert it with transformers' `convert_bart_original_pytorch_checkpoint_to_pytorch.py`",
    ),
    _Format(("mindspore*.ckpt",), "MindSpore", _SAVE),
    _Format(
        ("*.ckpt.index", "*.ckpt.meta", "*.ckpt.data-*", "*.h5", "*.keras", "saved_model.pb", "*.pb"),
        "TensorFlow or Keras",
        _SAVE,
    ),
    _Format(
        ("*.ckpt",), "PyTorch Lightning", "load it with its module, and call `save_pretrained` of the model inside"
    ),
    _Format(
        ("manifest.ocdbt", "_CHECKPOINT_METADATA", "_METADATA", ".zarray", "checkpoint_[0-9]*"),
        "Orbax or Flax's training",
        "restore it there, pass its parameters to `bart_eqx.from_flax`, and save that model",
    ),
    _Format(("*.pdparams", "*.pdiparams", "*.pdmodel"), "PaddlePaddle", _SAVE),
    _Format(("*.params",), "MXNet", _SAVE),
    _Format(
        ("*.npz", "*.npy"), "NumPy", "save its arrays with `safetensors.numpy.save_file`, if the names are a BART's"
    ),
    _Format(("*.nemo", "*.mar", "*.zip", "*.tar", "*.tar.gz", "*.tgz", "*.tar.xz"), "an archive", "unpack it"),
    _Format(("*.onnx", "*.onnx_data", "*.onnx.data", "*.ort"), "ONNX", _EXPORT),
    _Format(("openvino_*", "*.xml"), "OpenVINO", _EXPORT),
    _Format(("*.gguf", "*.ggml", "ggml-*.bin"), "llama.cpp (GGUF)", _EXPORT),
    _Format(("model.bin",), "CTranslate2", _EXPORT),
    _Format(("*.ot",), "rust-bert", _EXPORT + _BOT),
    _Format(("*.tflite",), "TensorFlow Lite", _EXPORT),
    _Format(("*.mlpackage", "*.mlmodel", "*.mlmodelc"), "Core ML", _EXPORT),
    _Format(("*.engine", "*.plan", "*.trt"), "TensorRT", _EXPORT),
    _Format(("*.neuron",), "AWS Neuron", _EXPORT),
    _Format(("*.mnn", "*.rknn", "*.dlc", "*.hef", "*.bmodel", "*.ncnn.param"), "a compiler for one device", _EXPORT),
    _Format(("*.torchscript", "*.ptl", "*.pte", "*.pt2", "traced*.pt"), "PyTorch's compilers", _EXPORT),
    _Format(
        ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.pt", "rng_state*", "random_states*"),
        "transformers' Trainer, without the model",
        "copy the model's weights into this folder too",
    ),
    _Format(
        ("pytorch_adapter.bin", "adapter_model.*", "*lora*.safetensors", "*lora*.bin"),
        "an adapter",
        f"merge it into its base, which {ADAPTER} should name, and save that model",
    ),
    _Format(
        ("*.pt", "*.pth", "*.pkl", "*.pickle", "*.joblib"),
        "a pickle of an unknown program",
        f"if it holds the model's parameters and nothing else, name it pytorch_model.bin; otherwise, {_SAVE}",
    ),
)


def refuse_foreign(names: Collection[str], where: str, fetch: Callable[[str], Path]) -> None:
    """Refuse a folder without weights of our own that has an adapter, or weights of another library.

    Args:
        names: All files of the folder, with `/` where they are in folders inside it.
        where: The folder, for error messages.
        fetch: Returns the path of one of these files.

    Raises:
        UnsupportedCheckpointError: if it has. It says whose they are and what to do.
    """
    if ADAPTER in names:
        _refuse_adapter(where, fetch(ADAPTER))
    found = {kind: [name for name in sorted(names) if _kind(name) is kind] for kind in _FORMATS}
    found = {kind: files for kind, files in found.items() if files}
    if found:
        first = next(iter(found))
        files = "; ".join(f"{_few(files)} ({kind.library})" for kind, files in list(found.items())[:_SHOWN])
        raise UnsupportedCheckpointError(
            f"{where!r} has its weights in {files} only, which is not read here: {first.remedy}."
        )


def refuse_foreign_file(path: Path) -> None:
    """Refuse a file of weights whose name is another library's.

    Raises:
        UnsupportedCheckpointError: if it is. It says whose it is and what to do.
    """
    if kind := _kind(path.name):
        raise UnsupportedCheckpointError(f"{path} ({kind.library}) is not read here: {kind.remedy}.")


def _kind(name: str) -> _Format | None:
    first, *inside = PurePosixPath(name).parts
    parts = [first] + (inside[-1:] if _matches(first, _FOLDERS) else [])
    return next((kind for kind in _FORMATS if any(_matches(part, kind.patterns) for part in parts)), None)


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _refuse_adapter(where: str, path: Path) -> NoReturn:
    fields = read_json(path)
    named = fields.get("base_model_name_or_path") or fields.get("model_name")  # PEFT's field, and AdapterHub's
    base = f"of {named!r:.200}" if isinstance(named, str) else "of a model that it does not name"
    if (kind := fields.get("peft_type")) in _NOT_MERGED:
        raise UnsupportedCheckpointError(
            f"{where!r} has no model but an adapter {base}, which is not supported: {ADAPTER} says {kind}, whose "
            "parameters cannot be merged into the model's."
        )
    raise UnsupportedCheckpointError(
        f"{where!r} has no model but an adapter {base} ({ADAPTER}): merge it, in peft with "
        "`PeftModel.from_pretrained(base, adapter).merge_and_unload()`, save the result, and load that folder."
    )


def refuse_misplaced(names: Collection[str], where: str, main_files: Sequence[str], suffixes: Collection[str]) -> None:
    """Refuse a folder whose weights could be read, if they were where they are looked for.

    Args:
        names: All files of the folder, with `/` where they are in folders inside it.
        where: The folder, for error messages.
        main_files: The names by which weights are found.
        suffixes: The suffixes of the formats that are read.

    Raises:
        SourceNotFoundError: if the weights are in a folder inside it, are shards without an index, or have another
            name. It says which.
    """
    for main in main_files:
        stem, suffix = PurePosixPath(main).stem, PurePosixPath(main).suffix
        shards = sorted(fnmatch.filter(names, f"{stem}-[0-9]*-of-[0-9]*{suffix}"))
        if shards and suffix in suffixes:
            raise SourceNotFoundError(
                f"{where!r} has {_few(shards)}, and not their index, {main}.index.json: download it too."
            )
    if inside := sorted(
        {str(PurePosixPath(n).parent) for n in names if "/" in n and n.rpartition("/")[2] in main_files}
    ):
        raise SourceNotFoundError(
            f"{where!r} has its weights in folders inside it, {_few(inside)}: choose one with `--subfolder` "
            "(`subfolder=`)."
        )
    if other := sorted(n for n in names if "/" not in n and PurePosixPath(n).suffix in suffixes and not _kind(n)):
        raise SourceNotFoundError(
            f"{where!r} has weights of another name than {', '.join(main_files[:1])} and the like: {_few(other)}. Give "
            "that file on this machine as the source, if it holds the whole model."
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

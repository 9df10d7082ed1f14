"""PyTorch's `pytorch_model.bin`. It is a pickle, and a pickle is a program: only torch reads it, where it is installed,
with `weights_only=True`. Torch is used for nothing else.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DamagedFileError, UnsupportedCheckpointError
from .lazy_array import MAX_RANK, Index, LazyArray, dtype_named, part_of
from .regular_file import checked_size


_SAFE = (2, 10)  # earlier, `weights_only=True` could be bypassed (CVE-2025-32434) or crash (GHSA-63cw-57p8-fm3p)
# Where Lightning and other trainers put the parameters, next to the optimiser's state.
_STATES = ("state_dict", "model_state_dict", "model", "module", "model_state")
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def require_torch(file: str) -> None:
    """Check that torch is installed, in a version that does not run a pickle's code.

    Args:
        file: The pickle, for the error message.

    Raises:
        UnsupportedCheckpointError: if torch is missing or too old.
    """
    safe = ".".join(map(str, _SAFE))
    remedy = (
        f"install it (`pip install 'torch>={safe}'`), or save the model as safetensors. If the Hub's bot has opened a "
        "pull request with safetensors, give its `refs/pr/N` as the revision."
    )
    if importlib.util.find_spec("torch") is None:
        raise UnsupportedCheckpointError(f"{file} is a PyTorch pickle, which only torch reads safely: {remedy}")
    version = importlib.metadata.version("torch")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _SAFE:
        raise UnsupportedCheckpointError(
            f"{file} is a PyTorch pickle, and torch {version} may run code in it. Torch must be at least "
            f"{safe}: {remedy}"
        )


def read_torch_pickle(path: Path) -> dict[str, LazyArray]:
    """The arrays of a file by name. Torch has the whole file in memory, also where parts are read.

    Raises:
        CheckpointError: as `checked_size` does; an `UnsupportedCheckpointError` if torch is missing or too old; a
            `DamagedFileError` if this is not a PyTorch pickle, or holds anything but tensors. The checkpoint of a
            training, which has the parameters in an entry of their own, is an `UnsupportedCheckpointError`.
    """
    checked_size(path)
    require_torch(str(path))
    torch: Any = importlib.import_module("torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle is a program, and may raise anything
        first_line = (str(error).splitlines() or [""])[0]
        raise DamagedFileError(
            f"{path} cannot be read by torch with weights_only=True ({type(error).__name__}: {first_line:.200}): "
            "download it again, and do not load it in any other way."
        ) from None
    if not isinstance(state, dict):
        raise DamagedFileError(f"{path} must hold a dict of tensors. Got {type(state).__name__}.")
    if branches := [name for name in _STATES if isinstance(state.get(name), dict)]:
        raise UnsupportedCheckpointError(
            f"{path} is the checkpoint of a training, with the model's parameters in {branches[0]!r}: save that entry "
            f"alone, `torch.save(state[{branches[0]!r}], path)`."
        )
    return {name: _array(torch, path, name, tensor) for name, tensor in state.items()}


def _array(torch: Any, path: Path, name: object, tensor: Any) -> LazyArray:
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise DamagedFileError(f"{path} must hold a dict of tensors. Got {name!r:.80}: {type(tensor).__name__}.")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES or tensor.layout is not torch.strided or tensor.dim() > MAX_RANK:
        raise UnsupportedCheckpointError(
            f"{path}: `{name}` must be dense, of dtype {', '.join(_DTYPES)}. Got {dtype}, {tensor.layout}."
        )
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise DamagedFileError(f"{path}: `{name}` has shape {tuple(tensor.shape)}, and the file holds fewer values.")
    shape = tuple(tensor.shape)
    return LazyArray(shape, dtype_named(dtype), functools.partial(_read, torch, tensor, shape, dtype_named(dtype)))


def _read(torch: Any, tensor: Any, shape: tuple[int, ...], dtype: np.dtype, index: Index = ()) -> np.ndarray:
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()  # as bytes: NumPy has no bfloat16
    return part_of(content.view(dtype).reshape(shape), index)

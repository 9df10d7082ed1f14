"""PyTorch's own files, `pytorch_model.bin`. They are pickles, and a pickle is a program: torch reads them, with
`weights_only=True`, where it is installed. Nothing else is asked of torch.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DamagedFileError, UnsupportedCheckpointError
from .json_file import size_of
from .stored import MAX_RANK, StoredArray, dtype_named


_SAFE = (2, 10)  # before, `weights_only=True` could be got round (CVE-2025-32434) or crashed (GHSA-63cw-57p8-fm3p)
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def require_torch(what: str) -> None:
    """Refuse a pickle unless there is a torch that reads it without running it.

    Raises:
        UnsupportedCheckpointError: with the remedy.
    """
    remedy = (
        "install it (`pip install 'bart_eqx[torch]'`); or save the model as safetensors where it is from. On the Hub, "
        "its page may list a `refs/pr/N` in which the Hub's bot did so: give that as the revision."
    )
    if importlib.util.find_spec("torch") is None:
        raise UnsupportedCheckpointError(f"{what} is a pickle of PyTorch's, which only torch can read safely: {remedy}")
    version = importlib.metadata.version("torch")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _SAFE:
        raise UnsupportedCheckpointError(
            f"{what} is a pickle of PyTorch's, and torch {version} may run what is in it. At least "
            f"{'.'.join(map(str, _SAFE))} is needed: {remedy}"
        )


def read_pytorch(path: Path) -> dict[str, StoredArray]:
    """The arrays of a file, by name.

    Raises:
        UnsupportedCheckpointError: if torch is not there, or too old.
        DamagedFileError: if it is not such a file, or holds anything but tensors.
    """
    size_of(path)
    require_torch(str(path))
    torch: Any = importlib.import_module("torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle fails in any way that a program does
        first_line = (str(error).splitlines() or [""])[0]
        raise DamagedFileError(
            f"{path} cannot be read by torch with weights_only=True ({type(error).__name__}: {first_line:.200}): "
            "download it again, and do not read it otherwise."
        ) from None
    if not isinstance(state, dict):
        raise DamagedFileError(f"{path} must hold parameters by name. Got {type(state).__name__}.")
    return {name: _array(torch, path, name, tensor) for name, tensor in state.items()}


def _array(torch: Any, path: Path, name: object, tensor: Any) -> StoredArray:
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise DamagedFileError(f"{path} must hold parameters by name. Got {name!r:.80}: {type(tensor).__name__}.")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES or tensor.layout is not torch.strided or tensor.dim() > MAX_RANK:
        raise UnsupportedCheckpointError(
            f"{path}: `{name}` must be a dense array of {', '.join(_DTYPES)}. Got {dtype}, {tensor.layout}."
        )
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise DamagedFileError(f"{path}: `{name}`, of shape {tuple(tensor.shape)}, has more numbers than are stored.")
    shape = tuple(tensor.shape)
    return StoredArray(shape, dtype_named(dtype), functools.partial(_read, torch, tensor, shape, dtype_named(dtype)))


def _read(torch: Any, tensor: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()  # NumPy has no bfloat16 to convert to
    return content.view(dtype).reshape(shape)

"""Parameter names and layouts. This package has those of transformers' PyTorch; Flax's differ in the leaves only.

| leaf in Flax | leaf in PyTorch and here |
|---|---|
| `kernel`, `[in, out]` | `weight`, `[out, in]` |
| `scale` of a norm | `weight` |
| `embedding` of a table | `weight` |

So a name shows its own layout, and one rule reads files of both frameworks.
"""

from typing import TypeVar

import numpy as np

from .formats.lazy_array import LazyArray


Leaf = TypeVar("Leaf", np.ndarray, LazyArray)


def from_flax_leaf(name: str, array: Leaf) -> tuple[str, Leaf]:
    """A parameter of Flax or PyTorch, with PyTorch's name and layout. Kernels become transposed views."""
    stem, _, leaf = name.rpartition(".")
    if leaf == "kernel":
        return f"{stem}.weight", array.T
    if leaf in ("scale", "embedding"):
        return f"{stem}.weight", array
    return name, array


def to_flax_leaf(name: str, array: Leaf) -> tuple[str, Leaf]:
    """The inverse of `from_flax_leaf`, for the parameters of a BART."""
    stem, _, leaf = name.rpartition(".")
    if leaf != "weight":
        return name, array
    owner = stem.rpartition(".")[2]
    if owner == "shared" or owner.startswith("embed_"):
        return f"{stem}.embedding", array
    if "norm" in owner:
        return f"{stem}.scale", array
    return f"{stem}.kernel", array.T


def bare(name: str) -> str:
    """A parameter's name without the `model.` by which a model with a head contains its `BartModel`."""
    return name.removeprefix("model.")

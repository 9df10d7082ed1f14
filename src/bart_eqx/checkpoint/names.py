"""Names and layouts. Here a parameter has the name and the layout of transformers' PyTorch; Flax differs in its leaves.

| leaf in Flax | leaf in PyTorch and here |
|---|---|
| `kernel`, `[in, out]` | `weight`, `[out, in]` |
| `scale` of a norm | `weight` |
| `embedding` of a table | `weight` |

A name thus says its own layout, and one rule reads files of either kind.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from .stored import StoredArray


Leaf = TypeVar("Leaf", np.ndarray, StoredArray)


def from_flax_leaf(name: str, array: Leaf) -> tuple[str, Leaf]:
    """A parameter of either kind, in PyTorch's name and layout. Kernels come as views, not as copies."""
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
    """A parameter's name without the `model.` that a model with a head puts before those of its `BartModel`."""
    return name.removeprefix("model.")


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, np.ndarray]:
    """A nested dict of arrays, as Flax has them, by dotted names."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, leaf = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = array
    return tree

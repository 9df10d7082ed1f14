"""Names and layouts. Here a parameter has the name and the layout of transformers' PyTorch; Flax differs in its leaves.

| leaf in Flax | leaf in PyTorch and here |
|---|---|
| `kernel`, `[in, out]` | `weight`, `[out, in]` |
| `scale` of a norm | `weight` |
| `embedding` of a table | `weight` |

A name thus says its own layout, and one rule reads files of either kind.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


# The table of token embeddings is one array under any of these names, and under `lm_head.weight` where that is tied.
EMBEDDING = "shared.weight"
_EMBEDDING_ALIASES = frozenset({EMBEDDING, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"})


def from_flax_leaf(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """A parameter of either kind, in PyTorch's name and layout. Kernels come as views, not as copies."""
    stem, _, leaf = name.rpartition(".")
    if leaf == "kernel":
        return f"{stem}.weight", array.T
    if leaf in ("scale", "embedding"):
        return f"{stem}.weight", array
    return name, array


def to_flax_leaf(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
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


def canonical(name: str, *, tied: bool) -> str:
    """One name for what several checkpoints call differently.

    A bare `BartModel` has no `model.` before its names, and a model with a head does; the embedding has its aliases.
    """
    name = name.removeprefix("model.")
    if name in _EMBEDDING_ALIASES or (tied and name == "lm_head.weight"):
        return EMBEDDING
    return name


def with_embedding_aliases(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The embedding under all its names, for `tie_word_embeddings=False`.

    There transformers 5 unties not only the head but encoder and decoder too: it reads three tables, and draws at
    random those that it does not find.
    """
    every = dict(tensors)
    for name, array in tensors.items():
        if name.endswith(EMBEDDING):
            prefix = name.removesuffix(EMBEDDING)
            every |= {prefix + alias: array for alias in sorted(_EMBEDDING_ALIASES)}
    return every


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

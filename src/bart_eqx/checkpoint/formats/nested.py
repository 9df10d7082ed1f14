"""Nested dicts, as Flax has them, and flat ones with dotted names."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, np.ndarray]:
    """`{"a": {"b": array}}` becomes `{"a.b": array}`. `prefix` is put before every name."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`, for values of any type."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    return tree

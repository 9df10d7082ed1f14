"""Nested dicts, as Flax has them, and flat ones with dotted names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import UnsupportedCheckpointError


_STATES = {"params": ("opt_state", "step"), "target": ("state",)}  # Flax's TrainState, and its older Optimizer


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, np.ndarray]:
    """`{"a": {"b": array}}` becomes `{"a.b": array}`. `prefix` is put before every name."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def check_is_no_train_state(tree: Mapping[str, object]) -> None:
    """Refuse the state of a training: the parameters in one branch, and the optimiser's in another.

    Raises:
        UnsupportedCheckpointError: if it is one. It names the branch of the parameters.
    """
    for branch, others in _STATES.items():
        if isinstance(params := tree.get(branch), Mapping) and (found := [name for name in others if name in tree]):
            path = f"[{branch!r}]" + ("['params']" if params.keys() == {"params"} else "")
            raise UnsupportedCheckpointError(
                f"this is a training state of Flax, with `{'`, `'.join([branch, *found])}`: take its parameters alone, "
                f"`state{path}`."
            )


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

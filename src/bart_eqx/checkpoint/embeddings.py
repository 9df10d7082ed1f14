"""The token embedding: one array under any of four names, or three arrays.

| `tie_word_embeddings` | who wrote it | what the names hold |
|---|---|---|
| true | everybody | one table, which `lm_head` is too; any one of the names, or several, with the same numbers |
| false | transformers 4, and Flax | one table, and `lm_head` apart |
| false | transformers 5 | `shared`, which nothing reads, the encoder's and the decoder's table, and `lm_head` |

Copies that are equal become one leaf. Those that differ are kept apart, and used as transformers 5 uses them.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from .errors import MismatchError
from .stored import StoredArray, equal


SHARED = "shared.weight"
TABLES = (SHARED, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Tables:
    """The arrays of a checkpoint, of which none is the token embedding twice."""

    arrays: dict[str, StoredArray]
    found: tuple[str, ...]
    """The names under which the checkpoint has tables."""
    own: tuple[str, ...]
    """The sides that have a table of their own, "encoder" or "decoder"."""


def resolve(arrays: Mapping[str, StoredArray], *, tied: bool, alone: bool) -> Tables:
    """Find the tables among arrays with bare names.

    Args:
        arrays: All arrays of the checkpoint.
        tied: The configuration's `tie_word_embeddings`.
        alone: Whether they are for a decoder that stands alone, whose table is `decoder.embed_tokens`.

    Raises:
        MismatchError: if the head is tied, and copies of the table differ.
    """
    candidates = (*TABLES, HEAD) if tied else TABLES
    found = tuple(name for name in candidates if name in arrays)
    if not found:
        return Tables(dict(arrays), (), ())
    first = TABLES[2] if alone and TABLES[2] in found else found[0]
    different = [name for name in found if not _same(arrays, name, first)]
    if tied and different:
        raise MismatchError(
            f"`{different[0]}` is the token embedding once more, with other numbers than `{first}` "
            f"({arrays[different[0]].shape} and {arrays[first].shape}): config.json ties them "
            "(tie_word_embeddings=true), so that only one can be right. Remove the other, or untie them."
        )
    kept = {name: array for name, array in arrays.items() if not _is_of(name, found)}
    kept |= _renamed(arrays, first, TABLES[2] if alone else SHARED)
    sides = () if alone else tuple(name for name in TABLES[1:] if name in different)
    for name in sides:
        kept |= _renamed(arrays, name, name)
    return Tables(kept, found, tuple(name.partition(".")[0] for name in sides))


def _same(arrays: Mapping[str, StoredArray], one: str, other: str) -> bool:
    scales = [arrays.get(f"{name}_scale", _NO_SCALE) for name in (one, other)]
    return one == other or (equal(arrays[one], arrays[other]) and equal(*scales))


_NO_SCALE = StoredArray((0,), np.dtype(np.float32), lambda: np.empty(0, np.float32))  # only int8 weights have one


def _is_of(name: str, tables: tuple[str, ...]) -> bool:
    return name.removesuffix("_scale") in tables


def _renamed(arrays: Mapping[str, StoredArray], old: str, new: str) -> dict[str, StoredArray]:
    return {new + suffix: arrays[old + suffix] for suffix in ("", "_scale") if old + suffix in arrays}


def with_copies(tensors: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """The shared table under the names of both sides too, where they have none of their own.

    Of a model with `tie_word_embeddings=False`, transformers 5 reads three tables, and draws at random those that it
    does not find.
    """
    every = dict(tensors)
    for name in tensors:
        if name.endswith(SHARED):
            prefix = name.removesuffix(SHARED)
            for table in TABLES[1:]:
                every.setdefault(prefix + table, tensors[name])
    return every

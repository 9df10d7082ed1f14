"""The token embedding: in a checkpoint, one table under any of four names, or three tables.

| `tie_word_embeddings` | written by | what the names hold |
|---|---|---|
| true | everybody | one table, which is `lm_head` too; under one of the names or several, with equal values |
| false | transformers 4, and Flax | one table, and `lm_head` of its own |
| false | transformers 5 | `shared`, which nothing reads, the encoder's and the decoder's table, and `lm_head` |

Equal copies become one leaf. Tables that differ are kept, and used as transformers 5 uses them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from .errors import MismatchError
from .formats.lazy_array import LazyArray, equal, from_numpy


SIDES = ("encoder", "decoder")
SHARED = "shared.weight"
TABLES = (SHARED, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD = "lm_head.weight"


@runtime_checkable
class TableConfig(Protocol):
    """What loading asks of a model's configuration: a `BartConfig`, or that of a model of another kind."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def tie_word_embeddings(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Tables:
    """The arrays of a checkpoint, with each token table under one name only.

    Args:
        arrays: All arrays of the checkpoint, by bare names.
        found: The names under which the checkpoint has token tables.
        own: The sides, `"encoder"` or `"decoder"`, with a table that differs from the shared one.
    """

    arrays: dict[str, LazyArray]
    found: tuple[str, ...]
    own: tuple[str, ...]


def resolve_tables(arrays: Mapping[str, LazyArray], *, tied: bool, decoder_only: bool) -> Tables:
    """Find the token tables of a checkpoint, and drop copies.

    Args:
        arrays: All arrays of the checkpoint, by bare names.
        tied: The configuration's `tie_word_embeddings`.
        decoder_only: Whether the model has no encoder, so that its table is `decoder.embed_tokens`.

    Raises:
        MismatchError: if the head is tied and copies of the table differ.
    """
    candidates = (*TABLES, HEAD) if tied else TABLES
    found = tuple(name for name in candidates if name in arrays)
    if not found:
        return Tables(dict(arrays), (), ())
    first = TABLES[2] if decoder_only and TABLES[2] in found else found[0]
    different = [name for name in found if not _same(arrays, name, first)]
    if tied and different:
        raise MismatchError(
            f"`{different[0]}` and `{first}` must be equal, since config.json says tie_word_embeddings=true. Their "
            f"values differ, with shapes {arrays[different[0]].shape} and {arrays[first].shape}: remove the wrong one, "
            "or untie them."
        )
    kept = {name: array for name, array in arrays.items() if name.removesuffix("_scale") not in found}
    kept |= _renamed(arrays, first, TABLES[2] if decoder_only else SHARED)
    sides = () if decoder_only else tuple(name for name in TABLES[1:] if name in different)
    for name in sides:
        kept |= _renamed(arrays, name, name)
    return Tables(kept, found, tuple(name.partition(".")[0] for name in sides))


def _same(arrays: Mapping[str, LazyArray], one: str, other: str) -> bool:
    scales = [arrays.get(f"{name}_scale", _NO_SCALE) for name in (one, other)]
    return one == other or (equal(arrays[one], arrays[other]) and equal(*scales))


_NO_SCALE = from_numpy(np.empty(0, np.float32))  # only int8 weights have one


def _renamed(arrays: Mapping[str, LazyArray], old: str, new: str) -> dict[str, LazyArray]:
    """A table under another name, with its scale if it is int8."""
    return {new + suffix: arrays[old + suffix] for suffix in ("", "_scale") if old + suffix in arrays}


def with_copies(tensors: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
    """`tensors`, with the shared table copied to each side that has no table of its own.

    For `tie_word_embeddings=False`, transformers 5 reads three tables, and initialises those that are missing at
    random.
    """
    every = dict(tensors)
    for name in tensors:
        if name.endswith(SHARED):
            prefix = name.removesuffix(SHARED)
            for table in TABLES[1:]:
                every.setdefault(prefix + table, tensors[name])
    return every

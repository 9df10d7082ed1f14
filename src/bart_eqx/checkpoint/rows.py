"""Checkpoints with another vocabulary than the configuration: rows of their tables are added, or left out."""

import dataclasses
import functools
from collections.abc import Collection

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from ..model.resize import new_rows
from .embeddings import HEAD, TABLES, TableConfig, Tables
from .errors import MismatchError
from .formats.lazy_array import Index, LazyArray, bounds, is_float, part_of
from .match import BIAS


def fit_rows(
    tables: Tables, config: TableConfig, wanted: Collection[str], key: PRNGKeyArray | None
) -> tuple[Tables, tuple[str, ...]]:
    """Give every array that has a row for each token `config.vocab_size` rows.

    Existing rows are kept. New rows are those of `resize_token_embeddings`; they depend on all others, so a table with
    new rows is computed whole, even if only a part of it is read. Arrays of int8, or of another width, are not changed:
    `match` refuses them.

    Args:
        tables: The arrays of a checkpoint.
        config: The model's configuration.
        wanted: The bare names of the model's parameters.
        key: Draws new rows.

    Returns:
        The arrays, and a description of each change.

    Raises:
        MismatchError: if there are to be more rows, and no `key`.
    """
    vocab, arrays, done = config.vocab_size, dict(tables.arrays), []
    shapes = {name: array.shape for name, array in arrays.items() if name in wanted and is_float(array.dtype)}
    for index, name in enumerate((*TABLES, HEAD)):
        rows, *width = shapes.get(name, (vocab,))
        if rows == vocab or width != [config.d_model]:
            continue
        if key is None and rows < vocab:
            raise MismatchError(f"`{name}` has {rows} rows, and vocab_size is {vocab}: pass a `key` to draw more.")
        read = functools.partial(_read_table, arrays[name], vocab, None if key is None else jr.fold_in(key, index))
        arrays[name] = LazyArray((vocab, config.d_model), arrays[name].dtype, read)
        done.append(f"`{name}` has {rows} rows, and {_changed('rows', rows, vocab)}")
    one, *entries = shapes.get(BIAS, (1, vocab))
    if one == 1 and entries not in ([vocab], []):
        read = functools.partial(_read_bias, arrays[BIAS], vocab)
        arrays[BIAS] = LazyArray((1, vocab), arrays[BIAS].dtype, read)
        done.append(f"`{BIAS}` has {entries[0]} entries, and {_changed('entries', entries[0], vocab)}")
    return dataclasses.replace(tables, arrays=arrays), tuple(done)


def _changed(what: str, old: int, new: int) -> str:
    return f"{what} {old} to {new - 1} are new" if old < new else f"{what} {new} to {old - 1} are left out"


def _read_table(array: LazyArray, vocab: int, key: PRNGKeyArray | None, index: Index = ()) -> np.ndarray:
    if key is None or array.shape[0] > vocab:
        return array.read(tuple(slice(*pair) for pair in bounds((vocab, *array.shape[1:]), index)))
    values = array.read()
    new = new_rows(jnp.asarray(values), vocab - len(values), key)
    return part_of(np.concatenate([values, np.asarray(new, values.dtype)]), index)


def _read_bias(array: LazyArray, vocab: int, index: Index = ()) -> np.ndarray:
    values = array.read()[:, :vocab]
    return part_of(np.pad(values, ((0, 0), (0, vocab - values.shape[1]))), index)

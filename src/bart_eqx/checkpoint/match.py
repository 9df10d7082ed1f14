"""Arrays of a checkpoint beside the parameters of a model: every name on both sides is accounted for."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from .embeddings import Tables
from .errors import MismatchError
from .names import bare, from_flax_leaf
from .parameters import Shapes
from .stored import StoredArray, equal, is_float


HEADS = ("lm_head.", "classification_head.", "qa_outputs.")
BIAS = "final_logits_bias"  # zero in every model that nobody gave another
_NEVER_PARAMETERS = ("encoder.version", "decoder.version", "_float_tensor")  # fairseq left these in early files
_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Match:
    """What becomes of the arrays of a checkpoint."""

    arrays: dict[str, StoredArray]
    """Those that are parameters of the model, by the model's names."""
    initialised: tuple[str, ...]
    """Parameters of the model's head that the checkpoint has not, and that must be new."""
    dropped: tuple[str, ...]
    """Arrays of the checkpoint that this class of model has no place for: another head's, or an encoder's."""
    tables: Tables
    """The token embedding."""


def is_of_head(name: str) -> bool:
    return name.startswith((*HEADS, BIAS))


def canonical(arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """Arrays of Flax or of PyTorch, in PyTorch's names and layouts, without `model.`.

    Raises:
        MismatchError: if two of them are the same parameter, with different numbers.
    """
    found: dict[str, StoredArray] = {}
    for original, array in arrays.items():
        name, array = from_flax_leaf(original, array)
        name = bare(name)
        if name.endswith(_NEVER_PARAMETERS):
            continue
        if name in found and not equal(found[name], array):
            raise MismatchError(f"`{original}` is `{name}` once more, with other numbers: only one can be right.")
        found[name] = array
    return found


def match(
    shapes: Shapes,
    int8: Collection[str],
    tables: Tables,
    class_name: str,
    *,
    ignore_mismatched_sizes: bool = False,
) -> Match:
    """Find an array for each parameter.

    Args:
        shapes: The parameters of the model.
        int8: Those that are int8. All others must be floating-point.
        tables: The arrays of the checkpoint.
        class_name: Of the model, for messages.
        ignore_mismatched_sizes: Make head parameters of another shape anew.

    Raises:
        MismatchError: if parameters are missing, arrays are left over, shapes or dtypes differ. All such faults are
            reported together.
    """
    wanted = {bare(name): name for name in shapes}
    filled: dict[str, StoredArray] = {}
    faulty: set[str] = set()
    dropped: list[str] = []
    faults: list[tuple[str, str, str]] = []  # kind, name, detail
    for name, array in tables.arrays.items():
        target = wanted.get(name)
        expected = "int8" if target in int8 else "floating-point"
        of_kind = array.dtype == np.int8 if target in int8 else is_float(array.dtype)
        # Another head's, which this model drops: nothing says what it should be.
        of_kind = of_kind or (target is None and bool(int8) and array.dtype == np.int8)
        if target is None and of_kind and _may_be_dropped(name, wanted):
            dropped.append(name)
        elif target is None:
            faults.append(("unexpected", name, ""))
        elif not of_kind:
            faults.append((f"not {expected}", target, str(array.dtype)))
            faulty.add(target)
        elif array.shape == shapes[target]:
            filled[target] = array
        elif not (ignore_mismatched_sizes and is_of_head(target)):
            faults.append(("of another shape", target, f"{array.shape} in place of {shapes[target]}"))
            faulty.add(target)
    initialised = tuple(name for name in shapes if name not in filled and name not in faulty)
    faults += [("missing", name, str(shapes[name])) for name in initialised if not is_of_head(name)]
    if faults:
        raise MismatchError(
            f"these are not the weights of {class_name} with its configuration, of whose {len(shapes)} parameters "
            f"{len(filled)} are there: {_folded(faults)}."
        )
    return Match({name: filled[name] for name in shapes if name in filled}, initialised, tuple(sorted(dropped)), tables)


def _may_be_dropped(name: str, wanted: Collection[str]) -> bool:
    """Another head's, or the encoder's where the model has none."""
    return is_of_head(name) or (name.startswith("encoder.") and not any(w.startswith("encoder.") for w in wanted))


def _folded(faults: Iterable[tuple[str, str, str]]) -> str:
    """Each kind of fault with its parameters, those of several layers as one."""
    layers: dict[tuple[str, str, str], list[int]] = {}
    for kind, name, detail in faults:
        number = re.search(r"layers\.(\d+)\.", name)
        stem = name if number is None else f"{name[: number.start(1)]}*{name[number.end(1) :]}"
        layers.setdefault((kind, stem, detail), []).extend([int(number[1])] if number else [])
    kinds: dict[str, list[str]] = {}
    for (kind, stem, detail), numbers in layers.items():
        name = stem.replace("*", _ranges(sorted(numbers)), 1) if numbers else stem
        kinds.setdefault(kind, []).append(f"`{name}` {detail}".rstrip())
    return "; ".join(
        f"{kind}: {', '.join(names[:_SHOWN])}" + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for kind, names in kinds.items()
    )


def _ranges(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}...{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"


def widest_float(arrays: Iterable[StoredArray]) -> np.dtype:
    """The dtype of a model with these parameters, of which some may be integers."""
    floating = {array.dtype for array in arrays if is_float(array.dtype)} or {np.dtype(np.float32)}
    widest = max(floating, key=lambda dtype: dtype.itemsize)
    return np.dtype(np.float32) if widest.itemsize == 2 and len(floating) > 1 else widest  # float16 and bfloat16

"""Assigning the arrays of a checkpoint to the parameters of a model. No name on either side is ignored silently."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from .architectures import Shapes
from .embeddings import HEAD, TABLES, Tables
from .errors import MismatchError
from .formats.lazy_array import LazyArray, equal, is_float
from .names import bare, from_flax_leaf
from .wrapped_names import check_names


HEADS = ("lm_head.", "classification_head.", "qa_outputs.")
BIAS = "final_logits_bias"  # zero unless somebody changed it
_NEVER_PARAMETERS = ("encoder.version", "decoder.version", "_float_tensor")  # fairseq's, in early checkpoints
_SHOWN = 60  # names of each kind in an error message


@dataclasses.dataclass(frozen=True)
class Match:
    """The assignment of a checkpoint's arrays to a model's parameters.

    Args:
        arrays: By the model's parameter names, in the model's order.
        initialised: Parameters of the model's head that the checkpoint lacks, and that must be initialised.
        mismatched: Those that it has in another shape, with both shapes. They must be initialised too.
        dropped: Arrays of the checkpoint that this class does not have: another head's, or the encoder's.
        tables: The token tables.
        resized: Descriptions of tables whose number of rows was changed.
    """

    arrays: dict[str, LazyArray]
    initialised: tuple[str, ...]
    mismatched: Mapping[str, str]
    dropped: tuple[str, ...]
    tables: Tables
    resized: tuple[str, ...] = ()


def is_of_head(name: str) -> bool:
    return name.startswith((*HEADS, BIAS))


def canonical(arrays: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
    """Arrays of Flax or PyTorch by PyTorch's names without `model.`, in PyTorch's layouts.

    Raises:
        MismatchError: if two of them are the same parameter with different values, or the names have a prefix.
        UnsupportedCheckpointError: if they are an adapter's, or those of quantised weights.
    """
    check_names(arrays)
    found: dict[str, LazyArray] = {}
    for original, array in arrays.items():
        name, array = from_flax_leaf(original, array)
        name = bare(name)
        if name.endswith(_NEVER_PARAMETERS):
            continue
        if name in found and not equal(found[name], array):
            raise MismatchError(
                f"`{original}` and `{name}` are the same parameter with different values: remove the wrong one."
            )
        found[name] = dataclasses.replace(array, name=original)
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
        shapes: The model's parameters.
        int8: The names of those that are int8. All others are floating-point.
        tables: The arrays of the checkpoint.
        class_name: The model's class, for error messages.
        ignore_mismatched_sizes: Whether head parameters of another shape are initialised, and not refused.

    Raises:
        MismatchError: if parameters are missing, arrays are left over, or shapes or dtypes differ. It lists all of
            these together.
    """
    wanted = {bare(name): name for name in shapes}
    filled: dict[str, LazyArray] = {}
    faulty: set[str] = set()
    mismatched: dict[str, str] = {}
    dropped: list[str] = []
    faults: list[tuple[str, str, str]] = []  # kind, name, detail
    for name, array in tables.arrays.items():
        target = wanted.get(name)
        expected = "int8" if target in int8 else "floating-point"
        of_kind = array.dtype == np.int8 if target in int8 else is_float(array.dtype)
        # An int8 array of another head is dropped like a floating-point one: this model does not say what it should be.
        of_kind = of_kind or (target is None and bool(int8) and array.dtype == np.int8)
        if target is None and of_kind and _may_be_dropped(name, wanted):
            dropped.append(name)
        elif target is None:
            faults.append(("unexpected", array.name or name, ""))
        elif not of_kind:
            faults.append((f"not {expected}", target, str(array.dtype)))
            faulty.add(target)
        elif array.shape == shapes[target]:
            filled[target] = array
        elif ignore_mismatched_sizes and is_of_head(target):
            mismatched[target] = f"{array.shape} in place of {shapes[target]}"
        else:
            faults.append(("of another shape", target, f"{array.shape} in place of {shapes[target]}"))
            faulty.add(target)
    initialised = tuple(name for name in shapes if name not in {*filled, *faulty, *mismatched})
    faults += [("missing", name, str(shapes[name])) for name in initialised if not is_of_head(name)]
    if faults:
        raise MismatchError(
            f"the weights do not fit a {class_name} of this configuration, of whose {len(shapes)} parameters "
            f"{len(filled)} were found: {_folded(faults)}.{_advice(faults)}"
        )
    arrays = {name: filled[name] for name in shapes if name in filled}
    return Match(arrays, initialised, mismatched, tuple(sorted(dropped)), tables)


def _advice(faults: Iterable[tuple[str, str, str]]) -> str:
    of_vocabulary = {kind for kind, name, _ in faults if bare(name) in (*TABLES, HEAD, BIAS)}
    if "of another shape" not in of_vocabulary:
        return ""
    return (
        " For another vocab_size, `from_pretrained(..., ignore_mismatched_sizes=True, key=...)` keeps the rows in "
        "common, and `resize_token_embeddings` changes those of a loaded model."
    )


def _may_be_dropped(name: str, wanted: Collection[str]) -> bool:
    """Whether it is another head's, or the encoder's where the model has none."""
    return is_of_head(name) or (name.startswith("encoder.") and not any(w.startswith("encoder.") for w in wanted))


def _folded(faults: Iterable[tuple[str, str, str]]) -> str:
    """Faults as text, by kind; the same parameter of several layers is named once."""
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

"""A student with fewer layers, initialised with some of a teacher's; and which ones."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..model.causal_lm import BartForCausalLM
from ..model.reconfigure import configured_part, with_config
from ..model.signature import one_sentence_errors


Model = TypeVar("Model", bound=eqx.Module)

# `LAYERS_TO_COPY` and `LAYERS_TO_SUPERVISE` of make_student.py in transformers'
# examples/research_projects/seq2seq-distillation, by the teacher's number of layers and the student's.
_DISTILBART_COPIED: Mapping[int, Mapping[int, tuple[int, ...]]] = {
    6: {1: (0,), 2: (0, 5), 3: (0, 2, 5), 4: (0, 1, 3, 5)},
    12: {
        1: (0,),
        2: (0, 6),
        3: (0, 6, 11),
        4: (0, 4, 8, 11),
        6: (0, 2, 4, 7, 9, 11),
        9: (0, 1, 2, 4, 5, 7, 9, 10, 11),
    },
    16: {
        1: (0,),
        2: (0, 15),
        3: (0, 8, 15),
        4: (0, 5, 10, 15),
        6: (0, 3, 6, 9, 12, 15),
        8: (0, 2, 4, 6, 8, 10, 12, 15),
        9: (0, 1, 3, 5, 7, 9, 11, 13, 15),
        12: (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15),
    },
}
_DISTILBART_SUPERVISED: Mapping[int, Mapping[int, tuple[int, ...]]] = {
    6: {1: (5,), 2: (3, 5), 3: (1, 4, 5), 4: (1, 2, 4, 5)},
    12: {1: (11,), 2: (5, 11), 3: (3, 7, 11), 6: (1, 3, 5, 8, 10, 11)},
    16: {1: (15,), 4: (4, 9, 12, 15), 8: (1, 3, 5, 7, 9, 11, 13, 15)},
}


def distilbart_layers(teacher: int, student: int) -> tuple[int, ...]:
    """The teacher's layers that DistilBART's students are initialised with (arXiv:2010.13002): 12 → 6 is
    (0, 2, 4, 7, 9, 11), 12 → 3 is (0, 6, 11).

    Args:
        teacher: Its number of layers: 6, 12 or 16.
        student: Its number of layers.

    Raises:
        ValueError: if the table has no such pair.
    """
    return _from_table(_DISTILBART_COPIED, teacher, student)


def distilbart_supervised_layers(teacher: int, student: int) -> tuple[int, ...]:
    """The teacher's layers whose outputs the student's layers learn, with DistilBART's `supervise_forward`.

    Args:
        teacher: Its number of layers: 6, 12 or 16.
        student: Its number of layers.

    Raises:
        ValueError: if the table has no such pair.
    """
    return _from_table(_DISTILBART_SUPERVISED, teacher, student)


def distil_whisper_layers(teacher: int, student: int) -> tuple[int, ...]:
    """The teacher's layers that distil-whisper's students are initialised with (arXiv:2311.00430): evenly spaced from
    the first to the last, which is always among them. 12 → 6 is (0, 2, 4, 6, 8, 11).

    Args:
        teacher: Its number of layers.
        student: Its number of layers.

    Raises:
        ValueError: if `student` is not in [1, `teacher`].
    """
    return _evenly(0, teacher, student)


def distil_whisper_supervised_layers(teacher: int, student: int) -> tuple[int, ...]:
    """The teacher's layers whose outputs the student's layers learn in distil-whisper: 12 → 3 is (3, 7, 11).

    Args:
        teacher: Its number of layers.
        student: Its number of layers.

    Raises:
        ValueError: if `student` is not in [1, `teacher`].
    """
    return _evenly(teacher // max(student, 1) - 1, teacher, student)


def _evenly(first: int, teacher: int, student: int) -> tuple[int, ...]:
    if not 1 <= student <= teacher:
        raise ValueError(f"`student` must be in [1, teacher={teacher}]. Got {student}.")
    layers = np.linspace(first, teacher - 1, student, dtype=int).tolist()
    return (*layers[:-1], teacher - 1)


def _from_table(table: Mapping[int, Mapping[int, tuple[int, ...]]], teacher: int, student: int) -> tuple[int, ...]:
    if teacher == student:
        return tuple(range(teacher))
    layers = table.get(teacher, {}).get(student)
    if layers is None:
        pairs = ", ".join(f"{teacher} → {student}" for teacher, students in table.items() for student in students)
        raise ValueError(
            f"DistilBART's table has {pairs}. Got {teacher} → {student}: choose the layers yourself, or with "
            "`distil_whisper_layers`."
        )
    return layers


@one_sentence_errors
def shrink(
    model: Model, *, encoder_layers: Sequence[int] | None = None, decoder_layers: Sequence[int] | None = None
) -> Model:
    """The model with some of its layers, and a `config` with their numbers; all else is as it was.

    Arrays are copied: a train step that donates the student's leaves the teacher's alone.

    ```python
    student = shrink(teacher, decoder_layers=distilbart_layers(12, 6))
    ```

    Args:
        model: Of one of the five classes, in any mode.
        encoder_layers: The indices of the layers to keep, in their new order. `None`: all.
        decoder_layers: The same for the decoder.

    Raises:
        TypeError: if `model` is of another class.
        ValueError: if a list is empty, repeats a layer or has one that does not exist; or if `encoder_layers` is given
            for a `BartForCausalLM`, which has no encoder.
    """
    counts = {}
    for name, chosen in (("encoder_layers", encoder_layers), ("decoder_layers", decoder_layers)):
        if chosen is None:
            continue
        layers = _stack(model, name).layers
        if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= index < len(layers) for index in chosen):
            raise ValueError(f"`{name}` must be distinct layers, 0 to {len(layers) - 1}. Got {list(chosen)}.")
        kept = tuple(layers[index] for index in chosen)
        model = eqx.tree_at(lambda model, name=name: _stack(model, name).layers, model, kept)
        counts[name] = len(chosen)
    model = jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, model)
    return with_config(model, dataclasses.replace(configured_part(model, "shrink").config, **counts))


def _stack(model: Any, name: str) -> Any:
    """The encoder or the decoder, whose number of layers is `name` in the configuration."""
    part = configured_part(model, "shrink")
    if isinstance(part, BartForCausalLM):
        if name == "encoder_layers":
            raise ValueError("A BartForCausalLM has no encoder: leave `encoder_layers` out.")
        return part.model.decoder
    return part.encoder if name == "encoder_layers" else part.decoder

"""Another configuration for a model whose parts were replaced."""

import copy
from typing import Any, TypeVar

import equinox as eqx

from ..config import BartConfig
from .bart import BartModel
from .causal_lm import BartForCausalLM
from .conditional_generation import BartForConditionalGeneration
from .question_answering import BartForQuestionAnswering
from .sequence_classification import BartForSequenceClassification


Model = TypeVar("Model", bound=eqx.Module)


def configured_part(model: Any, function: str) -> Any:
    """The module that holds the configuration: a `BartModel`, or a `BartForCausalLM`.

    Raises:
        TypeError: if `model` is not of one of the five classes. The message names the `function` that took it.
    """
    match model:
        case BartModel() | BartForCausalLM():
            return model
        case BartForConditionalGeneration() | BartForSequenceClassification() | BartForQuestionAnswering():
            return model.model
    raise TypeError(
        f"`{function}` takes a model of one of the five classes, as from_pretrained returns it. Got a "
        f"{type(model).__name__}."
    )


def with_config(model: Model, config: BartConfig) -> Model:
    """The model with another configuration, a static field, which `equinox.tree_at` cannot replace."""
    part = configured_part(model, "with_config")
    holder = copy.copy(part)
    object.__setattr__(holder, "config", config)
    return holder if part is model else eqx.tree_at(lambda tree: tree.model, model, holder)

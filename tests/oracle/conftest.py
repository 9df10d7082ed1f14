"""Hugging Face's Flax models with random weights: the reference. These tests need the environment of `make oracle`."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import pytest
import transformers
from transformers.models.bart import modeling_flax_bart
from transformers.models.bart.modeling_flax_bart import FlaxBartClassificationHead

import bart_eqx
from support import CLASSES, CONFIGS, flatten, randomised, unflatten


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.oracle)


def classification_head(config: Any, **fields: Any) -> Any:
    """A head that computes in float64 in 64-bit mode. The reference's ignores the model's `dtype`, and would round."""
    return FlaxBartClassificationHead(
        config, **fields, dtype=np.float64 if jax.config.read("jax_enable_x64") else np.float32
    )


modeling_flax_bart.FlaxBartClassificationHead = classification_head


def compared(config_names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Classes, configurations and dtypes.

    Configurations that concern heads and tables with every class, the others with the one that has both stacks.
    float64 separates a fault from rounding; how large float32's rounding is, two configurations show.
    """
    every, both_stacks = [cls.__name__ for cls in CLASSES], ["BartForConditionalGeneration"]
    return [
        (cls, name, dtype)
        for name in config_names
        for cls in (every if name in ("unequal", "scaled", "untied", "other_ids") else both_stacks)
        for dtype in (["float32", "float64"] if name in ("unequal", "untied") else ["float64"])
    ]


@functools.cache
def hf_model(cls_name: str, config_name: str, dtype: Any = np.float32, gain: float = 1.5) -> Any:
    """A `FlaxBart...` that computes in `dtype`, with parameters from `support.randomised`."""
    fields = CONFIGS[config_name]
    config = transformers.BartConfig(**fields)
    kwargs = dict(num_labels=config.num_labels) if cls_name == "BartForSequenceClassification" else {}
    cls = getattr(transformers, f"Flax{cls_name}")
    model = cls(config, seed=0, dtype=dtype, _do_init=True, **kwargs)
    shapes = {name: array.shape for name, array in flatten(model.params).items()}
    model.params = unflatten(randomised(shapes, dtype, gain=gain))
    return model


def our_model(cls_name: str, config_name: str, dtype: Any = np.float32, gain: float = 1.5) -> Any:
    reference = hf_model(cls_name, config_name, dtype, gain)
    config = bart_eqx.BartConfig.from_dict(reference.config.to_dict())
    return bart_eqx.from_flax(reference.params, config, getattr(bart_eqx, cls_name))

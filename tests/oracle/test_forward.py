"""Every output of every class equals Hugging Face's Flax, in float32 and float64."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from support import CONFIGS, precision, ragged_inputs, relative_error

from .conftest import compared, hf_model, our_model


# Measured over all cases: at most 1.9e-6 in float32 and 6.8e-15 in float64.
LIMITS = {"float32": 5e-6, "float64": 1e-12}


def inputs_for(cls_name: str, config: Any) -> dict[str, Any]:
    inputs = ragged_inputs(config)
    if cls_name == "BartForCausalLM":
        return dict(input_ids=inputs["decoder_input_ids"], attention_mask=inputs["decoder_attention_mask"])
    if cls_name == "BartForSequenceClassification":  # its decoder reads the shifted source
        return dict(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    return inputs


@pytest.mark.parametrize(("cls_name", "config_name", "dtype"), compared(CONFIGS))
def test_all_outputs(
    cls_name: str, config_name: str, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    with precision(dtype):
        model = our_model(cls_name, config_name, dtype)
        inputs = inputs_for(cls_name, model.config)
        wanted = hf_model(cls_name, config_name, dtype)(**inputs, output_hidden_states=True, output_attentions=True)
        got = model(**inputs, output_hidden_states=True, output_attentions=True)
        errors: dict[str, float] = {}
        for name, value in wanted.items():
            ours, reference = getattr(got, name), value
            if not isinstance(reference, tuple):
                ours, reference = (ours,), (reference,)
            for index, (mine, theirs) in enumerate(zip(ours, reference, strict=True)):
                assert mine.dtype == dtype
                errors[f"{name}.{index}"] = relative_error(mine, theirs)
    worst = max(errors, key=errors.__getitem__)
    record_property("largest", f"{errors[worst]:.1e} {worst}")
    assert errors[worst] <= LIMITS[dtype], worst
    # Logits, the embedded input, and for each layer a hidden state and attention weights.
    assert len(errors) >= 2 + 2 * model.config.decoder_layers


@pytest.mark.parametrize("dtype", LIMITS)
def test_explicit_positions_and_masks(dtype: str) -> None:
    """Explicit positions, a left-padded decoder mask, and a row in which every token is masked."""
    with precision(dtype):
        model = our_model("BartForConditionalGeneration", "unequal", dtype)
        inputs = ragged_inputs(model.config)
        inputs["decoder_attention_mask"] = np.array([[0, 0, 1, 1, 1, 1, 1], [1] * 7, [0] * 7], np.int32)
        inputs["attention_mask"][2] = 0
        inputs["position_ids"] = np.tile(np.arange(11)[::-1], (3, 1)).astype(np.int32)
        inputs["decoder_position_ids"] = np.array([[0, 0, 0, 1, 2, 3, 4], [3, 1, 4, 1, 5, 9, 2], [22] * 7], np.int32)
        wanted = hf_model("BartForConditionalGeneration", "unequal", dtype)(**inputs)
        assert relative_error(model(**inputs).logits, wanted.logits) <= LIMITS[dtype]


@pytest.mark.parametrize("dtype", LIMITS)
def test_causal_lm_with_an_encoder(dtype: str) -> None:
    with precision(dtype):
        model = our_model("BartForCausalLM", "untied", dtype)
        reference = hf_model("BartForCausalLM", "untied", dtype)
        inputs = ragged_inputs(model.config)
        states = jnp.asarray(np.random.default_rng(0).standard_normal((3, 11, model.config.d_model)), dtype)
        arguments = dict(
            input_ids=inputs["decoder_input_ids"],
            attention_mask=inputs["decoder_attention_mask"],
            encoder_attention_mask=inputs["attention_mask"],
        )
        wanted = reference(**arguments, encoder_hidden_states=states, output_attentions=True)
        got = model(**arguments, encoder_hidden_states=states, output_attentions=True)
        assert relative_error(got.logits, wanted.logits) <= LIMITS[dtype]
        for mine, theirs in zip(got.cross_attentions, wanted.cross_attentions, strict=True):
            assert relative_error(mine, theirs) <= LIMITS[dtype]

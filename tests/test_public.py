"""The package's names, which are imported when they are asked for."""

import inspect
from typing import Any

import pytest

import bart_eqx
from support import CLASSES


def test_every_public_name_is_there() -> None:
    assert {"BartModel", "from_pretrained", "generate", "training"} <= set(dir(bart_eqx))
    for name in dir(bart_eqx):
        assert getattr(bart_eqx, name) is not None
    assert bart_eqx.__version__ and not hasattr(bart_eqx, "BartForMaskedLM")


@pytest.mark.parametrize("cls", CLASSES)
def test_arguments_have_the_order_of_transformers(cls: Any) -> None:
    """Those by position, of the five Flax classes."""
    parameters = inspect.signature(cls.__call__).parameters.values()
    by_position = [parameter.name for parameter in parameters if parameter.kind != parameter.KEYWORD_ONLY]
    if cls is bart_eqx.BartForCausalLM:
        assert by_position == (
            "self input_ids attention_mask position_ids encoder_hidden_states encoder_attention_mask".split()
        )
    else:
        assert by_position == (
            "self input_ids attention_mask decoder_input_ids decoder_attention_mask position_ids "
            "decoder_position_ids".split()
        )

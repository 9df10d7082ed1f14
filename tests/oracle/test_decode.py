"""Cached decoding, with the calls of Hugging Face's own tests, and the tokens of greedy search."""

from typing import Any

import numpy as np
import pytest

import bart_eqx
from support import CLASSES, ragged_inputs, relative_error

from .conftest import hf_model, our_model


# Measured: at most 1.1e-6.
LIMIT = 5e-6


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cls_name", [cls.__name__ for cls in CLASSES if cls is not bart_eqx.BartForCausalLM])
def test_use_cache_forward(cls_name: str, masked: bool) -> None:
    """The calls of `test_use_cache_forward` and `..._with_attn_mask` in `test_modeling_flax_bart.py`, on both."""
    reference, model = hf_model(cls_name, "unequal"), our_model(cls_name, "unequal")
    inputs = ragged_inputs(model.config)
    ids, source_mask, targets = inputs["input_ids"], inputs["attention_mask"], inputs["decoder_input_ids"]
    mask = np.ones((3, 20), np.int32)
    if masked:
        mask[:, :7] = inputs["decoder_attention_mask"]
        mask[:, 7:] = 0

    encoded = reference.encode(ids, source_mask)
    past = reference.init_cache(3, 20, encoded)
    positions = np.tile(np.arange(7), (3, 1))
    calls = [slice(0, 6), slice(6, 7)]
    wanted = []
    for call in calls:
        out = reference.decode(
            targets[:, call],
            encoded,
            encoder_attention_mask=source_mask,
            decoder_attention_mask=mask,
            past_key_values=past,
            decoder_position_ids=positions[:, call],
        )
        past = out.past_key_values
        wanted.append(out[0])

    cache = model.init_cache(model.encode(ids, source_mask), source_mask, max_length=20)
    for call, reference_out in zip(calls, wanted, strict=True):
        out, cache = model.decode(targets[:, call], cache, decoder_attention_mask=mask)
        ours: Any = out.logits if hasattr(out, "logits") else out.last_hidden_state
        assert relative_error(ours, reference_out) <= LIMIT


def test_the_caches_hold_the_same() -> None:
    """Their layout `[batch, length, heads, head_dim]`, transposed, is ours."""
    reference, model = (
        hf_model("BartForConditionalGeneration", "unequal"),
        our_model("BartForConditionalGeneration", "unequal"),
    )
    inputs = ragged_inputs(model.config)
    encoded = reference.encode(inputs["input_ids"])
    past = reference.decode(
        inputs["decoder_input_ids"],
        encoded,
        decoder_attention_mask=np.ones((3, 9), np.int32),
        past_key_values=reference.init_cache(3, 9, encoded),
        decoder_position_ids=np.tile(np.arange(7), (3, 1)),
    ).past_key_values
    cache = model.init_cache(model.encode(inputs["input_ids"]), max_length=9)
    _, cache = model.decode(inputs["decoder_input_ids"], cache)
    for index, kv in enumerate(cache.self_attn):
        theirs = past["model"]["decoder"]["layers"][str(index)]["self_attn"]
        assert relative_error(kv.keys, np.transpose(theirs["cached_key"], (0, 2, 3, 1))) <= LIMIT
        assert relative_error(kv.values, np.transpose(theirs["cached_value"], (0, 2, 1, 3))) <= LIMIT
        assert int(cache.position) == int(theirs["cache_index"]) == 7


@pytest.mark.parametrize("config_name", ["unequal", "scaled", "untied", "relu", "tanh", "other_ids"])
@pytest.mark.parametrize("forced", [False, True])
def test_greedy(config_name: str, forced: bool) -> None:
    reference = hf_model("BartForConditionalGeneration", config_name)
    model = our_model("BartForConditionalGeneration", config_name)
    inputs = ragged_inputs(model.config)
    source = dict(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    options: dict[str, Any] = dict(forced_bos_token_id=13, forced_eos_token_id=model.config.eos_token_id)
    if not forced:
        options = dict.fromkeys(options)
    special = {name: getattr(model.config, name) for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id")}
    wanted = reference.generate(**source, max_length=16, num_beams=1, **special, **options).sequences
    got = bart_eqx.generate(model, **source, max_length=16, **options).sequences
    np.testing.assert_array_equal(got, wanted)

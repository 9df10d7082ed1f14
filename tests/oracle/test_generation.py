"""`semantics="flax"` gives the tokens of transformers 4.57's Flax loops."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

import bart_eqx
from oracle.conftest import hf_model
from support import CONFIGS, flatten, randomised, unflatten


CALLS = 12  # for each set of options, with two rows each
BEAMS = dict(num_beams=3, num_return_sequences=3, max_length=12)
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": dict(max_length=12),
    "length-20": dict(max_length=20),  # gives 21 tokens
    "default-length": dict(),
    "new-tokens": dict(max_new_tokens=9, min_length=4),
    "min-length": dict(max_length=12, min_length=6),  # bars the end one step longer than PyTorch
    "forced": dict(max_length=10, forced_bos_token_id=13, forced_eos_token_id=7),
    "suppressed": dict(max_length=12, suppress_tokens=[5, 28, 70], begin_suppress_tokens=[51, 58]),
    "prompt": dict(max_length=12, decoder_input_ids=True),
    "sampled": dict(max_length=12, do_sample=True, temperature=1.3, top_k=20, top_p=0.9),
    "beams": BEAMS,
    "beams-early": BEAMS | dict(early_stopping=True),
    "beams-never": BEAMS | dict(early_stopping="never"),
    "beams-long": BEAMS | dict(length_penalty=2.0, min_length=5),
    "beams-short": BEAMS | dict(length_penalty=-1.0, early_stopping="never"),
    "beams-even": BEAMS | dict(length_penalty=0.0, early_stopping=True, num_return_sequences=1),
    "beams-forced": BEAMS
    | dict(forced_bos_token_id=13, forced_eos_token_id=7, early_stopping=True, length_penalty=2.0),
    "beams-forced-end": BEAMS | dict(forced_eos_token_id=2, length_penalty=0.5),
    "beams-prompt": BEAMS | dict(decoder_input_ids=True, min_length=7),
}


@functools.cache
def reference(seed: int) -> tuple[Any, Any, Any]:
    """Their model, parameters with which sequences have various lengths, and our model with these."""
    model = hf_model("BartForConditionalGeneration", "unequal")
    params = randomised({name: array.shape for name, array in flatten(model.params).items()}, seed=seed)
    params["final_logits_bias"][0, 2] += 6.0
    config = bart_eqx.BartConfig.from_dict(model.config.to_dict())
    ours = bart_eqx.from_flax(unflatten(params), config, bart_eqx.BartForConditionalGeneration)
    return model, unflatten(params), ours


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("name", OPTIONS)
def test_same_tokens_as_flax(name: str) -> None:
    options = dict(OPTIONS[name])
    has_prompt = options.pop("decoder_input_ids", False)
    vocab = CONFIGS["unequal"]["vocab_size"]
    model, _, _ = reference(0)
    # transformers sets this by default: both get it explicitly.
    ends = dict(forced_eos_token_id=options.pop("forced_eos_token_id", None))

    def theirs(params: Any, ids: Any, mask: Any, prompt: Any, key: Any) -> Any:
        extra = dict(decoder_input_ids=prompt) if has_prompt else {}
        model.generation_config.forced_eos_token_id = ends["forced_eos_token_id"]
        out = model.generate(ids, attention_mask=mask, params=params, prng_key=key, **extra, **options)
        return out.sequences, getattr(out, "scores", None)

    theirs = jax.jit(theirs)
    lengths = set()
    for call in range(CALLS):
        rng = np.random.default_rng([call, *name.encode()])
        _, params, ours = reference(call % 4)
        ids = rng.integers(12, vocab, (2, 9)).astype(np.int32)
        ids[1, 6:] = 1
        mask = np.asarray(ids != 1, np.int32)
        prompt = np.concatenate([np.full((2, 1), 2), rng.integers(12, vocab, (2, 2))], axis=1).astype(np.int32)
        key = jax.random.key(call)
        expected, scores = theirs(params, ids, mask, prompt, key)
        result = bart_eqx.generate(
            ours,
            ids,
            mask,
            semantics="flax",
            key=key if "do_sample" in options else None,
            **(dict(decoder_input_ids=prompt) if has_prompt else {}),
            **ends,
            **options,
        )
        np.testing.assert_array_equal(result.sequences, expected)
        lengths |= set(result.lengths.tolist())
        if scores is not None:
            assert result.scores is not None
            np.testing.assert_allclose(result.scores, scores, rtol=1e-5, atol=1e-5)
    assert len(lengths) > 1 or "forced" in name


def test_padded_prompts() -> None:
    """Positions do not count a prompt's padding, as in the reference and unlike PyTorch's BART."""
    model, params, ours = reference(0)
    rng = np.random.default_rng(0)
    ids = rng.integers(12, 97, (2, 9)).astype(np.int32)
    prompt = np.array([[1, 1, 2, 31], [2, 15, 44, 60]], np.int32)
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1]], np.int32)
    model.generation_config.forced_eos_token_id = None
    options: dict[str, Any] = dict(max_length=12, decoder_input_ids=prompt, decoder_attention_mask=mask)
    expected = model.generate(ids, params=params, **options).sequences
    result = bart_eqx.generate(ours, ids, semantics="flax", forced_eos_token_id=None, **options)
    np.testing.assert_array_equal(result.sequences[1], expected[1])
    np.testing.assert_array_equal(result.sequences[0, :10], expected[0, 2:])  # ours is without the padding


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("search", [dict(), dict(do_sample=True), dict(num_beams=2)], ids=["greedy", "sample", "beams"])
def test_a_mask_on_the_left(search: dict[str, Any]) -> None:
    """The calls of `test_..._generate_attn_mask` in `generation/test_flax_utils.py`, on both."""
    model, params, ours = reference(0)
    ids = np.random.default_rng(0).integers(12, 97, (2, 3)).astype(np.int32)
    mask = np.array([[0, 1, 1], [0, 1, 1]], np.int32)
    model.generation_config.forced_eos_token_id = None
    key = jax.random.key(0)
    expected = model.generate(ids, attention_mask=mask, params=params, prng_key=key, max_length=8, **search).sequences
    options: dict[str, Any] = dict(semantics="flax", forced_eos_token_id=None, max_length=8) | search
    if "do_sample" in search:
        options["key"] = key
    np.testing.assert_array_equal(bart_eqx.generate(ours, ids, mask, **options).sequences, expected)
    assert (bart_eqx.generate(ours, ids, **options).sequences != expected).any()  # the mask matters
